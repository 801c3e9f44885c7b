"""Batches run as one row: the tokens of all items end to end, padding left out, attention within items.

A `Transformer` packs between its features and its output: features come in padded, token vectors `(rows, tokens, dim)`
go out padded (with zeros), so that nothing else knows. It packs where its attention can be told where items begin:
`varlen.VARLEN`, and flash attention. Whether an architecture does it right is not assumed: a probe of three texts
compares the packed row with each text alone.
"""

import inspect
import logging
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.utils import ModelOutput

from omnitune.modules import outputs
from omnitune.modules.backbones import TOKENS, backbone
from omnitune.modules.outputs import ModalityParams
from omnitune.modules.tasks import LOGITS
from omnitune.modules.varlen import VARLEN, Lengths, UnpackableError, packed_row, register, takes_lengths
from omnitune.ops.rows import row_count, slice_rows
from omnitune.types import Features, Modality

if TYPE_CHECKING:
    from omnitune.modules.transformer import Transformer

logger = logging.getLogger(__name__)

FIELDS = ("last_hidden_state", "logits", "hidden_states")
"""Outputs of a backbone that have an entry a token."""

TOWERS = {
    "pixel_values": ("image", "get_image_features"),
    "pixel_values_videos": ("video", "get_video_features"),
}
"""What a vision-language model's towers take, what their output is called, and the method that runs them."""

OTHER_MEDIA = ("mm_encoder_outputs", "input_features", "input_values")

PROBES = ["one", "a page of words, and then some more of them", "three more words"]

TOLERANCE = 1e-4
"""Largest difference of a packed and a lone text, in float32 on the host, relative to the length of its vectors."""

COARSE = 0.02
"""The same in half precision, and on a device, which may round the factors of a float32 product."""

_forced: ContextVar[bool | None] = ContextVar("forced", default=None)
_settling = threading.Lock()

_ALONE = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers in which an item's tokens meet the others through attention alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where the tokens of a padded batch are in the packed row.

    Attributes:
        shape: `(rows, tokens)` of the padded batch.
        lengths: Of the items, in the order in which they are packed.
        index: Place in the flattened batch of every packed token `(total,)`, int64.
        positions: Number of every packed token in its item `(total,)`, int64.
        last: Place in the packed row of every row's last token `(rows,)`, int64, in the order of the batch.
    """

    shape: tuple[int, int]
    lengths: Lengths
    index: Tensor
    positions: Tensor
    last: Tensor

    @classmethod
    def of(cls, features: Features, *, by_length: bool) -> "Packing | None":
        """That of a padded batch; None where nothing is padded, or all is.

        Args:
            features: With `attention_mask` `(rows, tokens)`, on either side padded.
            by_length: Whether items are packed in order of length, so that equal ones meet.
        """
        given: Tensor = features["attention_mask"]
        mask: Tensor = features.get(outputs.HOST_MASK, given)
        mask = (mask if mask.shape == given.shape else given).cpu().bool()
        if mask.all() or not mask.any():
            return None
        counts = mask.sum(dim=1)
        order = counts.argsort(descending=True, stable=True) if by_length else torch.arange(len(mask))
        taken = mask[order]
        device = given.device
        last = torch.empty_like(order)
        last[order] = counts[order].cumsum(0) - 1
        places = torch.arange(mask.numel()).view_as(mask)[order][taken]
        numbers = (taken.cumsum(1) - 1)[taken]
        return cls(
            shape=(mask.shape[0], mask.shape[1]),
            lengths=Lengths.of(counts[order].tolist(), device),
            index=places.to(device, non_blocking=True),
            positions=numbers.to(device, non_blocking=True),
            last=last.to(device, non_blocking=True),
        )

    def row(self, values: Tensor) -> Tensor:
        """The packed row `(1, total, ...)` of padded `(rows, tokens, ...)`."""
        return values.flatten(0, 1)[self.index][None]

    def rows(self, values: Tensor) -> Tensor:
        """Padded `(rows, tokens, dim)`, zeros where there is no token, of a packed row `(1, total, dim)`."""
        flat = values.new_zeros(self.shape[0] * self.shape[1], values.shape[-1])
        return flat.index_copy(0, self.index, values[0]).view(*self.shape, -1)


def packs(module: "Transformer", *, media: bool = False) -> bool:
    """Whether `module` packs batches of texts, or of texts with images and video.

    The first time it is asked and attention can be told where items begin, the probe runs; what fails it stays padded,
    with a warning that says why.
    """
    forced = _forced.get()
    if forced is not None:
        return forced
    if not _wanted(module):
        return False
    with _settling:
        if _attention(module) not in module.packing:
            _settle(module)
        verdict = module.packing[_attention(module)]
    return verdict and (not media or backbone(module.config.model_type).packs_media)


def packs_through(model: nn.Module, modality: Modality) -> bool:
    """Whether every backbone in `model` packs items of `modality`, and there is one."""
    backbones = [*_backbones(model)]
    return bool(backbones) and all(packs(module, media=_may_hold_media(module, modality)) for module in backbones)


def _backbones(module: nn.Module) -> Iterator["Transformer"]:
    """Those in `module`; what is in a backbone is not looked through."""
    if hasattr(module, "packing"):
        yield cast("Transformer", module)
        return
    for part in module.children():
        yield from _backbones(part)


def _may_hold_media(module: "Transformer", modality: Modality) -> bool:
    kinds = module.modalities if modality == "message" else [modality]  # a conversation may be of anything
    parts = {part for kind in kinds for part in ((kind,) if isinstance(kind, str) else kind)}
    return not parts.isdisjoint(("image", "audio", "video"))


def call(module: "Transformer", features: Features, arguments: dict[str, Any], params: ModalityParams) -> Any:
    """Result of the backbone's method, run on the packed row where the batch can be packed.

    Args:
        module: Whose backbone it is.
        features: A padded batch.
        arguments: For the method, of the padded batch.
        params: The method, and which of its outputs will be taken.
    """
    method = getattr(module.model, params["method"])
    path = params["method_output_name"]
    field = path[0] if isinstance(path, list) and path else path
    packing = _packing_of(module, features)
    features.pop(outputs.HOST_MASK, None)
    if packing is None or params["method"] != "forward" or field not in FIELDS:
        return method(**arguments)
    return _packed_call(module, features, arguments, packing)


def _packing_of(module: "Transformer", features: Features) -> Packing | None:
    """How a batch is packed; None where it runs padded."""
    mask, ids = features.get("attention_mask"), features.get("input_ids")
    if mask is None or ids is None or mask.shape != ids.shape or "position_ids" in features:
        return None
    media = any(key in features for key in (*TOWERS, *OTHER_MEDIA))
    if not packs(module, media=media):
        if media and packs(module):
            _say_once_that_media_are_padded(module)
        return None
    return Packing.of(features, by_length=not media)  # media come in the order of their places in the row


def _say_once_that_media_are_padded(module: "Transformer") -> None:
    if "media" not in module.packing:
        module.packing["media"] = False
        name = type(module.model).__name__
        logger.warning("unpad_inputs: batches with media stay padded: how %s packs them is not known.", name)


def _packed_call(module: "Transformer", features: Features, arguments: dict[str, Any], packing: Packing) -> ModelOutput:
    taken = {key: value for key, value in arguments.items() if key != "attention_mask"}
    for key in ("input_ids", "token_type_ids", "mm_token_type_ids"):
        if key in taken:
            taken[key] = packing.row(taken[key])
    taken["position_ids"] = _positions(module, features, packing)
    towers = [key for key in TOWERS if key in taken]
    if towers:
        # Run here, or they would be handed the lengths of the items.
        taken["mm_encoder_outputs"] = {TOWERS[key][0]: _tower_output(module, taken, key) for key in towers}
    if "logits_to_keep" in taken:
        taken["logits_to_keep"] = packing.last
    taken |= packing.lengths.arguments(_attention(module))
    with packed_row():
        result = module.model(**{key: value for key, value in taken.items() if key not in towers})
    return _padded(result, packing)


def _padded(result: Any, packing: Packing) -> ModelOutput:
    """Those outputs that have an entry a token, padded again; logits of every row's last token `(rows, 1, ...)`."""
    padded = ModelOutput()
    if "last_hidden_state" in result:
        padded["last_hidden_state"] = packing.rows(result["last_hidden_state"])
    if "logits" in result:
        padded["logits"] = result["logits"].transpose(0, 1)
    if result.get("hidden_states") is not None:
        padded["hidden_states"] = tuple(packing.rows(layer) for layer in result["hidden_states"])
    return padded


def _tower_output(module: "Transformer", arguments: dict[str, Any], key: str) -> Any:
    method = getattr(module.model, TOWERS[key][1])
    return method(**outputs.accepted(arguments, inspect.signature(method), any_other=False), return_dict=True)


def _positions(module: "Transformer", features: Features, packing: Packing) -> Tensor:
    """Position ids of the packed row: `(1, total)`, or `(4, 1, total)` where media have positions of their own."""
    core = getattr(module.model, "base_model", module.model)
    if "mm_token_type_ids" in features and ("image_grid_thw" in features or "video_grid_thw" in features):
        asked = outputs.accepted(features, inspect.signature(core.get_rope_index), any_other=False)
        of_media, _ = core.get_rope_index(**asked)
        rows = [packing.positions[None], *(packing.row(axis) for axis in of_media)]
        return torch.stack(rows)
    embeddings: Any = getattr(core, "embeddings", None)
    from_ids = getattr(embeddings, "create_position_ids_from_input_ids", None)
    if from_ids is not None:  # RoBERTa and its kin count from the padding's id on, and give padding tokens none
        return packing.row(from_ids(features["input_ids"], embeddings.padding_idx))
    return packing.positions[None]


# -- whether


def _attention(module: "Transformer") -> str:
    """Name of the attention of the part that reads tokens."""
    return str(module.config.get_text_config()._attn_implementation)


def _wanted(module: "Transformer") -> bool:
    if module.unpad_inputs is None:
        return module.attention_asked or takes_lengths(_attention(module))
    return module.unpad_inputs


def _settle(module: "Transformer") -> None:
    """Find out whether `module` packs, switch its attention if that is needed, and say if it cannot be."""
    before = _attention(module)
    reason = _refusal(module)
    if reason is None:
        features = _probe(module)
        alone = [_outputs(module, slice_rows(features, i, i + 1), packed=False) for i in range(row_count(features))]
        if not takes_lengths(before):
            _switch(module, VARLEN)
        reason = _difference(module, features, torch.cat(alone))
        if reason is not None and before != _attention(module):
            _switch(module, before)
    if reason is not None:
        logger.warning("unpad_inputs: %s stays padded: %s.", type(module.model).__name__, reason)
    module.packing[_attention(module)] = reason is None


def _switch(module: "Transformer", implementation: str) -> None:
    """Set the attention of the part that reads tokens, and of no tower."""
    register()
    config = module.config
    text = config.get_text_config()
    part = next((name for name in config.sub_configs if getattr(config, name, None) is text), None)
    module.model.set_attn_implementation(implementation if part is None else {part: implementation})


def _refusal(module: "Transformer") -> str | None:
    """Why an architecture cannot pack, as far as it says so itself."""
    model, text = module.model, module.config.get_text_config()
    if module.module_output_name not in (TOKENS, LOGITS):
        return f"it gives {module.module_output_name}, which is not made of single tokens' vectors"
    others = {*(getattr(text, "layer_types", None) or [])} - _ALONE
    if others:
        return f"its layers of {', '.join(sorted(others))} would read on from one item into the next"
    if not (getattr(model, "_supports_attention_backend", False) and getattr(model, "_supports_flash_attn", False)):
        return "its attention cannot be told where items begin"
    return None


def _probe(module: "Transformer") -> Features:
    """Features of texts, and of an image where packed media are expected to work."""
    items: list[Any] = list(PROBES)
    if backbone(module.config.model_type).packs_media:
        items.insert(1, Image.new("RGB", (96, 64), "gray"))
    features = module.preprocess(items)
    return {
        key: value.to(module.model.device) if isinstance(value, Tensor) else value for key, value in features.items()
    }


def _outputs(module: "Transformer", features: Features, *, packed: bool) -> Tensor:
    """Vectors of all tokens `(tokens, dim)`, or answers `(texts, labels)`, in evaluation mode."""
    modes = [(part, part.training) for part in module.model.modules()]
    token = _forced.set(packed)
    try:
        module.model.eval()
        # Autocast would round what the comparison is about.
        with torch.no_grad(), torch.autocast(module.model.device.type, enabled=False):
            made: Tensor = module(dict(features))[module.module_output_name]
    finally:
        _forced.reset(token)
        for part, training in modes:
            part.training = training
    return made[features["attention_mask"].bool()] if module.module_output_name == TOKENS else made[:, -1]


def _difference(module: "Transformer", features: Features, alone: Tensor) -> str | None:
    """Why the packed row is not what each of its items is alone; None if it is."""
    try:
        together = _outputs(module, features, packed=True)
    except (UnpackableError, TypeError, KeyError, IndexError, RuntimeError) as error:
        return str(error).splitlines()[0]
    far = float((together - alone).norm() / alone.norm())
    exact = alone.device.type == "cpu" and torch.finfo(alone.dtype).bits >= 32
    if far <= (TOLERANCE if exact else COARSE):
        return None
    return f"packed, the outputs differ by {far:.2g} of their length from those of each text alone"
