"""Late interaction beside Sentence Transformers: the same folders, encodings, scores and saved models in every form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures import late_checkpoints
from fixtures.late_checkpoints import TEXTS
from omnitune import MultiVectorEncoder, SentenceTransformer
from omnitune.modules import HierarchicalTokenPooling, MultiVectorMask

pytestmark = pytest.mark.parity
rival = pytest.importorskip("sentence_transformers")

METADATA = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "doc_maxlen": 18, "query_maxlen": 10}
FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "native": late_checkpoints.native,
    "fixed": lambda f, s: late_checkpoints.native(f, s, query_expansion={"strategy": "fixed", "length": 9}),
    "min": lambda f, s: late_checkpoints.native(
        f, s, query_expansion={"strategy": "min", "length": 9}, query_length=14
    ),
    "attended": lambda f, s: late_checkpoints.native(
        f, s, query_expansion={"strategy": "fixed", "length": 9, "attend": True, "token": "[UNK]"}, document_length=12
    ),
    "pylate": late_checkpoints.pylate,
    "pylate bare": lambda f, s: late_checkpoints.pylate(
        f, s, do_query_expansion=False, skiplist_words="left out", query_prefix="[unused0] ", prompts={"query": "the "}
    ),
    "stanford": lambda f, s: late_checkpoints.stanford(f, s, METADATA),
    "stanford silent": lambda f, s: late_checkpoints.stanford(f, s, None),
}


def agree(theirs: Any, ours: MultiVectorEncoder, texts: list[str] = TEXTS) -> None:
    """Encodings of both tasks and of none, similarities, prompts and dimensions are equal."""
    for verb in ("encode_query", "encode_document", "encode"):
        wanted, found = getattr(theirs, verb)(texts), getattr(ours, verb)(texts)
        assert [row.shape for row in found] == [row.shape for row in wanted], verb
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    queries, documents = theirs.encode_query(texts), theirs.encode_document(texts)
    for verb in ("similarity", "similarity_pairwise"):
        torch.testing.assert_close(getattr(ours, verb)(queries, documents), getattr(theirs, verb)(queries, documents))
    assert ours.similarity_fn_name == theirs.similarity_fn_name
    assert ours.prompts == theirs.prompts
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_alike_and_comes_back(
    form: str, tmp_path: Path, tiny_bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = FORMS[form](tmp_path / "model", tiny_bert)
    theirs, ours = rival.MultiVectorEncoder(str(folder), device="cpu"), MultiVectorEncoder(str(folder), device="cpu")
    agree(theirs, ours)
    ours.save_pretrained(str(tmp_path / "ours"))
    agree(rival.MultiVectorEncoder(str(tmp_path / "ours"), device="cpu"), ours)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    agree(theirs, MultiVectorEncoder(str(tmp_path / "theirs"), device="cpu"))


def test_a_bare_backbone_and_a_dense_encoder_get_a_projection(tmp_path: Path, tiny_bert: Path, st_bert: Path) -> None:
    for folder in (tiny_bert, st_bert):
        torch.manual_seed(3)
        theirs = rival.MultiVectorEncoder(str(folder), device="cpu")
        torch.manual_seed(3)
        ours = MultiVectorEncoder(str(folder), device="cpu")
        ours[1].linear.weight.data = theirs[1].linear.weight.data
        agree(theirs, ours)


def test_a_dense_encoders_own_projection_works_on_tokens(st_dense: Path) -> None:
    agree(rival.MultiVectorEncoder(str(st_dense), device="cpu"), MultiVectorEncoder(str(st_dense), device="cpu"))


def test_token_pooling_gives_the_same_clusters(tmp_path: Path, tiny_bert: Path) -> None:
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling as Theirs

    folder = late_checkpoints.native(tmp_path / "model", tiny_bert)
    theirs, ours = rival.MultiVectorEncoder(str(folder), device="cpu"), MultiVectorEncoder(str(folder), device="cpu")
    for factor, protected in ((2.0, 1), (3.5, 2), (1.0, 0)):
        wanted = theirs.encode_document(TEXTS, token_pooling=Theirs(factor, num_protected_tokens=protected))
        found = ours.encode_document(
            TEXTS, token_pooling=HierarchicalTokenPooling(factor, num_protected_tokens=protected)
        )
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    theirs.append(Theirs(2.0))
    theirs.save_pretrained(str(tmp_path / "pooled"))
    pooled = MultiVectorEncoder(str(tmp_path / "pooled"), device="cpu")
    agree(theirs, pooled)
    pooled.save_pretrained(str(tmp_path / "again"))
    agree(rival.MultiVectorEncoder(str(tmp_path / "again"), device="cpu"), pooled)


def test_an_encoder_of_images_keeps_only_their_tokens(tmp_path: Path, tiny_qwen3_vl: Path) -> None:
    from PIL import Image
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask as Theirs

    torch.manual_seed(0)
    backbone = Transformer(str(tiny_qwen3_vl))
    size = backbone.get_embedding_dimension()
    dense = Dense(size, 8, bias=False, activation_function=None, module_input_name="token_embeddings")
    image_token = backbone.config.image_token_id
    mask, unit = Theirs(keep_only_token_ids=[image_token]), Normalize(module_input_name="token_embeddings")
    theirs = rival.MultiVectorEncoder(modules=[backbone, dense, mask, unit], device="cpu")
    theirs.save_pretrained(str(tmp_path / "pages"))
    ours = MultiVectorEncoder(str(tmp_path / "pages"), device="cpu")
    pages = [Image.new("RGB", (96, 64), "white"), Image.new("RGB", (64, 64), "gray")]
    for one, other in zip(ours.encode_document(pages), theirs.encode_document(pages), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    for one, other in zip(ours.encode_query(TEXTS[:4]), theirs.encode_query(TEXTS[:4]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


def test_outputs_of_every_item_have_the_same_keys(tmp_path: Path, tiny_bert: Path) -> None:
    folder = FORMS["fixed"](tmp_path / "model", tiny_bert)
    theirs, ours = rival.MultiVectorEncoder(str(folder), device="cpu"), MultiVectorEncoder(str(folder), device="cpu")
    wanted = theirs.encode_query(TEXTS[:2], output_value=None)
    found = ours.encode_query(TEXTS[:2], output_value=None)
    assert [row.keys() for row in found] == [row.keys() for row in wanted]
    torch.testing.assert_close(found[0]["token_embeddings"], wanted[0]["token_embeddings"], rtol=0, atol=2e-6)


def test_token_vectors_of_a_dense_encoder_load_in_st(tmp_path: Path, st_bert: Path) -> None:
    dense = SentenceTransformer(str(st_bert), device="cpu")
    late = MultiVectorEncoder.from_dense(dense, device="cpu")
    rows = dense.encode(TEXTS[:3], output_value="token_embeddings")
    for one, other in zip(late.encode(TEXTS[:3]), rows, strict=True):
        torch.testing.assert_close(one, torch.nn.functional.normalize(other, dim=-1))
    late.save_pretrained(str(tmp_path / "late"))
    agree(rival.MultiVectorEncoder(str(tmp_path / "late"), device="cpu"), late)
    assert isinstance(late[1], MultiVectorMask)


@pytest.mark.parametrize(("name", "source"), [("ColPali", "tiny_paligemma"), ("ColQwen2", "tiny_qwen2_vl")])
def test_retrievers_of_transformers_read_pages_alike(
    name: str, source: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from PIL import Image

    folder = late_checkpoints.retriever(tmp_path / "model", request.getfixturevalue(source), name)
    theirs, ours = rival.MultiVectorEncoder(str(folder), device="cpu"), MultiVectorEncoder(str(folder), device="cpu")
    pages = [Image.new("RGB", (96, 64), "white"), Image.new("RGB", (64, 64), "gray")]
    ours.save_pretrained(str(tmp_path / "ours"))
    again = rival.MultiVectorEncoder(str(tmp_path / "ours"), device="cpu")
    for verb, items in (("encode_query", TEXTS[:2]), ("encode_document", pages)):
        wanted = getattr(theirs, verb)(items)
        for found in (getattr(ours, verb)(items), getattr(again, verb)(items)):
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    assert ours.get_embedding_dimension() == late_checkpoints.DIM
