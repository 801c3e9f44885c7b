"""Texts of pages as windows, each encoded once: its vector and the vectors of its tokens come from one forward."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnitune.errors import InputError, MissingExtraError
from omnitune.finetune.choose import ModelChoice, text_embedder
from omnitune.finetune.measure import Matrix, unit
from omnitune.model.dense import SentenceTransformer
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.model.windows import window_cutter
from omnitune.modules.token_weights import TokenWeights
from omnitune.places import is_embedded
from omnitune.retrieval.arrays import read_arrays, write_arrays
from omnitune.retrieval.packed import Packed, grouped
from omnitune.retrieval.store import encode_corpus, identity
from omnitune.retrieval.token_vectors import TokenVectors
from omnitune.training.late_head import LateHead

logger = logging.getLogger(__name__)

LARGE = 300_000_000
"""Parameters from which a model is too dear to encode every window of text with it."""

OVERLAP = 0.1
"""Share of a window that the next one repeats. Windows end where sentences do, and every repeated token is encoded and
kept twice."""

CHUNK = 512
"""Windows between two writes of the store: what a stop can lose."""


_TRANSFORMED = 100_000
"""Token vectors that go through a head at a time."""


class BothOf(TokenVectors):
    """Token vectors of a window and, as its last row, the vector of the window: one forward serves two stages."""

    def encode_document(self, inputs: Sequence[Any], **options: Any) -> list[Any]:
        """Token vectors of every window, and its own vector after them `(tokens + 1, dim)`."""
        made = self.model.encode_document(list(inputs), output_value=None, **options)
        tokens = [one["token_embeddings"].float().cpu().numpy()[: int(one["attention_mask"].sum())] for one in made]
        kept = self.said(inputs, list(map(len, tokens)))
        return [
            np.concatenate([unit(rows[mask]), unit(one["sentence_embedding"].float().cpu().numpy()[None])])
            for rows, mask, one in zip(tokens, kept, made, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Encoded windows of some pages, grouped by page.

    Attributes:
        dense: Vectors of the windows.
        tokens: Vectors of their tokens.
    """

    dense: Packed
    tokens: Packed

    @property
    def first(self) -> Matrix:
        """Vector of every page's first window `(pages, dim)` float32."""
        assert self.dense.offsets is not None, "windows are ragged"
        return np.asarray(self.dense.values[self.dense.offsets[:-1]], dtype=np.float32)


def cut_pages(model: SentenceTransformer, texts: Sequence[str], overlap: float = OVERLAP) -> list[list[str]]:
    """The windows of every text, at least one, as a model reads them."""
    cut = window_cutter(model, prompt=(model.prompts or {}).get("document"), overlap=overlap)
    return [cut(text) for text in texts]


def text_reader(chosen: ModelChoice) -> tuple[SentenceTransformer | None, bool]:
    """The model that reads texts whole, and whether it is the run's own before finetuning.

    Otherwise it is MiniLM, where the run's own takes no text or is large; None where that is not installed.
    """
    if not is_embedded(chosen.name):
        model = chosen.load()
        if model.supports("text") and sum(weight.numel() for weight in model.parameters()) < LARGE:
            return model, True
    try:
        model = text_embedder()
    except MissingExtraError as error:
        logger.warning("No dense stages over texts: %s", error)
        return None, False
    if is_embedded(chosen.name):
        model.max_seq_length = chosen.recipe.model.get("max_seq_length") or model.max_seq_length
    return model, is_embedded(chosen.name)


def unread_share(pages: Sequence[Sequence[str]], texts: Sequence[str]) -> float:
    """Share of the letters of some pages that lie behind their first windows: what a model alone would not read."""
    whole = sum(map(len, texts))
    return 0.0 if not whole else 1 - sum(len(windows[0]) for windows in pages) / whole


def encode_windows(
    model: SentenceTransformer, pages: Sequence[Sequence[str]], folder: Path, *, batch_size: int
) -> Windows:
    """Encode windows of pages (`cut_pages`), of which those that the store in `folder` has cost nothing."""
    flat = [window for windows in pages for window in windows]
    made = encode_corpus(
        BothOf(model),
        flat,
        folder,
        label="Encoding whole pages",
        unit="window",
        chunk_size=CHUNK,
        dtype="float16",
        weights=identity(model),
        batch_size=batch_size,
    )
    assert made.offsets is not None, "token vectors are ragged"
    last = np.zeros(len(made.values), dtype=bool)
    last[made.offsets[1:] - 1] = True
    windows = Packed(values=made.values[last], dim=made.dim)
    shorter = made.offsets - np.arange(len(made.offsets))
    tokens = Packed(values=made.values[~last], offsets=shorter, dim=made.dim)
    counts = list(map(len, pages))
    return Windows(dense=grouped(windows, counts), tokens=grouped(tokens, counts))


def with_head(untrained: TokenVectors, head: LateHead) -> MultiVectorEncoder | None:
    """A late-interaction encoder of a model's token vectors through a head; None where it is no single encoder."""
    try:
        encoder = MultiVectorEncoder.from_dense(untrained.model)
    except InputError as error:
        logger.info("No head: %s", error)
        return None
    prompted = bool((untrained.prompts or {}).get("document"))
    return head.on(encoder, skiplist_words=() if prompted else untrained.mute_words)


def through_head(tokens: Packed, head: LateHead) -> Packed:
    """Kept token vectors of documents as an encoder with a head gives them, in half precision."""
    made = np.empty((len(tokens.values), len(head.projection)), dtype=np.float16)
    for first in range(0, len(made), _TRANSFORMED):
        some = torch.from_numpy(np.array(tokens.values[first : first + _TRANSFORMED], dtype=np.float32))
        made[first : first + _TRANSFORMED] = torch.nn.functional.normalize(some @ head.projection.T, dim=-1).numpy()
    return Packed(values=made, offsets=tokens.offsets, dim=made.shape[1])


def save_head(head: LateHead, file: Path) -> None:
    """Write a head as safetensors."""
    weights = {} if head.weights is None else head.weights.state_dict()
    arrays = {"projection": head.projection, **{f"weights.{name}": value for name, value in weights.items()}}
    write_arrays(file, {name: value.cpu().numpy() for name, value in arrays.items()}, {"scale": str(head.scale)})


def load_head(file: Path) -> LateHead:
    """Read a head that `save_head` wrote.

    Raises:
        InputError: The file is damaged.
    """
    found = read_arrays(file)
    if found is None:
        raise InputError(
            f"{file}: expected the head that this run trained, got a damaged file; delete it and run again"
        )
    arrays, facts = found
    held = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    projection = held.pop("projection")
    weights = None
    if held:
        weights = TokenWeights(len(projection))
        weights.load_state_dict({name.removeprefix("weights."): value for name, value in held.items()})
    return LateHead(projection, weights, float(facts["scale"]))
