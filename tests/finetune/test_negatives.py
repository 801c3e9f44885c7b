"""The mining step on tiny manuals: what is never a negative, what the report shows, and that it is done once."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from fixtures.tiny_reader import write_tiny_bert, write_tiny_reader
from omnitune.documents import load
from omnitune.errors import DatasetError, RecipeError
from omnitune.finetune import negatives, train
from omnitune.finetune import run as pipeline
from omnitune.finetune.recipe import Negatives, Recipe, parse_recipe

RECIPE = parse_recipe(
    """
prepare: {width: 400, test: [kitchen.pdf], workers: 1}
training:
  num_train_epochs: 1
  per_device_train_batch_size: 4
  batch_sampler: no_duplicates
  save_strategy: "no"
  use_cpu: true
negatives: {count: 2, relative_margin: null}
evaluation: {baselines: [], resamples: 50, batch_size: 8}
""",
    source="tiny.yaml",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, manuals, model) -> tuple[Path, list[str]]:
    out, said = tmp_path_factory.mktemp("run") / "out", []
    pipeline.finetune(manuals, out, model=str(model), recipe=RECIPE, log=said.append)
    return out, said


def with_negatives(**changes) -> Recipe:
    return dataclasses.replace(RECIPE, negatives=Negatives(**{"count": 2, "relative_margin": None, **changes}))


def listed(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / negatives.FILE).read_text().splitlines()]


def test_what_is_never_a_negative(finished):
    out, _ = finished
    pages = load(out / "dataset").tables["pages"]
    side = dict(zip(pages["page_id"], pages["side"], strict=True))
    rows = listed(out)
    table = load(out / "dataset").tables["train"]
    assert len(rows) == len(set(zip(table["query"], table["page_id"], strict=True)))
    for row in rows:
        document, number = row["page_id"].split("#")
        near = {f"{document}#{int(number) + step}" for step in (-1, 0, 1)}
        assert len(row["negatives"]) == 2 and not near & set(row["negatives"])
        assert {side[page] for page in row["negatives"]} == {"train"}
        assert row["scores"] == sorted(row["scores"], reverse=True)


def test_the_report_tells_what_was_refused_and_shows_what_was_kept(finished):
    out, said = finished
    found = json.loads((out / "report.json").read_text())["mining"]
    pairs = len(listed(out))
    assert found["count"] == 2 and found["pairs"] == pairs and found["without"] == 0
    assert found["refused"]["answers the query"] == pairs
    assert found["refused"]["neighbour of the right page"] > pairs
    assert 0 < len(found["examples"]) <= 20
    assert any(line.startswith(f"Hard negatives: 2 for each of {pairs} pairs; refused: answers") for line in said)
    html = (out / "report.html").read_text()
    assert "Hard negatives" in html and "neighbour of the right page" in html
    assert found["examples"][0]["query"] in html
    facts = json.loads((out / "report.json").read_text())["run"]["facts"]
    assert facts["negatives a query"] == str(4 * 3 - 1)


def test_it_is_done_once_and_anew_when_its_settings_change(finished, manuals, model, tmp_path, monkeypatch):
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    first = listed(out)
    calls = []
    original = negatives.mine
    monkeypatch.setattr(negatives, "mine", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    pipeline.finetune(manuals, out, model=str(model), recipe=RECIPE)
    assert not calls and listed(out) == first
    pipeline.finetune(manuals, out, model=str(model), recipe=RECIPE, negatives=3)
    assert len(calls) == 1 and len(listed(out)[0]["negatives"]) == 3
    pipeline.finetune(manuals, out, model=str(model), recipe=RECIPE, negatives=0)
    assert len(calls) == 1
    assert json.loads((out / "report.json").read_text())["mining"] is None


def test_a_prepared_dataset_is_mined_too(finished, model, tmp_path):
    place = train(finished[0] / "dataset", tmp_path / "out", model=str(model), recipe=RECIPE)
    assert place.is_dir()
    assert listed(tmp_path / "out") == listed(finished[0])


def test_embeddings_of_another_model_are_not_mined_with(finished, tmp_path):
    """A run's folder has base embeddings; `train` into it with another model must not take them for its own."""
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    other = write_tiny_reader(tmp_path / "reader", write_tiny_bert(tmp_path / "bert", seed=7))
    train(out / "dataset", out, model=str(other), recipe=RECIPE)
    train(out / "dataset", tmp_path / "fresh", model=str(other), recipe=RECIPE)
    assert listed(out) == listed(tmp_path / "fresh") != listed(finished[0])


def test_near_duplicates_are_left_out(finished):
    dataset = load(finished[0] / "dataset")
    pages = negatives.TrainingPages(dataset)
    pages.groups[pages.ids.index("garden.pdf#4")] = pages.groups[pages.ids.index("garden.pdf#1")]
    found = pages.excluded(Negatives(count=1, neighbours=0))
    assert list(found) == ["near-duplicate of the right page"]
    query, page = (one.tolist() for one in (found["near-duplicate of the right page"].queries,
                                            found["near-duplicate of the right page"].documents))  # fmt: skip
    assert {pages.ids[row] for row in page} == {"garden.pdf#1", "garden.pdf#4"} and len(query) == len(page) > 1
    assert not pages.excluded(Negatives(count=1, neighbours=0, near_duplicates=False))


def test_too_strict_rules_are_told(finished, model, tmp_path):
    with pytest.raises(DatasetError, match="negatives.count: expected at least 2 allowed pages for some query"):
        train(finished[0] / "dataset", tmp_path / "out", model=str(model), recipe=with_negatives(max_score=-2.0))


def test_a_dataset_of_rows_has_its_own_negatives(tmp_path, model):
    recipe = dataclasses.replace(RECIPE, dataset={"path": "somewhere"})
    with pytest.raises(RecipeError, match="tiny.yaml: negatives.count: expected 0 with a recipe's own dataset"):
        train(None, tmp_path, model=str(model), recipe=recipe)
