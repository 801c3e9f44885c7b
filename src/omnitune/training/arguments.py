"""Training arguments: those of `transformers.TrainingArguments`, those of Sentence Transformers, and four of ours.

Every field is described beneath it and checked in `__post_init__`; a message names the flag.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from transformers import TrainingArguments
from transformers.training_args import ParallelMode

from omnitune.data.multi_samplers import MultiDatasetBatchSamplers, MultiDatasetDefaultBatchSampler
from omnitune.data.samplers import BatchSamplers, DefaultBatchSampler
from omnitune.engine.row_cache import Place, check_place
from omnitune.errors import InputError
from omnitune.losses.strategies import check_activation_memory
from omnitune.training.hooks import DICT_FIELDS, train_on_one_device
from omnitune.types import OnBadItem

logger = logging.getLogger(__name__)

__all__ = [
    "BaseTrainingArguments",
    "BatchSamplers",
    "CrossEncoderTrainingArguments",
    "MultiDatasetBatchSamplers",
    "MultiVectorEncoderTrainingArguments",
    "SentenceTransformerTrainingArguments",
    "SparseEncoderTrainingArguments",
]


if TYPE_CHECKING:
    Budget: TypeAlias = str | int | float
else:
    Budget = str  # the parser of command lines knows one type a flag; `_memory` reads numbers out of the text


@dataclass
class BaseTrainingArguments(TrainingArguments):  # type: ignore[misc]  # transformers has no types
    """Arguments shared by the trainers of all families; see `transformers.TrainingArguments` for the rest.

    Raises:
        InputError: A value cannot work; the message names the argument.

    Example:
        >>> given = {"learning_rate_mapping": {"^0[.]": 1e-5}, "batch_sampler": BatchSamplers.NO_DUPLICATES}
        >>> SentenceTransformerTrainingArguments("run", **given).learning_rate_mapping
        {'^0[.]': 1e-05}
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [
        *DICT_FIELDS,
        "learning_rate_mapping",
        "prompts",
        "router_mapping",
    ]

    prompts: str | None | dict[str, str] | dict[str, dict[str, str]] = field(
        default=None, metadata={"help": "Prompt of all columns, by column, by dataset, or by dataset and column."}
    )
    """Text put before every item: one for all columns, by column, by dataset, or by dataset and column."""

    batch_sampler: BatchSamplers | str | DefaultBatchSampler | Callable[..., DefaultBatchSampler] = field(
        default=BatchSamplers.BATCH_SAMPLER, metadata={"help": "How rows are put into batches."}
    )
    """A `BatchSamplers` value, a `DefaultBatchSampler` class, or a function that makes one."""

    multi_dataset_batch_sampler: (
        MultiDatasetBatchSamplers
        | str
        | MultiDatasetDefaultBatchSampler
        | Callable[..., MultiDatasetDefaultBatchSampler]
    ) = field(
        default=MultiDatasetBatchSamplers.PROPORTIONAL, metadata={"help": "Which dataset the next batch comes from."}
    )
    """A `MultiDatasetBatchSamplers` value, a class, or a function that makes one."""

    router_mapping: str | None | dict[str, str] | dict[str, dict[str, str]] = field(
        default_factory=dict, metadata={"help": "Route (query, document) by column, or by dataset and column."}
    )
    """Route that a `Router` takes, by column, or by dataset and column."""

    learning_rate_mapping: str | None | dict[str, float] = field(
        default_factory=dict, metadata={"help": "Learning rate by regular expression over parameter names."}
    )
    """Learning rates of parameters whose name a regular expression finds; a later entry wins over an earlier one."""

    warmup_ratio: float | None = field(
        default=None, metadata={"help": "Share of the steps that warm up; the same as warmup_steps below 1."}
    )
    """Share of the steps in which the learning rate rises. `warmup_steps` takes a share as well, and wins."""

    activation_memory: Budget = field(
        default="auto", kw_only=True, metadata={"help": "Memory for kept graphs: auto, bytes, or a share of it."}
    )
    """Memory for kept graphs of a step: "auto", bytes, or a share of the free memory; 0 replays every mini-batch."""

    tower_cache: Place = field(
        default="auto", kw_only=True, metadata={"help": "Where outputs of frozen towers are kept: auto, disk or off."}
    )
    """Outputs of a frozen tower are kept in memory ("auto"), in files as well ("disk"), or not at all ("off")."""

    input_cache: Place = field(
        default="off", kw_only=True, metadata={"help": "Where processed images are kept: auto, disk or off."}
    )
    """Decoded and resized images are kept in memory ("auto"), in files as well ("disk"), or not at all ("off")."""

    on_bad_item: OnBadItem = field(
        default="raise", kw_only=True, metadata={"help": "What an unreadable or missing item does: raise or skip."}
    )
    """A missing or unreadable item, or a bad label, stops the run before it starts ("raise"); or its row is left out
    ("skip")."""

    check_items: bool = field(
        default=True, kw_only=True, metadata={"help": "Load every image, recording and clip once before training."}
    )
    """Every image, recording and clip is loaded once before training, each rank its share; False looks for missing
    items and bad labels alone, and a file that cannot be read then fails at its batch."""

    def __post_init__(self) -> None:
        if self.warmup_ratio is not None:
            if not 0 <= self.warmup_ratio <= 1:
                raise InputError(f"warmup_ratio: expected a share in [0, 1], got {self.warmup_ratio}")
            if self.warmup_steps == 0:  # type: ignore[has-type]  # a field of the base
                self.warmup_steps, self.warmup_ratio = self.warmup_ratio, None
        for flag in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, flag) < 1:
                raise InputError(f"{flag}: expected a positive number, got {getattr(self, flag)}")
        if self.num_train_epochs < 0:
            raise InputError(f"num_train_epochs: expected a positive number, got {self.num_train_epochs}")
        super().__post_init__()
        self.batch_sampler = _choice(self.batch_sampler, BatchSamplers, "batch_sampler")
        self.multi_dataset_batch_sampler = _choice(
            self.multi_dataset_batch_sampler, MultiDatasetBatchSamplers, "multi_dataset_batch_sampler"
        )
        self.prompts = _parsed(self.prompts, "prompts", plain=True)
        self.router_mapping = _parsed(self.router_mapping, "router_mapping") or {}
        self.learning_rate_mapping = _parsed(self.learning_rate_mapping, "learning_rate_mapping") or {}
        self.activation_memory = _memory(self.activation_memory)
        check_place(self.tower_cache, "tower_cache")
        check_place(self.input_cache, "input_cache")
        if self.on_bad_item not in ("raise", "skip"):
            raise InputError(f'on_bad_item: expected "raise" or "skip", got {self.on_bad_item!r}')
        # A loss needs no predictions gathered, and a buffer that DDP overwrites in place breaks the graphs of a step.
        self.prediction_loss_only = True
        self.ddp_broadcast_buffers = False
        if self.parallel_mode == ParallelMode.DISTRIBUTED and not self.dataloader_drop_last:  # type: ignore[has-type]
            logger.warning("dataloader_drop_last: set to True, because ranks must take the same number of steps.")
            self.dataloader_drop_last = True
        elif self.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
            logger.warning(
                "%d devices are visible and one process trains on one of them; start one process a device with "
                "`torchrun --nproc-per-node %d ...` to use all.",
                self.n_gpu, self.n_gpu,
            )  # fmt: skip
            train_on_one_device(self)

    def to_dict(self) -> dict[str, Any]:
        """The arguments as plain values; sampler classes and functions, which have none, are left out."""
        values: dict[str, Any] = super().to_dict()
        callables = ("batch_sampler", "multi_dataset_batch_sampler")
        return {key: value for key, value in values.items() if not (key in callables and callable(value))}


@dataclass
class SentenceTransformerTrainingArguments(BaseTrainingArguments):
    """Arguments of `SentenceTransformerTrainer`; see `BaseTrainingArguments` and `transformers.TrainingArguments`.

    Example:
        >>> args = SentenceTransformerTrainingArguments(
        ...     output_dir="runs", num_train_epochs=1, warmup_ratio=0.1, batch_sampler="no_duplicates",
        ...     prompts={"query": "query: ", "answer": "passage: "},
        ... )
        >>> args.batch_sampler
        <BatchSamplers.NO_DUPLICATES: 'no_duplicates'>
    """


@dataclass
class SparseEncoderTrainingArguments(BaseTrainingArguments):
    """Arguments of `SparseEncoderTrainer`; see `BaseTrainingArguments` and `transformers.TrainingArguments`.

    Example:
        >>> args = SparseEncoderTrainingArguments(
        ...     output_dir="runs", router_mapping={"question": "query", "answer": "document"},
        ...     learning_rate_mapping={"sub_modules.query": 1e-3},
        ... )
        >>> args.router_mapping["question"]
        'query'
    """


@dataclass
class MultiVectorEncoderTrainingArguments(BaseTrainingArguments):
    """Arguments of `MultiVectorEncoderTrainer`; see `BaseTrainingArguments` and `transformers.TrainingArguments`.

    Raises:
        InputError: `max_length` is no positive number.

    Example:
        >>> args = MultiVectorEncoderTrainingArguments(output_dir="runs", max_length={"query": 32, "document": 180})
        >>> args.max_length["document"]
        180
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*BaseTrainingArguments._VALID_DICT_FIELDS, "max_length"]

    max_length: int | None | str | dict[str, int] = field(
        default=None, metadata={"help": "Tokens after which texts are cut in training: of all columns, or by role."}
    )
    """Tokens after which texts are cut in training, of all columns or by role; the model keeps its own limits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.max_length, str):
            given = self.max_length.strip()
            self.max_length = int(given) if given.isdigit() else _parsed(given, "max_length")
        limits = self.max_length.values() if isinstance(self.max_length, Mapping) else [self.max_length]
        if any(limit is not None and (not isinstance(limit, int) or limit < 1) for limit in limits):
            raise InputError(f"max_length: expected positive numbers of tokens, or None, got {self.max_length!r}")


@dataclass
class CrossEncoderTrainingArguments(BaseTrainingArguments):
    """Arguments of `CrossEncoderTrainer`; see `BaseTrainingArguments` and `transformers.TrainingArguments`.

    A pair is made of several columns, so `prompts` and `router_mapping` are one for all, or by dataset.

    Raises:
        InputError: They are given by column.

    Example:
        >>> args = CrossEncoderTrainingArguments(output_dir="runs", learning_rate=2e-5, warmup_ratio=0.1)
        >>> args.warmup_steps
        0.1
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag in ("prompts", "router_mapping"):
            given = getattr(self, flag)
            if isinstance(given, Mapping) and any(isinstance(value, Mapping) for value in given.values()):
                raise InputError(
                    f"{flag}: expected one for all columns, or one by dataset, because a pair is made of several "
                    f"columns; got one by column, {dict(given)}"
                )


def _choice(value: Any, choices: type[StrEnum], flag: str) -> Any:
    """The enum member of a name; classes and functions pass."""
    if not isinstance(value, str) or isinstance(value, choices):
        if callable(value) or isinstance(value, choices):
            return value
        raise InputError(f"{flag}: expected a name, a class or a function, got {type(value).__name__}")
    names = [choice.value for choice in choices]
    if value not in names:
        near = get_close_matches(value, names, n=1)
        raise InputError(f"{flag}: expected one of {names}, got {value!r}" + (f"; {near[0]!r}?" if near else ""))
    return choices(value)


def _parsed(value: Any, flag: str, *, plain: bool = False) -> Any:
    """A mapping, also from its JSON text on a command line; `plain` text stays as it is."""
    if value is None or isinstance(value, Mapping):
        return value
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict):
            return parsed
        if plain:
            return value
    raise InputError(f"{flag}: expected a mapping or its JSON text, got {value!r}")


def _memory(value: str | int | float) -> str | int | float:
    """A budget, also from its text on a command line: "0.5" is a share, "2000000000" bytes."""
    if isinstance(value, str) and value != "auto":
        with contextlib.suppress(ValueError):
            value = float(value) if "." in value else int(value)
    check_activation_memory(value)
    return value


def warn_ignored(args: BaseTrainingArguments, given: Mapping[str, bool]) -> None:
    """Say which of the things that were asked for have no effect.

    Args:
        args: The arguments.
        given: What else was given, by what to say of it.
    """
    ignored = {
        **given,
        "torch_compile: the engine runs the model uncompiled": args.torch_compile,
        "train_sampling_strategy: batch_sampler says how rows are sampled": args.train_sampling_strategy != "random",
    }
    for reason in (text for text, asked in ignored.items() if asked):
        logger.warning("%s; the argument has no effect.", reason)
