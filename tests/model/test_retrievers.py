"""Every `*ForRetrieval` class of the installed transformers: what they encode by their own processor and forward."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from fixtures import late_checkpoints
from omnitune import MultiVectorEncoder
from omnitune.model.interpretability import get_n_patches, similarity_map

SOURCES = {
    "ColModernVBert": "tiny_smolvlm", "ColPali": "tiny_paligemma", "ColQwen2": "tiny_qwen2_vl", "NeoMME": None,
}  # fmt: skip
QUERIES = ["a page", "the table shows names and numbers"]
NOISE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
PAGES = [Image.new("RGB", (96, 64), "white"), Image.fromarray(NOISE), Image.fromarray(NOISE[:, :64])]


def own_forward(folder: Path, name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Queries' and pages' vectors by transformers alone."""
    model = getattr(transformers, f"{name}ForRetrieval").from_pretrained(folder).eval()
    processor: Any = transformers.AutoProcessor.from_pretrained(folder)
    if name == "NeoMME":
        batches = []
        for kind, task, items in (("text", "query", QUERIES), ("image", "document", PAGES)):
            talks = [[{"role": "user", "content": [{"type": kind, kind: item}]}] for item in items]
            sizes = {"text_kwargs": {"padding": True}}
            options = {"task": task, "return_dict": True, "return_tensors": "pt", "processor_kwargs": sizes}
            batches.append(processor.apply_chat_template(talks, tokenize=True, **options))
    else:
        padding = {"padding": True, "return_tensors": "pt"}
        batches = [processor.process_queries(QUERIES, **padding), processor.process_images(PAGES, **padding)]
    with torch.no_grad():
        queries, pages = (
            [row[mask.bool()] for row, mask in zip(model(**b).embeddings, b["attention_mask"], strict=True)]
            for b in batches
        )
    return queries, pages


def test_these_are_all() -> None:
    suffix = "ForRetrieval"
    assert {name.removesuffix(suffix) for name in dir(transformers) if name.endswith(suffix)} == {*SOURCES}


@pytest.mark.parametrize("name", SOURCES)
def test_vectors_are_those_of_their_own_forward(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = SOURCES[name]
    backbone = tmp_path if source is None else request.getfixturevalue(source)
    folder = late_checkpoints.retriever(tmp_path / "model", backbone, name)
    wanted = own_forward(folder, name)
    model = MultiVectorEncoder(str(folder), device="cpu")
    assert model.get_embedding_dimension() == late_checkpoints.DIM
    model.save_pretrained(str(tmp_path / "saved"))
    for encoder in (model, MultiVectorEncoder(str(tmp_path / "saved"), device="cpu")):
        found = encoder.encode_query(QUERIES), encoder.encode_document(PAGES)
        for rows, others in zip(found, wanted, strict=True):
            for one, other in zip(rows, others, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    columns, rows = get_n_patches(model, PAGES[1].size)
    assert similarity_map(model, QUERIES[1], PAGES[1]).shape[1:] == (rows, columns)
