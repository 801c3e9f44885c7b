"""Search for sparse embeddings in Qdrant, Elasticsearch, OpenSearch and Seismic, under the rival's names.

`retrieval.sparse_index.SparseIndex` needs no server and is exact; these are for those who run one of these engines. A
call gives the documents of every query and the seconds that the search took, and, where asked, the index, which later
calls take instead of the corpus.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import numpy as np
from torch import Tensor

from omnitune import runtime
from omnitune.errors import InputError
from omnitune.retrieval.sparse_index import sparse_rows

Found = list[list[dict[str, int | float]]]
"""Of every query its documents, best first: `{"corpus_id": row, "score": score}`."""

Decoded = Sequence[Sequence[tuple[str, float]]]
"""Of every text its words and their weights, as `SparseEncoder.decode` gives them."""

_POINTS_AT_ONCE = 10_000
_DOCUMENTS_AT_ONCE = 1000


def semantic_search_qdrant(
    query_embeddings: Tensor,
    corpus_embeddings: Tensor | None = None,
    corpus_index: tuple[Any, str] | None = None,
    top_k: int = 10,
    output_index: bool = False,
    **kwargs: Any,
) -> tuple[Any, ...]:
    """Find the documents of every query in Qdrant, by dot product.

    Args:
        query_embeddings: Sparse (COO) `(queries, dim)`, or `(dim,)` for one.
        corpus_embeddings: Sparse (COO) `(documents, dim)`, of which a collection is made; or
        corpus_index: a client and the name of a collection that is there.
        top_k: Documents of each query.
        output_index: Return the client and the collection's name too.
        **kwargs: For `QdrantClient`, such as `location=":memory:"`; by default it connects to localhost:6333.

    Returns:
        Documents of every query; the seconds of the search; and, if asked for, the index.

    Raises:
        InputError: There is neither corpus nor index, or embeddings are no sparse tensors.
        MissingExtraError: qdrant-client is not installed.

    Example:
        >>> found, seconds, index = semantic_search_qdrant(queries, corpus, output_index=True)  # doctest: +SKIP
        >>> found[0][0]  # doctest: +SKIP
        {'corpus_id': 17, 'score': 23.4}
    """
    qdrant = runtime.require("qdrant_client", extra="qdrant")
    asked = list(_vectors(qdrant, query_embeddings, "query_embeddings"))
    if corpus_index is None:
        if corpus_embeddings is None:
            raise InputError("corpus_embeddings: expected the corpus, or corpus_index, got neither")
        points = _vectors(qdrant, corpus_embeddings, "corpus_embeddings")
        where = {} if kwargs.keys() & {"location", "host", "path"} else {"url": "http://localhost:6333"}
        client = qdrant.QdrantClient(**{**where, **kwargs})
        name = f"sparse_collection_{uuid4().hex}"
        in_memory = qdrant.models.SparseIndexParams(on_disk=False)
        client.create_collection(
            name, vectors_config={}, sparse_vectors_config={"text": qdrant.models.SparseVectorParams(index=in_memory)}
        )
        held = [{"text": vector} for vector in points]
        for start in range(0, len(held), _POINTS_AT_ONCE):
            some = held[start : start + _POINTS_AT_ONCE]
            client.upload_collection(name, vectors=some, ids=range(start, start + len(some)))
        corpus_index = client, name
    client, name = corpus_index

    def search() -> Found:
        answers = (client.query_points(name, query=vector, limit=top_k, using="text").points for vector in asked)
        return [[{"corpus_id": point.id, "score": point.score} for point in points] for points in answers]

    return _timed(search, corpus_index if output_index else None)


def _vectors(qdrant: Any, embeddings: Any, argument: str) -> Iterator[Any]:
    """Give rows as Qdrant takes them."""
    if not getattr(embeddings, "is_sparse", False):
        raise InputError(f"{argument}: expected a sparse (COO) tensor, got {_shown(embeddings)}")
    rows = sparse_rows(embeddings)
    assert rows.offsets is not None and rows.indices is not None
    return (
        qdrant.models.SparseVector(indices=rows.indices[start:stop].tolist(), values=rows.values[start:stop].tolist())
        for start, stop in zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True)
    )


def semantic_search_elasticsearch(
    query_embeddings_decoded: Decoded,
    corpus_embeddings_decoded: Decoded | None = None,
    corpus_index: tuple[Any, str] | None = None,
    top_k: int = 10,
    output_index: bool = False,
    **kwargs: Any,
) -> tuple[Any, ...]:
    """Find the documents of every query in Elasticsearch, by its rank features.

    Each shared word adds its weight in the query times `w / (w + pivot)` of its weight `w` in the document: no dot
    product, so scores are others than those of `similarity`.

    Args:
        query_embeddings_decoded: Words and weights of every query, from `model.decode`.
        corpus_embeddings_decoded: The same of every document, of which an index is made; or
        corpus_index: a client and the name of an index that is there.
        top_k: Documents of each query.
        output_index: Return the client and the index's name too.
        **kwargs: For `Elasticsearch`, which connects to localhost:9200 unless `hosts` says otherwise.

    Returns:
        Documents of every query; the seconds of the search; and, if asked for, the index.

    Raises:
        InputError: There is neither corpus nor index, or words and weights are not in lists of pairs.
        MissingExtraError: elasticsearch is not installed.
    """
    package = runtime.require("elasticsearch", extra="elasticsearch")

    def body(words: dict[str, float]) -> dict[str, Any]:
        clauses = [
            {"rank_feature": {"field": f"tokens.{word}", "saturation": {}, "boost": weight}}
            for word, weight in words.items()
        ]
        return {"size": top_k, "query": {"bool": {"should": clauses, "minimum_should_match": 1}}}

    # A dot in a field's name would be a path.
    asked, corpus = (
        _decoded(one, argument, lambda word: word.replace(".", "_"))
        for one, argument in (
            (query_embeddings_decoded, "query_embeddings_decoded"),
            (corpus_embeddings_decoded, "corpus_embeddings_decoded"),
        )
    )
    if corpus_index is None:
        client = package.Elasticsearch(**{"hosts": "http://localhost:9200", **kwargs})
        corpus_index = _rank_features(client, runtime.require("elasticsearch.helpers", extra="elasticsearch"), corpus)
    return _rank_feature_search(corpus_index, map(body, asked or ()), output_index=output_index)


def semantic_search_opensearch(
    query_embeddings_decoded: Decoded,
    corpus_embeddings_decoded: Decoded | None = None,
    corpus_index: tuple[Any, str] | None = None,
    top_k: int = 10,
    output_index: bool = False,
    **kwargs: Any,
) -> tuple[Any, ...]:
    """Find the documents of every query in OpenSearch, by its neural sparse query over rank features.

    Args:
        query_embeddings_decoded: As in `semantic_search_elasticsearch`, as are all that are not named here.
        **kwargs: For `OpenSearch`, which connects to localhost:9200 unless `hosts` says otherwise.

    Returns:
        Documents of every query; the seconds of the search; and, if asked for, the index.

    Raises:
        InputError: There is neither corpus nor index, or words and weights are not in lists of pairs.
        MissingExtraError: opensearch-py is not installed.
    """
    package = runtime.require("opensearchpy", extra="opensearch")

    def body(words: dict[str, float]) -> dict[str, Any]:
        return {"size": top_k, "query": {"neural_sparse": {"tokens": {"query_tokens": words}}}}

    asked = _decoded(query_embeddings_decoded, "query_embeddings_decoded")
    corpus = _decoded(corpus_embeddings_decoded, "corpus_embeddings_decoded")
    if corpus_index is None:
        client = package.OpenSearch(**{"hosts": "http://localhost:9200", **kwargs})
        corpus_index = _rank_features(client, runtime.require("opensearchpy.helpers", extra="opensearch"), corpus)
    return _rank_feature_search(corpus_index, map(body, asked or ()), output_index=output_index)


def _rank_features(client: Any, helpers: Any, corpus: list[dict[str, float]] | None) -> tuple[Any, str]:
    """Make an index of documents whose words are rank features, in Elasticsearch or OpenSearch."""
    if corpus is None:
        raise InputError("corpus_embeddings_decoded: expected the corpus, or corpus_index, got neither")
    name = f"sparse_index_{uuid4().hex}"
    fields = {"tokens": {"type": "rank_features"}, "id": {"type": "keyword"}}
    client.indices.create(index=name, body={"mappings": {"properties": fields}})
    for start in range(0, len(corpus), _DOCUMENTS_AT_ONCE):
        some = enumerate(corpus[start : start + _DOCUMENTS_AT_ONCE], start=start)
        helpers.bulk(
            client,
            [{"_index": name, "_id": str(row), "_source": {"id": str(row), "tokens": words}} for row, words in some],
        )
    client.indices.refresh(index=name)
    return client, name


def _rank_feature_search(index: tuple[Any, str], bodies: Iterator[Any], *, output_index: bool) -> tuple[Any, ...]:
    client, name = index

    def search() -> Found:
        answers = (client.search(index=name, body=body)["hits"]["hits"] for body in bodies)
        return [[{"corpus_id": int(hit["_id"]), "score": hit["_score"]} for hit in hits] for hits in answers]

    return _timed(search, index if output_index else None)


def semantic_search_seismic(
    query_embeddings_decoded: Decoded,
    corpus_embeddings_decoded: Decoded | None = None,
    corpus_index: Any = None,
    top_k: int = 10,
    output_index: bool = False,
    index_kwargs: dict[str, Any] | None = None,
    search_kwargs: dict[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Find the documents of every query in a Seismic index, approximately.

    Args:
        query_embeddings_decoded: As in `semantic_search_elasticsearch`, as are all that are not named here.
        corpus_index: One that is there.
        index_kwargs: For `SeismicIndex.build_from_dataset`.
        search_kwargs: For `batch_search`; `query_cut` is 10 and `heap_factor` 0.7 unless given.

    Returns:
        Documents of every query; the seconds of the search; and, if asked for, the index.

    Raises:
        InputError: There is neither corpus nor index, or words and weights are not in lists of pairs.
        MissingExtraError: pyseismic-lsr is not installed.
    """
    package = runtime.require("seismic", extra="seismic")
    text = package.get_seismic_string()
    asked = _decoded(query_embeddings_decoded, "query_embeddings_decoded") or []
    corpus = _decoded(corpus_embeddings_decoded, "corpus_embeddings_decoded")
    if corpus_index is None:
        if corpus is None:
            raise InputError("corpus_embeddings_decoded: expected the corpus, or corpus_index, got neither")
        dataset = package.SeismicDataset()
        for row, words in enumerate(corpus):
            dataset.add_document(
                str(row), np.array(list(words), dtype=text), np.array(list(words.values()), np.float32)
            )
        corpus_index = package.SeismicIndex.build_from_dataset(dataset, **(index_kwargs or {}))

    def search() -> Found:
        answers = corpus_index.batch_search(
            queries_ids=np.array(range(len(asked)), dtype=text),
            query_components=[np.array(list(words), dtype=text) for words in asked],
            query_values=[np.array(list(words.values()), dtype=np.float32) for words in asked],
            k=top_k,
            **{"query_cut": 10, "heap_factor": 0.7, **(search_kwargs or {})},
        )
        # Answers come in any order, and one without a document does not say whose it is.
        found: Found = [[] for _ in asked]
        for answer in answers:
            for query, score, row in answer:
                found[int(query)].append({"corpus_id": int(row), "score": score})
        return found

    return _timed(search, corpus_index if output_index else None)


def _decoded(given: Decoded | None, argument: str, rename: Callable[[str], str] = str) -> list[dict[str, float]] | None:
    """Check words and weights, and give those of every text by word."""
    if given is None:
        return None
    right = isinstance(given, list) and all(
        isinstance(words, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in words) for words in given
    )
    if not right:
        raise InputError(
            f"{argument}: expected a list of words and weights for each text, [[(word, weight), ...], ...], as "
            f"model.decode gives them for several embeddings, got {_shown(given)}"
        )
    return [{rename(str(word)): weight for word, weight in words} for words in given]


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{value!r:.80}" if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"


def _timed(search: Callable[[], Found], index: Any) -> tuple[Any, ...]:
    started = time.perf_counter()
    found = search()
    seconds = time.perf_counter() - started
    return (found, seconds) if index is None else (found, seconds, index)
