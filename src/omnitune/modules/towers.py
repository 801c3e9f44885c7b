"""Towers: the part of a backbone whose output depends on one item's media, or text, and on nothing else.

A vision-language model takes its tower's output in place of pixels (`mm_encoder_outputs`); of a dual encoder the
tower's output is the embedding. Nothing is assumed of an architecture: a probe of two small images finds out which
modules a tower is made of, and that its output in place of the input gives the same result.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.utils import ModelOutput

from omnitune.inputs.store import Entry
from omnitune.modules import outputs
from omnitune.modules.backbones import EMBEDDING
from omnitune.modules.transformer import Transformer
from omnitune.ops.rows import ON_HOST, row_count, slice_rows
from omnitune.types import Features, Modality

FIELDS = ("pooler_output", "deepstack_features")
"""What the forward of a vision-language model reads of its tower's output."""

PROBES: dict[str, list[Any]] = {
    "image": [Image.new("RGB", (96, 64), "white"), Image.new("RGB", (64, 96), "gray")],
    "text": ["one", "one and two"],
}

EPSILONS = 32
"""Largest difference that the probe allows, in units of the last place of the largest number."""


@dataclass(frozen=True, slots=True)
class Tower:
    """A tower that was probed.

    Attributes:
        module: Whose backbone it is part of.
        method: The backbone's method that runs it.
        embeds: Whether its output is the embedding, as in dual encoders.
        parts: The modules that run in it, and those that hold them.
    """

    module: Transformer
    method: str
    embeds: bool
    parts: Sequence[nn.Module]

    @property
    def frozen(self) -> bool:
        """Tell whether it gives the same for the same input: nothing of it trains or draws."""
        return not any(weight.requires_grad for weight in self.weights()) and not any(
            part.training and draws(part) for part in self.parts
        )

    def weights(self) -> Iterator[Tensor]:
        """Parameters and buffers of its modules."""
        for part in self.parts:
            yield from part.parameters(recurse=False)
            yield from part.buffers(recurse=False)

    def takes(self, features: Features) -> bool:
        """Tell whether `features` hold what it encodes, and no other media."""
        if self.embeds:
            return True
        return "pixel_values" in features and "pixel_values_videos" not in features

    def run(self, features: Features) -> list[Entry]:
        """Its output for every row: of all rows in one call where that can be told apart, else row by row."""
        whole = self._call(features)
        counts = features.get("num_images_per_sample")
        numbers: list[int] = [1] * row_count(features) if counts is None else counts.tolist()
        rows = _split(whole, numbers)
        if rows is None:
            count = row_count(features)
            features = {key: value for key, value in features.items() if key != outputs.HOST_POSITIONS}
            rows = [_named(self._call(slice_rows(features, i, i + 1))) for i in range(count)]
        return [{name: tensor.detach().clone() for name, tensor in row.items()} for row in rows]

    def join(self, rows: Sequence[Entry], device: torch.device) -> Features:
        """Join the output of all `rows`, on `device`, to take the place of the tower's input."""
        joined = {name: [row[name].to(device, non_blocking=True) for row in rows] for name in rows[0]}
        if self.embeds:
            return {outputs.TOWER_OUTPUT: torch.cat(joined["output"])}
        output = ModelOutput()
        for field in FIELDS:
            if field in joined:
                output[field] = tuple(joined[field])
            elif layers := [joined[name] for name in joined if name.startswith(f"{field}.")]:
                output[field] = [tuple(layer) for layer in layers]
            elif f"{field}=" in joined:
                output[field] = torch.cat(joined[f"{field}="])
        return {"mm_encoder_outputs": {"image": output}}

    def without_input(self, features: Features) -> Features:
        """`features` without what the tower's output takes the place of."""
        if self.embeds:
            return {key: value for key, value in features.items() if not isinstance(value, Tensor)}
        return {key: value for key, value in features.items() if not key.startswith("pixel_")}

    def _call(self, features: Features) -> Any:
        call = getattr(self.module.model, self.method)
        arguments = outputs.accepted(features, inspect.signature(call), any_other=False)
        positions: dict[str, Tensor] = {} if self.embeds else features.get(outputs.HOST_POSITIONS, {})
        arguments |= {name: value for name, value in positions.items() if name.startswith("image_")}
        result = call(**arguments, return_dict=True)
        if not self.embeds:
            return result
        path = self.module.modality_config[features["modality"]]["method_output_name"]
        return {"output": outputs.selected(result, path)}


def find_tower(module: nn.Module, modality: Modality) -> Tower | None:
    """The tower that items of `modality` go through, or None where there is none that can be told apart.

    The module must be in evaluation mode.
    """
    if not isinstance(module, Transformer):
        return None
    config = module.modality_config.get(modality)
    if config is not None and config["method"] != "forward":
        if modality not in ("image", "text") or module.module_output_name != EMBEDDING:
            return None
        return _probed(module, config["method"], str(modality), embeds=True)
    images = modality in ("image", "message") or (isinstance(modality, tuple) and "image" in modality)
    takes_output = "mm_encoder_outputs" in inspect.signature(module.model.forward).parameters
    if not images or not takes_output or not hasattr(module.model, "get_image_features"):
        return None
    return _probed(module, "get_image_features", "image", embeds=False)


def _probed(module: Transformer, method: str, modality: str, *, embeds: bool) -> Tower | None:
    """The tower, if its output in place of its input gives the same."""
    device = next(module.parameters()).device
    if modality not in module.modality_config:
        return None
    features = {
        key: value.to(device) if isinstance(value, Tensor) and key not in ON_HOST else value
        for key, value in module.preprocess(PROBES[modality], modality=modality).items()
    }
    called: set[nn.Module] = set()
    hooks = [part.register_forward_pre_hook(lambda part, _: called.add(part)) for part in module.model.modules()]
    draft = Tower(module, method, embeds, ())
    with torch.inference_mode(False), torch.no_grad():
        try:
            rows = draft.run(features)
        finally:
            for hook in hooks:
                hook.remove()
        name = module.module_output_name
        direct = module(dict(features))[name]
        try:
            indirect = module({**draft.without_input(features), **draft.join(rows, device)})[name]
        except (AttributeError, KeyError):  # it reads more of its tower's output than `FIELDS`
            return None
    scale = float(direct.abs().max()) * torch.finfo(direct.dtype).eps
    if indirect.shape != direct.shape or float((direct - indirect).abs().max()) > EPSILONS * scale:
        return None
    # Every module above a called one, too: a method may use a weight that hangs there.
    names = {name for name, part in module.model.named_modules() if part in called}
    above = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
    holders = [part for name, part in module.model.named_modules() if name in names | above or name == ""]
    return Tower(module, method, embeds, holders)


def _split(output: Any, counts: Sequence[int]) -> list[Entry] | None:
    """Named tensors of every row, or None where the output does not tell which part of it is whose."""
    total = sum(counts)
    named = _named(output, joined=False)
    if any(len(value) != total for value in named.values()):
        return None
    rows: list[Entry] = []
    start = 0
    for count in counts:
        rows.append({name: _joined(value[start : start + count]) for name, value in named.items()})
        start += count
    return rows


def _named(output: Any, *, joined: bool = True) -> dict[str, Any]:
    """The fields that are kept, by a name that says how they were held.

    `field` is a sequence of one tensor an image; `field.0`, `field.1`, ... are such sequences, one a layer; `field=` is
    one tensor of all images.
    """
    named: dict[str, Any] = {}
    for field in ("output",) if "output" in output else FIELDS:
        value = output.get(field) if hasattr(output, "get") else getattr(output, field, None)
        if value is None:
            continue
        if isinstance(value, Tensor):
            named["output" if field == "output" else f"{field}="] = value
        elif isinstance(value[0], Tensor):
            named[field] = value
        else:
            named |= {f"{field}.{layer}": part for layer, part in enumerate(value)}
    return {name: _joined(value) for name, value in named.items()} if joined else named


def _joined(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.cat(list(value))


def draws(module: nn.Module) -> bool:
    """Tell whether this module draws in training: a dropout module, a probability of attention, an expert's noise."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    rates = (p for name, p in vars(module).items() if "drop" in name or "jitter" in name)
    return any(isinstance(p, float) and p > 0 for p in rates)
