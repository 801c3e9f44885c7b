"""Write the graphs of a model: every module from the backbone to the last, so that a graph gives what the model gives.

A graph takes the processor's tensors and returns the family's output: `sentence_embedding` after pooling, dense layers,
normalisation and truncation; of a reranker `logits`, and `score` after the activation function; of late interaction
`token_embeddings` and the mask of those that count. Tracing comes first: it takes a second where `torch.export` takes a
minute. What tracing cannot follow, `torch.export` tries; what neither can is refused in one sentence.
"""

import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from omnitune import folders, io, runtime
from omnitune.errors import InputError, ResourceError
from omnitune.inputs.pixels import in_floats
from omnitune.model.base import Model
from omnitune.model.graph import FACTS, FORMAT, lane_of, weights_of
from omnitune.modules import registry
from omnitune.modules.base import Reader
from omnitune.modules.pooling import Pooling
from omnitune.modules.query_expansion import POSITIONS
from omnitune.modules.router import Router
from omnitune.modules.transformer import Transformer
from omnitune.types import Features

logger = logging.getLogger(__name__)

Runtime = Literal["onnx", "openvino"]
OPSET = 17
INT8 = "_int8.onnx"
"""Ending of the name of a graph with weights in 8 bits."""

_TEXTS = ("a short text", "a text that is longer than the other one, so that the shorter of them is padded")
_QUESTION = "how long is the text?"
"""With texts of two lengths, so that neither rows nor tokens are taken for a constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One graph to write.

    Attributes:
        names: What it computes, as `lane_of` names it; several where routes share their modules.
        features: Example inputs of two rows.
        inputs: Names of the tensors among them that the graph takes.
        outputs: Name of each output, and the feature that it is.
    """

    names: list[str]
    features: Features
    inputs: list[str]
    outputs: dict[str, str]


def export(model: Model, folder: str | Path, to: Runtime = "onnx", *, int8: bool = False) -> Path:
    """Write the graphs of a model into the folder of its checkpoint.

    Args:
        model: In torch, on the CPU.
        folder: Of the checkpoint, such as `model.save_pretrained` wrote.
        to: "onnx", or "openvino" for its own format.
        int8: Write `model_int8.onnx` as well: the weights of matrix products in 8 bits.

    Returns:
        The folder of the graphs.

    Raises:
        InputError: The model takes inputs, or has modules, that no graph is made of.
        MissingExtraError: A package is not installed.
        ResourceError: The disk is full.

    Example:
        >>> export(SentenceTransformer("run/model", device="cpu"), "run/model")
        PosixPath('run/model/onnx')
    """
    onnx = runtime.require("onnx", extra="onnx")
    runtime.require("onnxruntime" if to == "onnx" else "openvino", extra=to)
    if model.graph is not None:
        raise InputError("model: expected one in torch, got a graph; load it with backend='torch'")
    if int8 and to != "onnx":
        raise InputError("int8: expected False for openvino; export it to onnx, which OpenVINO reads as well")
    lanes = lanes_of(model)
    place = Path(folder) / to
    graphs: dict[str, Any] = {}
    with io.full_disk_named(place), folders.replacing_folder(place, gone=_former(place)) as fresh:
        for lane in lanes:
            # As other programs name it: `model`, or `text_model` and `vision_model` of two towers.
            *scope, kind = lane.names[0].split("/")
            towers = len({one.names[0].rpartition("/")[2] for one in lanes}) > 1
            stem = "vision_model" if kind == "image" else "text_model" if towers else "model"
            path = fresh / (f"{scope[0]}_{stem}.onnx" if scope and len(lanes) > 1 else f"{stem}.onnx")
            _write(model, lane, path)
            onnx.checker.check_model(str(path))
            small = path.with_name(path.name.replace(".onnx", INT8))
            if int8:
                _quantize(path, small)
            if to == "openvino":
                openvino = runtime.require("openvino", extra="openvino")
                target = path.with_name(("openvino_" + path.name).replace(".onnx", ".xml"))
                # `read_model` and not `convert_model`, which reports to its makers over the network.
                openvino.save_model(openvino.Core().read_model(str(path)), str(target), compress_to_fp16=False)
                if not target.with_suffix(".bin").is_file():
                    raise ResourceError(f"{target}: expected OpenVINO to write its weights, found none")
                path.unlink()
                path = target
            entry = {"file": path.name, "inputs": lane.inputs, "outputs": lane.outputs}
            entry |= {"int8": small.name} if int8 else {}
            graphs.update(dict.fromkeys(lane.names, entry))
        io.write_json(fresh / FACTS, {**_facts(model, graphs), "weights": weights_of(Path(folder))})
    return place


def _former(place: Path) -> Callable[[Path, set[Path]], bool]:
    """Tell the files of an earlier export from graphs that somebody else keeps in the same folder."""
    facts = io.read_json_or_none(place / FACTS)
    graphs = facts.get("graphs") if isinstance(facts, dict) else None
    entries = [one for one in graphs.values() if isinstance(one, dict)] if isinstance(graphs, dict) else []
    stems = {str(one[name]).rpartition(".")[0] for one in entries for name in ("file", "int8") if one.get(name)}
    verdict = re.compile(r"check(_\w+)?\.json")
    return lambda path, _: path.name.partition(".")[0] in stems or verdict.fullmatch(path.name) is not None


def _facts(model: Model, graphs: dict[str, Any]) -> dict[str, Any]:
    """Collect the facts that a program without torch needs."""
    dims = getattr(model, "get_embedding_dimension", lambda: None)()
    return {
        "format": FORMAT,
        "family": model.family.name,
        "modules": modules_in(model),
        "graphs": graphs,
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "max_seq_length": model.token_limit,
        "dimensions": dims,
        "similarity": getattr(model, "similarity_fn_name", None),
    }


def modules_in(model: Model) -> list[str]:
    """Names of the classes of a model's modules, those of routes among them, in order."""
    names: list[str] = []
    for module in model.children():
        names.append(registry.type_of(module).rpartition(".")[2])
        if isinstance(module, Router):
            names += [type(part).__name__ for route in module.sub_modules.values() for part in route.children()]
    return names


# --- lanes ------------------------------------------------------------------------------------------------------------


def lanes_of(model: Model) -> list[Lane]:
    """The graphs that a model needs, each with example inputs.

    Raises:
        InputError: It takes media through a language model, whose grids the exporter makes constants of; or it takes
            nothing that a graph can be made of.
    """
    first = next(model.children())
    routes = dict(first.sub_modules.items()) if isinstance(first, Router) else {"": model}
    made: dict[tuple[Any, ...], Lane] = {}
    refused: list[str] = []
    for route, modules in routes.items():
        parts = [part for part in modules.children() if not isinstance(part, Reader)]
        read = len(parts) < len(list(modules.children()))
        backbone = parts[0]
        kinds = ["text"] if read or not isinstance(backbone, Transformer) else list(backbone.modality_config)
        if isinstance(backbone, Transformer) and "message" in kinds:
            if set(kinds) - {"text", "message"}:
                raise InputError(
                    f"model: expected a text encoder, a reranker or a pair of towers, got "
                    f"{type(backbone.model).__name__}, which reads media as tokens of a conversation: the exporter "
                    "would fix the size of every picture; serve it with `omnitune serve`"
                )
            kinds = ["message"] if model.family.arity == 2 else ["text" if "text" in kinds else "message"]
        tasks: list[str | None] = [None]
        if any("task" in getattr(module, "forward_kwargs", ()) for module in model.children() if module is not first):
            tasks = ["query", "document"]
        for kind in kinds:
            if kind not in ("text", "message", "image"):
                refused.append(str(kind))
                continue
            for task in tasks:
                key = (*map(id, parts), kind, task)
                features = _example(model, parts, kind, task)
                if route:
                    features["input_modality"], features["task"] = route, None
                name = (
                    "/".join(filter(None, [route, task, kind])) if route else lane_of(list(model.children()), features)
                )
                if key in made:
                    made[key].names.append(name)
                else:
                    made[key] = _lane(model, name, features)
    if not made:
        raise InputError(f"model: expected one that takes texts or images, got one for {', '.join(refused)}")
    if refused:
        logger.warning("%s: left out, because graphs are made for texts and images.", ", ".join(refused))
    return list(made.values())


def _example(model: Model, parts: Sequence[nn.Module], kind: str, task: str | None) -> Features:
    items: list[Any] = list(_TEXTS)
    if kind == "image":
        items = [Image.new("RGB", (96, 64), "white"), Image.new("RGB", (64, 96), "gray")]
    if model.family.arity == 2:
        items = [(_QUESTION, text) for text in _TEXTS]
        return model.preprocess(items)
    features: Features = parts[0].preprocess(items, modality=kind, task=task)  # type: ignore[operator]
    features.setdefault("modality", kind)
    if task is not None:
        features["task"] = task
    return in_floats(features)


def _lane(model: Model, name: str, features: Features) -> Lane:
    """Find out which features the modules read and which they write, by one forward."""
    poolings = [module for module in model.modules() if isinstance(module, Pooling)]
    if "input_ids" in features and any(not module.include_prompt for module in poolings):
        features["prompt_length"] = torch.zeros(1, dtype=torch.int64)
    inputs = [key for key, value in features.items() if isinstance(value, Tensor)]
    inputs = [key for key in inputs if key not in ("special_tokens_mask", "offset_mapping")]
    if model.family.name == "CrossEncoder":
        outputs = {"logits": "scores", "score": "activated"}
    elif model.family.mask is not None:
        outputs = {"token_embeddings": "token_embeddings", "token_mask": model.family.mask}
    else:
        with torch.inference_mode(), model.engine.evaluating():
            written = model(dict(features))
        outputs = {"sentence_embedding": "sentence_embedding"}
        if "token_embeddings" in written and written["token_embeddings"].ndim == 3:
            outputs["token_embeddings"] = "token_embeddings"
    return Lane(names=[name], features=features, inputs=inputs, outputs=outputs)


# --- writing ----------------------------------------------------------------------------------------------------------


class _Whole(nn.Module):
    """A model as a function of tensors."""

    def __init__(self, model: Model, lane: Lane) -> None:
        super().__init__()
        self.model, self.lane = model, lane
        self.constants = {key: value for key, value in lane.features.items() if not isinstance(value, Tensor)}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The lane's outputs, in order."""
        model = self.model
        task = self.constants.get("task")
        features = {**dict(zip(self.lane.inputs, tensors, strict=True)), **self.constants}
        written = model(features, **({} if task is None else {"task": task}))
        if "sentence_embedding" in self.lane.outputs:
            written["sentence_embedding"] = written["sentence_embedding"][..., : getattr(model, "truncate_dim", None)]
        if "score" in self.lane.outputs:
            written["activated"] = model.activation_fn(written["scores"].float())  # type: ignore[operator]
        return tuple(written[key] for key in self.lane.outputs.values())


def _write(model: Model, lane: Lane, path: Path) -> None:
    """Trace one graph, or where tracing fails export it.

    Raises:
        InputError: Neither works.
    """
    whole = _Whole(model, lane)
    tensors = tuple(lane.features[name] for name in lane.inputs)
    names: dict[str, Any] = {"input_names": lane.inputs, "output_names": list(lane.outputs)}
    axes = {name: _axes(name, lane.features[name]) for name in lane.inputs}
    tracing = {name: {0: "rows", 1: "tokens"} for name in lane.outputs if name.startswith("token_")}
    rows = {name: {0: "rows"} for name in lane.outputs if not name.startswith("token_")}
    with torch.inference_mode(False), torch.no_grad(), model.engine.evaluating(), _whole_heads(model), _quiet():
        try:
            torch.onnx.export(
                whole, tensors, str(path), **names, dynamic_axes={**axes, **tracing, **rows}, opset_version=OPSET,
                dynamo=False,
            )  # fmt: skip
            return
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            first = error  # of torch's many kinds; torch.onnx.errors are RuntimeErrors
        try:
            sizes = {label: torch.export.Dim(label) for one in axes.values() for label in one.values()}
            shapes = tuple({axis: sizes[label] for axis, label in axes[name].items()} for name in lane.inputs)
            torch.onnx.export(
                whole, tensors, str(path), **names, dynamic_shapes={"tensors": shapes}, dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
            cause = str(first).strip().partition("\n")[0][:200]
            raise InputError(
                f"model: expected modules that torch.onnx can export, got {', '.join(modules_in(model))}: {cause}; "
                "serve it with `omnitune serve`"
            ) from error


@contextmanager
def _whole_heads(model: Model) -> Iterator[None]:
    """Let masked-language heads make their logits: a product in blocks has no form as a graph."""
    backbones = [module for module in model.modules() if getattr(module, "defers_head", False)]
    for backbone in backbones:
        backbone.defers_head = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for backbone in backbones:
            backbone.defers_head = True  # type: ignore[assignment]


def _axes(name: str, value: Tensor) -> dict[int, str]:
    if name in ("prompt_length",):
        return {}
    if name.startswith("pixel_values"):
        return {0: "rows"}
    if name in ("input_ids", "attention_mask", "token_type_ids", "position_ids", POSITIONS) and value.ndim == 2:
        return {0: "rows", 1: "tokens"}
    return {axis: f"{name}_{axis}" for axis in range(value.ndim)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings: what they fear, sizes taken for constants, the gate measures."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "root")]
    levels = [log.level for log in logs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for log in logs:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)


def _quantize(path: Path, target: Path) -> None:
    """Store the weights of matrix products in 8 bits; activations are scaled when the graph runs."""
    runtime.require("onnxruntime", extra="onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        # Weights alone: products of two activations, as in attention, stay in 32 bits.
        options = {"MatMulConstBOnly": True}
        quantize_dynamic(
            str(path), str(target), op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8,
            per_channel=True, extra_options=options,
        )  # fmt: skip


def copy_checkpoint(source: Path, target: Path) -> None:
    """Put the files of a checkpoint into another folder, where its graphs shall lie.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written to.
    """
    if os.path.realpath(source) != os.path.realpath(target):  # `resolve` raises on links that lead to themselves
        folders.writable_folder(target)
        with io.full_disk_named(target):
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("onnx", "openvino"))
