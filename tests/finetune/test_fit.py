"""Loss, arguments and checkpoints of the training step."""

import json

import pytest
from datasets import Dataset, DatasetDict

from omnitune import SentenceTransformer
from omnitune.errors import DatasetError, RecipeError, ResourceError
from omnitune.finetune.fit import (
    LOGGED_SHARE,
    epochs_of,
    evaluator_of,
    fit,
    load_rows,
    make_loss,
    training_arguments,
    training_settings,
)
from omnitune.finetune.measure import default_dims, measured_dims
from omnitune.finetune.recipe import Recipe, parse_recipe
from omnitune.finetune.steps import announce, checkpoint_folder, remove_checkpoints
from omnitune.runtime import about
from omnitune.training.weights import last_checkpoint


@pytest.fixture
def model(tiny_bert) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.mark.parametrize(
    ("width", "dims"),
    [(384, [384, 256, 128, 64]), (2048, [2048, 1024, 512, 256, 128, 64]), (32, [32, 16, 8]), (8, [8])],
)
def test_default_dims(width, dims):
    assert default_dims(width) == dims


@pytest.mark.parametrize(
    ("recipe", "dims"),
    [
        ("", [384, 256, 128, 64]),
        ("matryoshka:", [384]),
        ("matryoshka: {matryoshka_dims: [384, 96]}", [384, 96]),
        ("matryoshka: {matryoshka_dims: [96]}", [384, 96]),
        ("evaluation: {dims: [32, 512]}", [384, 32]),
    ],
)
def test_measured_dims(recipe, dims):
    assert measured_dims(384, parse_recipe(recipe, source="x")) == dims


def test_the_loss_of_a_recipe(model):
    loss = make_loss(model, parse_recipe("loss: {scale: 10}", source="x"))
    assert type(loss).__name__ == "MatryoshkaLoss" and list(loss.matryoshka_dims) == default_dims(
        model.get_embedding_dimension()
    )
    assert type(loss.loss).__name__ == "CachedMultipleNegativesRankingLoss" and loss.loss.scale == 10
    plain = make_loss(model, parse_recipe("loss: {name: MultipleNegativesRankingLoss}\nmatryoshka:", source="x"))
    assert type(plain).__name__ == "MultipleNegativesRankingLoss"


def test_a_curve_is_logged_unless_the_recipe_says_otherwise(tmp_path):
    found = training_arguments(parse_recipe("", source="x"), tmp_path, evaluated=False)
    assert found.logging_steps == LOGGED_SHARE
    found = training_arguments(parse_recipe("training: {logging_steps: 7}", source="x"), tmp_path, evaluated=False)
    assert found.logging_steps == 7


def test_arguments_that_contradict_each_other_name_the_recipe(tmp_path):
    recipe = parse_recipe(
        "training: {load_best_model_at_end: true, eval_strategy: 'no', save_strategy: steps}", source="x"
    )
    with pytest.raises(RecipeError, match="x: training: .*load_best_model_at_end"):
        training_arguments(recipe, tmp_path, evaluated=True)


def test_evaluation_settings_are_left_out_without_an_evaluator(tmp_path):
    recipe = parse_recipe("training: {eval_strategy: steps, eval_steps: 0.1, use_cpu: true}", source="x")
    assert training_arguments(recipe, tmp_path, evaluated=False).eval_strategy == "no"
    assert training_arguments(recipe, tmp_path, evaluated=True).eval_strategy == "steps"


def test_last_checkpoint_is_a_complete_one(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10, 11, 100, "final"):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    names = ["checkpoint-10", "checkpoint-9", "checkpoint-final", "torn-checkpoint-100", "torn-checkpoint-11"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_checkpoint_that_cannot_be_read_is_kept_and_named(tmp_path, monkeypatch):
    state = tmp_path / "checkpoint-9" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text("{}")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", denied)
    with pytest.raises(ResourceError, match="checkpoint-9: expected a checkpoint that can be read, got: Permission"):
        last_checkpoint(tmp_path)
    assert state.is_file()


def test_checkpoints_of_other_trainings_are_kept_and_named(tmp_path):
    said = []
    first = checkpoint_folder(tmp_path, "first", said.append)
    (first / "checkpoint-1").mkdir()
    (first / "checkpoint-1" / "optimizer.pt").write_bytes(b"x" * 2_000_000)
    second = checkpoint_folder(tmp_path, "second", said.append)
    assert said == [f"{first}: checkpoints of a training with other settings (2 MB) are kept; delete them when you "
                    "no longer need them"]  # fmt: skip
    remove_checkpoints(second)
    assert (first / "checkpoint-1" / "optimizer.pt").is_file() and not second.exists()
    remove_checkpoints(first)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ("training: {logging_steps: 9}", True),
        ("training: {report_to: tensorboard}", True),
        ("training: {save_total_limit: 3}", True),
        ("evaluation: {cases: 3}", True),
        ("prepare: {workers: 3}", True),
        ("training: {learning_rate: 1.0}", False),
        ("loss: {scale: 3}", False),
        ("negatives: {count: 3}", False),
        ("matryoshka:", False),
    ],
)
def test_a_training_is_begun_anew_only_where_a_setting_changes_the_weights(changed, same):
    assert (training_settings(parse_recipe(changed, source="x")) == training_settings(Recipe())) is same


def test_ranks_share_the_rows(monkeypatch):
    recipe = parse_recipe("training: {max_steps: 10, per_device_train_batch_size: 4}", source="x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert epochs_of(recipe, 20) == 8


TRAIN = "training: {num_train_epochs: 1, per_device_train_batch_size: 2, use_cpu: true, logging_steps: 1"


def test_a_bad_item_stops_the_run_before_it_starts_or_is_listed(model, tmp_path):
    rows = Dataset.from_dict({"query": ["a", "b", None, "d"], "page": ["one", "two", "three", "four"]})
    with pytest.raises(DatasetError, match="row 2.*query"):
        fit(model, rows, parse_recipe(TRAIN + "}", source="x"), tmp_path / "raise")
    fitted = fit(model, rows, parse_recipe(TRAIN + ", on_bad_item: skip}", source="x"), tmp_path / "skip")
    assert [one.name for one in fitted.bad_items] == ["row 2, column 'query'"]
    assert fitted.facts["batch"] == "2 pairs" and fitted.facts["negatives a query"] == "1"
    assert [point.step for point in fitted.losses] == [1, 2]


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (41, "41 s"), (125, "2 min"), (9000, "2.5 h")])
def test_about(seconds, text):
    assert about(seconds) == text


def test_cost_is_announced_from_a_sample_that_is_warm():
    said, worked = [], []
    announce("Reading 100 pages", list(range(100)), worked.append, said.append, sample=4)
    assert worked == [[0], [1, 2, 3]]
    assert said[0].startswith("Reading 100 pages: about 1 s (")


@pytest.mark.parametrize(
    ("training", "epochs"),
    [("{}", 3), ("{num_train_epochs: 0.5}", 0.5), ("{max_steps: 10, per_device_train_batch_size: 4}", 2)],
)
def test_epochs_of_a_recipe(training, epochs):
    assert epochs_of(parse_recipe(f"training: {training}", source="x"), 20) == epochs


@pytest.fixture
def stored(tmp_path):
    rows = Dataset.from_dict(
        {"id": [1, 2, 3], "query": ["a", "b", "c"], "page": ["A", "B", "C"], "negative": ["x", None, "z"]}
    )
    DatasetDict({"train": rows, "eval": rows.select([0, 1])}).save_to_disk(str(tmp_path / "rows"))
    return str(tmp_path / "rows")


def test_columns_are_taken_in_the_order_of_the_recipe(stored):
    rows = load_rows({"path": stored, "split": "train", "columns": ["query", "page"]})
    assert rows.column_names == ["query", "page"] and len(rows) == 3
    held_out = load_rows({"path": stored, "eval_split": "eval", "eval_columns": ["query", "negative"]}, evaluation=True)
    assert held_out.column_names == ["query", "negative"] and len(held_out) == 2


def test_columns_that_are_not_there(stored):
    with pytest.raises(DatasetError, match=r"dataset.columns: expected names among \['id', 'query'.*got \['pages'\]"):
        load_rows({"path": stored, "columns": ["query", "pages"]})
    with pytest.raises(DatasetError, match="dataset.eval_columns"):
        load_rows({"path": stored, "eval_columns": ["query", "pages"]}, evaluation=True)


def test_one_column_is_too_few(stored):
    with pytest.raises(DatasetError, match="rows of query and page at least, got 3 rows of"):
        load_rows({"path": stored, "columns": ["query"]})


def test_every_page_is_in_the_corpus_and_empty_cells_are_not(stored):
    evaluator = evaluator_of(load_rows({"path": stored, "columns": ["query", "page", "negative"]}), batch_size=4)
    assert {key: evaluator.corpus[key] for key in evaluator.corpus} == {
        (0, "page"): "A",
        (1, "page"): "B",
        (2, "page"): "C",
        (0, "negative"): "x",
        (2, "negative"): "z",
    }
    assert evaluator.queries == ["a", "b", "c"]
    assert evaluator.relevant_docs == {number: {(number, "page")} for number in range(3)}
