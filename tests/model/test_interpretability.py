"""Similarity maps: the right patch is the bright one, tiles are put in their places, words know what they met."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fixtures import late_checkpoints
from omnitune import MultiVectorEncoder
from omnitune.errors import InputError, ShapeError
from omnitune.model.interpretability import (
    get_n_patches,
    maxsim_similarity_map,
    patch_order,
    real_query_token_slice,
    similarity_map,
    text_matches,
)
from omnitune.modules import MultiVectorMask, Normalize, Transformer
from omnitune.report.similarity_map import maxsim_heatmap, render_similarity_map_on_image, render_text_matches


def encoder(folder: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder(modules=[Transformer(str(folder)), MultiVectorMask(), Normalize("token_embeddings")])


def test_the_patch_that_differs_stands_out(tiny_qwen3_vl: Path) -> None:
    model = encoder(tiny_qwen3_vl)
    page = Image.new("RGB", (128, 96), "white")
    found = similarity_map(model, "a table", page)
    columns, rows = get_n_patches(model, page.size)
    assert found.shape[1:] == (rows, columns)
    assert found.shape[0] == len(model.tokenizer("a table", add_special_tokens=False)["input_ids"])
    picture = maxsim_heatmap(page, found, "amax")
    assert isinstance(picture, Image.Image)
    assert picture.size == page.size


def test_tiles_are_put_in_their_places(tiny_smolvlm: Path) -> None:
    model = encoder(tiny_smolvlm)
    size = (128, 64)
    order = patch_order(model, size)
    image_tokens = model.preprocess([Image.new("RGB", size)])["input_ids"][0]
    count = int((image_tokens == model[0].config.image_token_id).sum())
    side = int(model.processor.image_seq_len**0.5)
    assert sorted(order.flatten().tolist()) == list(range(count - side * side))  # all but the whole at the end
    assert order[0, :side].tolist() == list(range(side))
    assert order[0, side].item() == side * side  # the second tile begins right of the first
    assert similarity_map(model, "page", Image.new("RGB", size)).shape[1:] == order.shape


@pytest.mark.parametrize("more", [{}, {"query_expansion": {"strategy": "fixed", "length": 12}}])
def test_words_know_what_they_met(tmp_path: Path, tiny_bert: Path, more: dict[str, object], _st: None) -> None:
    model = MultiVectorEncoder(str(late_checkpoints.native(tmp_path / "model", tiny_bert, **more)), device="cpu")
    part = real_query_token_slice(model, "names")
    ids = model[0].preprocess(["names"], model.prompts["query"], task="query")["input_ids"][0][part]
    found = text_matches(model, "names", "a page of names.")
    assert found.query_tokens == model.tokenizer.convert_ids_to_tokens(ids.tolist())
    assert "." not in found.document_tokens
    assert found.similarities.shape == (len(found.query_tokens), len(found.document_tokens))
    assert [token for token, _, _ in found.winners] == found.query_tokens
    drawn = render_text_matches(found.query_tokens, found.document_tokens, found.similarities)
    assert drawn.count("<span") == len(found.document_tokens)
    assert "<script>" not in render_text_matches(["<script>"], ["<script>"], [[1.0]])


def test_a_map_by_hand_and_its_picture() -> None:
    query, patches = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    found = maxsim_similarity_map(query, patches, (2, 2), normalize=True)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1.0], [0.5, 0.0]]]))
    picture = np.asarray(render_similarity_map_on_image(Image.new("RGB", (40, 40), "black"), found[0], alpha=1.0))
    bright = picture[..., :3].astype(int).sum(axis=2)
    assert bright[:10, 30:].mean() > 2 * bright[:10, :10].mean()
    assert len(maxsim_heatmap(Image.new("RGB", (8, 8)), found, "none")) == 1


def test_what_cannot_be_drawn_is_said(tiny_bert: Path) -> None:
    with pytest.raises(ShapeError, match="expected 6 vectors for 2 rows of 3 patches, got 4"):
        maxsim_similarity_map(torch.ones(1, 2), torch.ones(4, 2), (3, 2))
    with pytest.raises(ShapeError, match=r"expected \(rows, columns\), got \(1, 2, 2\)"):
        render_similarity_map_on_image(Image.new("RGB", (8, 8)), torch.ones(1, 2, 2))
    with pytest.raises(InputError, match='aggregate: expected "sum", "amax" or "none", got \'mean\''):
        maxsim_heatmap(Image.new("RGB", (8, 8)), torch.ones(1, 2, 2), "mean")
    with pytest.raises(InputError, match="expected a processor with a grid of patches"):
        patch_order(encoder(tiny_bert), (8, 8))
    with pytest.raises(InputError, match="expected a configuration with image_token_id"):
        similarity_map(encoder(tiny_bert), "a", Image.new("RGB", (8, 8)))
