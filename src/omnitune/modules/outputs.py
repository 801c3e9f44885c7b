"""Modalities of a backbone, and the method and output of each."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NotRequired, TypedDict, cast, get_args, get_type_hints

import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.utils import ModelOutput

from omnitune.errors import CheckpointError, InputError, ModalityError
from omnitune.inputs.detect import PARTS
from omnitune.inputs.processor import wraps
from omnitune.modules.backbones import EMBEDDING, TOKENS, backbone
from omnitune.modules.tasks import Task
from omnitune.types import Modality


class ModalityParams(TypedDict):
    """Encoding of one modality: a method of the backbone, and which of its outputs to take; None takes all."""

    method: str
    method_output_name: str | list[Any] | None
    format: NotRequired[str]


def check_tokens(features: Mapping[str, Any], model: Any) -> None:
    """Say why a forward failed where a token has no row among the backbone's word embeddings.

    Raises:
        InputError: It has none.
    """
    ids, table = features.get("input_ids"), getattr(model.get_input_embeddings(), "weight", None)
    if isinstance(ids, Tensor) and isinstance(table, Tensor) and ids.numel() and int(ids.max()) >= len(table):
        raise InputError(
            f"tokenizer: expected token ids below {len(table):,}, the rows of the backbone's word embeddings, got "
            f"{int(ids.max()):,}; after new tokens call model[0].model.resize_token_embeddings(len(model.tokenizer))"
        )


HOST_MASK = "host_attention_mask"
"""The attention mask on the host, where features are on a device: packing reads it without waiting for the device."""

HOST_POSITIONS = "host_positions"
"""Arguments of the backbone's forward that were made on the host (`modules.host_positions`), by name."""

TOWER_OUTPUT = "tower_output"
"""Feature that holds what the backbone would give, `(rows, dim)`, so that it need not run."""

NOT_FOR_BACKBONES = frozenset(
    {
        HOST_MASK,
        "head_memory",
        HOST_POSITIONS,
        "input_modality",
        "modality",
        "num_audios_per_sample",
        "num_images_per_sample",
        "num_videos_per_sample",
        "offset_mapping",
        "overflow_to_sample_mapping",
        "prompt_length",
        "query_expansion_positions",
        "special_tokens_mask",
        "task",
    }
)
"""Features that no backbone takes unless it names them."""

ALWAYS_FOR_BACKBONES = frozenset({"input_ids", "attention_mask", "token_type_ids", "inputs_embeds", "return_dict"})
"""Features that every backbone's forward takes, whatever its signature says."""

ModalityConfig = dict[Modality, ModalityParams]


def text_only(task: Task) -> tuple[ModalityConfig, str]:
    """Outputs of a checkpoint without `modality_config`, which is older than images: text, by the task's head."""
    return {"text": {"method": "forward", "method_output_name": task.output}}, task.feature


def modality_config(model: Any, processor: Any, task: Task, *, structured: bool) -> tuple[ModalityConfig, str]:
    """Find the method of a bare backbone for each modality, and the feature that comes out.

    Args:
        model: The backbone.
        processor: Its processor.
        task: What it is for.
        structured: Which form of content its chat template takes.
    """
    row = backbone(model.config.model_type)
    # A retriever's processor puts its own words around a query or a page: by methods of its own, or by its template.
    talks = getattr(processor, "chat_template", None) is not None and not (
        task.name == "retrieval" and wraps(processor)
    )
    message: ModalityParams = {
        "method": "forward",
        "method_output_name": task.output,
        "format": "structured" if structured else "flat",
    }
    embeds = task.feature == TOKENS
    if row.outputs is not None and embeds and task.name != "fill-mask":
        config: ModalityConfig = {
            kind: {"method": method, "method_output_name": _existing(model, method, output)}
            for kind, (method, output) in row.outputs.items()
        }
        return ({**config, "message": message} if talks else config), row.output_name
    kinds = processor_modalities(processor)
    returned = _returned_fields(model.forward)
    if not embeds or returned is None or task.output in returned:
        config = {kind: {"method": "forward", "method_output_name": task.output} for kind in kinds}
        return ({**config, "message": message} if talks else config), task.feature
    methods = {kind: f"get_{kind}_features" for kind in kinds}
    return {
        kind: {"method": method, "method_output_name": _existing(model, method, "pooler_output")}
        for kind, method in methods.items()
        if hasattr(model, method)
    }, EMBEDDING


def _existing(model: Any, method: str, output: str) -> str | None:
    """`output` where the method's result has it; None where the result is the tensor itself."""
    if method == "forward":
        return output
    return output if output in (_returned_fields(getattr(model, method)) or []) else None


def processor_modalities(processor: Any) -> list[Modality]:
    """Modalities that a processor has parts for."""
    if isinstance(processor, transformers.ProcessorMixin):
        parts = processor.get_attributes()
        roles = {
            "tokenizer": "text",
            "image_processor": "image",
            "feature_extractor": "audio",
            "video_processor": "video",
        }
        return [kind for part, kind in roles.items() if part in parts]
    kinds: dict[str, type] = {
        "text": PreTrainedTokenizerBase,
        "audio": FeatureExtractionMixin,
        "video": transformers.BaseVideoProcessor,
        "image": transformers.ImageProcessingMixin,
    }
    return [next(kind for kind, base in kinds.items() if isinstance(processor, base))]


def _returned_fields(method: Any) -> list[str] | None:
    """Fields of the `ModelOutput` that a method is annotated to return; None where it is not."""
    try:
        hint = get_type_hints(method).get("return")
    except (NameError, TypeError, AttributeError):  # annotations that only a type checker can resolve
        return None
    found = _output_class(hint)
    return None if found is None else [field.name for field in fields(found)]


def _output_class(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, ModelOutput):
        return hint
    return next((found for part in get_args(hint) if (found := _output_class(part)) is not None), None)


def accepted(given: dict[str, Any], signature: inspect.Signature, *, any_other: bool) -> dict[str, Any]:
    """Choose the features that a method of a backbone takes.

    Args:
        given: Features and other arguments.
        signature: The method's.
        any_other: Whether a method that takes any argument gets what it does not name, our own bookkeeping aside.
    """
    declared = signature.parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in declared.values())
    if any_other and takes_any:
        return {key: value for key, value in given.items() if key not in NOT_FOR_BACKBONES or key in declared}
    always = ALWAYS_FOR_BACKBONES if any_other else frozenset()
    return {key: value for key, value in given.items() if key in declared or key in always}


def selected(result: Any, path: str | list[Any] | None) -> Tensor:
    """Follow a path of names into a method's result, to `(rows, dim)` or `(rows, tokens, dim)`."""
    for step in [path] if isinstance(path, str) else path or []:
        # Some results have fields that only attribute access gives.
        result = result[step] if not isinstance(step, str) or step in result else getattr(result, step)
    if result.ndim == 4:  # convolutional backbones give (rows, channels, height, width)
        result = result.flatten(2).transpose(1, 2)
    return cast(Tensor, result)


def spelt(modality: Modality) -> str:
    """A modality in words: `"image+text"` for a combined one."""
    return "+".join(modality) if isinstance(modality, tuple) else modality


def common_kind(kinds: Sequence[Modality], config: ModalityConfig) -> Modality:
    """The one modality that all items of a batch have, for a backbone that takes no conversations.

    Raises:
        ModalityError: They have several, or one that it does not take.
    """
    if len(set(kinds)) > 1 or kinds[0] not in config:
        raise ModalityError(
            f"inputs: this model takes one of {[*map(spelt, config)]} per batch, "
            f"got {sorted({spelt(kind) for kind in kinds})}"
        )
    return kinds[0]


def check_parts(kinds: Sequence[Modality], config: ModalityConfig) -> None:
    """See that a backbone that takes conversations takes every part of the items.

    Raises:
        ModalityError: It does not.
    """
    missing = {part for kind in kinds for part in ((kind,) if isinstance(kind, str) else kind)} - {*config}
    if missing:
        raise ModalityError(f"inputs: this model takes {[*map(spelt, config)]}, got {sorted(missing)} too")


def to_json(config: ModalityConfig) -> dict[str, ModalityParams]:
    """The configuration with combined modalities as `"image+text"`."""
    return {spelt(kind): params for kind, params in config.items()}


def from_json(config: dict[str, Any], source: Any) -> ModalityConfig:
    """Read what `to_json` wrote.

    Args:
        config: By modality.
        source: The file it is from, for errors.

    Raises:
        CheckpointError: A modality is unknown, or an entry lacks its method or output.
    """
    known = {*PARTS, "message"}
    result: ModalityConfig = {}
    for name, params in config.items():
        kinds = tuple(name.split("+"))
        if not known.issuperset(kinds):
            raise CheckpointError(f"{source}: modality_config: expected modalities among {sorted(known)}, got {name!r}")
        if not isinstance(params, dict) or not {"method", "method_output_name"} <= params.keys():
            raise CheckpointError(
                f"{source}: modality_config[{name!r}]: expected 'method' and 'method_output_name', got {params!r}"
            )
        result[kinds[0] if len(kinds) == 1 else tuple(sorted(kinds))] = cast(ModalityParams, params)
    return result


def embedding_dimension(config: Any, output_name: str) -> int:
    """Dimension of what a backbone with this configuration puts out.

    Args:
        config: The backbone's.
        output_name: `"sentence_embedding"` where the backbone projects into a space shared by its towers.

    Raises:
        CheckpointError: The configuration does not say.
    """
    parts = [config]
    if hasattr(config, "text_config"):
        parts.append(config.text_config)
    parts += [getattr(config, name) for name in getattr(config, "sub_configs", {})]
    names = ["hidden_size", "num_features", "neck_hidden_sizes", "hidden_sizes", "embed_dims", "hidden_dim"]
    if output_name == EMBEDDING:
        names.insert(0, "projection_dim")
    if any(str(name).endswith("ForRetrieval") for name in getattr(config, "architectures", None) or []):
        names.insert(0, "embedding_dim")
    for part in parts:
        for name in names:
            value = getattr(part, name, None)
            if value:
                return int(value[-1] if isinstance(value, list | tuple) else value)
    raise CheckpointError(f"config.json: expected one of {names}, got none in a {type(config).__name__}")
