"""Which class a module's type in a checkpoint means, and under which type a class is written.

Types are looked up here. A type that is not here is code that comes with the checkpoint: it runs only when the caller
trusts it, through transformers' machinery for that.
"""

import importlib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from omnitune.errors import CheckpointError, UntrustedCodeError
from omnitune.modules.clip_model import CLIPModel
from omnitune.modules.dense import Dense
from omnitune.modules.logit_score import LogitScore
from omnitune.modules.normalize import Dropout, LayerNorm, Normalize
from omnitune.modules.pooling import Pooling
from omnitune.modules.readers.audio import AudioReader
from omnitune.modules.readers.clip import ClipReader
from omnitune.modules.readers.text import TextReader
from omnitune.modules.router import Router
from omnitune.modules.static_embedding import StaticEmbedding
from omnitune.modules.transformer import Transformer
from omnitune.modules.weighted_layer_pooling import WeightedLayerPooling
from omnitune.modules.word_embeddings import WordEmbeddings
from omnitune.modules.word_weights import WordWeights

_ST = "sentence_transformers"
_OLD = f"{_ST}.models"
_BASE = f"{_ST}.base.modules"
_FAMILY = f"{_ST}.sentence_transformer.modules"

WRITTEN: dict[type[nn.Module], str] = {
    Transformer: f"{_OLD}.Transformer",
    Pooling: f"{_OLD}.Pooling",
    Dense: f"{_OLD}.Dense",
    Normalize: f"{_OLD}.Normalize",
    LayerNorm: f"{_OLD}.LayerNorm",
    Dropout: f"{_OLD}.Dropout",
    StaticEmbedding: f"{_OLD}.StaticEmbedding",
    WeightedLayerPooling: f"{_OLD}.WeightedLayerPooling",
    WordEmbeddings: f"{_OLD}.WordEmbeddings",
    WordWeights: f"{_OLD}.WordWeights",
    Router: f"{_OLD}.Router",
    LogitScore: f"{_ST}.cross_encoder.modules.logit_score.LogitScore",
    AudioReader: "omnitune.modules.audio_reader.AudioReader",
    ClipReader: "omnitune.modules.clip_reader.ClipReader",
    TextReader: "omnitune.modules.text_reader.TextReader",
}
"""The type that each class is written under: the name that the most readers know."""

_HOMES: dict[type[nn.Module], tuple[str, ...]] = {
    Transformer: (f"{_BASE}.transformer.Transformer",),
    Pooling: (f"{_FAMILY}.pooling.Pooling",),
    Dense: (f"{_BASE}.dense.Dense",),
    Normalize: (f"{_BASE}.normalize.Normalize", f"{_FAMILY}.normalize.Normalize"),
    LayerNorm: (f"{_FAMILY}.layer_norm.LayerNorm",),
    Dropout: (f"{_FAMILY}.dropout.Dropout",),
    StaticEmbedding: (f"{_FAMILY}.static_embedding.StaticEmbedding",),
    WeightedLayerPooling: (f"{_FAMILY}.weighted_layer_pooling.WeightedLayerPooling",),
    WordEmbeddings: (f"{_FAMILY}.word_embeddings.WordEmbeddings",),
    WordWeights: (f"{_FAMILY}.word_weights.WordWeights",),
    Router: (f"{_BASE}.router.Router", f"{_OLD}.Asym", f"{_OLD}.Asym.Asym"),
    CLIPModel: (f"{_FAMILY}.clip_model.CLIPModel", f"{_OLD}.CLIPModel", f"{_OLD}.CLIPModel.CLIPModel"),
}
"""Other types that mean the class, besides `models.<Class>` and `models.<Class>.<Class>` of versions 2 to 5."""


def _types() -> dict[str, type[nn.Module]]:
    known = {name: kind for kind, name in WRITTEN.items()}
    known |= {f"{_OLD}.{kind.__name__}.{kind.__name__}": kind for kind in _HOMES}
    known |= {f"{package}.{kind.__name__}": kind for kind in _HOMES for package in (_BASE, _FAMILY)}
    return known | {name: kind for kind, names in _HOMES.items() for name in names}


TYPES: dict[str, type[nn.Module]] = _types()


def type_of(module: nn.Module) -> str:
    """The type that a checkpoint keeps `module` under; foreign code keeps the name of its file and class."""
    kind = type(module)
    if isinstance(module, Transformer):
        return WRITTEN[Transformer] if module.is_text_only else f"{_BASE}.transformer.Transformer"
    if is_remote(module):
        return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    return WRITTEN.get(kind, f"{kind.__module__}.{kind.__name__}")


def is_remote(module: nn.Module) -> bool:
    """Whether a module's class came with a checkpoint."""
    return type(module).__module__.partition(".")[0] == "transformers_modules"


def own_types(modules: Iterable[nn.Module]) -> list[str]:
    """Names of the classes among `modules`, and inside them, that only omnitune has."""
    inside = {type(part) for module in modules for part in module.modules()}
    return sorted(kind.__name__ for kind in inside if WRITTEN.get(kind, "").startswith("omnitune."))


def load_module(
    type_name: str, root: Path, subfolder: str, *, trust_remote_code: bool = False, **kwargs: Any
) -> nn.Module:
    """Read one module of a checkpoint.

    Args:
        type_name: From `modules.json` or a router's configuration.
        root: The checkpoint's directory.
        subfolder: The module's folder in it.
        trust_remote_code: Whether code that comes with the checkpoint, or that it names, may run.
        **kwargs: What only some modules take, such as `model_kwargs`.

    Raises:
        UntrustedCodeError: The type is not known, and code is not trusted.
        CheckpointError: The module cannot be read.
    """
    kind = class_of(type_name, root, trust_remote_code=trust_remote_code)
    if len(inspect.signature(kind.load).parameters) == 1:  # how foreign modules were loaded before version 5
        module = kind.load(str(root / subfolder))
    else:
        module = kind.load(str(root), subfolder=subfolder, trust_remote_code=trust_remote_code, **kwargs)
    return cast(nn.Module, module)


def class_of(type_name: str, folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The class that a type means.

    Args:
        type_name: From `modules.json` or a router's configuration.
        folder: The checkpoint's directory.
        trust_remote_code: Whether code that comes with the checkpoint, or that it names, may run.

    Raises:
        UntrustedCodeError: The type is not known, and code is not trusted.
        CheckpointError: It is a module that omnitune does not have; or the code cannot be found, or is no module.
    """
    if type_name in TYPES:
        return TYPES[type_name]
    known = ", ".join(sorted({kind.__name__ for kind in TYPES.values()}))
    if type_name.partition(".")[0] in (_ST, "omnitune"):
        raise CheckpointError(f"{folder}: it holds a module {type_name}, which this version does not have ({known})")
    if not trust_remote_code:
        raise UntrustedCodeError(
            f"{folder}: it holds a module {type_name}, which is not one that is known ({known}). "
            "If it is code of the checkpoint's own and you trust it, load it with trust_remote_code=True"
        )
    found = _foreign(type_name, folder)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise CheckpointError(f"{folder}: module {type_name}: expected a torch.nn.Module class, got {found!r}")
    return found


def _foreign(type_name: str, folder: Path) -> Any:
    """A class from a file of the checkpoint, or from an installed package; only ever called for trusted code."""
    file, _, name = type_name.rpartition(".")
    if (folder / f"{file}.py").is_file():
        return get_class_from_dynamic_module(type_name, str(folder))
    try:
        return getattr(importlib.import_module(file), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: module {type_name}: there is no {file}.py in the checkpoint, and no installed package has it "
            f"({error})"
        ) from error
