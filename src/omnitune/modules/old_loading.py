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
    def load_dir_path(
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> str:
        """A module's folder in a checkpoint.

        Args:
            model_name_or_path: The checkpoint's directory, or its repository.
            subfolder: The module's folder in it.
            token: Access token of the hub.
            cache_folder: Where downloaded files are kept.
            revision: Branch, tag or commit.
            local_files_only: Never download.

        Raises:
            CheckpointError: There is no such checkpoint.
        """
        options = files.HubOptions(
            token=token, cache_folder=cache_folder, revision=revision, local_files_only=local_files_only
        )
        return str(files.resolve(model_name_or_path, options, subfolder=subfolder) / subfolder)

    @staticmethod
    def load_file_path(
        model_name_or_path: str,
        filename: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> str | None:
        """The path of a file in a module's folder, or None where there is none; arguments as of `load_dir_path`."""
        folder = OldLoading.load_dir_path(
            model_name_or_path, subfolder, token, cache_folder, revision, local_files_only
        )
        path = Path(folder) / filename
        return str(path) if path.is_file() else None

    @classmethod
    def load_config(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        config_filename: str | None = None,
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> dict[str, Any]:
        """The configuration in a module's folder under today's key names; empty where there is none."""
        folder = cls.load_dir_path(model_name_or_path, subfolder, token, cache_folder, revision, local_files_only)
        config = files.read_json(Path(folder) / (config_filename or cls.config_file_name))
        return {cls.config_key_renames.get(key, key): value for key, value in config.items()}

    @classmethod
    def load_torch_weights(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model: nn.Module | None = None,
    ) -> Any:
        """The module `model` with the weights in a module's folder; without one, the tensors by name.

        Raises:
            CheckpointError: There are none, or they do not fit.
        """
        folder = Path(cls.load_dir_path(model_name_or_path, subfolder, token, cache_folder, revision, local_files_only))
        if model is None:
            return files.read_tensors(folder)
        files.load_weights(model, folder)
        return model
