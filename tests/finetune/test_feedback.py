"""Votes of the search page: read whatever a stop left, split for good, trained on, and measured."""

import json
from pathlib import Path

import pytest

from fixtures.tiny_pdfs import write_folder
from fixtures.tiny_reader import write_tiny_bert, write_tiny_reader
from omnitune.documents import load
from omnitune.errors import InputError
from omnitune.finetune import run as pipeline
from omnitune.finetune.feedback import divide, read_votes
from omnitune.finetune.questions import Question
from omnitune.finetune.recipe import parse_recipe
from omnitune.io import read_jsonl

RECIPE = parse_recipe(
    """
prepare: {width: 400, test: [kitchen.pdf], workers: 1}
training:
  num_train_epochs: 1
  per_device_train_batch_size: 4
  batch_sampler: no_duplicates
  save_strategy: "no"
  use_cpu: true
negatives: {count: 1, relative_margin: null}
evaluation: {baselines: [], resamples: 50, batch_size: 8}
retriever: {build: false}
""",
    source="tiny.yaml",
)


def vote(query: str, page: str, label: str = "yes") -> bytes:
    return json.dumps({"query": query, "page": page, "label": label, "rank": 1, "time": "x"}).encode() + b"\n"


def test_votes_are_read_whatever_a_stop_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "feedback.jsonl"
    file.write_bytes(
        vote("how often", "a.pdf#1", "no")
        + vote("How often?", "a.pdf#1", "passage")  # the last one counts, however it is spelled
        + vote("how often", "a.pdf#2")
        + vote("how often", "a.pdf#3", "no")
        + b'{"query": "torn", "pa\n[1]\n{"query": "a", "page": "b", "label": "maybe"}\n\xff\n'
    )
    found = read_votes(file)
    assert found.questions == [Question("how often", ("a.pdf#1", "a.pdf#2"))]
    assert found.wrong == {"how often": ["a.pdf#3"]}
    assert "4 line(s) are no votes" in caplog.text
    file.write_bytes(b"")
    with pytest.raises(InputError, match="feedback: expected votes in"):
        read_votes(file)
    with pytest.raises(InputError, match="where none is"):
        read_votes(tmp_path / "nothing")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """A run without votes and, in the same folder, again with them."""
    root = tmp_path_factory.mktemp("votes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNITUNE_CACHE", str(root / "cache"))
        manuals = write_folder(root / "manuals")
        model = write_tiny_reader(root / "reader", write_tiny_bert(root / "bert"))
        out, said = root / "out", list[str]()
        pipeline.finetune(manuals, out, model=str(model), recipe=RECIPE, log=said.append)
        pages = [page for page in load(out / "dataset").page_ids if not page.startswith("kitchen")]
        file = out / "feedback.jsonl"
        votes = [vote(f"question {n} of a reader", pages[n % len(pages)]) for n in range(24)]
        votes += [vote(f"question {n} of a reader", pages[(n + 1) % len(pages)], "no") for n in range(24)]
        votes += [vote("what a cook asks", "kitchen.pdf#1"), vote("of another folder", "gone.pdf#1")]
        file.write_bytes(b"".join(votes))
        said.append("again")
        outcome = pipeline.finetune(manuals, out, model=str(model), recipe=RECIPE, feedback=file, log=said.append)
    return outcome.json, out, said


def test_votes_are_split_for_good(finished: tuple[Path, Path, list[str]]) -> None:
    dataset, votes = load(finished[1] / "dataset"), read_votes(finished[1] / "feedback.jsonl")
    divided = divide(votes, dataset, lambda _: None)
    assert divided.test is not None and "what a cook asks" in divided.test.queries
    trained = divided.dataset.tables["train"].filter(lambda row: row["origin"] == "vote")
    assert 4 <= len(set(trained["query"])) <= 20
    assert not set(trained["query"]) & set(divided.test.queries)
    assert not any(page.startswith("kitchen") for page in trained["page_id"])
    assert {one.text for one in divided.training} == set(trained["query"])
    assert len(divided.dataset.train) == len(dataset.train) + len(trained)
    fewer = divide(read_votes(finished[1] / "feedback.jsonl"), dataset, lambda _: None)
    assert list(fewer.test.queries) == list(divided.test.queries)  # type: ignore[union-attr]


def test_votes_train_and_their_gain_is_told(finished: tuple[Path, Path, list[str]]) -> None:
    report, out, said = finished
    line = next(one for one in said if one.startswith("Votes:"))
    assert "1 questions are about pages that are not here" in line
    again = said[said.index("again") :]
    assert any(one.startswith("Training on") for one in again) and not any("Reading" in one for one in again)
    contrast = json.loads(report.read_text())["votes"]
    assert "Questions that people voted on" in report.with_suffix(".html").read_text()
    assert contrast["queries"] >= 4 and contrast["difference"]["low"] <= contrast["difference"]["high"]
    rows = {row["query"]: row for row in read_jsonl(out / "negatives.jsonl")}
    assert any(query.startswith("question") for query in rows) and "what a cook asks" not in rows
