"""The six ways in which a late-interaction model lies on a disk, read as one sequence of modules.

| what lies there | how it is told | what becomes of it |
|---|---|---|
| its own format | `model_type` MultiVectorEncoder | as it says |
| PyLate up to 3 | `model_type` ColBERT | its Transformer and Dense; a mask with its skiplist and Normalize are added |
| Stanford ColBERT | `architectures` HF_ColBERT | `linear.weight` becomes a Dense; settings of `artifact.metadata` |
| transformers' retrievers | `architectures` end in ForRetrieval | the whole of it, and a mask |
| a SentenceTransformer | `model_type` | without its pooling; its Dense works on tokens, or a new one is added |
| a bare backbone | otherwise | with a new Dense |

Source: the formats as PyLate 1.6, ColBERT 0.2 and Sentence Transformers 6.2 write and read them.
"""

import logging
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from torch import nn

from omnitune.errors import CheckpointError
from omnitune.model import checkpoint
from omnitune.model.checkpoint import Checkpoint, LoadOptions
from omnitune.model.family import MULTI_VECTOR
from omnitune.modules import files
from omnitune.modules.backbones import EMBEDDING, TOKENS
from omnitune.modules.dense import Dense
from omnitune.modules.multi_vector_mask import MultiVectorMask
from omnitune.modules.normalize import Normalize
from omnitune.modules.pooling import Pooling
from omnitune.modules.transformer import Transformer

logger = logging.getLogger(__name__)

PYLATE = "ColBERT"
STANFORD = "HF_ColBERT"
RETRIEVER = "ForRetrieval"

NEW_DIMENSION = 128
"""Dimensions of a projection that is made anew."""

EXPANDED_QUERY = 32
"""Tokens of a query in ColBERT, where a checkpoint does not say."""

_PREFIXES = {"query_prefix": "query", "document_prefix": "document"}
_MARKERS = (
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "skiplist_words",
    *_PREFIXES,
)
"""Top-level keys that only PyLate writes."""


@dataclass(slots=True)
class _Settings:
    """Settings of a foreign format for queries, documents and the mask.

    Attributes:
        lengths: Attributes of the Transformer.
        expansion: Of queries; None for none, and "unsaid" where nothing is said.
        skiplist: Words that are not scored, or None where nothing is said.
        prefixes: Marker tokens, by prompt.
    """

    lengths: dict[str, int] = field(default_factory=dict)
    expansion: dict[str, Any] | str | None = "unsaid"
    skiplist: list[str] | None = None
    prefixes: dict[str, str] = field(default_factory=dict)


def load(path_or_id: str, options: LoadOptions) -> Checkpoint:
    """Read a late-interaction model in any of the six forms.

    Args:
        path_or_id: A directory, or a repository of the hub.
        options: How to reach and load it.

    Raises:
        CheckpointError: There is nothing to load, or a SentenceTransformer has no Transformer.
    """
    folder = files.resolve(path_or_id, options.hub)
    config = files.read_json(folder / checkpoint.CONFIG)
    checkpoint.check_requirements(config.get("requirements") or {}, folder)
    architectures = [str(name) for name in files.read_json(folder / "config.json").get("architectures") or []]
    kind = config.get("model_type", checkpoint.UNNAMED_FAMILY if (folder / checkpoint.MODULES).is_file() else None)
    if not (folder / checkpoint.MODULES).is_file() or kind not in (
        MULTI_VECTOR.name,
        PYLATE,
        checkpoint.UNNAMED_FAMILY,
    ):
        if any(name.endswith(RETRIEVER) for name in architectures):
            found = checkpoint.bare_transformer(path_or_id, options, "retrieval")
            return Checkpoint(modules=_named([found, MultiVectorMask()]), forward_kwargs={}, config=config)
        settings = _stanford(folder) if STANFORD in architectures else _pylate(config)
        backbone = checkpoint.bare_transformer(path_or_id, options)
        projection = _stanford_projection(folder) if STANFORD in architectures else _new_projection(backbone)
        modules: list[nn.Module] = [backbone, projection, MultiVectorMask(settings.skiplist), Normalize(TOKENS)]
        return _settled(
            modules, {}, _with_prompts(config, settings) if kind in (None, MULTI_VECTOR.name) else {}, settings
        )
    loaded = checkpoint.load_modules(path_or_id, folder, options)
    settings = _pylate(config)
    modules = list(loaded.modules.values())
    if kind == checkpoint.UNNAMED_FAMILY:
        modules = _on_tokens(modules, folder, settings)
        config = {key: value for key, value in config.items() if key != "similarity_fn_name"}
        return _settled(modules, {}, _with_prompts(config, settings), settings)
    # Projections that do not say what they read, as PyLate's, read token vectors.
    entries = files.read_list(folder / checkpoint.MODULES)
    for entry, module in zip(entries, modules, strict=True):
        if isinstance(module, Dense):
            saved = files.read_json(folder / str(entry["path"]) / "config.json")
            if "module_input_name" not in saved:
                module.module_input_name = module.module_output_name = TOKENS
    if kind == PYLATE:
        words = list(string.punctuation) if settings.skiplist is None else settings.skiplist
        modules += [MultiVectorMask(words), Normalize(TOKENS)]
    return _settled(modules, loaded.forward_kwargs, _with_prompts(config, settings), settings)


def token_level(modules: list[nn.Module]) -> list[nn.Module]:
    """A dense encoder's modules as a late-interaction model without a new weight: its token vectors, at unit length.

    Args:
        modules: Of a `SentenceTransformer`; its pooling and what comes after it, projections aside, is left out.
    """
    return [*_without_pooling(modules), MultiVectorMask(), Normalize(TOKENS)]


def _without_pooling(modules: list[nn.Module]) -> list[nn.Module]:
    kept = [
        module
        for module in modules
        if not isinstance(module, Pooling)
        and not (isinstance(module, Normalize) and module.module_input_name == EMBEDDING)
    ]
    for module in kept:
        if isinstance(module, Dense) and module.module_input_name == EMBEDDING:
            module.module_input_name = module.module_output_name = TOKENS
    return kept


def _on_tokens(modules: list[nn.Module], folder: Path, settings: _Settings) -> list[nn.Module]:
    """A SentenceTransformer's modules, and a projection where it has none.

    Raises:
        CheckpointError: It has no Transformer.
    """
    kept = _without_pooling(modules)
    backbone = next((module for module in kept if isinstance(module, Transformer)), None)
    if backbone is None:
        raise CheckpointError(f"{folder}: expected a Transformer, whose token vectors are compared, got none")
    if not any(isinstance(module, Dense) for module in kept):
        kept.append(_new_projection(backbone))
    words = list(string.punctuation) if settings.skiplist is None and settings.prefixes else settings.skiplist
    return [*kept, MultiVectorMask(words), Normalize(TOKENS)]


def _new_projection(backbone: Transformer) -> Dense:
    hidden = backbone.get_embedding_dimension()
    logger.warning(
        "a new projection of %d to %d dimensions was made, with random weights: train it before use, or take the token "
        "vectors of a dense encoder as they are (MultiVectorEncoder.from_dense).", hidden, NEW_DIMENSION,
    )  # fmt: skip
    return Dense(hidden, NEW_DIMENSION, bias=False, activation_function=None, module_input_name=TOKENS)


# -- PyLate


def _pylate(config: Mapping[str, Any]) -> _Settings:
    settings = _Settings(skiplist=config.get("skiplist_words"))
    settings.prefixes = {prompt: config[key] or "" for key, prompt in _PREFIXES.items() if key in config}
    for key in ("query_length", "document_length"):
        if config.get(key) is not None:
            settings.lengths[key] = int(config[key])
    if "query_expansion" in config:
        settings.expansion = config["query_expansion"]
    elif any(key in config for key in _MARKERS):
        if config.get("do_query_expansion") is False:
            settings.expansion = None
        else:
            attend = config.get("attend_to_expansion_tokens", config.get("attend_to_mask_tokens"))
            length = settings.lengths.pop("query_length", EXPANDED_QUERY)
            settings.expansion = {"strategy": "fixed", "attend": bool(attend), "length": length}
    return settings


def _with_prompts(config: Mapping[str, Any], settings: _Settings) -> dict[str, Any]:
    """The configuration with marker tokens in front of the prompts that it saved."""
    prompts = dict(config.get("prompts") or {})
    for name, prefix in settings.prefixes.items():
        prompts[name] = prefix + (prompts.get(name) or "").removeprefix(prefix)
    return {**config, "prompts": prompts}


# -- Stanford ColBERT


def _stanford(folder: Path) -> _Settings:
    path = folder / "artifact.metadata"
    if not path.is_file():
        logger.warning("%s: no artifact.metadata, so ColBERT's usual markers and lengths are taken.", folder)
    said = files.read_json(path)
    return _Settings(
        lengths={} if said.get("doc_maxlen") is None else {"document_length": int(said["doc_maxlen"])},
        expansion={
            "strategy": "fixed",
            "attend": bool(said.get("attend_to_mask_tokens")),
            "length": said.get("query_maxlen") or EXPANDED_QUERY,
        },
        skiplist=list(string.punctuation) if said.get("mask_punctuation", True) else [],
        prefixes={
            "query": (said.get("query_token_id") or "[unused0]") + " ",
            "document": (said.get("doc_token_id") or "[unused1]") + " ",
        },
    )


def _stanford_projection(folder: Path) -> Dense:
    """The projection that lies beside the backbone's weights.

    Raises:
        CheckpointError: It is not there.
    """
    weight = files.read_tensors(folder).get("linear.weight")
    if weight is None:
        raise CheckpointError(f"{folder / files.WEIGHTS}: expected ColBERT's projection as 'linear.weight', got none")
    out, hidden = weight.shape
    return Dense(hidden, out, bias=False, activation_function=None, init_weight=weight, module_input_name=TOKENS)


# -- what all have


def _settled(
    modules: list[nn.Module], forward_kwargs: dict[str, list[str]], config: dict[str, Any], settings: _Settings
) -> Checkpoint:
    backbone = next((module for module in modules if isinstance(module, Transformer)), None)
    if backbone is not None:
        for name, value in settings.lengths.items():
            setattr(backbone, name, value)
        if settings.expansion != "unsaid" and not isinstance(settings.expansion, str):
            backbone.expand_queries(settings.expansion)
        _register(backbone.tokenizer, settings.prefixes)
    return Checkpoint(modules=_named(modules), forward_kwargs=forward_kwargs, config=config)


def _register(tokenizer: Any, prefixes: Mapping[str, str]) -> None:
    """Let markers that the tokenizer has, but would take apart in a text, be one token there.

    They were put in by their number in training: `[unused0]` as text is four pieces, "[Q] " on a tokenizer that lowers
    case is not found. A marker that is no token stays text, and no weight is added.
    """
    if tokenizer is None:
        return
    known = {*tokenizer.get_vocab(), *(getattr(tokenizer, "added_tokens_encoder", None) or {})}
    whole = []
    for prefix in prefixes.values():
        marker = (
            next((m for m in (prefix, prefix.split(maxsplit=1)[0]) if m in known), None) if prefix.split() else None
        )
        if marker is not None and tokenizer.tokenize(marker) != [marker]:
            whole.append(AddedToken(marker, normalized=False, special=True))
    if whole:
        tokenizer.add_special_tokens({"additional_special_tokens": whole})


def _named(modules: list[nn.Module]) -> dict[str, nn.Module]:
    return {str(number): module for number, module in enumerate(modules)}
