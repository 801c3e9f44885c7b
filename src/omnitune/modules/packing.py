"""Batches run as one row: the tokens of all items end to end, padding left out, attention within items.

A `Transformer` packs between its features and its output: features come in padded, token vectors `(rows, tokens, dim)`
go out padded (with zeros), so that nothing else knows. It packs where its attention can be told where items begin:
`varlen.VARLEN`, and flash attention. Whether an architecture does it right is not assumed: a probe of three texts
compares the packed row with each text alone.
"""

import inspect
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.utils import ModelOutput

from omnitune.modules import outputs
from omnitune.modules.backbones import TOKENS, backbone
from omnitune.modules.outputs import ModalityParams
from omnitune.modules.query_expansion import POSITIONS
from omnitune.modules.tasks import LOGITS
from omnitune.modules.varlen import VARLEN, Lengths, UnpackableError, packed_row, register, takes_lengths
from omnitune.modules.vocabulary_head import deferred
from omnitune.ops.rows import row_count, slice_rows
from omnitune.types import Features, Modality

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
    """Places of the tokens of a padded batch in the packed row.

    Attributes:
        shape: `(rows, tokens)` of the padded batch.
        lengths: Of the items, in the order in which they are packed.
        index: Place in the flattened batch of every packed token `(total,)`, int64.
        positions: Number of every packed token in its item `(total,)`, int64.
        last: Place in the packed row of every row's last token `(rows,)`, int64, in the order of the batch.
        order: Row of the batch of every item, in the order in which they are packed, in host memory.
    """

    shape: tuple[int, int]
    lengths: Lengths
    index: Tensor
    positions: Tensor
    last: Tensor
    order: Tensor

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
            order=order,
        )

    def row(self, values: Tensor) -> Tensor:
        """The packed row `(1, total, ...)` of padded `(rows, tokens, ...)`."""
        return values.flatten(0, 1)[self.index][None]

    def rows(self, values: Tensor) -> Tensor:
        """Padded `(rows, tokens, dim)`, zeros where there is no token, of a packed row `(1, total, dim)`."""
        flat = values.new_zeros(self.shape[0] * self.shape[1], values.shape[-1])
        return flat.index_copy(0, self.index, values[0]).view(*self.shape, -1)


class Packable(Protocol):
    """A module around a backbone whose batches can be packed; a `Transformer` is one."""

    model: Any
    module_output_name: str
    unpad_inputs: bool | None

    @property
    def config(self) -> Any:
        """The backbone's configuration."""

    @property
    def modalities(self) -> list[Modality]:
        """Kinds of items it takes."""

    def preprocess(self, inputs: Sequence[Any]) -> Features:
        """Padded features of loaded items."""

    def forward(self, features: Features) -> Features:
        """Features with `module_output_name`."""


class Packer:
    """Runs the batches of one backbone as one row where that gives what each item alone gives.

    Args:
        module: Whose batches. Its `unpad_inputs` decides; None packs where attention can be told where items begin.
        asked: Whether the caller asked for `VARLEN` by name.

    Attributes:
        verdicts: By the attention that was in use when the probe ran, whether its packed row was right.
    """

    def __init__(self, module: Packable, *, asked: bool) -> None:
        self.module = module
        self.asked = asked
        self.verdicts: dict[str, bool] = {}
        self._said_of_media = False

    @property
    def attention(self) -> str:
        """Name of the attention of the part that reads tokens."""
        # Asked every time: transformers' `set_attn_implementation` may change it at any moment, and a vision-language
        # model keeps one for its tower and another for its text, of which only the latter is packed.
        return str(self.module.config.get_text_config()._attn_implementation)

    def packs(self, *, media: bool = False) -> bool:
        """Tell whether batches of texts, or of texts with images and video, are packed.

        The first time it is asked and attention can be told where items begin, the probe runs; what fails it stays
        padded, with a warning that says why.
        """
        forced = _forced.get()
        if forced is not None:
            return forced
        wanted = self.module.unpad_inputs
        if not (self.asked or takes_lengths(self.attention) if wanted is None else wanted):
            return False
        with _settling:
            if self.attention not in self.verdicts:
                self._settle()
            verdict = self.verdicts[self.attention]
        return verdict and (not media or backbone(self.module.config.model_type).packs_media)

    def may_pack(self, modality: Modality) -> bool:
        """Tell whether batches of items of `modality` are packed, whatever is in them."""
        kinds = self.module.modalities if modality == "message" else [modality]  # a conversation may be of anything
        parts = {part for kind in kinds for part in ((kind,) if isinstance(kind, str) else kind)}
        return self.packs(media=not parts.isdisjoint(("image", "audio", "video")))

    def layout(self, features: Features, params: ModalityParams) -> Packing | None:
        """Lay out a padded batch as one row; None where it runs padded.

        Args:
            features: The batch; a mask that was kept on the host spares reading the device's.
            params: Method that encodes it, and which of its outputs will be taken.
        """
        mask, ids = features.get("attention_mask"), features.get("input_ids")
        path = params["method_output_name"]
        field = path[0] if isinstance(path, list) and path else path
        fits = mask is not None and ids is not None and mask.shape == ids.shape and "position_ids" not in features
        # Tokens that fill up a query are looked at by no other, and their vectors count nevertheless.
        fits = fits and POSITIONS not in features
        media = any(key in features for key in (*TOWERS, *OTHER_MEDIA))
        packing: Packing | None = None
        if fits and self.packs(media=media):
            if params["method"] == "forward" and field in FIELDS:
                packing = Packing.of(features, by_length=not media)  # media come in the order of their places in it
        elif fits and media and not self._said_of_media and self.packs():
            self._said_of_media = True
            name = type(self.module.model).__name__
            logger.warning("unpad_inputs: batches with media stay padded: how %s packs them is not known.", name)
        return packing

    def call(
        self, features: Features, arguments: dict[str, Any], packing: Packing, positions: dict[str, Tensor]
    ) -> ModelOutput:
        """Run the backbone on the packed row, and pad again those outputs that have an entry a token.

        A language model's logits are of every row's last token `(rows, 1, ...)`.

        Args:
            features: A padded batch.
            arguments: For the backbone's forward, of the padded batch.
            packing: Its layout.
            positions: Those that were made on the host (`host_positions`), by name.
        """
        taken = {key: value for key, value in arguments.items() if key != "attention_mask"}
        for key in ("input_ids", "token_type_ids", "mm_token_type_ids"):
            if key in taken:
                taken[key] = packing.row(taken[key])
        taken["position_ids"] = self._positions(features, packing, positions.get("position_ids"))
        towers = [key for key in TOWERS if key in taken]
        if towers:
            # Run here, or they would be handed the lengths of the items.
            of_images = {name: value for name, value in positions.items() if name.startswith("image_")}
            taken["mm_encoder_outputs"] = {TOWERS[key][0]: self._tower_output(taken, key, of_images) for key in towers}
        if "logits_to_keep" in taken:
            taken["logits_to_keep"] = packing.last
        taken |= packing.lengths.arguments(self.attention)
        with packed_row():
            result = self.module.model(**{key: value for key, value in taken.items() if key not in towers})
        padded = ModelOutput()
        if "last_hidden_state" in result:
            padded["last_hidden_state"] = packing.rows(result["last_hidden_state"])
        if "logits" in result and "logits_to_keep" in taken:
            padded["logits"] = result["logits"].transpose(0, 1)
        elif "logits" in result and result["logits"].shape[1]:  # none where the head is left out
            padded["logits"] = packing.rows(result["logits"])
        if result.get("hidden_states") is not None:
            padded["hidden_states"] = tuple(packing.rows(layer) for layer in result["hidden_states"])
        return padded

    def _tower_output(self, arguments: dict[str, Any], key: str, of_images: dict[str, Tensor]) -> Any:
        method = getattr(self.module.model, TOWERS[key][1])
        taken = outputs.accepted(arguments, inspect.signature(method), any_other=False)
        return method(**taken | (of_images if key == "pixel_values" else {}), return_dict=True)

    def _positions(self, features: Features, packing: Packing, of_media: Tensor | None) -> Tensor:
        """Number the packed row: `(1, total)`, or `(4, 1, total)` where media have positions of their own."""
        core = getattr(self.module.model, "base_model", self.module.model)
        if "mm_token_type_ids" in features and ("image_grid_thw" in features or "video_grid_thw" in features):
            if of_media is None:
                asked = outputs.accepted(features, inspect.signature(core.get_rope_index), any_other=False)
                of_media, _ = core.get_rope_index(**asked)
            rows = [packing.positions[None], *(packing.row(axis) for axis in of_media)]
            return torch.stack(rows)
        embeddings: Any = getattr(core, "embeddings", None)
        from_ids = getattr(embeddings, "create_position_ids_from_input_ids", None)
        if from_ids is not None:  # RoBERTa and its kin count from the padding's id on, and give padding tokens none
            return packing.row(from_ids(features["input_ids"], embeddings.padding_idx))
        return packing.positions[None]

    def _settle(self) -> None:
        """Find out whether the backbone packs, switch its attention if needed, and say if it cannot be."""
        before = self.attention
        reason = self._refusal()
        if reason is None:
            items: list[Any] = list(PROBES)
            if backbone(self.module.config.model_type).packs_media:
                items.insert(1, Image.new("RGB", (96, 64), "gray"))
            device = self.module.model.device
            features = self.module.preprocess(items)
            features = {
                key: value.to(device) if isinstance(value, Tensor) else value for key, value in features.items()
            }
            each = range(row_count(features))
            alone = [self._outputs(slice_rows(features, i, i + 1), packed=False) for i in each]
            if not takes_lengths(before):
                self._switch(VARLEN)
            reason = self._difference(features, torch.cat(alone))
            if reason is not None and before != self.attention:
                self._switch(before)
        if reason is not None:
            logger.warning("unpad_inputs: %s stays padded: %s.", type(self.module.model).__name__, reason)
        self.verdicts[self.attention] = reason is None

    def _switch(self, implementation: str) -> None:
        """Set the attention of the part that reads tokens, and of no tower."""
        register()
        config = self.module.config
        text = config.get_text_config()
        part = next((name for name in config.sub_configs if getattr(config, name, None) is text), None)
        self.module.model.set_attn_implementation(implementation if part is None else {part: implementation})

    def _refusal(self) -> str | None:
        """Say why an architecture cannot pack, as far as it says so itself."""
        model, text = self.module.model, self.module.config.get_text_config()
        if self.module.module_output_name not in (TOKENS, LOGITS):
            return f"it gives {self.module.module_output_name}, which is not made of single tokens' vectors"
        others = {*(getattr(text, "layer_types", None) or [])} - _ALONE
        if others:
            return f"its layers of {', '.join(sorted(others))} would read on from one item into the next"
        if not (getattr(model, "_supports_attention_backend", False) and getattr(model, "_supports_flash_attn", False)):
            return "its attention cannot be told where items begin"
        return None

    def _outputs(self, features: Features, *, packed: bool) -> Tensor:
        """Vectors of all tokens `(tokens, dim)`, or answers `(texts, labels)`, in evaluation mode."""
        model, name = self.module.model, self.module.module_output_name
        modes = [(part, part.training) for part in model.modules()]
        token = _forced.set(packed)
        try:
            model.eval()
            # Autocast would round what the comparison is about.
            with torch.no_grad(), torch.autocast(model.device.type, enabled=False), deferred(wanted=False):
                made: Tensor = self.module.forward(dict(features))[name]
        finally:
            _forced.reset(token)
            for part, training in modes:
                part.training = training
        return made[features["attention_mask"].bool()] if name == TOKENS else made[:, -1]

    def _difference(self, features: Features, alone: Tensor) -> str | None:
        """Say why the packed row is not what each of its items is alone; None if it is."""
        try:
            together = self._outputs(features, packed=True)
        except (UnpackableError, TypeError, KeyError, IndexError, RuntimeError) as error:
            return str(error).splitlines()[0]
        far = float((together - alone).norm() / alone.norm())
        exact = alone.device.type == "cpu" and torch.finfo(alone.dtype).bits >= 32
        if far <= (TOLERANCE if exact else COARSE):
            return None
        return f"packed, the outputs differ by {far:.2g} of their length from those of each text alone"


def packs_through(modules: Iterable[nn.Module], modality: Modality) -> bool:
    """Tell whether every backbone in `modules` packs items of `modality`, and there is one."""
    packers = [packer for module in modules for packer in _packers(module)]
    return bool(packers) and all(packer.may_pack(modality) for packer in packers)


def _packers(module: nn.Module) -> Iterator[Packer]:
    """Find the packers of the backbones in `module`; what is in a backbone is not looked through."""
    packer = getattr(module, "packer", None)
    if isinstance(packer, Packer):
        yield packer
        return
    for part in module.children():
        yield from _packers(part)
