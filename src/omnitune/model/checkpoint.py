"""Checkpoints: a directory with `modules.json` to modules, and back.

Reading takes every layout that Sentence Transformers 2 to 6 wrote. Writing uses the oldest form that can say what there
is to say, because it is the one that the most programs read. Types of modules are looked up in `modules.registry`,
weights are safetensors, and code that comes with a checkpoint runs only when the caller trusts it.
"""

import logging
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from torch import nn
from transformers.dynamic_module_utils import custom_object_save

from omnitune import folders, runtime
from omnitune._version import __version__
from omnitune.errors import CheckpointError
from omnitune.model.family import DENSE, Family
from omnitune.modules import files, registry
from omnitune.modules.base import write_module
from omnitune.modules.loading import upstream
from omnitune.modules.tasks import TransformerTask
from omnitune.modules.transformer import Transformer

logger = logging.getLogger(__name__)

MODULES = "modules.json"
CONFIG = "config_sentence_transformers.json"

LONGEST = 500
"""Characters of a name or a path in a checkpoint: longer ones are no file's, and would fill an error message."""

MOST_MODULES = 1_000
"""Entries of a list of modules: 200,000 would be built for minutes."""

UNNAMED_FAMILY = "SentenceTransformer"
"""What a checkpoint is whose configuration does not say: it is older than the other families."""

_STALE = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", files.PICKLED_WEIGHTS)
"""Files that decide which weights are loaded: none of a former checkpoint may stay beside new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Options of reaching and loading a checkpoint.

    Attributes:
        token: Access token of the hub.
        cache_folder: Where downloaded files are kept.
        revision: Branch, tag or commit.
        local_files_only: Never download.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        model_kwargs: For the backbone's `from_pretrained`.
        processor_kwargs: For the processor's.
        config_kwargs: For the configuration's.
        backend: What computes the forward.
    """

    token: bool | str | None = None
    cache_folder: str | None = None
    revision: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    processor_kwargs: dict[str, Any] = field(default_factory=dict)
    config_kwargs: dict[str, Any] = field(default_factory=dict)
    backend: Literal["torch", "onnx", "openvino"] = "torch"

    @property
    def hub(self) -> files.HubOptions:
        """The part that says how the hub is reached."""
        return files.HubOptions(
            token=self.token,
            cache_folder=self.cache_folder,
            revision=self.revision,
            local_files_only=self.local_files_only,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Contents of a directory.

    Attributes:
        modules: By name, in order.
        forward_kwargs: For each module, names of extra arguments of `encode` that its forward gets.
        config: The model's own configuration: prompts, similarity, ...
    """

    modules: dict[str, nn.Module]
    forward_kwargs: dict[str, list[str]]
    config: dict[str, Any]


def load(
    path_or_id: str,
    options: LoadOptions,
    *,
    bare: Callable[[str, LoadOptions], dict[str, nn.Module]],
    family: Family = DENSE,
) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path_or_id: A directory, or a repository of the hub.
        options: How to reach and load it.
        bare: Makes modules out of a directory without `modules.json`.
        family: The reader's. Of a checkpoint of another one it takes the backbone through `bare`, and leaves its
            configuration, which is about other modules.

    Raises:
        CheckpointError: There is nothing to load, it is incomplete, or it needs other package versions.
        UntrustedCodeError: It needs code that the caller did not allow.
    """
    folder = files.resolve(path_or_id, options.hub)
    config = read_config(folder / CONFIG)
    check_requirements(config.get("requirements") or {}, folder)
    kind = config.get("model_type") or UNNAMED_FAMILY
    if kind != family.name and (folder / MODULES).is_file():
        logger.warning("%s: a %s, whose backbone is taken for a %s with a new head.", folder, kind, family.name)
        return Checkpoint(modules=bare(path_or_id, options), forward_kwargs={}, config={})
    if not (folder / MODULES).is_file():
        return Checkpoint(modules=bare(path_or_id, options), forward_kwargs={}, config=config)
    return load_modules(path_or_id, folder, options)


def load_modules(path_or_id: str, folder: Path, options: LoadOptions) -> Checkpoint:
    """The modules that `modules.json` lists, whatever family they are of.

    Args:
        path_or_id: What the user called the checkpoint.
        folder: Where it lies.
        options: How to load it.

    Raises:
        CheckpointError: An entry or a module is incomplete.
        UntrustedCodeError: A module needs code that the caller did not allow.
    """
    config = files.read_json(folder / CONFIG)
    modules: dict[str, nn.Module] = {}
    forward_kwargs: dict[str, list[str]] = {}
    for name, entry in read_modules(folder / MODULES).items():
        files.inside(folder, entry["path"])
        with upstream(folder / entry["path"], f"{entry['type'].rpartition('.')[2]} module"):
            modules[name] = registry.load_module(
                entry["type"],
                folder,
                entry["path"],
                trust_remote_code=options.trust_remote_code,
                model_kwargs=options.model_kwargs,
                processor_kwargs=options.processor_kwargs,
                config_kwargs=options.config_kwargs,
                backend=options.backend,
                name=path_or_id,
            )
        forward_kwargs[name] = list(entry["kwargs"])
    return Checkpoint(modules=modules, forward_kwargs=forward_kwargs, config=config)


def read_modules(path: Path) -> dict[str, dict[str, Any]]:
    """Read the entries of `modules.json` by name, each with `type`, `path` and `kwargs`.

    Raises:
        CheckpointError: An entry lacks one of them, or has a value that cannot be one; names the entry.
    """
    entries: dict[str, dict[str, Any]] = {}
    listed = files.read_list(path)
    if len(listed) > MOST_MODULES:
        raise CheckpointError(f"{path}: expected at most {MOST_MODULES:,} modules, got {len(listed):,}")
    for index, entry in enumerate(listed):
        if not {"type", "path"} <= entry.keys():
            raise CheckpointError(f"{path}: entry {index}: expected keys type and path, got {sorted(entry)}")
        name = str(entry.get("name", index))
        entry = {**entry, "kwargs": entry.get("kwargs") or []}
        for key in ("type", "path"):
            text = entry[key]
            if not isinstance(text, str) or len(text) > LONGEST or "\x00" in text or (key == "type" and not text):
                raise CheckpointError(
                    f"{path}: entry {index}: {key}: expected a text of at most {LONGEST} characters, "
                    f"got {reprlib.repr(text)}"
                )
        if not isinstance(entry["kwargs"], list) or not all(isinstance(one, str) for one in entry["kwargs"]):
            raise CheckpointError(
                f"{path}: entry {index}: kwargs: expected a list of names, got {reprlib.repr(entry['kwargs'])}"
            )
        if not name or "." in name or len(name) > LONGEST or name in entries:
            raise CheckpointError(
                f"{path}: entry {index}: name: expected one that no other has, without dots, got {reprlib.repr(name)}"
            )
        entries[name] = entry
    if not entries:
        raise CheckpointError(f"{path}: expected at least one module, got an empty list")
    return entries


def read_config(path: Path) -> dict[str, Any]:
    """Read the model's own configuration; empty where there is none.

    Raises:
        CheckpointError: A key has a value of another kind than it is written with; names the key.
    """
    config = files.read_json(path)
    prompts = config.get("prompts")
    if prompts is not None and (
        not isinstance(prompts, dict) or not all(text is None or isinstance(text, str) for text in prompts.values())
    ):
        raise CheckpointError(f"{path}: prompts: expected an object of texts by name, got {reprlib.repr(prompts)}")
    for key, kind, wanted in (
        ("default_prompt_name", str, "the name of a prompt"),
        ("similarity_fn_name", str, "the name of a similarity"),
        ("model_type", str, "the name of a family"),
        ("truncate_dim", int, "a positive whole number"),
        ("requirements", dict, "an object of version specifiers by package"),
        ("activation_fn", str, "the name of an activation function"),
        ("keep_in_fp32_modules", list, "a list of paths"),
    ):
        value = config.get(key)
        fits = isinstance(value, kind) and not (isinstance(value, int) and (isinstance(value, bool) or value < 1))
        if value is not None and not fits:
            raise CheckpointError(f"{path}: {key}: expected {wanted} or null, got {reprlib.repr(value)}")
    return config


def bare_transformer(
    path_or_id: str, options: LoadOptions, task: TransformerTask = "feature-extraction"
) -> Transformer:
    """The backbone of a Hugging Face model that is no checkpoint of modules, with its task's head.

    Raises:
        CheckpointError: There is no model, or its weights are pickled.
    """
    trust = {"trust_remote_code": True} if options.trust_remote_code else {}
    return Transformer(
        path_or_id,
        transformer_task=task,
        model_kwargs={**options.hub.kwargs(), **trust, **options.model_kwargs},
        processor_kwargs={**trust, **options.processor_kwargs},
        config_kwargs={**trust, **options.config_kwargs},
        backend=options.backend,
    )


def architecture(path_or_id: str, options: LoadOptions) -> str:
    """Name of the class whose weights a Hugging Face model has, or "" where its configuration is silent."""
    names = files.read_json(files.resolve(path_or_id, options.hub) / "config.json").get("architectures")
    return str((names or [""])[0])


def check_requirements(requirements: Mapping[str, Any], source: Path) -> None:
    """See that the installed packages are those that a checkpoint asks for.

    Args:
        requirements: By package, a version specifier, or a dict with `specifier` and `reason`.
        source: The checkpoint, for the error.

    Raises:
        CheckpointError: Packages are missing or of another version; says which, and why they matter.
    """
    unmet = []
    for package, asked in requirements.items():
        entry = asked if isinstance(asked, dict) else {"specifier": asked}
        if entry.get("unless") == "omnitune":
            continue
        specifier = str(entry.get("specifier", ""))
        installed = runtime.installed("torch" if package == "pytorch" else package)
        try:
            met = installed is not None and SpecifierSet(specifier, prereleases=True).contains(installed)
        except InvalidSpecifier:
            logger.warning("%s: requirements: %r: %r is not a version specifier; not checked", source, package, asked)
            continue
        if not met:
            found = "it is not installed" if installed is None else f"{installed} is installed"
            unmet.append(f"{package}{specifier}, but {found}. {entry.get('reason', '')}".rstrip())
    if unmet:
        raise CheckpointError(f"{source}: it requires {'; '.join(unmet)}")


def save(
    folder: str | Path,
    modules: Mapping[str, nn.Module],
    config: Mapping[str, Any],
    forward_kwargs: Mapping[str, Sequence[str]],
    *,
    safe_serialization: bool = True,
    card: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint; all of it takes the place of what the directory held before in one step.

    Args:
        folder: The directory; made when missing. Other files in it stay.
        modules: By name, in order.
        config: The model's own configuration.
        forward_kwargs: For each module, names of extra arguments of `encode` that its forward gets.
        safe_serialization: Must be True.
        card: Writes the model card into the folder it is given.

    Raises:
        InputError: `safe_serialization` is False.
        ResourceError: The disk is full; the directory is as it was.
    """
    with folders.replacing_folder(Path(folder), gone=_stale) as fresh:
        entries = []
        for index, (name, module) in enumerate(modules.items()):
            in_root = index == 0 and getattr(module, "save_in_root", False)
            path = "" if in_root else f"{index}_{type(module).__name__}"
            (fresh / path).mkdir(exist_ok=True)
            write_module(module, fresh / path, safe_serialization=safe_serialization)
            if registry.is_remote(module):
                custom_object_save(module, str(fresh))
            entry: dict[str, Any] = {"idx": index, "name": name, "path": path, "type": registry.type_of(module)}
            entries.append({**entry, "kwargs": list(names)} if (names := forward_kwargs.get(name)) else entry)
        files.write_json(fresh / MODULES, entries)
        files.write_json(fresh / CONFIG, {**config, **_provenance(registry.own_types(modules.values()))})
        if card is not None:
            card(fresh)


def _provenance(own: Sequence[str]) -> dict[str, Any]:
    """Versions; and for modules that only omnitune has, what stops other readers with one clear sentence."""
    versions = {
        "omnitune": __version__,
        "transformers": runtime.installed("transformers"),
        "pytorch": runtime.installed("torch"),
    }
    if not own:
        return {"__version__": versions}
    # Sentence Transformers checks requirements before it loads modules and prints the reason. "python" is the one
    # requirement that it never advises to pip-install.
    reason = (
        f"The Python version does not matter: this checkpoint needs omnitune, because it holds modules that only "
        f"omnitune has ({', '.join(own)}). Open it with: pip install omnitune; from omnitune import SentenceTransformer"
    )
    requirement = {"specifier": "<0", "reason": reason, "unless": "omnitune"}
    return {"__version__": versions, "requirements": {"python": requirement}}


def _stale(path: Path, new: set[Path]) -> bool:
    """Tell former weights in a folder that has new files, which would be loaded with them or in their place."""
    written = any(name.parent == path.parent for name in new)
    return written and any(path.match(pattern) for pattern in _STALE)
