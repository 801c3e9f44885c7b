"""Choice of the model that a run finetunes when nobody names one, and loading of a named one."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from omnitune import runtime
from omnitune.documents.kinds import PAGES, Kind
from omnitune.finetune.recipe import Recipe, load_recipe
from omnitune.io import content_hash, read_json_or_none
from omnitune.model.dense import SentenceTransformer
from omnitune.model.embedded import READERS, embedded_modules, text_modules
from omnitune.model.family import DENSE, MULTI_VECTOR
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.modules import files
from omnitune.places import EMBEDDED, MINILM, is_embedded, local_model, minilm_folder
from omnitune.retrieval.pages import read_texts

VISION_LANGUAGE = "Qwen/Qwen3-VL-Embedding-2B"
GPU_BYTES = 20 << 30
"""Free memory that LoRA on the vision-language model needs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Model to be finetuned, and the reason.

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
        return f"MiniLM behind {READERS[self.kind.modality].shown} (embedded)" if is_embedded(self.name) else self.name

    def changed(self, recipe: Recipe) -> "ModelChoice":
        """Choose the same model with another recipe."""
        return dataclasses.replace(self, recipe=recipe)

    def fetch(self) -> None:
        """See that the model is there, and download it where it is not: asked before long work.

        Raises:
            MissingExtraError: The embedded model's packages are not installed.
            CheckpointError: It cannot be had.
        """
        if is_embedded(self.name):
            minilm_folder()
            for package, extra in READERS[self.kind.modality].packages.items():
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

    @property
    def late(self) -> bool:
        """Say whether it is a directory of a late-interaction model, of which a run finetunes the dense form."""
        facts = read_json_or_none(Path(self.name) / "config_sentence_transformers.json")
        return isinstance(facts, dict) and facts.get("model_type") == MULTI_VECTOR.name

    def load_late(self) -> MultiVectorEncoder:
        """The late-interaction model itself."""
        return MultiVectorEncoder(self.name, **loading(self.recipe))

    def identity(self) -> Any:
        """Identity of the starting point: a directory's files, or the name and revision of a repository."""
        return {**model_identity(self.name), "settings": dict(self.recipe.model)}


def choose(model: str | None, recipe: Recipe | None, kind: Kind = PAGES) -> ModelChoice:
    """Settle model and recipe from what the user said, what the folder holds and what the machine has.

    Args:
        model: A directory, a repository or `"embedded"`; None leaves it to the recipe or the machine.
        recipe: None takes the one that fits the model.
        kind: What is to be found.

    Raises:
        CheckpointNotFoundError: `model` looks like a path and nothing is there.
    """
    if model is not None:
        local_model(model)
        fitting = recipe or load_recipe("vdr-lora" if model == VISION_LANGUAGE else "demo")
        named = fitting.model.get("model_name_or_path")
        if named != model and (recipe is None or named == EMBEDDED):
            # Settings meant for another model, such as 256 tokens.
            fitting = dataclasses.replace(fitting, model={})
        return ModelChoice(name=model, why="It was asked for.", recipe=_with_model(fitting, model), kind=kind)
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


def _with_model(recipe: Recipe, name: str) -> Recipe:
    return dataclasses.replace(recipe, model={**recipe.model, "model_name_or_path": name})


def model_identity(name: str) -> dict[str, Any]:
    """Identity of a model: the files of a directory; of anything else its name."""
    path = Path(name)
    return {"name": str(path.resolve()) if path.is_dir() else name, "files": listing(path) if path.is_dir() else None}


def listing(folder: Path) -> list[list[Any]]:
    """List name, bytes and digest of every file under a folder, or of the one file: changes when they do.

    Sizes and times say too little: archives and images of containers give every file one time.
    """
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(path.relative_to(folder)), path.stat().st_size, content_hash(path)] for path in files]


def gpu_bytes() -> int:
    """Free memory of the GPU in bytes; 0 without one."""
    return runtime.available_memory("cuda:0") if torch.cuda.is_available() else 0


def load_model(settings: Mapping[str, Any], kind: Kind = PAGES) -> SentenceTransformer:
    """A model by the `model` section of a recipe; the embedded one for what is to be found."""
    arguments = dict(settings)
    tokens = arguments.pop("max_seq_length", None)
    language = arguments.pop("language", None)
    name = arguments.pop("model_name_or_path", None) or EMBEDDED
    model = page_retriever(kind, language, **arguments) if is_embedded(name) else SentenceTransformer(name, **arguments)
    if tokens is not None:
        model.max_seq_length = tokens
    return model


def loading(recipe: Recipe) -> dict[str, Any]:
    """Settings of the model that a checkpoint does not keep."""
    kept = ("device", "model_kwargs", "trust_remote_code", "cache_folder", "local_files_only", "backend")
    return {name: value for name, value in recipe.model.items() if name in kept}


def page_retriever(kind: Kind = PAGES, language: str | None = None, **arguments: Any) -> SentenceTransformer:
    """The embedded model: text through MiniLM, pages or segments through a reader into the same MiniLM.

    Args:
        kind: What is to be found.
        language: Language of the pages, or of the speech, as the reader names it; None takes English.
        **arguments: For `SentenceTransformer`.

    Raises:
        MissingExtraError: The packages of the extra `demo` are not installed.
        CheckpointError: The packaged weights are not the published ones.
    """
    model = SentenceTransformer(modules=embedded_modules([kind.modality], language), **arguments)
    model.model_card_data.base_model = MINILM
    return model


def text_embedder() -> SentenceTransformer:
    """MiniLM for texts: the baseline that reads the text layer.

    Raises:
        MissingExtraError: The package of the extra `demo` is not installed.
        CheckpointError: The packaged weights are not the published ones.
    """
    return SentenceTransformer(modules=text_modules())


def page_file_reader(kind: Kind = PAGES, language: str | None = None) -> Callable[[Sequence[Path]], list[str]] | None:
    """Make the reader of scanned pages, or segments, for preparing a dataset; None without its packages."""
    if any(importlib.util.find_spec(package) is None for package in READERS[kind.modality].packages):
        return None
    if kind is PAGES and language is None:
        return read_page_files
    reader = partial(read_page_files, kind=kind, language=language)
    reader.identity = f"{kind.name} {language}"  # type: ignore[attr-defined]  # a dataset depends on it
    return reader


def read_page_files(paths: Sequence[Path], kind: Kind = PAGES, language: str | None = None) -> list[str]:
    """Read the texts of page images, recordings or clips; once, like every page."""
    return read_texts(paths, kind, language)
