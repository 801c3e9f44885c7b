"""The mining step of a run: hard negatives for the training pairs, found with the base model among training pages.

A page that follows or precedes the right one, or nearly is it, often answers the query as well, so it is never taken;
neither is a page of a held-out document, nor one that is left out of training. `negatives.jsonl` lists what was taken.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from omnitune.data.hard_negatives import Pairs, Rules
from omnitune.documents.dataset import DocumentDataset
from omnitune.errors import DatasetError
from omnitune.finetune.choose import ModelChoice
from omnitune.finetune.measure import Matrix, base_inputs, load_test, unit
from omnitune.finetune.recipe import Negatives
from omnitune.finetune.steps import Log, Steps
from omnitune.io import read_jsonl, write_jsonl
from omnitune.model.dense import SentenceTransformer
from omnitune.retrieval.mining import mine

DEPTH = 1000
"""Nearest pages that are looked at for a query; the rules refuse some."""

FILE = "negatives.jsonl"


def training_rows(steps: Steps, chosen: ModelChoice, dataset: DocumentDataset, log: Log) -> Dataset:
    """Query, page and, where the recipe wants them, hard negatives, mined unless they were.

    Args:
        steps: Of the run; embeddings of all pages by the base model are taken from its folder where they are there.
        chosen: Model and settings.
        dataset: Pages and training pairs.
        log: Called with what was mined.

    Raises:
        DatasetError: No query has enough negatives.
    """
    settings = chosen.recipe.negatives
    if not settings.count:
        return dataset.train
    place = steps.folder / FILE
    inputs = {
        "dataset": dataset.training_key,
        "model": chosen.identity(),
        "negatives": chosen.recipe.settings()["negatives"],
    }
    size = chosen.recipe.evaluation.batch_size

    def work(_: str) -> dict[str, Any]:
        # Embeddings in the folder may be of another model or dataset: only those of the same inputs are used.
        there = steps.holds("base", base_inputs(chosen, dataset))
        known = load_test(steps.folder / "embeddings" / "base")[1] if there else None
        return mine_pages(chosen.load(), dataset, settings, place, known=known, batch_size=size)

    steps.run("negatives", inputs, work, makes=[place])
    told = steps.done["negatives"].result
    refused = "; ".join(f"{rule}: {count:,}" for rule, count in told["refused"].items())
    log(f"Hard negatives: {settings.count} for each of {told['queries']:,} pairs; refused: {refused or 'none'}")
    wrong = dataset.facts.get("wrong_pages", {})  # what people called wrong goes before what was mined
    found = [
        {**one, "negatives": [*dict.fromkeys([*wrong.get(one["query"], ()), *one["negatives"]])][: settings.count]}
        for one in read_jsonl(place)
    ]
    columns = {"query": [one["query"] for one in found], "page": [one["page_id"] for one in found]}
    columns |= {f"negative_{n + 1}": [one["negatives"][n] for one in found] for n in range(settings.count)}
    return dataset.with_pages(columns, [name for name in columns if name != "query"])


def mine_pages(
    model: SentenceTransformer,
    dataset: DocumentDataset,
    settings: Negatives,
    place: Path,
    *,
    known: Matrix | None,
    batch_size: int,
) -> dict[str, Any]:
    """Mine hard negatives for the training pairs into the file `place`.

    Args:
        model: Finds the nearest pages.
        dataset: Pages and training pairs.
        settings: How many, and what they have to be.
        place: A row a pair: `query`, `page_id`, `score`, `negatives` (page ids), `scores`.
        known: Embeddings of all pages by this model `(pages, dim)`; None encodes the training pages.
        batch_size: Items encoded at once.

    Returns:
        Pairs that have their negatives, pairs that lack some, and candidates refused by the rule in words.

    Raises:
        DatasetError: No query has enough negatives.
    """
    pages = TrainingPages(dataset)
    if known is not None:
        encoded = known[pages.usable]
    else:
        items = [dataset.items[row] for row in pages.usable]
        encoded = model.encode_document(items, batch_size=batch_size)
    asked = model.encode_query(pages.queries, batch_size=batch_size, show_progress_bar=False)
    rules = Rules(
        num_negatives=settings.count,
        range_min=settings.range_min,
        range_max=settings.range_max,
        max_score=settings.max_score,
        min_score=settings.min_score,
        absolute_margin=settings.absolute_margin,
        relative_margin=settings.relative_margin,
        sampling_strategy=settings.sampling,
        seed=settings.seed,
    )
    mined = mine(unit(asked), unit(encoded), pages.positives, rules, excluded=pages.excluded(settings), depth=DEPTH)
    found: list[dict[str, Any]] = []  # a training pair that has all its negatives
    positives = (mined.positives.queries, mined.positives.documents, mined.positive_scores)
    for query, page, score in zip(*(column.tolist() for column in positives), strict=True):
        if (mined.documents[query] >= 0).all():
            found.append(
                {
                    "query": pages.queries[query],
                    "page_id": pages.ids[page],
                    "score": round(score, 4),
                    "negatives": [pages.ids[row] for row in mined.documents[query].tolist()],
                    "scores": [round(one, 4) for one in mined.scores[query].tolist()],
                }
            )
    write_jsonl(place, found)
    left = len(pages.positives.queries) - len(found)
    if not found:
        raise DatasetError(
            f"negatives.count: expected at least {settings.count} allowed pages for some query, got none for any; "
            "lower negatives.count, or relative_margin or neighbours"
        )
    refused = {_WORDS.get(rule, rule): count for rule, count in mined.dropped.items() if count}
    return {"queries": len(found), "without": left, "refused": refused}


_WORDS = {
    "positive": "answers the query",
    "relative_margin": "scores too near the right page (relative_margin)",
    "absolute_margin": "scores too near the right page (absolute_margin)",
    "max_score": "scores too high (max_score)",
    "min_score": "scores too low (min_score)",
}


class TrainingPages:
    """Training pages and pairs in numbers: a page is its place in `usable`, a query its place in `queries`.

    Args:
        dataset: Pages and training pairs.
        further: Pairs of a query and a page's id that join them; those of other pages are left out.
        without: Training documents that are left out.
    """

    def __init__(
        self, dataset: DocumentDataset, further: Sequence[tuple[str, str]] = (), without: Collection[str] = ()
    ) -> None:
        table = dataset.tables["pages"]
        columns = (table["side"], table["left_out_for"], table["document"])
        free = [side == "train" and not held and of not in without for side, held, of in zip(*columns, strict=True)]
        self.usable: NDArray[np.int64] = np.flatnonzero(free)
        self.ids = [dataset.page_ids[row] for row in self.usable]
        self.documents = np.array(table["document"])[self.usable]
        self.numbers = np.array(table["number"])[self.usable]
        self.groups = np.array(table["group"])[self.usable]
        train, usable = dataset.tables["train"], set(self.ids)
        asked = [*zip(train["query"], train["page_id"], strict=True), *further]
        asked = [pair for pair in asked if pair[1] in usable]
        self.queries = list(dict.fromkeys(query for query, _ in asked))
        query, page = ({name: place for place, name in enumerate(names)} for names in (self.queries, self.ids))
        pairs = sorted({(query[one], page[of]) for one, of in asked})
        numbers = torch.tensor(pairs, dtype=torch.int64)
        self.positives = Pairs(numbers[:, 0].contiguous(), numbers[:, 1].contiguous())

    def excluded(self, settings: Negatives) -> dict[str, Pairs]:
        """Pairs of a query and a page that is no negative for standing too near a right one."""
        near = self._related(
            [places for step in range(1, settings.neighbours + 1) for places in (self._moved(step), self._moved(-step))]
        )
        found = {"neighbour of the right page": near} if settings.neighbours else {}
        if settings.near_duplicates:
            found["near-duplicate of the right page"] = self._alike()
        return found

    def _moved(self, step: int) -> NDArray[np.int64]:
        """For every page the place of the one `step` pages on in its document, -1 where that is no training page."""
        place = {key: row for row, key in enumerate(zip(self.documents, self.numbers.tolist(), strict=True))}
        wanted = zip(self.documents, (self.numbers + step).tolist(), strict=True)
        return np.array([place.get(key, -1) for key in wanted])

    def _related(self, tables: Sequence[NDArray[np.int64]]) -> Pairs:
        rows = self.positives.documents.numpy()
        queries = [self.positives.queries.numpy()[table[rows] >= 0] for table in tables]
        documents = [table[rows][table[rows] >= 0] for table in tables]
        return _pairs(queries, documents)

    def _alike(self) -> Pairs:
        members: dict[int, list[int]] = {}
        for row, group in enumerate(self.groups.tolist()):
            members.setdefault(group, []).append(row)
        pairs = zip(self.positives.queries.tolist(), self.positives.documents.tolist(), strict=True)
        found = [(query, other) for query, row in pairs for other in members[int(self.groups[row])] if other != row]
        numbers = np.array(found, dtype=np.int64).reshape(-1, 2)
        return _pairs([numbers[:, 0]], [numbers[:, 1]])


def _pairs(queries: Sequence[NDArray[np.int64]], documents: Sequence[NDArray[np.int64]]) -> Pairs:
    if not queries:
        return Pairs(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    return Pairs(torch.from_numpy(np.concatenate(queries)), torch.from_numpy(np.concatenate(documents)))
