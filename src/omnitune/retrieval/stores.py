"""The vectors of a retriever in a database: LanceDB in a folder, or a Qdrant server.

Every page keeps all its vectors, windows of a dense stage and tokens of a late one, and both stores compare them as the
retriever does: the best page vector for each query vector, added up. So an exact search gives the retriever's own
pages and scores of that stage. What a database adds is filters beside other data, approximate search of more pages than
fit here, and its own search for words, fused with the vectors by ranks.
"""

import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune import runtime
from omnitune.errors import EndpointError, InputError
from omnitune.ops.bm25 import words
from omnitune.retrieval.dense_index import DenseIndex
from omnitune.retrieval.late_index import LateIndex
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.segments import Where
from omnitune.strict_json import json_text

Matrix = NDArray[np.float32]
Scored = tuple[str, float]
TABLE = "pages"
AT_ONCE = 64
"""Pages written together."""

_COLUMNS = ("id", "document", "page", "label")
"""Values of a page that a LanceDB table has as columns, so that filters can read them."""

_OURS = "omnitune"
"""Mark of a table or of a point that `write` made; what has none is somebody else's."""

_KEPT = "it is left as it is; name another place"

_K1, _B = 1.2, 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPage:
    """One page as a store keeps it.

    Attributes:
        id: Of the page.
        entry: Its values, JSON.
        text: Its text.
        vectors: `(vectors, dim)` of every stage that has some.
    """

    id: str
    entry: Mapping[str, Any]
    text: str
    vectors: Mapping[str, Matrix]


def vector_stages(retriever: Retriever) -> dict[str, DenseIndex | LateIndex]:
    """The stages whose vectors a store can keep.

    Raises:
        InputError: There is none.
    """
    found = {k: v for k, v in retriever.indexes.items() if isinstance(v, DenseIndex | LateIndex)}
    if not found:
        raise InputError(f"RUN: expected a retriever with vectors, got the stages {list(retriever.stages)}")
    return found


def stored_pages(retriever: Retriever) -> Iterator[StoredPage]:
    """The pages of a retriever, one after another."""
    stages = vector_stages(retriever)
    for part in retriever.segments.parts:
        for row in np.flatnonzero(part.alive).tolist():
            entry = part.entry(row)
            entry.pop("content", None)
            vectors = {kind: index.vectors_of(part, row) for kind, index in stages.items()}
            yield StoredPage(
                id=str(entry["id"]), entry=entry, text=str(part.details(row).get("text", "")), vectors=vectors
            )


class LanceStore:
    """A LanceDB table in a folder.

    Args:
        folder: Of the database.

    Raises:
        MissingExtraError: LanceDB is not installed.
    """

    name = "lancedb"

    def __init__(self, folder: str | Path) -> None:
        lancedb = runtime.require("lancedb", extra="lancedb")
        self.folder = Path(folder)
        self.database = lancedb.connect(str(folder))

    @property
    def table(self) -> Any:
        """The table.

        Raises:
            InputError: Nothing was written yet.
        """
        if not (self.folder / f"{TABLE}.lance").is_dir():
            raise InputError(f"store: expected a table {TABLE!r} in {self.folder}, got none; omnitune index writes it")
        return self.database.open_table(TABLE)

    def write(self, retriever: Retriever) -> int:
        """Replace what is there by the pages of a retriever, and count them."""
        import pyarrow as pa

        dims = {kind: _dim(retriever, kind) for kind in vector_stages(retriever)}
        kinds = {kind: pa.list_(pa.list_(pa.float32(), dim)) for kind, dim in dims.items()}
        text = pa.string()
        fields = [
            ("id", text),
            ("document", text),
            ("page", pa.int64()),
            ("label", text),
            ("text", text),
            ("entry", text),
        ]
        schema = pa.schema([*fields, *kinds.items()], metadata={_OURS: "1"})
        if (self.folder / f"{TABLE}.lance").is_dir() and _OURS.encode() not in (self.table.schema.metadata or {}):
            raise InputError(
                f"store: expected a folder without a table {TABLE!r} of others, got {self.folder}; {_KEPT}"
            )
        count = 0

        def batches() -> Iterator[Any]:
            nonlocal count
            for some in _chunks(stored_pages(retriever)):
                count += len(some)
                columns: dict[str, Any] = {name: [one.entry.get(name) for one in some] for name in _COLUMNS}
                columns["label"] = [None if value is None else str(value) for value in columns["label"]]
                columns["text"] = [one.text for one in some]
                columns["entry"] = [json_text(one.entry, one.id, default=str) for one in some]
                for kind, dim in dims.items():
                    rows = [one.vectors[kind] for one in some]
                    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int32)
                    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows).ravel()), dim)
                    columns[kind] = pa.ListArray.from_arrays(pa.array(offsets), flat)
                yield pa.RecordBatch.from_pydict(columns, schema=schema)

        self.database.create_table(TABLE, batches(), schema=schema, mode="overwrite")
        from lancedb.index import FTS

        self.table.create_index("text", config=FTS(stem=False, remove_stop_words=False))
        return count

    def make_index(self, stage: str, kind: str = "IVF_PQ") -> None:
        """Make an index of a stage's vectors for approximate search; LanceDB advises one from some 10^5 vectors."""
        self.table.create_index(metric="cosine", vector_column_name=stage, index_type=kind)

    def search(
        self, stage: str, query: Matrix, top_k: int = 10, where: Where | None = None, *, exact: bool = True
    ) -> list[Scored]:
        """Best pages of a query by one stage; without `exact`, by the index of its vectors where there is one."""
        asked = self.table.search(query, vector_column_name=stage)
        asked = asked.distance_type("dot").bypass_vector_index() if exact else asked.distance_type("cosine")
        asked = asked if where is None else asked.where(_sql(where), prefilter=True)
        found = asked.select(["id", "_distance"]).limit(top_k).to_list()
        # The distance of several vectors is the sum of each one's, and each is 1 - similarity.
        return [(one["id"], len(query) - one["_distance"]) for one in found]

    def hybrid(self, stage: str, query: Matrix, text: str, top_k: int = 10, where: Where | None = None) -> list[Scored]:
        """Best pages by the ranks of a stage and of LanceDB's search for words."""
        from lancedb.rerankers import RRFReranker

        asked = self.table.search(query_type="hybrid", vector_column_name=stage).vector(query).text(text)
        asked = asked.distance_type("dot")
        asked = asked if where is None else asked.where(_sql(where), prefilter=True)
        found = asked.rerank(RRFReranker()).limit(top_k).to_list()
        return [(one["id"], one["_relevance_score"]) for one in found]

    def size(self) -> int | None:
        """Bytes of the folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class QdrantStore:
    """A collection of a Qdrant server.

    Args:
        url: Of the server, such as "http://127.0.0.1:6333"; ":memory:" keeps everything in this process.
        api_key: Its key, where it has one.

    Raises:
        MissingExtraError: The client is not installed.
    """

    name = "qdrant"

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn a server that does not answer, or refuses, into one sentence."""
        refusals = runtime.require("qdrant_client.http.exceptions", extra="qdrant")
        try:
            yield
        except (refusals.ResponseHandlingException, refusals.UnexpectedResponse) as error:
            said = (str(error).strip().splitlines() or ["no answer"])[0]
            raise EndpointError(f"store: expected a Qdrant server at {self.url}, got: {said[:300]}") from error

    def __init__(self, url: str, api_key: str | None = None) -> None:
        client = runtime.require("qdrant_client", extra="qdrant")
        self.models, self.url = client.models, url
        self.local = url == ":memory:"
        self.client = (
            client.QdrantClient(url)
            if self.local
            else client.QdrantClient(url=url, api_key=api_key, timeout=60, check_compatibility=False)
        )

    def write(self, retriever: Retriever) -> int:
        """Replace what is there by the pages of a retriever, and count them."""
        with self._asked():
            models = self.models
            stages = vector_stages(retriever)
            multi = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            vectors = {
                kind: models.VectorParams(
                    size=_dim(retriever, kind),
                    distance=models.Distance.DOT,
                    multivector_config=multi,
                    # A graph over every token of every page costs more than it finds; a first stage proposes pages.
                    hnsw_config=models.HnswConfigDiff(m=0) if isinstance(index, LateIndex) else None,
                )
                for kind, index in stages.items()
            }
            if self.client.collection_exists(TABLE):
                points, _ = self.client.scroll(TABLE, limit=1, with_payload=[_OURS])
                # A collection without points is ours if it has our words: a write was stopped before the first page.
                words_there = "words" in (self.client.get_collection(TABLE).config.params.sparse_vectors or {})
                if not (_OURS in (points[0].payload or {}) if points else words_there):
                    raise InputError(
                        f"store: expected no collection {TABLE!r} of others at {self.url}, got one; {_KEPT}"
                    )
                self.client.delete_collection(TABLE)
            sparse = {"words": models.SparseVectorParams(modifier=models.Modifier.IDF)}
            self.client.create_collection(TABLE, vectors_config=vectors, sparse_vectors_config=sparse)
            lengths = [len(words(str(part.details(row).get("text", "")))) for part in retriever.segments.parts
                       for row in np.flatnonzero(part.alive).tolist()]  # fmt: skip
            average = max(float(np.mean(lengths)) if lengths else 1.0, 1.0)
            count = 0
            for some in _chunks(stored_pages(retriever)):
                points = [
                    models.PointStruct(
                        id=str(uuid.uuid5(uuid.NAMESPACE_URL, one.id)),
                        vector={
                            **{kind: rows.tolist() for kind, rows in one.vectors.items()},
                            "words": self._words(one.text, average),
                        },
                        payload={**one.entry, "text": one.text, _OURS: 1},
                    )
                    for one in some
                ]
                self.client.upload_points(TABLE, points, wait=True)
                count += len(points)
            if not self.local:
                self.client.create_payload_index(TABLE, "document", models.PayloadSchemaType.KEYWORD)
            return count

    def _words(self, text: str, average: float) -> Any:
        """The words of a text as a sparse vector: BM25 without the rarity of a word, which the server adds."""
        counts = Counter(words(text))
        total = sum(counts.values())
        values = {
            zlib.crc32(word.encode()): n * (_K1 + 1) / (n + _K1 * (1 - _B + _B * total / average))
            for word, n in counts.items()
        }
        return self.models.SparseVector(indices=list(values), values=list(values.values()))

    def search(
        self, stage: str, query: Matrix, top_k: int = 10, where: Where | None = None, *, exact: bool = True
    ) -> list[Scored]:
        """Best pages of a query by one stage; without `exact`, by the server's graph where there is one."""
        # In this process every search is exact, and the client warns of the parameter.
        more = {} if self.local else {"search_params": self.models.SearchParams(exact=exact)}
        with self._asked():
            found = self.client.query_points(
                TABLE, query=query.tolist(), using=stage, limit=top_k, query_filter=self._filter(where),
                with_payload=["id"], **more,
            )  # fmt: skip
        return [(one.payload["id"], one.score) for one in found.points]

    def hybrid(self, stage: str, query: Matrix, text: str, top_k: int = 10, where: Where | None = None) -> list[Scored]:
        """Best pages by the ranks of a stage and of Qdrant's search for words."""
        models, depth = self.models, max(4 * top_k, 50)
        indices = [zlib.crc32(word.encode()) for word in dict.fromkeys(words(text))]
        asked = models.SparseVector(indices=indices, values=[1.0] * len(indices))
        limits = {"limit": depth, "filter": self._filter(where)}
        prefetch = [
            models.Prefetch(query=query.tolist(), using=stage, **limits),
            models.Prefetch(query=asked, using="words", **limits),
        ]
        with self._asked():
            found = self.client.query_points(
                TABLE, prefetch=prefetch, query=models.FusionQuery(fusion=models.Fusion.RRF), limit=top_k,
                with_payload=["id"],
            )  # fmt: skip
        return [(one.payload["id"], one.score) for one in found.points]

    def _filter(self, where: Where | None) -> Any:
        if where is None:
            return None
        models = self.models
        return models.Filter(
            must=[
                models.FieldCondition(key=name, match=models.MatchAny(any=_several(value)))
                for name, value in where.items()
            ]
        )

    def size(self) -> int | None:
        """Not known: the server keeps its files to itself."""
        return None


def open_store(kind: str, place: str, api_key: str | None = None) -> LanceStore | QdrantStore:
    """Open a store by name.

    Args:
        kind: "lancedb" or "qdrant".
        place: Folder of the first, address of the second.
        api_key: Of a Qdrant server.

    Raises:
        InputError: There is no store of that name.
    """
    if kind == "lancedb":
        return LanceStore(place)
    if kind == "qdrant":
        return QdrantStore(place, api_key)
    raise InputError(f"--store: expected lancedb or qdrant, got {kind!r}")


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _sql(where: Where) -> str:
    """A filter of columns as SQL.

    Raises:
        InputError: It names a value that is no column, or one that is no text or number.
    """
    terms = []
    for name, value in where.items():
        if name not in _COLUMNS:
            raise InputError(f"where: expected some of {list(_COLUMNS)}, got {name!r}")
        shown = []
        for one in _several(value):
            if isinstance(one, bool) or not isinstance(one, str | int):
                raise InputError(f"where: expected texts or whole numbers for {name!r}, got {one!r}")
            quoted = "'" + one.replace("'", "''") + "'" if isinstance(one, str) else str(one)
            shown.append(quoted)
        terms.append(f"{name} IN ({', '.join(shown)})")
    return " AND ".join(terms)


def _dim(retriever: Retriever, kind: str) -> int:
    index = vector_stages(retriever)[kind]
    part = next(part for part in retriever.segments.parts if part.alive.any())
    return int(index.vectors_of(part, int(np.flatnonzero(part.alive)[0])).shape[1])


def _chunks(pages: Iterator[StoredPage]) -> Iterator[list[StoredPage]]:
    some: list[StoredPage] = []
    for page in pages:
        some.append(page)
        if len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some
