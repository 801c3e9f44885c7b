"""`omnitune search` and `omnitune index` over a retriever."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fixtures.tiny_pdfs import write_folder
from omnitune import Retriever
from omnitune.cli.main import app
from omnitune.retrieval.stages import LexicalStage

PAGES = [
    {"id": "pump.pdf#1", "page": 1, "label": "i", "text": "Contents of the manual", "path": "/a.png"},
    {"id": "pump.pdf#2", "page": 2, "label": "2", "text": "Grease the bearing every week", "path": "/b.png"},
    {"id": "oven.pdf#1", "page": 1, "label": "", "text": "The oven has a bearing too", "path": "/c.png"},
]


def run(*words: object, code: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Retriever.build(PAGES, [LexicalStage()]).save(tmp_path / "run" / "retriever")
    return tmp_path / "run"


@pytest.mark.parametrize("place", ["", "retriever"])
def test_several_queries_in_one_start(folder: Path, place: str, tmp_path: Path) -> None:
    text = run("search", folder / place, "grease the bearing", "contents", "nowhere")
    first, second = text.index("Grease the bearing every week"), text.index("Contents of the manual")
    assert first < second and "/b.png" in text and "pump.pdf page 1 (printed i)" in text and "printed 2" not in text
    assert "nowhere nothing found" in text


def test_a_moved_run_names_its_images_where_they_are(folder: Path, tmp_path: Path) -> None:
    image = folder / "dataset" / "images" / "ab" / "b.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    page = {"id": "belt.pdf#1", "page": 1, "text": "Tighten the belt", "path": "/gone/images/ab/b.png"}
    Retriever.build([page], [LexicalStage()]).save(tmp_path / "made")
    (folder / "retriever").rename(tmp_path / "old")
    (tmp_path / "made").rename(folder / "retriever")
    assert str(image) in run("search", folder, "belt")


def test_a_document_and_an_explanation(folder: Path) -> None:
    text = run("search", folder, "bearing", "--document", "oven.pdf", "--explain")
    assert "oven.pdf" in text and "pump.pdf" not in text and "lexical 0." in text and "matches: bearing" in text
    text = run("search", folder, "bearing", "--document", "oven.pfd", code=1)
    assert "--document: expected one of the retriever's 2 documents, got 'oven.pfd'; did you mean 'oven.pdf'?" in text


def test_a_sheet_for_each_query(folder: Path, tmp_path: Path) -> None:
    run("search", folder, "bearing", "--html", tmp_path / "one.html")
    run("search", folder, "bearing", "contents", "--html", tmp_path / "hits.html")
    assert {path.name for path in tmp_path.glob("*.html")} == {"one.html", "hits-1.html", "hits-2.html"}


def test_a_sheet_shows_what_answers(folder: Path, tmp_path: Path) -> None:
    run("search", folder, "grease it", "--html", tmp_path / "hits.html")
    sheet = (tmp_path / "hits.html").read_text()
    assert '<p class="read"><mark>Grease</mark> the bearing every week</p>' in sheet


def test_json_for_scripts(folder: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["search", str(folder), "grease the bearing", "nowhere", "--json", "--explain",
                                    "--html", str(tmp_path / "hits.html")])  # fmt: skip
    first, second = map(json.loads, said.stdout.splitlines())
    assert first["query"] == "grease the bearing" and second == {"query": "nowhere", "hits": []}
    hit = first["hits"][0]
    assert hit.pop("score") > 0 and hit.pop("stages").keys() == {"lexical"}
    assert hit == {
        "rank": 1, "id": "pump.pdf#2", "document": "pump.pdf", "page": 2, "label": "2", "times": None,
        "excerpt": "Grease the bearing every week", "path": "/b.png", "words": ["bearing", "grease", "the"],
    }  # fmt: skip
    assert "hits-1.html" in said.stderr


def test_a_question_without_quotes_is_told_apart(folder: Path) -> None:
    said = CliRunner().invoke(app, ["search", str(folder), "how", "is", "it", "greased"])
    asked = shlex.join(["omnitune", "search", str(folder), "how is it greased"])
    assert f"4 queries of one word each were read. To ask them as one: {asked}" in " ".join(said.stderr.split())
    assert "queries of one word" not in said.stdout
    assert not CliRunner().invoke(app, ["search", str(folder), "bearing"]).stderr
    assert not CliRunner().invoke(app, ["search", str(folder), "bearing", "the oven"]).stderr


def test_documents_are_added(folder: Path, tmp_path: Path) -> None:
    manuals = write_folder(tmp_path / "manuals")
    text = run("index", folder, manuals)
    assert "20 pages were new or changed; 23 are in the index" in text
    assert "0 pages were new or changed; 23 are in the index" in run("index", folder, manuals)
    assert "kitchen.pdf" in run("search", folder, "roasting pumpkin")


def test_the_package_runs() -> None:
    said = subprocess.run([sys.executable, "-m", "omnitune", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("omnitune ")


def test_messages(folder: Path, tmp_path: Path) -> None:
    assert "RUN: expected a folder with a retriever" in run("index", tmp_path, tmp_path, code=1)
    assert "SOURCE: expected a folder with a retriever for one query" in run("search", tmp_path, "bearing", code=1)
    said = run("search", tmp_path, "dataset", "bearing", "--explain", code=1)
    assert "--document, --explain: expected a folder with a retriever" in said
