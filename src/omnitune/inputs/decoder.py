"""The child that decodes media for `isolated`: questions and answers are a line of JSON each, then bare bytes.

It imports no more than an item needs, because it is waited for: torch only to resample sound and for clips.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np

from omnitune import errors
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import Sampling
from omnitune.inputs.source import described

ARRAYS = ("uint8", "float32")
"""Types of the arrays that decoders make, and all that are taken from a child."""


def send(stream: IO[bytes], message: dict[str, Any], payloads: list[bytes]) -> None:
    """Write a message and the bytes that belong to it."""
    stream.write(json.dumps(message).encode() + b"\n")
    for payload in payloads:
        stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes], limit: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read an answer and its arrays, each of at most `limit` bytes.

    Raises:
        EOFError: It ends before it is whole.
        ValueError: It is none.
    """
    line = stream.readline(1 << 20)
    if not line.endswith(b"\n"):
        raise EOFError
    answer = json.loads(line)
    arrays = []
    for shape, kind in answer.get("arrays", []):
        size = int(np.prod(shape, dtype=np.int64)) * (4 if kind == "float32" else 1)
        if kind not in ARRAYS or not 0 <= size <= limit:
            raise ValueError(f"an array of {size} bytes of {kind}")
        arrays.append(np.frombuffer(bytearray(exactly(stream, size)), kind).reshape(shape))
    return answer, arrays


def exactly(stream: IO[bytes], size: int) -> bytes:
    """Read so many bytes; fewer are an `EOFError`."""
    content = stream.read(size)
    if len(content) != size:
        raise EOFError
    return content


def _answer(question: dict[str, Any], content: bytes, memory: int) -> tuple[list[Any], list[np.ndarray]]:
    """Values that JSON takes, and arrays."""
    kind, policy = question["kind"], MediaPolicy(**question["policy"])
    module = importlib.import_module(f"omnitune.inputs.{kind}")
    _limit(memory)
    item: Any = Path(question["path"]) if "path" in question else content
    if question["operation"] == "size":
        found = getattr(module, f"{kind}_size")(item, policy)
        return ([dict(found[0])] if kind == "video" else [*found]), []
    asked = dict(question["sampling"])
    indices = asked.pop("indices", None)
    if question["operation"] == "count":
        indices = [0]
    if indices is not None:
        asked["frames"] = lambda _: indices
    rule = Sampling(**asked)
    if kind == "image":
        made = module.load_image(item, policy, rule.max_ratio)
        if made.mode not in ("L", "RGB", "RGBA"):  # a palette's; the caller is to parse nothing
            made = made.convert("RGBA" if made.has_transparency_data else "RGB")
        return [], [np.asarray(made)]
    made = getattr(module, f"load_{kind}")(item, policy, rule)
    if kind == "audio":
        return [], [made]
    if question["operation"] == "count":
        return [{**dict(made.metadata), "frames_indices": None}], []
    return [dict(made.metadata)], [made.frames, *([] if made.sound is None else [made.sound])]


def _main() -> None:
    # Decoders may print: what they say goes to standard error, and the answers have a channel of their own.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    replies.write(b"ready\n")
    replies.flush()
    while line := sys.stdin.buffer.readline():
        question = json.loads(line)
        content = exactly(sys.stdin.buffer, question["bytes"])
        arrays: list[np.ndarray] = []
        try:
            values, arrays = _answer(question, content, int(sys.argv[1]))
            arrays = [np.ascontiguousarray(array) for array in arrays]
            message: dict[str, Any] = {
                "values": values,
                "arrays": [[list(array.shape), array.dtype.name] for array in arrays],
            }
        except errors.OmnituneError as error:
            message = {"error": type(error).__name__, "text": str(error)}
        except MemoryError:
            name = described(content or question["path"], question["kind"])
            message = {"error": "MediaRefusedError", "text": f"{name}: decoding it takes too much memory"}
        send(replies, message, [array.tobytes() for array in arrays])


def _limit(memory: int) -> None:
    """Limit the address space to what the imports took and `memory` bytes more; no core is written."""
    try:
        import resource
    except ImportError:  # Windows: the deadline holds, the limit of memory does not
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        taken = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, resource.RLIM_INFINITY))


if __name__ == "__main__":
    _main()
