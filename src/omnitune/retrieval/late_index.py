"""Late interaction over a corpus: token vectors on disk, found in two stages or exactly.

Stage one compares a query with a few pooled vectors a document (or takes candidates that another index found); stage
two computes MaxSim on the candidates alone. Exact search computes it on all. Documents are packed: one costs its own
tokens, never the longest one's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.retrieval.arrays import Array, offsets_of
from omnitune.retrieval.base import MISSING, SegmentedIndex, best_rows
from omnitune.retrieval.packed import Packed, maxsim_blocks, pool_tokens
from omnitune.retrieval.segments import Part, Segments
from omnitune.retrieval.token_codec import Codec, TokenCodec

POOLED = 32
"""Pooled vectors a document, for stage one: among 10,000 pages of 1,030 vectors they put all of the ten best among 256
candidates, 16 put 96 of 100 there (docs/late-interaction.md)."""

CANDIDATES = 256
"""Documents of a query that stage two compares."""

_TABLES = ("centroids", "cuts", "weights")


class LateIndex(SegmentedIndex):
    """Token vectors of documents, compared by MaxSim.

    Args:
        segments, prefix, made_by: As in `SegmentedIndex`.
        codec: How token vectors are kept: "float32", "float16", "int8", "residual4", "residual2" or "binary"; see
            `token_codec`. A residual codec learns its centroids from the first documents that are added.
        pooled: Pooled vectors a document for stage one; 0 keeps none, and then search is exact unless candidates are
            given.
        expected: Token vectors that there will be in all, where it is known; sets the number of centroids.

    Example:
        >>> index = LateIndex(codec="residual4")
        >>> index.add([{"id": "a.pdf#1"}], [np.ones((700, 128))])
        >>> index.search([np.ones((12, 128))], top_k=1)[0][0].entry
        {'id': 'a.pdf#1'}
    """

    kind = "late"

    def __init__(
        self,
        segments: Segments | None = None,
        *,
        prefix: str = "",
        made_by: Mapping[str, str] | None = None,
        codec: Codec = "float16",
        pooled: int = POOLED,
        expected: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(
            segments, prefix=prefix, made_by=made_by, codec=codec, pooled=pooled, expected=expected, dim=dim
        )
        self.codec: TokenCodec | None = None if dim is None else TokenCodec(codec, dim)
        if dim is None and codec:
            TokenCodec(codec, 1)  # refuses an unknown name now, not at the first document

    def rows_in(self, rows: Any) -> int:
        """Count the documents."""
        return len(rows)

    def pack(self, rows: Sequence[Any] | Packed) -> dict[str, Array]:
        """The arrays that stand for documents.

        Args:
            rows: Token vectors `(tokens, dim)` of every document, arrays or tensors, or `Packed`.

        Raises:
            ShapeError: They are no token vectors, or of another dimension than the index's.
        """
        packed = Packed.of(rows).finite()
        if packed.offsets is None or packed.indices is not None:
            raise ShapeError(f"rows: expected token vectors (tokens, dim) a document, got shape {packed.values.shape}")
        if self.settings["dim"] not in (None, packed.dim):
            raise ShapeError(
                f"rows: expected vectors of {self.settings['dim']} dimensions as in the index, got {packed.dim}"
            )
        codec = self._codec(packed.dim)
        vectors = np.asarray(packed.values, dtype=np.float32)
        if not codec.ready:
            codec.fit(vectors, expected=self.settings["expected"])
        with np.errstate(over="ignore"):
            made = codec.encode(vectors)
        for name in made.keys() & {
            "values",
            "scales",
        }:  # what half precision cannot hold would lose its page in silence
            Packed(values=made[name], offsets=packed.offsets, dim=packed.dim).finite(
                f"rows as {self.settings['codec']}"
            )
        arrays: dict[str, Array] = {"tokens": made["values"], "tokens_offsets": packed.offsets}
        if "scales" in made:
            arrays["scales"] = made["scales"]
        if "centroids" in made:
            arrays["codes"] = made["centroids"]
        # The tables travel with every segment (at most some MB), so that a segment can be read by itself.
        arrays |= {f"table_{name}": codec.tables[name] for name in _TABLES if name in codec.tables}
        if self.settings["pooled"]:
            pooled, offsets = pool_tokens(vectors, packed.offsets, self.settings["pooled"])
            short = TokenCodec("int8", packed.dim).encode(pooled.numpy())
            arrays |= {"pooled": short["values"], "pooled_scales": short["scales"], "pooled_offsets": offsets.numpy()}
        return {self.prefix + name: array for name, array in arrays.items()}

    def _codec(self, dim: int) -> TokenCodec:
        if self.codec is None or self.codec.dim != dim:
            self.codec, self.settings["dim"] = TokenCodec(self.settings["codec"], dim), dim
        if not self.codec.ready and self.segments.parts:
            held = self._arrays(self.segments.parts[0])
            self.codec.tables = {name: np.array(held[f"table_{name}"]) for name in _TABLES if f"table_{name}" in held}
        return self.codec

    def _arrays(self, part: Part) -> dict[str, Array]:
        start = len(self.prefix)
        return {name[start:]: array for name, array in part.arrays.items() if name.startswith(self.prefix)}

    def scores(
        self,
        queries: Any,
        allowed: NDArray[np.bool_],
        *,
        candidates: int = CANDIDATES,
        exact: bool = False,
        rows: Sequence[NDArray[np.int64]] | None = None,
    ) -> Iterable[NDArray[np.float32]]:
        """MaxSim scores of every query.

        Args:
            queries: Token vectors `(tokens, dim)` of every query. A token counts with its vector's length.
            allowed: Rows that may be found.
            candidates: Documents of a query that stage two compares.
            exact: Compare with every document.
            rows: Candidates of every query that another index found, instead of stage one.

        Returns:
            Scores `(size,)` of every query; `MISSING` for documents that were no candidates.

        Raises:
            ShapeError: The queries are of another dimension than the index.
            InputError: `candidates` is not positive.
        """
        asked = Packed.of(queries if isinstance(queries, Packed) else list(queries), "float32")
        if candidates < 1:
            raise InputError(f"candidates: expected at least 1, got {candidates}")
        if asked.offsets is None or (self.segments.parts and asked.dim != self.settings["dim"]):
            raise ShapeError(
                f"queries: expected token vectors (tokens, {self.settings['dim']}) each, got {asked.values.shape}"
            )
        if not self.segments.parts:
            return [np.zeros(0, dtype=np.float32)] * len(asked)
        if rows is None and (exact or not self.settings["pooled"] or candidates >= int(allowed.sum())):
            made = np.concatenate([self._all(asked, part) for part in self.segments.parts], axis=1)
            made[:, ~allowed] = MISSING
            return list(made)
        if rows is None:
            rows = self.propose(asked, allowed, candidates)
        return [self._chosen(asked[number], allowed, chosen) for number, chosen in enumerate(rows)]

    def vectors_of(self, part: Part, row: int) -> NDArray[np.float32]:
        """The token vectors of a row of a segment `(tokens, dim)`, decoded."""
        held = self._arrays(part)
        here = slice(int(held["tokens_offsets"][row]), int(held["tokens_offsets"][row + 1]))
        arrays = {name: array[here] for name, array in _tokens(held).items()}
        return self._codec(self.settings["dim"]).decode(arrays).numpy().astype(np.float32)

    def propose(self, queries: Any, allowed: NDArray[np.bool_], candidates: int) -> list[NDArray[np.int64]]:
        """Stage one: the rows of every query whose pooled vectors are closest, in the order of the index."""
        asked = Packed.of(queries if isinstance(queries, Packed) else list(queries), "float32")
        if not self.segments.parts:
            return [np.zeros(0, dtype=np.int64)] * len(asked)
        if not self.settings["pooled"] or candidates >= int(allowed.sum()):
            return [np.flatnonzero(allowed)] * len(asked)
        rough = np.concatenate([self._pooled(asked, part) for part in self.segments.parts], axis=1)
        rough[:, ~allowed] = MISSING
        return [np.sort(best_rows(one, candidates)) for one in rough]

    def vectors(self, row: int) -> Tensor:
        """Token vectors of a document `(tokens, dim)` float32, as its codec kept them."""
        part, at = self.segments.place(row)
        held = self._arrays(part)
        here = slice(*(int(end) for end in held["tokens_offsets"][at : at + 2]))
        codec = self._codec(self.settings["dim"])
        return codec.decode({name: array[here] for name, array in _tokens(held).items()})

    def _all(self, asked: Packed, part: Part) -> NDArray[np.float32]:
        held, codec = self._arrays(part), self._codec(self.settings["dim"])
        offsets = held["tokens_offsets"]

        def decode(first: int, last: int) -> Tensor:
            here = slice(int(offsets[first]), int(offsets[last]))
            return codec.decode({name: array[here] for name, array in _tokens(held).items()}, scaled=False)

        assert asked.offsets is not None
        scales = held["scales"].astype(np.float32) if "scales" in held else None
        return maxsim_blocks(torch.from_numpy(asked.values), asked.offsets, decode, offsets, scales)

    def _pooled(self, asked: Packed, part: Part) -> NDArray[np.float32]:
        held = self._arrays(part)
        pooled, offsets = torch.from_numpy(held["pooled"]), held["pooled_offsets"]
        # Indexes of before have half precision there, without scales.
        scales = held["pooled_scales"].astype(np.float32) if "pooled_scales" in held else None
        assert asked.offsets is not None
        return maxsim_blocks(
            torch.from_numpy(asked.values),
            asked.offsets,
            lambda first, last: pooled[int(offsets[first]) : int(offsets[last])].float(),
            offsets,
            scales,
        )

    def _chosen(self, query: Array, allowed: NDArray[np.bool_], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of all rows `(size,)` with MaxSim for the chosen ones."""
        made = np.full(len(allowed), MISSING, dtype=np.float32)
        rows = np.asarray(rows, dtype=np.int64)
        rows = rows[allowed[rows]]
        starts, codec = self.segments.starts(), self._codec(self.settings["dim"])
        vectors = torch.from_numpy(np.ascontiguousarray(query))
        for number, part in enumerate(self.segments.parts):
            here = rows[(rows >= starts[number]) & (rows < starts[number + 1])]
            if not len(here):
                continue
            held = self._arrays(part)
            tokens = held["tokens_offsets"]
            starts_of, stops = tokens[here - starts[number]], tokens[here - starts[number] + 1]
            parts = _tokens(held)
            some = [slice(int(a), int(b)) for a, b in zip(starts_of, stops, strict=True)]
            kept = parts.pop("scales", None)
            scales = None if kept is None else np.concatenate([kept[one] for one in some]).astype(np.float32)
            offsets = offsets_of(stops - starts_of)
            own = np.array([0, len(vectors)])
            scores = maxsim_blocks(vectors, own, _reader(codec, parts, some, offsets), offsets, scales)
            made[here] = scores[0]
        return made


def _tokens(held: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of a segment that stand for its token vectors, by the codec's names."""
    names = {"values": "tokens", "scales": "scales", "centroids": "codes"}
    return {name: held[stored] for name, stored in names.items() if stored in held}


def _reader(
    codec: TokenCodec, held: Mapping[str, Array], places: Sequence[slice], offsets: NDArray[np.int64]
) -> Callable[[int, int], Tensor]:
    """Return what reads the token vectors of the documents from number `first` to `last`, without their scales.

    Args:
        codec: Of the vectors.
        held: Arrays of a segment.
        places: Where the vectors of each document are in them.
        offsets: Where each document would start if they followed one another, and the end `(documents + 1,)`.
    """
    block = torch.empty(0)

    def read(first: int, last: int) -> Tensor:
        # Whole slices are copied; picking vectors one by one costs more than their products.
        if not codec.plain:
            arrays = {name: np.concatenate([array[one] for one in places[first:last]]) for name, array in held.items()}
            return codec.decode(arrays, scaled=False)
        # One buffer for all blocks: it stays in the processor's cache, and new memory is dear at its first touch.
        nonlocal block
        count = int(offsets[last] - offsets[first])
        if len(block) < count:
            block = torch.empty(count, codec.dim)
        for one, start in zip(places[first:last], (offsets[first:last] - offsets[first]).tolist(), strict=True):
            block[start : start + one.stop - one.start].copy_(torch.from_numpy(held["values"][one]))
        return block[:count]

    return read
