"""The four layouts of embeddings: the same rows come out of each, cut, joined and turned into one another."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from omnitune.errors import ShapeError
from omnitune.types import Embeddings

ROWS = [torch.arange(6.0).view(3, 2), torch.zeros(0, 2), torch.tensor([[7.0, 8.0]]), torch.tensor([[9.0, 1.0]] * 2)]
MATRIX = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, -3.0], [0.0, 0.0, 5.0]])
MAKERS: dict[str, Callable[[], Embeddings]] = {
    "dense": lambda: Embeddings(MATRIX),
    "padded": lambda: Embeddings.packed(ROWS).pad(),
    "packed": lambda: Embeddings.packed(ROWS),
    "csr": lambda: Embeddings.csr(MATRIX),
}
CHOICES = [slice(1, 3), torch.tensor([3, 0, 0]), torch.tensor([1, 2]), torch.tensor([True, False, True, False])]


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("name", MAKERS)
def test_rows_are_cut_and_joined_alike_in_every_layout(name: str) -> None:
    whole = MAKERS[name]()
    rows = whole.unbind()
    assert (whole.layout, len(whole), len(rows)) == (name, 4, 4)
    for chosen in CHOICES:
        wanted = [rows[i] for i in torch.arange(4)[chosen].tolist()]
        assert same(whole[chosen].unbind(), wanted)
        assert same(Embeddings.cat([whole[chosen], whole]).unbind(), [*wanted, *rows])
    assert whole.detach().layout == whole.to(torch.float64).layout == name
    assert whole[:0].unbind() == []


def test_token_rows_survive_padding_and_packing() -> None:
    padded = MAKERS["padded"]()
    assert padded.values.shape == (4, 3, 2)
    assert padded.mask is not None
    assert padded.lengths.tolist() == padded.pack().lengths.tolist() == [3, 0, 1, 2]
    assert same(padded.pack().unbind(), ROWS)
    left = Embeddings(torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]]), torch.tensor([[False, True], [True, True]]))
    assert same(left.unbind(), [torch.tensor([[1.0]]), torch.tensor([[2.0], [3.0]])])


def test_consecutive_rows_share_memory_and_gradients_find_their_rows() -> None:
    leaf = torch.ones(6, 2, requires_grad=True)
    packed = Embeddings(leaf, offsets=torch.tensor([0, 3, 3, 4, 6]))
    assert packed[2:].values.data_ptr() == leaf[3:].data_ptr()
    packed[torch.tensor([3, 3, 2])].values.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[:, 0].tolist() == [0, 0, 0, 1, 2, 2]
    assert torch.autograd.grad(packed.pad().values.sum(), leaf)[0].tolist() == [[1, 1]] * 6


def test_sparse_rows_are_torchs_and_back() -> None:
    csr = Embeddings.csr(MATRIX.to_sparse())
    assert torch.equal(csr.coo().to_dense(), MATRIX)
    offsets, indices, values = csr.numpy()
    assert offsets.tolist() == [0, 1, 1, 3, 4]
    assert indices.tolist() == [1, 0, 2, 2]
    assert values.tolist() == [2, 1, -3, 5]
    with pytest.raises(ShapeError, match="expected csr rows, got packed ones"):
        MAKERS["packed"]().coo()


def test_numpy_has_the_form_of_the_public_verbs() -> None:
    assert isinstance(MAKERS["dense"]().numpy(), np.ndarray)
    found = MAKERS["padded"]().to(torch.bfloat16).numpy()
    assert [row.shape for row in found] == [(3, 2), (0, 2), (1, 2), (2, 2)]
    assert found[0].dtype == np.float32


def test_truncation_scales_back_and_refuses_what_it_cannot_cut() -> None:
    assert MAKERS["packed"]().truncate(1).values.flatten().tolist() == [0, 1, 1, 1, 1, 1]
    with pytest.raises(ShapeError, match="dim: expected at most the embedding dimension 2, got 3"):
        MAKERS["packed"]().truncate(3)
    with pytest.raises(ShapeError, match="dim: expected dense or token embeddings"):
        MAKERS["csr"]().truncate(1)
