"""The sets of queries of a run: those that decide, on documents outside the test, and those that test."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.splits import Side
from omnitune.finetune.measure import TestSet, test_sets
from omnitune.finetune.negatives import TrainingPages
from omnitune.finetune.questions import Question, question_set
from omnitune.finetune.recipe import Retrieving

FEW = 30
"""Queries below which captions and headings decide beside titles, a training document judges no head, and the choice
says that they were few."""


class QuerySets:
    """Queries that decide and queries that test.

    Args:
        dataset: Pages and queries.
        questions: That a user brought; those about held-out documents test, those about others decide, and those with
            pages on both sides are left out.
        settings: How many titles decide, and the seed of their draw.
    """

    def __init__(self, dataset: DocumentDataset, questions: Sequence[Question], settings: Retrieving) -> None:
        self.dataset, self.questions, self.settings = dataset, questions, settings
        self.held_out = bool(dataset.validation.queries)

    def validation(self, *, held_out: bool = False) -> dict[str, TestSet | None]:
        """Queries that decide: titles, and questions where some were brought, of documents outside the test.

        Args:
            held_out: Only of the documents that judge what was trained.
        """
        row = {page: number for number, page in enumerate(self.dataset.page_ids)}
        sides: list[Side] = ["validation"] if held_out and self.held_out else ["train", "validation"]
        rows = sorted(row[page] for side in sides for page in self.dataset.pages_of(side))
        if held_out and not self.held_out:
            documents = self.dataset.tables["pages"]["document"]
            rows = [number for number in rows if documents[number] in self.judges]
        among = set(rows)
        asked = self.dataset.validation
        pairs = {text: {row[page] for page in asked.relevant[name]} for name, text in asked.queries.items()}
        if not (held_out and self.held_out):
            table = self.dataset.tables["train"]
            asking = list(zip(table["origin"], table["query"], table["page_id"], strict=True))
            taken = 0
            for best in ("title", "caption", "heading", "model", "sentence"):
                if taken >= FEW or (best == "sentence" and taken):
                    break  # sentences share their words with their page, so they speak for lexical search
                for origin, query, page in asking:
                    if origin == best and row[page] in among:
                        pairs.setdefault(query, set()).add(row[page])
                        taken += 1
        kept = [(query, sorted(pages & among)) for query, pages in sorted(pairs.items()) if pages & among]
        if len(kept) > self.settings.queries:
            drawn = np.random.default_rng(self.settings.seed).choice(len(kept), self.settings.queries, replace=False)
            kept = [kept[number] for number in sorted(drawn)]
        titles = TestSet(
            queries=[query for query, _ in kept],
            relevant=[pages for _, pages in kept],
            rows=rows,
            clusters=[pages[0] for _, pages in kept],
        )
        return {"titles": titles if kept else None, "questions": question_set(self.dataset, self.questions, rows)}

    @cached_property
    def judges(self) -> list[str]:
        """Documents that judge what was trained: those of validation or, without any, a training one kept from a head.

        That is the smallest with queries enough, where the others keep more than half of all.
        """
        if self.held_out:
            pages = set(self.dataset.pages_of("validation"))
            table = self.dataset.tables["pages"]
            named = zip(table["page_id"], table["document"], strict=True)
            return sorted({document for page, document in named if page in pages})
        if not len(self.dataset.tables["train"]):
            return []
        known = TrainingPages(self.dataset)
        asked = known.documents[known.positives.documents.numpy()]
        names, counts = np.unique(asked, return_counts=True)
        for place in np.argsort(counts, kind="stable"):
            if counts[place] >= FEW and 2 * counts[place] < counts.sum():
                return [str(names[place])]
        return []

    @property
    def sides(self) -> str:
        """Documents that decide, in words."""
        return f"training{' and validation' if self.held_out else ''} {self.dataset.kind.words.document}s"

    def tests(self) -> dict[str, TestSet]:
        """Test queries by name: titles and questions, each among held-out pages and, with " in all", among all."""
        near, far = test_sets(self.dataset)
        made = {"titles": near, "titles in all": far}
        asked = question_set(self.dataset, self.questions, near.rows)
        if asked is not None:
            everywhere = question_set(self.dataset, self.questions, far.rows, only=near.rows)
            assert everywhere is not None, "their pages are among all"
            made |= {"questions": asked, "questions in all": everywhere}
        return made
