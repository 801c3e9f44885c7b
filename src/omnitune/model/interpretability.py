"""Places where a query's tokens met a document: over the patches of a page image, and over the tokens of a text.

Numbers come from here; `report.similarity_map` draws them.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.modules.transformer import Transformer

__all__ = [
    "TextMatches",
    "get_n_patches",
    "maxsim_similarity_map",
    "patch_order",
    "real_query_token_slice",
    "similarity_map",
    "text_matches",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMatches:
    """Tokens of a text that each query token is close to.

    Attributes:
        query_tokens: The tokenizer's pieces of the query, markers, expansion and special tokens left out.
        document_tokens: Those of the document that are scored.
        similarities: `(query tokens, document tokens)`.
    """

    query_tokens: list[str]
    document_tokens: list[str]
    similarities: Tensor

    @property
    def winners(self) -> list[tuple[str, str, float]]:
        """For every query token, the document token that won and its similarity."""
        best = self.similarities.max(dim=1)
        pairs = zip(self.query_tokens, best.indices.tolist(), best.values.tolist(), strict=True)
        return [(token, self.document_tokens[place], value) for token, place, value in pairs]


def real_query_token_slice(model: MultiVectorEncoder, query: str) -> slice:
    """The part of a query's vectors that stands for its words: markers, template and expansion left out.

    Args:
        model: A model with a `Transformer`.
        query: The query.

    Raises:
        InputError: There is no Transformer.
    """
    backbone = _backbone(model)
    rows = []
    for text in ("", query):
        rows.append(backbone.preprocess([text], model.prompts.get("query"), task="query")["input_ids"][0].tolist())
    empty, full = rows
    same = (i for i, (one, other) in enumerate(zip(empty, full, strict=False)) if one != other)
    first = next(same, min(len(empty), len(full)))
    if backbone.query_expansion is not None and backbone.tokenizer is not None:
        return slice(first, first + len(backbone.tokenizer(query, add_special_tokens=False)["input_ids"]))
    return slice(first, first + len(full) - len(empty))


def get_n_patches(model: MultiVectorEncoder, image_size: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of the grid of patches that an image becomes.

    Args:
        model: An encoder of images.
        image_size: Width and height in pixels, as `image.size` has them.

    Raises:
        InputError: The processor makes no grid that is known.
    """
    rows, columns = patch_order(model, image_size).shape
    return int(columns), int(rows)


def patch_order(model: MultiVectorEncoder, image_size: tuple[int, int]) -> Tensor:
    """For every patch `(rows, columns)`, which of the image's token vectors it is.

    Row by row in most backbones. Idefics3 and its kin cut an image into tiles, whose tokens come tile by tile and are
    followed by those of the whole image at low resolution; the map takes the tiles, or the whole where there are none.

    Args:
        model: An encoder of images.
        image_size: Width and height in pixels.

    Raises:
        InputError: The processor makes no grid that is known.
    """
    processor: Any = model.processor
    images: Any = getattr(processor, "image_processor", None)
    merge = getattr(images, "merge_size", None)
    if merge is not None:
        grid = images(images=[Image.new("RGB", image_size)], return_tensors="pt")["image_grid_thw"][0]
        return _row_by_row(int(grid[1]) // merge, int(grid[2]) // merge)
    if "image_grid_hw" in getattr(images, "model_input_names", ()):
        grid = images(images=[Image.new("RGB", image_size)], return_tensors="pt")["image_grid_hw"][0]
        return 1 + _row_by_row(int(grid[0]), int(grid[1]))  # NeoMME puts one more token of the image before its grid
    length = getattr(processor, "image_seq_length", None) or getattr(processor, "image_seq_len", None)
    side = math.isqrt(length) if isinstance(length, int) else 0
    if not side or side * side != length:
        raise InputError(
            f"model: expected a processor with a grid of patches, got {type(processor).__name__}; give n_patches to "
            "maxsim_similarity_map yourself"
        )
    if not getattr(images, "do_image_splitting", False):
        return _row_by_row(side, side)
    made = images(images=[[Image.new("RGB", image_size)]], return_row_col_info=True, return_tensors="pt")
    down, across = int(made["rows"][0][0]), int(made["cols"][0][0])
    if not down or not across:
        return _row_by_row(side, side)
    tiles = torch.arange(down * across * side * side).view(down, across, side, side)
    return tiles.transpose(1, 2).reshape(down * side, across * side)


def maxsim_similarity_map(
    query_embedding: Tensor,
    image_embedding: Tensor,
    n_patches: tuple[int, int],
    image_mask: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    """Similarity of every query token to every patch.

    Args:
        query_embedding: `(query tokens, dim)`.
        image_embedding: `(patches, dim)`, row by row; others are left out by `image_mask`.
        n_patches: Columns and rows, from `get_n_patches`.
        image_mask: True for vectors of patches.
        normalize: Put every query token's map between 0 and 1.

    Returns:
        `(query tokens, rows, columns)`, float32.

    Raises:
        ShapeError: There are not as many patches as the grid has.
    """
    patches = image_embedding if image_mask is None else image_embedding[image_mask.bool()]
    columns, rows = n_patches
    if len(patches) != columns * rows:
        raise ShapeError(
            f"image_embedding: expected {columns * rows} vectors for {rows} rows of {columns} patches, got "
            f"{len(patches)}; leave others out with image_mask, or encode with MultiVectorMask(keep_only_token_ids=...)"
        )
    found = (query_embedding @ patches.T).float()
    if normalize:
        low, high = found.amin(dim=1, keepdim=True), found.amax(dim=1, keepdim=True)
        found = (found - low) / (high - low + 1e-10)
    return found.view(-1, rows, columns)


def similarity_map(model: MultiVectorEncoder, query: str, image: Image.Image) -> Tensor:
    """Similarity of every word of a query to every patch of a page `(query tokens, rows, columns)`.

    Args:
        model: An encoder of images whose tokens of an image are all of one id, as in every backbone that is known.
        query: The query.
        image: The page.

    Raises:
        InputError: The model does not say which tokens are an image's.

    Example:
        >>> found = similarity_map(model, "hourly energy", page)  # doctest: +SKIP
        >>> found.amax(dim=0).shape  # doctest: +SKIP
        torch.Size([32, 32])
    """
    config = _backbone(model).config
    token = getattr(config, "image_token_id", None) or getattr(
        getattr(config, "vlm_config", None), "image_token_id", None
    )
    if token is None:
        raise InputError(f"model: expected a configuration with image_token_id, got {type(config).__name__}")
    asked = model.encode_query(query)[real_query_token_slice(model, query)]
    outputs = model.encode_document([image], output_value=None)[0]
    vectors = outputs["token_embeddings"][outputs["input_ids"] == token]
    order = patch_order(model, image.size).to(vectors.device)
    rows, columns = order.shape
    return maxsim_similarity_map(asked, vectors[order.flatten()], (columns, rows))


def text_matches(model: MultiVectorEncoder, query: str, document: str) -> TextMatches:
    """Find the tokens of a text that each token of a query is close to.

    Args:
        model: An encoder of text.
        query: The query.
        document: The text.

    Example:
        >>> text_matches(model, "oil change", "the oil is changed daily").winners  # doctest: +SKIP
        [('oil', 'oil', 0.91), ('change', 'changed', 0.78)]
    """
    part = real_query_token_slice(model, query)
    asked = model.encode_query([query], output_value=None)[0]
    found = model.encode_document([document], output_value=None)[0]
    scored = found["attention_mask"].bool()
    tokenizer = model.tokenizer
    return TextMatches(
        query_tokens=tokenizer.convert_ids_to_tokens(asked["input_ids"][part].tolist()),
        document_tokens=tokenizer.convert_ids_to_tokens(found["input_ids"][scored].tolist()),
        similarities=(asked["token_embeddings"][part] @ found["token_embeddings"][scored].T).float().cpu(),
    )


def _backbone(model: MultiVectorEncoder) -> Transformer:
    found = next((module for module in model if isinstance(module, Transformer)), None)
    if found is None:
        raise InputError(f"model: expected a Transformer among its modules, got {[type(m).__name__ for m in model]}")
    return found


def _row_by_row(rows: int, columns: int) -> Tensor:
    return torch.arange(rows * columns).view(rows, columns)
