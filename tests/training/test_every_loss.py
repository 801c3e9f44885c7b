"""Every loss trains a model through the trainer: raw columns in, a lower loss out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from omnitune import SentenceTransformer, losses
from omnitune.training.trainer import SentenceTransformerTrainer as Trainer

Pairs = Callable[..., Dataset]
Arguments = Callable[..., Any]


def labelled(dataset: Dataset, values: list[Any]) -> Dataset:
    return dataset.add_column("label", values)


def alone(dataset: Dataset) -> Dataset:
    return dataset.select_columns(["anchor"])


def teacher(rows: int, width: int) -> list[list[float]]:
    return [[((i * 7 + j * 3) % 11) / 11 for j in range(width)] for i in range(rows)]


ROWS = 16
MNRL = losses.MultipleNegativesRankingLoss
LOSSES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Pairs], Dataset]]] = {
    "AdaptiveLayerLoss": (lambda m, g: losses.AdaptiveLayerLoss(m, MNRL(m), -1), lambda p: p(ROWS)),
    "BatchAllTripletLoss": (lambda m, g: losses.BatchAllTripletLoss(m, margin=1), lambda p: alone_labelled(p)),
    "BatchHardSoftMarginTripletLoss": (
        lambda m, g: losses.BatchHardSoftMarginTripletLoss(m),
        lambda p: alone_labelled(p),
    ),
    "BatchHardTripletLoss": (lambda m, g: losses.BatchHardTripletLoss(m), lambda p: alone_labelled(p)),
    "BatchSemiHardTripletLoss": (lambda m, g: losses.BatchSemiHardTripletLoss(m), lambda p: alone_labelled(p)),
    "CachedGISTEmbedLoss": (
        lambda m, g: losses.CachedGISTEmbedLoss(m, g, 0.1, mini_batch_size=4, cache_guide=True),
        lambda p: p(ROWS, extra="negative"),
    ),
    "ContrastiveLoss": (lambda m, g: losses.ContrastiveLoss(m), lambda p: labelled(p(ROWS), [1, 0] * 8)),
    "ContrastiveTensionLoss": (
        lambda m, g: losses.ContrastiveTensionLoss(m),
        lambda p: labelled(p(ROWS), [1, 0] * 8),
    ),
    "ContrastiveTensionLossInBatchNegatives": (
        lambda m, g: losses.ContrastiveTensionLossInBatchNegatives(m),
        lambda p: alone(p(ROWS)),
    ),
    "DenoisingAutoEncoderLoss": (lambda m, g: losses.DenoisingAutoEncoderLoss(m), lambda p: p(ROWS)),
    "DistillKLDivLoss": (
        lambda m, g: losses.DistillKLDivLoss(m),
        lambda p: labelled(p(ROWS, extra="negative"), [[1.0, 0.0]] * ROWS),
    ),
    "EmbedDistillLoss": (
        lambda m, g: losses.EmbedDistillLoss(m, projection_dim=5),
        lambda p: labelled(p(ROWS), teacher(ROWS, 5)),
    ),
    "GISTEmbedLoss": (lambda m, g: losses.GISTEmbedLoss(m, g, 0.1), lambda p: p(ROWS)),
    "GlobalOrthogonalRegularizationLoss": (
        lambda m, g: losses.GlobalOrthogonalRegularizationLoss(m),
        lambda p: p(ROWS),
    ),
    "Matryoshka2dLoss": (
        lambda m, g: losses.Matryoshka2dLoss(m, MNRL(m), [32, 8], n_layers_per_step=-1, n_dims_per_step=-1),
        lambda p: p(ROWS),
    ),
    "MegaBatchMarginLoss": (lambda m, g: losses.MegaBatchMarginLoss(m, mini_batch_size=4), lambda p: p(ROWS)),
    "OnlineContrastiveLoss": (lambda m, g: losses.OnlineContrastiveLoss(m), lambda p: labelled(p(ROWS), [1, 0] * 8)),
    "SoftmaxLoss": (
        lambda m, g: losses.SoftmaxLoss(m, 32, 4),
        lambda p: labelled(p(ROWS), [i % 4 for i in range(ROWS)]),
    ),
}


def alone_labelled(pairs: Pairs) -> Dataset:
    return labelled(alone(pairs(ROWS)), [i % 4 for i in range(ROWS)])


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_goes_down(name: str, bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    make, data = LOSSES[name]
    model, guide = (SentenceTransformer(str(bert), device="cpu") for _ in range(2))
    trainer = Trainer(
        model=model,
        args=arguments(max_steps=10, per_device_train_batch_size=ROWS, lr_scheduler_type="constant"),
        train_dataset=data(pairs),
        loss=make(model, guide),
    )
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(found) == 10
    assert found[-1] < found[0]
