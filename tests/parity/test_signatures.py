"""Names, order, kinds and defaults of arguments equal Sentence Transformers', for every public class and method.

`DIFFERENCES` is the list of COMPATIBILITY.md as data: what is deliberately otherwise, and why.
"""

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import pytest
from torch import nn

pytestmark = pytest.mark.parity

PATHS = (
    "",
    "base.evaluation",
    "base.modules",
    "base.sampler",
    "cross_encoder",
    "cross_encoder.evaluation",
    "cross_encoder.losses",
    "cross_encoder.model",
    "cross_encoder.modules",
    "cross_encoder.trainer",
    "cross_encoder.training_args",
    "evaluation",
    "losses",
    "models",
    "sentence_transformer",
    "sentence_transformer.evaluation",
    "sentence_transformer.losses",
    "sentence_transformer.model",
    "sentence_transformer.modules",
    "sentence_transformer.trainer",
    "sentence_transformer.training_args",
    "similarity_functions",
    "trainer",
    "training_args",
    "util",
)
"""Modules of omnitune under which Sentence Transformers has the same names."""

OURS_ALONE = {
    "": {
        "BatchSamplers", "DEFAULT_POLICY", "MediaPolicy", "MultiDatasetBatchSamplers", "Retriever", "documents",
        "encode_on_ray", "encode_to_disk", "errors", "modules", "search",
    },
    "cross_encoder.losses": {"BaseWeightingScheme", "ListLoss", "PairLoss"},
    "losses": {"Loss", "Strategy"},
    "sentence_transformer.losses": {"Loss", "Strategy"},
    "evaluation": {"Ranking"},
    "sentence_transformer.evaluation": {"Ranking"},
    "base.sampler": {"WeightedBatchSampler"},
    "sampler": {"WeightedBatchSampler"},
}  # fmt: skip
"""Public names that Sentence Transformers does not have."""

DEPRECATED = "deprecated there, left out here"
INTERNAL = "how Sentence Transformers' classes call each other, not for users"
EXTENSION = "more than Sentence Transformers, keyword-only, so that no call changes its meaning"
SPELT = "there it takes anything and passes it on; here it names what that is"
REFUSED = "it is refused whatever it is given, with a sentence that says what to use"
UNLABELLED = "a call without labels works too"
IGNORED = "Sentence Transformers accepts and ignores it; here it is in **kwargs"

LABELS = "the labels of a loss have one name here"

FAMILIES = ("CrossEncoder", "MultiVectorEncoder", "SentenceTransformer", "SparseEncoder")


def alike(names: Iterable[str], differences: dict[str, str]) -> dict[str, dict[str, str]]:
    """The same differences in several places."""
    return {name: differences for name in names}


DIFFERENCES: dict[str, dict[str, str]] = {
    "Pooling.load_config": dict.fromkeys(
        ["model_name_or_path", "subfolder", "config_filename", "token", "cache_folder",
         "revision", "local_files_only", "args", "kwargs"], SPELT
    ),
    "StaticEmbedding.from_distillation": dict.fromkeys(
        ["vocabulary", "device", "pca_dims", "apply_zipf", "sif_coefficient",
         "token_remove_pattern", "quantize_to", "use_subword", "kwargs", "_", "__"], REFUSED
    ),
    "WordEmbeddings.from_text_file": dict.fromkeys(
        ["update_embeddings", "item_separator", "tokenizer", "max_vocab_size", "_", "__"], REFUSED
    ),
    **alike(
        (f"{family}.add_adapter" for family in FAMILIES),
        {"adapter_config": "there it is in *args", "towers": EXTENSION},
    ),
    **alike(
        (f"{family}Trainer.create_model_card" for family in FAMILIES),
        dict.fromkeys(("finetuned_from", "tasks", "dataset_tags", "dataset", "dataset_args"), IGNORED),
    ),
    **alike(
        (f"{family}TrainingArguments.__init__" for family in FAMILIES),
        {
            "activation_memory": EXTENSION, "input_cache": EXTENSION, "tower_cache": EXTENSION,
            "check_items": EXTENSION, "on_bad_item": EXTENSION,
            "warmup_ratio": "the default is None in both; there it is made by a function",
        },
    ),
    **alike(
        (f"{family}ModelCardData.__init__" for family in FAMILIES if family != "SentenceTransformer"),
        {"task_name": "there None; here what such a model is for"},
    ),
    **alike(
        (f"MultiVectorEncoder.{verb}" for verb in ("encode", "encode_document", "encode_query")),
        {"windows": EXTENSION},
    ),
    **alike(("GISTEmbedLoss.__init__", "CachedGISTEmbedLoss.__init__"), {"cache_guide": EXTENSION}),
    **alike(
        (f"{module}.forward" for module in ("LogitScore", "Pooling", "StaticEmbedding", "WordEmbeddings")),
        {"kwargs": "there they are ignored; here an unknown argument is an error"},
    ),
    **alike(
        (f"{module}.preprocess" for module in ("InputModule", "StaticEmbedding", "Transformer", "WordEmbeddings")),
        {"modality": EXTENSION, "task": EXTENSION},
    ),
    **alike(
        (f"{name}.load" for name in ("InputModule", "LogitScore", "Module", "Pooling", "Transformer", "WordWeights")),
        {"init_defaults": INTERNAL},
    ),
    "EmbedDistillLoss.compute_loss_from_embeddings": {"labels": LABELS, "teacher_embeddings": LABELS},
    "MSELoss.compute_loss_from_embeddings": {"labels": LABELS, "teacher_embeddings": LABELS},
    "GlobalOrthogonalRegularizationLoss.compute_loss_from_embeddings": {"labels": "there None by default"},
    "SentencesDataset.__init__": {"model": "not used, so it may be left out"},
    "SentenceTransformer.__init__": {"use_auth_token": DEPRECATED},
    "MegaBatchMarginLoss.forward": dict.fromkeys(
        ("sentence_features", "labels", "input"), "there every instance has a forward of its own"
    ),
    "OnlineContrastiveLoss.forward": {"size_average": "there it is ignored"},
    "NanoBEIREvaluator.store_metrics_in_model_card_data": dict.fromkeys(
        ("model", "metrics", "epoch", "step", "args", "kwargs"), SPELT
    ),
    "information_retrieval": dict.fromkeys(
        (
            "query_embeddings", "corpus_embeddings", "query_chunk_size", "corpus_chunk_size", "top_k",
            "score_function", "args", "kwargs",
        ),
        SPELT,
    ),
    "NoDuplicatesBatchSampler.__init__": {"fingerprint": EXTENSION, "codes": EXTENSION},
    "Dense.load": {"trust_remote_code": "passed by keyword", "init_defaults": INTERNAL},
    "Normalize.load": {"model_name_or_path": "it cannot do without"},
    "Router.load": {"module_classes": INTERNAL},
    "Router.save": {"args": INTERNAL, "safe_serialization": "keyword-only, as everywhere"},
}  # fmt: skip
"""Arguments that differ in one way or another, by where they are."""


def our_module(path: str) -> Any:
    return importlib.import_module(f"omnitune.{path}".rstrip("."))


def their_module(path: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the paths of its versions before 5.4
        return importlib.import_module(f"sentence_transformers.{path}".rstrip("."))


def public_names() -> list[tuple[str, str]]:
    return [(path, name) for path in PATHS for name in our_module(path).__all__]


def shown(default: Any) -> Any:
    """A default in a form that compares across libraries."""
    if default.__class__.__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        return "made anew"
    if isinstance(default, nn.Module):
        return type(default).__name__
    if isinstance(default, Enum):
        return str(default.value)
    return default.__qualname__.rpartition(".")[2] if callable(default) and not isinstance(default, type) else default


def arguments(function: Callable[..., Any], without: set[str]) -> list[tuple[str, str, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind.name, shown(p.default)) for p in parameters if p.name not in without]


def methods(kind: type) -> list[str]:
    """Public methods that a class of ours, or a base of it in omnitune, defines."""
    own = {
        name
        for base in kind.__mro__
        if base.__module__.startswith("omnitune")
        for name, value in vars(base).items()
        if inspect.isroutine(getattr(kind, name)) and not isinstance(value, property)
    }
    return sorted(name for name in own if not name.startswith("_") or name in ("__init__", "__call__"))


def callables() -> dict[str, tuple[Any, Any]]:
    """Every function, constructor and method that both libraries have, by its name."""
    found: dict[str, tuple[Any, Any]] = {}
    for path, name in public_names():
        if name in OURS_ALONE.get(path, ()) or not hasattr(their_module(path), name):
            continue
        ours, theirs = getattr(our_module(path), name), getattr(their_module(path), name)
        if isinstance(ours, type):
            # Values of an enumeration are compared by test_enumerations.
            shared = [m for m in methods(ours) if hasattr(theirs, m) and not issubclass(ours, Enum)]
            # Losses of two families share names.
            shown_name = f"{path}.{name}" if path.startswith("cross_encoder") and name.endswith("Loss") else name
            found |= {f"{shown_name}.{m}": (getattr(ours, m), getattr(theirs, m)) for m in shared}
        elif inspect.isfunction(ours):
            found[name] = (ours, theirs)
    return found


HANDED_ON = ("Asym.", "CLIPModel.", "CEBinary", "CECorr", "CEF1", "CERerank", "CESoftmax", "CrossEncoderDataCollator.")
"""Older names of classes whose arguments are looked at under today's name."""

ELSEWHERE = {
    "CrossEncoder.fit": "omnitune.compat.fit:fit_pairs",
    "CrossEncoder.old_fit": "omnitune.compat.fit:fit_pairs",
    "SentenceTransformer.fit": "omnitune.compat.fit:fit",
    "SentenceTransformer.old_fit": "omnitune.compat.fit:fit",
}
"""Methods that take anything and hand it on to a function with these names of arguments."""

CALLABLES = {
    name: pair
    for name, pair in callables().items()
    if not name.startswith(HANDED_ON)
    and name not in ELSEWHERE
    and name not in ("Dropout.load", "SentenceTransformer.encode_multi_process")
}
SAME_NAMES = {
    # Made by a lambda there.
    "SequentialEvaluator.__init__": {"main_score_function"},
    "ContrastiveLoss.__init__": {"distance_metric"},
    "OnlineContrastiveLoss.__init__": {"distance_metric"},
    "TripletLoss.__init__": {"distance_metric"},
}


def is_loss_forward(name: str) -> bool:
    """The forward of a loss; MegaBatchMarginLoss there has one for each instance."""
    return "Loss" in name and name.endswith(".forward") and "labels" in inspect.signature(CALLABLES[name][1]).parameters


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_arguments(name: str) -> None:
    ours, theirs = CALLABLES[name]
    without = {*DIFFERENCES.get(name, ())} | SAME_NAMES.get(name, set())
    if is_loss_forward(name):
        without.add("labels")  # UNLABELLED
    assert arguments(ours, without) == arguments(theirs, without)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_arguments_that_are_handed_on(name: str) -> None:
    module, function = ELSEWHERE[name].split(":")
    theirs = callables()[name][1]
    ours = getattr(importlib.import_module(module), function)
    old = {"checkpoint_save_total_limit", "checkpoint_save_steps", "checkpoint_path", "resume_from_checkpoint"}
    names = [[n for n in inspect.signature(one).parameters][1:] for one in (ours, theirs)]
    assert [n for n in names[0] if n not in old] == [n for n in names[1] if n not in old]


@pytest.mark.parametrize("name", sorted(filter(is_loss_forward, CALLABLES)))
def test_labels_of_losses(name: str) -> None:
    ours, theirs = (inspect.signature(function).parameters["labels"] for function in CALLABLES[name])
    assert ours.kind == theirs.kind
    assert ours.default is None, UNLABELLED


@pytest.mark.parametrize("name", sorted(DIFFERENCES))
def test_what_is_listed_differs(name: str) -> None:
    ours, theirs = (dict((n, rest) for n, *rest in arguments(f, set())) for f in CALLABLES[name])
    for argument, reason in DIFFERENCES[name].items():
        assert ours.get(argument) != theirs.get(argument), f"{argument}: {reason}"
        if reason is EXTENSION:
            assert argument not in theirs
            assert ours[argument][0] == "KEYWORD_ONLY"


@pytest.mark.parametrize("path", PATHS)
def test_names(path: str) -> None:
    theirs = their_module(path)
    unknown = {name for name in our_module(path).__all__ if not hasattr(theirs, name)}
    assert unknown == OURS_ALONE.get(path, set())


@pytest.mark.parametrize("name", ["BatchSamplers", "MultiDatasetBatchSamplers"])
def test_samplers_have_the_same_values(name: str) -> None:
    ours, theirs = (getattr(module("training_args"), name) for module in (our_module, their_module))
    assert {member.name: member.value for member in ours} == {member.name: member.value for member in theirs}


def test_similarities_have_the_same_values() -> None:
    import omnitune

    theirs = {member.name: member.value for member in their_module("").SimilarityFunction}
    ours = {member.name: member.value for member in omnitune.SimilarityFunction}
    assert ours == theirs


def test_a_loss_takes_the_same_options_and_tells_them() -> None:
    from sentence_transformers.sentence_transformer import losses as theirs

    from omnitune import losses as ours

    model = nn.Sequential(nn.Linear(2, 2))
    for name in ("CachedMultipleNegativesRankingLoss", "MultipleNegativesRankingLoss", "CoSENTLoss", "MarginMSELoss"):
        mine, reference = (getattr(library, name)(model).get_config_dict() for library in (ours, theirs))
        assert mine == reference, name
        assert getattr(ours, name)(model).citation
