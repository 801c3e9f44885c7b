"""The pipeline on tiny manuals: what it leaves, and that it never does twice what it did once."""

import dataclasses
import errno
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from PIL import Image
from transformers import TrainerCallback

from fixtures.tiny_pdfs import write_folder
from omnitune import Retriever, SentenceTransformer
from omnitune.errors import CheckpointNotFoundError, InputError, ResourceError
from omnitune.finetune import fit, train, windows
from omnitune.finetune import run as pipeline
from omnitune.finetune.recipe import parse_recipe
from omnitune.folders import locked

pytestmark = pytest.mark.slow

RECIPE = """
prepare: {width: 400, test: [kitchen.pdf], workers: 1}
loss: {name: CachedMultipleNegativesRankingLoss, scale: 20}
training:
  num_train_epochs: 2
  per_device_train_batch_size: 8
  learning_rate: 1e-3
  batch_sampler: no_duplicates
  logging_steps: 1
  save_strategy: steps
  save_steps: 0.3
  seed: 5
  use_cpu: true
evaluation: {baselines: [bm25], resamples: 200, batch_size: 8}
"""


def recipe(**changes: str):
    text = RECIPE
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return parse_recipe(text, source="tiny.yaml")


@pytest.fixture(scope="module")
def manuals(tmp_path_factory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("docs") / "manuals")
    (folder / "torn.pdf").write_bytes(b"%PDF-1.4\nnothing else")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, manuals, model) -> tuple[Path, list[str]]:
    """A run that was never disturbed, and what it said."""
    out, said = tmp_path_factory.mktemp("run") / "out", []
    pipeline.finetune(manuals, out, model=str(model), recipe=recipe(), log=said.append, command="omnitune finetune it")
    return out, said


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of the finished run, to disturb."""
    return Path(shutil.copytree(finished[0], tmp_path / "out"))


def numbers(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def losses(out: Path) -> list[float]:
    return [one["loss"] for one in numbers(out)["losses"]]


def asked(out: Path) -> list[str]:
    from omnitune.documents import load

    return load(out / "dataset").test_queries


def forbid(monkeypatch, *steps: str) -> None:
    def never(*args, **kwargs):
        raise AssertionError("this step was done before")

    for step in steps:
        monkeypatch.setattr(f"omnitune.finetune.{step}", never)


def test_what_a_run_leaves(finished):
    out, _ = finished
    assert {"dataset", "embeddings", "model", "retriever", "report.html", "report.json"} <= {
        p.name for p in out.iterdir()
    }
    assert not (out / "checkpoints").exists()
    assert "Its `TextReader` cannot be loaded by sentence_transformers" in (out / "model" / "README.md").read_text()
    found = numbers(out)
    assert found["headline"] == found["dimensions"][0]
    ladder = found["ladder"]
    assert {"lexical", "late interaction", "dense on the page image, finetuned"} <= {r["name"] for r in ladder["rungs"]}
    seen = [r["name"] for r in ladder["rungs"] if r["name"].startswith("dense on the page image")]
    assert "dense on the page image, base" not in seen, "the candidate is the same retriever"
    assert [one["name"] for one in ladder["rungs"] if one["chosen"]] == [ladder["name"]]
    assert Retriever.open(out / "retriever").search("baking rye bread", top_k=1)[0].id == "kitchen.pdf#1"
    assert "From lexical search to the chosen retriever" in (out / "report.html").read_text()
    assert [one["dim"] for one in found["dimensions"]] == [32, 16, 8]
    assert {one["name"] for one in found["systems"]} == {"finetuned", "base", "BM25"}
    assert found["data"]["test_pages"] == 5 and found["data"]["all_pages"] == 20
    assert found["run"]["command"] == "omnitune finetune it"
    assert set(found["run"]["seconds"]) == {
        "prepare",
        "read",
        "base",
        "text baseline",
        "train",
        "evaluate",
        "retriever",
        "ladder",
    }
    assert len(found["losses"]) > 3 and found["losses"][-1]["loss"] < found["losses"][0]["loss"]
    assert found["run"]["facts"]["negatives a query"] == "7"


def test_a_broken_document_is_named_and_skipped(finished):
    skipped = numbers(finished[0])["data"]["skipped"]
    assert [one["name"] for one in skipped] == ["torn.pdf"]
    assert "torn.pdf" in (finished[0] / "report.html").read_text()


def test_no_test_document_is_trained_on(finished):
    documents = {one["name"]: one["split"] for one in numbers(finished[0])["data"]["documents"]}
    assert documents["kitchen.pdf"] == "test"
    assert set(documents.values()) == {"train", "test"}


def test_it_says_what_it_will_cost(finished):
    said = "\n".join(finished[1])
    for line in (
        "It was asked for.",
        "The test has 5 queries about 5 pages and tells large differences only: hold out more documents",
        "About ",
        " from here on: reading ",
        "Reading 20 pages",
        "Encoding 20 pages with the base model",
        "Training on 36 rows, 2 epochs: about",
    ):
        assert line in said


def test_the_model_finds_pages(finished):
    model = SentenceTransformer(str(finished[0] / "model"), device="cpu")
    stored = np.load(finished[0] / "embeddings" / "finetuned" / "queries.npy")
    assert model.encode_query(asked(finished[0])) == pytest.approx(stored, abs=1e-5)


def test_running_again_does_nothing_twice(out, manuals, model, monkeypatch):
    before = numbers(out)
    forbid(monkeypatch, "fit.fit", "run.encode_test", "run.read_pages")
    pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
    assert numbers(out)["headline"] == before["headline"]


def test_another_confidence_only_makes_another_report(out, manuals, model, monkeypatch):
    forbid(monkeypatch, "fit.fit", "run.encode_test", "run.read_pages")
    changed = recipe(evaluation=("resamples: 200", "resamples: 100, confidence: 0.8"))
    pipeline.finetune(manuals, out, model=str(model), recipe=changed)
    assert numbers(out)["confidence"] == 0.8


def test_embeddings_of_another_run_are_left_alone(out, manuals, model):
    """A later report loads what this run made, not whatever lies in `embeddings/`."""
    half = out / "embeddings" / "distilled"
    half.mkdir()
    (half / "pages.npy").write_bytes(b"\x93NUMPY")
    (out / "embeddings" / "text").mkdir()
    pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
    assert {one["name"] for one in numbers(out)["systems"]} == {"finetuned", "base", "BM25"}


@pytest.mark.parametrize("name", ["queries", "pages"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-50])])
def test_a_file_that_is_gone_or_cut_is_made_again(finished, out, manuals, model, name, damage):
    damage(out / "embeddings" / "base" / f"{name}.npy")
    damage(out / "embeddings" / "finetuned" / f"{name}.npy")
    pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
    assert numbers(out)["headline"] == numbers(finished[0])["headline"]


def test_a_model_with_cut_weights_is_trained_again(finished, out, manuals, model):
    weights = next((out / "model").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
    assert losses(out) == pytest.approx(losses(finished[0]))
    assert SentenceTransformer(str(out / "model"), device="cpu").encode_query(["bread"]).shape == (1, 32)


def test_improved_queries_are_shown_with_their_pages(out, manuals, model):
    path = out / "embeddings" / "base" / "queries.npy"
    np.save(path, -np.load(path))
    marker = out / ".steps" / "base.json"  # of a run without checksums, so that the numbers pass for its own
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "sums": {}}))
    pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
    found = numbers(out)
    assert found["finetuning_verdict"] == "better"
    assert len(found["improved"]) == 5
    first = found["improved"][0]
    assert first["expected"]["document"] == first["base_first"]["document"] == "kitchen.pdf"
    assert first["base_rank"] > first["finetuned_rank"] == 1
    html = (out / "report.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 15
    assert "Lexical search is enough" in html and first["query"] in html


def test_other_training_keeps_what_does_not_depend_on_it(out, manuals, model, monkeypatch):
    encoded = []
    original = pipeline.encode_test
    forbid(monkeypatch, "run.read_pages")
    monkeypatch.setattr(
        pipeline, "encode_test", lambda *args, **kwargs: (encoded.append(kwargs["label"]), original(*args, **kwargs))
    )
    before = numbers(out)
    changed = recipe(rate=("learning_rate: 1e-3", "learning_rate: 1e-4"))
    pipeline.finetune(manuals, out, model=str(model), recipe=changed)
    assert encoded == ["Encoding with the finetuned model"]
    assert numbers(out)["headline"]["base"] == before["headline"]["base"]
    assert numbers(out)["losses"] != before["losses"]


class Killed(BaseException):
    pass


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def test_a_killed_training_goes_on_and_ends_where_it_would_have(finished, out, manuals, model, monkeypatch, caplog):
    shutil.rmtree(out / "model")
    (out / ".steps" / "train.json").unlink()
    monkeypatch.setattr(fit, "Bar", lambda bar: KillAt(5))
    with pytest.raises(Killed):
        pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
    monkeypatch.undo()
    (checkpoints,) = (out / "checkpoints").iterdir()
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-3"]
    half = checkpoints / "checkpoint-4"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"epoch": ')
    caplog.clear()
    pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
    assert not [record for record in caplog.records if "trainer_state.json" in record.getMessage()]
    assert losses(out) == pytest.approx(losses(finished[0]))
    for name in ("queries", "pages"):
        undisturbed = np.load(finished[0] / "embeddings" / "finetuned" / f"{name}.npy")
        assert np.load(out / "embeddings" / "finetuned" / f"{name}.npy") == pytest.approx(undisturbed, abs=1e-5)


def test_a_full_disk_is_said_and_loses_nothing(out, manuals, model, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    (out / ".steps" / "evaluate.json").unlink()
    monkeypatch.setattr(pipeline, "encode_test", full)
    with pytest.raises(ResourceError, match="the disk is full .* run the same command again"):
        pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
    monkeypatch.undo()
    forbid(monkeypatch, "fit.fit")
    pipeline.finetune(manuals, out, model=str(model), recipe=recipe())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0: file write failed"),
        safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_however_it_is_noticed(out, manuals, model, monkeypatch, error):
    """`torch.save` of an optimizer raises a RuntimeError, safetensors one of its own."""

    def full(*args, **kwargs):
        raise error

    (out / ".steps" / "train.json").unlink()
    monkeypatch.setattr(fit, "fit", full)
    with pytest.raises(ResourceError, match="the disk is full .* run the same command again"):
        pipeline.finetune(manuals, out, model=str(model), recipe=recipe())


def test_two_runs_do_not_share_a_folder(finished, out, manuals, model):
    with locked(out, task="finetuning"):
        with pytest.raises(ResourceError, match="another process is finetuning here; wait until it has ended"):
            pipeline.finetune(manuals, out, model=str(model), recipe=recipe())
        with pytest.raises(ResourceError, match="another process is training here"):
            train(finished[0] / "dataset", out, model=str(model), recipe=recipe())


def test_a_model_that_is_nowhere_is_named_before_the_documents_are_read(tmp_path, manuals, monkeypatch):
    forbid(monkeypatch, "run.prepare_step")
    monkeypatch.setattr("omnitune.modules.files.snapshot_download", offline)
    with pytest.raises(CheckpointNotFoundError, match="'owner/name' is neither a directory here nor a repository"):
        pipeline.finetune(manuals, tmp_path / "out", model="owner/name", recipe=recipe())


def offline(*args, **kwargs):
    raise OSError("no network")


def test_results_among_the_documents_are_refused(manuals, model):
    with pytest.raises(InputError, match="out: expected a folder outside the documents"):
        pipeline.finetune(manuals, manuals / "out", model=str(model), recipe=recipe())


def test_train_on_a_prepared_dataset(finished, model, tmp_path):
    said = []
    place = train(finished[0] / "dataset", tmp_path, model=str(model), recipe=recipe(), log=said.append)
    again = train(finished[0] / "dataset", tmp_path, model=str(model), recipe=recipe())
    assert place == again == tmp_path / "model"
    trained = SentenceTransformer(str(place), device="cpu").encode_query(asked(finished[0]))
    assert trained == pytest.approx(np.load(finished[0] / "embeddings" / "finetuned" / "queries.npy"), abs=1e-5)


def test_train_without_a_dataset(model, tmp_path):
    with pytest.raises(InputError, match="a recipe with a section 'dataset'"):
        train(None, tmp_path, model=str(model), recipe=recipe())


def test_train_on_the_recipes_dataset(finished, model, tmp_path):
    from datasets import DatasetDict, Image

    from omnitune.documents import load

    rows = load(finished[0] / "dataset").train.cast_column("page", Image(decode=False))
    rows = rows.add_column("wrong", rows["page"][::-1]).cast_column("wrong", Image(decode=False))
    DatasetDict({"train": rows, "eval": rows.select(range(6))}).save_to_disk(str(tmp_path / "rows"))
    section = f"dataset: {{path: {tmp_path / 'rows'}, split: train, columns: [query, page], eval_split: eval}}\n"
    wanted = parse_recipe(section + RECIPE.replace("logging_steps: 1", "logging_steps: 1\n  eval_strategy: epoch"),
                          source="x")  # fmt: skip
    train(None, tmp_path / "out", model=str(model), recipe=wanted)
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["queries"] == 6 and found["pages"] == 12
    assert [row["dim"] for row in found["dimensions"]] == [32, 16, 8]
    full = found["dimensions"][0]
    assert (
        0 < full["base"] <= full["finetuned"] <= 1 and full["low"] <= full["finetuned"] - full["base"] <= full["high"]
    )


def test_lora_on_a_vision_language_model(finished, tiny_qwen3_vl, tmp_path):
    lora = "lora: {r: 4, lora_alpha: 8, target_modules: [q_proj, v_proj], task_type: FEATURE_EXTRACTION}\n"
    section = f"model: {{processor_kwargs: {{max_pixels: {64 * 64}}}}}\n"
    place = train(
        finished[0] / "dataset",
        tmp_path,
        model=str(tiny_qwen3_vl),
        recipe=parse_recipe(lora + section + RECIPE, source="lora.yaml"),
    )
    facts = json.loads((tmp_path / ".steps" / "train.json").read_text())["result"]["facts"]
    trained, everything = (int(n.replace(",", "")) for n in facts["trained parameters"].split(" of "))
    assert 0 < trained < everything / 10
    queries = asked(finished[0])
    base = SentenceTransformer(str(tiny_qwen3_vl), device="cpu").encode_query(queries)
    tuned = SentenceTransformer(str(place), device="cpu").encode_query(queries)
    assert np.abs(base - tuned).max() > 1e-3, "the adapter is in the saved model"


def test_validation_documents_are_evaluated_while_training(manuals, model, tmp_path):
    from omnitune.documents import prepare

    prepare(manuals, tmp_path / "dataset", width=400, test=["kitchen.pdf"], validation=["harbour.pdf"], workers=1)
    wanted = recipe(evaluated=("seed: 5", "seed: 5\n  eval_strategy: epoch\n  save_total_limit: 1"))
    seen = []
    original = fit.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "fit", lambda *args, **kwargs: seen.append(kwargs["evaluator"]) or original(*args, **kwargs))
        train(tmp_path / "dataset", tmp_path / "out", model=str(model), recipe=wanted)
    assert seen[0].name == "validation" and len(seen[0].corpus) == 5
    assert set(seen[0].corpus) == {f"harbour.pdf#{n}" for n in range(1, 6)}


def test_a_resumed_training_with_a_share_as_save_steps_raises_no_false_alarm():
    message = "Warning: The following arguments do not match the ones in the `trainer_state.json` within ..."
    record = logging.LogRecord("transformers.trainer", logging.WARNING, "", 0, message, (), None)
    assert not fit._no_false_alarm(record)
    assert fit._no_false_alarm(logging.LogRecord("transformers.trainer", logging.WARNING, "", 0, "other", (), None))


def test_the_report_names_the_origins_that_the_test_has(finished):
    notes = numbers(finished[0])["data"]["notes"]
    assert any(
        note.startswith("Test queries are outline titles of kitchen.pdf, as their authors wrote") for note in notes
    )


def test_documents_without_queries_are_said_plainly(manuals, model, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(manuals, folder)
    scan = Image.new("L", (300, 400), 255)
    scan.save(folder / "scan.png")
    said = []
    pipeline.finetune(folder, tmp_path / "out", model=str(model), recipe=recipe(), log=said.append)
    assert any(line == "No queries could be taken from scan.png: neither trained on nor tested" for line in said)
    notes = numbers(tmp_path / "out")["data"]["notes"]
    assert any(note.startswith("No queries could be taken from scan.png, for want of outline titles") for note in notes)


def test_settings_of_a_command_reach_the_run(manuals, model, tmp_path):
    outcome = pipeline.finetune(
        manuals, tmp_path / "out", model=str(model), recipe=parse_recipe(RECIPE.replace(", test: [kitchen.pdf]", ""),
        source="x"), split="pages", epochs=1, kind="pages", negatives=0,
    )  # fmt: skip
    settings = numbers(tmp_path / "out")["run"]["settings"]
    assert settings["prepare"]["split"] == "pages" and settings["training"]["num_train_epochs"] == 1
    assert {one.split for one in outcome.report.data.documents} == {"test and train"}


def test_the_steps_one_by_one(manuals, model, tmp_path):
    from omnitune.finetune import evaluate, finetune, prepare

    dataset = prepare(manuals, tmp_path / "dataset", recipe=recipe())
    trained = train(dataset, tmp_path / "run", model=str(model), recipe=recipe())
    found = evaluate(str(trained), dataset)
    whole = finetune(manuals, tmp_path / "whole", model=str(model), recipe=recipe())
    assert found["results"][0]["metrics"]["NDCG@10"] == pytest.approx(whole.report.headline.finetuned.value)
    evaluate(trained, tmp_path / "dataset", tmp_path / "numbers.json")
    assert json.loads((tmp_path / "numbers.json").read_text()) == {**found, "model": str(trained)}


def test_a_model_of_texts_reads_no_image(manuals, model, tmp_path, monkeypatch):
    """Every window is encoded once with the base model; the first of a page is what the model alone sees of it."""
    monkeypatch.setattr(pipeline, "as_given", lambda dataset, _: dataclasses.replace(dataset, as_text=True))
    encoded: list[str] = []
    original = windows.BothOf.encode_document

    def watched(self: Any, inputs: Any, **options: Any) -> Any:
        encoded.extend(inputs)
        return original(self, inputs, **options)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("an image was read")

    monkeypatch.setattr(windows.BothOf, "encode_document", watched)
    monkeypatch.setattr("omnitune.modules.readers.text.TextReader.text_of", never)
    said: list[str] = []
    settings = recipe(evaluation=("evaluation:", "retriever: {scans: false}\nevaluation:"))
    outcome = pipeline.finetune(manuals, tmp_path / "out", model=str(model), recipe=settings, log=said.append)
    base = [text for text in encoded if text]
    assert len(base) == len(set(base))
    assert {"first window of the text layer"} <= {one.reads for one in outcome.report.systems}
    ladder = outcome.report.ladder
    assert ladder is not None and "dense on the first window, finetuned" in {one.name for one in ladder.rungs}
    assert any("windows of 20 pages with the base model" in line for line in said)
    before = len(encoded)
    pipeline.finetune(manuals, tmp_path / "out", model=str(model), recipe=settings)
    assert len(encoded) == before
