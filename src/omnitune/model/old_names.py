"""Older spellings of a model's verbs, as scripts for Sentence Transformers 2 to 6 have them.

Each hands on to today's verb, and warns where Sentence Transformers 6.2.0 does. Verbs that need a trainer are found by
their place when they are called, because training stands above this room.
"""

import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.inputs.detect import is_single
from omnitune.renames import DROPPED, Function, deprecated, missing, renamed, say_once

if TYPE_CHECKING:
    from omnitune.model.base import Model as Base
else:
    Base = object

ABOVE = {
    "fit": ("omnitune.compat.fit", "fit", "fit_pairs"),
    "old_fit": ("omnitune.compat.fit", "fit", "fit_pairs"),
    "merge": ("omnitune.model.merging", "merge", "merge"),
}

LEFT_OUT = {
    "clear_placement_cache": "the engine keeps no placement of modules",
    "smart_batching_collate": "batches are raw columns; use model.preprocess(texts)",
    "smart_batching_collate_text_only": "batches are raw columns; use model.preprocess(pairs)",
}
"""Verbs that are left out, and what takes their place."""


class OldInputs(Base):
    """Older spellings that every family has; stands before `torch.nn.Module` among the bases of a class."""

    def get_max_seq_length(self) -> int | None:
        """Tokens after which text is cut; today `max_seq_length`."""
        return self.max_seq_length

    def tokenize(self, texts: Sequence[Any], **kwargs: Any) -> dict[str, Tensor]:
        """Features of inputs; today `preprocess`."""
        say_once("model.tokenize is called model.preprocess now")
        return self.preprocess(texts, **kwargs)


class OldDimension(Base):
    """The older spelling of an embedding's dimension."""

    def get_sentence_embedding_dimension(self) -> int | None:
        """Dimension of an embedding; today `get_embedding_dimension`."""
        deprecated("get_sentence_embedding_dimension", "get_embedding_dimension")
        dimension: int | None = cast(Any, self).get_embedding_dimension()
        return dimension


class OldNames(OldInputs):
    """Older spellings of a model's verbs; stands before `torch.nn.Module` among the bases of a class."""

    def __getattr__(self, name: str) -> Any:
        if name in LEFT_OUT:
            raise missing(type(self).__name__, name, LEFT_OUT)
        return super().__getattr__(name)

    @property
    def model_type(self) -> str:
        """Name of the family, as checkpoints spell it."""
        return self.family.name

    @property
    def model_card_data_class(self) -> type[Any]:
        """Class of what the model card says."""
        return type(self.model_card_data)

    @property
    def default_huggingface_organization(self) -> str | None:
        """Owner on the hub of repositories that are named without one."""
        return self.family.organization

    @property
    def _target_device(self) -> torch.device:
        return self.device

    @_target_device.setter
    def _target_device(self, device: torch.device | str | int) -> None:
        say_once("model._target_device = device is called model.to(device) now")
        self.to(device)

    def _first_module(self) -> nn.Module:
        return next(iter(self.children()))

    def _last_module(self) -> nn.Module:
        return list(self.children())[-1]

    def is_singular_input(self, inputs: Any) -> bool:
        """Tell whether `inputs` are one input and not a list of them."""
        return is_single(inputs)

    @renamed(repo_name="repo_id")
    def save_to_hub(
        self,
        repo_id: str,
        organization: str | None = None,
        token: str | None = None,
        private: bool | None = None,
        safe_serialization: bool = True,
        commit_message: str = "Add new model.",
        local_model_path: str | None = None,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        train_datasets: list[str] | None = None,
    ) -> str:
        """Upload the model; today `push_to_hub`, whose arguments these are."""
        say_once("model.save_to_hub is called model.push_to_hub now")
        if organization and "/" not in repo_id:
            repo_id = f"{organization}/{repo_id}"
        return self.push_to_hub(
            repo_id,
            token=token,
            private=private,
            safe_serialization=safe_serialization,
            commit_message=commit_message,
            local_model_path=local_model_path,
            exist_ok=exist_ok,
            replace_model_card=replace_model_card,
            train_datasets=train_datasets,
        )

    @classmethod
    def merge(
        cls,
        models: "Sequence[str | Path | Self]",
        method: str = "linear",
        *,
        base_model: "str | Path | Self | None" = None,
        parameters: Mapping[str, Any] | None = None,
        dtype: str | torch.dtype | None = torch.float32,
        out_dtype: str | torch.dtype | None = None,
        device: str | torch.device = "cpu",
        batch_options: Any = None,
        **load_kwargs: Any,
    ) -> Self:
        """Merge several models with equal modules into a new one, and leave them as they are.

        Args:
            models: Two or more, or their folders or repositories; exactly two for "slerp".
            method: "linear", the weighted mean of weights; or "slerp", a point on the arc between two.
            base_model: For "slerp" the model that `t=0` gives; the first by default.
            parameters: Of "linear": `weight`, one number or one a model, and `normalize`; of "slerp": `t` in [0, 1].
            dtype: What weights are merged in; None keeps that of each.
            out_dtype: What the result has; None keeps what it was merged in.
            device: Where to merge, and where the result is.
            batch_options: Not used.
            **load_kwargs: For models that are loaded.

        Raises:
            InputError: An argument cannot work.
            ShapeError: The models do not fit each other.

        Source:
            Wortsman et al. 2022 (arXiv:2203.05482) for the mean; Shoemake 1985, sec. 3.3, for the arc.

        Example:
            >>> reranker.save_pretrained("run-a")  # any family
            >>> merged = CrossEncoder.merge(["run-a", reranker], parameters={"weight": [0.6, 0.4]})
            >>> merged.num_labels
            1
        """
        merged: Self = cls._above("merge")(
            cls,
            models,
            method,
            base_model=base_model,
            parameters=parameters,
            dtype=dtype,
            out_dtype=out_dtype,
            device=device,
            batch_options=batch_options,
            **load_kwargs,
        )
        return merged

    @classmethod
    def _above(cls, verb: str) -> Any:
        module, single, pair = ABOVE[verb]
        return getattr(importlib.import_module(module), single if cls.family.arity == 1 else pair)


class OldSimilarities(OldNames):
    """Older spellings that families with a similarity have."""

    @property
    def SUPPORTED_SIMILARITY_FN_NAMES(self) -> list[str]:  # noqa: N802 - the rival's name
        """Similarities that embeddings of the family have."""
        return list(self.family.similarities)


class OldFit(OldNames):
    """Training in one call, as before version 3."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Train on data loaders of `InputExample`s, by the trainer; its arguments are those of `compat.fit`."""
        self._above("fit")(self, *args, **kwargs)

    def old_fit(self, *args: Any, **kwargs: Any) -> None:
        """The same as `fit`."""
        self._above("old_fit")(self, *args, **kwargs)


class DenseOldNames(OldDimension, OldSimilarities, OldFit):
    """Older spellings of a dense encoder's verbs."""

    @contextmanager
    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Cut embeddings within a context; today `truncate_embeddings`."""
        deprecated("truncate_sentence_embeddings", "truncate_embeddings")
        with self._today.truncate_embeddings(truncate_dim):
            yield

    def get_sentence_features(self, *features: Any) -> Any:
        """Make features by the first module, where it has such a verb."""
        deprecated("get_sentence_features", "preprocess", DeprecationWarning)
        first: Any = self._first_module()
        return first.get_sentence_features(*features)

    @classmethod
    def load(cls, input_path: str) -> Self:
        """Load a checkpoint; today the constructor does."""
        deprecated(f"{cls.__name__}.load", f"{cls.__name__}(path)", DeprecationWarning)
        return cls(input_path)

    def encode_multi_process(self, sentences: Sequence[Any], pool: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Embeddings made by a pool of processes; today `encode(..., pool=pool)`.

        Args:
            sentences: The inputs.
            pool: From `start_multi_process_pool`.
            *args: `prompt_name`, `prompt`, `batch_size`, `chunk_size`, `show_progress_bar`, `precision`,
                `normalize_embeddings`, `truncate_dim`, in this order.
            **kwargs: The same, by name.
        """
        deprecated("encode_multi_process", "encode(..., pool=pool)", DeprecationWarning)
        given = dict(zip(MULTI_PROCESS, args, strict=False)) | kwargs
        return self._today.encode(sentences, pool=pool, **given)

    @property
    def _today(self) -> Any:
        """The encoder that this is mixed into."""
        return self


class PairOldNames(OldFit):
    """Older spellings of a cross encoder's attributes."""

    @property
    def model(self) -> Any:
        """The backbone; today `transformers_model`."""
        return self.transformers_model

    @property
    def max_length(self) -> int | None:
        """Tokens after which a pair is cut; today `max_seq_length`."""
        deprecated("max_length", "max_seq_length", DeprecationWarning)
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int | None) -> None:
        deprecated("max_length", "max_seq_length", DeprecationWarning)
        self.max_seq_length = value

    @property
    def default_activation_function(self) -> Any:
        """Applied to scores; today `activation_fn`."""
        deprecated("default_activation_function", "activation_fn", DeprecationWarning)
        return self.__dict__["activation_fn"]

    def get_default_activation_fn(self) -> Any:
        """Applied to scores; today `activation_fn`."""
        return self.__dict__["activation_fn"]


MULTI_PROCESS = (
    "prompt_name", "prompt", "batch_size", "chunk_size", "show_progress_bar", "precision", "normalize_embeddings",
    "truncate_dim",
)  # fmt: skip
"""Order of the arguments of `encode_multi_process`."""

ENCODE_NAMES = {"sentences": "inputs"}
PREDICT_NAMES = {"sentences": "inputs", "activation_fct": "activation_fn", "num_workers": DROPPED}
RANK_NAMES = {**PREDICT_NAMES, "apply_softmax": DROPPED, "convert_to_numpy": DROPPED, "convert_to_tensor": DROPPED}
"""Older names of the arguments of `encode`, `predict` and `rank`."""

PAIR_LOADING = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
}
"""Older names of the arguments of a cross encoder."""

PAIR_POSITIONS = ("num_labels", "max_length", "activation_fn", "device")
"""Arguments that a cross encoder took by position, after the model's name."""


def dense_loading(function: Function) -> Function:
    """Let the constructor of a dense encoder take older arguments."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if (token := kwargs.pop("use_auth_token", None)) is not None:
            deprecated("use_auth_token", "token")
            if kwargs.get("token") is not None:
                raise InputError("use_auth_token, token: expected one of them, got both; give token alone")
            kwargs["token"] = token
        return renamed(tokenizer_kwargs="processor_kwargs")(function)(*args, **kwargs)

    return cast(Function, call)


def pair_loading(function: Function) -> Function:
    """Let the constructor of a cross encoder take older arguments, some of them by position."""

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name, value in zip(PAIR_POSITIONS, args[1:], strict=False):
            say_once(f"CrossEncoder: {name} is given by its name now: {name}=...")
            kwargs.setdefault(name, value)
        if "classifier_dropout" in kwargs:
            say_once("CrossEncoder: classifier_dropout belongs into config_kwargs now")
            dropout = {"classifier_dropout": kwargs.pop("classifier_dropout")}
            kwargs["config_kwargs"] = {**(kwargs.get("config_kwargs") or {}), **dropout}
        return renamed(**PAIR_LOADING)(function)(self, *args[:1], **kwargs)

    return cast(Function, call)
