"""Every family on a device that pretends to be CUDA: a tensor left on the host raises, a wait is counted by its line.

Numbers are those of the host to the last bit, as the same operations compute them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from fixtures.pretend_cuda import OnDevice, Waits, pretended, put_on_device
from omnitune import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder, losses
from omnitune.losses.cross_encoder import BinaryCrossEntropyLoss
from omnitune.losses.multi_vector import CachedMultiVectorMultipleNegativesRankingLoss
from omnitune.losses.sparse import CachedSpladeLoss, SparseMultipleNegativesRankingLoss
from omnitune.types import Column

ROWS = 6
Step = Callable[[], tuple[Tensor, dict[str, Tensor | None]]]


def host(value: Tensor | None) -> Tensor | None:
    return value.held if isinstance(value, OnDevice) else value


def both(make: Callable[[], nn.Module], use: Callable[[Any], Any]) -> tuple[Any, Any, Waits]:
    """What `use` makes of a model on the host, and of the same one on the device, and what the latter waited for."""
    on_host = use(make())
    model = make()
    with pretended() as waits:
        put_on_device(model)
        on_device = use(model)
    return on_host, on_device, waits


def gradients(model: nn.Module, value: Tensor) -> dict[str, Tensor | None]:
    value.backward()
    return {"loss": host(value.detach()), **{name: host(weight.grad) for name, weight in model.named_parameters()}}


def same(first: dict[str, Tensor | None], second: dict[str, Tensor | None]) -> bool:
    return first.keys() == second.keys() and all(
        (value is None) == (second[name] is None) and (value is None or torch.equal(value, second[name]))
        for name, value in first.items()
    )


def ranked(model: SentenceTransformer, items: Sequence[Any], memory: int | None) -> dict[str, Tensor | None]:
    """Loss and gradients of a step with gradient caching."""
    model.train()
    cached = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    cached.strategy.activation_memory = memory
    dim = int(model.get_embedding_dimension() or 0)
    columns = [Column(name="q", items=[f"query {i}" for i in range(len(items))]), Column(name="d", items=items)]
    return gradients(model, losses.MatryoshkaLoss(model, cached, [dim, 8])(columns))


ALLOWED = {
    "tiny_bert": {"masking_utils.py"},  # is anything padding?
    "tiny_clip": {"masking_utils.py", "modeling_clip.py"},
    "tiny_qwen3_vl": {"masking_utils.py", "import_utils.py", "modeling_qwen3_vl.py"},
}
"""Files of transformers whose reads no argument spares."""

PER_MINI_BATCH = {"tiny_bert": 1, "tiny_clip": 2, "tiny_qwen3_vl": 3}
"""Reads of transformers in a forward: without host positions it was 36 for a Qwen3-VL with two layers of vision."""


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("name", [*ALLOWED])
def test_a_dense_step(
    name: str, memory: int | None, request: pytest.FixtureRequest, page_images: list[Image.Image]
) -> None:
    make = partial(SentenceTransformer, str(request.getfixturevalue(name)), device="cpu")
    items = [f"document {i} " + "long " * i for i in range(ROWS)] if name == "tiny_bert" else page_images[:ROWS]
    on_host, on_device, waits = both(make, partial(ranked, items=items, memory=memory))
    assert same(on_host, on_device)
    assert waits.ours == {}
    assert {key.split(" in ")[1].split(":")[0] for key in waits.theirs} <= ALLOWED[name]
    forwards = ROWS * (1 if memory is None else 2)  # of two items each, in two columns
    assert sum(waits.theirs.values()) <= PER_MINI_BATCH[name] * forwards


def test_pages_alone_wait_only_where_transformers_looks_for_their_tokens(
    tiny_qwen3_vl: Path, page_images: list[Image.Image]
) -> None:
    def step(model: SentenceTransformer) -> dict[str, Tensor | None]:
        values = model.engine.run(next(iter(model.engine.prepare(model.engine.plan([column]).mini_batches))))
        return gradients(model, values.values.sum())

    column = Column(name="page", items=[page_images[0], page_images[4]])  # of one size: no padding
    on_host, on_device, waits = both(partial(SentenceTransformer, str(tiny_qwen3_vl), device="cpu"), step)
    assert same(on_host, on_device) and waits.ours == {}
    # The check of the image tokens' number, and two selections for each layer that vision features are added to.
    assert sum(waits.theirs.values()) == 1 + 2 * 1


def test_packed_rows(tiny_qwen3_vl: Path, page_images: list[Image.Image]) -> None:
    packed = {"attn_implementation": "omnitune_varlen"}

    def make() -> SentenceTransformer:
        model = SentenceTransformer(str(tiny_qwen3_vl), device="cpu", model_kwargs=packed)
        assert model[0].packer.packs(media=True)  # the probe, which reads, runs once
        return model

    def step(model: SentenceTransformer) -> dict[str, Tensor | None]:
        return ranked(model, page_images[:ROWS], None)

    on_host, on_device, waits = both(make, step)
    assert same(on_host, on_device)
    assert waits.ours == {}


def test_a_pair_step_and_predict(tiny_bert: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_bert, num_labels=1)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    pairs = [(f"query {i}", "page " * (i + 1)) for i in range(ROWS)]

    def use(model: CrossEncoder) -> dict[str, Tensor | None]:
        scores = model.predict(pairs)
        columns = [Column(name="q", items=[q for q, _ in pairs]), Column(name="d", items=[d for _, d in pairs])]
        labels = (torch.arange(ROWS) % 2).float()
        labels = labels.to(model.device)
        found = gradients(model, BinaryCrossEntropyLoss(model)(columns, labels))
        return {**found, "scores": torch.from_numpy(np.asarray(scores))}

    on_host, on_device, waits = both(partial(CrossEncoder, str(tmp_path), device="cpu"), use)
    assert same(on_host, on_device)
    assert list(waits.ours.values()) == [1]  # were all scores numbers?


def test_a_multi_vector_step_and_encode(tiny_bert: Path) -> None:
    def make() -> MultiVectorEncoder:
        torch.manual_seed(0)
        return MultiVectorEncoder(str(tiny_bert), device="cpu")

    def use(model: MultiVectorEncoder) -> dict[str, Tensor | None]:
        encoded = model.encode([f"page {i} " + "word " * i for i in range(ROWS)])
        loss = CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=2)
        columns = [
            Column(name="query", items=[f"query {i}" for i in range(ROWS)], role="query"),
            Column(name="page", items=[f"page {i} " + "word " * i for i in range(ROWS)], role="document"),
        ]
        return {**gradients(model, loss(columns)), **{str(i): host(row) for i, row in enumerate(encoded)}}

    on_host, on_device, _ = both(make, use)
    assert same(on_host, on_device)


def test_a_sparse_step_and_encode(tiny_masked_bert: Path) -> None:
    items = [f"page {i} " + "word " * i for i in range(ROWS)]

    def use(model: SparseEncoder) -> dict[str, Tensor | None]:
        encoded = model.encode(items, convert_to_sparse_tensor=False)
        cached = CachedSpladeLoss(model, SparseMultipleNegativesRankingLoss(model), 1e-3, 1e-3, mini_batch_size=2)
        columns = [
            Column(name="query", items=[f"query {i}" for i in range(ROWS)], role="query"),
            Column(name="page", items=items, role="document"),
        ]
        return {**gradients(model, sum(cached(columns).values())), "encoded": host(encoded)}

    on_host, on_device, _ = both(partial(SparseEncoder, str(tiny_masked_bert), device="cpu"), use)
    assert same(on_host, on_device)


def test_encode_waits_for_what_it_returns_alone(tiny_qwen3_vl: Path, page_images: list[Image.Image]) -> None:
    items = [*page_images[:4], "a text", "a longer text of more words"]
    make = partial(SentenceTransformer, str(tiny_qwen3_vl), device="cpu")
    on_host, on_device, waits = both(make, lambda model: model.encode(items, batch_size=2))
    np.testing.assert_array_equal(on_host, on_device)
    assert list(waits.ours.values()) == [1]  # were all of them numbers?


def test_a_frozen_tower_is_kept(tiny_qwen3_vl: Path, page_images: list[Image.Image]) -> None:
    def use(model: SentenceTransformer) -> dict[str, Tensor | None]:
        model[0].model.visual.requires_grad_(False)
        model.engine.towers.keep()
        first = ranked(model, page_images[:ROWS], None)
        model.zero_grad()
        second = ranked(model, page_images[:ROWS], None)
        assert model.engine.towers.hits >= ROWS
        assert same(first, second)
        return second

    on_host, on_device, _ = both(partial(SentenceTransformer, str(tiny_qwen3_vl), device="cpu"), use)
    assert same(on_host, on_device)


def test_a_tensor_on_the_host_is_refused_and_a_wait_is_counted() -> None:
    """What the tests above would miss if the device did not tell."""
    with pretended() as waits:
        there = torch.ones(2, 3).to("cuda")
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            there + torch.ones(2, 3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert torch.zeros(2, device="cuda").device.type == "cuda" and there.new_zeros(1).device.type == "cuda"
        assert there.cpu().device.type == "cpu"
    assert waits.ours == {}  # no line of ours asked
