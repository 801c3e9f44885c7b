"""A finished retriever on questions that a user brings: how well it answers them, beside lexical search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnitune import io
from omnitune.documents.dataset import load
from omnitune.errors import InputError
from omnitune.finetune.candidates import found_search
from omnitune.finetune.measure import METRIC, METRIC_SHOWN, OTHERS, TestSet, contrast, interval, score_search
from omnitune.finetune.questions import Question, read_questions
from omnitune.finetune.recipe import Evaluation
from omnitune.places import PREPARED
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import LexicalStage


def evaluate_questions(
    retriever: str | Path,
    questions: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    dataset: str | Path | None = None,
    settings: Evaluation | None = None,
) -> dict[str, Any]:
    """Measure a retriever on questions, and lexical search on the same ones.

    Args:
        retriever: Its folder.
        questions: File, or files (`questions.read_questions`).
        out: JSON file to write the results to; None writes none.
        dataset: Of the run that made it, where there is one: questions about documents that took part in the choice,
            or in training, are then counted apart from those about held-out ones.
        settings: How intervals are made.

    Returns:
        `{"retriever", "unknown", "results": [{"about", "queries", "pages", "metrics", "interval", "lexical",
        "difference", "p_value"}]}`; `unknown` counts questions of which a page is not in the retriever, and "lexical"
        is its NDCG@10. Interval and difference are of NDCG@10 as well.

    Raises:
        InputError: No question is about pages of the retriever, or a file cannot be read.

    Example:
        >>> evaluate_questions("RUN/retriever", "questions.jsonl")["results"][0]["metrics"]["NDCG@10"]
        0.86
    """
    opened = Retriever.open(retriever)
    files = [questions] if isinstance(questions, str | Path) else questions
    asked = [one for file in files for one in read_questions(file)]
    row_of = rows_of(opened)
    known = [one for one in asked if row_of.keys() >= set(one.pages)]
    if not known:
        raise InputError(
            f"questions: expected pages of the retriever such as {next(iter(row_of), '')!r} in some of {len(asked)} "
            f"questions, got {asked[0].pages if asked else 'no question'}"
        )
    settings = settings or Evaluation()
    texts = {name: str(opened.segments.details(row).get("text", "")) for name, row in row_of.items()}
    lexical = Retriever.build([{"id": name, "text": text} for name, text in texts.items()], [LexicalStage()])
    results = []
    for about, some in _groups(known, dataset).items():
        own, words = (score_search(found_search(one, _test(some, one)), _test(some, one)) for one in (opened, lexical))
        test = _test(some, opened)
        found = contrast(words, own, test, settings, label=about, dim=0)
        spread = interval(own.metrics[METRIC], test, settings)
        results.append(
            {
                "about": about,
                "queries": len(test.queries),
                "pages": len(test.rows),
                "metrics": {shown: own.mean(name) for name, shown in {METRIC: METRIC_SHOWN, **OTHERS}.items()},
                "interval": [spread.low, spread.high],
                "lexical": found.base.value,
                "difference": [found.difference.value, found.difference.low, found.difference.high],
                "p_value": found.p_value,
            }
        )
    made = {"retriever": str(retriever), "unknown": len(asked) - len(known), "results": results}
    if out is not None:
        io.write_json(out, made)
    return made


def _groups(questions: Sequence[Question], dataset: str | Path | None) -> dict[str, list[Question]]:
    """The questions, those about held-out documents apart from others where that is known."""
    if dataset is None or not (Path(dataset) / PREPARED).is_file():
        return {"documents": list(questions)}
    table = load(dataset).tables["pages"]
    side = dict(zip(table["page_id"], table["side"], strict=True))
    made: dict[str, list[Question]] = {}
    for one in questions:
        sides = {side.get(page, "added") for page in one.pages}
        about = {"test": "held-out documents", "added": "documents added later"}
        name = about.get(sides.pop(), "documents that took part") if len(sides) == 1 else "documents that took part"
        made.setdefault(name, []).append(one)
    return made


def _test(questions: Sequence[Question], retriever: Retriever) -> TestSet:
    row_of = rows_of(retriever)
    relevant = [sorted({row_of[page] for page in one.pages}) for one in questions]
    return TestSet(
        queries=[one.text for one in questions],
        relevant=relevant,
        rows=sorted(row_of.values()),
        clusters=[pages[0] for pages in relevant],
    )


def rows_of(retriever: Retriever) -> dict[str, int]:
    """Row of every page that is there, by its id."""
    starts = retriever.segments.starts()
    return {name: int(starts[part]) + row for name, (part, row) in retriever.segments.ids().items()}
