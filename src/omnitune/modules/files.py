"""Files of a checkpoint: where they are, JSON, and safetensors weights. No pickle is ever read."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omnitune.errors import CheckpointError, CheckpointNotFoundError
from omnitune.places import is_embedded, local_model, no_repository
from omnitune.strict_json import json_text

WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
NOT_NEEDED = [
    "onnx/*",
    "openvino/*",
    "*.onnx",
    "*.ot",
    "*.msgpack",
    "*.h5",
    "*.gguf",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
]
"""Files of a repository that are not downloaded: other formats, and pickles."""

GRAPHS = ("onnx", "openvino")
"""Folders that are downloaded where a graph shall run, whole: OpenVINO keeps its weights in a `.bin`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """Options of reaching a repository of the Hugging Face Hub.

    Attributes:
        token: Access token; True takes the one that is stored.
        cache_folder: Where downloaded files are kept.
        revision: Branch, tag or commit.
        local_files_only: Never download.
    """

    token: bool | str | None = None
    cache_folder: str | None = None
    revision: str | None = None
    local_files_only: bool = False

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> Self:
        """Out of keyword arguments of transformers, which may hold others."""
        return cls(
            token=kwargs.get("token"),
            cache_folder=kwargs.get("cache_dir"),
            revision=kwargs.get("revision"),
            local_files_only=bool(kwargs.get("local_files_only", False)),
        )

    def kwargs(self) -> dict[str, Any]:
        """As keyword arguments of transformers; those that say nothing are left out."""
        named = {
            "token": self.token,
            "cache_dir": self.cache_folder,
            "revision": self.revision,
            "local_files_only": self.local_files_only or None,
        }
        return {name: value for name, value in named.items() if value is not None}


def resolve(path_or_id: str, options: HubOptions, *, subfolder: str = "") -> Path:
    """The local directory of a checkpoint; a repository of the hub is downloaded to the cache.

    Args:
        path_or_id: A directory, a repository `owner/name`, or "embedded".
        options: How the hub is reached.
        subfolder: Download this folder only; empty for all.

    Raises:
        CheckpointNotFoundError: Neither a directory nor a repository that can be reached.
        MissingExtraError: It is the embedded model, which is not installed.
    """
    local = local_model(path_or_id)
    if local is not None:
        return local
    try:
        folder = snapshot_download(
            path_or_id,
            revision=options.revision,
            cache_dir=options.cache_folder,
            token=options.token,
            local_files_only=options.local_files_only,
            allow_patterns=[f"{subfolder}/*"] if subfolder else None,
            ignore_patterns=None if subfolder in GRAPHS else NOT_NEEDED,
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise no_repository(path_or_id, error, options.cache_folder) from error
    return Path(folder)


def with_owner(path_or_id: str | None, owner: str | None, options: HubOptions) -> str | None:
    """The full name of a repository that was named without its owner, as `"all-MiniLM-L6-v2"` often is.

    The first repositories of the hub, such as `bert-base-uncased`, have no owner: a name that `owner` does not have
    stays as it is.
    """
    if (
        path_or_id is None
        or owner is None
        or not re.fullmatch(r"\w[\w.-]{0,95}", path_or_id)
        or Path(path_or_id).exists()
    ):
        return path_or_id
    if is_embedded(path_or_id):
        return path_or_id
    full = f"{owner}/{path_or_id}"
    try:
        resolve(full, options)
    except CheckpointNotFoundError:
        return path_or_id
    return full


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file.

    Raises:
        CheckpointError: It is not a JSON object; names the file.
    """
    if not path.is_file():
        return {}
    content = _parsed(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content


def read_list(path: Path) -> list[dict[str, Any]]:
    """The JSON list of objects in a file.

    Raises:
        CheckpointError: It is something else; names the file.
    """
    content = _parsed(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise CheckpointError(f"{path}: expected a JSON list of objects, got {str(content)[:80]}")
    return content


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: expected a file that can be read, got: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got something else ({error})") from error


def inside(root: Path, relative: str | Path) -> Path:
    """A path below `root`.

    Raises:
        CheckpointError: It leads out of `root`.
    """
    path = root / relative
    if Path(relative).is_absolute() or ".." in Path(relative).parts or "\\" in str(relative):
        raise CheckpointError(f"{root}: expected a path inside the checkpoint, got {str(relative)!r}")
    return path


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors in a module's folder, by name.

    Raises:
        CheckpointError: There is no safetensors file; where there is a pickle instead, says how to convert it.
    """
    path = folder / WEIGHTS
    if path.is_file():
        with damaged_weights(path):
            tensors: dict[str, Tensor] = load_file(path)
        return tensors
    refuse_pickle(folder)
    raise CheckpointError(f"{folder}: expected {WEIGHTS}, got no weights; the checkpoint is incomplete")


@contextmanager
def damaged_weights(place: Path) -> Iterator[None]:
    """Reading weights: that they are cut off or damaged is an error that names where they are.

    Raises:
        CheckpointError: They are.
    """
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(
            f"{place}: expected safetensors weights, got a damaged file ({error}); copy or download it again"
        ) from error


def refuse_pickle(folder: Path) -> None:
    """Raise where `folder` has pickled weights and no safetensors.

    Raises:
        CheckpointError: It does; says how to convert them.
    """
    pickled = folder / PICKLED_WEIGHTS
    if pickled.is_file():
        raise CheckpointError(
            f"{pickled}: pickled weights are not read, because a pickle can run code. If you trust the file, convert "
            'it once: python -c "import torch, safetensors.torch as s; '
            f"w = torch.load({str(pickled)!r}, weights_only=True); "
            f"s.save_file({{k: v.clone() for k, v in w.items()}}, {str(folder / WEIGHTS)!r}, dict(format='pt'))\""
        )


def load_weights(module: nn.Module, folder: Path) -> None:
    """Read a module's weights from its folder.

    Raises:
        CheckpointError: Tensors are missing, superfluous or of another shape; names them.
    """
    tensors = read_tensors(folder)
    own = module.state_dict()
    wrong = {name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape}
    problems = [
        f"{what} {sorted(names)}"
        for what, names in (
            ("missing", own.keys() - tensors.keys()),
            ("superfluous", tensors.keys() - own.keys()),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict(tensors)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors."""
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path, {"format": "pt"})


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON object, or a list of them."""
    path.write_text(json_text(content, path.name, indent=2), encoding="utf-8")
