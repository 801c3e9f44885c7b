"""Recipes: one YAML file that says how a model is finetuned, in the names of the Python API.

A section is the keyword arguments of one thing: `model` of `SentenceTransformer`, `lora` of peft's `LoraConfig`,
`prepare` of `documents.prepare`, `dataset` of `datasets.load_dataset`, `loss` of the loss it names, `matryoshka` of
`MatryoshkaLoss`, `training` of `SentenceTransformerTrainingArguments`, `queries`, `negatives`, `reranker` and
`evaluation` of the classes below. The names and types a section takes are read off those signatures, so a recipe can
never know less or more than the API.

Trade-off: checking a recipe imports the training room (about as long as torch's import); nothing is guessed in return.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from omnitune.errors import RecipeError
from omnitune.finetune.settings import describe, fits, kind, parameters, read_yaml, unknown
from omnitune.runtime import require

Fields = Mapping[str, Any]
"""Names that a section takes, with their type annotations."""

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How base and finetuned model are compared.

    Attributes:
        dims: Embedding dimensions to measure; None takes the dimensions that were trained.
        precisions: Number formats of stored embeddings in the size-against-quality plot.
        baselines: What else answers the same test: `bm25` and `text` (a text embedder) on the text layer.
        batch_size: Items encoded at once.
        resamples: Bootstrap resamples of the test queries.
        confidence: Level of the intervals.
        seed: Seed of the resampling.
        cases: Most improved and worst queries that the report shows, of each.
    """

    dims: list[int] | None = None
    precisions: list[Precision] = dataclasses.field(default_factory=lambda: ["float32", "int8", "binary"])
    baselines: list[Literal["bm25", "text"]] = dataclasses.field(default_factory=lambda: ["bm25", "text"])
    batch_size: int = 32
    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 12
    cases: int = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """Who writes training queries, besides the titles, captions and headings of the documents.

    Attributes:
        writer: `extractive` takes them from the pages' sentences; instead of that, `endpoint` asks a model behind an
            OpenAI-compatible API (`OPENAI_BASE_URL`, `OPENAI_API_KEY`), and `local` one that transformers loads.
        model: Name of that model.
        per_page: Most queries of one page.
        max_tokens: Most tokens of one answer.
        concurrency: Questions under way at once (`endpoint`).
        attempts: Tries of one question (`endpoint`).
        timeout: Seconds to wait for an answer (`endpoint`).
    """

    writer: Literal["extractive", "endpoint", "local"] = "extractive"
    model: str | None = None
    per_page: int = 2
    max_tokens: int = 200
    concurrency: int = 8
    attempts: int = 6
    timeout: float = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Negatives:
    """Hard negatives, mined among the training pages with the base model.

    Attributes:
        count: Negatives a query; 0 mines none.
        sampling: `random` draws from the nearest `range_max` that are allowed, `top` takes the nearest.
        range_min: Nearest pages to pass over.
        range_max: Pages to choose from, those passed over included.
        relative_margin: Share of the positive's score that a negative's must lie below it; null allows all.
        absolute_margin: The same as a distance.
        max_score: Highest score of a negative.
        min_score: Lowest score of a negative.
        neighbours: Pages before and after the positive that are never negatives.
        near_duplicates: Whether near-duplicates of the positive are left out too.
        seed: Of the draws.
    """

    count: int = 0
    sampling: Literal["random", "top"] = "random"
    range_min: int = 0
    range_max: int = 10
    relative_margin: float | None = 0.05
    absolute_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    neighbours: int = 1
    near_duplicates: bool = True
    seed: int = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reranking:
    """A reranker on the retriever's candidates, and what it teaches the retriever; only where a command asks for it.

    Attributes:
        model: A cross encoder, a vision-language model, or `embedded` (MiniLM with a fresh head on the text that the
            page reader reads); None takes what fits the machine.
        negatives: Pages a query besides the right one, drawn from the retriever's first `range_max`.
        range_max: See `Negatives`; its other rules hold here too.
        depth: Pages that are reranked for a test query.
        loss: `listwise` trains on a query's pages against each other, `bce` on each by itself.
        max_length: Most tokens of a pair, for the embedded reranker; others know theirs.
        num_train_epochs: Of the reranker.
        batch_size: Queries of a training step.
        learning_rate: Of the reranker.
        distill_loss: `margin_mse` teaches the retriever how much better the right page scores than each other one, `kl`
            how the reranker's belief is spread over a query's pages.
        distill_epochs: Of the retriever on the reranker's scores.
        distill_learning_rate: Of the retriever.
        seed: Of both trainings.
    """

    model: str | None = None
    negatives: int = 3
    range_max: int = 20
    depth: int = 20
    loss: Literal["listwise", "bce"] = "listwise"
    max_length: int | None = 256
    num_train_epochs: float = 1.0
    batch_size: int = 16
    learning_rate: float = 5e-5
    distill_loss: Literal["margin_mse", "kl"] = "margin_mse"
    distill_epochs: float = 1.0
    distill_learning_rate: float = 2e-5
    seed: int = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A checked recipe: keyword arguments by section.

    Attributes:
        model: Of `SentenceTransformer`, and `max_seq_length`.
        lora: Of `peft.LoraConfig`; None trains every weight.
        prepare: Of `documents.prepare`, without folder and destination.
        dataset: Of `datasets.load_dataset`, with the `columns` to keep and, as `eval_...`, where the evaluation rows
            are; only for `omnitune train`.
        loss: Of the loss that `name` names.
        matryoshka: Of `MatryoshkaLoss`; None trains the full dimension only.
        training: Of `SentenceTransformerTrainingArguments`, without `output_dir`.
        queries: See `Queries`.
        negatives: See `Negatives`; only for folders of documents.
        reranker: See `Reranking`.
        evaluation: See `Evaluation`.
        description: One sentence for humans.
        source: The file it came from.
    """

    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    lora: dict[str, Any] | None = None
    prepare: dict[str, Any] = dataclasses.field(default_factory=dict)
    dataset: dict[str, Any] | None = None
    loss: dict[str, Any] = dataclasses.field(default_factory=dict)
    matryoshka: dict[str, Any] | None = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    queries: Queries = dataclasses.field(default_factory=Queries)
    negatives: Negatives = dataclasses.field(default_factory=Negatives)
    reranker: Reranking = dataclasses.field(default_factory=Reranking)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    description: str = ""
    source: str = "the default recipe"

    def settings(self) -> dict[str, Any]:
        """What determines a run's numbers, as plain data: for the report, and to know whether a step must be redone."""
        plain = dataclasses.asdict(self)
        return {name: value for name, value in plain.items() if name not in ("description", "source")}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: A YAML file, or the name of a recipe that comes with omnitune (`"demo"`).

    Raises:
        RecipeError: There is no such recipe, it is not YAML, or a key or value in it is unknown; names the file, the
            key's path and the nearest known key.
    """
    path = _find(name_or_path)
    return parse_recipe(path.read_text(encoding="utf-8"), source=str(path))


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with omnitune, by name."""
    folder = Path(str(resources.files("omnitune"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def parse_recipe(text: str, *, source: str) -> Recipe:
    """Check a recipe's text.

    Raises:
        RecipeError: As for `load_recipe`.
    """
    sections = read_yaml(text, source)
    _check_keys(sections, _SECTIONS, source, path="")
    values: dict[str, Any] = {"source": source}
    for name, section in sections.items():
        if name == "description":
            _check_value(section, str, source, name)
            values[name] = section
        elif section is None:
            if name not in ("lora", "dataset", "matryoshka"):
                raise RecipeError(f"{source}: {name}: expected a mapping of settings, got nothing; delete the line")
            values[name] = None
        else:
            values[name] = _check_section(name, section, source)
    for name, made in _CLASSES.items():
        if name in values:
            values[name] = made(**values[name])
    return Recipe(**values)


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    bundled = bundled_recipes()
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    near = difflib.get_close_matches(str(name_or_path), bundled, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RecipeError(
        f"recipe: expected a YAML file or one of {', '.join(bundled)}, got {str(name_or_path)!r}, "
        f"which is neither{hint}"
    )


# --- what each section takes ------------------------------------------------------------------------------------------


def _model_fields(section: Mapping[str, Any]) -> Fields:
    del section
    from omnitune.model.dense import SentenceTransformer

    hidden = ("modules", "token", "model_card_data")  # objects, and a secret that has no place in a file
    return {**parameters(SentenceTransformer, without=hidden), "max_seq_length": int | None}


def _lora_fields(section: Mapping[str, Any]) -> Fields:
    del section
    return parameters(require("peft", extra="lora").LoraConfig)


def _prepare_fields(section: Mapping[str, Any]) -> Fields:
    del section
    from omnitune.documents.dataset import prepare

    return parameters(prepare, without=("folder", "out", "reader", "keep", "writer"))


def _dataset_fields(section: Mapping[str, Any]) -> Fields:
    del section
    return {
        "path": str,
        "name": str | None,
        "data_files": str | list[str] | dict[str, str] | None,
        "revision": str | None,
        "split": str,
        "columns": list[str] | None,
        "eval_name": str | None,
        "eval_split": str | None,
        "eval_columns": list[str] | None,
    }


def _loss_fields(section: Mapping[str, Any]) -> Fields:
    from omnitune import losses

    known = [name for name in dir(losses) if inspect.isclass(getattr(losses, name)) and name.endswith("Loss")]
    name = section.get("name", DEFAULT_LOSS)
    if name not in known:
        raise RecipeError(f"loss.name: {unknown(str(name), known, 'loss')}")
    return {"name": str, **parameters(getattr(losses, name), without=("model", "loss", "strategy"))}


def _matryoshka_fields(section: Mapping[str, Any]) -> Fields:
    del section
    from omnitune.losses import MatryoshkaLoss

    fields = parameters(MatryoshkaLoss, without=("model", "loss"))
    return {**fields, "matryoshka_dims": list[int], "matryoshka_weights": list[float] | None}


def _training_fields(section: Mapping[str, Any]) -> Fields:
    del section
    from omnitune.training.arguments import SentenceTransformerTrainingArguments

    return parameters(SentenceTransformerTrainingArguments, without=("output_dir", "resume_from_checkpoint"))


def _queries_fields(section: Mapping[str, Any]) -> Fields:
    del section
    return parameters(Queries)


def _negatives_fields(section: Mapping[str, Any]) -> Fields:
    del section
    return parameters(Negatives)


def _reranker_fields(section: Mapping[str, Any]) -> Fields:
    del section
    return parameters(Reranking)


def _evaluation_fields(section: Mapping[str, Any]) -> Fields:
    del section
    return parameters(Evaluation)


_CLASSES: dict[str, Callable[..., Any]] = {
    "queries": Queries,
    "negatives": Negatives,
    "reranker": Reranking,
    "evaluation": Evaluation,
}

DEFAULT_LOSS = "CachedMultipleNegativesRankingLoss"

_SECTIONS: dict[str, Callable[[Mapping[str, Any]], Fields] | None] = {
    "description": None,
    "model": _model_fields,
    "lora": _lora_fields,
    "prepare": _prepare_fields,
    "dataset": _dataset_fields,
    "loss": _loss_fields,
    "matryoshka": _matryoshka_fields,
    "training": _training_fields,
    "queries": _queries_fields,
    "negatives": _negatives_fields,
    "reranker": _reranker_fields,
    "evaluation": _evaluation_fields,
}

_ELSEWHERE = {
    "output_dir": "it is the command's --out",
    "resume_from_checkpoint": "a run always resumes from what is in --out",
    "token": "log in with `hf auth login`; a secret has no place in a file",
}


def _check_section(name: str, section: Any, source: str) -> dict[str, Any]:
    fields_of = _SECTIONS[name]
    assert fields_of is not None
    if not isinstance(section, dict):
        raise RecipeError(f"{source}: {name}: expected a mapping of settings, got {kind(section)}")
    try:
        fields = fields_of(section)
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from None
    _check_keys(section, fields, source, path=f"{name}.")
    for key, value in section.items():
        _check_value(value, fields[key], source, f"{name}.{key}")
    return dict(section)


def _check_keys(given: Mapping[Any, Any], known: Mapping[str, Any], source: str, *, path: str) -> None:
    for key in given:
        if key in known:
            continue
        if key in _ELSEWHERE:
            raise RecipeError(f"{source}: {path}{key}: not set in a recipe: {_ELSEWHERE[key]}")
        home = "" if key in _SECTIONS else _home(str(key), besides=path.rstrip("."))
        hint = f"unknown key; it belongs in the section {home!r}" if home else unknown(str(key), list(known), "key")
        raise RecipeError(f"{source}: {path}{key}: {hint}")


def _home(key: str, *, besides: str) -> str:
    """The section that takes exactly this key, or an empty string."""
    for name in ("training", "evaluation", "negatives", "queries", "dataset", "matryoshka", "prepare", "model"):
        fields_of = _SECTIONS[name]
        if name != besides and fields_of is not None and key in fields_of({}):
            return name
    return ""


def _check_value(value: Any, annotation: Any, source: str, path: str) -> None:
    if not fits(value, annotation):
        raise RecipeError(f"{source}: {path}: expected {describe(annotation)}, got {kind(value)}")
