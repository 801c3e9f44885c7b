"""Recipes: one YAML file that says how a model is finetuned, in the names of the Python API.

A section is the keyword arguments of one thing: `model` of `SentenceTransformer`, `lora` of peft's `LoraConfig`,
`prepare` of `documents.prepare`, `dataset` of `datasets.load_dataset`, `loss` of the loss it names, `matryoshka` of
`MatryoshkaLoss`, `training` of `SentenceTransformerTrainingArguments`, `queries`, `negatives`, `reranker` and
`evaluation` of the classes below. Names and types are read off those signatures, and pydantic checks values against
them, so a recipe can never know less or more than the API.

Trade-off: checking a recipe imports the training room (about as long as torch's import); nothing is guessed in return.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omnitune.errors import RecipeError
from omnitune.finetune.settings_file import described, fits, read_yaml, shown, unknown
from omnitune.ops.quantize import Precision
from omnitune.places import recipe_file
from omnitune.runtime import require_peft

DEFAULT_LOSS = "CachedMultipleNegativesRankingLoss"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Settings of the comparison of base and finetuned model.

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
    """Writer of training queries, besides the titles, captions and headings of the documents.

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
class Retrieving:
    """Choice of the run's retriever: among candidates measured on validation queries, within budgets.

    Attributes:
        build: Whether a retriever is made at all.
        stages: Stages that it has, instead of a choice; their weights are chosen on validation all the same.
        sparse: Sparse encoder (SPLADE) that joins the choice, as a directory or a name; it is used as it is.
        milliseconds: Most processor time that a query may take, in the median.
        bytes_per_page: Most that a page may take in the index.
        queries: Most validation queries of titles.
        scans: Whether held-out pages with a text layer are recognised and measured as scans, too.
        head_epochs: Most epochs of a head for late interaction; training ends sooner where it no longer helps. 0 trains
            none.
        head_negatives: Wrong pages a query that it is trained against: those that lexical search and untrained late
            interaction find first.
        seed: Of the draw of queries, and of the head.
    """

    build: bool = True
    stages: list[Literal["lexical", "lines", "listing", "dense", "sparse", "late"]] | None = None
    sparse: str | None = None
    milliseconds: float = 500.0
    bytes_per_page: int = 500_000
    queries: int = 200
    scans: bool = True
    head_epochs: int = 12
    head_negatives: int = 12
    seed: int = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A checked recipe: keyword arguments by section.

    Attributes:
        model: Of `SentenceTransformer`, `max_seq_length`, and `language` of what the embedded model reads or hears.
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
        retriever: See `Retrieving`.
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
    retriever: Retrieving = dataclasses.field(default_factory=Retrieving)
    description: str = ""
    source: str = "the default recipe"

    def changed(self, **settings: Any) -> "Recipe":
        """Set single settings, checked like those of a file.

        Args:
            **settings: Section and key joined by two underscores, such as `negatives__count=4`; None changes nothing.

        Raises:
            RecipeError: A key or a value is unknown.
        """
        changed = self
        for name, value in settings.items():
            if value is not None:
                section, key = name.split("__")
                _check_section(section, {key: value}, "options")
                old = getattr(changed, section)
                new: Any = {**old, key: value} if isinstance(old, dict) else dataclasses.replace(old, **{key: value})
                changed = dataclasses.replace(changed, **{section: new})
        return changed

    def settings(self) -> dict[str, Any]:
        """Settings as plain data, for the report and for the hashes of steps."""
        plain = dataclasses.asdict(self)
        return {name: value for name, value in plain.items() if name not in ("description", "source")}


def load_recipe(name_or_path: str | Path, *, allow: Collection[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: A YAML file, or the name of a recipe that comes with omnitune (`"demo"`).
        allow: Settings of `ASKED` that the recipe may turn on; a recipe may come from a stranger.

    Raises:
        RecipeError: There is no such recipe, it is not YAML, a key or value in it is unknown (names the file, the
            key's path and the nearest known key), or it turns on what `allow` does not name.
    """
    path = recipe_file(str(name_or_path))
    return parse_recipe(path.read_text(encoding="utf-8"), source=str(path), allow=allow)


def parse_recipe(text: str, *, source: str, allow: Collection[str] = ()) -> Recipe:
    """Check a recipe's text.

    Raises:
        RecipeError: As for `load_recipe`.
    """
    sections = read_yaml(text, source)
    _check_asked(sections, allow, source)
    _check_keys(sections, ("description", *_SECTIONS), source, path="")
    values: dict[str, Any] = {"source": source}
    for name, section in sections.items():
        if name == "description":
            if not isinstance(section, str):
                raise RecipeError(f"{source}: description: expected text, got {shown(section)}")
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


# --- checking ---------------------------------------------------------------------------------------------------------

_CLASSES: dict[str, Callable[..., Any]] = {
    "queries": Queries,
    "negatives": Negatives,
    "reranker": Reranking,
    "evaluation": Evaluation,
    "retriever": Retrieving,
}

_SECTIONS = ("model", "lora", "prepare", "dataset", "loss", "matryoshka", "training", *_CLASSES)

ASKED = {
    "trust_remote_code": "runs code that comes with a model",
    "push_to_hub": "publishes the model under your name",
}
"""Settings with effects outside the run, which a user has to name, and those effects."""

_ELSEWHERE = {
    "output_dir": "it is the command's --out",
    "resume_from_checkpoint": "a run always resumes from what is in --out",
    "token": "log in with `hf auth login`; a secret has no place in a file",
}

_DATASET: dict[str, Any] = {
    "path": str,
    "split": str,
    "data_files": str | list[str] | dict[str, str] | None,
    **dict.fromkeys(("name", "revision", "eval_name", "eval_split"), str | None),
    **dict.fromkeys(("columns", "eval_columns"), list[str] | None),
}


def _fields(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that a section takes, with their type annotations; those of `loss` depend on the loss it names."""
    if name == "dataset":
        return _DATASET
    if name in _CLASSES:
        return _parameters(_CLASSES[name])
    if name == "lora":
        return _parameters(require_peft().LoraConfig)
    if name == "model":
        from omnitune.model.dense import SentenceTransformer

        hidden = ("modules", "token", "model_card_data")  # objects, and a secret that has no place in a file
        fields = _parameters(SentenceTransformer, without=hidden)
        return {**fields, "max_seq_length": int | None, "language": str | None}
    if name == "prepare":
        from omnitune.documents.preparation import prepare

        return _parameters(prepare, without=("folder", "out", "reader", "keep", "writer"))
    if name == "training":
        from omnitune.training.arguments import SentenceTransformerTrainingArguments

        return _parameters(SentenceTransformerTrainingArguments, without=("output_dir", "resume_from_checkpoint"))
    from omnitune import losses

    if name == "matryoshka":
        fields = _parameters(losses.MatryoshkaLoss, without=("model", "loss"))
        return {**fields, "matryoshka_dims": list[int], "matryoshka_weights": list[float] | None}
    known = [one for one in dir(losses) if inspect.isclass(getattr(losses, one)) and one.endswith("Loss")]
    loss = section.get("name", DEFAULT_LOSS)
    if loss not in known:
        raise RecipeError(f"loss.name: {unknown(str(loss), known, 'loss')}")
    return {"name": str, **_parameters(getattr(losses, loss), without=("model", "loss", "strategy"))}


def _parameters(of: Callable[..., Any], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Named parameters of a function or of a class's constructor, with their type annotations."""
    # A dataclass's __init__ is generated: its annotations only resolve from the class, module by module of its bases.
    written = of.__init__ if inspect.isclass(of) and not dataclasses.is_dataclass(of) else of
    hints = typing.get_type_hints(written)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: hints.get(name, Any)
        for name, parameter in inspect.signature(of).parameters.items()
        if parameter.kind in named and name not in without
    }


def _check_section(name: str, section: Any, source: str) -> dict[str, Any]:
    if not isinstance(section, dict):
        raise RecipeError(f"{source}: {name}: expected a mapping of settings, got {shown(section)}")
    try:
        fields = _fields(name, section)
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from None
    _check_keys(section, list(fields), source, path=f"{name}.")
    for key, value in section.items():
        if not fits(value, fields[key]):
            raise RecipeError(f"{source}: {name}.{key}: expected {described(fields[key])}, got {shown(value)}")
    return dict(section)


def _check_asked(settings: Any, allow: Collection[str], source: str, path: str = "") -> None:
    """Refuse settings of `ASKED` that are turned on, at any depth: `model_kwargs` takes `trust_remote_code` too."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if key in ASKED and value and key not in allow:
            raise RecipeError(
                f"{source}: {path}{key}: not taken from a recipe alone, because it {ASKED[key]}; "
                f"if you trust this recipe, add --allow {key} (in Python: allow=[{key!r}])"
            )
        _check_asked(value, allow, source, f"{path}{key}.")


def _check_keys(given: Mapping[Any, Any], known: Sequence[str], source: str, *, path: str) -> None:
    for key in given:
        if key in known:
            continue
        if key in _ELSEWHERE:
            raise RecipeError(f"{source}: {path}{key}: not set in a recipe: {_ELSEWHERE[key]}")
        others = [name for name in _SECTIONS if name not in ("lora", "loss", "reranker", path.rstrip("."))]
        homes = [] if key in _SECTIONS else [name for name in others if key in _fields(name, {})]
        hint = f"unknown key; it belongs in the section {homes[0]!r}" if homes else unknown(str(key), known, "key")
        raise RecipeError(f"{source}: {path}{key}: {hint}")
