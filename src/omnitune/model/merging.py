"""One model out of several with equal modules: the weighted mean of their weights, or a point on the arc of two."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.model.base import Model

METHODS = {"linear": ("weight", "normalize"), "slerp": ("t",)}
"""Methods and their parameters."""

PARALLEL = 0.9995
"""Cosine of two tensors from which on the sphere between them is taken for a line."""


@torch.no_grad()
def merge(
    cls: type[Model],
    models: Sequence[str | Path | Model],
    method: str = "linear",
    *,
    base_model: str | Path | Model | None = None,
    parameters: Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = torch.float32,
    out_dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    batch_options: Any = None,
    **load_kwargs: Any,
) -> Model:
    """A new model whose weights are made of those of several; they are left as they are.

    Args:
        cls: The models' class.
        models: Two or more, or folders or repositories of such; exactly two for "slerp".
        method: "linear", the weighted mean; or "slerp", a point on the arc between two.
        base_model: For "slerp" the model that `t=0` gives, one of the two; the first by default.
        parameters: Of "linear": `weight`, one number or one a model (1), and `normalize`, to scale the weights so that
            they add up to 1 (True). Of "slerp": `t` in [0, 1] (0.5).
        dtype: What floating-point weights are merged in; None keeps that of each.
        out_dtype: What the result has; None keeps what it was merged in.
        device: Where to merge, and where the result is.
        batch_options: Not used.
        **load_kwargs: For models that are loaded.

    Returns:
        A model in evaluation mode, with the first one's configuration and prompts and a card of its own.

    Raises:
        InputError: Fewer than two models, another class, another method or parameter, or an adapter on one of them.
        ShapeError: Modules, weights, configurations or vocabularies differ.

    Source:
        Wortsman et al. 2022 (arXiv:2203.05482) for the mean; Shoemake 1985, sec. 3.3, for the arc.

    Example:
        >>> merged = SentenceTransformer.merge(["run-a", "run-b"], parameters={"weight": [0.6, 0.4]})
    """
    del batch_options
    if isinstance(models, str | Path) or len(models) < 2:
        raise InputError("models: expected at least two, got one")
    if method not in METHODS:
        raise InputError(
            f"method: expected one of {sorted(METHODS)}, got {method!r}; mergekit has others for saved checkpoints"
        )
    options = dict(parameters or {})
    if unknown := sorted(set(options) - set(METHODS[method])):
        raise InputError(f"parameters: expected {METHODS[method]} for {method!r}, got {unknown}")
    loaded = [cls(str(m), device=str(device), **load_kwargs) if isinstance(m, str | Path) else m for m in models]
    for place, model in enumerate(loaded):
        _check(loaded[0], model, place, cls)
    states = [{name: t.detach().to(device) for name, t in model.state_dict().items()} for model in loaded]
    shares = _shares(method, options, len(loaded))
    if method == "slerp" and base_model is not None:
        first = next((i for i, m in enumerate(models) if m is base_model or m == base_model), None)
        if first is None:
            raise InputError("base_model: expected one of the two models for 'slerp', got another")
        states = [states[first], states[1 - first]]
    elif base_model is not None:
        raise InputError(f"base_model: expected None for {method!r}, which has no base, got one")
    merged = copy.deepcopy(loaded[0]).to(device)
    for name, target in merged.state_dict().items():
        parts = [state[name] for state in states]
        if not target.is_floating_point():
            continue  # counters and the like: the first model's
        kind = _dtype(dtype) or target.dtype
        if method == "slerp":
            made = _arc(parts[0].to(kind), parts[1].to(kind), shares[0])
        else:
            made = torch.stack([part.to(kind) * share for part, share in zip(parts, shares, strict=True)]).sum(dim=0)
        # Where a name of the state points; tied weights share it.
        owner, _, leaf = name.rpartition(".")
        found = getattr(merged.get_submodule(owner), leaf)
        found.data = made.to(_dtype(out_dtype) or made.dtype)
    merged.model_card_data = type(merged.model_card_data)()
    return merged.eval()


def _shares(method: str, options: Mapping[str, Any], count: int) -> list[float]:
    """`t`, or the weight of each model."""
    if method == "slerp":
        if count != 2:
            raise InputError(f"models: expected two for 'slerp', got {count}")
        t = float(options.get("t", 0.5))
        if not 0 <= t <= 1:
            raise InputError(f"parameters: expected t in [0, 1], got {t}")
        return [t]
    weight = options.get("weight", 1.0)
    weights = [float(w) for w in (weight if isinstance(weight, Sequence) else [weight] * count)]
    if len(weights) != count:
        raise InputError(f"parameters: expected a weight for each of {count} models, got {len(weights)}")
    if not options.get("normalize", True):
        return weights
    if not sum(weights):
        raise InputError(f"parameters: expected weights that do not add up to 0, got {weights}")
    return [w / sum(weights) for w in weights]


def _arc(start: Tensor, end: Tensor, t: float) -> Tensor:
    """The point at `t` on the arc from one tensor to another, both taken as one vector."""
    one, two = (part / part.norm().clamp(min=1e-8) for part in (start.flatten().double(), end.flatten().double()))
    cosine = float((one @ two).clamp(-1, 1))
    if abs(cosine) > PARALLEL:
        return torch.lerp(start, end, t)
    angle = torch.acos(torch.tensor(cosine, dtype=torch.float64))
    shares = [float(torch.sin(part * angle) / torch.sin(angle)) for part in (1 - t, t)]
    return shares[0] * start + shares[1] * end


def _dtype(given: str | torch.dtype | None) -> torch.dtype | None:
    found = getattr(torch, given, given) if isinstance(given, str) else given
    if found is not None and not isinstance(found, torch.dtype):
        raise InputError(f"dtype: expected a torch dtype or its name, got {given!r}")
    return found


def _check(first: Model, other: Any, place: int, cls: type[Model]) -> None:
    """See that a model has the modules, settings, weights and vocabulary of the first.

    Raises:
        InputError: It is of another class, or has an adapter.
        ShapeError: They differ.
    """
    if not isinstance(other, cls):
        raise InputError(f"models[{place}]: expected a {cls.__name__} or a path, got {type(other).__name__}")
    if any(getattr(module, "peft_config", None) for module in other.modules()):
        raise InputError(f"models[{place}]: expected no adapter, got one; call merge_adapter() first")
    names = [name for name, _ in first.named_modules()]
    if names != [name for name, _ in other.named_modules()]:
        raise ShapeError(f"models[{place}]: expected the modules of models[0], got others")
    for (name, one), (_, two) in zip(first.named_children(), other.named_children(), strict=True):
        settings: list[Any] = [getattr(module, "get_config_dict", dict)() for module in (one, two)]
        if type(one) is not type(two) or settings[0] != settings[1]:
            raise ShapeError(f"models[{place}]: expected module {name!r} to be as in models[0], got {two}")
    shapes = [{name: t.shape for name, t in model.state_dict().items()} for model in (first, other)]
    if shapes[0] != shapes[1]:
        raise ShapeError(f"models[{place}]: expected the weights of models[0] by name and shape, got others")
    words: list[Any] = [getattr(getattr(model, "tokenizer", None), "get_vocab", dict)() for model in (first, other)]
    if words[0] != words[1]:
        raise ShapeError(f"models[{place}]: expected the vocabulary of models[0], got another")
