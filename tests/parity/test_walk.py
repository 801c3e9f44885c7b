"""No name of ST escapes: each module, class, method, property and argument is here, or named in COMPATIBILITY.md."""

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

import omnitune

TEXT = (Path(__file__).parents[2] / "COMPATIBILITY.md").read_text().partition("## Left out on purpose")[2]
NAMED = {word for quoted in re.findall(r"`([^`]+)`", TEXT) for word in re.findall(r"[\w.]+", quoted)}

ROOMS = (
    "", "losses", "evaluation", "models", "readers", "datasets", "quantization", "util", "training_args", "base",
    "base.modules", "base.evaluation", "base.sampler", "sentence_transformer", "sentence_transformer.losses",
    "sentence_transformer.evaluation", "sentence_transformer.modules", "sentence_transformer.readers",
    "sentence_transformer.datasets", "cross_encoder", "cross_encoder.losses", "cross_encoder.evaluation",
    "cross_encoder.modules",
)  # fmt: skip

FAMILIES = (
    "sparse_encoder", "sparse_encoder.losses", "sparse_encoder.modules", "sparse_encoder.evaluation",
    "sparse_encoder.callbacks", "multi_vector_encoder", "multi_vector_encoder.losses", "multi_vector_encoder.modules",
    "multi_vector_encoder.evaluation",
)  # fmt: skip


def pair(path: str) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = importlib.import_module(f"sentence_transformers.{path}".rstrip("."))
        return theirs, importlib.import_module(f"omnitune.{path}".rstrip("."))


def own_attributes(kind: type) -> Iterator[str]:
    """Public attributes that ST itself gave a class."""
    inherited = (torch.nn.Sequential, dict, Trainer, TrainingArguments)
    for name in dir(kind):
        theirs = any(name in vars(b) and b.__module__.startswith("sentence_transformers") for b in kind.__mro__)
        known = any(hasattr(base, name) for base in inherited if issubclass(kind, base))
        if not name.startswith("_") and theirs and (not known or name in vars(kind)):
            yield name


def assigned(kind: type) -> set[str]:
    """Public attributes that a class of ST or of ours, or a base of it there, sets on its objects."""
    known = ("omnitune.", "sentence_transformers.", "transformers.trainer")
    own = [b for b in kind.__mro__ if b.__module__.startswith(known)]
    lines = [line.strip() for b in own for line in inspect.getsource(b).splitlines()]
    targets = [line.partition(" = ")[0] for line in lines if line.startswith("self.") and " = " in line]
    return {name for target in targets for name in re.findall(r"self\.([a-z]\w*)", target)}


def takes(function: Any, argument: str) -> bool:
    """Tell whether a function takes an argument by name, whatever its signature says."""
    try:
        function(**{argument: None})
    except Exception as error:  # noqa: BLE001 - any other is not about the name
        return f"unexpected keyword argument '{argument}'" not in str(error)
    return True


def missing(path: str) -> Iterator[str]:
    theirs, ours = pair(path)
    for name in getattr(theirs, "__all__", []):
        one = getattr(theirs, name)
        try:
            two = getattr(ours, name)
        except AttributeError as error:
            if "on purpose" not in str(error):
                yield name
            continue
        if not inspect.isclass(one):
            continue
        fields = {*getattr(two, "__annotations__", {}), *getattr(two, "__dataclass_fields__", {}), *assigned(two)}
        for attribute in {*own_attributes(one), *assigned(one)} - fields:
            if not hasattr(two, attribute) and f"{name}.{attribute}" not in NAMED:
                yield attribute
        if not issubclass(one, Enum):  # of one without members, Python 3.13 shows the arguments of Enum itself
            given, taken = (set(inspect.signature(kind).parameters) for kind in (one, two))
            yield from (a for a in given - taken - {"args", "kwargs"} if not takes(two, a))


@pytest.mark.parity
@pytest.mark.parametrize("path", ROOMS + FAMILIES)
def test_every_name(path: str) -> None:
    pytest.importorskip("sentence_transformers")
    assert sorted({name for name in missing(path) if name not in NAMED}) == []


def older_arguments(function: Any) -> dict[str, str]:
    """Older names of a function's arguments, out of the closure of ST's decorator."""
    free = getattr(getattr(function, "__code__", None), "co_freevars", ())
    return dict(function.__closure__[free.index("renames")].cell_contents) if "renames" in free else {}


@pytest.mark.parity
def test_every_older_argument() -> None:
    """An argument that ST still takes by an older name is taken by that name here."""
    pytest.importorskip("sentence_transformers")
    tried, refused = set(), set()
    for path in ROOMS + FAMILIES:
        theirs, ours = pair(path)
        for kind in (getattr(theirs, name) for name in getattr(theirs, "__all__", [])):
            for name in dir(kind) if inspect.isclass(kind) and hasattr(ours, kind.__name__) else ():
                for old in older_arguments(inspect.getattr_static(kind, name)):
                    tried.add(f"{kind.__name__}.{name}({old})")
                    if not takes(getattr(getattr(ours, kind.__name__), name), old):
                        refused.add(f"{kind.__name__}.{name}({old})")
    assert "SoftmaxLoss.__init__(sentence_embedding_dimension)" in tried and len(tried) > 15
    assert sorted(refused) == []


@pytest.mark.parity
def test_every_module() -> None:
    """Each module of ST, its older paths included, is one here and has the public names that ST defines in it."""
    st = pytest.importorskip("sentence_transformers")
    older = importlib.import_module("sentence_transformers.util.deprecated_import").DEPRECATED_MODULE_PATHS
    walked = [found.name for found in pkgutil.walk_packages(st.__path__, "sentence_transformers.")]
    absent = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in {*walked, *older}:
            ours = path.replace("sentence_transformers", "omnitune", 1)
            if ours.removeprefix("omnitune.") in NAMED:
                continue
            theirs = importlib.import_module(path)
            home = {theirs.__name__, older.get(path)}
            names = [n for n, v in vars(theirs).items() if n[0] != "_" and getattr(v, "__module__", "") in home]
            for name in {*names} - NAMED or {"__name__"}:
                try:
                    __import__(ours, fromlist=[name])
                    getattr(sys.modules[ours], name)
                except (ImportError, AttributeError) as error:
                    if "on purpose" not in str(error):
                        absent.append(f"{ours.removeprefix('omnitune.')}: {name}")
    assert sorted(absent) == []


@pytest.mark.parity
def test_modules_as_attributes() -> None:
    """What `import sentence_transformers` sets as attributes can be had of omnitune without another import."""
    st = pytest.importorskip("sentence_transformers")
    assert omnitune.__getattr__("util") and omnitune.__getattr__("backend")
    for name in ("base", "cross_encoder", "multi_vector_encoder", "sentence_transformer", "sparse_encoder"):
        ours = omnitune.__getattr__(name)
        for inner in pkgutil.iter_modules(getattr(st, name).__path__):
            if f"{name}.{inner.name}" not in NAMED:
                assert ours.__getattr__(inner.name).__name__ == f"omnitune.{name}.{inner.name}"
        with pytest.raises(AttributeError, match=f"module 'omnitune.{name}' has no attribute 'nothing'"):
            _ = ours.nothing


def test_an_older_path_has_the_class_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("omnitune.losses.CosineSimilarityLoss", "omnitune.SentenceTransformer"):
        monkeypatch.delitem(sys.modules, path, raising=False)
    with pytest.warns(DeprecationWarning, match=r"omnitune\.losses\.CosineSimilarityLoss is deprecated") as caught:
        older = importlib.import_module("omnitune.losses.CosineSimilarityLoss")
    assert older.CosineSimilarityLoss is omnitune.losses.CosineSimilarityLoss
    assert inspect.isclass(omnitune.losses.CosineSimilarityLoss)
    with pytest.warns(DeprecationWarning):
        from omnitune.SentenceTransformer import SentenceTransformer  # type: ignore[import-not-found]
    assert SentenceTransformer is omnitune.SentenceTransformer and caught[0].filename == importlib.__file__
    for path in ("omnitune.losses.CosineLoss", "omnitune.models.Retriever", "omnitune.trainers"):
        with pytest.raises(ModuleNotFoundError, match=path):
            importlib.import_module(path)


@pytest.mark.parametrize(
    "line",
    [
        "from omnitune import export_optimized_onnx_model",
        "from omnitune.backend import export_dynamic_quantized_onnx_model",
        "from omnitune.losses import ContrastiveTensionDataLoader",
        "from omnitune.sentence_transformer.losses import ContrastiveTensionDataLoader",
        "from omnitune.util import import_from_string",
        "from omnitune.models import LSTM",
    ],
)
def test_from_import_says_what_to_use_instead(line: str) -> None:
    with pytest.raises(ImportError, match=r"on purpose: \w+"):
        exec(line)
    assert not hasattr(omnitune, "export_optimized_onnx_model")
