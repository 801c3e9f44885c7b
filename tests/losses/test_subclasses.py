"""Losses that users derive from ours: a hook or a forward of their own is called, in every wrapper and the trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from omnitune import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from omnitune.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from omnitune.cross_encoder import losses as pair_losses
from omnitune.errors import InputError
from omnitune.losses.base import Loss
from omnitune.types import Collated, CollatedItems, Column

TEXTS = ["a pump", "an oven", "hot oil", "a gear", "the valve", "cold water"]
ROWS = Dataset.from_dict({"a": TEXTS[:3], "b": TEXTS[3:]})


def tripled(kind: type[Loss]) -> type[Any]:
    def hook(self: Any, embeddings: Any, labels: Any = None) -> Any:
        value = super(own, self).compute_loss_from_embeddings(embeddings, labels)
        return {k: v * 3 for k, v in value.items()} if isinstance(value, dict) else value * 3

    own = type(f"Tripled{kind.__name__}", (kind,), {"compute_loss_from_embeddings": hook})
    return own


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu").eval()


@pytest.fixture(scope="module")
def columns(model: SentenceTransformer) -> dict[str, list[Any]]:
    pair = [TEXTS[:3], TEXTS[3:]]
    return {
        "features": [model.preprocess(side) for side in pair],
        "raw": [Column(name=str(i), items=side) for i, side in enumerate(pair)],
    }


def number(value: Any) -> float:
    return float(sum(value.values())) if isinstance(value, dict) else float(value)


KINDS = [
    (losses.MultipleNegativesRankingLoss, None),
    (losses.CachedMultipleNegativesRankingLoss, None),
    (losses.CoSENTLoss, torch.tensor([1.0, 0.2, 0.6])),
    (losses.MSELoss, torch.ones(3, 32)),
    (losses.GlobalOrthogonalRegularizationLoss, None),
]
WRAPPERS = {
    "alone": lambda _, loss: loss,
    "matryoshka": lambda model, loss: losses.MatryoshkaLoss(model, loss, [32, 8]),
    "layers": lambda model, loss: losses.AdaptiveLayerLoss(model, loss, n_layers_per_step=-1, kl_temperature=0),
    "both": lambda model, loss: losses.Matryoshka2dLoss(model, loss, [32, 8], None, -1, -1, kl_temperature=0),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize(("kind", "labels"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])
@pytest.mark.filterwarnings("ignore:matryoshka_dims")
def test_a_hook_of_ones_own_is_called(kind: Any, labels: Any, wrap: Any, model: Any, columns: Any) -> None:
    for form in columns.values():
        with torch.no_grad():
            plain, own = (number(wrap(model, each(model))(form, labels)) for each in (kind, tripled(kind)))
        assert plain and own == pytest.approx(3 * plain, rel=1e-4)


def test_a_guide_and_a_list_of_pairs_are_handed_through(
    model: SentenceTransformer, columns: Any, bert_pair: Any
) -> None:
    for kind, owner, inputs, labels in [
        (losses.GISTEmbedLoss, (model, model), columns["raw"], None),
        (pair_losses.RankNetLoss, (bert_pair,), [["hot"], [TEXTS[:3]]], [torch.tensor([1.0, 0.0, 0.0])]),
        (pair_losses.BinaryCrossEntropyLoss, (bert_pair,), [TEXTS[:3], TEXTS[3:]], torch.tensor([1.0, 0.0, 1.0])),
    ]:
        with torch.no_grad():
            plain, own = (float(each(*owner)(inputs, labels)) for each in (kind, tripled(kind)))
        assert own == pytest.approx(3 * plain, rel=1e-4)


@pytest.fixture(scope="module")
def bert_pair(tiny_bert: Path) -> CrossEncoder:
    return CrossEncoder(str(tiny_bert), num_labels=1, device="cpu").eval()


def loss_of_a_step(model: SentenceTransformer, loss: Any, folder: Path) -> float:
    args = SentenceTransformerTrainingArguments(
        str(folder), per_device_train_batch_size=3, max_steps=1, logging_steps=1, learning_rate=0.0, report_to="none",
        disable_tqdm=True, save_strategy="no", use_cpu=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=ROWS, loss=loss)
    trainer.train()
    return float(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))


class Rewritten(losses.MultipleNegativesRankingLoss):
    def forward(self, sentence_features: Any, labels: Any = None) -> Any:
        made = [self.model(x)["sentence_embedding"] for x in sentence_features]
        return super().compute_loss_from_embeddings(made, labels)


class HandedOn(losses.CachedMultipleNegativesRankingLoss):
    seen: Any = None

    def forward(self, sentence_features: Any, labels: Any = None) -> Any:
        assert sentence_features[0]["input_ids"].ndim == 2
        return super().forward(sentence_features, labels)

    def embed(self, columns: Any, engine: Any) -> Any:
        type(self).seen = columns
        return super().embed(columns, engine)


def test_a_forward_of_ones_own_gets_features(model: SentenceTransformer, tmp_path: Path) -> None:
    expected = loss_of_a_step(model, losses.MultipleNegativesRankingLoss(model), tmp_path)
    assert loss_of_a_step(model, Rewritten(model), tmp_path) == pytest.approx(expected, abs=1e-4)
    assert loss_of_a_step(model, HandedOn(model, mini_batch_size=2), tmp_path) == pytest.approx(expected, abs=1e-4)
    assert all(isinstance(column, Column) for column in HandedOn.seen)  # so that mini-batches can still be cut
    own = tripled(losses.MultipleNegativesRankingLoss)(model)
    assert loss_of_a_step(model, own, tmp_path) == pytest.approx(3 * expected, abs=1e-4)


def test_a_forward_of_ones_own_over_pairs(bert_pair: CrossEncoder, tmp_path: Path) -> None:
    class Own(pair_losses.BinaryCrossEntropyLoss):
        def forward(self, inputs: Any, labels: Any = None) -> Any:
            logits = self.model(self.model.preprocess(list(zip(*inputs, strict=True))))["scores"].view(-1)
            expected = super().forward(inputs, labels)
            value = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            assert torch.allclose(value, expected, atol=1e-5)
            return value

    args = CrossEncoderTrainingArguments(
        str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True
    )
    rows = ROWS.add_column("label", [1.0, 0.0, 1.0])
    CrossEncoderTrainer(model=bert_pair, args=args, train_dataset=rows, loss=Own(bert_pair)).train()


def test_what_was_changed_is_not_replaced_by_its_column() -> None:
    column = Column(name="a", items=["x", "y"])
    for change in (
        lambda made: made.update(new=1),
        lambda made: made.pop("ids"),
        lambda made: made["ids"].zero_(),
        lambda made: made.update(ids=torch.ones(2)),
    ):
        made = Collated({"ids": torch.ones(2)}, column)
        assert made.column is column
        change(made)
        assert made.column is made
    items = CollatedItems(column)
    assert items.column is column
    items[0] = "z"
    assert items.column is items


def test_wrappers_refuse_a_forward_that_they_would_not_call(model: SentenceTransformer) -> None:
    with pytest.raises(InputError, match="would not call it, got Rewritten; override compute_loss_from_embeddings"):
        losses.MatryoshkaLoss(model, Rewritten(model), [32, 8])


def test_a_helper_that_only_the_rival_calls_is_refused(model: SentenceTransformer) -> None:
    class Helped(losses.CachedMultipleNegativesRankingLoss):
        def calculate_loss(self, reps: Any, with_backward: bool = False) -> Any:
            return reps

    class WithItsOwn(Helped):
        def compute_loss_from_embeddings(self, embeddings: Any, labels: Any) -> Any:
            return self.calculate_loss(embeddings[0].sum())

    with pytest.raises(InputError, match=r"Helped\.calculate_loss: expected no override.*compute_loss_from_embeddings"):
        Helped(model)
    WithItsOwn(model)
    with pytest.raises(AttributeError, match="no 'calculate_loss' on purpose: use, or override, compute_loss_from_emb"):
        _ = losses.MultipleNegativesRankingLoss(model).calculate_loss
