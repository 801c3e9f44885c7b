"""Weights of a checkpoint back into the model and the loss that are there: no second model is built.

Parameters are copied in place, so an optimizer, a wrapper or a loss that holds them stays right.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from omnitune import runtime
from omnitune.engine.fsdp_sync import is_sharded
from omnitune.errors import CheckpointError, ResourceError
from omnitune.io import writing
from omnitune.modules import files
from omnitune.modules.router import Router
from omnitune.training.binding import Losses, own_state

logger = logging.getLogger(__name__)

LOSS_WEIGHTS = "loss.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint that was written to its end, or None.

    Half-written ones, which a kill left, are renamed to `torn-checkpoint-N`, so that nothing takes them for the newest.

    Raises:
        ResourceError: One cannot be read, though it may be whole; it is left where it is.
    """
    found = {int(path.name[11:]): path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()}
    for _, path in sorted(found.items(), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # written last
        except (FileNotFoundError, ValueError):  # cut JSON is a ValueError, and so is what is no text
            if runtime.rank() == 0:
                names = (f"torn-{path.name}" + (f".{n}" if n else "") for n in range(1 << 30))
                aside = next(one for name in names if not (one := path.with_name(name)).exists())
                path.rename(aside)
                logger.warning("%s was not written to its end; it is now %s", path, aside.name)
        except OSError as error:
            raise ResourceError(
                f"{path}: expected a checkpoint that can be read, got: {error.strerror}; make it readable, or "
                "delete it to begin the training anew"
            ) from error
        else:
            return path
    return None


def save_loss(losses: Losses, model: nn.Module, folder: Path) -> None:
    """Write what the losses have learnt beside the model; nothing where they learn nothing."""
    state = own_state(losses, model)
    if state:
        with writing(folder / LOSS_WEIGHTS) as path:
            save_file({name: t.detach().contiguous().cpu() for name, t in state.items()}, path)


def restore_loss(losses: Losses, model: nn.Module, folder: Path) -> None:
    """Copy what the losses had learnt back into them.

    Raises:
        CheckpointError: The checkpoint has none for a parameter of the loss.
    """
    state = own_state(losses, model)
    if state:
        with files.damaged_weights(folder / LOSS_WEIGHTS):
            stored = load_file(folder / LOSS_WEIGHTS) if (folder / LOSS_WEIGHTS).is_file() else {}
        _copy(stored, state, folder / LOSS_WEIGHTS)


def restore_model(model: nn.Module, folder: Path) -> None:
    """Copy the weights of a checkpoint that this model wrote back into it.

    Raises:
        CheckpointError: The checkpoint is incomplete, or of another model; or the model's weights are sharded.
    """
    if is_sharded(model):
        raise CheckpointError(
            f"{folder}: expected a model with whole weights to load it into, got one that is sharded over ranks; load "
            "the checkpoint first, and shard then"
        )
    for module, place in _places(model, folder):
        backbone = next((m for m in module.modules() if isinstance(m, PreTrainedModel)), None)
        if backbone is not None:
            _restore_backbone(backbone, place)
        elif module.state_dict():
            files.load_weights(module, place)


def _places(model: nn.Module, folder: Path) -> Iterator[tuple[nn.Module, Path]]:
    """Every module that wrote files, with its folder."""
    listing = folder / "modules.json"
    if not listing.is_file():
        raise CheckpointError(f"{folder}: expected a checkpoint with modules.json, and there is none")
    paths = {str(entry.get("name")): str(entry.get("path")) for entry in files.read_list(listing)}
    for name, module in model.named_children():
        if name not in paths:
            raise CheckpointError(f"{listing}: expected the modules of this model, and {name!r} is missing")
        yield from _inside(module, folder / paths[name])


def _inside(module: nn.Module, folder: Path) -> Iterator[tuple[nn.Module, Path]]:
    if not isinstance(module, Router):
        yield module, folder
        return
    structure = files.read_json(folder / Router.config_file_name)["structure"]
    for route, names in structure.items():
        for child, name in zip(module.sub_modules[route].children(), names, strict=True):
            yield from _inside(child, folder / name)


def _restore_backbone(backbone: PreTrainedModel, folder: Path) -> None:
    if (folder / ADAPTER_WEIGHTS).is_file():
        path = folder / ADAPTER_WEIGHTS
        peft = runtime.require_peft()
        with files.damaged_weights(path):
            adapter = {re.sub(r"^base_model\.model\.", "", name): t for name, t in load_file(path).items()}
        result = peft.set_peft_model_state_dict(backbone, adapter, adapter_name=backbone.active_adapters()[0])
        if result.unexpected_keys:
            raise CheckpointError(f"{path}: does not fit the adapter; superfluous {result.unexpected_keys[:3]}")
        return
    stored: dict[str, Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with files.damaged_weights(path):
            stored.update(load_file(path))
    # On disk, weights have the names of the published checkpoint, which differ from those in memory for some
    # architectures; the tensors that the renaming hands back tell which is which.
    live = backbone.state_dict(keep_vars=True)
    written = revert_weight_conversion(backbone, dict(live))
    ours = {id(tensor) for tensor in live.values()}
    if any(id(tensor) not in ours for tensor in written.values()):
        fresh = type(backbone).from_pretrained(folder, dtype=backbone.dtype, trust_remote_code=False)
        backbone.load_state_dict(fresh.state_dict())
        return
    # Of weights that are tied, one name is written.
    present = {id(written[name]) for name in stored if name in written}
    _copy(stored, {n: t for n, t in written.items() if n in stored or id(t) not in present}, folder)


def _copy(stored: Mapping[str, Tensor], live: Mapping[str, Tensor], source: Path) -> None:
    """Copy tensors by name into those that are there."""
    missing = [name for name in live if name not in stored]
    wrong = [n for n, t in live.items() if n in stored and stored[n].shape != t.shape]
    if missing or wrong:
        raise CheckpointError(
            f"{source}: expected the weights of this model; missing {missing[:3]}, of another shape {wrong[:3]}"
        )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(stored[name])
