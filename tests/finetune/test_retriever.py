"""The retriever of a run: chosen on validation alone, built once, and better than what it was chosen over."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures.tiny_pdfs import Sheet, write_pdf
from omnitune import CrossEncoder, MultiVectorEncoder, Retriever
from omnitune.documents.dataset import load
from omnitune.errors import InputError, MissingLanguageError
from omnitune.finetune import head, query_sets, scans, windows
from omnitune.finetune import retriever as steps_of
from omnitune.finetune.candidates import Standing, _Grid, candidates_for, choose_standing, measure, replacing
from omnitune.finetune.choose import choose
from omnitune.finetune.dataset import prepare
from omnitune.finetune.measure import TestSet
from omnitune.finetune.negatives import TrainingPages
from omnitune.finetune.pools import Pools, Source
from omnitune.finetune.questions import Question, known_questions, question_set, read_questions
from omnitune.finetune.recipe import parse_recipe
from omnitune.finetune.retriever import RetrieverSteps
from omnitune.finetune.rungs import describe_ladder
from omnitune.finetune.steps import Done, Steps
from omnitune.report.ladder import Ladder
from omnitune.report.parts import Page
from omnitune.retrieval.late_index import LateIndex
from omnitune.retrieval.stages import LateStage, RerankStage

RECIPE = """
prepare: {width: 200, test: [kitchen.pdf], workers: 1}
evaluation: {resamples: 200, batch_size: 8}
retriever: {scans: false}
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, manuals) -> Path:
    place = tmp_path_factory.mktemp("data") / "dataset"
    prepare(manuals, place, recipe=parse_recipe(RECIPE, source="tiny.yaml"))
    return place


def made(
    out: Path, dataset: Path, model: Path, *, more: str = "", questions: Any = (), scanned: bool = False
) -> RetrieverSteps:
    """The steps over a dataset, those before them done: the embeddings of page images are drawn."""
    chosen, opened = (
        choose(
            str(model),
            parse_recipe(RECIPE.replace("scans: false", f"scans: {str(scanned).lower()}, {more}"), source="tiny.yaml"),
        ),
        load(dataset),
    )
    steps, random = Steps(out), np.random.default_rng(0)
    for name in ("base", "train", "evaluate"):
        steps.done[name] = Done("key", 1.0, None, fresh=False)
    for name in ("base", "finetuned"):
        place = out / "embeddings" / name
        place.mkdir(parents=True, exist_ok=True)
        for part, rows in (("queries", len(opened.queries)), ("pages", len(opened.pages))):
            np.save(place / f"{part}.npy", random.normal(size=(rows, 32)).astype(np.float32))
    (out / "model").mkdir(exist_ok=True)
    for path in Path(model).rglob("*"):
        target = out / "model" / path.relative_to(model)
        target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    return RetrieverSteps(steps, chosen, opened, list(questions), lambda _: None)


@pytest.mark.parametrize("good_on", ["test", "validation"])
def test_what_is_good_on_the_test_alone_is_not_chosen(tmp_path, dataset, model, monkeypatch, good_on):
    """Late interaction finds every page of one side and none of the other; all other stages find nothing."""
    run = made(tmp_path, dataset, model)
    held_out, original = set(run.dataset.test_queries), steps_of.scored

    def planted(retriever: Retriever, test: Any) -> Any:
        found, rows = [], np.array(test.rows)
        for (_, by_stage), query, right in zip(original(retriever, test), test.queries, test.relevant, strict=True):
            sign = 1 if (query in held_out) == (good_on == "test") else -1
            late = np.where(np.isin(rows, right), sign, 0) + np.linspace(0, 0.1, len(rows))
            nothing = {kind: np.linspace(1, 0.5, len(rows)) for kind in by_stage}
            found.append((rows, {**nothing, **({"late": late} if "late" in by_stage else {})}))
        return found

    monkeypatch.setattr(steps_of, "scored", planted)
    run.run()
    chosen = run.steps.done["retriever"].result["name"]
    assert chosen.startswith("late interaction") == (good_on == "validation")
    late = next(one for one in ladder_of(run).rungs if one.name == "late interaction")
    assert (late.titles.ndcg.value == 1.0) == (good_on == "test")  # the plant was there to be found


def ladder_of(run: RetrieverSteps) -> Ladder:
    return describe_ladder(run, lambda row: Page(id=str(row), document="", number=row))


def facts(out: Path) -> dict:
    return json.loads((out / "retriever" / "retriever.json").read_text())


def hits(out: Path) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in Retriever.open(out / "retriever").search("baking rye bread", top_k=8)]


PINNED = "stages: [late, lexical, lines, listing]"


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory, dataset, model) -> Path:
    """A run that was never disturbed."""
    out = tmp_path_factory.mktemp("whole")
    made(out, dataset, model, more=PINNED).run()
    return out


@pytest.mark.parametrize("place", ["encode", "save", "measure"])
def test_killed_anywhere_it_ends_where_it_would_have(tmp_path, dataset, model, whole, monkeypatch, place):
    calls: list[int] = []
    encode = windows.BothOf.encode_document

    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    def some(self: Any, inputs: Any, **options: Any) -> Any:
        calls.append(len(inputs))
        return encode(self, inputs, **options) if len(calls) < 4 else killed()

    with monkeypatch.context() as patch:
        if place == "encode":
            patch.setattr(windows, "CHUNK", 7)
            patch.setattr(windows.BothOf, "encode_document", some)
        elif place == "save":
            patch.setattr("omnitune.retrieval.segments.Segments.save", killed)
        else:
            patch.setattr(steps_of.RetrieverSteps, "_measure", killed)
        with pytest.raises(Killed):
            made(tmp_path, dataset, model, more=PINNED).run()
    made(tmp_path, dataset, model, more=PINNED).run()
    assert hits(whole)[0][0] == "kitchen.pdf#1"
    assert facts(tmp_path) == facts(whole) and hits(tmp_path) == hits(whole)


def test_it_is_made_once_and_a_new_document_costs_its_own_pages(tmp_path, dataset, manuals, model, monkeypatch):
    encoded: list[str] = []
    said: list[str] = []
    original = windows.BothOf.encode_document

    def watched(self: Any, inputs: Any, **options: Any) -> Any:
        encoded.extend(inputs)
        return original(self, inputs, **options)

    out = tmp_path / "out"
    first = made(out, dataset, model, more=PINNED)
    first.run()
    monkeypatch.setattr(windows.BothOf, "encode_document", watched)
    again = made(out, dataset, model, more=PINNED)
    again.run()
    assert not encoded and not again.steps.done["retriever"].fresh and not again.steps.done["ladder"].fresh
    Retriever.open(out / "retriever").add([{"id": "x#1", "document": "x", "page": 1, "text": "sharpening chisels"}])
    encoded.clear()
    again = made(out, dataset, model, more=PINNED)
    again.run()  # what somebody added is no reason to make it anew, and stays
    assert not again.steps.done["retriever"].fresh
    assert Retriever.open(out / "retriever").search("sharpening chisels", top_k=1)[0].id == "x#1"
    segment = next((out / "retriever" / "index").glob("*.safetensors"))
    segment.write_bytes(segment.read_bytes()[:-8])
    again = made(out, dataset, model, more=PINNED)
    again.run()
    assert again.steps.done["retriever"].fresh and not encoded
    Retriever.open(out / "retriever").add([{"id": "x#1", "document": "x", "page": 1, "text": "sharpening chisels"}])
    larger = tmp_path / "manuals"
    larger.mkdir()
    for path in manuals.glob("*.pdf"):
        (larger / path.name).write_bytes(path.read_bytes())
    sheets = [Sheet("Tuning old pianos", ["Strings are tightened slowly."]), Sheet("Felt hammers", ["Steam helps."])]
    write_pdf(larger / "music.pdf", sheets)
    prepare(larger, tmp_path / "more", recipe=parse_recipe(RECIPE, source="tiny.yaml"))
    encoded.clear()
    changed = made(out, tmp_path / "more", model, more=PINNED)
    changed.log = said.append
    changed.run()
    assert any("not in the new one: x; add them again" in line for line in said)
    assert len(encoded) == 2 and all("Tuning" in text or "Felt" in text for text in encoded)
    opened = Retriever.open(out / "retriever")
    assert opened.search("tuning pianos", top_k=1)[0].id == "music.pdf#1"
    opened.remove(document="music.pdf")
    assert "music.pdf" not in {hit.document for hit in opened.search("tuning pianos", top_k=30)}


def test_few_titles_have_captions_and_headings_beside_them(tmp_path, dataset, model, monkeypatch):
    run = made(tmp_path / "out", dataset, model)
    table = run.dataset.tables["train"]
    origins, queries = list(table["origin"]), list(table["query"])
    assert {"title", "sentence"} <= set(origins) and origins.count("title") < query_sets.FEW
    few = set(run.sets.validation()["titles"].queries)
    assert {query for query, origin in zip(queries, origins, strict=True) if origin != "sentence"} <= few
    assert not few & {query for query, origin in zip(queries, origins, strict=True) if origin == "sentence"}
    monkeypatch.setattr(query_sets, "FEW", 1)
    enough = set(run.sets.validation()["titles"].queries)
    assert {query for query, origin in zip(queries, origins, strict=True) if origin == "title"} <= enough <= few


def test_questions_are_read_and_keep_to_their_side(tmp_path, dataset, model):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "how is rye baked?", "pages": ["kitchen.pdf#1"]}\n\n'
                    '{"question": "when to sow?", "pages": "garden.pdf#1"}\n'
                    '{"question": "both", "pages": ["garden.pdf#1", "kitchen.pdf#1"]}\n'
                    '{"question": "elsewhere", "pages": ["other.pdf#1"]}\n')  # fmt: skip
    asked = read_questions(file)
    (tmp_path / "same.csv").write_text("question,pages\nboth,garden.pdf#1 kitchen.pdf#1\n")
    assert read_questions(tmp_path / "same.csv") == [asked[2]] == [Question("both", ("garden.pdf#1", "kitchen.pdf#1"))]
    lines: list[str] = []
    assert known_questions(asked, load(dataset), lines.append) == asked[:3]
    assert lines == [
        "1 of 4 questions are left out: one is about 'other.pdf', which is not there",
        "Questions: 1 about held-out documents test, 1 help to choose; 1 with pages of both are left out",
    ]
    with pytest.raises(InputError, match=r"got 'kitchn.pdf#1' of 'kitchn.pdf', .*did you mean 'kitchen.pdf'"):
        known_questions([Question("how?", ("kitchn.pdf#1",))], load(dataset), lines.append)
    with pytest.raises(InputError, match="which has no page 99"):
        known_questions([Question("how?", ("kitchen.pdf#99",))], load(dataset), lines.append)
    run = made(tmp_path / "out", dataset, model, questions=asked)
    validation, test = run.sets.validation()["questions"], run.sets.tests()["questions"]
    assert validation is not None and list(validation.queries) == ["when to sow?"]
    assert list(test.queries) == ["how is rye baked?"] and list(run.sets.tests()["questions in all"].rows) == [
        *range(20)
    ]
    assert question_set(run.dataset, asked[3:], range(20)) is None
    run.run()
    ladder = ladder_of(run)
    assert ladder.questions == 1 and all(one.questions is not None for one in ladder.rungs)
    assert ladder.validation == "15 titles of training documents"  # one question is too few to decide


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a"}\n', "expected 'question' and 'pages' in every row, got .* in row 1"),
        ('{"question": " ", "pages": ["a#1"]}\n', "in row 1"),
        ("no json\n", "expected JSON Lines or CSV"),
        ("[" * 100_000 + "\n", "expected JSON Lines or CSV"),
        ('[1]\n{"question": "a", "pages": "b"}\n', r"got \[1\] in row 1"),
        (None, "expected a file of questions"),
    ],
)
def test_questions_that_cannot_be_read(tmp_path, text, message):
    if text is not None:
        (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "q.jsonl")
    (tmp_path / "q.csv").write_text('question,pages\n"' + "x" * 200_000 + '",a#1\n')
    with pytest.raises(InputError, match="expected JSON Lines or CSV in .*, got: field larger than field limit"):
        read_questions(tmp_path / "q.csv")


def standing(name: str, value: float, low: float, **changes: Any) -> Standing:
    given = {"within": True, "trained": False, "gain": low + 0.05, **changes}
    return Standing(name=name, reads="text", weights={}, value=value, titles=value, questions=None, low=low,
                    high=low + 0.1, mean=low + 0.05, bytes_per_page=1, milliseconds=1.0, **given)  # fmt: skip


def test_the_choice() -> None:
    lexical, sure = standing("lexical", 0.7, 0.0), standing("late interaction", 0.8, 0.05)
    assert choose_standing([lexical, sure])[0] is sure
    titles = standing("late", 0.9, 0.05, gain=-0.01)  # many titles gain, the fewer questions lose more
    for other in (standing("late", 0.9, -0.01), standing("late", 0.9, 0.05, within=False), titles):
        assert choose_standing([lexical, sure, other])[0] is sure
        best, why = choose_standing([lexical, other])
        assert best is lexical and why.startswith("Nothing beat lexical search")


def test_what_was_trained_has_to_beat_the_best_of_the_others() -> None:
    best, why = standing("late interaction", 0.8, 0.05), "It was the best."
    trained = [standing("late, finetuned", 0.9, -0.01, trained=True), standing("dear", 0.9, 0.1, within=False)]
    trained.append(standing("for titles", 0.9, 0.1, gain=-0.01))
    assert replacing(best, why, trained) == (best, why)
    better = standing("dense, finetuned", 0.7, 0.01, trained=True)  # its value is one of other queries
    found, why = replacing(best, why, [*trained, better])
    assert found is better and "training did not see" in why


@pytest.mark.parametrize("good", [True, False])
def test_trained_candidates_are_judged_on_validation_documents_alone(
    tmp_path, manuals, model, monkeypatch, good
) -> None:
    """The finetuned model finds all pages of the validation document and of no other, or the other way round."""
    recipe = RECIPE.replace("test: [kitchen.pdf]", "test: [kitchen.pdf], validation: [garden.pdf]")
    prepare(manuals, tmp_path / "data", recipe=parse_recipe(recipe, source="tiny.yaml"))
    run = made(tmp_path / "out", tmp_path / "data", model)
    seen: list[tuple[bool, set[int] | None]] = []
    make, original = Pools.make, steps_of.scored
    held = set(run.dataset.validation.queries.values())

    def tagged(self: Any, source: Source, **options: Any) -> Retriever:
        pool = make(self, source, **options)
        seen.append((source.trained, options.get("only")))
        for stage in pool.stages.values():
            stage.trained = source.trained  # type: ignore[union-attr]
        return pool

    def planted(retriever: Retriever, test: Any) -> Any:
        found, rows = original(retriever, test), np.array(test.rows)
        trained = any(getattr(stage, "trained", False) for stage in retriever.stages.values())
        made = []
        for (_, by_stage), query, right in zip(found, test.queries, test.relevant, strict=True):
            sign = 1 if (query in held) == good else -1
            best = sign * np.isin(rows, right) + np.linspace(0, 0.1, len(rows))
            made.append((rows, dict.fromkeys(by_stage, best if trained else np.linspace(1, 0.5, len(rows)))))
        return made

    monkeypatch.setattr(Pools, "make", tagged)
    monkeypatch.setattr(steps_of, "scored", planted)
    run.run()
    result = run.steps.done["retriever"].result
    assert result["name"].endswith("finetuned") == good
    rows = run.sets.validation(held_out=True)["titles"]
    assert rows is not None and set(rows.queries) == held
    text = [only for trained, only in seen if trained and only is not None]
    assert text and all(only == set(rows.rows) for only in text)  # no other page was encoded to judge it
    assert {one.name for one in ladder_of(run).trained} == {one["name"] for one in result["trained"]}


def test_a_head_learns_from_near_wrong_pages_of_training_documents(tmp_path, manuals, model, monkeypatch) -> None:
    """It is trained on their pages alone, is a candidate, and as an encoder gives what the choice was made by."""
    recipe = RECIPE.replace("test: [kitchen.pdf]", "test: [kitchen.pdf], validation: [garden.pdf]")
    prepare(manuals, tmp_path / "data", recipe=parse_recipe(recipe, source="tiny.yaml"))
    monkeypatch.setattr(head, "FEWEST", 4)
    asked: list[Any] = []
    learn, original = head.train_head, steps_of.scored

    def watched(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        made = learn(*args, **options)
        made.best_epoch, made.projection = 1, made.projection.roll(1, dims=0)
        return made

    def planted(retriever: Retriever, test: Any) -> Any:
        """What has a head is right, and all else is not."""
        trained = isinstance(getattr(retriever.stages.get("late"), "loaded", None), MultiVectorEncoder)
        made, rows = [], np.array(test.rows)
        for (_, by_stage), right in zip(original(retriever, test), test.relevant, strict=True):
            best = np.isin(rows, right) + np.linspace(0, 0.1, len(rows))
            made.append((rows, dict.fromkeys(by_stage, best if trained else np.linspace(1, 0.5, len(rows)))))
        return made

    monkeypatch.setattr(head, "train_head", watched)
    monkeypatch.setattr(steps_of, "scored", planted)
    run = made(tmp_path / "out", tmp_path / "data", model)
    page = next(iter(run.dataset.pages_of("train")))
    run.sets.questions = [Question(text="what is asked beside titles", pages=(page,))]

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(head, "save_head", killed)
        with pytest.raises(Killed):
            run.run()
    assert asked.pop()
    run.run()
    (queries, pages, right, wrong), options = asked[0]
    training = [number for number, one in enumerate(run.dataset.page_ids) if one in set(run.dataset.pages_of("train"))]
    assert len(pages) <= len(training) and len(queries) == len(right) == len(wrong)
    assert any(places and training[places[0]] == run.dataset.page_ids.index(page) for places in right)
    assert any(wrong) and not any({*some} & {*other} for some, other in zip(right, wrong, strict=True))
    assert 0 < len(options["validation"]) < len(queries)
    assert run.steps.done["retriever"].result["name"].endswith("with a head")
    opened = Retriever.open(tmp_path / "out" / "retriever")
    stage, index = opened.stages["late"], opened.indexes["late"]
    assert isinstance(stage, LateStage) and isinstance(stage.encoder(), MultiVectorEncoder)
    assert isinstance(index, LateIndex)
    encoded = stage.encode_pages(run.dataset.page_texts[:1])
    np.testing.assert_allclose(index.vectors(0), encoded.values, atol=0.02)
    assert opened.search("baking rye bread", top_k=3)
    again = made(tmp_path / "out", tmp_path / "data", model)
    again.sets.questions = run.sets.questions
    again.run()
    assert not again.steps.done["head"].fresh and len(asked) == 1
    file = tmp_path / "out" / "head.safetensors"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(InputError, match="delete it and run again"):
        windows.load_head(file)


def test_without_validation_a_training_document_judges_the_head(tmp_path, dataset, model, monkeypatch) -> None:
    monkeypatch.setattr(head, "FEWEST", 4)
    monkeypatch.setattr(query_sets, "FEW", 3)
    asked: list[Any] = []
    learn, related = head.train_head, head._related

    def watched(*args: Any, **options: Any) -> Any:
        made = learn(*args, **options)
        made.best_epoch = 1
        return made

    monkeypatch.setattr(head, "train_head", watched)
    monkeypatch.setattr(head, "_related", lambda pages: asked.append(pages) or related(pages))
    run = made(tmp_path, dataset, model)
    run.run()
    (judge,) = run.sets.judges
    known = TrainingPages(run.dataset)
    assert not run.sets.held_out and judge in known.documents and judge not in asked[0].documents
    assert 0 < len(asked[0].queries) < len(known.queries)
    judging = run.sets.validation(held_out=True)["titles"]
    assert judging is not None and len(judging.queries) >= query_sets.FEW
    assert {run.dataset.tables["pages"][row]["document"] for row in judging.rows} == {judge}
    names = [one["name"] for one in run.steps.done["retriever"].result["trained"]]
    assert names and all(name.endswith("with a head") for name in names)


def test_a_head_that_does_not_help_is_none(tmp_path, manuals, model, monkeypatch) -> None:
    recipe = RECIPE.replace("test: [kitchen.pdf]", "test: [kitchen.pdf], validation: [garden.pdf]")
    prepare(manuals, tmp_path / "data", recipe=parse_recipe(recipe, source="tiny.yaml"))
    run = made(tmp_path / "few", tmp_path / "data", model)
    monkeypatch.setattr(head, "FEWEST", 10_000)
    run.run()
    assert "too few" in run.steps.done["head"].result["why"]
    monkeypatch.setattr(head, "FEWEST", 4)
    learn = head.train_head
    monkeypatch.setattr(head, "train_head", lambda *args, **options: learn(*args, **{**options, "rate": -30}))
    run = made(tmp_path / "worse", tmp_path / "data", model)
    run.run()
    assert "No epoch" in run.steps.done["head"].result["why"]
    assert not [one for one in run.steps.done["retriever"].result["trained"] if "head" in one["name"]]


def test_a_model_of_texts_is_given_texts(dataset) -> None:
    opened = load(dataset)
    text = replace(opened, as_text=True)
    assert text.items == opened.page_texts and opened.items == opened.pages
    assert text.fingerprint != opened.fingerprint  # what was made of images is not taken for what is made of texts
    pages = opened.tables["train"]["page_id"]
    assert list(text.train["page"]) == [opened.texts[page] for page in pages]
    assert list(text.with_pages({"page": pages[:2], "n": [1, 2]}, ["page"])["n"]) == [1, 2]


def test_held_out_pages_are_measured_as_scans(tmp_path, dataset, model, monkeypatch) -> None:
    """Recognition that loses every word of the right pages shows in the row; other pages keep their layers."""
    asked: list[Path] = []

    def read(paths: Any, *_: Any, keep_words: bool) -> list[str]:
        assert not keep_words, "the exact words of a text layer stay where they are"
        asked.extend(paths)
        return ["an unreadable page"] * len(paths)

    monkeypatch.setattr(scans, "read_texts", read)
    run = made(tmp_path, dataset, model, more=PINNED, scanned=True)
    run.run()
    held = [page for page in run.dataset.page_ids if page.startswith("kitchen.pdf")]
    assert len(asked) == len(held)
    ladder = ladder_of(run)
    layer, recognised = next((one.base.value, one.finetuned.value) for one in ladder.scans if "titles" in one.label)
    assert layer > recognised
    said: list[str] = []
    monkeypatch.setattr(scans, "read_texts", lambda *_, **__: (_ for _ in ()).throw(MissingLanguageError("deu")))
    assert scans.as_scans(run.dataset, "deu", said.append) is None and "no model of 'deu'" in said[-1]


@pytest.mark.parametrize("budget", [500.0, 0.0])
def test_a_reranker_is_a_candidate_within_its_budget(tmp_path, manuals, model, tiny_bert, monkeypatch, budget) -> None:
    """The reranker knows every answer, all other candidates none."""
    recipe = RECIPE.replace("test: [kitchen.pdf]", "test: [kitchen.pdf], validation: [garden.pdf]")
    prepare(manuals, tmp_path / "data", recipe=parse_recipe(recipe, source="tiny.yaml"))
    run = made(tmp_path / "out", tmp_path / "data", model, more="")
    run.settings = replace(run.settings, milliseconds=budget)
    CrossEncoder(str(tiny_bert), num_labels=1).save_pretrained(str(run.out / "reranker"))
    run.steps.done["reranker"] = Done("key", 1.0, "tiny", fresh=False)
    asked = run.dataset.validation
    right = {text: {run.dataset.texts[page] for page in asked.relevant[name]} for name, text in asked.queries.items()}
    original = steps_of.scored

    def nothing(retriever: Retriever, test: Any) -> Any:
        found, rows = original(retriever, test), np.array(test.rows)
        return [(rows, {kind: np.where(np.isin(rows, pages), -1.0, 0.5) for kind in by_stage})
                for (_, by_stage), pages in zip(found, test.relevant, strict=True)]  # fmt: skip

    monkeypatch.setattr(steps_of, "scored", nothing)
    monkeypatch.setattr(RerankStage, "scores", lambda self, query, texts: np.array(
        [float(text in right.get(query, ())) for text in texts], dtype=np.float32))  # fmt: skip
    run.run()
    opened = Retriever.open(run.place)
    assert (opened.rerank is not None) == (budget > 0)
    assert run.steps.done["retriever"].result["name"].endswith("reranked") == (budget > 0)
    assert ladder_of(run).rungs


def test_weights_are_tried_on_what_is_measured_in_the_end() -> None:
    random = np.random.default_rng(3)
    rows = list(range(2, 40))
    relevant = [sorted(random.choice(rows, 2, replace=False)) for _ in range(30)]
    test = TestSet(queries=["q"] * 30, rows=rows, relevant=relevant, clusters=range(30))
    stages = {"late": 1.0, "lexical": 1.0, "lines": 1.0}
    scores = []
    for _ in test.queries:
        some = np.sort(random.choice(rows, 20, replace=False))
        scores.append((some, {kind: random.normal(size=20).astype(np.float32) for kind in stages}))
    grid = _Grid(scores, stages, test)
    for weights in ({"late": 1.0}, {"late": 1.0, "lexical": 0.25}, {"late": 1.0, "lexical": 0.0, "lines": 2.0}):
        assert grid.mean_ndcg(weights) == pytest.approx(measure(scores, weights, test).mean("ndcg@10"), abs=1e-6)


def test_a_sparse_model_joins_the_choice_and_can_be_pinned(tmp_path, dataset, model, tiny_masked_bert) -> None:
    run = made(tmp_path, dataset, model, more=f"sparse: {tiny_masked_bert}, stages: [sparse, lexical]")
    pool = run.pools.pool(Source(reads="text"))
    listed = candidates_for(replace(run.settings, stages=None), Source(reads="text"), list(pool.stages), "page")
    assert {"sparse", "sparse, lexical, lines and listings", "late interaction"} <= {one.name for one in listed}
    with pytest.raises(InputError, match="retriever.stages: expected some of lexical, got sparse, which are"):
        candidates_for(run.settings, Source(reads="text"), ["lexical"], "page")
    run.run()
    assert run.steps.done["retriever"].result["name"] == "sparse, lexical"
    assert [stage["kind"] for stage in facts(tmp_path)["stages"]][-1] == "sparse"
    assert (tmp_path / "retriever" / "model" / "sparse").is_dir() and hits(tmp_path)
