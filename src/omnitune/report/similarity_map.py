"""Similarity maps drawn: over a page's image, and over the words of a text."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnitune.errors import InputError, ShapeError

__all__ = ["maxsim_heatmap", "render_similarity_map_on_image", "render_text_matches"]


def render_similarity_map_on_image(
    image: Image.Image | str,
    similarity_map: Any,
    alpha: float = 0.5,
    normalization_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Lay a map over an image: dark where nothing is similar, bright where much is.

    Args:
        image: The image, or its path.
        similarity_map: `(rows, columns)`, a tensor or an array.
        alpha: How much the map covers, from 0 to 1.
        normalization_range: Similarities of the darkest and the brightest; None takes the map's own.

    Returns:
        An image of the same size, RGBA.

    Raises:
        ShapeError: The map has not two dimensions.
    """
    values = _array(similarity_map)
    if values.ndim != 2:
        raise ShapeError(f"similarity_map: expected (rows, columns), got {values.shape}")
    from matplotlib import colormaps

    page = Image.open(image) if isinstance(image, str) else image
    low, high = normalization_range or (float(values.min()), float(values.max()))
    scaled = np.clip((values - low) / (high - low + 1e-10), 0, 1)
    # Enlarged before it is coloured: colours between two colours need not be on the scale.
    large = Image.fromarray((scaled * 255).astype(np.uint8)).resize(page.size, Image.Resampling.BICUBIC)
    colours = (colormaps["viridis"](np.asarray(large)) * 255).astype(np.uint8)
    colours[..., 3] = int(alpha * 255)
    return Image.alpha_composite(page.convert("RGBA"), Image.fromarray(colours))


def maxsim_heatmap(
    image: Image.Image | str, similarity_map: Any, aggregate: str = "sum", alpha: float = 0.5
) -> Image.Image | list[Image.Image]:
    """Lay the maps of several query tokens over an image.

    Args:
        image: The image, or its path.
        similarity_map: `(query tokens, rows, columns)`, from `similarity_map`.
        aggregate: "sum" and "amax" make one map of all; "none" draws each, on one scale.
        alpha: How much the map covers.

    Raises:
        InputError: `aggregate` is another.
    """
    values = _array(similarity_map)
    if aggregate == "none":
        ends = float(values.min()), float(values.max())
        return [render_similarity_map_on_image(image, one, alpha, ends) for one in values]
    if aggregate not in ("sum", "amax"):
        raise InputError(f'aggregate: expected "sum", "amax" or "none", got {aggregate!r}')
    return render_similarity_map_on_image(image, values.sum(0) if aggregate == "sum" else values.max(0), alpha)


def render_text_matches(query_tokens: Sequence[str], document_tokens: Sequence[str], similarities: Any) -> str:
    """HTML of a text whose tokens are the darker the closer a query token is; a token's title names that one.

    Args:
        query_tokens: The query's.
        document_tokens: The text's.
        similarities: `(query tokens, document tokens)`.
    """
    values = _array(similarities)
    best, which = values.max(axis=0), values.argmax(axis=0)
    low, high = float(best.min()), float(best.max())
    made = []
    for token, value, asked in zip(document_tokens, best, which, strict=True):
        strength = (float(value) - low) / (high - low + 1e-10)
        title = html.escape(f"{query_tokens[int(asked)]}: {float(value):.2f}", quote=True)
        word = html.escape(token.replace("##", "").replace("\u0120", " ").replace("\u2581", " "))
        space = "" if token.startswith("##") else " "
        made.append(f'{space}<span title="{title}" style="background:rgba(255,170,0,{strength:.2f})">{word}</span>')
    return f'<p class="text-matches">{"".join(made).strip()}</p>'


def _array(values: Any) -> NDArray[np.float32]:
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float32)
