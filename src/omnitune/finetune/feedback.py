"""Votes of the search page: part of them train, part of them test what the training gained.

A question to held-out documents is part of the test, and so is half of all others, chosen by a hash of the question, so
that it stays where it is when more votes come. What tests is neither trained on nor helps to choose a retriever.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import concatenate_datasets

from omnitune import io
from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.read.text import normalize_key
from omnitune.errors import InputError
from omnitune.finetune.choose import ModelChoice, loading
from omnitune.finetune.measure import TestSet, contrast, cosine_search, load_test, score_search
from omnitune.finetune.questions import Question, question_set
from omnitune.finetune.recipe import Evaluation
from omnitune.finetune.steps import Log, Steps
from omnitune.io import digest
from omnitune.model.dense import SentenceTransformer
from omnitune.report.parts import Contrast

logger = logging.getLogger(__name__)

ORIGIN = "vote"
_RIGHT = ("yes", "passage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Holds what people said about hits.

    Attributes:
        questions: With the pages that answer each.
        wrong: Pages that do not answer a question, by its text.
    """

    questions: Sequence[Question]
    wrong: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """Votes on the pages of a dataset.

    Attributes:
        dataset: The dataset with training pairs of the votes; its facts have `trained_on` and `wrong_pages`.
        training: Questions that may help to choose a retriever.
        test: Questions that were held out, searched among all pages; None without any.
    """

    dataset: DocumentDataset
    training: Sequence[Question]
    test: TestSet | None


def read_votes(path: str | Path) -> Votes:
    """Read `feedback.jsonl`; of several votes on a question and a page the last one counts, damaged lines none.

    Raises:
        InputError: There is no such file, or no vote in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"feedback: expected a file of votes, got {str(path)!r}, where none is")
    last: dict[tuple[str, str], str] = {}
    texts: dict[str, str] = {}
    damaged = 0
    for line in path.read_bytes().splitlines():
        try:
            one = json.loads(line)
            query, page, label = one["query"].strip(), one["page"], one["label"]
            known = label in (*_RIGHT, "no") and isinstance(page, str) and bool(normalize_key(query))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            known = False
        if not known:
            damaged += bool(line.strip())
            continue
        key = normalize_key(query)
        texts.setdefault(key, query)
        last[key, page] = label
    if damaged:
        logger.warning("%s: %d line(s) are no votes and are left out", path, damaged)
    if not last:
        raise InputError(f"feedback: expected votes in {str(path)!r}, got none; the search page writes them")
    right: dict[str, list[str]] = {}
    wrong: dict[str, list[str]] = {}
    for (key, page), label in last.items():
        (wrong if label == "no" else right).setdefault(texts[key], []).append(page)
    return Votes(questions=[Question(text, tuple(sorted(pages))) for text, pages in right.items()], wrong=wrong)


def divide(votes: Votes, dataset: DocumentDataset, log: Log) -> Divided:
    """Split votes into training pairs and a test, and add the former to the pairs of a dataset.

    Args:
        votes: Of `read_votes`; those on pages that are not in the dataset are left out.
        dataset: Pages and pairs, whose split is kept.
        log: Called with how many there are of each.
    """
    table = dataset.tables["pages"]
    columns = ("page_id", "side", "left_out_for", "image", "document")
    known = {row[0]: row[1:] for row in zip(*(table[name] for name in columns), strict=True)}
    asked = {normalize_key(query) for query in (*dataset.test_queries, *dataset.validation.queries.values())}
    training: list[Question] = []
    held_out: list[Question] = []
    pairs: list[dict[str, Any]] = []
    for question in votes.questions:
        pages = [page for page in question.pages if page in known]
        if not pages:
            continue
        # Half of all questions test, each always on the same side.
        hashed = hashlib.sha256(normalize_key(question.text).encode("utf-8", "surrogatepass")).digest()
        if hashed[0] % 2 or any(known[page][0] != "train" for page in pages):
            held_out.append(Question(question.text, tuple(pages)))
            continue
        training.append(Question(question.text, tuple(pages)))
        for page in pages:
            _, left_out, image, document = known[page]
            if not left_out and normalize_key(question.text) not in asked:
                pairs.append({"query": question.text, "page_id": page, "image": image, "origin": ORIGIN,
                              "document": document})  # fmt: skip
    trained = {one["query"] for one in pairs}
    wrong = {
        text: [page for page in pages if page in known and known[page][:2] == ("train", "")]
        for text, pages in votes.wrong.items()
        if text in trained
    }
    test = question_set(dataset, held_out, range(len(dataset.page_ids)))
    strangers = len(votes.questions) - len(training) - len(held_out)
    log(
        f"Votes: {len(pairs):,} training pairs of {len(trained):,} questions, {len(held_out):,} questions held out as "
        f"a test, {sum(map(len, wrong.values())):,} wrong pages"
        + (f"; {strangers:,} questions are about pages that are not here" if strangers else "")
    )
    facts = {
        **dataset.facts,
        "trained_on": digest([dataset.fingerprint, pairs, wrong]),
        "wrong_pages": wrong,
    }
    tables = dataset.tables
    if pairs:
        train = tables["train"]
        added = type(train).from_list(pairs, features=train.features)
        tables = type(tables)({**tables, "train": concatenate_datasets([train, added])})
    return Divided(dataset=replace(dataset, tables=tables, facts=facts), training=training, test=test)


def encode_votes(steps: Steps, chosen: ModelChoice, test: TestSet) -> None:
    """Encode the held-out questions with the base model and the finetuned one."""
    place = steps.folder / "embeddings" / "votes.npz"
    inputs = {"queries": list(test.queries), "base": steps.done["base"].key, "train": steps.done["train"].key}

    def work(_: str) -> None:
        models = {
            "base": chosen.load(),
            "finetuned": SentenceTransformer(str(steps.folder / "model"), **loading(chosen.recipe)),
        }
        made: dict[str, Any] = {
            name: model.encode_query(list(test.queries), show_progress_bar=False) for name, model in models.items()
        }
        with io.writing(place) as temporary, temporary.open("wb") as file:
            np.savez(file, **made)

    steps.run("votes", inputs, work, makes=[place])


def vote_contrast(steps: Steps, test: TestSet, settings: Evaluation) -> Contrast:
    """Compare base and finetuned model on the held-out questions of votes, among all pages."""
    found = {}
    with np.load(steps.folder / "embeddings" / "votes.npz", allow_pickle=False) as queries:
        for name in ("base", "finetuned"):
            pages = load_test(steps.folder / "embeddings" / name)[1]
            found[name] = score_search(cosine_search((queries[name], pages), test.rows), test)
    label = f"{len(test.queries):,} questions that people voted on, held out"
    return contrast(found["base"], found["finetuned"], test, settings, label=label, dim=pages.shape[1])
