"""A metric that no evaluation gives is an error before training, not hours into it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from omnitune import SentenceTransformer, losses
from omnitune.errors import InputError
from omnitune.evaluation import (
    BaseEvaluator,
    InformationRetrievalEvaluator,
    SequentialEvaluator,
)
from omnitune.training.metrics import check_best_metric
from omnitune.training.trainer import SentenceTransformerTrainer as Trainer

MODEL = SimpleNamespace(similarity_fn_name="cosine")
SEARCH = InformationRetrievalEvaluator({"q": "a"}, {"d": "a"}, {"q": {"d"}}, ndcg_at_k=[5], name="pages")


class Own(BaseEvaluator):
    """Says nothing of what it measures."""


def named(name: str) -> Own:
    own = Own()
    own.name = name
    return own


@pytest.mark.parametrize(
    ("metric", "datasets", "evaluator"),
    [
        ("loss", [None], None),
        ("eval_loss", [None], SEARCH),
        ("pairs_loss", ["pairs", "scored"], None),
        ("eval_pages_cosine_ndcg@5", [], SEARCH),
        ("pages_cosine_recall@3", [None], SequentialEvaluator([SEARCH, named("own")])),
        ("sequential_score", [], SequentialEvaluator([SEARCH])),
    ],
)
def test_what_will_be_there(caplog: Any, metric: str, datasets: list[Any], evaluator: Any) -> None:
    check_best_metric(metric, datasets, evaluator, MODEL)
    assert not caplog.text


def test_the_names_are_those_that_are_measured(bert: Any) -> None:
    model = SentenceTransformer(str(bert), device="cpu")
    assert set(SEARCH.metric_names(model)) == SEARCH.measure(model).keys()


@pytest.mark.parametrize(
    ("metric", "datasets", "evaluator", "message"),
    [
        ("loss", [], SEARCH, "got 'loss'; there is no eval_dataset to take a loss of"),
        ("accuracy", [None], None, "expected one of loss, got 'accuracy'$"),
        ("loss", ["pairs"], None, "expected one of pairs_loss, got 'loss'"),
        ("pages_cosine_ndcg@10", [None], SEARCH, "expected one of loss, pages_cosine_accuracy@1, .*@5, .*ndcg@10'$"),
        ("cosine_ndcg@5", [None], SequentialEvaluator([SEARCH, named("own")]), "sequential_score, own_..., got"),
    ],
)
def test_what_will_not(metric: str, datasets: list[Any], evaluator: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"metric_for_best_model: .*{message}"):
        check_best_metric(metric, datasets, evaluator, MODEL)


def test_what_cannot_be_known_is_said(caplog: Any) -> None:
    for evaluator in (named("own"), lambda model, **_: 1.0):
        caplog.clear()
        check_best_metric("own_score", [None], evaluator, MODEL)
        assert "whether evaluations give 'own_score' is known after the first; surely they give: loss" in caplog.text


def test_a_trainer_looks_at_its_start(bert: Any, pairs: Callable[..., Dataset], arguments: Callable[..., Any]) -> None:
    settings = {"eval_strategy": "epoch", "metric_for_best_model": "pages_ndcg@10"}
    made = {"model": SentenceTransformer(str(bert), device="cpu"), "train_dataset": pairs(), "evaluator": SEARCH}
    with pytest.raises(InputError, match="metric_for_best_model: expected one of .*, got 'pages_ndcg@10'"):
        Trainer(args=arguments(**settings), loss=losses.CoSENTLoss, **made)
