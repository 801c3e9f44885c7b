"""Dense vectors over a corpus: exact search, one vector a row or one a window of it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from omnitune.errors import InputError, ShapeError
from omnitune.ops.similarity import SimilarityFunction
from omnitune.retrieval.arrays import Array, offsets_of
from omnitune.retrieval.base import MISSING, SegmentedIndex
from omnitune.retrieval.packed import Packed, maxsim_blocks
from omnitune.retrieval.segments import Part, Segments


class DenseIndex(SegmentedIndex):
    """Vectors of documents; a document of several windows scores as its best one.

    Args:
        segments, prefix, made_by: As in `SegmentedIndex`.
        similarity: "cosine" (vectors are scaled to unit length when they are added), "dot", "euclidean" or "manhattan".
        dtype: Number format on disk, "float32" or "float16".

    Example:
        >>> index = DenseIndex()
        >>> index.add([{"id": "a"}, {"id": "b"}], np.eye(2))
        >>> [hit.entry["id"] for hit in index.search(np.array([[0.1, 0.9]]))[0]]
        ['b', 'a']
    """

    kind = "dense"

    def __init__(
        self,
        segments: Segments | None = None,
        *,
        prefix: str = "",
        made_by: Mapping[str, str] | None = None,
        similarity: str = "cosine",
        dtype: str = "float32",
    ) -> None:
        super().__init__(segments, prefix=prefix, made_by=made_by, similarity=similarity, dtype=dtype)
        if dtype not in ("float32", "float16"):
            raise InputError(f"dtype: expected float32 or float16, got {dtype!r}")
        self.compare = SimilarityFunction.to_similarity_fn(similarity)

    def pack(self, rows: Any) -> dict[str, Array]:
        """The arrays that stand for documents.

        Args:
            rows: `(documents, dim)`, or the windows' vectors `(windows, dim)` of every document.
        """
        packed = Packed.of(rows, "float32").finite()
        offsets = np.arange(len(packed) + 1) if packed.offsets is None else packed.offsets
        values = packed.values
        if self.settings["similarity"] == "cosine":
            values = F.normalize(torch.from_numpy(np.ascontiguousarray(values)), dim=1).numpy()
        with np.errstate(over="ignore"):
            values = values.astype(self.settings["dtype"])
        Packed(values=values, offsets=packed.offsets, dim=packed.dim).finite(f"rows as {values.dtype}")
        return {
            f"{self.prefix}vectors": values,
            f"{self.prefix}vectors_offsets": offsets.astype(np.int64),
        }

    def vectors_of(self, part: Part, row: int) -> NDArray[np.float32]:
        """The vectors of a row of a segment `(windows, dim)`."""
        offsets = part.arrays[f"{self.prefix}vectors_offsets"]
        held = part.arrays[f"{self.prefix}vectors"][int(offsets[row]) : int(offsets[row + 1])]
        return np.asarray(held, dtype=np.float32)

    def scores(self, queries: Any, allowed: NDArray[np.bool_]) -> Iterable[NDArray[np.float32]]:
        """Similarity of every query `(queries, dim)` to the best vector of every row.

        Raises:
            ShapeError: The queries are of another dimension than the index.
        """
        asked = torch.from_numpy(np.ascontiguousarray(Packed.of(queries, "float32").finite("queries").values))
        made = [np.zeros((len(asked), 0), dtype=np.float32)]
        cosine = self.settings["similarity"] == "cosine"
        asked = F.normalize(asked, dim=1) if cosine else asked
        for part in self.segments.parts:
            vectors = torch.from_numpy(part.arrays[f"{self.prefix}vectors"])
            offsets = part.arrays[f"{self.prefix}vectors_offsets"]
            if vectors.shape[1] != asked.shape[1]:
                raise ShapeError(
                    f"queries: expected {vectors.shape[1]} dimensions as in the index, got {asked.shape[1]}; search "
                    "with the model that made the index, or make it again"
                )
            if (cosine or self.settings["similarity"] == "dot") and len(vectors) == len(part):
                made.append((asked @ vectors.float().T).numpy())  # one vector a row: no maximum to take
            elif cosine or self.settings["similarity"] == "dot":

                def decode(first: int, last: int, held: torch.Tensor = vectors, at: Array = offsets) -> torch.Tensor:
                    return held[int(at[first]) : int(at[last])].float()

                made.append(maxsim_blocks(asked, offsets_of([1] * len(asked)), decode, offsets))
            else:
                similar = self.compare(asked, vectors.float()).numpy()
                made.append(np.maximum.reduceat(similar, offsets[:-1], axis=1).astype(np.float32))
        joined = np.concatenate(made, axis=1)
        joined[:, ~allowed] = MISSING
        return list(joined)
