"""Classes of modules by their type in a checkpoint, and the type under which a class is written.

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

_ST = "sentence_transformers"
_OLD = f"{_ST}.models"
_BASE = f"{_ST}.base.modules"
_FAMILY = f"{_ST}.sentence_transformer.modules"
_MULTI = f"{_ST}.multi_vector_encoder.modules"
_SPARSE = f"{_ST}.sparse_encoder.modules"
_OLD_SPARSE = f"{_ST}.sparse_encoder.models"

_ROW = "omnitune.modules"

WRITTEN: dict[str, str] = {
    f"{_ROW}.transformer:Transformer": f"{_OLD}.Transformer",
    f"{_ROW}.pooling:Pooling": f"{_OLD}.Pooling",
    f"{_ROW}.dense:Dense": f"{_OLD}.Dense",
    f"{_ROW}.normalize:Normalize": f"{_OLD}.Normalize",
    f"{_ROW}.normalize:LayerNorm": f"{_OLD}.LayerNorm",
    f"{_ROW}.normalize:Dropout": f"{_OLD}.Dropout",
    f"{_ROW}.static_embedding:StaticEmbedding": f"{_OLD}.StaticEmbedding",
    f"{_ROW}.weighted_layer_pooling:WeightedLayerPooling": f"{_OLD}.WeightedLayerPooling",
    f"{_ROW}.word_embeddings:WordEmbeddings": f"{_OLD}.WordEmbeddings",
    f"{_ROW}.word_embeddings:WordWeights": f"{_OLD}.WordWeights",
    f"{_ROW}.router:Router": f"{_OLD}.Router",
    f"{_ROW}.multi_vector_mask:MultiVectorMask": f"{_MULTI}.multi_vector_mask.MultiVectorMask",
    f"{_ROW}.token_pooling:HierarchicalTokenPooling": f"{_MULTI}.token_pooling.HierarchicalTokenPooling",
    f"{_ROW}.old_classes:MLMTransformer": f"{_OLD_SPARSE}.MLMTransformer",
    f"{_ROW}.sparse_auto_encoder:SparseAutoEncoder": f"{_OLD_SPARSE}.SparseAutoEncoder",
    f"{_ROW}.sparse_static_embedding:SparseStaticEmbedding": f"{_OLD_SPARSE}.SparseStaticEmbedding",
    f"{_ROW}.splade_pooling:SpladePooling": f"{_OLD_SPARSE}.SpladePooling",
    f"{_ROW}.logit_score:LogitScore": f"{_ST}.cross_encoder.modules.logit_score.LogitScore",
    f"{_ROW}.token_weights:TokenWeights": "omnitune.modules.token_weights.TokenWeights",
    f"{_ROW}.readers.audio:AudioReader": "omnitune.modules.audio_reader.AudioReader",
    f"{_ROW}.readers.clip:ClipReader": "omnitune.modules.clip_reader.ClipReader",
    f"{_ROW}.readers.text:TextReader": "omnitune.modules.text_reader.TextReader",
}
"""The type that each class, `"module:Class"`, is written under: the name that the most readers know.

Classes are named and not imported, because a router is one of them and reads this table.
"""

_HOMES: dict[str, tuple[str, ...]] = {
    f"{_ROW}.transformer:Transformer": (f"{_BASE}.transformer.Transformer",),
    f"{_ROW}.pooling:Pooling": (f"{_FAMILY}.pooling.Pooling",),
    f"{_ROW}.dense:Dense": (f"{_BASE}.dense.Dense", "pylate.models.Dense.Dense", "pylate.models.Dense"),
    f"{_ROW}.normalize:Normalize": (f"{_BASE}.normalize.Normalize", f"{_FAMILY}.normalize.Normalize"),
    f"{_ROW}.normalize:LayerNorm": (f"{_FAMILY}.layer_norm.LayerNorm",),
    f"{_ROW}.normalize:Dropout": (f"{_FAMILY}.dropout.Dropout",),
    f"{_ROW}.static_embedding:StaticEmbedding": (f"{_FAMILY}.static_embedding.StaticEmbedding",),
    f"{_ROW}.weighted_layer_pooling:WeightedLayerPooling": (f"{_FAMILY}.weighted_layer_pooling.WeightedLayerPooling",),
    f"{_ROW}.word_embeddings:WordEmbeddings": (f"{_FAMILY}.word_embeddings.WordEmbeddings",),
    f"{_ROW}.word_embeddings:WordWeights": (f"{_FAMILY}.word_weights.WordWeights",),
    f"{_ROW}.router:Router": (f"{_BASE}.router.Router", f"{_OLD}.Asym", f"{_OLD}.Asym.Asym"),
    f"{_ROW}.multi_vector_mask:MultiVectorMask": (f"{_MULTI}.MultiVectorMask",),
    f"{_ROW}.token_pooling:HierarchicalTokenPooling": (f"{_MULTI}.HierarchicalTokenPooling",),
    f"{_ROW}.old_classes:MLMTransformer": (f"{_SPARSE}.mlm_transformer.MLMTransformer",),
    f"{_ROW}.sparse_auto_encoder:SparseAutoEncoder": (f"{_SPARSE}.sparse_auto_encoder.SparseAutoEncoder",),
    f"{_ROW}.sparse_static_embedding:SparseStaticEmbedding": (
        f"{_SPARSE}.sparse_static_embedding.SparseStaticEmbedding",
    ),
    f"{_ROW}.splade_pooling:SpladePooling": (f"{_SPARSE}.splade_pooling.SpladePooling",),
    f"{_ROW}.old_classes:CLIPModel": (
        f"{_FAMILY}.clip_model.CLIPModel",
        f"{_OLD}.CLIPModel",
        f"{_OLD}.CLIPModel.CLIPModel",
    ),
}
"""Other types that mean the class, besides `models.<Class>` and `models.<Class>.<Class>` of versions 2 to 5."""


def _name(row: str) -> str:
    return row.partition(":")[2]


def _types() -> dict[str, str]:
    known = {name: row for row, name in WRITTEN.items()}
    known |= {f"{_OLD}.{_name(row)}.{_name(row)}": row for row in _HOMES}
    known |= {f"{package}.{_name(row)}": row for row in _HOMES for package in (_BASE, _FAMILY)}
    sparse = [row for row, names in _HOMES.items() if names[0].startswith(_SPARSE)]
    known |= {f"{package}.{_name(row)}": row for row in sparse for package in (_SPARSE, _OLD_SPARSE)}
    return known | {name: row for row, names in _HOMES.items() for name in names}


TYPES: dict[str, str] = _types()
"""The class, `"module:Class"`, that each type in a checkpoint means."""


def type_of(module: nn.Module) -> str:
    """The type that a checkpoint keeps `module` under; foreign code keeps the name of its file and class."""
    kind = type(module)
    if hasattr(module, "is_text_only"):  # a backbone, of whichever class made from `Transformer`
        name = WRITTEN[f"{_ROW}.transformer:Transformer"]
        if module.is_text_vocabulary:
            return WRITTEN[f"{_ROW}.old_classes:MLMTransformer"]
        return name if module.is_text_only else f"{_BASE}.transformer.Transformer"
    if is_remote(module):
        return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    return WRITTEN.get(_row(kind), f"{kind.__module__}.{kind.__name__}")


def _row(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def is_remote(module: nn.Module) -> bool:
    """Tell whether a module's class came with a checkpoint."""
    return type(module).__module__.partition(".")[0] == "transformers_modules"


def own_types(modules: Iterable[nn.Module]) -> list[str]:
    """Names of the classes among `modules`, and inside them, that only omnitune has."""
    inside = {type(part) for module in modules for part in module.modules()}
    return sorted(kind.__name__ for kind in inside if WRITTEN.get(_row(kind), "").startswith("omnitune."))


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
        place, _, name = TYPES[type_name].partition(":")
        return getattr(importlib.import_module(place), name)
    known = ", ".join(sorted({_name(row) for row in TYPES.values()}))
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
