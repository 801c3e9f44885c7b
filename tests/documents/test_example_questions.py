"""The questions that come with the example documents name pages that exist, on the right side of the demo's split."""

import json
from pathlib import Path

import pypdfium2
import pytest

from omnitune.cli.demo import HELD_OUT

FOLDER = Path(__file__).parents[2] / "examples" / "documents"


def rows_of(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def pages_of_document() -> dict[str, int]:
    return {path.name: len(pypdfium2.PdfDocument(path)) for path in FOLDER.glob("*.pdf")}


@pytest.mark.parametrize(("name", "least"), [("questions.jsonl", 120), ("questions-train.jsonl", 60)])
def test_questions_are_distinct_and_name_existing_pages(
    name: str, least: int, pages_of_document: dict[str, int]
) -> None:
    rows = rows_of(name)
    assert len({row["question"] for row in rows}) == len(rows) >= least
    for row in rows:
        assert row["pages"], row
        for page in row["pages"]:
            document, number = page.split("#")
            assert 1 <= int(number) <= pages_of_document[document], row


def test_no_training_question_is_answered_on_a_held_out_page() -> None:
    for row in rows_of("questions-train.jsonl"):
        assert not {page.split("#")[0] for page in row["pages"]} & set(HELD_OUT), row


def test_every_test_question_was_written_for_a_held_out_page() -> None:
    for row in rows_of("questions.jsonl"):
        assert row["pages"][0].split("#")[0] in HELD_OUT, row
