"""Adapters (LoRA and its kin) on the backbone of a model, through peft and transformers' integration of it."""

import copy
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from omnitune import runtime
from omnitune.engine.inference import EncodingModel
from omnitune.errors import InputError
from omnitune.modules import files
from omnitune.modules.backbones import TOWERS
from omnitune.modules.config_checks import check_adapter
from omnitune.modules.files import HubOptions
from omnitune.modules.loading import upstream
from omnitune.types import Column, Embeddings

Treatment = Literal["lora", "frozen"]

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
_TOLERANCE_OF_HALF_PRECISION = 2e-2


class AdapterMixin:
    """Verbs for adapters on the first transformers model among the modules, `transformers_model`.

    A fresh adapter trains alone, the backbone's own weights being frozen; a checkpoint of it holds the adapter only.
    """

    @property
    def transformers_model(self) -> "transformers.PreTrainedModel | None":
        """The first transformers model among the modules, or None; the model says which that is."""
        raise NotImplementedError

    def has_peft_compatible_model(self) -> bool:
        """Tell whether the backbone takes adapters."""
        return isinstance(self.transformers_model, transformers.integrations.PeftAdapterMixin)

    def check_peft_compatible_model(self) -> None:
        """Raise unless the backbone takes adapters.

        Raises:
            InputError: There is no transformers model among the modules.
            MissingExtraError: peft is not installed, or too old for transformers.
        """
        if not self.has_peft_compatible_model():
            found = type(self.transformers_model).__name__
            raise InputError(f"adapters: expected a transformers model among the modules, got {found}")
        runtime.require_peft()

    @property
    def _adapted(self) -> Any:
        self.check_peft_compatible_model()
        return self.transformers_model

    def load_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Load adapter weights from a folder or a repository, as `PreTrainedModel.load_adapter` does.

        Raises:
            CheckpointError: They cannot be read, or their configuration cannot be obeyed.
            CheckpointNotFoundError: Nothing is there.
        """
        backbone = self._adapted
        place, *others = args or (kwargs.pop("peft_model_id", None),)
        if isinstance(place, str | os.PathLike):
            reached = {**kwargs, **(kwargs.get("adapter_kwargs") or {})}
            subfolder = reached.get("subfolder") or ""
            folder = files.resolve(str(place), HubOptions.from_kwargs(reached), subfolder=subfolder) / subfolder
            check_adapter(folder, lambda: [name for name, _ in backbone.named_modules()])
            with upstream(folder, "adapter"), files.damaged_weights(folder):
                backbone.load_adapter(place, *others, **kwargs)
        else:
            backbone.load_adapter(place, *others, **kwargs)

    def add_adapter(
        self, adapter_config: Any, *args: Any, towers: Mapping[str, Treatment] | None = None, **kwargs: Any
    ) -> None:
        """Add a fresh adapter, e.g. `add_adapter(LoraConfig(...))`, and train it alone.

        Args:
            adapter_config: peft's configuration.
            *args: The adapter's name.
            towers: Which parts of a backbone get it, e.g. `{"vision": "frozen", "language": "lora"}`: "lora" where
                `adapter_config` targets something there, "frozen" nowhere. Parts that are not named are as
                `adapter_config` says.
            **kwargs: For `PreTrainedModel.add_adapter`.

        Raises:
            InputError: The backbone has no such part, a treatment is none of the two, or "lora" finds no target.
        """
        backbone = self._adapted
        if not towers:
            backbone.add_adapter(adapter_config, *args, **kwargs)
            return
        places = _places(backbone, towers)
        frozen = [place for tower, place in places.items() if towers[tower] == "frozen"]
        config = _excluding(adapter_config, frozen) if frozen else adapter_config
        with warnings.catch_warnings():
            # The targets may be of other towers alone.
            warnings.filterwarnings("ignore", "You have passed exclude_modules")
            backbone.add_adapter(config, *args, **kwargs)
        for tower, place in places.items():
            if towers[tower] == "lora" and not any(_adapters(backbone.get_submodule(place))):
                backbone.delete_adapter(backbone.active_adapters())
                raise InputError(
                    f"towers: expected target_modules that are in the {tower} tower ({place}), got "
                    f"{adapter_config.target_modules}, which are not"
                )

    def merge_adapter(self, inputs: Sequence[Any] | None = None, tolerance: float | None = None) -> float:
        """Add the active adapters to the backbone's weights and remove them, if embeddings stay what they are.

        Args:
            inputs: What to compare the embeddings of; by default a few texts and an image, as the model takes them.
            tolerance: Largest change of an embedding's entry, as a share of the largest entry; by default 1e-4, and
                2e-2 for weights in half precision.

        Returns:
            The largest change that was found, as a share of the largest entry.

        Raises:
            InputError: There is no adapter, it replaces whole modules, or the embeddings change by more: nothing is
                merged then.
        """
        backbone = self._adapted
        layers = [(name, layer) for name, layer in _adapters(backbone) if not layer.disable_adapters]
        if not layers:
            raise InputError(
                "merge_adapter: expected a model with an adapter in use, got none; add, load or enable it first"
            )
        whole = runtime.require_peft().utils.other.AuxiliaryTrainingWrapper
        if any(isinstance(module, whole) for module in backbone.modules()):
            raise InputError("merge_adapter: expected an adapter without modules_to_save, which cannot be added up")
        model = cast(EncodingModel, self)
        sample = _sample(model) if inputs is None else list(inputs)
        if tolerance is None:
            tolerance = _TOLERANCE.get(backbone.dtype, _TOLERANCE_OF_HALF_PRECISION)
        before = _embedded(model, sample)
        for _, layer in layers:
            layer.merge(safe_merge=True)
        change = float((_embedded(model, sample) - before).abs().max() / before.abs().max())
        if not change <= tolerance:
            for _, layer in layers:
                layer.unmerge()
            raise InputError(
                f"merge_adapter: expected embeddings that change by at most {tolerance:g} of their largest entry, got "
                f"{change:g}; merge in float32, or keep the adapter apart"
            )
        for name, layer in layers:
            parent, _, attribute = name.rpartition(".")
            setattr(backbone.get_submodule(parent), attribute, layer.get_base_layer())
        del backbone.peft_config
        backbone._hf_peft_config_loaded = False
        return change

    def set_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Make one adapter, or a list of them, the active one."""
        self._adapted.set_adapter(*args, **kwargs)

    def disable_adapters(self) -> None:
        """Use the backbone without its adapters."""
        self._adapted.disable_adapters()

    def enable_adapters(self) -> None:
        """Use the active adapters again."""
        self._adapted.enable_adapters()

    def active_adapters(self) -> list[str]:
        """Names of the adapters in use."""
        return list(self._adapted.active_adapters())

    def active_adapter(self) -> str:
        """Name of the first adapter in use."""
        return self.active_adapters()[0]

    def get_adapter_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Weights of an adapter, by default the active one."""
        return dict(self._adapted.get_adapter_state_dict(*args, **kwargs))

    def delete_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Remove an adapter's layers from the backbone."""
        self._adapted.delete_adapter(*args, **kwargs)


def _adapters(module: nn.Module) -> Iterable[tuple[str, Any]]:
    """The layers with an adapter within a module, by name."""
    kind = runtime.require_peft().tuners.tuners_utils.BaseTunerLayer
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, kind))


def _places(backbone: nn.Module, towers: Mapping[str, Treatment]) -> dict[str, str]:
    """Find the named towers in a backbone.

    Raises:
        InputError: It has no such tower, or a treatment is unknown.
    """
    found: dict[str, str] = {}
    for name, _ in backbone.named_modules():
        for tower, names in TOWERS.items():
            if name.rpartition(".")[2] in names:
                found.setdefault(tower, name)
    if missing := [tower for tower in towers if tower not in found]:
        raise InputError(f"towers: expected parts among {sorted(found) or 'none'} of this backbone, got {missing}")
    if unknown := [treatment for treatment in towers.values() if treatment not in ("lora", "frozen")]:
        raise InputError(f'towers: expected "lora" or "frozen" for each, got {unknown}')
    return {tower: found[tower] for tower in towers}


def _excluding(config: Any, places: Sequence[str]) -> Any:
    """A copy of a configuration that leaves some parts of the backbone out."""
    patterns = [rf"{re.escape(place)}\..*" for place in places]
    given = config.exclude_modules
    if given:
        patterns.append(given if isinstance(given, str) else rf"(.*\.)?({'|'.join(map(re.escape, sorted(given)))})")
    changed = copy.copy(config)
    changed.exclude_modules = "|".join(f"({pattern})" for pattern in patterns)
    return changed


def _sample(model: EncodingModel) -> list[Any]:
    """Inputs of every plain modality that the model takes."""
    texts = ["a", "What does the third page say?", "numbers 1 2 3, and a longer text of some words"]
    images = [Image.linear_gradient("L").convert("RGB").resize((64, 48))]
    return [item for kind, items in (("text", texts), ("image", images)) if model.supports(kind) for item in items]


def _embedded(model: EncodingModel, inputs: Sequence[Any]) -> Tensor:
    """Outputs of the model for some inputs `(items, ...)`, float32, on the CPU."""
    engine = model.engine
    with model.inference():
        plan = engine.plan([Column(name="inputs", items=inputs)])
        outputs = Embeddings.cat([engine.run(features) for features in engine.prepare(plan.mini_batches)])
    return outputs.values.float().cpu()
