"""Loaders that a user's module calls in a `load` of its own, as it was written for Sentence Transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from omnitune.modules import files


class OldLoading:
    """Reading a checkpoint piece by piece; our own modules have `from_config` and `read_weights` instead."""

    config_file_name: ClassVar[str]
    config_key_renames: ClassVar[Mapping[str, str]]

    @staticmethod
    def load_dir_path(model_name_or_path: str, subfolder: str = "", **options: Any) -> str:
        """A module's folder in a checkpoint.

        Args:
            model_name_or_path: The checkpoint's directory, or its repository.
            subfolder: The module's folder in it.
            **options: `token`, `cache_folder`, `revision` and `local_files_only`.

        Raises:
            CheckpointError: There is no such checkpoint.
        """
        return str(files.resolve(model_name_or_path, files.HubOptions(**options), subfolder=subfolder) / subfolder)

    @classmethod
    def load_file_path(cls, model_name_or_path: str, filename: str, subfolder: str = "", **options: Any) -> str | None:
        """The path of a file in a module's folder, or None where there is none; arguments as of `load_dir_path`."""
        path = Path(cls.load_dir_path(model_name_or_path, subfolder, **options)) / filename
        return str(path) if path.is_file() else None

    @classmethod
    def load_config(
        cls, model_name_or_path: str, subfolder: str = "", config_filename: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """The configuration in a module's folder under today's key names; empty where there is none."""
        folder = Path(cls.load_dir_path(model_name_or_path, subfolder, **options))
        config = files.read_json(folder / (config_filename or cls.config_file_name))
        return {cls.config_key_renames.get(key, key): value for key, value in config.items()}

    @classmethod
    def load_torch_weights(
        cls, model_name_or_path: str, subfolder: str = "", model: nn.Module | None = None, **options: Any
    ) -> Any:
        """The module `model` with the weights in a module's folder; without one, the tensors by name.

        Raises:
            CheckpointError: There are none, or they do not fit.
        """
        folder = Path(cls.load_dir_path(model_name_or_path, subfolder, **options))
        if model is None:
            return files.read_tensors(folder)
        files.load_weights(model, folder)
        return model
