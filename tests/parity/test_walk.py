"""No name of ST escapes: each module, class, method, property and argument is here, or named in COMPATIBILITY.md."""

import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

TEXT = (Path(__file__).parents[2] / "COMPATIBILITY.md").read_text()
NAMED = {word for quoted in re.findall(r"`([^`]+)`", TEXT) for word in re.findall(r"[\w.]+", quoted)}

OTHER_ROOMS = re.compile(r"\.(sparse_encoder|multi_vector_encoder|backend)(\.|$)")
"""Families and exports that have lists of their own."""

OTHER_FAMILIES = ("MultiVector", "Sparse")
"""Classes whose attributes are compared where these families are tested."""

ROOMS = (
    "", "losses", "evaluation", "models", "readers", "datasets", "quantization", "util", "training_args", "base",
    "base.modules", "base.evaluation", "base.sampler", "sentence_transformer", "sentence_transformer.losses",
    "sentence_transformer.evaluation", "sentence_transformer.modules", "sentence_transformer.readers",
    "sentence_transformer.datasets", "cross_encoder", "cross_encoder.losses", "cross_encoder.evaluation",
    "cross_encoder.modules",
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
        if not inspect.isclass(one) or name.startswith(OTHER_FAMILIES):
            continue
        fields = {*getattr(two, "__annotations__", {}), *getattr(two, "__dataclass_fields__", {})}
        yield from (a for a in own_attributes(one) if not hasattr(two, a) and a not in fields)
        given, taken = (set(inspect.signature(kind).parameters) for kind in (one, two))
        yield from given - taken - {"args", "kwargs"}


@pytest.mark.parity
@pytest.mark.parametrize("path", ROOMS)
def test_every_name(path: str) -> None:
    pytest.importorskip("sentence_transformers")
    assert sorted({name for name in missing(path) if name not in NAMED}) == []


@pytest.mark.parity
def test_every_module() -> None:
    st = pytest.importorskip("sentence_transformers")
    absent = []
    for found in pkgutil.walk_packages(st.__path__, "sentence_transformers."):
        if OTHER_ROOMS.search(found.name):
            continue
        ours = found.name.replace("sentence_transformers", "omnitune", 1)
        try:
            importlib.import_module(ours)
        except ModuleNotFoundError:
            if ours.removeprefix("omnitune.").rpartition(".")[0] + ".*" not in TEXT:
                absent.append(ours.removeprefix("omnitune."))
    assert absent == []
