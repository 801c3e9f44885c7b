"""A reranker behind the retriever, and its scores taught to it, on tiny manuals."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from fixtures.tiny_reader import write_tiny_bert, write_tiny_reader
from omnitune import SentenceTransformer, losses
from omnitune.errors import CheckpointError, RecipeError
from omnitune.evaluation.ranking import Hits
from omnitune.finetune import rerank as reranker
from omnitune.finetune import run as pipeline
from omnitune.finetune.measure import TestSet, reranked_search, score_search
from omnitune.finetune.recipe import parse_recipe
from omnitune.model.pair import CrossEncoder

pytestmark = pytest.mark.slow

RECIPE = """
prepare: {width: 300, test: [kitchen.pdf], workers: 1}
training: {num_train_epochs: 1, per_device_train_batch_size: 8, save_strategy: "no", use_cpu: true}
reranker: {depth: 3, batch_size: 8, range_max: 10}
negatives: {relative_margin: null}
evaluation: {baselines: [], resamples: 50, batch_size: 8}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("model")
    bert = write_tiny_bert(folder / "bert")
    return write_tiny_reader(folder / "reader", bert), bert


@pytest.fixture(scope="module")
def seeing(tiny_qwen3_vl, tmp_path_factory) -> Path:
    """The tiny vision-language model, able to say yes and no."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tmp_path_factory.mktemp("seeing")
    processor = AutoProcessor.from_pretrained(tiny_qwen3_vl)
    processor.tokenizer.add_tokens(["yes", "no"])
    model = AutoModelForImageTextToText.from_pretrained(tiny_qwen3_vl)
    model.resize_token_embeddings(max(len(processor.tokenizer), model.get_input_embeddings().num_embeddings))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, manuals, models) -> tuple[Path, list[str]]:
    out, said = tmp_path_factory.mktemp("run") / "out", []
    recipe = parse_recipe(RECIPE, source="tiny.yaml")
    run = {"model": str(models[0]), "recipe": recipe, "log": said.append, "reranker_model": str(models[1])}
    pipeline.finetune(manuals, out, **run, reranker=True)
    pipeline.finetune(manuals, out, **run, distill=True)
    return out, said


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_a_run_leaves(finished):
    out, said = finished
    assert CrossEncoder(str(out / "reranker")).num_labels == 1
    assert SentenceTransformer(str(out / "distilled"), device="cpu").supports("image")
    rows = read(out / "candidates.jsonl")
    taught = read(out / "teacher.jsonl")
    assert len(rows) == len(taught) and all(len(row["teacher"]) == 4 for row in taught)
    kept = np.load(out / "rerank.npz")
    report = json.loads((out / "report.json").read_text())
    assert kept["scores"].shape == (report["data"]["test_queries"], 3)
    assert not (out / "checkpoints").exists()
    assert sum("Training the reranker" in line for line in said) == 1  # the second run went on from the first


def test_the_report_compares_each_step_with_the_finetuned_retriever(finished):
    report = json.loads((finished[0] / "report.json").read_text())
    reranked, distilled = report["further"]
    assert reranked["label"].startswith("the first 3 pages reranked by")
    assert distilled["label"] == "the reranker distilled into the retriever"
    for one in (reranked, distilled):
        assert one["base"] == report["headline"]["finetuned"]
        assert one["difference"]["low"] <= one["difference"]["value"] <= one["difference"]["high"]
    names = {row["name"]: row for row in report["systems"]}
    assert names["finetuned, first 3 reranked"]["all_pages"] is None and "distilled" in names
    html = (finished[0] / "report.html").read_text()
    assert "After finetuning" in html and "the reranker distilled into the retriever" in html


def test_the_teacher_scores_what_the_student_learns(finished):
    out, _ = finished
    row = read(out / "teacher.jsonl")[0]
    model = CrossEncoder(str(out / "reranker"))
    from omnitune.documents import load
    from omnitune.finetune.choose import read_page_files

    corpus = load(out / "dataset").corpus
    pages = [row["page_id"], *row["negatives"]]
    texts = read_page_files([Path(corpus[page]["path"]) for page in pages])
    expected = model.predict([(row["query"], text) for text in texts])
    assert np.allclose(row["teacher"], expected, atol=1e-5)


def test_the_belief_of_the_reranker_is_taught_too(finished, manuals, models, tmp_path, monkeypatch):
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    seen = []
    objective = losses.DistillKLDivLoss.objective

    def watched(self, embeddings, labels):
        assert self.student_temperature == reranker.TEMPERATURE and self.teacher_temperature == 1.0
        value = objective(self, embeddings, labels)
        cosines = torch.stack([(embeddings[0].values * e.values).sum(1) for e in embeddings[1:]], dim=1)
        belief = (cosines / reranker.TEMPERATURE).log_softmax(1)
        wanted = labels.softmax(1)
        expected = (wanted * (wanted.log() - belief)).sum(1).mean() * reranker.TEMPERATURE**2
        seen.append((value.item(), expected.item()))
        return value

    monkeypatch.setattr(losses.DistillKLDivLoss, "objective", watched)
    run = {
        "model": str(models[0]),
        "recipe": parse_recipe(RECIPE, source="tiny.yaml"),
        "reranker_model": str(models[1]),
    }
    said: list[str] = []
    outcome = pipeline.finetune(manuals, out, **run, distill=True, distill_loss="kl", log=said.append)
    assert [one.label for one in outcome.report.further][1] == "the reranker distilled into the retriever"
    assert not any("Training the reranker" in line for line in said)
    assert seen and all(value == pytest.approx(expected, rel=1e-3, abs=1e-7) for value, expected in seen)
    taught, probable = (read(folder / "teacher.jsonl") for folder in (out, finished[0]))
    logits, scores = (np.array([row["teacher"] for row in rows]) for rows in (taught, probable))
    assert np.allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-5)
    with pytest.raises(RecipeError, match="distill_loss: expected one of 'margin_mse', 'kl', got 'mse'"):
        pipeline.finetune(manuals, out, **run, distill=True, distill_loss="mse")


def test_a_retriever_alone_reports_no_further_steps(finished, manuals, models, tmp_path):
    recipe = parse_recipe(RECIPE, source="tiny.yaml")
    outcome = pipeline.finetune(manuals, tmp_path / "out", model=str(models[0]), recipe=recipe)
    assert not outcome.report.further and "After finetuning" not in outcome.html.read_text()


def ranking(scores: torch.Tensor):
    """The search whose scores are given."""

    def search(block: slice) -> Hits:
        ranked = scores[block].sort(dim=1, descending=True, stable=True)
        return Hits(ranked.values, ranked.indices)

    return search


def test_only_the_first_pages_change_places():
    search = reranked_search(
        ranking(torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]])),
        np.array([[0, 1], [3, 2]]),
        np.array([[-3.0, 5.0], [0.2, 0.1]], dtype=np.float32),
    )
    assert search(slice(None)).rows.tolist() == [[1, 0, 2, 3], [3, 2, 1, 0]]
    assert search(slice(1, 2)).rows.tolist() == [[3, 2, 1, 0]]
    test = TestSet(queries=["a", "b"], relevant=[[1], [0]], rows=[0, 1, 2, 3], clusters=[0, 1])
    assert score_search(search, test).rank.tolist() == [1, 4]


def test_pages_that_the_retriever_did_not_find_stay_last():
    never = -torch.inf
    search = reranked_search(
        ranking(torch.tensor([[never, 0.8, never, 0.1], [never] * 4])),
        np.array([[1, 3], [2, 1]]),
        np.array([[0.5, 0.5], [0.0, 1.0]], dtype=np.float32),
    )
    found = search(slice(None))
    assert not found.scores.isnan().any()
    assert found.rows.tolist() == [[1, 3, 0, 2], [1, 2, 0, 3]]
    assert found.scores[:, 2:].tolist() == [[never, never]] * 2


@pytest.mark.parametrize("loss", ["listwise", "bce"])
def test_a_vision_language_model_sees_the_pages(finished, manuals, models, seeing, tmp_path, loss, monkeypatch):
    loaded = []
    original = reranker.load_reranker
    monkeypatch.setattr(reranker, "load_reranker", lambda *a, **k: loaded.append(original(*a, **k)) or loaded[-1])
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    recipe = parse_recipe(RECIPE, source="tiny.yaml")
    small = dataclasses.replace(recipe.reranker, loss=loss, negatives=1, batch_size=8, depth=2)
    recipe = dataclasses.replace(recipe, reranker=small)
    run = {"model": str(models[0]), "recipe": recipe, "reranker_model": str(seeing)}
    outcome = pipeline.finetune(manuals, out, **run, reranker=True)
    assert len(outcome.report.further) == 1 and len(loaded) == 1
    made = CrossEncoder(str(out / "reranker"))
    assert made.supports("image") and type(made[-1]).__name__ == "LogitScore"


def test_it_gets_the_retrievers_adapters(finished, manuals, models, seeing, tmp_path):
    recipe = parse_recipe(RECIPE, source="tiny.yaml")
    adapter = {"r": 2, "target_modules": ["query", "value", "q_proj", "v_proj"], "task_type": "FEATURE_EXTRACTION"}
    small = dataclasses.replace(recipe.reranker, negatives=1, batch_size=8, depth=2)
    recipe = dataclasses.replace(recipe, lora=adapter, reranker=small)
    run = {"model": str(models[0]), "recipe": recipe, "reranker_model": str(seeing)}
    outcome = pipeline.finetune(manuals, tmp_path / "out", **run, distill=True)
    assert len(outcome.report.further) == 2
    assert list((tmp_path / "out" / "reranker").rglob("adapter_config.json"))


def test_a_model_that_cannot_answer_is_refused(tiny_qwen3_vl):
    assert "yes" not in AutoTokenizer.from_pretrained(tiny_qwen3_vl).get_vocab()
    with pytest.raises(CheckpointError, match=r"expected a tokenizer with the tokens \['yes', 'no'\], got none for"):
        reranker.load_reranker(str(tiny_qwen3_vl))


def test_the_embedded_reranker(minilm):
    model = reranker.load_reranker(reranker.EMBEDDED, 32)
    assert model.num_labels == 1 and not model.supports("image")
    assert model.predict([("a query", "a page")]).shape == (1,)
