"""Graphs: what a checkpoint computes as ONNX or OpenVINO files, run in place of its modules.

A checkpoint's folder `onnx/` (or `openvino/`) holds the graphs and `omnitune.json`, which says which graph is for which
inputs (see `lane_of`). A graph that other programs exported has no such file: it is taken for the backbone alone, and
the modules after it run in torch.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from omnitune import folders, io, runtime
from omnitune.errors import CheckpointError, InputError
from omnitune.modules import files
from omnitune.modules.backbones import TOKENS
from omnitune.modules.loading import upstream
from omnitune.modules.router import Router
from omnitune.modules.tasks import SCORES
from omnitune.types import Features

FACTS = "omnitune.json"
FORMAT = 1
FILES = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
"""Name of the graph of texts, as other programs look for it in the folder of a backend."""

OPTIONS = ("file_name", "provider", "session_options", "export")
"""Entries of `model_kwargs` that are for a graph, under the names that Sentence Transformers gives them."""

_FOREIGN = {"token_embeddings": TOKENS, "last_hidden_state": TOKENS, "logits": SCORES}
"""Outputs of graphs that hold a backbone alone, and the features that they are."""


def lane_of(modules: Sequence[nn.Module], features: Features) -> str:
    """Name the graph that computes some features: the router's route, the task where it matters, the modality.

    Args:
        modules: A model's, in order.
        features: From `preprocess`.

    Example:
        >>> lane_of(list(model), model.preprocess(["a text"]))
        'text'
    """
    modality = features.get("modality", "text")
    task, parts = features.get("task"), []
    if isinstance(modules[0], Router):
        parts.append(modules[0].route_for(task, features.get("input_modality", modality)))
    elif any("task" in getattr(module, "forward_kwargs", ()) for module in modules):
        parts.append(task or "document")
    parts.append(modality if isinstance(modality, str) else "+".join(modality))
    return "/".join(parts)


class Graph:
    """The graphs of a checkpoint, opened when they are first needed.

    Args:
        folder: Of the graphs.
        backend: "onnx" for ONNX Runtime, "openvino" for OpenVINO.
        file_name: Graph to take in place of the named one, such as "model_int8.onnx".
        provider: Execution provider of ONNX Runtime, or device of OpenVINO; None computes on the CPU.
        session_options: `onnxruntime.SessionOptions`; None makes them.

    Attributes:
        whole: Whether the graphs hold all modules; otherwise they hold the first alone.
        facts: What `omnitune.json` says; empty without it.

    Raises:
        CheckpointError: There are no graphs, or they are of a later format.
        MissingExtraError: The package that runs them is not installed.
    """

    def __init__(
        self,
        folder: Path,
        backend: Literal["onnx", "openvino"],
        *,
        file_name: str | None = None,
        provider: str | None = None,
        session_options: Any = None,
    ) -> None:
        runtime.require({"onnx": "onnxruntime", "openvino": "openvino"}[backend], extra=backend)
        self.backend, self.provider, self.session_options = backend, provider, session_options
        if file_name is not None and "/" in file_name:  # as in "onnx/model_O3.onnx"
            place, file_name = folders.inside(folder, file_name).parent, Path(file_name).name
            names = [file_name]
        else:
            # OpenVINO reads ONNX files as well, where there are none of its own.
            names = [file_name] if file_name is not None else list(dict.fromkeys([FILES[backend], FILES["onnx"]]))
            places = (folder / backend, folder / "onnx", folder)
            found = (one for one in places if any((one / name).is_file() for name in (FACTS, *names)))
            place = next(found, folder / backend)
        self.folder, self.file_name = place, file_name
        facts = io.read_json_or_none(place / FACTS)
        self.facts: Mapping[str, Any] = facts if isinstance(facts, dict) else {}
        self.whole = bool(self.facts)
        if self.whole and self.facts.get("format") != FORMAT:
            raise CheckpointError(
                f"{place / FACTS}: expected format {FORMAT}, got {self.facts.get('format')!r}; export the model again"
            )
        graphs = self.facts.get("graphs")
        if self.whole and not (isinstance(graphs, dict) and all(map(_is_entry, graphs.values()))):
            raise CheckpointError(
                f"{place / FACTS}: expected graphs with file, inputs and outputs, got others; export the model again"
            )
        if self.facts.get("weights") not in (None, weights_of(folder)):
            raise CheckpointError(
                f"{place}: expected the weights that the graphs were made of, got others in {folder}; export the model "
                "again, or load it with backend='torch'"
            )
        if not self.whole or file_name is not None:
            self.file_name = next((name for name in names if (place / name).is_file()), None)
            if self.file_name is None:
                raise CheckpointError(
                    f"backend: expected a graph for {backend!r} in {place}, got no {names[0]}; make one with `omnitune "
                    f"export {folder} --to {backend}`"
                )
        self._sessions: dict[str, Any] = {}
        self._turn = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_sessions", "_turn")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _sessions={}, _turn=threading.Lock())

    def __deepcopy__(self, memo: dict[int, Any]) -> "Graph":
        copied = Graph.__new__(Graph)
        copied.__setstate__(self.__getstate__())
        return copied

    def run(self, modules: Sequence[nn.Module], features: Features) -> Features:
        """Features with what the graph of their lane computes.

        Raises:
            InputError: No graph is for such inputs.
        """
        if not self.whole:
            session = self._session(str(self.file_name))
            inputs, outputs = session.names()
            fields = {name: key for name, key in _FOREIGN.items() if name in outputs}
            if not fields:
                raise CheckpointError(f"{self.folder}: expected a graph with one of {list(_FOREIGN)}, got {outputs}")
            fields = dict([next(iter(fields.items()))])
        else:
            lane, graphs = lane_of(modules, features), self.facts["graphs"]
            if lane not in graphs:
                raise InputError(f"inputs: expected one of {sorted(graphs)}, which were exported, got {lane}")
            entry = graphs[lane]
            session = self._session(self._file_of(entry))
            inputs, fields = entry["inputs"], entry["outputs"]
        made = session.run({name: _array(features, name) for name in inputs}, list(fields))
        return {**features, **{key: torch.from_numpy(made[name]) for name, key in fields.items()}}

    def _file_of(self, entry: Mapping[str, Any]) -> str:
        """Choose among the files of a lane: the name that was asked for may be that of another lane's."""
        if self.file_name is None:
            return str(entry["file"])
        for kind in ("file", "int8"):
            if self.file_name in {one.get(kind) for one in self.facts["graphs"].values()}:
                return str(entry[kind])
        return self.file_name

    def _session(self, name: str) -> "_OnnxSession | _OpenVinoSession":
        with self._turn:
            if name not in self._sessions:
                path = folders.inside(self.folder, name)
                if not path.is_file():
                    raise CheckpointError(f"{path}: expected the graph that {FACTS} names, found none")
                made = _OnnxSession if self.backend == "onnx" else _OpenVinoSession
                with upstream(path, "graph"):
                    self._sessions[name] = made(path, self.provider, self.session_options)
            session: _OnnxSession | _OpenVinoSession = self._sessions[name]
            return session


class _OnnxSession:
    """A graph in ONNX Runtime."""

    def __init__(self, path: Path, provider: str | None, options: Any) -> None:
        onnxruntime = runtime.require("onnxruntime", extra="onnx")
        if options is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.enable_mem_pattern = False  # one is kept for each shape, and texts come in every length
            options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider or "CPUExecutionProvider"])

    def names(self) -> tuple[list[str], list[str]]:
        """Names of inputs and outputs."""
        return [one.name for one in self.session.get_inputs()], [one.name for one in self.session.get_outputs()]

    def run(self, feeds: dict[str, NDArray[Any]], outputs: list[str]) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        return dict(zip(outputs, self.session.run(outputs, feeds), strict=True))


class _OpenVinoSession:
    """A graph in OpenVINO, which reads ONNX files as well."""

    def __init__(self, path: Path, provider: str | None, options: Any) -> None:
        del options
        openvino = runtime.require("openvino", extra="openvino")
        # On processors with bfloat16 OpenVINO would compute in it, and embeddings would no longer be equal.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        settings = settings if provider in (None, "CPU") else {}
        self.model = openvino.Core().compile_model(str(path), provider or "CPU", settings)

    def names(self) -> tuple[list[str], list[str]]:
        """Names of inputs and outputs."""
        return [one.any_name for one in self.model.inputs], [one.any_name for one in self.model.outputs]

    def run(self, feeds: dict[str, NDArray[Any]], outputs: list[str]) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        made = self.model.create_infer_request().infer(feeds)
        # Arrays of a request are views of memory that it owns.
        return {name: np.array(made[self.model.output(name)]) for name in outputs}


def _array(features: Features, name: str) -> NDArray[Any]:
    """One input of a graph; a prompt that is not there has no tokens."""
    if name == "prompt_length":
        return np.array([int(features.get(name) or 0)], dtype=np.int64)
    if name not in features and name == "token_type_ids":
        return np.zeros(features["input_ids"].shape, dtype=np.int64)
    value = features[name]
    array: NDArray[Any] = value.cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array


def weights_of(folder: Path) -> str | None:
    """Hash the weights of a checkpoint, so that a graph of other ones is known; None where there are none."""
    hashed = hashlib.sha256()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors") if path.is_file())
    names = [name for name in names if not name.startswith("checkpoint-")]  # of a training in the same folder
    for name in names:
        path = folder / name
        hashed.update(name.encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest() if names else None


def _is_entry(entry: Any) -> bool:
    kinds = {"file": str, "inputs": list, "outputs": dict}
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())


def release_weights(modules: Sequence[nn.Module]) -> None:
    """Free the weights of modules that a graph takes the place of; what they say about themselves stays."""
    for module in modules:
        for weight in module.parameters():
            weight.requires_grad_(False)
            weight.data = torch.empty(0, dtype=weight.dtype)


def split_options(model_kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split `model_kwargs` into those of a graph (`OPTIONS`) and those of the backbone."""
    own = {name: value for name, value in model_kwargs.items() if name in OPTIONS}
    return own, {name: value for name, value in model_kwargs.items() if name not in OPTIONS}


def open_graph(path: str | None, hub: files.HubOptions, backend: str, options: dict[str, Any]) -> Graph:
    """Open the graphs of a checkpoint.

    Raises:
        InputError: The model has no folder, or a graph is to be exported while it is loaded.
    """
    if path is None:
        raise InputError(f"backend: expected a checkpoint with graphs for {backend!r}, got modules; export it first")
    if options.pop("export", False):
        raise InputError(f"export: expected False; run `omnitune export {path} --to {backend}`, which proves a graph")
    return Graph(files.resolve(path, hub, subfolder=backend), cast(Any, backend), **options)
