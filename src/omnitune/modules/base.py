"""Base classes of a checkpoint's modules.

A `Module` maps features to features and writes itself to a folder. An `InputModule` also makes the features, from
*loaded* items (texts, `PIL.Image`s, waveforms, `Clip`s, dicts and conversations of them), all of one modality. A
*reader* is an input module that makes items of another modality instead (an image becomes its text), for the input
module after it.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from PIL import Image
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerBase

from omnitune.errors import CheckpointError, InputError, ModalityError
from omnitune.inputs.cost import CostRule
from omnitune.inputs.sampling import AS_IT_IS, Sampling
from omnitune.inputs.video import Clip
from omnitune.modules import files
from omnitune.modules.old_loading import OldLoading
from omnitune.renames import deprecated, say_once
from omnitune.types import Features, Modality

OLD_METHODS = {
    "get_sentence_embedding_dimension": "get_embedding_dimension",
    "get_word_embedding_dimension": "get_embedding_dimension",
}
"""Older names of a module's methods."""


class Module(OldLoading, nn.Module):
    """One step of a model: features in, features out.

    Attributes:
        config_file_name: File that holds the module's configuration.
        config_keys: Attributes that `get_config_dict` collects; they are the constructor's arguments.
        config_key_renames: Old names of configuration keys, and what they are called now.
        save_in_root: Whether its files lie in the checkpoint's root when it is the first module.
        forward_kwargs: Names of extra arguments of `forward` that `encode` passes on.

    Example:
        >>> class Halve(Module):
        ...     def forward(self, features):
        ...         return {**features, "sentence_embedding": features["sentence_embedding"] / 2}
        >>> halved = SentenceTransformer(modules=[*model, Halve()])
        >>> [round(float(np.linalg.norm(vector)), 2) for vector in halved.encode(pages)]
        [0.5, 0.5]
    """

    config_file_name: ClassVar[str] = "config.json"
    config_keys: ClassVar[list[str]] = []
    config_key_renames: ClassVar[dict[str, str]] = {}
    save_in_root: ClassVar[bool] = False
    forward_kwargs: set[str] = set()

    def forward(self, features: Features, **kwargs: Any) -> Features:
        """Features with this module's outputs added."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method forward(features), got none; write one")

    def on_model_ready(self, model: nn.Module) -> None:
        """Hear that the whole model stands, to take what only it has, such as its tokenizer.

        Args:
            model: The encoder that the module is part of.
        """

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, as they are written to `config_file_name`."""
        return {key: getattr(self, key) for key in self.config_keys}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the configuration and, where there are any, the weights.

        Args:
            output_path: Existing folder.
            *args: Not used here.
            safe_serialization: Must be True.
            **kwargs: Not used here.

        Raises:
            InputError: `safe_serialization` is False.
        """
        self.save_config(output_path)
        if self.state_dict():
            self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    def save_config(self, output_path: str, filename: str | None = None) -> None:
        """Write `get_config_dict()` as JSON into the folder `output_path`."""
        files.write_json(Path(output_path) / (filename or self.config_file_name), self.get_config_dict())

    def save_torch_weights(self, output_path: str, safe_serialization: bool = True) -> None:
        """Write the weights to `model.safetensors` in the folder `output_path`.

        Raises:
            InputError: `safe_serialization` is False.
        """
        if not safe_serialization:
            raise InputError("safe_serialization: expected True, got False; only safetensors files are written")
        files.write_tensors(Path(output_path) / files.WEIGHTS, self.state_dict())

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Read the module from a checkpoint.

        Args:
            model_name_or_path: The checkpoint's directory, or its repository.
            subfolder: The module's folder in it.
            token: Access token of the hub.
            cache_folder: Where downloaded files are kept.
            revision: Branch, tag or commit.
            local_files_only: Never download.
            **kwargs: What only some modules take, such as `model_kwargs`.

        Raises:
            CheckpointError: The configuration does not fit the module, or weights are missing.
        """
        options = files.HubOptions(
            token=token, cache_folder=cache_folder, revision=revision, local_files_only=local_files_only
        )
        return cls.from_files(files.resolve(model_name_or_path, options, subfolder=subfolder), subfolder, **kwargs)

    @classmethod
    def from_files(cls, root: Path, subfolder: str, **kwargs: Any) -> Self:
        """The module in a folder of a checkpoint that is here; what `load` calls, and what a module overrides.

        Args:
            root: The checkpoint's directory.
            subfolder: The module's folder in it.
            **kwargs: What only some modules take, such as `model_kwargs`.

        Raises:
            CheckpointError: The configuration does not fit the module, or weights are missing.
        """
        folder = root / subfolder
        module = cls.from_config(cls.read_config(folder), folder, **kwargs)
        module.read_weights(folder)
        return module

    def read_weights(self, folder: Path) -> None:
        """Read the weights, where the module has any, from its folder.

        Raises:
            CheckpointError: They are missing, or do not fit.
        """
        if self.state_dict():
            files.load_weights(self, folder)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path, **kwargs: Any) -> Self:  # noqa: ARG003
        """The module that a configuration describes, its weights not yet read.

        Args:
            config: From `read_config`.
            folder: Where it lies.
            **kwargs: What only some modules take, such as `trust_remote_code`.

        Raises:
            CheckpointError: The constructor has no such arguments; names `folder`.
        """
        try:
            return cls(**config)
        except TypeError as error:
            raise CheckpointError(
                f"{folder / cls.config_file_name}: it does not configure a {cls.__name__} (expected keys "
                f"{cls.config_keys}, got {sorted(config)}): {error}"
            ) from error

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """The configuration in `folder` under today's key names; empty where there is none."""
        config = files.read_json(folder / cls.config_file_name)
        return {cls.config_key_renames.get(key, key): value for key, value in config.items()}

    def __getattr__(self, name: str) -> Any:
        # Not methods, so that a module without a dimension has no older spelling of it either.
        if name in OLD_METHODS and any(OLD_METHODS[name] in vars(kind) for kind in type(self).__mro__):
            deprecated(name, OLD_METHODS[name])
            return getattr(self, OLD_METHODS[name])
        return super().__getattr__(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_config_dict()})"


class InputModule(Module):
    """A module that makes features out of loaded items.

    Attributes:
        tokenizer: What splits text into tokens.

    Example:
        >>> class Lengths(InputModule):
        ...     def preprocess(self, inputs, prompt=None, **kwargs):
        ...         return {"lengths": torch.tensor([[float(len(text))] for text in inputs])}
        ...     def forward(self, features):
        ...         return {**features, "sentence_embedding": features["lengths"]}
        >>> SentenceTransformer(modules=[Lengths()]).encode(["pump", "bearing"])
        array([[4.],
               [7.]], dtype=float32)
    """

    save_in_root: ClassVar[bool] = True
    tokenizer: PreTrainedTokenizerBase | Tokenizer

    @property
    def modalities(self) -> list[Modality]:
        """Modalities that `preprocess` takes."""
        return ["text"]

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which text is cut, or None."""
        return None

    @property
    def takes_pairs(self) -> bool:
        """Tell whether a pair of texts can be one input."""
        return True

    @property
    def cost_rule(self) -> CostRule:
        """Rule for the cost of an item, without preprocessing it."""
        limit = self.max_seq_length
        return CostRule(max_tokens=limit if limit and limit < math.inf else None)

    def sampling(self, modality: Modality, **kwargs: Any) -> Sampling:  # noqa: ARG002
        """Sampling of audio and video of inputs of `modality`, before they come here.

        Args:
            modality: What the inputs are.
            **kwargs: `task`, and the call's `processing_kwargs`, which count over the module's own.
        """
        return AS_IT_IS

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        *,
        modality: Modality | None = None,  # noqa: ARG002 - for subclasses
        task: str | None = None,
        **kwargs: Any,
    ) -> Features:
        """Features of `inputs`, on the host.

        Args:
            inputs: Loaded items, all of one modality.
            prompt: Text put before every item.
            modality: What the items are; None looks at them.
            task: "query", "document" or another role.
            **kwargs: What only some modules take, such as `processing_kwargs`.

        Raises:
            ModalityError: The module does not take such items.
            NotImplementedError: A subclass has neither this nor `tokenize`.
        """
        if type(self).tokenize is InputModule.tokenize:
            raise NotImplementedError(
                f"{type(self).__name__}: expected a method preprocess(inputs, prompt=None, **kwargs) that makes "
                "features of inputs, got none; write one"
            )
        said = {} if task is None else {"task": task}
        return ask_foreign(self.tokenize, inputs, prompt, **said, **kwargs)  # as modules before 5.4 have it

    def tokenize(self, texts: Sequence[Any], **kwargs: Any) -> Features:
        """Features of inputs; today `preprocess`."""
        say_once("module.tokenize is called module.preprocess now")
        return self.preprocess(texts, **kwargs)

    def save_tokenizer(self, output_path: str, **kwargs: Any) -> None:
        """Write the tokenizer's files into the folder `output_path`."""
        if isinstance(self.tokenizer, Tokenizer):
            self.tokenizer.save(str(Path(output_path) / "tokenizer.json"), **kwargs)
        else:
            self.tokenizer.save_pretrained(output_path, **kwargs)


def ask_foreign(
    make: Callable[..., Mapping[str, Any]], inputs: Sequence[Any], prompt: str | None, **kwargs: Any
) -> Features:
    """Features made by a method of foreign code, which gets those of the arguments that its signature names.

    Args:
        make: Takes inputs, and whatever else.
        inputs: Loaded items.
        prompt: Text put before every item: by the method where it takes it, else here.
        **kwargs: Further arguments, such as `task`.
    """
    named, anything = _parameters(getattr(make, "__func__", make))
    tokenizes = getattr(make, "__name__", "") == "tokenize"  # from before prompts came in an argument of their own
    offered: dict[str, Any] = kwargs if tokenizes else {"prompt": prompt, **kwargs}
    if not anything:
        offered = {name: value for name, value in offered.items() if name in named}
    if prompt and "prompt" not in offered:
        inputs = [
            prompt + item
            if isinstance(item, str)
            else (prompt + item[0], *item[1:])
            if isinstance(item, tuple)
            else item
            for item in inputs
        ]
    return dict(make(inputs, **offered))


@lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Names of a function's parameters, and whether it takes any other by name."""
    parameters = inspect.signature(function).parameters
    return frozenset(parameters), any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def write_module(module: nn.Module, folder: Path, *, safe_serialization: bool) -> None:
    """Let a module write itself into a folder; a user's own may take nothing but the path."""
    save: Any = module.save
    named, anything = _parameters(getattr(save, "__func__", save))
    if anything or "safe_serialization" in named:
        save(str(folder), safe_serialization=safe_serialization)
    else:
        save(str(folder))


@runtime_checkable
class Reader(Protocol):
    """An input module that makes items of another modality instead of features, such as the text of an image."""

    reads: Mapping[Modality, Modality]
    """Modalities it takes, each with the one that it makes of it."""

    def read(self, items: Sequence[Any]) -> list[Any]:
        """Items of the other modality, in order."""


def loaded_modality(item: Any) -> Modality:
    """Detect the modality of a *loaded* item; unlike a raw one, a string is always text.

    Raises:
        ModalityError: It is nothing that loading makes.
    """
    if isinstance(item, str):
        return "text"
    if isinstance(item, Image.Image):
        return "image"
    if isinstance(item, np.ndarray):
        return "audio"
    if isinstance(item, Clip):
        return "video"
    if isinstance(item, tuple):  # a pair of texts
        return "text"
    if isinstance(item, list) or (isinstance(item, dict) and "role" in item):
        return "message"
    if isinstance(item, dict) and item:
        return next(iter(item)) if len(item) == 1 else tuple(sorted(item))
    raise ModalityError(
        "inputs: expected text, PIL images, waveforms, clips, dicts of them, or conversations, "
        f"got {type(item).__name__}"
    )
