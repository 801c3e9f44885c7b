"""Recipes: the names of the Python API, and errors that say what was meant."""

import dataclasses
import inspect
from pathlib import Path
from typing import Literal

import pytest

from omnitune.errors import RecipeError
from omnitune.finetune.recipe import Evaluation, Recipe, load_recipe, parse_recipe
from omnitune.finetune.settings_file import fits
from omnitune.places import bundled_recipes


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, source="my.yaml")
    return str(caught.value)


@pytest.mark.parametrize("name", ["demo", "vdr-lora", "vdr-qwen3vl-2b"])
def test_recipes_that_come_with_omnitune_are_valid(name):
    recipe = load_recipe(name)
    assert recipe.training["batch_sampler"] == "no_duplicates"
    assert recipe.source.endswith(f"{name}.yaml")
    assert recipe.description


def test_all_bundled_recipes_are_known():
    assert list(bundled_recipes()) == ["demo", "vdr-lora", "vdr-qwen3vl-2b"]


def test_the_published_run():
    recipe = load_recipe("vdr-qwen3vl-2b")
    assert recipe.training["learning_rate"] == 2e-5
    assert recipe.loss["mini_batch_size"] == 1
    assert recipe.matryoshka == {"matryoshka_dims": [2048, 1536, 1024, 512, 256, 128, 64]}
    assert recipe.model["processor_kwargs"]["max_pixels"] == 600 * 600
    assert recipe.dataset["columns"] == ["query", "image", "negative_0"]
    lora = load_recipe("vdr-lora")
    assert (lora.lora["r"], lora.lora["lora_alpha"], lora.training["learning_rate"]) == (32, 32, 2e-4)


def test_an_empty_recipe_is_the_default():
    assert parse_recipe("", source="x") == Recipe(source="x")


def test_scientific_numbers_are_numbers():
    for text in ("2e-5", "2E-5", "2.0e-5", "+2e-5", "0.2e-4"):
        assert parse_recipe(f"training: {{learning_rate: {text}}}", source="x").training["learning_rate"] == 2e-5


def test_misspelt_key_names_the_right_one():
    message = refused("training:\n  learning_rat: 2e-5\n")
    assert message.startswith("my.yaml: training.learning_rat: unknown key")
    assert "did you mean 'learning_rate'?" in message


def test_misspelt_section():
    assert "my.yaml: trainning: unknown key 'trainning'; did you mean 'training'?" in refused("trainning: {}")


def test_key_in_the_wrong_section():
    assert refused("model: {learning_rate: 1}") == (
        "my.yaml: model.learning_rate: unknown key; it belongs in the section 'training'"
    )
    assert "belongs in the section 'training'" in refused("num_train_epochs: 1")


def test_key_that_the_command_sets():
    assert "it is the command's --out" in refused("training: {output_dir: here}")
    assert "a secret has no place in a file" in refused("model: {token: abc}")


def test_wrong_type():
    assert refused("training: {per_device_train_batch_size: sixty}") == (
        "my.yaml: training.per_device_train_batch_size: expected a whole number, got 'sixty' (text)"
    )
    assert "expected true or false" in refused("training: {bf16: 1}")
    assert "matryoshka.matryoshka_dims: expected a list of a whole number" in refused(
        "matryoshka: {matryoshka_dims: 64}"
    )


def test_unknown_choice():
    message = refused("training: {batch_sampler: no_duplicate}")
    assert "training.batch_sampler: expected one of" in message and "'no_duplicates'" in message
    assert "evaluation.precisions" in refused("evaluation: {precisions: [int4]}")


def test_unknown_loss():
    message = refused("loss: {name: CachedMultipleNegativeRankingLoss}")
    assert "did you mean 'CachedMultipleNegativesRankingLoss'?" in message


def test_loss_arguments_are_those_of_the_named_loss():
    assert parse_recipe("loss: {name: TripletLoss, triplet_margin: 2}", source="x").loss["triplet_margin"] == 2
    assert "loss.triplet_margin: unknown key" in refused(
        "loss: {name: MultipleNegativesRankingLoss, triplet_margin: 2}"
    )


def test_key_given_twice():
    assert "key 'learning_rate' is given twice (line 3)" in refused(
        "training:\n  learning_rate: 1e-5\n  learning_rate: 2e-5\n"
    )


def test_key_that_is_no_name():
    assert "expected a name before the colon (line 1)" in refused("training: {? [1] : 2}")


def test_not_yaml():
    assert "my.yaml: not readable as YAML" in refused("training: [")
    assert "expected sections" in refused("- a\n- b\n")


def test_empty_section():
    assert "training: expected a mapping of settings, got nothing" in refused("training:\n")
    assert parse_recipe("matryoshka:\n", source="x").matryoshka is None
    assert "expected a mapping of settings, got 3" in refused("training: 3")


def test_unknown_recipe():
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        load_recipe("demos")


def test_a_file_is_read(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("evaluation: {resamples: 500}\n")
    recipe = load_recipe(path)
    assert recipe.evaluation == Evaluation(resamples=500)
    assert recipe.source == str(path)


def test_settings_leave_out_where_they_came_from():
    first, second = (parse_recipe("loss: {scale: 10}", source=name) for name in ("a", "b"))
    assert first.settings() == second.settings()
    assert "source" not in first.settings()


def test_training_takes_every_argument_of_the_api():
    from omnitune.training.arguments import SentenceTransformerTrainingArguments

    names = {field.name for field in dataclasses.fields(SentenceTransformerTrainingArguments) if field.init}
    for name in names - {"output_dir", "resume_from_checkpoint"}:
        try:
            parse_recipe(f"training: {{{name}: null}}", source="x")
        except RecipeError as error:
            assert f"x: training.{name}: expected" in str(error)


def test_prepare_takes_what_prepare_takes():
    from omnitune.documents import prepare

    named = [name for name in inspect.signature(prepare).parameters if name not in ("folder", "out", "reader", "keep")]
    assert named
    assert refused("prepare: {no_such_setting: 1}").startswith("my.yaml: prepare.no_such_setting: unknown key")


@pytest.mark.parametrize(
    ("value", "annotation", "good"),
    [
        (True, int, False),
        (1, float, True),
        (1.5, int, False),
        (None, int | None, True),
        ([1, "a"], list[int], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False),
        ("x", Path, True),
        ("2", int, False),
        (2, float | None, True),
        ("nearest", Literal["random", "top"], False),
    ],
)
def test_values_fit_their_annotations(value, annotation, good):
    assert fits(value, annotation) is good


def test_the_recipes_of_a_checkout_are_those_of_the_package():
    import omnitune

    checkout = Path(omnitune.__file__).parents[2] / "recipes"
    assert checkout.resolve() == next(iter(bundled_recipes().values())).parent


def test_sections_of_the_pipelines_own_steps():
    recipe = parse_recipe(
        "negatives: {count: 4, sampling: top, relative_margin: null}\n"
        "queries: {writer: local, model: some/model}\n"
        "reranker: {loss: bce, negatives: 2}\n",
        source="my.yaml",
    )
    assert (recipe.negatives.count, recipe.negatives.sampling, recipe.negatives.relative_margin) == (4, "top", None)
    assert (recipe.queries.writer, recipe.reranker.loss) == ("local", "bce")
    assert "negatives.sampling: expected one of 'random', 'top'" in refused("negatives: {sampling: nearest}")
    assert "queries.writer: expected one of 'extractive', 'endpoint', 'local'" in refused("queries: {writer: magic}")
    assert "did you mean 'neighbours'?" in refused("negatives: {neighbors: 2}")


def test_settings_of_a_command_are_checked_like_those_of_a_file():
    recipe = parse_recipe("training: {seed: 3}", source="x")
    changed = recipe.changed(negatives__count=4, training__num_train_epochs=0.5, prepare__split=None)
    assert changed.negatives.count == 4 and changed.training == {"seed": 3, "num_train_epochs": 0.5}
    assert changed.prepare == {} and recipe.negatives.count == 0
    with pytest.raises(RecipeError, match=r"options: prepare.split: expected one of 'documents', 'pages', got 'page'"):
        recipe.changed(prepare__split="page")
    with pytest.raises(RecipeError, match="reranker.distill_loss: expected one of 'margin_mse', 'kl', got 'mse'"):
        recipe.changed(reranker__distill_loss="mse")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("training: {push_to_hub: true}", "training.push_to_hub"),
        ("model: {trust_remote_code: true}", "model.trust_remote_code"),
        ("model: {model_kwargs: {trust_remote_code: true}}", "model.model_kwargs.trust_remote_code"),
        ("model: {processor_kwargs: {trust_remote_code: 1}}", "model.processor_kwargs.trust_remote_code"),
    ],
)
def test_a_stranger_neither_runs_code_nor_publishes(text, key):
    name = key.rsplit(".", 1)[1]
    assert f"my.yaml: {key}: not taken from a recipe alone" in refused(text)
    assert f"add --allow {name}" in refused(text)
    assert parse_recipe(text, source="x", allow=[name]).source == "x"
    assert parse_recipe(text.replace("true", "false").replace("1", "false"), source="x")


def test_a_language_is_the_readers():
    assert parse_recipe("model: {language: deu}", source="x").model == {"language": "deu"}
