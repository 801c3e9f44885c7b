"""Two ranks on gloo: gathering gives the rows of both, and gradients that equal those of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from omnitune.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from omnitune.losses.base import Loss
from omnitune.losses.sparse import FlopsLoss, SpladeLoss
from omnitune.ops.collectives import gather_columns, gather_embeddings, gather_rows, world_size
from omnitune.types import Embeddings

SIZES = (3, 2)
EVERY = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SYMMETRIC = {"directions": EVERY[:1] + EVERY[2:3], "partition_mode": "per_direction"}
OPTIONS = [{}, SYMMETRIC, {"directions": EVERY, "hardness_mode": "all_negatives", "hardness_strength": 2.0}]


class Model(nn.Module):
    def get_embedding_dimension(self) -> int:
        return 8


def columns(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 8, generator=generator, dtype=torch.float64) for _ in range(3)]


def losses(gather: bool) -> list[MultipleNegativesRankingLoss | MatryoshkaLoss]:
    plain = [MultipleNegativesRankingLoss(Model(), gather_across_devices=gather, **options) for options in OPTIONS]
    return [*plain, *(MatryoshkaLoss(Model(), loss, [8, 4]) for loss in plain)]


def regularizers() -> list[nn.Module]:
    """FLOPS alone, with a threshold, and both of SpladeLoss beside a loss that is always zero."""

    class Alone(FlopsLoss):
        def objective(self, embeddings, labels):
            return self.compute_loss_from_embeddings(torch.cat([e.values for e in embeddings]))

    class Zero(Loss):
        def objective(self, embeddings, labels):
            return embeddings[0].values.sum() * 0.0

    return [Alone(None), Alone(None, threshold=4), SpladeLoss(Model(), Zero(Model()), 0.3, 0.7)]


def words_above_zero(rows: int) -> list[torch.Tensor]:
    """As of SPLADE: none below zero, about half of them zero, more of them in the rows of the second rank."""
    return [(c + torch.linspace(-1, 1, rows, dtype=c.dtype)[:, None]).relu() for c in columns(rows)]


def gradient(loss: nn.Module, batch: list[torch.Tensor]) -> tuple[float, torch.Tensor]:
    leaves = [c.detach().clone().requires_grad_() for c in batch]
    value = loss.objective([Embeddings(leaf) for leaf in leaves], None)
    value = sum(value.values()) if isinstance(value, dict) else value
    value.backward()
    return value.item(), torch.stack([leaf.grad for leaf in leaves])


def work(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {"world": world_size()}

    mine = (torch.arange(SIZES[rank] * 2).reshape(-1, 2) + 10.0 * rank).requires_grad_()
    everyone, offset = gather_rows(mine)
    # Rank r's loss weighs row i of everyone by (r + 1) * (i + 1).
    (everyone.sum(1) * torch.arange(1, 6) * (rank + 1)).sum().backward()
    found |= {"rows": everyone.tolist(), "offset": offset, "unequal": mine.grad.tolist()}
    tokens = torch.full((3 * (rank + 1), 2), 1.0 + rank, requires_grad=True)
    ragged = Embeddings(tokens, offsets=torch.tensor([0, 1, 3] if rank == 0 else [0, 4, 4, 6]))
    whole, offset = gather_embeddings(ragged)
    (whole.values.sum(1) * torch.arange(1, 10) * (rank + 1)).sum().backward()
    found |= {"ragged": whole.offsets.tolist(), "ragged_values": whole.values[:, 0].tolist(), "ragged_first": offset}
    found |= {"ragged_gradient": tokens.grad[:, 0].tolist()}
    csr, _ = gather_embeddings(Embeddings.csr(torch.eye(3)[: 2 + rank] * (rank + 1)))
    found |= {"csr": csr.coo().to_dense().tolist(), "dense": gather_embeddings(Embeddings(mine.detach()))[1]}
    two, offset = gather_columns([mine.detach(), -mine.detach()])
    found |= {"columns": [c.tolist() for c in two], "columns_offset": offset}

    batch = [c[rank * 3 : rank * 3 + 3] for c in columns(6)]
    results = [gradient(loss, batch) for loss in losses(gather=True)]
    found |= {"losses": [v for v, _ in results], "gradients": [g.tolist() for _, g in results]}
    results = [gradient(loss, [c[rank * 3 : rank * 3 + 3] for c in words_above_zero(6)]) for loss in regularizers()]
    found |= {"flops": [v for v, _ in results], "flops_gradients": [g.tolist() for _, g in results]}
    found["negatives"] = losses(gather=True)[0].negatives_per_query(64, 3)
    uneven = [c[:3] if rank == 0 else c[3:5] for c in columns(5)]
    found["uneven"] = gradient(losses(gather=True)[2], uneven)[0]
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [subprocess.Popen([sys.executable, __file__, str(rank), str(port), str(folder)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_rows_of_unequal_ranks(ranks):
    expected = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [10.0, 11.0], [12.0, 13.0]]
    for rank, offset in zip(ranks, (0, 3), strict=True):
        assert (rank["world"], rank["rows"], rank["offset"]) == (2, expected, offset)
        assert rank["columns"] == [expected, [[-x for x in row] for row in expected]]
        assert rank["columns_offset"] == offset


def test_embeddings_of_any_layout_are_gathered_without_padding(ranks):
    for rank, first in zip(ranks, (0, 2), strict=True):
        assert (rank["ragged"], rank["ragged_first"], rank["dense"]) == ([0, 1, 3, 7, 7, 9], first, (0, 3)[first // 2])
        assert rank["ragged_values"] == [1.0] * 3 + [2.0] * 6
        assert rank["csr"] == [[1, 0, 0], [0, 1, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert ranks[0]["ragged_gradient"] == [3.0, 6.0, 9.0]
    assert ranks[1]["ragged_gradient"] == [12.0, 15.0, 18.0, 21.0, 24.0, 27.0]


def test_gradients_of_unequal_ranks_are_summed(ranks):
    assert ranks[0]["unequal"] == [[3.0, 3.0], [6.0, 6.0], [9.0, 9.0]]
    assert ranks[1]["unequal"] == [[12.0, 12.0], [15.0, 15.0]]


def test_two_ranks_equal_one_process(ranks):
    for i, loss in enumerate(losses(gather=False)):
        value, whole = gradient(loss, columns(6))
        assert sum(rank["losses"][i] for rank in ranks) / 2 == pytest.approx(value, rel=1e-9)
        # A trainer averages over ranks.
        joined = torch.cat([torch.tensor(rank["gradients"][i], dtype=torch.float64) for rank in ranks], dim=1) / 2
        assert torch.allclose(joined, whole, atol=1e-12)


@pytest.mark.parametrize("which", range(3))
def test_flops_hold_as_sparse_on_two_ranks_as_on_one(ranks, which):
    """Same value on both ranks and in one process, and the mean of the gradients is that of one process."""
    whole, gradients = gradient(regularizers()[which], words_above_zero(6))
    halves = [gradient(regularizers()[which], [c[s : s + 3] for c in words_above_zero(6)])[0] for s in (0, 3)]
    for rank, alone in zip(ranks, halves, strict=True):
        assert rank["flops"][which] == pytest.approx(whole, rel=1e-12)
        assert abs(alone - whole) > 0.1  # what a mean of one rank's rows would give
    joined = torch.cat([torch.tensor(rank["flops_gradients"][which], dtype=torch.float64) for rank in ranks], dim=1)
    torch.testing.assert_close(joined / 2, gradients, rtol=0, atol=1e-12)


def test_unequal_batches_equal_one_process(ranks):
    value, _ = gradient(losses(gather=False)[2], columns(5))
    assert (3 * ranks[0]["uneven"] + 2 * ranks[1]["uneven"]) / 5 == pytest.approx(value, rel=1e-9)


def test_negatives_of_all_ranks_count(ranks):
    assert [rank["negatives"] for rank in ranks] == [2 * 128 - 1] * 2


def test_one_process_gathers_itself():
    rows = torch.ones(2, 3)
    gathered, offset = gather_rows(rows)
    assert gathered is rows
    assert offset == 0
    assert gather_columns([rows])[1] == 0
    assert gather_embeddings(Embeddings(rows))[0].values is rows
    assert world_size() == 1
    assert losses(gather=True)[0].negatives_per_query(64, 3) == 127


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
