"""Hard negatives for a dataset of queries and documents of any modality: embed, search, choose.

The search goes tile by tile (some queries against some documents) and keeps each query's best, so a million queries
against a million documents need the memory of their embeddings, of one tile of scores and of the candidates.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from datasets import Dataset, Features, List
from numpy.typing import NDArray
from torch import Tensor

from omnitune.data.hard_negatives import POSITIVE, Candidates, Format, Mined, Pairs, Rules, Sampling, Table, arranged
from omnitune.engine.inference import materialized
from omnitune.errors import DatasetError, InputError
from omnitune.evaluation.ranking import chunks, retrieve
from omnitune.model.dense import SentenceTransformer
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.model.sparse import SparseEncoder
from omnitune.ops.similarity import SimilarityFunction
from omnitune.retrieval.store import CHUNK, Keys, content_keys, encode_corpus, identity
from omnitune.types import Embeddings

logger = logging.getLogger(__name__)

TILE = 1 << 25
"""Scores held at once: 128 MB."""

QUERIES_AT_ONCE = 16384
PAIRS_AT_ONCE = 1 << 20
"""Pairs handed to a reranker in one call: it sorts them by length across queries."""

Matrix = NDArray[np.float32] | Embeddings
"""Dense rows `(rows, dim)`, at unit length where the similarity is the cosine; or csr rows."""
Rescore = Callable[[Tensor, Tensor], Tensor]
"""Scores `(pairs,)` of pairs of a query and a document, by their numbers `(pairs,)`."""


class Reranker(Protocol):
    """A scorer of pairs: a cross encoder of this library or of another."""

    def predict(self, inputs: Any, **kwargs: Any) -> Any:
        """Scores of (query, document) pairs."""


def mine(
    queries: Matrix,
    corpus: Matrix,
    positives: Pairs,
    rules: Rules,
    *,
    excluded: Mapping[str, Pairs] | None = None,
    include_positives: bool = False,
    max_positives: int | None = None,
    depth: int | None = None,
    similarity: str = "cosine",
    rescore: Rescore | None = None,
    queries_at_once: int = QUERIES_AT_ONCE,
    device: torch.device | str = "cpu",
) -> Mined:
    """Hard negatives of every query.

    Args:
        queries: Embeddings `(queries, dim)`, normalised; or csr rows.
        corpus: Embeddings of all documents `(documents, dim)`, normalised; or csr rows.
        positives: Distinct pairs of a query and a document that answers it, sorted by query; every query has one.
        rules: What a hard negative has to be.
        excluded: Pairs that are no negatives though no positives either, by the reason, which is counted.
        include_positives: Whether positives stay among the candidates.
        max_positives: Most positives of one query; None counts them.
        depth: Nearest documents to look at; None takes what `range_max`, positives and exclusions need.
        similarity: Name of the similarity.
        rescore: Another model's opinion of the candidates that are left, and of the positives; used where the rules
            compare scores.
        queries_at_once: Side of a tile.
        device: Where the tiles are computed.
    """
    most = positives.most() if max_positives is None else max_positives
    rescored = rescore is not None and rules.compares
    reach = rules.reach(most, rescored=rescored)
    enough = reach + most + sum(pairs.most() for pairs in (excluded or {}).values())
    candidates = _nearest(queries, corpus, depth or enough, similarity, queries_at_once, device)
    if not include_positives:
        candidates.refuse(POSITIVE, positives.among(candidates.documents))
    for reason, pairs in (excluded or {}).items():
        candidates.refuse(reason, pairs.among(candidates.documents))
    if rescored:
        assert rescore is not None
        query, place = (candidates.scores > -torch.inf).nonzero(as_tuple=True)
        candidates.scores[query, place] = rescore(query, candidates.documents[query, place])
        positive_scores = rescore(positives.queries, positives.documents)
    else:
        positive_scores = _pair_scores(queries, corpus, positives, similarity)
    candidates.compare(rules, positives, positive_scores)
    documents, scores = candidates.take(rules, reach)
    return Mined(
        positives=positives,
        positive_scores=positive_scores,
        documents=documents,
        scores=scores,
        dropped=dict(candidates.dropped),
    )


def _nearest(
    queries: Matrix, corpus: Matrix, depth: int, similarity: str, at_once: int, device: torch.device | str
) -> Candidates:
    block = max(1, min(at_once, len(queries)))
    tiles = (_rows(part).to(device) for part in chunks(corpus, max(1, TILE // block), label="Mining"))
    if similarity == "cosine" and not isinstance(corpus, Embeddings):
        similarity = "dot"  # dense embeddings are normalised
    score = SimilarityFunction.to_similarity_fn(similarity)
    asked: Any = _rows(queries).to(device)
    hits = retrieve(asked, tiles, score, depth, block=block)
    return Candidates(hits.rows, hits.scores)


def _rows(rows: Matrix) -> Any:
    return rows if isinstance(rows, Embeddings) else torch.from_numpy(rows)


def _pair_scores(queries: Matrix, corpus: Matrix, pairs: Pairs, similarity: str) -> Tensor:
    score = SimilarityFunction.to_similarity_pairwise_fn(similarity)
    asked, documents = _rows(queries), _rows(corpus)
    dim = (asked.dim if isinstance(asked, Embeddings) else asked.shape[1]) or 1
    step = max(1, TILE // dim)
    parts = [
        score(asked[pairs.queries[start : start + step]], documents[pairs.documents[start : start + step]])
        for start in range(0, len(pairs.queries), step)
    ]
    return torch.cat(parts)


def mine_hard_negatives(
    dataset: Dataset,
    model: SentenceTransformer | SparseEncoder,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    corpus: Sequence[Any] | None = None,
    cross_encoder: Reranker | None = None,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: Sampling = "top",
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    include_positives: bool = False,
    output_format: Format | Literal["n-tuple-scores"] = "triplet",
    output_scores: bool = False,
    batch_size: int = 32,
    faiss_batch_size: int = QUERIES_AT_ONCE,
    use_faiss: bool = False,
    use_multi_process: list[str] | bool = False,
    verbose: bool = True,
    cache_folder: str | None = None,
    as_triplets: bool | None = None,
    margin: float | None = None,
) -> Dataset:
    """Add hard negatives to a dataset of queries and the documents that answer them.

    Rows with the same query are its positives, all of them. Items are compared by content, so a document that occurs
    twice is one.

    Args:
        dataset: Queries and their positives: texts, images, dicts of them, whatever the model takes.
        model: Finds the nearest documents; a dense encoder, whose embeddings are normalised, or a sparse one.
        anchor_column_name: Column of the queries; None takes the first.
        positive_column_name: Column of the positives; None takes the second.
        corpus: Further documents to choose negatives from, as a list, a column, an array or a pandas Series; the
            positives are always among them.
        cross_encoder: Scores the candidates and positives again where a margin, `max_score` or `min_score` is given.
        range_min: Nearest candidates to pass over.
        range_max: Candidates to choose from; None takes what suffices.
        max_score: Highest score of a negative.
        min_score: Lowest score of a negative.
        absolute_margin: Least distance of a negative's score below the positive's.
        relative_margin: The same as a share of the positive's score; 0.05 keeps what scores below 95% of it.
        num_negatives: Negatives a query.
        sampling_strategy: `"top"` takes the nearest, `"random"` draws (repeatable with `random.seed`).
        query_prompt_name: Name of the prompt for queries.
        query_prompt: Its text, instead of a name.
        corpus_prompt_name: Name of the prompt for documents.
        corpus_prompt: Its text, instead of a name.
        include_positives: Whether positives may be candidates: a ranking to evaluate rerankers on.
        output_format: See `data.hard_negatives.arranged`.
        output_scores: Whether to add similarities.
        batch_size: Items encoded at once.
        faiss_batch_size: Queries compared at once.
        use_faiss: Not needed: the search is exact and runs in tiles on the model's device.
        use_multi_process: Devices to encode on, or True for all.
        verbose: Whether the log says what was mined.
        cache_folder: Where embeddings are kept by content; None keeps none.
        as_triplets: Old name of `output_format`.
        margin: Old name of `absolute_margin`.

    Returns:
        The rows of `output_format`, media columns with the features of `dataset`.

    Raises:
        DatasetError: The dataset is empty or has one column.
        InputError: An argument has a value that cannot work.

    Example:
        >>> rows = Dataset.from_dict({"query": ["how often to grease", "how hot"], "page": pages})
        >>> mined = mine_hard_negatives(rows, model, num_negatives=1)
        >>> mined.column_names, mined[0]["negative"]
        (['query', 'page', 'negative'], 'The oven heats to 250 degrees.')
    """
    if not len(dataset):
        raise DatasetError("dataset: expected rows of query and positive, got none")
    if faiss_batch_size < 1:
        raise InputError(f"faiss_batch_size: expected at least 1, got {faiss_batch_size}")
    if use_faiss:
        logger.warning("use_faiss: True is not needed; the search in tiles is exact and bounded without faiss.")
    if margin is not None:
        absolute_margin = margin
        logger.warning("margin: use absolute_margin=%s instead.", margin)
    if output_format == "n-tuple-scores":
        output_format, output_scores = "n-tuple", True
        logger.warning("output_format: 'n-tuple-scores' is 'n-tuple' with output_scores=True.")
    if as_triplets is not None:
        output_format = "triplet" if as_triplets else "n-tuple"
        logger.warning("as_triplets: use output_format=%r instead.", output_format)
    if include_positives and output_format != "n-tuple":
        output_format = "n-tuple"
        logger.warning("output_format: 'n-tuple' is taken, because include_positives keeps a ranking.")
    rules = Rules(
        num_negatives=num_negatives,
        range_min=range_min,
        range_max=range_max,
        max_score=max_score,
        min_score=min_score,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        sampling_strategy=sampling_strategy,
    )
    names = dataset.column_names
    if len(names) < 2:
        raise DatasetError(f"dataset: expected a column of queries and one of positives, got {names}")
    columns = (
        names[0] if anchor_column_name is None or anchor_column_name not in names else anchor_column_name,
        names[1] if positive_column_name is None or positive_column_name not in names else positive_column_name,
    )
    items = _items(model, dataset, columns, corpus)
    is_sparse = isinstance(model, SparseEncoder)
    options: dict[str, Any] = {"batch_size": batch_size, "save_to_cpu" if is_sparse else "normalize_embeddings": True}
    weights = None if cache_folder is None else identity(model)
    devices = None if isinstance(use_multi_process, bool) else use_multi_process
    pool = model.start_multi_process_pool(devices) if use_multi_process else None
    try:
        documents, asked = (
            encode_corpus(
                model,
                some,
                cache_folder,
                queries=queries,
                chunk_size=len(some) if cache_folder is None else CHUNK,
                weights=weights,
                keys=keys,
                prompt=prompt,
                prompt_name=name,
                pool=pool,
                **options,
            )
            for some, keys, queries, prompt, name in (
                (items.documents, items.document_keys, False, corpus_prompt, corpus_prompt_name),
                (items.queries, items.query_keys, True, query_prompt, query_prompt_name),
            )
        )
    finally:
        if pool is not None:
            model.stop_multi_process_pool(pool)
    mined = mine(
        asked.csr() if is_sparse else asked.values,
        documents.csr() if is_sparse else documents.values,
        items.positives,
        rules,
        include_positives=include_positives,
        max_positives=items.max_positives,
        similarity=str(model.similarity_fn_name),
        rescore=None if cross_encoder is None else _rescorer(cross_encoder, items, batch_size),
        queries_at_once=faiss_batch_size,
        device=model.device,
    )
    table = arranged(mined, columns[1], output_format, scores=output_scores)
    if verbose:
        _log(mined, table)
    return _as_dataset(table, columns, items, dataset.features)


# --- items ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Items:
    """Distinct queries and documents, what they are known by, and which belong together."""

    queries: list[Any]
    query_keys: Keys
    documents: list[Any]
    document_keys: Keys
    positives: Pairs
    max_positives: int


def _items(
    model: SentenceTransformer | SparseEncoder, dataset: Dataset, columns: tuple[str, str], corpus: Sequence[Any] | None
) -> _Items:
    if isinstance(cast(Any, model), MultiVectorEncoder):
        raise InputError(
            "model: expected one that makes one vector a text, got a MultiVectorEncoder; mine with a dense or sparse "
            "encoder, and train the late-interaction encoder on what it finds"
        )
    # As stored: media stay bytes and paths, and nothing is decoded.
    stored = dataset.with_format("arrow")[:]
    asked, answers = (stored.column(name).to_pylist() for name in columns)
    further = [] if corpus is None else materialized(corpus)
    every = [*further, *answers]
    queries, query_keys, query_of = _distinct(asked, content_keys(model, asked, queries=True))
    documents, document_keys, document_of = _distinct(every, content_keys(model, every))
    document_of = document_of[len(every) - len(answers) :]
    pairs = np.stack([query_of, document_of], axis=1)
    pairs = pairs[np.sort(np.unique(pairs, axis=0, return_index=True)[1])]
    of_query, answer = torch.from_numpy(pairs[np.argsort(pairs[:, 0], kind="stable")]).unbind(dim=1)
    return _Items(
        queries=queries,
        query_keys=query_keys,
        documents=documents,
        document_keys=document_keys,
        positives=Pairs(of_query, answer),
        max_positives=int(np.bincount(query_of).max()),
    )


def _distinct(items: Sequence[Any], keys: Keys) -> tuple[list[Any], Keys, NDArray[np.int64]]:
    """The first item of every content in order, their keys, and the place of every item among them."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    chosen = first[order]
    return [items[row] for row in chosen], keys[chosen], place[inverse]


def _rescorer(reranker: Reranker, items: _Items, batch_size: int) -> Rescore:
    def rescore(queries: Tensor, documents: Tensor) -> Tensor:
        parts = [torch.empty(0)]
        for start in range(0, len(queries), PAIRS_AT_ONCE):
            block = slice(start, start + PAIRS_AT_ONCE)
            numbers = zip(queries[block].tolist(), documents[block].tolist(), strict=True)
            pairs = [(items.queries[query], items.documents[document]) for query, document in numbers]
            parts.append(torch.as_tensor(reranker.predict(pairs, batch_size=batch_size)).float().cpu().flatten())
        return torch.cat(parts)

    return rescore


def _as_dataset(table: Table, columns: tuple[str, str], items: _Items, features: Features) -> Dataset:
    asked, positive = columns
    made: dict[str, Any] = {asked: [items.queries[row] for row in table.queries]}
    kinds: dict[str, Any] = {asked: features[asked]}
    for name, rows in table.documents.items():
        listed = bool(rows) and isinstance(rows[0], list)
        made[name] = [
            [items.documents[one] for one in row] if isinstance(row, list) else items.documents[row] for row in rows
        ]
        kinds[name] = List(features[positive]) if listed else features[positive]
    data = Dataset.from_dict(made, features=Features(kinds))
    return data if table.values is None else data.add_column(*table.values)


def _log(mined: Mined, table: Table) -> None:
    found = mined.scores[mined.scores > -torch.inf]
    negative = f"{found.mean():.3f}" if len(found) else "none"
    logger.info(
        "%s rows; mean score of positives %.3f, of negatives %s; candidates refused: %s",
        f"{len(table.queries):,}",
        float(mined.positive_scores.mean()),
        negative,
        ", ".join(f"{count:,} by {rule}" for rule, count in mined.dropped.items() if count) or "none",
    )
