"""Sparse encoders beside Sentence Transformers: the same folders, encodings, scores and saved models."""

from pathlib import Path
from typing import Any

import pytest
import torch

from omnitune import SparseEncoder

pytestmark = [
    pytest.mark.parity,
    # ST multiplies sparse tensors, of which torch warns.
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:Sparse invariant checks"),
]
rival = pytest.importorskip("sentence_transformers")

TEXTS = ["the pump pressure", "a seal", "the soil in the garden must be wet before the harvest", "flour and yeast"]


def agree(theirs: Any, ours: SparseEncoder, texts: list[str] = TEXTS) -> None:
    """Encodings, similarities and what the methods say of them are equal."""
    for verb in ("encode", "encode_query", "encode_document"):
        wanted, found = getattr(theirs, verb)(texts), getattr(ours, verb)(texts)
        torch.testing.assert_close(found.to_dense(), wanted.to_dense(), rtol=1e-5, atol=1e-5)
    queries, documents = theirs.encode_query(texts[:2]), theirs.encode_document(texts)
    torch.testing.assert_close(ours.similarity(queries, documents), theirs.similarity(queries, documents).to_dense())
    pairwise = theirs.similarity_pairwise(queries, queries)
    torch.testing.assert_close(ours.similarity_pairwise(queries, queries), pairwise.to_dense())
    assert ours.sparsity(documents) == pytest.approx(theirs.sparsity(documents))
    assert ours.similarity_fn_name == theirs.similarity_fn_name
    assert ours.max_active_dims == theirs.max_active_dims
    assert ours.max_seq_length == theirs.max_seq_length
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    shared = ours.intersection(queries[0], documents)
    torch.testing.assert_close(shared.to_dense(), theirs.intersection(queries[0], documents).to_dense())
    for one, other in zip(ours.decode(documents, top_k=4), theirs.decode(documents, top_k=4), strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]


def test_a_masked_language_model_reads_alike_and_comes_back(tmp_path: Path, tiny_masked_bert: Path) -> None:
    theirs = rival.SparseEncoder(str(tiny_masked_bert), device="cpu")
    ours = SparseEncoder(str(tiny_masked_bert), device="cpu")
    agree(theirs, ours)
    ours.save_pretrained(str(tmp_path / "ours"))
    agree(rival.SparseEncoder(str(tmp_path / "ours"), device="cpu"), ours)
    theirs.max_active_dims = 6
    theirs.save_pretrained(str(tmp_path / "theirs"))
    agree(theirs, SparseEncoder(str(tmp_path / "theirs"), device="cpu"))
