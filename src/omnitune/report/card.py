"""The model card: `README.md` with YAML front matter that the Hugging Face Hub reads.

Everything it says was recorded while the model was loaded, trained and evaluated; rendering opens no dataset, encodes
nothing and asks no server.
"""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from omnitune.io import printable, writing
from omnitune.renames import missing
from omnitune.report.facts import DatasetFacts, EvaluationFacts, ModelFacts, TrainingFacts
from omnitune.report.wording import SIMILARITY_NAMES, duration
from omnitune.runtime import installed

PACKAGES = ("omnitune", "torch", "transformers", "accelerate", "datasets", "tokenizers", "peft")
"""Packages whose versions a card states, where they are installed."""

LEFT_OUT = dict.fromkeys(
    ("compute_dataset_metrics", "extract_dataset_metadata", "first_save", "format_eval_metrics", "format_training_logs")
    + ("generate_usage_snippet", "get_codecarbon_data", "get_default_model_name", "get_model_specific_metadata")
    + ("get_training_duration_data", "infer_datasets", "register_model", "run_usage_snippet", "set_best_model_step")
    + ("save_usage_example_assets", "set_label_examples", "set_losses", "set_widget_examples", "similarities")
    + ("template_path", "to_dict", "to_yaml", "try_to_set_base_model", "try_to_set_ir_model_from_evaluators")
    + ("validate_datasets", "widget", "usage_examples", "code_carbon_callback", "best_model_step", "eval_results_dict"),
    "the card reads what the run recorded; set this object's fields, or edit README.md after save_pretrained",
)
"""Names of Sentence Transformers' card data that are not here, and what takes their place."""

LOG_ROWS = 100
"""Rows of the training log that are shown; a longer log is thinned evenly."""


@dataclasses.dataclass
class SentenceTransformerModelCardData:
    """Facts that a user, the trainer and the evaluators know about a model.

    Args:
        language: Language, or several.
        license: Licence of the weights, e.g. "apache-2.0".
        model_name: Title of the card.
        model_id: Repository, e.g. "owner/name".
        train_datasets: `{"name": ..., "id": ...}` of the training datasets.
        eval_datasets: The same of the evaluation datasets.
        task_name: What the model is for.
        tags: Tags for the hub.
        local_files_only: Accepted for compatibility: a card never asks the hub.
        generate_widget_examples: Accepted for compatibility: a card never encodes examples.

    Example:
        >>> data = SentenceTransformerModelCardData(language="en", license="apache-2.0", model_name="Manuals")
        >>> mine = SentenceTransformer(modules=list(model), model_card_data=data)
        >>> mine.model_card_data.license  # `save_pretrained` writes it into README.md
        'apache-2.0'
    """

    language: str | list[str] | None = dataclasses.field(default_factory=list)
    license: str | None = None
    model_name: str | None = None
    model_id: str | None = None
    train_datasets: list[dict[str, str]] = dataclasses.field(default_factory=list)
    eval_datasets: list[dict[str, str]] = dataclasses.field(default_factory=list)
    task_name: str = (
        "semantic textual similarity, semantic search, paraphrase mining, classification, clustering, and more"
    )
    tags: list[str] = dataclasses.field(
        default_factory=lambda: ["sentence-transformers", "sentence-similarity", "feature-extraction", "dense"]
    )
    local_files_only: bool = False
    generate_widget_examples: bool = True

    base_model: str | None = dataclasses.field(default=None, init=False, repr=False)
    training: TrainingFacts | None = dataclasses.field(default=None, init=False, repr=False)
    evaluations: dict[str, EvaluationFacts] = dataclasses.field(default_factory=dict, init=False, repr=False)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise missing(type(self).__name__, name, LEFT_OUT)

    def __post_init__(self) -> None:
        """Keep languages as a list."""
        self.set_language(self.language)

    def set_model_id(self, model_id: str) -> None:
        """Set the repository."""
        self.model_id = model_id

    def set_base_model(self, model_id: str, revision: str | None = None) -> None:
        """Set what the model was finetuned from."""
        del revision
        self.base_model = model_id

    def set_language(self, language: str | list[str] | None) -> None:
        """Set the language, or several."""
        self.language = [language] if isinstance(language, str) else language

    def set_license(self, license: str) -> None:
        """Set the licence."""
        self.license = license

    def add_tags(self, tags: str | list[str]) -> None:
        """Add tags that are not there yet."""
        for tag in [tags] if isinstance(tags, str) else tags:
            if tag not in self.tags:
                self.tags.append(tag)

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: Mapping[str, Any], epoch: float = 0, step: int = 0
    ) -> None:
        """Keep an evaluator's latest metrics, and its primary one in the training log."""
        name = getattr(evaluator, "name", "") or ""
        primary = getattr(evaluator, "primary_metric", None)
        values = {key: _number(value) for key, value in metrics.items()}
        self.evaluations[f"{type(evaluator).__name__}/{name}"] = EvaluationFacts(
            name=name,
            description=getattr(evaluator, "description", type(evaluator).__name__),
            metrics={key.removeprefix(f"{name}_"): value for key, value in values.items()},
            primary=primary.removeprefix(f"{name}_") if primary else None,
            config=evaluator.get_config_dict() if hasattr(evaluator, "get_config_dict") else {},
            epoch=epoch,
            step=step,
        )
        best = values.get(primary) if primary else None
        if self.training is not None and primary and isinstance(best, float):
            self.training.record(step, epoch, {primary: best})


def _number(value: Any) -> float | str:
    """Read a metric as a number; one that is none, such as a label or a list, is shown as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


@dataclasses.dataclass
class CrossEncoderModelCardData(SentenceTransformerModelCardData):
    """Facts about a cross encoder; the fields are those of `SentenceTransformerModelCardData`.

    Example:
        >>> CrossEncoderModelCardData(license="apache-2.0", model_name="Manuals").tags
        ['sentence-transformers', 'cross-encoder', 'reranker']
    """

    task_name: str = "reranking of search results and classification of pairs"
    tags: list[str] = dataclasses.field(default_factory=lambda: ["sentence-transformers", "cross-encoder", "reranker"])


@dataclasses.dataclass
class MultiVectorEncoderModelCardData(SentenceTransformerModelCardData):
    """Facts about a late-interaction encoder; the fields are those of `SentenceTransformerModelCardData`.

    Example:
        >>> data = MultiVectorEncoderModelCardData(license="apache-2.0", model_name="Manuals")
        >>> MultiVectorEncoder.from_dense(model, model_card_data=data).model_card_data.model_name
        'Manuals'
    """

    task_name: str = "semantic search with late interaction"
    tags: list[str] = dataclasses.field(
        default_factory=lambda: ["sentence-transformers", "multi-vector", "colbert", "late-interaction"]
    )


@dataclasses.dataclass
class SparseEncoderModelCardData(SentenceTransformerModelCardData):
    """Facts about a sparse encoder; the fields are those of `SentenceTransformerModelCardData`.

    Example:
        >>> SparseEncoderModelCardData(license="apache-2.0", model_name="Manuals").tags
        ['sentence-transformers', 'sparse-encoder', 'sparse']
    """

    task_name: str = "semantic search and sparse retrieval"
    tags: list[str] = dataclasses.field(default_factory=lambda: ["sentence-transformers", "sparse-encoder", "sparse"])


def write(
    model: Any, folder: Path, *, model_name: str | None = None, train_datasets: Sequence[str] | None = None
) -> None:
    """Write `README.md` of a model into `folder`.

    Args:
        model: The model; its `model_card_data` and public properties are read.
        folder: The model's directory.
        model_name: Title, or repository where it contains a slash; what the data says comes first.
        train_datasets: Names of training datasets to add.
    """
    data = dataclasses.replace(model.model_card_data)
    for name in ("base_model", "training", "evaluations"):
        setattr(data, name, getattr(model.model_card_data, name))
    if model_name and "/" in model_name:
        data.model_id = data.model_id or model_name
    elif model_name:
        data.model_name = data.model_name or model_name
    data.train_datasets = [*data.train_datasets, *({"name": name} for name in train_datasets or [])]
    with writing(folder / "README.md") as path:
        path.write_text(render(data, facts_of(model)), encoding="utf-8")


def facts_of(model: Any) -> ModelFacts:
    """Read a card's facts off a model."""
    return ModelFacts(
        family=model.family.name,
        size=model.output_size,
        max_seq_length=model.max_seq_length,
        similarity=getattr(model, "similarity_fn_name", None),
        modalities=[m if isinstance(m, str) else "+".join(m) for m in model.modalities],
        architecture=str(model),
        prompts={name: text for name, text in model.prompts.items() if text},
        own_modules=getattr(model, "own_modules", ()),
        kinds=getattr(model, "kinds", ()),
        max_active_dims=getattr(model, "max_active_dims", None),
    )


def render(data: SentenceTransformerModelCardData, facts: ModelFacts) -> str:
    """The whole card as Markdown with YAML front matter."""
    sections = [
        f"---\n{_front_matter(data, facts)}\n---",
        _introduction(data, facts),
        _details(data, facts),
        _usage(data, facts),
        _evaluations(data),
        _training(data),
    ]
    cited = {} if data.training is None else {who: text for who, text in data.training.citations.items() if text}
    if cited:
        sections += ["## Citations", *(f"{who}:\n\n```bibtex\n{text.strip()}\n```" for who, text in cited.items())]
    return printable("\n\n".join(section for section in sections if section) + "\n")


def _front_matter(data: SentenceTransformerModelCardData, facts: ModelFacts) -> str:
    numbers = [(e, {k: v for k, v in e.metrics.items() if isinstance(v, float)}) for e in data.evaluations.values()]
    results = [
        EvalResult(
            task_type=e.description.lower().replace(" ", "-"),
            task_name=e.description,
            dataset_type=e.name or "unknown",
            dataset_name=e.name or "Unknown",
            metric_type=_metric_type(key),
            metric_name=key.replace("_", " ")
            .title()
            .replace("Ndcg", "NDCG")
            .replace("Mrr", "MRR")
            .replace("Map", "MAP"),
            metric_value=value,
        )
        for e, metrics in numbers
        for key, value in metrics.items()
    ]
    tags = [tag for tag in data.tags if not (facts.own_modules and tag == "sentence-transformers")]
    tags += [kind.lower() for kind in facts.kinds] + ["omnitune"]
    if data.training is not None:
        trained = [d for d in data.training.datasets if d.kind == "training"]
        tags += ["generated_from_trainer", f"dataset_size:{sum(d.rows or 0 for d in trained)}"]
        tags += [f"loss:{d.loss}" for d in trained]
    return ModelCardData(
        language=data.language or None,
        license=data.license,
        library_name="omnitune" if facts.own_modules else "sentence-transformers",
        tags=list(dict.fromkeys(tags)),
        datasets=[d["id"] for d in (*data.train_datasets, *data.eval_datasets) if "id" in d] or None,
        metrics=sorted({_metric_type(key) for _, metrics in numbers for key in metrics}) or None,
        pipeline_tag=facts.wording.pipeline_tag,
        base_model=data.base_model if _on_hub(data.base_model) else None,
        model_name=_title(data, facts),
        eval_results=results or None,
    ).to_yaml()


def _on_hub(name: str | None) -> bool:
    """Tell whether `name` is a repository and not a folder of this machine."""
    return bool(name) and not Path(str(name)).exists() and str(name).count("/") <= 1 and not str(name).startswith(".")


def _metric_type(key: str) -> str:
    """`cosine_ndcg@10` is an `ndcg`, as the hub names metrics."""
    head = key.split("@")[0]
    return head.split("_", 1)[1] if head.split("_")[0] in SIMILARITY_NAMES and "_" in head else head


def _title(data: SentenceTransformerModelCardData, facts: ModelFacts) -> str:
    if data.model_name or data.model_id:
        return str(data.model_name or data.model_id)
    return f"{facts.family} based on {data.base_model}" if _on_hub(data.base_model) else facts.family


def _introduction(data: SentenceTransformerModelCardData, facts: ModelFacts) -> str:
    origin = f", finetuned from {_base(data)}" if data.base_model else ""
    said = facts.wording.introduction.format(
        origin=origin, inputs=", ".join(facts.modalities), size=facts.size, task=data.task_name
    )
    if facts.own_modules:
        own = " and ".join(f"`{name}`" for name in facts.own_modules)
        said = said.replace("in the Sentence Transformers format", "of omnitune")
        said += f" Its {own} cannot be loaded by sentence_transformers: use omnitune, as below."
    return f"# {_title(data, facts)}\n\n{said}"


def _base(data: SentenceTransformerModelCardData) -> str:
    name = str(data.base_model)
    return f"[{name}](https://huggingface.co/{name})" if _on_hub(name) else f"`{Path(name).name}`"


def _details(data: SentenceTransformerModelCardData, facts: ModelFacts) -> str:
    language = ", ".join(data.language or [])
    rows = {
        "Model type": " ".join([*facts.kinds, "Sparse Encoder"]) if facts.kinds else facts.family,
        "Base model": _base(data) if data.base_model else None,
        "Maximum sequence length": f"{facts.max_seq_length} tokens" if facts.max_seq_length else None,
        facts.wording.size: facts.size,
        "Maximum active dimensions": facts.max_active_dims,
        "Similarity": SIMILARITY_NAMES.get(str(facts.similarity), facts.similarity),
        "Inputs": ", ".join(facts.modalities),
        "Training datasets": ", ".join(d.get("name") or d["id"] for d in data.train_datasets),
        "Languages": language,
        "Licence": data.license,
    }
    lines = [f"- **{name}:** {value}" for name, value in rows.items() if value]
    lines += [f"- **Prompt `{name}`:** `{text!r}`" for name, text in facts.prompts.items()]
    return "## Model\n\n" + "\n".join(lines) + f"\n\n```\n{facts.architecture}\n```"


def _usage(data: SentenceTransformerModelCardData, facts: ModelFacts) -> str:
    document = '"page.png"' if "image" in facts.modalities else '"Bearings are greased every 500 hours."'
    name = data.model_id or "path/or/repository"
    code = facts.wording.usage.format(name=name, document=document, size=facts.size)
    if not facts.own_modules:
        return f"## Usage\n\n```python\n{code}\n```"
    code = code.replace(f"  # or: from sentence_transformers import {facts.family}", "")
    return f"## Usage\n\n```python\n{code}\n```" + _SEARCH.format(name=name)


_SEARCH = """

Search a dataset that `omnitune prepare FOLDER --out dataset` made, or the `dataset` beside the model of a run:

```bash
omnitune search {name} dataset "How often are the bearings greased?" --html hits.html
```"""


def _evaluations(data: SentenceTransformerModelCardData) -> str:
    parts = []
    for e in data.evaluations.values():
        title = f"{e.description}: `{e.name}`" if e.name else e.description
        rows = [
            [f"**{k}**" if k == e.primary else k, v if isinstance(v, str) else f"{v:.4f}"] for k, v in e.metrics.items()
        ]
        settings = "".join(f"\n- `{k}`: {v}" for k, v in e.config.items())
        parts.append(f"### {title}\n{settings}\n\n" + _table(["Metric", "Value"], rows))
    return "## Evaluation\n\n" + "\n\n".join(parts) if parts else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _training(data: SentenceTransformerModelCardData) -> str:
    training = data.training
    if training is None:
        return ""
    parts = [_dataset(d) for d in training.datasets]
    if training.negatives or training.skipped:
        parts.append("\n".join(f"- {line}" for line in [*training.negatives, *training.skipped]))
    if training.arguments:
        listed = "\n".join(f"- `{name}`: {value}" for name, value in training.arguments.items())
        parts.append(f"### Arguments other than the defaults\n\n{listed}")
    if training.log:
        parts.append(_log(training))
    known = {name: installed(name) for name in PACKAGES}
    versions = ", ".join(f"{name} {version}" for name, version in known.items() if version is not None)
    versions = f"Python {platform.python_version()}, {versions}"
    parts.append(f"### Time and versions\n\n- Training took {duration(training.seconds)}.\n- {versions}")
    return "## Training\n\n" + "\n\n".join(parts)


def _dataset(facts: DatasetFacts) -> str:
    rows = {
        "Rows": None if facts.rows is None else f"{facts.rows:,}",
        "Columns": ", ".join(f"`{name}`" for name in facts.columns),
        "Label": f"`{facts.label}`" if facts.label else None,
        "Loss": f"`{facts.loss}`" + "".join(f", `{k}`: {v}" for k, v in facts.loss_config.items()),
    }
    title = f"{facts.kind.capitalize()} dataset" + (f" `{facts.name}`" if facts.name else "")
    return f"### {title}\n\n" + "\n".join(f"- {name}: {value}" for name, value in rows.items() if value)


def _log(training: TrainingFacts) -> str:
    names = list(dict.fromkeys(name for row in training.log for name in row))
    stride = -(-len(training.log) // LOG_ROWS)
    kept = [row for i, row in enumerate(training.log) if i % stride == 0 or row["Step"] == training.best_step]
    rows = []
    for row in kept:
        values = [row.get(name, "-") for name in names]
        cells = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in values]
        rows.append([f"**{cell}**" for cell in cells] if row["Step"] == training.best_step else cells)
    note = "\n\nThe row in bold is the saved model." if training.best_step is not None else ""
    return "### Log\n\n" + _table(names, rows) + note
