"""Small functions of the rival's `util`, and what takes the place of those that are not here."""

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from omnitune import io, runtime
from omnitune.errors import ResourceError

LEFT_OUT = {
    **dict.fromkeys(
        ("all_gather", "all_gather_padded", "all_gather_with_grad"),
        "use omnitune.ops.collectives.gather_rows, which hands gradients back to their rows",
    ),
    **dict.fromkeys(
        ("check_package_availability", "check_version_requirements", "check_teacher_targets"),
        "checks are made where they matter, with an error that says what to do",
    ),
    **dict.fromkeys(("load_dir_path", "load_file_path"), "use huggingface_hub.snapshot_download or hf_hub_download"),
    **dict.fromkeys(
        ("import_from_string", "import_module_class"),
        "module types of checkpoints are looked up in a table, and never imported by their name",
    ),
    **dict.fromkeys(
        ("cat_padded_token_embeddings", "stack_padded_token_embeddings", "repad_flattened_features"),
        "token vectors travel as omnitune.types.Embeddings, which joins and pads them",
    ),
    **dict.fromkeys(
        ("_convert_to_batch", "_convert_to_batch_tensor", "_convert_to_tensor", "_move_tensors_to_cpu"),
        "similarities take lists, arrays and tensors as they are",
    ),
    "append_to_last_row": "evaluators append a whole row to their CSV file",
    "disabled_tqdm": "use show_progress_bar=False",
    "install_logger": "use logging.basicConfig",
    "ORIGINAL_TRANSFORMER_MODELS": "names without an owner are looked for under the family's organisation",
    "save_to_hub_args_decorator": "use model.push_to_hub",
    "resolve_ids": "use dataset.map with a dictionary from identifier to text",
    "is_sentence_transformer_model": "look for modules.json in the folder or the repository",
    "similarity_fct_name": "use the function's __name__",
}
"""Names that are left out, and what takes their place."""


class LoggingHandler(logging.Handler):
    """Writes log lines above a progress bar and not through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        tqdm.write(self.format(record))


def batch_to_device(batch: Mapping[str, Any], target_device: torch.device | str) -> dict[str, Any]:
    """The same features with their tensors on a device."""
    return {k: v.to(target_device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def fullname(obj: Any) -> str:
    """Module and name of an object's class, or of a class."""
    kind = obj if inspect.isclass(obj) else type(obj)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def get_device_name() -> str:
    """The device that a model goes to by default."""
    return str(runtime.best_device())


def get_rank() -> int:
    """Number of this process among those of a distributed run, from 0."""
    return torch.distributed.get_rank() if is_dist_initialized() else 0


def get_world_size() -> int:
    """Number of processes of a distributed run; 1 outside one."""
    return torch.distributed.get_world_size() if is_dist_initialized() else 1


def is_dist_initialized() -> bool:
    """True within a distributed run."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_accelerate_available() -> bool:
    """True: accelerate is always installed."""
    return True


def is_datasets_available() -> bool:
    """True: datasets is always installed."""
    return True


def is_training_available() -> bool:
    """True: what training needs is always installed."""
    return True


@contextlib.contextmanager
def disable_logging(highest_level: int = logging.CRITICAL) -> Iterator[None]:
    """Within this context nothing up to a level is logged."""
    before = logging.root.manager.disable
    logging.disable(highest_level)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def disable_datasets_caching() -> Iterator[None]:
    """Within this context `datasets` keeps no results of `map` and `filter` in files."""
    import datasets

    enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_caching()


def http_get(url: str, path: str) -> None:
    """Download a file, whole or not at all.

    Args:
        url: Its address.
        path: Where to put it; folders are made.

    Raises:
        ResourceError: It cannot be downloaded.
    """
    from urllib.error import URLError
    from urllib.request import urlopen

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urlopen(url, timeout=60) as answer, io.writing(target) as part, open(part, "wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
    except (URLError, TimeoutError) as error:
        raise ResourceError(f"url: {url} could not be downloaded: {error}") from error
