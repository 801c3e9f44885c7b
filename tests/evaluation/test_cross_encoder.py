"""Evaluators of cross encoders: what they count, that they predict once, and ST's numbers, keys, files and errors."""

import csv
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnitune.errors import DatasetError, InputError, ShapeError
from omnitune.evaluation import cross_encoder as ours


class FakeScorer:
    """Scores that the pair itself seeds; counts how often it is asked."""

    def __init__(self, labels: int = 1) -> None:
        self.num_labels = labels
        self.calls: list[tuple[int, dict[str, Any]]] = []
        self.model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *_: None)

    def predict(self, inputs: Sequence[Any], **options: Any) -> np.ndarray:
        self.calls.append((len(inputs), options))
        rows = [np.random.default_rng(zlib.crc32(str(list(pair)).encode())).random(self.num_labels) for pair in inputs]
        scores = np.array(rows, dtype=np.float32).reshape(len(inputs), self.num_labels)
        return scores[:, 0] if self.num_labels == 1 else scores


def reranking(documents: bool) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = []
    for i in range(12):
        positives = [f"good {i} {j}" for j in range(1 + i % 3)]
        others = [f"bad {i} {j}" for j in range(2 + i % 5)]
        found = [*others[: i % 4], *positives[: i % 3], *others[i % 4 :]]
        rest = {"documents": found} if documents else {"negative": others}
        samples.append({"query": f"query {i}", "positive": positives, **rest})
    return samples


PAIRS = [(f"query {i % 7}", f"document {i}") for i in range(60)]
BINARY = [int(i % 3 == 0) for i in range(60)]
CLASSES = [i % 4 for i in range(60)]
GOLD = [float(i % 11) / 10 for i in range(60)]
CASES: dict[str, tuple[str, int, tuple[Any, ...], dict[str, Any]]] = {
    "negatives": ("CrossEncoderRerankingEvaluator", 1, (reranking(False),), {"name": "pages"}),
    "documents": ("CrossEncoderRerankingEvaluator", 1, (reranking(True),), {"at_k": 3, "prompt_name": "judge"}),
    "found": ("CrossEncoderRerankingEvaluator", 1, (reranking(True),), {"always_rerank_positives": False, "at_k": 2}),
    "dict": ("CrossEncoderRerankingEvaluator", 1, (dict(enumerate(reranking(False))),), {}),
    "one positive": (
        "CrossEncoderRerankingEvaluator", 1, ([{"query": "q", "positive": "yes", "negative": ["no", "none"]}],), {}
    ),
    "binary": ("CrossEncoderClassificationEvaluator", 1, (PAIRS, BINARY), {"name": "pages"}),
    "classes": ("CrossEncoderClassificationEvaluator", 4, (PAIRS, CLASSES), {}),
    "correlation": ("CrossEncoderCorrelationEvaluator", 1, (PAIRS, GOLD), {"name": "sts", "prompt_name": "judge"}),
}  # fmt: skip


def table(folder: Path) -> dict[str, list[list[str]]]:
    return {path.name: list(csv.reader(path.read_text().splitlines())) for path in sorted(folder.glob("*.csv"))}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
def test_equals_sentence_transformers(case: str, tmp_path: Path) -> None:
    theirs = pytest.importorskip("sentence_transformers.cross_encoder.evaluation")
    kind, labels, arguments, options = CASES[case]
    results = []
    for package in (ours, theirs):
        evaluator, scorer = getattr(package, kind)(*arguments, **options), FakeScorer(labels)
        folder = tmp_path / package.__name__
        folder.mkdir()
        found = evaluator(scorer, str(folder), epoch=1, steps=10)
        results.append(
            (found, evaluator.primary_metric, evaluator.get_config_dict(), table(folder), scorer.calls[0][0])
        )
        assert evaluator.primary_metric in found
        assert scorer.calls[0][1]["prompt_name"] == options.get("prompt_name")
    mine, other = results
    assert list(mine[0]) == list(other[0])
    assert mine[0] == pytest.approx(other[0], abs=1e-6)
    assert mine[1:3] == other[1:3]
    assert mine[3].keys() == other[3].keys()
    for name, rows in other[3].items():
        assert mine[3][name][0] == rows[0]
        assert [float(v) for v in mine[3][name][1]] == pytest.approx([float(v) for v in rows[1]], abs=1e-6)
    assert mine[4] == other[4]


@pytest.mark.parametrize("case", CASES)
def test_all_pairs_are_one_call(case: str) -> None:
    kind, labels, arguments, options = CASES[case]
    scorer = FakeScorer(labels)
    getattr(ours, kind)(*arguments, **options).measure(scorer)
    assert len(scorer.calls) == 1


def test_one_image_is_a_positive_of_its_own() -> None:
    page = Image.new("RGB", (4, 4), "white")
    sample = {"query": "q", "positive": page, "negative": [Image.new("RGB", (4, 4), "black")]}
    scorer = FakeScorer()
    found = ours.CrossEncoderRerankingEvaluator([sample]).measure(scorer)
    assert scorer.calls[0][0] == 2
    assert found["map"] in (0.5, 1.0)


def test_hand_worked_numbers() -> None:
    scorer = SimpleNamespace(predict=lambda pairs, **_: np.array([0.1, 0.9, 0.8], dtype=np.float32), num_labels=1)
    samples = [{"query": "q", "positive": ["p"], "documents": ["a", "b"]}]
    found = ours.CrossEncoderRerankingEvaluator(samples).measure(scorer)
    assert found["map"] == pytest.approx(1 / 3) and found["mrr@10"] == pytest.approx(1 / 3)
    assert found["ndcg@10"] == pytest.approx(0.5)
    assert found["base_map"] == found["base_mrr@10"] == found["base_ndcg@10"] == 0.0


def test_samples_and_counts_are_checked() -> None:
    reranker = ours.CrossEncoderRerankingEvaluator
    with pytest.raises(InputError, match=r"samples\[0\]: expected the keys 'query', 'positive' and either"):
        reranker([{"query": "q", "positive": ["p"]}])
    with pytest.raises(InputError, match=r"samples\[1\]: .* got \['documents', 'negative', 'positive', 'query'\]"):
        reranker([reranking(False)[0], {**reranking(False)[0], "documents": []}])
    with pytest.raises(InputError, match="samples: expected at least one, got none"):
        reranker([])
    with pytest.raises(ShapeError, match="labels: expected one for each of 60 sentence_pairs, got 2"):
        ours.CrossEncoderClassificationEvaluator(PAIRS, [1, 0])
    with pytest.raises(ShapeError, match="scores: expected one for each of 60 sentence_pairs, got 1"):
        ours.CrossEncoderCorrelationEvaluator(PAIRS, [1.0])


def test_the_old_name_of_at_k_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    assert ours.CrossEncoderRerankingEvaluator(reranking(False), mrr_at_k=4).primary_metric == "ndcg@4"
    assert "mrr_at_k: renamed to at_k" in caplog.text


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks in the layout of NanoBEIR, in a folder."""
    from datasets import Dataset

    root = tmp_path_factory.mktemp("nano")
    lines = ["---", "configs:"]
    for subset in ("corpus", "queries", "qrels", "bm25"):
        lines += [f"- config_name: {subset}", "  data_files:"]
        for task in ("NanoMSMARCO", "NanoNQ"):
            rows = {
                "corpus": {"_id": [f"d{i}" for i in range(9)], "text": [f"{task} document {i}" for i in range(9)]},
                "queries": {"_id": ["q0", "q1"], "text": [f"{task} question {i}" for i in range(2)]},
                "qrels": {"query-id": ["q0", "q0", "q1"], "corpus-id": ["d1", "d2", "d3"]},
                "bm25": {"query-id": ["q0", "q1"], "corpus-ids": [["d0", "d1", "d4"], ["d8", "d7", "d6"]]},
            }[subset]
            Dataset.from_dict(rows).to_parquet(root / f"{subset}-{task}.parquet")
            lines += [f"  - split: {task}", f"    path: {subset}-{task}.parquet"]
    (root / "README.md").write_text("\n".join([*lines, "---", ""]))
    return root


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parity
@pytest.mark.usefixtures("own_cache")
@pytest.mark.filterwarnings("ignore")
def test_nano_beir_equals_sentence_transformers(nano: Path, tmp_path: Path) -> None:
    theirs = pytest.importorskip("sentence_transformers.cross_encoder.evaluation")
    results = []
    for package in (ours, theirs):
        evaluator = package.CrossEncoderNanoBEIREvaluator(["msmarco", "NQ"], str(nano), rerank_k=2, at_k=5)
        (tmp_path / package.__name__).mkdir()
        found = evaluator(FakeScorer(), str(tmp_path / package.__name__))
        results.append((found, evaluator.primary_metric, evaluator.get_config_dict(), evaluator.name))
    mine, other = results
    assert mine[0].keys() == other[0].keys()
    assert mine[0] == pytest.approx(other[0], abs=1e-6)
    assert mine[1:] == other[1:]
    assert mine[1] == "NanoBEIR_R2_mean_ndcg@5"


@pytest.mark.usefixtures("own_cache")
def test_nano_beir_says_what_it_needs(nano: Path) -> None:
    with pytest.raises(InputError, match=r"dataset_names: expected names among climatefever, .*got \['squad'\]"):
        ours.CrossEncoderNanoBEIREvaluator(["squad"])
    with pytest.raises(DatasetError, match=r"'nobody/nothing' with a configuration 'corpus'.*without a network"):
        ours.CrossEncoderNanoBEIREvaluator(["nq"], "nobody/nothing")
    with pytest.raises(DatasetError, match=r"queries, NanoNQ: expected the columns .*missing \['language'\]"):
        from omnitune.evaluation.nano_beir import load_subset

        load_subset(str(nano), "queries", "NanoNQ", ("_id", "language"))
