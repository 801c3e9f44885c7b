"""Checkpoints: a directory with `modules.json` to modules, and back.

Reading takes every layout that Sentence Transformers 2 to 6 wrote. Writing uses the oldest form that can say what there
is to say, because it is the one that the most programs read. Types of modules are looked up in `modules.registry`,
weights are safetensors, and code that comes with a checkpoint runs only when the caller trusts it.
"""

import errno
import logging
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from safetensors import SafetensorError
from torch import nn
from transformers.dynamic_module_utils import custom_object_save

import omnitune
from omnitune.errors import CheckpointError, ResourceError
from omnitune.model.family import DENSE, Family
from omnitune.modules import files, registry
from omnitune.modules.transformer import Transformer, TransformerTask

logger = logging.getLogger(__name__)

MODULES = "modules.json"
CONFIG = "config_sentence_transformers.json"

UNNAMED_FAMILY = "SentenceTransformer"
"""What a checkpoint is whose configuration does not say: it is older than the other families."""

_PARTIAL = ".{}.partial"
"""A checkpoint that is being written, or whose writing was killed."""

_STALE = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", files.PICKLED_WEIGHTS)
"""Files that decide which weights are loaded: none of a former checkpoint may stay beside new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a checkpoint is reached and loaded.

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
    """What a directory holds.

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
        family: The reader's. One that converts takes, of a checkpoint of another one, the backbone through `bare`, and
            leaves its configuration, which is about other modules.

    Raises:
        CheckpointError: There is nothing to load, it is incomplete, it is of a family that this one does not convert,
            or it needs other package versions.
        UntrustedCodeError: It needs code that the caller did not allow.
    """
    folder = files.resolve(path_or_id, options.hub)
    config = files.read_json(folder / CONFIG)
    check_requirements(config.get("requirements") or {}, folder)
    kind = config.get("model_type", UNNAMED_FAMILY)
    if kind != family.name and not family.converts:
        raise CheckpointError(
            f"model_name_or_path: expected a {family.name}, got a checkpoint of a {kind}: {path_or_id}; "
            + (f"open it with omnitune.{kind}" if hasattr(omnitune, kind) else f"this version has no {kind}")
        )
    if kind != family.name and (folder / MODULES).is_file():
        logger.warning("%s: a %s, whose backbone is taken for a %s with a new head.", folder, kind, family.name)
        return Checkpoint(modules=bare(path_or_id, options), forward_kwargs={}, config={})
    if not (folder / MODULES).is_file():
        return Checkpoint(modules=bare(path_or_id, options), forward_kwargs={}, config=config)
    modules: dict[str, nn.Module] = {}
    forward_kwargs: dict[str, list[str]] = {}
    for index, entry in enumerate(files.read_list(folder / MODULES)):
        if not {"type", "path"} <= entry.keys():
            raise CheckpointError(
                f"{folder / MODULES}: entry {index}: expected keys type and path, got {sorted(entry)}"
            )
        name = str(entry.get("name", index))
        files.inside(folder, entry["path"])
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
        forward_kwargs[name] = list(entry.get("kwargs", []))
    return Checkpoint(modules=modules, forward_kwargs=forward_kwargs, config=config)


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
        installed = _installed("torch" if package == "pytorch" else package)
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


def _installed(package: str) -> str | None:
    if package == "python":
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def save(
    folder: str | Path,
    modules: Mapping[str, nn.Module],
    config: Mapping[str, Any],
    forward_kwargs: Mapping[str, Sequence[str]],
    *,
    safe_serialization: bool = True,
) -> None:
    """Write a checkpoint; what the directory held before stays whole until all of it is written.

    Args:
        folder: The directory; made when missing. Other files in it stay.
        modules: By name, in order.
        config: The model's own configuration.
        forward_kwargs: For each module, names of extra arguments of `encode` that its forward gets.
        safe_serialization: Must be True.

    Raises:
        InputError: `safe_serialization` is False.
        ResourceError: The disk is full; the directory is as it was.
    """
    with _replacing(Path(folder)) as fresh:
        entries = []
        for index, (name, module) in enumerate(modules.items()):
            in_root = index == 0 and getattr(module, "save_in_root", False)
            path = "" if in_root else f"{index}_{type(module).__name__}"
            (fresh / path).mkdir(exist_ok=True)
            module.save(str(fresh / path), safe_serialization=safe_serialization)  # type: ignore[operator]
            if registry.is_remote(module):
                custom_object_save(module, str(fresh))
            entry: dict[str, Any] = {"idx": index, "name": name, "path": path, "type": registry.type_of(module)}
            entries.append({**entry, "kwargs": list(names)} if (names := forward_kwargs.get(name)) else entry)
        files.write_list(fresh / MODULES, entries)
        files.write_json(fresh / CONFIG, {**config, **_provenance(registry.own_types(modules.values()))})


def _provenance(own: Sequence[str]) -> dict[str, Any]:
    """Versions; and for modules that only omnitune has, what stops other readers with one clear sentence."""
    versions = {
        "omnitune": omnitune.__version__,
        "transformers": metadata.version("transformers"),
        "pytorch": metadata.version("torch"),
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


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new directory inside `folder` whose files take their places in it when the block ends well.

    Moving files needs no room on the disk, so it cannot fail for want of it; inside, they stay on one file system also
    where `folder` is a mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for killed in folder.glob(_PARTIAL.format("*")):
        shutil.rmtree(killed)
    before, after = _PARTIAL.split("{}")
    fresh = Path(tempfile.mkdtemp(prefix=before, suffix=after, dir=folder))
    try:
        yield fresh
        _move(fresh, folder)
    except (OSError, SafetensorError) as error:
        if not _is_full(error):
            raise
        free = shutil.disk_usage(folder).free
        raise ResourceError(
            f"{folder}: the disk is full ({free / 1e6:.0f} MB free); what was there before is as it was"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return f"os error {errno.ENOSPC}" in str(error)


def _move(fresh: Path, folder: Path) -> None:
    written = [path for path in fresh.rglob("*") if path.is_file()]
    names = {path.relative_to(fresh) for path in written}
    for path in written:
        target = folder / path.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    for place in {folder / name.parent for name in names}:
        for pattern in _STALE:
            for old in place.glob(pattern):
                if old.relative_to(folder) not in names:
                    old.unlink()
