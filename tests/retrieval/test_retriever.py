"""A retriever of several stages: built, searched, changed, saved and opened."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from omnitune import CrossEncoder, MultiVectorEncoder, Retriever, SentenceTransformer, SparseEncoder
from omnitune.errors import InputError, MissingLanguageError
from omnitune.model.windows import window_cutter
from omnitune.retrieval.hits import snippet
from omnitune.retrieval.lexical import LexicalIndex
from omnitune.retrieval.packed import Packed, grouped
from omnitune.retrieval.retriever_card import render_retriever_card
from omnitune.retrieval.sparse_index import sparse_rows
from omnitune.retrieval.stages import (
    DenseStage,
    Fusion,
    LateStage,
    LexicalStage,
    RerankStage,
    SparseStage,
    TokenVectors,
)

WORDS = [
    "bread",
    "flour",
    "oven",
    "water",
    "salt",
    "yeast",
    "dough",
    "crust",
    "pumpkin",
    "squash",
    "soup",
    "stock",
    "onion",
    "garlic",
    "butter",
]


@pytest.fixture
def model(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.fixture
def pages() -> list[dict[str, Any]]:
    """Twelve pages of three documents; page n is about word n, and the last page of each is long."""
    made = []
    for number in range(12):
        document, page = f"{'abc'[number // 4]}.pdf", number % 4 + 1
        text = f"{WORDS[number]} {WORDS[number]} and {WORDS[number + 1]}. " + "some more words follow. " * (
            60 * (page == 4)
        )
        if page == 4:
            text += f"At the very end {WORDS[number + 2]}."
        boxes = [[word, 0.1 * at, 0, 0.1 * at + 0.1, 0.1] for at, word in enumerate(text.split()[:4])]
        made.append({"id": f"{document}#{page}", "document": document, "page": page, "text": text, "boxes": boxes})
    return made


def stages(kind: str, model: Any) -> Any:
    return {
        "lexical": [LexicalStage()],
        "dense": [DenseStage(model=model)],
        "late": [LateStage(model=model, pooled=4, candidates=6)],
        "all": [LexicalStage(), DenseStage(model=model), LateStage(model=model, codec="int8", pooled=4)],
    }[kind]


@pytest.mark.parametrize("kind", ["lexical", "dense", "late", "all"])
def test_build_search_save_open_add_remove(
    kind: str, model: SentenceTransformer, pages: list[dict[str, Any]], tmp_path: Path
) -> None:
    built = Retriever.build(pages[:8], stages(kind, model), show_progress=False)
    built.save(tmp_path / "retriever")
    assert sorted(path.name for path in (tmp_path / "retriever").iterdir()) >= ["README.md", "index"]
    opened = Retriever.open(tmp_path / "retriever")
    query = pages[2]["text"]
    for one in (built, opened):
        assert len(one) == 8 and one.documents == ["a.pdf", "b.pdf"]
        hits = one.search(query, top_k=3)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert (hits[0].id, hits[0].document, hits[0].page) == ("a.pdf#3", "a.pdf", 3)
        assert hits == sorted(hits, key=lambda hit: -hit.score)
    assert [hit.id for hit in opened.search(query)] == [hit.id for hit in built.search(query)]
    several = opened.search([query, pages[5]["text"]], top_k=1)
    assert [[hit.id for hit in hits] for hits in several] == [["a.pdf#3"], ["b.pdf#2"]]
    assert {hit.document for hit in opened.search(query + pages[5]["text"], where={"document": "b.pdf"})} == {"b.pdf"}
    assert opened.search(query, where={"document": ["c.pdf"]}) == []
    assert opened.add(pages, show_progress=False) == 4 and len(opened) == 12
    again = Retriever.open(tmp_path / "retriever")
    assert again.add(pages, show_progress=False) == 0
    assert again.search(pages[9]["text"], top_k=1)[0].id == "c.pdf#2"
    changed = {**pages[2], "text": pages[9]["text"] + " changed"}
    assert again.add([changed], show_progress=False) == 1 and len(again) == 12
    assert again.remove(document="c.pdf") == 4 and again.remove("a.pdf#1") == 1
    assert len(Retriever.open(tmp_path / "retriever")) == 7
    assert again.search(pages[9]["text"], top_k=1)[0].id == "a.pdf#3"
    assert not {hit.document for hit in again.search(query, top_k=12)} & {"c.pdf"}


def test_dense_and_late_stages_of_one_model_share_file_and_forward(
    model: SentenceTransformer, tiny_bert: Path, pages: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    one = Retriever.build(pages, [DenseStage(model=model), LateStage(model=model, pooled=4)], show_progress=False)
    other = SentenceTransformer(str(tiny_bert), device="cpu")
    two = Retriever.build(pages, [DenseStage(model=model), LateStage(model=other, pooled=4)], show_progress=False)
    one.save(tmp_path / "one")
    two.save(tmp_path / "two")
    assert [path.name for path in (tmp_path / "one" / "model").iterdir()] == ["dense"]
    assert sorted(path.name for path in (tmp_path / "two" / "model").iterdir()) == ["dense", "late"]
    forwards: list[int] = []
    forward = SentenceTransformer.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        forwards.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "forward", counted)
    queries = [pages[3]["text"], "pumpkin soup", "garlic"]
    found = []
    for retriever, expected in [(one, 1), (Retriever.open(tmp_path / "one"), 1), (two, 2)]:
        forwards.clear()
        found.append([[(hit.id, hit.stages) for hit in hits] for hits in retriever.search(queries, explain=True)])
        assert len(forwards) == expected
    assert found[0] == found[1] == found[2]
    opened = Retriever.open(tmp_path / "one")
    opened.save(tmp_path / "copy")
    assert Retriever.open(tmp_path / "copy").search("garlic") == opened.search("garlic")


def test_a_moved_folder_opens_and_another_model_is_told(
    model: SentenceTransformer, tiny_bert: Path, pages: list[dict[str, Any]], tmp_path: Path
) -> None:
    Retriever.build(pages, [DenseStage(model=model)], show_progress=False).save(tmp_path / "first")
    shutil.move(tmp_path / "first", tmp_path / "second")
    assert Retriever.open(tmp_path / "second").search(pages[3]["text"], top_k=1)[0].page == 4
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(str(tmp_path / "second" / "model" / "dense"))
    with pytest.raises(
        InputError, match=r"model: expected 'that of stage dense' \(\w+\), which made the index, got '.*dense'"
    ):
        Retriever.open(tmp_path / "second").search("bread")


def test_what_is_added_is_recognised_in_the_retrievers_language(
    pages: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path / "cache"))
    built = Retriever.build(pages, [LexicalStage()], show_progress=False)
    built.language = "xyz"
    built.save(tmp_path / "retriever")
    (tmp_path / "scans").mkdir()
    scan = Image.new("L", (400, 560), 255)
    ImageDraw.Draw(scan).text((20, 20), "Brotteig ruht lange.", font_size=30)
    scan.save(tmp_path / "scans" / "scan.png")
    opened = Retriever.open(tmp_path / "retriever")
    with pytest.raises(MissingLanguageError, match="'xyz'"):
        opened.add(tmp_path / "scans")
    facts = json.loads((tmp_path / "retriever" / "retriever.json").read_text())
    (tmp_path / "retriever" / "retriever.json").write_text(json.dumps({**facts, "language": 3}))
    with pytest.raises(InputError, match="language: expected a name such as 'deu', got 3"):
        Retriever.open(tmp_path / "retriever")


def test_a_masked_language_model_is_a_sparse_stage(
    tiny_masked_bert: Path, pages: list[dict[str, Any]], tmp_path: Path
) -> None:
    stages = [LexicalStage(), SparseStage(model=tiny_masked_bert, dtype="uint8")]
    built = Retriever.build(
        pages[:9], stages, fusion=Fusion(weights={"lexical": 0.5, "sparse": 1}), show_progress=False
    )
    built.save(tmp_path)
    opened = Retriever.open(tmp_path)
    assert opened.add(pages[9:], show_progress=False) == 3
    encoder = SparseEncoder(str(tmp_path / "model" / "sparse"), device="cpu")
    query = encoder.encode_query([WORDS[5]])
    rows = SparseStage(model=encoder).encode_pages([page["text"] for page in pages]).csr()
    scores = encoder.similarity(query, rows)[0]
    best = scores.argsort(descending=True).tolist()
    alone = Retriever.open(tmp_path).only({"sparse": 1})
    hits = alone.search(WORDS[5], top_k=4)
    assert [hit.id for hit in hits] == [pages[row]["id"] for row in best[:4]]
    assert [hit.score for hit in hits] == pytest.approx(scores[best[:4]].tolist(), rel=1e-2)
    (hit, *_) = opened.search(WORDS[5], top_k=12, explain=True)
    assert set(hit.stages) == {"lexical", "sparse", "fusion"} and hit.score == hit.stages["fusion"]
    assert hit.stages["sparse"] == pytest.approx(float(scores[[page["id"] for page in pages].index(hit.id)]), rel=1e-2)
    assert not sparse_rows(SparseStage(model=encoder).encode_pages([" "])).values.size
    assert opened.remove(document="c.pdf") == 4
    left = Retriever.open(tmp_path).only({"sparse": 1}).search(WORDS[5], top_k=12)
    assert [hit.id for hit in left] == [pages[row]["id"] for row in best if row < 8]


def test_sparse_windows_of_a_page_are_one_row() -> None:
    windows = Packed(
        values=np.array([1, 2, 5, 3, 4], dtype=np.float32),
        offsets=np.array([0, 2, 4, 4, 5]),
        indices=np.array([0, 3, 0, 2, 1], dtype=np.int32),
        dim=6,
    )
    rows = grouped(windows, [2, 0, 2])
    assert rows.offsets is not None and rows.indices is not None
    assert (rows.offsets.tolist(), rows.indices.tolist(), rows.values.tolist()) == (
        [0, 3, 3, 4],
        [0, 2, 3, 1],
        [5, 3, 2, 4],
    )


def test_a_long_page_is_read_to_its_end(model: SentenceTransformer, pages: list[dict[str, Any]]) -> None:
    model.max_seq_length = 32
    end = pages[7]["text"].split(". ")[-1]
    for stage in (DenseStage, LateStage):
        whole = Retriever.build(pages, [stage(model=model)], show_progress=False)
        start = Retriever.build(pages, [stage(model=model, windows=False)], show_progress=False)
        read, missed = (next(h for h in r.search(end, top_k=12) if h.id == "b.pdf#4").score for r in (whole, start))
        assert read > missed + 1e-3


def test_windows_cover_a_text_and_fit(model: SentenceTransformer) -> None:
    model.max_seq_length = 120
    text = "".join(f"Sentence number {n} is here. " for n in range(60))
    cut = window_cutter(model)
    windows = cut(text)
    assert len(windows) > 3 and cut("short") == ["short"] and cut("") == [""]
    assert all(len(model.tokenizer(window)["input_ids"]) <= 120 for window in windows)
    assert all(f"number {n} is" in " ".join(windows) for n in range(60))
    places = [text.index(window) for window in windows]
    ends = [place + len(window) for place, window in zip(places, windows, strict=True)]
    assert all(start < end for start, end in zip(places[1:], ends, strict=False))  # they overlap
    assert sum(window.endswith(".") for window in windows) > len(windows) / 2
    assert window_cutter(object())(text) == [text]


def test_explained_hits(model: SentenceTransformer, pages: list[dict[str, Any]]) -> None:
    retriever = Retriever.build(
        pages, stages("all", model), fusion=Fusion(weights={"lexical": 0.7, "late": 0.3}), show_progress=False
    )
    first = retriever.search("Water, oven?", top_k=2, explain=True)[0]
    assert first.id == "a.pdf#3" and first.words == ["oven", "water"]
    assert [box[0] for box in first.boxes] == ["oven", "oven", "water."]
    assert set(first.stages) == {"lexical", "dense", "late", "fusion"} and first.score == first.stages["fusion"]
    assert "content" not in first.entry and first.entry["page"] == 3
    assert not retriever.search("Water, oven?")[0].stages


def test_fusions_by_hand() -> None:
    scores = {"lexical": np.array([3, 1, 2], np.float32), "late": np.array([-np.inf, 5, 1], np.float32)}
    z = Fusion(weights={"lexical": 2, "late": 1})(scores)
    lexical = (np.array([3, 1, 2]) - 2) / np.std([3, 1, 2])
    late = (np.array([1, 5, 1]) - 7 / 3) / np.std([1, 5, 1])
    np.testing.assert_allclose(z, 2 * lexical + late, rtol=1e-5)
    rrf = Fusion(weights={"lexical": 1, "late": 2}, method="rrf", k=10)(scores)
    np.testing.assert_allclose(rrf, [1 / 11, 1 / 13 + 2 / 11, 1 / 12 + 2 / 13 + 0], rtol=1e-2)


class Backwards:
    """Ranks the page with the least text first."""

    def predict(self, pairs: Any, **_: Any) -> Any:
        return [-len(text) for _, text in pairs]


def test_a_reranker_orders_the_first(model: SentenceTransformer, pages: list[dict[str, Any]]) -> None:
    rerank = RerankStage(model=Backwards(), depth=4)
    plain = Retriever.build(pages, [DenseStage(model=model)], show_progress=False)
    made = Retriever.build(pages, [DenseStage(model=model)], rerank=rerank, show_progress=False)
    before, after = (retriever.search("onion soup", top_k=6, explain=True) for retriever in (plain, made))
    assert {hit.id for hit in before[:4]} == {hit.id for hit in after[:4]}
    assert [len(hit.text) for hit in after[:4]] == sorted(len(hit.text) for hit in after[:4])
    assert [hit.id for hit in before[4:]] == [hit.id for hit in after[4:]]
    assert after[0].score == after[0].stages["rerank"] == -len(after[0].text)
    assert len(made.search("onion soup", top_k=2)) == 2


def test_a_reranker_is_saved(tiny_bert: Path, pages: list[dict[str, Any]], tmp_path: Path) -> None:
    rerank = RerankStage(model=CrossEncoder(str(tiny_bert), device="cpu"), depth=3)
    made = Retriever.build(pages, [LexicalStage()], rerank=rerank)
    made.save(tmp_path)
    query = "some more words and oven"
    expected = made.search(query)
    assert [(hit.id, hit.score) for hit in Retriever.open(tmp_path).search(query)] == [
        (hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in expected
    ]


def test_token_vectors_of_a_dense_model(model: SentenceTransformer) -> None:
    (rows,) = TokenVectors(model).encode_query(["water and salt"])
    assert len(rows) == len(model.tokenizer("water and salt")["input_ids"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_nothing_is_encoded_twice(
    model: SentenceTransformer, pages: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in (DenseStage, LateStage):
        Retriever.build(pages, [stage(model=model)], cache=tmp_path, show_progress=False)
    monkeypatch.setattr(model, "encode_document", lambda *_, **__: 1 / 0)
    for stage in (DenseStage, LateStage):
        retriever = Retriever.build(pages, [stage(model=model)], cache=tmp_path, show_progress=False)
        assert retriever.search(pages[1]["text"], top_k=1)[0].id == "a.pdf#2"


def test_a_multi_vector_encoder_is_saved_and_opened(
    model: SentenceTransformer, pages: list[dict[str, Any]], tmp_path: Path
) -> None:
    encoder = MultiVectorEncoder.from_dense(model)
    stages = [LateStage(model=encoder, codec="float32")]
    made = Retriever.build(pages, stages, cache=tmp_path / "cache", show_progress=False)
    made.save(tmp_path / "retriever")
    opened = Retriever.open(tmp_path / "retriever")
    expected, found = (one.search(pages[3]["text"], top_k=5) for one in (made, opened))
    assert [(hit.id, pytest.approx(hit.score, abs=1e-4)) for hit in found] == [(hit.id, hit.score) for hit in expected]
    assert expected[0].id == "a.pdf#4"


def test_a_save_that_was_stopped_is_no_retriever(pages: list[dict[str, Any]], tmp_path: Path) -> None:
    Retriever.build(pages, [LexicalStage()]).save(tmp_path)
    facts = (tmp_path / "retriever.json").read_text()
    for torn in ("", facts[:30], json.dumps({"format": 9})):
        (tmp_path / "retriever.json").write_text(torn)
        with pytest.raises(InputError, match=r"folder: expected a retriever with a whole retriever\.json of format 1"):
            Retriever.open(tmp_path)


def _elsewhere(facts: dict[str, Any]) -> None:
    facts["stages"][1]["model"] = "../../of-somebody-else"


def _of_no_kind(facts: dict[str, Any]) -> None:
    facts["stages"][0]["kind"] = "psychic"


def _with_a_strange_setting(facts: dict[str, Any]) -> None:
    facts["stages"][1]["settings"]["model"] = "/etc"


def _without_stages(facts: dict[str, Any]) -> None:
    facts["stages"] = None


def _fused_in_no_way(facts: dict[str, Any]) -> None:
    facts["fusion"] = ["rank"]


@pytest.mark.parametrize(
    "damage", [_elsewhere, _of_no_kind, _with_a_strange_setting, _without_stages, _fused_in_no_way]
)
def test_a_strangers_facts_name_nothing_outside_and_end_in_a_sentence(
    damage: Any, model: SentenceTransformer, pages: list[dict[str, Any]], tmp_path: Path
) -> None:
    fusion = Fusion(weights={"lexical": 1, "dense": 1})
    stages = [LexicalStage(), DenseStage(model=model)]
    Retriever.build(pages, stages, fusion=fusion, show_progress=False).save(tmp_path / "kept")
    path = tmp_path / "kept" / "retriever.json"
    facts = json.loads(path.read_text())
    damage(facts)
    path.write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"retriever.json: expected stages as `save` writes them, got"):
        Retriever.open(tmp_path / "kept")


def test_messages(model: SentenceTransformer, pages: list[dict[str, Any]]) -> None:
    retriever = Retriever.build(pages, [LexicalStage()])
    for query, message in (
        (" ", "query: expected text to look for, got ' ' as number 0"),
        (["a", 5], "got 5 as number 1"),
    ):
        with pytest.raises(InputError, match=message):
            retriever.search(query)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top_k: expected at least 1, got 0"):
        retriever.search("a", top_k=0)
    with pytest.raises(InputError, match=r"where: expected some of \[.*'document'.*\], got \['file'\]"):
        retriever.search("a", where={"file": "x"})
    with pytest.raises(InputError, match=r"stages: expected one or more, each of another kind, got \[\]"):
        Retriever([])
    with pytest.raises(InputError, match=r"fusion: expected weights of \['lexical'\], got \{'late': 1\}"):
        Retriever([LexicalStage()], fusion=Fusion(weights={"late": 1}))
    with pytest.raises(InputError, match="weights: expected numbers from 0, one of them positive"):
        Fusion(weights={"late": 0})
    with pytest.raises(InputError, match="method: expected 'z' or 'rrf', got 'sum'"):
        Fusion(weights={"late": 1}, method="sum")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="items: expected an id for each page, got none in number 1"):
        retriever.add([{"id": "x"}, {"text": "y"}])
    with pytest.raises(InputError, match="items: expected 'image', which a stage reads, in every page"):
        Retriever.build(pages, [DenseStage(model=model, reads="image")], show_progress=False)
    assert retriever.search([]) == [] and Retriever([LexicalStage()]).search("bread") == []


def test_snippets() -> None:
    text = "A long start. The bearing is greased weekly. An end."
    assert snippet(text, {"bearing", "greased"}, width=30) == "… The bearing is greased …"
    assert snippet("short text", {"none"}) == "short text" and snippet("", {"a"}) == ""
    assert len(snippet("word " * 500, {"word"}, 80)) <= 80


def test_pages_are_added_in_parts_and_a_stop_keeps_them(
    pages: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnitune.retrieval.retriever.PAGES_AT_ONCE", 5)
    retriever = Retriever([LexicalStage()])
    retriever.save(tmp_path)
    pack = LexicalIndex.pack

    def stops(index: LexicalIndex, texts: list[str]) -> Any:
        if pages[11]["text"] in texts:
            raise KeyboardInterrupt
        return pack(index, texts)

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(LexicalIndex, "pack", stops)
        retriever.add(pages)
    opened = Retriever.open(tmp_path)
    assert len(opened) == 10 and opened.add(pages) == 2
    assert opened.search(pages[11]["text"], top_k=1)[0].id == "c.pdf#4"


def test_words_that_most_pages_hold_explain_nothing() -> None:
    texts = ["grease the bearing", *["the oil"] * 20]
    found = Retriever.build([{"id": f"a.pdf#{i}", "text": text} for i, text in enumerate(texts)], [LexicalStage()])
    assert found.search("the bearing", explain=True)[0].words == ["bearing"]
    assert found.search("the", explain=True)[0].words == ["the"]


def test_the_card_says_what_a_weight_of_zero_is() -> None:
    stages = [{"kind": "lexical"}, {"kind": "late"}]
    fusion = {"weights": {"lexical": 0.0, "late": 1.0}, "method": "z", "k": 60}
    card = render_retriever_card({"stages": stages, "fusion": fusion, "rerank": None}, 3)
    assert "weight 0, so it can propose pages and has no say in their order\n- late" in card and "weight 1\n" in card
