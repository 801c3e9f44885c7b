"""Hard negatives among a query's nearest documents, and the rows that they make.

Documents and queries are numbers here: of any modality, embedded by whoever mines (`training.mining`). All queries are
treated at once; nothing loops over them.

Source:
    Moreira et al. 2024, NV-Retriever (arXiv:2407.15831): positive-aware margins; Qu et al. 2021, RocketQA
    (arXiv:2010.08191): unfiltered hard negatives make a retriever worse.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from omnitune.errors import InputError

Sampling = Literal["random", "top"]
Format = Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"]

POSITIVE = "positive"
"""Under this name `select` counts the candidates that are positives of their query."""

NONE = -torch.inf
"""Score of a candidate that may not be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Conditions on a hard negative.

    Attributes:
        num_negatives: Negatives a query.
        range_min: Nearest candidates to pass over.
        range_max: Candidates to choose from, those passed over included; None takes what suffices (`reach`).
        max_score: Highest similarity to the query.
        min_score: Lowest similarity to the query.
        absolute_margin: Least distance below the score of the query's positive, the lowest where it has several.
        relative_margin: The same as a share of that score's magnitude.
        sampling_strategy: `"top"` takes the nearest, `"random"` draws.
        seed: Of the draws; None takes one from `random`, which `random.seed` makes repeatable.

    Raises:
        InputError: The range holds fewer than `num_negatives` candidates, or a number has no meaning.
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling_strategy: Sampling = "top"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise InputError(f"num_negatives: expected at least 1, got {self.num_negatives}")
        if self.range_min < 0:
            raise InputError(f"range_min: expected at least 0, got {self.range_min}")
        if self.sampling_strategy not in ("top", "random"):
            raise InputError(f"sampling_strategy: expected 'top' or 'random', got {self.sampling_strategy!r}")
        if self.range_max is not None and self.range_max - self.range_min < self.num_negatives:
            raise InputError(
                f"range_max: expected at least range_min + num_negatives = {self.range_min + self.num_negatives}, "
                f"got {self.range_max}; raise it, or lower range_min or num_negatives"
            )

    def reach(self, max_positives: int, *, rescored: bool = False) -> int:
        """`range_max`, or where it is None ten candidates a negative if some may be refused, else just enough.

        Args:
            max_positives: Most positives of one query.
            rescored: Whether another model scores the candidates again.
        """
        if self.range_max is not None:
            return self.range_max
        refuses = any(one is not None for one in (self.absolute_margin, self.relative_margin, self.max_score))
        refuses = refuses or (rescored and self.min_score is not None)
        return self.range_min + self.num_negatives * (10 if refuses else 1) + max_positives

    @property
    def compares(self) -> bool:
        """Tell whether scores matter beyond their order."""
        return any(
            one is not None for one in (self.absolute_margin, self.relative_margin, self.max_score, self.min_score)
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a query and a document: their numbers, both `(pairs,)` int64."""

    queries: Tensor
    documents: Tensor

    def most(self) -> int:
        """Most documents of one query."""
        return int(torch.bincount(self.queries).max()) if len(self.queries) else 0

    def among(self, documents: Tensor) -> Tensor:
        """Mark the candidates of all queries `(queries, candidates)` that are such a pair."""
        if not len(self.queries) or not documents.numel():
            return torch.zeros_like(documents, dtype=torch.bool)
        width = int(torch.stack([self.documents.max(), documents.max()]).max()) + 1
        ours = self.queries * width + self.documents
        rows = torch.arange(len(documents)).unsqueeze(1)
        return torch.isin(rows * width + documents, ours) & (documents >= 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """Hard negatives of all queries.

    Attributes:
        positives: The pairs they were mined for, distinct, by query.
        positive_scores: Similarity of each pair `(pairs,)`.
        documents: Negatives `(queries, num_negatives)` int64, best first, -1 where there is none.
        scores: Their similarities, -inf where there is none.
        dropped: Candidates that each rule refused.
    """

    positives: Pairs
    positive_scores: Tensor
    documents: Tensor
    scores: Tensor
    dropped: Mapping[str, int] = field(default_factory=dict)


class Candidates:
    """Candidates of all queries while rules are applied to them.

    Args:
        documents: `(queries, candidates)` int64, -1 for none.
        scores: Their similarities.
    """

    def __init__(self, documents: Tensor, scores: Tensor) -> None:
        self.documents = documents
        self.scores = scores.float().where(documents >= 0, NONE)
        self.dropped: Counter[str] = Counter()

    def refuse(self, rule: str, which: Tensor) -> None:
        """Take out candidates `(queries, candidates)` and count those that were still in."""
        self.dropped[rule] += int((which & (self.scores > NONE)).sum())
        self.scores = self.scores.masked_fill(which, NONE)

    def compare(self, rules: Rules, positives: Pairs, positive_scores: Tensor) -> None:
        """Refuse what is too near the positive, and what is too near or too far from the query."""
        lowest = torch.full((len(self.scores),), torch.inf)
        lowest.scatter_reduce_(0, positives.queries, positive_scores.float(), "amin")
        limit = lowest.unsqueeze(1)
        if rules.absolute_margin is not None:
            self.refuse("absolute_margin", self.scores + rules.absolute_margin > limit)
        if rules.relative_margin is not None:
            self.refuse("relative_margin", self.scores > limit - limit.abs() * rules.relative_margin)
        if rules.max_score is not None:
            self.refuse("max_score", self.scores > rules.max_score)
        if rules.min_score is not None:
            self.refuse("min_score", self.scores < rules.min_score)

    def take(self, rules: Rules, reach: int) -> tuple[Tensor, Tensor]:
        """Negatives and their scores, both `(queries, num_negatives)`: -1 and -inf where too few are left."""
        scores, order = self.scores.sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, rules.range_min : reach], order[:, rules.range_min : reach]
        missing = rules.num_negatives - scores.shape[1]
        if missing > 0:
            scores = torch.nn.functional.pad(scores, (0, missing), value=NONE)
            order = torch.nn.functional.pad(order, (0, missing))
        if rules.sampling_strategy == "random":
            seed = random.getrandbits(63) if rules.seed is None else rules.seed
            generator = torch.Generator().manual_seed(seed)
            draws = torch.rand(scores.shape, generator=generator).where(scores > NONE, -1.0)
            # Ascending places in a list sorted by score: the best comes first again.
            drawn = draws.topk(rules.num_negatives, dim=1).indices.sort(dim=1).values
            scores, order = scores.gather(1, drawn), order.gather(1, drawn)
        scores, order = scores[:, : rules.num_negatives], order[:, : rules.num_negatives]
        return self.documents.gather(1, order).where(scores > NONE, -1), scores


# --- rows of a dataset ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows in numbers: which query and which documents stand in each.

    Attributes:
        queries: Query of each row `(rows,)`.
        documents: Documents by column, the positive's first: one a row, or a list a row.
        values: Name and values of the label or score column, where there is one.
    """

    queries: list[int]
    documents: Mapping[str, list[int] | list[list[int]]]
    values: tuple[str, list[object]] | None


def arranged(mined: Mined, positive: str, form: Format, *, scores: bool) -> Table:
    """Mined negatives as rows.

    Args:
        mined: Hard negatives.
        positive: Name of the positive's column.
        form: `"triplet"`: a row a negative. `"n-tuple"`: a row a pair that has all its negatives. `"labeled-pair"`:
            a row a document, with its label. `"labeled-list"`: a row a pair, its documents in a list.
        scores: Whether similarities stand in the rows (instead of labels, where there would be some).

    Raises:
        InputError: There is no such form.
    """
    if form not in _FORMS:
        raise InputError(f"output_format: expected one of {', '.join(map(repr, _FORMS))}, got {form!r}")
    return _FORMS[form](mined, positive, scores)


def _triplets(mined: Mined, positive: str, scores: bool) -> Table:
    of = mined.positives.queries
    found = mined.scores[of]
    pair, place = (found > NONE).nonzero(as_tuple=True)
    both = torch.stack([mined.positive_scores[pair], found[pair, place]], dim=1)
    return Table(
        queries=of[pair].tolist(),
        documents={
            positive: mined.positives.documents[pair].tolist(),
            "negative": mined.documents[of[pair], place].tolist(),
        },
        values=("scores", both.tolist()) if scores else None,
    )


def _tuples(mined: Mined, positive: str, scores: bool) -> Table:
    of = mined.positives.queries
    whole = (mined.scores[of] > NONE).all(dim=1)
    of, documents = of[whole], mined.positives.documents[whole]
    every = torch.cat([mined.positive_scores[whole].unsqueeze(1), mined.scores[of]], dim=1)
    negatives = {f"negative_{n}": column.tolist() for n, column in enumerate(mined.documents[of].T, start=1)}
    return Table(
        queries=of.tolist(),
        documents={positive: documents.tolist(), **negatives},
        values=("scores", every.tolist()) if scores else None,
    )


def _labeled_pairs(mined: Mined, positive: str, scores: bool) -> Table:
    """The positives of a query, then its negatives."""
    query, place = (mined.scores > NONE).nonzero(as_tuple=True)
    queries = torch.cat([mined.positives.queries, query])
    order = queries.sort(stable=True).indices
    documents = torch.cat([mined.positives.documents, mined.documents[query, place]])[order]
    labels = torch.cat([torch.ones_like(mined.positives.queries), torch.zeros_like(query)])[order]
    found = torch.cat([mined.positive_scores, mined.scores[query, place]])[order]
    return Table(
        queries=queries[order].tolist(),
        documents={positive: documents.tolist()},
        values=("score", found.tolist()) if scores else ("label", labels.tolist()),
    )


def _labeled_lists(mined: Mined, positive: str, scores: bool) -> Table:
    of = mined.positives.queries
    found = mined.scores[of] > NONE
    some = found.any(dim=1)
    of = of[some]
    keep = torch.cat([torch.ones_like(found[some][:, :1]), found[some]], dim=1)

    def lists(first: Tensor, others: Tensor) -> list[list[int]]:
        flat = torch.cat([first[some].unsqueeze(1), others[of]], dim=1)[keep]
        return [part.tolist() for part in torch.split(flat, keep.sum(dim=1).tolist())]

    ones, zeros = torch.ones_like(mined.positives.queries), torch.zeros_like(mined.documents)
    return Table(
        queries=of.tolist(),
        documents={positive: lists(mined.positives.documents, mined.documents)},
        values=("scores", [*lists(mined.positive_scores, mined.scores)])
        if scores
        else ("labels", [*lists(ones, zeros)]),
    )


_FORMS = {
    "triplet": _triplets,
    "n-tuple": _tuples,
    "labeled-pair": _labeled_pairs,
    "labeled-list": _labeled_lists,
}
