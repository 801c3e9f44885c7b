"""Checks of arguments before torch is imported, which takes seconds: a wrong one is answered at once.

What is right is checked again where it is used; the sentences are those of the library.
"""

import difflib
from importlib import resources
from pathlib import Path

from omnitune.errors import CheckpointNotFoundError, DatasetError, RecipeError

RETRIEVER, DATASET, TABLES = "retriever.json", "prepared.json", "tables"
"""Names that `retrieval.retriever` and `documents.dataset` give their files; importing those takes seconds."""


def retriever_of(place: str | Path) -> Path | None:
    """The folder of a retriever: the one that is named, or `retriever` in the folder of a run; None without one."""
    return next((one for one in (Path(place), Path(place) / "retriever") if (one / RETRIEVER).is_file()), None)


def dataset(folder: str | Path) -> None:
    """Expect a prepared dataset.

    Raises:
        DatasetError: There is none.
    """
    folder = Path(folder).absolute()
    if not (folder / DATASET).is_file() or not (folder / TABLES).is_dir():
        raise DatasetError(
            f"folder: expected a dataset made by `omnitune prepare`, got {str(folder)!r}, "
            f"which has no {DATASET} or no {TABLES}/"
        )


def model(name: str) -> None:
    """Expect a model: a directory, a repository of the hub, or "embedded".

    Raises:
        CheckpointNotFoundError: Nothing is there; of a repository, in the cache where the hub cannot be asked.
    """
    path = Path(name).expanduser()
    if name == "embedded" or path.is_dir():
        return
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2:
        found = "a file is there" if path.exists() else "nothing is there"
        raise CheckpointNotFoundError(
            f"model_name_or_path: expected a directory or a repository owner/name; {found}: {path}"
        )
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    names = [name] if "/" in name else [name, f"sentence-transformers/{name}"]
    if any((Path(constants.HF_HUB_CACHE) / f"models--{one.replace('/', '--')}").is_dir() for one in names):
        return
    reason = "the hub has none of this name"
    for one in names:
        try:
            HfApi().model_info(one, timeout=10)
        except (RepositoryNotFoundError, HFValidationError):
            continue
        except Exception as error:  # noqa: BLE001 - whatever the network has; what is in the cache can do without it
            reason = f"the hub cannot be asked, {type(error).__name__}, and its cache here has none of this name"
        else:
            return
    raise CheckpointNotFoundError(
        f"model_name_or_path: {name!r} is neither a directory here nor a repository that can be loaded: {reason}"
    )


def recipe(name: str) -> None:
    """Expect a recipe: a YAML file, or one that comes with omnitune.

    Raises:
        RecipeError: There is none.
    """
    bundled = sorted(Path(one.name).stem for one in (resources.files("omnitune") / "recipes").iterdir())
    if name not in bundled and not Path(name).is_file():
        near = difflib.get_close_matches(name, bundled, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(
            f"recipe: expected a YAML file or one of {', '.join(bundled)}, got {name!r}, which is neither{hint}"
        )
