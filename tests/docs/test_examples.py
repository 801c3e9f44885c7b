"""Every public name is in the reference with an example, and the example gives what it says."""

import doctest
import importlib
import inspect
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

import omnitune
from fixtures.tiny_pdfs import write_folder
from omnitune import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

PAGES = sorted((Path(__file__).parents[2] / "docs/reference").glob("*.md"))
DIRECTIVE = re.compile(r"^\.\. auto(?:class|function):: (\S+)(?:\n +:members: (.+))?", re.MULTILINE)
NAMES = {name: members for page in PAGES for name, members in DIRECTIVE.findall(page.read_text(encoding="utf-8"))}
"""Documented names, each with the members that are shown."""

ROOMS = (
    "omnitune",
    "omnitune.cross_encoder.evaluation",
    "omnitune.cross_encoder.losses",
    "omnitune.documents",
    "omnitune.evaluation",
    "omnitune.finetune",
    "omnitune.losses",
    "omnitune.modules",
    "omnitune.multi_vector_encoder.evaluation",
    "omnitune.multi_vector_encoder.losses",
    "omnitune.multi_vector_encoder.scoring",
    "omnitune.sampler",
    "omnitune.sparse_encoder.evaluation",
    "omnitune.sparse_encoder.losses",
    "omnitune.util",
)
ELSEWHERE = re.compile(
    r"CE[A-Z]\w+Evaluator|SentenceEvaluator|information_retrieval|pytorch_cos_sim"  # older names
    r"|InputExample|ParallelSentencesDataset|SentencesDataset|LoggingHandler|http_get|fullname"  # of older scripts
    r"|is_\w+|get_\w+|disable_\w+|batch_to_device|compute_count_vector"  # one line each
    r"|select_max_active_dims|to_scipy_coo"
    r"|check_leaks|Ranking|Strategy|Loss"  # parts of others
)
"""Public names without a place in the reference."""

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def found(name: str) -> Any:
    room, _, last = name.rpartition(".")
    return getattr(importlib.import_module(room), last)


def test_public_names_are_in_the_reference() -> None:
    shown = [found(name) for name in NAMES]
    missing = {
        f"{room}.{name}"
        for room in ROOMS
        for name in importlib.import_module(room).__all__
        if not ELSEWHERE.fullmatch(name)
        for one in [getattr(importlib.import_module(room), name)]
        if (inspect.isclass(one) or inspect.isroutine(one)) and not any(one is other for other in shown)
    }
    assert not missing


@pytest.fixture(scope="module")
def names(minilm: Path, tiny_bert: Path, tiny_masked_bert: Path) -> dict[str, Any]:
    """What the first page of the reference says that examples stand on."""
    return {
        **{name: getattr(omnitune, name) for name in omnitune.__all__},
        "Dataset": Dataset,
        "np": np,
        "torch": torch,
        "model": SentenceTransformer(str(minilm), device="cpu"),
        "pages": ["Grease the bearing every week.", "The oven heats to 250 degrees."],
        "reranker": CrossEncoder(str(tiny_bert), num_labels=1, device="cpu"),
        "late": MultiVectorEncoder.from_dense(str(minilm), device="cpu"),
        "sparse": SparseEncoder(str(tiny_masked_bert), device="cpu"),
    }


@pytest.fixture(scope="module")
def with_manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where examples of folders run: a dataset that one has prepared is there for the others."""
    return write_folder(tmp_path_factory.mktemp("folders") / "manuals", pages=2).parent


@pytest.mark.parametrize("name", NAMES)
def test_an_example_gives_what_it_says(
    name: str, names: dict[str, Any], with_manuals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_folders = name.startswith(("omnitune.documents.", "omnitune.finetune."))
    monkeypatch.chdir(with_manuals if of_folders else tmp_path)
    one = found(name)
    shown = [inspect.getdoc(one) or "", *(inspect.getdoc(getattr(one, part)) or "" for part in members(name))]
    assert ">>> " in "".join(shown), f"{name}: expected an example"
    for text in shown:
        given = names | {name.rpartition(".")[2]: one}
        test = doctest.DocTestParser().get_doctest(text, given, name, None, 0)
        said: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transformers, about the CPU
            doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append, clear_globs=False)
        assert not said, "".join(said)
        if trainer := test.globs.get("trainer"):  # its columns are the loss's
            batch = next(iter(trainer.get_train_dataloader()))
            assert math.isfinite(trainer.compute_loss(trainer.model, batch).item())


def members(name: str) -> list[str]:
    return [part.strip() for part in NAMES[name].split(",") if part]
