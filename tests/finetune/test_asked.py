"""A retriever on questions that a user brings."""

import json
from pathlib import Path

import pytest

from omnitune import Retriever
from omnitune.errors import InputError
from omnitune.finetune.asked import evaluate_questions
from omnitune.retrieval.stages import LexicalStage, LineStage

TEXTS = [
    "Greasing the bearing\nis done every week with oil",
    "Oil\nis changed once a year, never mixed",
    "Safety\nwear gloves near the belt",
    "Belts\nare tightened when they slip",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    pages = [{"id": f"pump.pdf#{number}", "text": text} for number, text in enumerate(TEXTS, start=1)]
    Retriever.build(pages, [LexicalStage(), LineStage()]).save(folder / "retriever")
    return folder / "retriever"


def written(folder: Path, rows: list[tuple[str, list[str]]]) -> Path:
    file = folder / "questions.jsonl"
    file.write_text("\n".join(json.dumps({"question": text, "pages": pages}) for text, pages in rows))
    return file


def test_questions_are_measured_beside_lexical_search(place, tmp_path):
    rows = [
        ("greasing the bearing", ["pump.pdf#1"]),
        ("gloves", ["pump.pdf#3"]),
        ("gloves", ["pump.pdf#4"]),  # another page answers it: found second at best
        ("nothing of this", ["elsewhere.pdf#1"]),
    ]
    found = evaluate_questions(place, written(tmp_path, rows), tmp_path / "numbers.json")
    assert json.loads((tmp_path / "numbers.json").read_text()) == found
    assert found["unknown"] == 1
    (result,) = found["results"]
    assert (result["about"], result["queries"], result["pages"]) == ("documents", 3, 4)
    assert result["metrics"]["recall@1"] == pytest.approx(2 / 3)
    assert result["interval"][0] <= result["metrics"]["NDCG@10"] <= result["interval"][1]
    assert result["difference"][0] == pytest.approx(result["metrics"]["NDCG@10"] - result["lexical"])


def test_questions_about_no_page_of_it(place, tmp_path):
    with pytest.raises(InputError, match="expected pages of the retriever such as 'pump.pdf#1' in some of 1 questions"):
        evaluate_questions(place, written(tmp_path, [("what?", ["elsewhere.pdf#1"])]))
