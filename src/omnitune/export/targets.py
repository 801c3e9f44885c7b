"""Targets of the gate: a graph in the place of a model, or a server that answers for it."""

import base64
import mimetypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omnitune.errors import InputError
from omnitune.model.base import Backend, Model
from omnitune.model.checkpoint import CONFIG, read_config
from omnitune.model.family import MULTI_VECTOR, SPARSE, class_of
from omnitune.modules import files
from omnitune.places import is_embedded

Role = str
"""`"query"` or `"document"`."""
AT_ONCE = 64
PATIENCE = 120.0
"""Seconds that a busy server is asked again."""


class Target(Protocol):
    """Answers as a model should."""

    name: str

    def encode(self, items: Sequence[Any], role: Role) -> list[NDArray[np.float32]]:
        """One vector, or one matrix of token vectors, for every item."""

    def scores(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Relevance of every document `(documents,)`."""


class ModelTarget:
    """A model in this process, in torch or as a graph.

    Args:
        model: Any model.
        name: For people.
    """

    def __init__(self, model: Model, name: str) -> None:
        self.model, self.name = model, name

    def encode(self, items: Sequence[Any], role: Role) -> list[NDArray[np.float32]]:
        """One vector, or one matrix of token vectors, for every item."""
        verb: Any = getattr(self.model, f"encode_{role}")
        sparse = self.model.family.name == SPARSE.name
        form = {"convert_to_sparse_tensor": False} if sparse else {"convert_to_numpy": True}
        made = verb(list(items), show_progress_bar=False, **form)
        return [np.asarray(one, dtype=np.float32) for one in made]

    def scores(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Relevance of every document `(documents,)`."""
        model: Any = self.model
        made = model.predict([(query, document) for document in documents], show_progress_bar=False)
        return np.asarray(made, dtype=np.float32)

    def together(self, items: Sequence[Any], role: Role) -> list[NDArray[np.float32]]:
        """Encode items in one padded batch, which `encode` would cut where one is much longer."""
        model: Any = self.model
        names = ["query"] if role == "query" else ["document", "passage", "corpus"]
        prompt = next((model.prompts[name] for name in names if name in model.prompts), None)
        with model.inference():
            features = model.preprocess(list(items), prompt, task=role)
            embeddings = model.engine.run(features)
        return [np.asarray(row.float().cpu().numpy(), dtype=np.float32) for row in embeddings.unbind()]


def open_model(path: str, *, backend: Backend = "torch", file_name: str | None = None) -> Model:
    """Open a checkpoint with the class of its family, on the CPU.

    Args:
        path: Directory, repository, or "embedded".
        backend: "torch", or "onnx" or "openvino" for its graphs.
        file_name: Graph to take in place of the usual one.
    """
    options: dict[str, Any] = {} if file_name is None else {"model_kwargs": {"file_name": file_name}}
    kind = "SentenceTransformer"
    if not is_embedded(path):
        folder = files.resolve(path, files.HubOptions())
        named = read_config(folder / CONFIG).get("model_type")
        heads = files.read_json(folder / "config.json").get("architectures") or [""]
        named = MULTI_VECTOR.name if named == "ColBERT" else named
        kind = named or ("CrossEncoder" if str(heads[0]).endswith("ForSequenceClassification") else kind)
    family = class_of(kind)
    if family is None:
        raise InputError(f"MODEL: expected a family that this version has, got {kind}: {path}")
    opened: Model = family(path, device="cpu", backend=backend, **options)
    return opened


class ServedTarget:
    """A server with the routes of `omnitune serve`.

    Args:
        url: Such as "http://127.0.0.1:8000".
        api_key: Its key, where it has one.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.name = url
        self.headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        import httpx

        until = time.monotonic() + PATIENCE
        while True:
            try:
                answer = httpx.post(self.name.rstrip("/") + path, json=body, headers=self.headers, timeout=PATIENCE)
            except httpx.HTTPError as error:
                raise InputError(f"TARGET: expected a server at {self.name}, got: {error}") from error
            if answer.status_code not in (429, 503) or time.monotonic() > until:
                break
            time.sleep(float(answer.headers.get("Retry-After", 1)))
        if answer.status_code != 200:
            raise InputError(
                f"TARGET: expected an answer of {self.name}{path}, got {answer.status_code}: {answer.text[:200]}"
            )
        return answer.json()

    def encode(self, items: Sequence[Any], role: Role) -> list[NDArray[np.float32]]:
        """One vector, or one matrix of token vectors, for every text or page image."""
        made: list[NDArray[np.float32]] = []
        for start in range(0, len(items), AT_ONCE):
            sent = [_sendable(item) for item in items[start : start + AT_ONCE]]
            body = {"input": sent, "input_type": role, "encoding_format": "base64"}
            rows = sorted(self._post("/v1/embeddings", body)["data"], key=lambda one: one["index"])
            if rows and not isinstance(rows[0]["embedding"], str):
                raise InputError(
                    f"TARGET: expected vectors of {self.name}, got weights of words, which are not compared"
                )
            made += [
                np.frombuffer(base64.b64decode(one["embedding"]), dtype="<f4").reshape(one.get("shape", -1))
                for one in rows
            ]
        return made

    def scores(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Relevance of every document `(documents,)`."""
        body = {"query": query, "documents": list(documents)}
        made = np.zeros(len(documents), dtype=np.float32)
        for one in self._post("/v1/rerank", body)["results"]:
            made[one["index"]] = one["relevance_score"]
        return made


def _sendable(item: Any) -> Any:
    """An item as a server takes it: a page image, `{"path": ...}`, as its bytes."""
    if not isinstance(item, dict) or "path" not in item:
        return item
    kind = mimetypes.guess_type(item["path"])[0] or "image/png"
    held = base64.b64encode(Path(item["path"]).read_bytes()).decode()
    return {kind.partition("/")[0]: f"data:{kind};base64,{held}"}
