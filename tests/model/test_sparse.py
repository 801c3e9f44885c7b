"""The sparse encoder's verbs: shapes, layouts, sparsity, words, and what it refuses."""

from pathlib import Path

import pytest
import torch

from omnitune import SparseEncoder
from omnitune.errors import InputError, ShapeError

TEXTS = ["the pump pressure", "a seal", "the soil in the garden must be wet before the harvest", "a seal"]


@pytest.fixture(scope="module")
def splade(tiny_masked_bert: Path) -> SparseEncoder:
    return SparseEncoder(str(tiny_masked_bert), device="cpu")


def test_a_masked_language_model_becomes_splade(splade: SparseEncoder) -> None:
    vocabulary = len(splade.tokenizer)
    assert splade.get_embedding_dimension() == vocabulary
    assert splade.similarity_fn_name == "dot"
    found = splade.encode(TEXTS)
    assert found.is_sparse
    assert found.is_coalesced()
    assert found.shape == (4, vocabulary)
    dense = splade.encode(TEXTS, convert_to_sparse_tensor=False)
    torch.testing.assert_close(found.to_dense(), dense)
    assert torch.equal(dense[1], dense[3])
    rows = splade.encode(TEXTS, convert_to_tensor=False)
    torch.testing.assert_close(torch.stack(rows).to_dense(), dense)
    assert splade.encode("a seal").shape == (vocabulary,)
    torch.testing.assert_close(splade.encode("a seal").to_dense(), dense[1])
    assert splade.encode([]).is_sparse
    assert splade.encode([], convert_to_tensor=False) == []


def test_the_vector_is_the_largest_weight_of_the_tokens(splade: SparseEncoder) -> None:
    features = splade.preprocess(["the pump pressure"])
    with torch.no_grad():
        logits = splade.transformers_model(**{k: features[k] for k in ("input_ids", "attention_mask")}).logits
    wanted = logits[0].relu().log1p().amax(dim=0)
    torch.testing.assert_close(splade.encode("the pump pressure").to_dense(), wanted)


def test_max_active_dims_keeps_the_largest(splade: SparseEncoder, tmp_path: Path, tiny_masked_bert: Path) -> None:
    whole, cut = splade.encode(TEXTS).to_dense(), splade.encode(TEXTS, max_active_dims=5).to_dense()
    assert (cut > 0).sum(dim=1).tolist() == [5, 5, 5, 5]
    torch.testing.assert_close(cut, torch.where(whole >= whole.topk(5).values[:, -1:], whole, 0))
    model = SparseEncoder(str(tiny_masked_bert), max_active_dims=3, similarity_fn_name="cosine", device="cpu")
    model.save_pretrained(str(tmp_path))
    again = SparseEncoder(str(tmp_path), device="cpu")
    assert (again.max_active_dims, again.similarity_fn_name) == (3, "cosine")
    assert again.sparsity(again.encode(TEXTS))["active_dims"] == 3.0
    torch.testing.assert_close(again.encode(TEXTS).to_dense(), model.encode(TEXTS).to_dense())


def test_similarities_are_those_of_dense_vectors(splade: SparseEncoder) -> None:
    found = splade.encode(TEXTS)
    dense = found.to_dense()
    torch.testing.assert_close(splade.similarity(found, found[1]), dense @ dense[1:2].T)
    torch.testing.assert_close(splade.similarity_pairwise(found, dense), (dense * dense).sum(dim=1))


def test_words_shares_and_sparsity_of_a_vector(splade: SparseEncoder) -> None:
    vector = torch.zeros(len(splade.tokenizer))
    vector[[7, 9, 11]] = torch.tensor([1.0, 3.0, 2.0])
    names = splade.tokenizer.convert_ids_to_tokens([9, 11, 7])
    assert splade.decode(vector) == list(zip(names, [3.0, 2.0, 1.0], strict=True))
    assert splade.decode(vector.to_sparse()[None], top_k=1) == [[(names[0], 3.0)]]
    other = torch.zeros(2, len(vector))
    other[0, [9, 10]] = 2.0
    shared = splade.intersection(vector, other.to_sparse())
    assert shared.shape == other.shape
    assert shared.to_dense().nonzero().tolist() == [[0, 9]]
    assert float(shared.to_dense()[0, 9]) == 6.0
    assert splade.intersection(vector, other[1]).shape == vector.shape
    assert splade.sparsity(other) == {"active_dims": 1.0, "sparsity_ratio": 1 - 1 / len(vector)}
    assert splade.sparsity(torch.zeros(0, 4)) == {"active_dims": 0.0, "sparsity_ratio": 1.0}


def test_what_cannot_be_is_refused(splade: SparseEncoder, tiny_masked_bert: Path) -> None:
    with pytest.raises(InputError, match="max_active_dims: expected a"):
        SparseEncoder(str(tiny_masked_bert), max_active_dims=0)
    with pytest.raises(InputError, match="similarity_fn_name: expected one of .*use MultiVectorEncoder"):
        splade.similarity_fn_name = "maxsim"
    with pytest.raises(InputError, match="embeddings: expected a tensor, got list"):
        splade.sparsity([1.0])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="embeddings: expected"):
        splade.decode(torch.zeros(1, 1, 1))
    with pytest.raises(ShapeError, match=r"embeddings_1: expected one vector"):
        splade.intersection(torch.zeros(1, 3), torch.zeros(3))
    with pytest.raises(ShapeError, match="embeddings_2: expected the dimension 3"):
        splade.intersection(torch.zeros(3), torch.zeros(4))
    with pytest.raises(InputError, match="top_k"):
        splade.decode(torch.zeros(3), top_k=0)
