"""Every other document of the batch is a negative: the default losses for retrieval.

The cached and the symmetric forms, named as in Sentence Transformers, are this loss with another strategy and with
other directions.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.base import Loss, overridden
from omnitune.losses.lists import owners, owners_in
from omnitune.losses.strategies import Strategy
from omnitune.ops.collectives import gather_columns, gather_rows, world_size
from omnitune.ops.objectives import Direction, HardnessMode, PartitionMode, mean_in_blocks, multiple_negatives
from omnitune.ops.similarity import cos_sim, dot_score, nested_similarity, normalize_embeddings
from omnitune.types import Column, Embeddings, Features, Labels, Objective

logger = logging.getLogger(__name__)

_SYMMETRIC: tuple[Direction, ...] = ("query_to_doc", "doc_to_query")


class MultipleNegativesRankingLoss(Loss):
    """Contrastive loss over (query, positive) or (query, positive, negative, ..., negative) columns, without labels.

    Each query should be closer to its own positive than to every other document of the batch. A cell of positives or
    negatives may be a list of any length: each positive of a row is a term of its own, in which the row's other
    positives are no negatives.

    Args:
        model: The encoder.
        scale: Inverse temperature: similarities are multiplied by it.
        similarity_fct: `(n, dim), (m, dim) -> (n, m)`, higher is closer. With `cos_sim` or `dot_score`, MatryoshkaLoss
            computes all dimensions in one pass.
        gather_across_devices: Use the documents and queries of all ranks, not of this one alone.
        directions: What competes with the positive: "query_to_doc" (always) other documents; "query_to_query" other
            queries; "doc_to_query" other queries, seen from the positive; "doc_to_doc" the documents of other queries,
            seen from the positive.
        partition_mode: "joint" for one softmax over all directions, "per_direction" for the mean of one loss each.
        hardness_mode: Which negatives count more the closer they are: "in_batch_negatives", "hard_negatives" (the
            query's own negative columns) or "all_negatives"; None for none.
        hardness_strength: How much more, at least 0.

    Raises:
        InputError: A value that is none of the above.

    Source:
        van den Oord et al. 2018, eq. 4 (arXiv:1807.03748); Li et al. 2023, eq. 2 (arXiv:2308.03281) for the directions.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot is it?"], "page": pages[1:], "bad": [["a pump", pages[0]]]})
        >>> args = SentenceTransformerTrainingArguments("out", batch_sampler="no_duplicates")
        >>> loss = MultipleNegativesRankingLoss(model)
        >>> trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    """

    paper = "oord2019representation"
    lists = "documents"
    config_keys = [
        "scale",
        "similarity_fct",
        "gather_across_devices",
        "directions",
        "partition_mode",
        "hardness_mode",
        "hardness_strength",
    ]

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        gather_across_devices: bool = False,
        directions: tuple[Direction, ...] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(model)
        if not scale > 0:
            raise InputError(f"scale: expected a positive number, got {scale}")
        unknown = [d for d in directions if d not in get_args(Direction)]
        if unknown or "query_to_doc" not in directions:
            raise InputError(
                f'directions: expected "query_to_doc" and any of {", ".join(get_args(Direction)[1:])}, got {directions}'
            )
        if partition_mode not in get_args(PartitionMode):
            raise InputError(f"partition_mode: expected one of {get_args(PartitionMode)}, got {partition_mode!r}")
        if partition_mode == "per_direction" and not set(directions) <= set(_SYMMETRIC):
            raise InputError(
                f'partition_mode: "per_direction" needs the positive among each direction\'s candidates, which only '
                f'{_SYMMETRIC} have; got directions {directions}; use "joint"'
            )
        if hardness_mode is not None and hardness_mode not in get_args(HardnessMode):
            raise InputError(f"hardness_mode: expected None or one of {get_args(HardnessMode)}, got {hardness_mode!r}")
        if hardness_strength < 0:
            raise InputError(f"hardness_strength: expected at least 0, got {hardness_strength}")
        if hardness_mode is not None and hardness_strength == 0:
            logger.warning(
                "hardness_mode=%r has no effect with hardness_strength=0: set a positive strength.", hardness_mode
            )
        self.scale = scale
        self.similarity_fct = similarity_fct
        self.gather_across_devices = gather_across_devices
        self.directions = tuple(directions)
        self.partition_mode: PartitionMode = partition_mode
        self.hardness_mode: HardnessMode | None = hardness_mode
        self.hardness_strength = hardness_strength
        if len(set(directions)) == 4:
            self.paper = "li2023general"
        elif set(directions) == set(_SYMMETRIC) and partition_mode == "per_direction":
            self.paper = "gunther2024jina"

    @property
    def temperature(self) -> float:
        """One over `scale`."""
        return 1.0 / self.scale

    def targets(self, columns: Sequence[Column | Features], labels: Labels | None) -> Tensor | None:
        """Row of every document where cells are lists, else None."""
        del labels
        return owners(columns)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Contrastive loss of `(rows, dim)` embeddings: queries, positives, then negatives.

        Args:
            embeddings: One `Embeddings` a column; of lists, `(documents, dim)`.
            labels: Of lists, the row of every document, as `targets` gives it; others say nothing to it.
        """
        batch = self._candidates(embeddings, labels)
        similarity = self.similarity_fct
        if similarity is cos_sim:  # once a matrix, not once a block and direction
            batch, similarity = batch.normalized(), dot_score

        def block(start: int, stop: int) -> Tensor:
            rows = batch.block(start, stop)
            return self._loss({d: similarity(*pair) for d, pair in rows.pairs(self.directions).items()}, rows)

        return mean_in_blocks(block, batch.count, batch.scores_per_query(self.directions))

    def objective_at(
        self, embeddings: Sequence[Embeddings], labels: Tensor | None, dims: Sequence[int]
    ) -> list[Objective]:
        """The loss at every dimension, from one pass over the columns of the embeddings where that is possible."""
        if self.similarity_fct not in (cos_sim, dot_score) or overridden(self, "compute_loss_from_embeddings"):
            return super().objective_at(embeddings, labels, dims)
        batch = self._candidates(embeddings, labels)

        def block(start: int, stop: int) -> Tensor:
            rows = batch.block(start, stop)
            # Truncations have unit length, so their dot product is their cosine.
            nested = {d: nested_similarity(*pair, dims) for d, pair in rows.pairs(self.directions).items()}
            return torch.stack([self._loss({d: s[i] for d, s in nested.items()}, rows) for i in range(len(dims))])

        scores = batch.scores_per_query(self.directions) * len(dims)
        return list(mean_in_blocks(block, batch.count, scores).unbind())

    def negatives_per_query(self, batch_size: int, columns: int) -> int | None:
        """Count the candidates that compete with each positive, over all ranks where they are gathered."""
        rows = batch_size * (world_size() if self.gather_across_devices else 1)
        documents = rows * (columns - 1)
        counts: dict[str, int] = {
            "query_to_doc": documents - 1,
            "query_to_query": rows - 1,
            "doc_to_query": rows - 1,
            "doc_to_doc": documents - (columns - 1),
        }
        if self.partition_mode == "per_direction":
            return counts["query_to_doc"]
        return sum(counts[direction] for direction in set(self.directions))

    def _candidates(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> "_Candidates":
        owners = owners_in(labels)
        self._expect_columns(embeddings, "(query, positive) or (query, positive, negative, ...)", least=2)
        columns, offset = [e.values for e in embeddings], 0
        count = len(columns[1])
        if owners is None:
            if self.gather_across_devices:
                columns, offset = gather_columns(columns)
            return _Candidates(columns[0], columns[1:], None, offset, count)
        queries, positives, negatives = columns[0], columns[1], torch.cat([columns[1][:0], *columns[2:]])
        mine, others = torch.split(owners.to(queries.device), [count, len(negatives)])
        if self.gather_across_devices:
            queries, first = gather_rows(queries)
            positives, offset = gather_rows(positives)
            negatives = gather_rows(negatives)[0]
            mine, others = gather_rows(mine + first)[0], gather_rows(others + first)[0]
        return _Candidates(queries, [positives, negatives], torch.cat([mine, others]), offset, count)

    def _loss(self, scores: Mapping[Direction, Tensor], batch: "_Candidates") -> Tensor:
        scores = batch.seen_from_queries(scores, self.directions)
        weighted = self.hardness_mode is not None and self.hardness_strength > 0
        return multiple_negatives(
            scores,
            batch.own,
            rows=len(batch.queries),
            scale=self.scale,
            partition_mode=self.partition_mode,
            hardness=(self.hardness_mode, self.hardness_strength) if self.hardness_mode and weighted else None,
            owners=batch.owners,
        )


class MultipleNegativesSymmetricRankingLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` in both directions: query to documents and document to queries, averaged.

    Args:
        model, scale, similarity_fct, gather_across_devices: As in `MultipleNegativesRankingLoss`.

    Raises:
        InputError: `scale` is not positive.

    Source:
        Günther et al. 2024 (arXiv:2310.19923).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> loss = MultipleNegativesSymmetricRankingLoss(model)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, scale, similarity_fct, gather_across_devices, _SYMMETRIC, "per_direction")


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` whose mini-batches are cut by a size that the caller sets.

    Loss and gradients are the same; so is the memory behaviour: graphs are kept while the budget allows, the rest is
    replayed.

    Args:
        model: The encoder.
        scale: As in `MultipleNegativesRankingLoss`, as are all that are not named below.
        mini_batch_size: Most items a mini-batch holds.
        mini_batch_num_tokens: Most padded tokens a mini-batch holds, in place of `mini_batch_size`.
        show_progress_bar: Whether to show the mini-batches of every step.

    Raises:
        InputError: As in `MultipleNegativesRankingLoss`.

    Source:
        Gao et al. 2021 (arXiv:2101.06983).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> args = SentenceTransformerTrainingArguments("out", per_device_train_batch_size=1024)
        >>> loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=64)
        >>> trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    """

    config_keys = [*MultipleNegativesRankingLoss.config_keys, "mini_batch_size", "mini_batch_num_tokens"]

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        directions: tuple[Direction, ...] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        show_progress_bar: bool = False,
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            gather_across_devices,
            directions,
            partition_mode,
            hardness_mode,
            hardness_strength,
        )
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.strategy = Strategy(mini_batch_size, mini_batch_num_tokens, show_progress_bar=show_progress_bar)
        self.paper = "gao2021scaling"


class CachedMultipleNegativesSymmetricRankingLoss(CachedMultipleNegativesRankingLoss):
    """`CachedMultipleNegativesRankingLoss` in both directions, averaged.

    Args:
        model: The encoder.
        scale: As in `CachedMultipleNegativesRankingLoss`, as are the others.

    Raises:
        InputError: `scale` is not positive.

    Source:
        Günther et al. 2024 (arXiv:2310.19923); Gao et al. 2021 (arXiv:2101.06983) for the mini-batches.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> loss = CachedMultipleNegativesSymmetricRankingLoss(model, mini_batch_size=64)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        show_progress_bar: bool = False,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            mini_batch_size,
            mini_batch_num_tokens,
            gather_across_devices,
            _SYMMETRIC,
            "per_direction",
            show_progress_bar,
        )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Queries and documents that compete in one step.

    Attributes:
        queries: Of all ranks that are gathered `(rows, dim)`.
        documents: Positives, then each column of negatives, `(rows, dim)` each; of lists, all positives, then all
            negatives.
        owners: Of lists, the row of every document `(documents,)`, int64; else None.
        offset: Positive at which this rank's begin.
        count: Number of this rank's positives.
    """

    queries: Tensor
    documents: Sequence[Tensor]
    owners: Tensor | None
    offset: int
    count: int

    @property
    def own(self) -> Tensor:
        """This rank's positives among the documents `(count,)`, int64."""
        return torch.arange(self.offset, self.offset + self.count, device=self.queries.device)

    def block(self, start: int, stop: int) -> "_Candidates":
        """The same candidates for some of the queries."""
        return replace(self, offset=self.offset + start, count=stop - start)

    def normalized(self) -> "_Candidates":
        """The same with every row scaled to unit length, in float32 at least."""
        queries, *documents = (
            normalize_embeddings(column.to(torch.promote_types(column.dtype, torch.float32)))
            for column in (self.queries, *self.documents)
        )
        return replace(self, queries=queries, documents=documents)

    def scores_per_query(self, directions: Iterable[Direction]) -> int:
        """Candidates that one query meets in all directions."""
        documents = sum(map(len, self.documents))
        return sum(documents if d.endswith("doc") else len(self.queries) for d in set(directions))

    def pairs(self, directions: Iterable[Direction]) -> dict[Direction, tuple[Tensor, Tensor]]:
        """Pair up the two sides of each direction whose scores are not part of another's."""
        local = slice(self.offset, self.offset + self.count)
        documents = torch.cat(list(self.documents))
        positives = self.documents[0][local]
        queries = self.queries[local if self.owners is None else self.owners[local]]
        pairs: dict[Direction, tuple[Tensor, Tensor]] = {
            "query_to_doc": (queries, documents),
            "query_to_query": (queries, self.queries),
            "doc_to_query": (self.queries, positives),
            "doc_to_doc": (documents, positives),
        }
        known = {"doc_to_query"} if self._alone else set()
        return {d: pair for d, pair in pairs.items() if d in directions and d not in known}

    def seen_from_queries(
        self, scores: Mapping[Direction, Tensor], directions: Iterable[Direction]
    ) -> dict[Direction, Tensor]:
        """Scores with this rank's queries, or their positives, as rows; -inf where a query's own other positive is."""
        turned = {d: s.T if d in ("doc_to_query", "doc_to_doc") else s for d, s in scores.items()}
        if self._alone and "doc_to_query" in directions:
            turned["doc_to_query"] = scores["query_to_doc"][:, : self.count].T
        if self.owners is not None:
            own, rows = self.own, self.owners[: len(self.documents[0])]
            others = rows == self.owners[own][:, None]
            others.scatter_(1, own[:, None], value=False)
            others = nn.functional.pad(others, (0, len(self.documents[1])))
            turned["query_to_doc"] = turned["query_to_doc"].masked_fill(others, -torch.inf)
        return turned

    @property
    def _alone(self) -> bool:
        """No rows but this rank's, a positive each: its queries have then already met its positives."""
        return self.owners is None and len(self.queries) == self.count
