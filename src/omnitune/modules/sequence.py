"""The way of inputs through a sequence of modules, a model's or a route's: readers read, then features are made."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from omnitune.errors import InputError, ModalityError
from omnitune.inputs.cost import AudioRule, CostRule, ImageRule, VideoRule
from omnitune.inputs.load import load
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import AS_IT_IS, Sampling
from omnitune.modules.base import OLD_METHODS, InputModule, Reader, ask_foreign, loaded_modality
from omnitune.types import Features, Modality

DIMENSION = ("get_embedding_dimension", *OLD_METHODS)
"""Names of the method by which a module says its dimensions, today's first."""

UNREAD = 512
"""Tokens that media are taken to become when they are read, where texts are not cut."""


def last_dimension(modules: Sequence[nn.Module]) -> int | None:
    """Dimensions of the vectors that modules in order give: those of the last one that says, or None."""
    for module in reversed(modules):
        # Today's name first: a module of ours answers to the older ones too, with a warning.
        say = next((each for name in DIMENSION if callable(each := getattr(module, name, None))), None)
        dim = None if say is None else say()
        if dim is not None:
            return int(dim)
    return None


def preprocess_through(
    modules: Sequence[nn.Module],
    inputs: Sequence[Any],
    prompt: str | None = None,
    *,
    modality: Modality | None = None,
    **kwargs: Any,
) -> Features:
    """Features of `inputs`: leading readers read what they can, then the first other input module preprocesses.

    Args:
        modules: A model's or a route's modules, in order.
        inputs: Loaded items.
        prompt: Text put before every item.
        modality: What the items are; None where they differ or it is not known.
        **kwargs: Passed on to the input module, such as `task`.

    Raises:
        InputError: There is no input module after the readers.
        ModalityError: The input module does not take such items.
    """
    for module in modules:
        if isinstance(module, Reader):
            inputs, modality = _read(module, inputs, modality)
        elif isinstance(module, InputModule):
            return ask_foreign(module.preprocess, inputs, prompt, modality=modality, **kwargs)
        else:  # of foreign code, which knows no modality; from before version 5.4 it tokenizes
            made = (getattr(module, name, None) for name in ("preprocess", "tokenize"))
            method: Any = next(filter(callable, made), None)
            if method is None:
                raise InputError(
                    "modules: expected an input module (such as Transformer) first or after readers, got "
                    f"{type(module).__name__}"
                )
            return ask_foreign(method, inputs, prompt, **kwargs)
    raise InputError(f"modules: expected an input module after the readers {[type(m).__name__ for m in modules]}")


def _read(reader: Reader, inputs: Sequence[Any], modality: Modality | None) -> tuple[list[Any], Modality | None]:
    if modality is not None:
        if modality not in reader.reads:
            return list(inputs), modality
        return reader.read(inputs), reader.reads[modality]
    kinds = [loaded_modality(item) for item in inputs]
    chosen = [i for i, kind in enumerate(kinds) if kind in reader.reads]
    items = list(inputs)
    for i, item in zip(chosen, reader.read([inputs[i] for i in chosen]) if chosen else [], strict=True):
        items[i] = item
    made = {reader.reads.get(kind, kind) for kind in kinds}
    return items, made.pop() if len(made) == 1 else None


def check_becomes_text(modules: Sequence[nn.Module], sides: Sequence[Modality]) -> None:
    """See that both sides of a pair are text, or become it in the leading readers.

    Of a backbone with two towers each takes one side, so it has no pairs but those of texts.

    Raises:
        ModalityError: A side does not.
    """
    readers = itertools.takewhile(lambda module: isinstance(module, Reader), modules)
    made = [kind for module in readers for kind, becomes in cast(Reader, module).reads.items() if becomes == "text"]
    foreign = [side for side in sides if side not in ("text", *made)]
    if foreign:
        raise ModalityError(
            f"inputs: this model takes pairs of {', '.join(map(str, ['text', *made]))}; "
            f"got {', '.join(map(str, foreign))}. In pairs, such media are read by a backbone whose chat template "
            "takes them (Qwen3-VL, Qwen2.5-Omni), or by a reader before the backbone (TextReader, AudioReader)"
        )


def read_pairs(modules: Sequence[nn.Module], pairs: Sequence[Any]) -> list[tuple[str, str]]:
    """Pairs of texts out of loaded pairs, whose media the leading readers turn into text.

    Args:
        modules: A model's modules, in order.
        pairs: Pairs of texts, or conversations of a query and a document.

    Raises:
        ModalityError: No reader makes text of a part.
    """
    sides: list[Any] = []
    for pair in pairs:
        messages = [message["content"] for message in pair] if isinstance(pair, list) else [[side] for side in pair]
        sides += [part[part["type"]] if isinstance(part, dict) else part for content in messages for part in content]
    for module in itertools.takewhile(lambda module: isinstance(module, Reader), modules):
        sides, _ = _read(cast(Reader, module), sides, None)
    foreign = sorted({type(side).__name__ for side in sides if not isinstance(side, str)})
    if foreign or len(sides) != 2 * len(pairs):
        found = foreign or "several parts on a side"
        raise ModalityError(f"inputs: this model takes pairs of texts, got pairs with {found}")
    return list(zip(sides[::2], sides[1::2], strict=True))


def load_through(
    modules: Sequence[nn.Module], item: Any, modality: Modality, policy: MediaPolicy, **kwargs: Any
) -> Any:
    """A raw item in the form that `preprocess_through` takes: media decoded, at the modules' rate and frames.

    Args:
        modules: A model's or a route's modules, in order.
        item: Any accepted form.
        modality: What it is.
        policy: Limits on media.
        **kwargs: As for `preprocess_through`; `task` and `processing_kwargs` decide.

    Raises:
        MediaError: It cannot be read; the message names it.
    """
    if modality == "text":
        return load(item, modality, policy)
    asked = {key: kwargs[key] for key in ("task", "processing_kwargs") if key in kwargs}
    return load(item, modality, policy, sampling_through(modules, modality, **asked))


def sampling_through(modules: Sequence[nn.Module], modality: Modality, **kwargs: Any) -> Sampling:
    """Sampling of audio and video, as the reader wants it that reads them, or else the input module.

    Args:
        modules: A model's or a route's modules, in order.
        modality: What the inputs are.
        **kwargs: `task`, `processing_kwargs`.
    """
    for module in modules:
        if isinstance(module, Reader) and modality not in module.reads:
            continue
        return module.sampling(modality, **kwargs) if isinstance(module, InputModule) else AS_IT_IS
    return AS_IT_IS


def modalities_through(modules: Sequence[nn.Module]) -> list[Modality]:
    """Modalities that `preprocess_through` takes: the first input module's, and those that readers turn into them."""
    offered: list[Modality] = ["text"]
    readers: list[Reader] = []
    for module in modules:
        if isinstance(module, Reader):
            readers.append(module)
            continue
        offered = list(getattr(module, "modalities", offered))
        break
    for reader in reversed(readers):
        offered += [kind for kind, made in reader.reads.items() if made in offered and kind not in offered]
    return offered


def route_cost_rule(modules: Sequence[nn.Module]) -> CostRule:
    """Rule for the cost of the items that `preprocess_through` takes.

    What a reader reads costs as much as the longest text: how long it is is not known before it is read.
    """
    found = getattr(first_input_module(modules), "cost_rule", None)
    rule = found if isinstance(found, CostRule) else CostRule()
    rules: dict[str, Any] = {"image": ImageRule, "audio": AudioRule, "video": VideoRule}
    read = {str(kind) for module in modules if isinstance(module, Reader) for kind in module.reads}
    return replace(rule, **{kind: rules[kind](tokens=rule.max_tokens or UNREAD) for kind in read & rules.keys()})


def first_input_module(modules: Sequence[nn.Module]) -> nn.Module:
    """The module whose `preprocess` makes the features: the first that is not a reader."""
    return next((module for module in modules if not isinstance(module, Reader)), modules[0])
