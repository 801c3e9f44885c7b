"""Losses of sparse encoders: worked numbers, the schedule, the counter of latents, and what is refused."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from omnitune import SparseEncoder
from omnitune.errors import InputError
from omnitune.losses.sparse import (
    CachedSpladeLoss,
    CSRLoss,
    CSRReconstructionLoss,
    FlopsLoss,
    SparseCoSENTLoss,
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)
from omnitune.modules import SparseAutoEncoder
from omnitune.ops import splade_head
from omnitune.training.callbacks import SpladeRegularizerWeightSchedulerCallback
from omnitune.types import Column

QUERIES = ["the pump", "soil and seed", "flour", "thread page", "which launch", "term"]
PAGES = [
    "the pump pressure is in the seal",
    "the seed must be in the soil",
    "knead dough",
    "a lock",
    "orbit",
    "penalty",
]
COLUMNS = [Column(name="query", items=QUERIES), Column(name="page", items=PAGES)]


@pytest.fixture
def splade(tiny_masked_bert: Path) -> SparseEncoder:
    return SparseEncoder(str(tiny_masked_bert), device="cpu")


def gradients(model: SparseEncoder, value: dict[str, Tensor]) -> list[Tensor]:
    """Gradients of the weights; a replay adds to them itself, so nothing is asked of autograd in its place."""
    model.zero_grad()
    torch.stack(list(value.values())).sum().backward()  # type: ignore[no-untyped-call]
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def test_flops_count_the_squared_mean_of_every_word() -> None:
    vectors = torch.tensor([[2.0, 0.0, 1.0], [0.0, 4.0, 0.0]])
    assert float(FlopsLoss(None).compute_loss_from_embeddings(vectors)) == 1 + 4 + 0.25
    assert float(FlopsLoss(None, threshold=1).compute_loss_from_embeddings(vectors)) == 1 + 0.25


def test_the_parts_of_splade_add_up(splade: SparseEncoder) -> None:
    loss = SpladeLoss(splade, SparseMultipleNegativesRankingLoss(splade), 0.3, 0.5)
    value = loss(COLUMNS)
    queries, pages = (splade.encode(items, convert_to_sparse_tensor=False) for items in (QUERIES, PAGES))
    base = torch.nn.functional.cross_entropy(queries @ pages.T, torch.arange(len(pages)))
    torch.testing.assert_close(value["base_loss"].detach(), base)
    torch.testing.assert_close(value["document_regularizer_loss"].detach(), 0.3 * pages.mean(0).square().sum())
    torch.testing.assert_close(value["query_regularizer_loss"].detach(), 0.5 * queries.mean(0).square().sum())
    alike = SpladeLoss(splade, SparseMultipleNegativesRankingLoss(splade), 0.3, use_document_regularizer_only=True)
    assert set(alike(COLUMNS)) == {"base_loss", "document_regularizer_loss"}
    both = torch.cat([queries, pages]).mean(0).square().sum()
    torch.testing.assert_close(alike(COLUMNS)["document_regularizer_loss"].detach(), 0.3 * both)


@pytest.mark.parametrize("dropout", [False, True])
def test_a_cached_step_is_the_direct_one_and_needs_no_product_twice(
    tiny_masked_bert: Path, built: Callable[..., Path], dropout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fixtures import checkpoints

    folder = built("masked_bert_dropout", checkpoints.masked_bert, dropout=0.1) if dropout else tiny_masked_bert
    model = SparseEncoder(str(folder), device="cpu").double().train()
    products: list[int] = []
    pooled = splade_head._pooled
    monkeypatch.setattr(splade_head, "_pooled", lambda *a, **k: products.append(1) or pooled(*a, **k))
    made, counts = [], []
    for memory in ("auto", 0):
        inner = SparseMultipleNegativesRankingLoss(model)
        loss = CachedSpladeLoss(model, inner, 0.3, 0.5, mini_batch_size=4)
        loss.strategy.activation_memory = memory
        torch.manual_seed(5)
        products.clear()
        value = loss(COLUMNS)
        made.append((value, gradients(model, value)))
        counts.append(len(products))
    assert counts[0] == counts[1] == loss.strategy.last_replayed >= 3
    for one, other in zip(made[0][1], made[1][1], strict=True):
        torch.testing.assert_close(one, other)


def test_weights_rise_to_what_they_were_also_after_a_break(splade: SparseEncoder) -> None:
    loss = SpladeLoss(splade, SparseMultipleNegativesRankingLoss(splade), 0.4, 0.2)
    schedule = SpladeRegularizerWeightSchedulerCallback(loss)

    def at(step: int, callback: SpladeRegularizerWeightSchedulerCallback = schedule) -> tuple[float, float | None]:
        callback.on_step_begin(None, SimpleNamespace(global_step=step, max_steps=30), None)  # type: ignore[arg-type]
        return loss.document_regularizer_weight, loss.query_regularizer_weight

    schedule.on_train_begin(None, SimpleNamespace(global_step=0, max_steps=30), None)  # type: ignore[arg-type]
    assert loss.document_regularizer_weight == 0
    assert at(5) == pytest.approx((0.1, 0.05))
    assert at(10) == at(29) == pytest.approx((0.4, 0.2))
    at(5)
    again = SpladeRegularizerWeightSchedulerCallback(loss, "linear", warmup_ratio=0.5)
    assert again.max_document_regularizer_weight == 0.4
    again.on_train_begin(None, SimpleNamespace(global_step=3, max_steps=30), None)  # type: ignore[arg-type]
    assert loss.document_regularizer_weight == pytest.approx(0.08)
    assert at(15, again) == pytest.approx((0.4, 0.2))
    logs: dict[str, float] = {}
    again.on_log(None, None, None, logs=logs)  # type: ignore[arg-type]
    assert logs == pytest.approx({"document_regularizer_weight": 0.4, "query_regularizer_weight": 0.2})
    loss.document_regularizer_weight = 1.0
    assert again.max_document_regularizer_weight == 1.0


def test_what_a_schedule_cannot_be_is_refused(splade: SparseEncoder) -> None:
    loss = SpladeLoss(splade, SparseMultipleNegativesRankingLoss(splade), 0.4, 0.2)
    with pytest.raises(InputError, match="loss: expected a SpladeLoss"):
        SpladeRegularizerWeightSchedulerCallback(FlopsLoss(None))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="scheduler_type: expected one of"):
        SpladeRegularizerWeightSchedulerCallback(loss, "cubic")
    with pytest.raises(InputError, match="warmup_ratio: expected a share"):
        SpladeRegularizerWeightSchedulerCallback(loss, warmup_ratio=0)


def test_a_step_counts_once_for_a_latent() -> None:
    coder = SparseAutoEncoder(4, hidden_dim=6, k=2, k_aux=600, dead_threshold=0)
    dense = torch.randn(5, 4)
    latents = coder(dict(sentence_embedding=dense))["sentence_embedding"]
    used = (latents > 1e-5).any(dim=0)
    assert torch.equal(coder.stats_last_nonzero, torch.ones(6, dtype=torch.int64))
    coder(dict(sentence_embedding=dense))
    assert torch.equal(coder.stats_last_nonzero, torch.where(used, 1, 2))
    with torch.no_grad():
        features = coder(dict(sentence_embedding=dense), max_active_dims=99)
    assert set(features) == {"sentence_embedding"}
    coder.eval()
    coder(dict(sentence_embedding=dense))
    assert int(coder.stats_last_nonzero.max()) == 2


def test_a_reconstruction_is_measured_in_three_parts() -> None:
    coder = SparseAutoEncoder(3, hidden_dim=3, k=1, k_aux=0)
    with torch.no_grad():
        coder.encoder.weight.copy_(torch.eye(3))
    output = coder.codes(torch.tensor([[3.0, 0.0, 1.0]]))
    value = CSRReconstructionLoss(None).compute_loss_from_embeddings([output])  # type: ignore[arg-type]
    assert [float(part.detach()) for part in value.values()] == pytest.approx([1 / 3, 0, 0])


def test_csr_counts_a_step_over_all_columns(tiny_bert: Path) -> None:
    model = SparseEncoder(str(tiny_bert), device="cpu").train()
    value = CSRLoss(model)(COLUMNS)
    assert list(value) == [
        "reconstruction_loss_k", "reconstruction_loss_4k", "reconstruction_loss_aux", "base_loss",
    ]  # fmt: skip
    assert int(model[2].stats_last_nonzero.max()) == 1
    assert any(float(gradient.abs().sum()) for gradient in gradients(model, value))


def test_what_leaves_vectors_dense_is_refused_alone(splade: SparseEncoder, caplog: pytest.LogCaptureFixture) -> None:
    for loss in (SparseMultipleNegativesRankingLoss(splade), FlopsLoss(splade), CSRReconstructionLoss(splade)):
        with pytest.raises(InputError, match="expected to be .*got used alone"):
            loss(COLUMNS)
    with pytest.raises(InputError, match="expected one with a SparseAutoEncoder"):
        CSRLoss(splade)
    with pytest.raises(InputError, match="loss: expected one with compute_loss_from_embeddings"):
        SpladeLoss(splade, torch.nn.Identity(), 1.0)
    with caplog.at_level(logging.WARNING):
        SparseCoSENTLoss(splade)
        SpladeLoss(splade, SparseMultipleNegativesRankingLoss(splade), 1.0)
    assert splade.similarity_fn_name == "dot"
    assert "trains cosines, and the model compares by dot" in caplog.text
    assert "queries are not kept sparse" in caplog.text
