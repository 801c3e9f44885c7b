"""The gate: whether something that answers in place of a model gives what the model gives, on real items.

Numbers first: vectors (or scores) of queries and documents of all lengths, the shortest and one that is cut among them;
the same item alone and beside a long one; the tokens that prompts and truncation leave. Then what users see: the first
ten documents of real queries, and NDCG with an interval over queries. Anything that fails, fails the gate.
"""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from omnitune import io
from omnitune.documents.dataset import DocumentDataset
from omnitune.errors import InputError
from omnitune.evaluation.ranking import Relevance, rank_scores, score_ranking
from omnitune.export.graphs import modules_in
from omnitune.export.targets import ModelTarget, Target
from omnitune.finetune.measure import bm25_search, test_sets
from omnitune.model.base import Model
from omnitune.ops.significance import paired_bootstrap

Precision = Literal["float32", "int8"]
EXACT = 1e-4
"""Largest difference of two vectors, as a share of the length of the first, that counts as equal in float32."""

LENGTHS = 0.05
"""Largest difference of their lengths in 8 bits, where directions are judged by the ranking."""

TOP = 10
CANDIDATES = 20
"""Documents of a query that a reranker scores, besides those that answer it."""

MARK = "<!-- omnitune gate -->"
_ODD = ("?", "a", "42")
_WORDS = "the pump runs at night and its bearing is greased every second week"
SENTENCES = (
    "how often is the bearing greased",
    "The bearing of the pump is greased every second week; without grease it wears out within a year.",
    "Rückgabe innerhalb von 30 Tagen",
    "Prices are in euros, taxes are not included.",
    _WORDS,
)
"""Texts where there is no dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was compared.

    Attributes:
        name: What.
        found: Result, for people.
        expected: Limit, for people; "" where it is only told.
        passed: Whether it is within its limit.
        value: The number, where it is one.
    """

    name: str
    found: str
    expected: str = ""
    passed: bool = True
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of the gate.

    Attributes:
        target: What was compared with the model.
        precision: Of its numbers.
        items: Queries and documents that were compared.
        checks: One after another.
    """

    target: str
    precision: Precision
    items: int
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True where every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; a value that is no finite number is null, as `found` says it in words."""
        made = {**asdict(self), "passed": self.passed}
        for check in made["checks"]:
            if check["value"] is not None and not math.isfinite(check["value"]):
                check["value"] = None
        return made

    def rows(self) -> list[list[str]]:
        """Cells of a table: check, found, expected, verdict."""
        said = {True: "passed", False: "FAILED"}
        return [[c.name, c.found, c.expected, said[c.passed] if c.expected else ""] for c in self.checks]

    def to_markdown(self) -> str:
        """A section of a model card."""
        lines = [f"{'Passed' if self.passed else 'Failed'}: {self.target}, {self.precision}, {self.items:,} items.", ""]
        lines += ["| check | found | expected | |", "|---|---|---|---|"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Queries and documents to compare.

    Attributes:
        queries: Texts.
        documents: Texts or images.
        relevant: Rows of the documents that answer each query; empty where that is not known.
        clusters: Unit of each query when resampling.
        texts: Texts of the documents.
    """

    queries: list[str]
    documents: list[Any]
    relevant: list[list[int]] = field(default_factory=list)
    clusters: list[Hashable] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def items_of(dataset: DocumentDataset | None, *, images: bool = False) -> Items:
    """Held-out queries and pages of a dataset; without one, some sentences.

    Args:
        dataset: From `prepare`.
        images: Whether documents are page images rather than their texts.

    Raises:
        InputError: The pages have no texts, and images are not asked for.
    """
    if dataset is None:
        return Items(queries=list(SENTENCES[:3]), documents=list(SENTENCES), texts=list(SENTENCES))
    test, _ = test_sets(dataset)
    texts = [dataset.page_texts[row] for row in test.rows]
    if not images and not any(texts):
        raise InputError("data: expected pages with texts for a model of texts, got none; prepare pages that have them")
    place = {row: column for column, row in enumerate(test.rows)}
    return Items(
        queries=list(test.queries),
        documents=[dataset.pages[row] for row in test.rows] if images else [text or "?" for text in texts],
        relevant=[[place[row] for row in rows] for rows in test.relevant],
        clusters=list(test.clusters),
        texts=texts,
    )


def check(
    reference: Model, target: Target, items: Items, *, precision: Precision = "float32", timed: int = 40
) -> Verdict:
    """Compare what answers in place of a model with the model.

    Args:
        reference: The model, in torch.
        target: The graph, or the server.
        items: From `items_of`.
        precision: In "int8" numbers are told and lengths and rankings are judged.
        timed: Queries that are timed one by one.
    """
    verdict = Verdict(target=target.name, precision=precision, items=len(items.queries) + len(items.documents))
    here = ModelTarget(reference, "torch")
    pairs = reference.family.arity == 2
    if isinstance(target, ModelTarget) and target.model.graph is not None and target.model.graph.whole:
        wanted, found = modules_in(reference), list(target.model.graph.facts.get("modules", []))
        verdict.checks.append(
            Check(name="modules", found=", ".join(found), expected=", ".join(wanted), passed=wanted == found)
        )
    if isinstance(target, ModelTarget):
        verdict.checks.append(_same_tokens(reference, target.model, items, pairs=pairs))
    rankings = _compare_pairs if pairs else _compare_vectors
    ours, theirs = rankings(here, target, items, verdict)
    if items.relevant:
        _judge_rankings(ours, theirs, items, verdict)
    verdict.checks.extend(_timed(here, target, items, timed, pairs=pairs))
    return verdict


# --- the same numbers -------------------------------------------------------------------------------------------------


def _same_tokens(reference: Model, other: Model, items: Items, *, pairs: bool) -> Check:
    """Compare the tokens of queries and documents with their prompts, one text that is cut among them."""
    different = total = 0
    texts = [text for text in [*items.queries[:50], *items.texts[:50], *_ODD, _too_long(reference)] if text]
    inputs: list[Any] = [(items.queries[0], text) for text in texts] if pairs else texts
    for role in ("query", "document"):
        for item in inputs:
            ids = [_ids(model, item, None if pairs else role) for model in (reference, other)]
            different += not torch.equal(*ids)
            total += 1
    return Check(
        name="tokens, with prompts and truncation",
        found=f"{total - different} of {total} texts alike",
        expected="all",
        passed=not different,
        value=float(different),
    )


def _ids(model: Model, item: Any, role: str | None) -> torch.Tensor:
    named = {"query": ("query",), "document": ("document", "passage", "corpus"), None: ()}[role]
    name = next((one for one in named if one in model.prompts), model.default_prompt_name)
    features = model.preprocess([item], None if name is None else model.prompts[name], task=role)
    ids: torch.Tensor = features["input_ids"]
    return ids


def _too_long(model: Model) -> str:
    limit = model.max_seq_length or 512
    return " ".join([_WORDS] * (min(limit, 8192) // 8 + 8))


def _compare_vectors(
    here: ModelTarget, target: Target, items: Items, verdict: Verdict
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare vectors of every item, and of one item beside a long one; similarities `(queries, documents)` of both."""
    exact = verdict.precision == "float32"
    made: dict[str, tuple[list[Any], list[Any]]] = {}
    odd = [*_ODD, _too_long(here.model)]
    for role, own in (("query", items.queries), ("document", items.documents)):
        asked = [*own, *odd]
        made[role] = ours, theirs = here.encode(asked, role), target.encode(asked, role)
        verdict.checks.append(_equal(f"{role} vectors", ours, theirs, exact=exact))
    short, long = items.queries[0], _too_long(here.model)
    both = target.together if isinstance(target, ModelTarget) else target.encode
    beside = both([short, long], "query")[:1]
    # Where padding changes the model's own vector, as of SigLIP's texts, the graph's shall change in the same way.
    own = here.together([short, long], "query")[:1]
    masked = _equal("", here.encode([short], "query"), own, exact=True).passed
    alone = target.encode([short], "query") if masked else own
    verdict.checks.append(_equal("alone and beside a long text", alone, beside, exact=exact, limit=exact))
    scores = []
    for at in (0, 1):
        queries, documents = made["query"][at][: len(items.queries)], made["document"][at][: len(items.documents)]
        scores.append(_similarities(here.model, queries, documents))
    return scores[0], scores[1]


def _similarities(model: Any, queries: list[Any], documents: list[Any]) -> torch.Tensor:
    if queries[0].ndim == 1:
        if len({len(one) for one in [*queries, *documents]}) > 1:
            return torch.zeros(len(queries), len(documents))
        return torch.as_tensor(model.similarity(np.stack(queries), np.stack(documents)))
    tensors = [[torch.from_numpy(one) for one in side] for side in (queries, documents)]
    return torch.as_tensor(model.similarity(*tensors))


def _equal(
    name: str, ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]], *, exact: bool, limit: bool = True
) -> Check:
    """Compare arrays one by one: the length of the largest difference, as a share of the length of the first."""
    worst = worst_length = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape:
            return Check(name=name, found=f"shape {other.shape}", expected=f"shape {one.shape}", passed=False)
        length = max(float(np.linalg.norm(one)), 1e-12)
        difference = float(np.linalg.norm(one.astype(np.float64) - other)) / length
        if not np.isfinite(difference):
            return Check(name=name, found="not a number", expected="numbers", passed=False)
        worst = max(worst, difference)
        worst_length = max(worst_length, abs(float(np.linalg.norm(other)) / length - 1))
    found = f"differ by {worst:.1e} at most"
    if exact:
        return Check(name=name, found=found, expected=f"{EXACT:.0e}", passed=worst <= EXACT, value=worst)
    found = f"{found}, lengths by {worst_length:.1e}"
    within = not limit or worst_length <= LENGTHS
    return Check(name=name, found=found, expected=f"lengths by {LENGTHS}" if limit else "", passed=within, value=worst)


def _compare_pairs(
    here: ModelTarget, target: Target, items: Items, verdict: Verdict
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare scores of every query with the documents that answer it and those that share its words."""
    exact = verdict.precision == "float32"
    texts = [text or "?" for text in items.texts]
    found = bm25_search(items.queries, texts)(slice(0, len(items.queries))).rows[:, :CANDIDATES].tolist()
    answers = items.relevant or [[] for _ in items.queries]
    ours, theirs = (torch.full((len(items.queries), len(texts)), -torch.inf) for _ in range(2))
    long = _too_long(here.model)
    rows: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for number, query in enumerate(items.queries):
        some = sorted({*found[number], *answers[number]})
        asked = [*(texts[row] for row in some), *_ODD, long]
        pair = here.scores(query, asked), target.scores(query, asked)
        rows.append(pair)
        for table, scores in zip((ours, theirs), pair, strict=True):
            flat = scores if scores.ndim == 1 else scores[:, -1]
            table[number, some] = torch.from_numpy(np.ascontiguousarray(flat[: len(some)]))
    worst = max(float(np.abs(one - other).max()) for one, other in rows)
    limit = {"expected": f"{EXACT:.0e}", "passed": worst <= EXACT} if exact else {}
    verdict.checks.append(Check(name="scores", found=f"differ by {worst:.1e} at most", value=worst, **limit))  # type: ignore[arg-type]  # of one of two shapes
    alone, beside = target.scores(items.queries[0], texts[:1]), target.scores(items.queries[0], [texts[0], long])
    verdict.checks.append(_equal("alone and beside a long text", [alone], [beside[:1]], exact=exact, limit=False))
    return ours, theirs


# --- the same ranking -------------------------------------------------------------------------------------------------


def _judge_rankings(ours: torch.Tensor, theirs: torch.Tensor, items: Items, verdict: Verdict) -> None:
    """Compare the first documents of every query, and NDCG with an interval."""
    top = min(TOP, ours.shape[1])
    hits = [rank_scores(scores, top) for scores in (ours, theirs)]
    shared = [
        len(set(one) & set(other)) / top
        for one, other in zip(hits[0].rows.tolist(), hits[1].rows.tolist(), strict=True)
    ]
    first = float((hits[0].rows[:, 0] == hits[1].rows[:, 0]).double().mean())
    verdict.checks.append(
        Check(name=f"first {top} documents shared", found=f"{np.mean(shared):.3f}", value=float(np.mean(shared)))
    )
    verdict.checks.append(Check(name="first document alike", found=f"{first:.3f}", value=first))
    relevance = Relevance.of(items.relevant)
    before, after = (score_ranking(one, relevance, ndcg=[TOP])[f"ndcg@{TOP}"].numpy() for one in hits)
    found = paired_bootstrap(before, after, clusters=items.clusters or None)
    verdict.checks.append(
        Check(
            name=f"NDCG@{TOP} of {found.queries:,} queries",
            found=f"{found.candidate:.4f} against {found.baseline:.4f}: {found.difference:+.4f} "
            f"[{found.low:+.4f}, {found.high:+.4f}]",
            expected="not measurably worse",
            passed=found.high >= 0,
            value=found.difference,
        )
    )


def _timed(here: ModelTarget, target: Target, items: Items, count: int, *, pairs: bool) -> list[Check]:
    """Milliseconds of one query at a time, in turns, with as many threads."""
    seconds: dict[str, list[float]] = {here.name: [], target.name: []}
    for query in items.queries[:count]:
        for one in (here, target):
            call: Callable[[], Any] = (
                (lambda one=one, query=query: one.scores(query, items.texts[:4]))  # type: ignore[misc]
                if pairs
                else (lambda one=one, query=query: one.encode([query], "query"))  # type: ignore[misc]
            )
            start = time.perf_counter()
            call()
            seconds[one.name].append(time.perf_counter() - start)
    median = {name: 1000 * float(np.median(values)) for name, values in seconds.items() if values}
    what = "a query with four documents" if pairs else "a query"
    return [Check(name=f"p50 of {what}, {name}", found=f"{ms:.1f} ms", value=ms) for name, ms in median.items()]


# --- where it is written ----------------------------------------------------------------------------------------------


def write_verdict(verdict: Verdict, folder: Path) -> Path:
    """Write `check.json` into the folder of the graphs, and the table into the card beside it."""
    path = folder / ("check.json" if verdict.precision == "float32" else f"check_{verdict.precision}.json")
    io.write_json(path, verdict.to_json())
    card = folder.parent / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    mark = MARK.replace("gate", f"gate {folder.name} {verdict.precision}")
    before, _, rest = text.partition(mark)
    after = rest.partition(mark)[2]
    section = f"{mark}\n## Graph ({folder.name}), compared with the model\n\n{verdict.to_markdown()}\n{mark}"
    with io.writing(card) as temporary:
        temporary.write_text(f"{before.rstrip()}\n\n{section}{after or chr(10)}".lstrip(), encoding="utf-8")
    return path
