"""Two ranks evaluate as one process does, each encoding its share; and none waits for one that failed."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

from fixtures.ranks import run_on_two_ranks
from omnitune.engine.distributed_eval import deal
from omnitune.errors import OmnituneError

BATCH = 4


def sentences(rows: int, start: int = 0) -> list[str]:
    return [" ".join(f"word{(i * k) % 60}" for k in range(1, 2 + i % 9)) for i in range(start, start + rows)]


def encoder(path: str) -> Any:
    from omnitune import SentenceTransformer

    model = SentenceTransformer(path, device="cpu", prompts={"query": "word1: ", "document": ""})
    model.ran = []
    forward = model.engine.forward

    def counted(features: Any, **kwargs: Any) -> Any:
        model.ran.append(features["input_ids"].numel())
        return forward(features, **kwargs)

    model.engine.forward = counted
    return model


def scorer(path: str) -> Any:
    from omnitune import CrossEncoder

    torch.manual_seed(5)  # its head is new
    return CrossEncoder(path, device="cpu", num_labels=1)


def retrieval(**options: Any) -> Any:
    from omnitune.evaluation import InformationRetrievalEvaluator

    return InformationRetrievalEvaluator(
        queries=dict(enumerate(sentences(10))),
        corpus={100 + i: text for i, text in enumerate(sentences(60, 3))},
        relevant_docs={i: {100 + i, 101 + 5 * i} for i in range(10)},
        batch_size=BATCH,
        corpus_chunk_size=25,
        **options,
    )


def evaluators(path: str) -> Any:
    """One of every way of encoding: retrieval, pairs of texts, classes of their similarity, one after another."""
    from omnitune.evaluation import EmbeddingSimilarityEvaluator, RerankingEvaluator, SequentialEvaluator

    one, two = sentences(20), sentences(20, 30)
    samples = [{"query": q, "positive": [p], "negative": [n]} for q, p, n in zip(one, two, reversed(two), strict=True)]
    return SequentialEvaluator(
        [
            retrieval(name="ir", write_predictions=True),
            EmbeddingSimilarityEvaluator(one, two, [i / 20 for i in range(20)], name="sts", batch_size=BATCH),
            RerankingEvaluator(samples, name="rerank", batch_size=BATCH),
        ]
    )


def by_trainer(path: str, folder: Path, evaluator: Any) -> tuple[dict[str, float], Any]:
    from omnitune import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    model = encoder(path)
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), report_to=[], disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False
    )
    trainer = SentenceTransformerTrainer(model=model, args=args, evaluator=evaluator)
    return trainer.evaluate(), model


class Random:
    """Encodes other texts on every rank, and one time more on rank one."""

    every_rank = True

    def measure(self, model: Any) -> dict[str, float]:
        rank = torch.distributed.get_rank()
        alone = model.encode_query(sentences(3, 40 * rank))
        both = model.encode_query(sentences(5))
        if rank:
            model.encode_query(sentences(2))
        return {"size": float(np.abs(alone).sum()), "both": float(np.abs(both).sum())}

    def __call__(self, model: Any, output_path: Any = None, epoch: Any = -1, steps: Any = -1) -> dict[str, float]:
        return self.measure(model)


class Once(Random):
    """Encodes the same on both ranks, but not as often."""

    def measure(self, model: Any) -> dict[str, float]:
        calls = 2 - torch.distributed.get_rank()
        return {"both": float(sum(np.abs(model.encode_query(sentences(5))).sum() for _ in range(calls)))}


class Failing:
    """Fails on one rank: before it encodes, or after; or only rank zero ever runs it."""

    def __init__(self, rank: int, when: str, every_rank: bool = True) -> None:
        self.rank, self.when, self.every_rank = rank, when, every_rank

    def measure(self, model: Any) -> dict[str, float]:
        if self.when == "before":
            self.fail()
        if self.when == "planning" and self.here:
            model.encode_document([object()])
        if self.when == "encoding" and self.here:
            model.engine.forward = self.fail
        model.encode_query(sentences(9), batch_size=2)
        self.fail()
        return {"fine": 1.0}

    def __call__(self, model: Any, output_path: Any = None, epoch: Any = -1, steps: Any = -1) -> dict[str, float]:
        return self.measure(model)

    @property
    def here(self) -> bool:
        return torch.distributed.get_rank() == self.rank

    def fail(self, *_: Any, **__: Any) -> None:
        if self.here:
            raise ZeroDivisionError(f"no {self.when}")


FAILURES = {
    **{
        f"{when} {rank}": Failing(rank, when) for when in ("before", "planning", "encoding", "after") for rank in (0, 1)
    },
    "alone": Failing(0, "after", every_rank=False),
}


def attempt(work: Callable[[], Any]) -> str:
    try:
        work()
    except (OmnituneError, ZeroDivisionError) as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


def on_a_rank(path: str, folder: Path) -> dict[str, Any]:
    """What each of the two processes does."""
    from omnitune.engine.distributed_eval import sharing

    metrics, model = by_trainer(path, folder / "together", evaluators(path))
    found: dict[str, Any] = {"metrics": metrics, "ran": list(model.ran)}
    model.ran.clear()
    with sharing(model.engine):
        single = model.encode_query(["word3 word4"])
        tokens = model.encode(sentences(7), output_value="token_embeddings", batch_size=2)
        nothing = model.encode_query([])
    found |= {"single": single.tolist(), "tokens": [t.abs().sum().item() for t in tokens], "nothing": len(nothing)}
    pairs = scorer(path)
    with sharing(pairs.engine):
        found["pairs"] = pairs.predict(list(zip(sentences(9), sentences(9, 20), strict=True)), batch_size=2).tolist()
    found["random"] = by_trainer(path, folder / "random", Random())[0]
    found["once"] = by_trainer(path, folder / "once", Once())[0]
    found["failures"] = {
        name: attempt(lambda one=one: by_trainer(path, folder / "failing", one)) for name, one in FAILURES.items()
    }
    found["after"] = by_trainer(path, folder / "again", retrieval())[0]
    return found


@pytest.fixture(scope="module")
def two_ranks(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_on_two_ranks(__file__, folder, bert)


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not re.search("time|per_second|^epoch", name)}


@pytest.mark.slow
def test_metrics_are_those_of_one_process_and_the_work_is_shared(
    bert: Path, two_ranks: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, (first, second) = two_ranks
    alone, model = by_trainer(str(bert), tmp_path, evaluators(str(bert)))
    assert timeless(first["metrics"]) == timeless(second["metrics"]) == timeless(alone)
    assert "eval_ir_cosine_ndcg@10" in alone and "eval_rerank_map" in alone and "eval_sts_spearman_cosine" in alone
    # The same mini-batches, each run by one rank; neither has more than its share and one mini-batch a call.
    assert sorted(first["ran"] + second["ran"]) == sorted(model.ran)
    assert abs(sum(first["ran"]) - sum(second["ran"])) < 0.2 * sum(model.ran)
    files = sorted(path.name for path in (folder / "together" / "eval").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "eval").iterdir())
    # Only rank zero writes: one line of names, one of numbers.
    tables = list((folder / "together" / "eval").glob("*.csv"))
    assert len(tables) == 3 and all(len(path.read_text().splitlines()) == 2 for path in tables)


@pytest.mark.slow
def test_every_verb_is_shared_also_when_a_rank_gets_nothing(
    bert: Path, two_ranks: tuple[Path, list[dict[str, Any]]]
) -> None:
    model = encoder(str(bert))
    pairs = scorer(str(bert))
    tokens = model.encode(sentences(7), output_value="token_embeddings", batch_size=2)
    scores = pairs.predict(list(zip(sentences(9), sentences(9, 20), strict=True)), batch_size=2)
    for found in two_ranks[1]:
        assert found["single"] == model.encode_query(["word3 word4"]).tolist()
        assert found["tokens"] == [t.abs().sum().item() for t in tokens] and found["nothing"] == 0
        assert found["pairs"] == scores.tolist()


@pytest.mark.slow
def test_ranks_that_encode_different_items_do_so_alone(
    bert: Path, two_ranks: tuple[Path, list[dict[str, Any]]]
) -> None:
    model = encoder(str(bert))
    both = float(np.abs(model.encode_query(sentences(5))).sum())
    size = float(np.abs(model.encode_query(sentences(3))).sum())
    for found in two_ranks[1]:
        assert timeless(found["random"]) == {"eval_size": size, "eval_both": both}
        assert found["once"]["eval_both"] == 2 * both
        assert found["after"]["eval_cosine_ndcg@10"] == found["metrics"]["eval_ir_cosine_ndcg@10"]


@pytest.mark.slow
def test_an_error_on_one_rank_stops_the_other(two_ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    for name, failing in FAILURES.items():
        own, other = (two_ranks[1][rank]["failures"][name] for rank in (failing.rank, 1 - failing.rank))
        said = "ModalityError: row 0, column 'inputs'" if failing.when == "planning" else f"no {failing.when}"
        assert said in own and not own.startswith("ResourceError")
        assert other.startswith(f"ResourceError: rank {failing.rank} failed, and the others stop with it: ")
        assert said in other


def test_work_is_dealt_by_cost() -> None:
    assert deal([9, 5, 4, 1], 2) == [[0, 3], [1, 2]]
    assert deal([1, 4, 5, 9], 2) == [[3, 0], [2, 1]]
    assert deal([7], 3) == [[0], [], []] and deal([], 2) == [[], []]
    assert deal([0, 0, 0, 0], 2) == [[0, 2], [1, 3]]


if __name__ == "__main__":
    target, rank = Path(sys.argv[2]), os.environ["RANK"]
    (target / f"rank{rank}.json").write_text(json.dumps(on_a_rank(sys.argv[1], target)))
