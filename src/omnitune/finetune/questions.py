"""Questions that people bring: a file of them with the pages that answer each, split between training side and test."""

import csv
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnitune.documents.dataset import DocumentDataset
from omnitune.errors import InputError
from omnitune.finetune.measure import TestSet
from omnitune.io import read_jsonl
from omnitune.places import hint


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the ids of all pages that answer it, such as `("R-lang.pdf#18",)`."""

    text: str
    pages: tuple[str, ...]


def read_questions(path: str | Path) -> list[Question]:
    """Read questions: JSON Lines with `question` and `pages`, or CSV with those columns, ids separated by spaces.

    Raises:
        InputError: There is no such file, or a row lacks one of the two; the row is named.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"questions: expected a file of questions, got {str(path)!r}, where none is")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = [{**row, "pages": (row.get("pages") or "").split()} for row in csv.DictReader(file)]
        else:
            rows = list(read_jsonl(path))
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"questions: expected JSON Lines or CSV in {path}, got: {error}") from error
    except OSError as error:
        raise InputError(f"questions: {path} cannot be read: {error.strerror}") from error
    made = []
    for number, row in enumerate(rows, start=1):
        fields = row if isinstance(row, dict) else {}
        text, pages = fields.get("question"), fields.get("pages")
        pages = [pages] if isinstance(pages, str) else pages
        if not isinstance(text, str) or not text.strip() or not isinstance(pages, list) or not pages:
            got = reprlib.repr(row)
            raise InputError(f"questions: expected 'question' and 'pages' in every row, got {got} in row {number}")
        made.append(Question(text.strip(), tuple(map(str, pages))))
    return made


def known_questions(
    questions: Sequence[Question], dataset: DocumentDataset, log: Callable[[str], None]
) -> list[Question]:
    """The questions whose pages are there, and a line about what becomes of all.

    Raises:
        InputError: None is.
    """
    table = dataset.tables["pages"]
    side = dict(zip(table["page_id"], table["side"], strict=True))
    lost = [(one, page) for one in questions for page in one.pages if page not in side]
    without = {one for one, _ in lost}
    kept = [one for one in questions if one not in without]
    if lost:
        document, _, page = lost[0][1].rpartition("#")
        names = list(dict.fromkeys(table["document"]))
        reason = f"which has no page {page}" if document in names else f"which is not there{hint(document, names)}"
        if not kept:
            raise InputError(
                f"questions: expected pages of these documents such as {dataset.page_ids[0]!r}, got {lost[0][1]!r} "
                f"of {document!r}, {reason}"
            )
        log(f"{len(without)} of {len(questions)} questions are left out: one is about {document!r}, {reason}")
    if kept:
        sides = [{side[page] for page in one.pages} for one in kept]
        tests, chosen = sum(one == {"test"} for one in sides), sum("test" not in one for one in sides)
        both = len(kept) - tests - chosen
        log(
            f"Questions: {tests} about held-out {dataset.kind.words.document}s test, {chosen} help to choose"
            + (f"; {both} with pages of both are left out" if both else "")
        )
    return kept


def question_set(
    dataset: DocumentDataset, questions: Sequence[Question], rows: Sequence[int], *, only: Sequence[int] | None = None
) -> TestSet | None:
    """The questions whose answers all lie in some pages.

    Args:
        dataset: The pages.
        questions: Any questions; those about other pages are left out.
        rows: Pages that are searched.
        only: Pages in which all answers must lie; None takes `rows`.
    """
    row = {page: number for number, page in enumerate(dataset.page_ids)}
    among = set(rows if only is None else only)
    asked = [(one, sorted({row[page] for page in one.pages if page in row})) for one in questions]
    kept = [(one, pages) for one, pages in asked if len(pages) == len(set(one.pages)) and among.issuperset(pages)]
    if not kept:
        return None
    return TestSet(
        queries=[one.text for one, _ in kept],
        relevant=[pages for _, pages in kept],
        rows=list(rows),
        clusters=[pages[0] for _, pages in kept],
    )
