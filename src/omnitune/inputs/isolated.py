"""Decoding in a process of its own, which a hostile file may end and nothing else.

Decoders of media are written in C; a file may be made to crash one, or to have it take all memory or time. With
`MediaPolicy(isolate=True)` encoded items are opened and decoded by a child: `python -m omnitune.inputs.decoder`, whose
memory is limited and whose answers have a deadline. It is started when there is something to decode and again after it
has died. What it answers is JSON and bare arrays, because pickles of a child that was taken over would be code.

Asking the child costs about as much as copying the pixels twice; starting it costs an import, of torch for sound and
clips.
"""

import atexit
import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import transformers
from PIL import Image

from omnitune import errors
from omnitune.errors import MediaError, MediaRefusedError
from omnitune.inputs.decoder import receive, send
from omnitune.inputs.detect import MEDIA
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import AS_IT_IS, Sampling
from omnitune.inputs.source import described, is_open_file, source
from omnitune.inputs.video import Clip

START_SECONDS = 300.0
"""For imports, on a machine that is busy."""


def decode(kind: str, item: Any, policy: MediaPolicy, sampling: Sampling) -> Any:
    """Load an item as `MEDIA[kind].load` does, in the child if the policy says so and the item is encoded.

    Args:
        kind: `"image"`, `"audio"` or `"video"`.
        item: Any accepted form.
        policy: Limits.
        sampling: The model's demands.

    Returns:
        An image, a waveform or a `Clip`, as `load` says.

    Raises:
        MediaError: It cannot be read, or ended its decoder; the message names it.
        MediaRefusedError: It breaks the policy, or takes too long to decode.
    """
    item = _unwrapped(kind, item)
    if policy.isolate and kind == "video" and isinstance(item, list):
        item = [decode("image", part, policy, AS_IT_IS) for part in item]
    if not policy.isolate or not _is_encoded(item):
        return MEDIA[kind].load(item, policy, sampling)
    asked: dict[str, Any] = {"rate": sampling.rate, "channels": sampling.channels, "max_ratio": sampling.max_ratio}
    asked |= {"num_frames": sampling.num_frames, "sound": sampling.sound}
    if kind == "video" and sampling.frames is not None:
        # The rule is a function of the processor. The child counts the frames first, then decodes those chosen here.
        (facts,) = _ask("count", kind, item, policy, asked)
        try:
            asked["indices"] = sampling.indices(transformers.video_utils.VideoMetadata(**facts), in_memory=False)
        except ValueError as error:
            raise MediaError(f"{described(item, kind)}: its frames cannot be chosen: {error}") from error
    found = _ask("load", kind, item, policy, asked)
    if kind == "image":
        return Image.fromarray(found[0])
    if kind == "audio":
        return found[0]
    facts, frames, *sound = found
    metadata = transformers.video_utils.VideoMetadata(**facts)
    return Clip(frames=frames, metadata=metadata, sound=sound[0] if sound else None)


def measure(kind: str, item: Any, policy: MediaPolicy) -> tuple[Any, ...]:
    """Read an item's header as `MEDIA[kind].size` does, in the child if the policy says so and the item is encoded.

    Raises:
        MediaError: The header cannot be read.
    """
    item = _unwrapped(kind, item)
    if not policy.isolate or not _is_encoded(item):
        return MEDIA[kind].size(item, policy)
    found = _ask("size", kind, item, policy, {})
    return (transformers.video_utils.VideoMetadata(**found[0]),) if kind == "video" else tuple(found)


def _unwrapped(kind: str, item: Any) -> Any:
    while isinstance(item, dict) and kind in item:
        item = item[kind]
    return item


def _is_encoded(item: Any) -> bool:
    known = isinstance(item, str | bytes | bytearray | memoryview | os.PathLike) or is_open_file(item)
    return known or (isinstance(item, dict) and "array" not in item)


# --- the caller's side ------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_child: tuple[int, int, subprocess.Popen[bytes]] | None = None
"""Process that started it, its limit of memory, and the child."""


def _ask(operation: str, kind: str, item: Any, policy: MediaPolicy, asked: dict[str, Any]) -> list[Any]:
    content = source(item, policy, kind)
    name = described(item, kind)
    given = content if isinstance(content, bytes) else b""
    limits = {**dataclasses.asdict(policy), "allowed_hosts": None, "isolate": False, "allow_local_files": True}
    question = {"operation": operation, "kind": kind, "policy": limits, "sampling": asked, "bytes": len(given)}
    if isinstance(content, Path):
        question["path"] = str(content)
    with _lock:
        child = _running(policy.decode_memory)
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            child.kill()

        timer = threading.Timer(policy.decode_seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            assert child.stdin is not None and child.stdout is not None
            send(child.stdin, question, [given])
            answer, arrays = receive(child.stdout, policy.decode_memory)
        except (OSError, EOFError, ValueError) as error:  # it died, or what it says makes no sense
            _stop()
            if timed_out.is_set():
                raise MediaRefusedError(
                    f"{name}: decoding it takes longer than the media policy's decode_seconds={policy.decode_seconds:g}"
                ) from error
            raise MediaError(
                f"{name}: it ended its decoder (exit code {child.returncode}), which no good file does"
            ) from error
        finally:
            timer.cancel()
    if "error" in answer:
        of_kind = {"MediaError": MediaError, "MissingExtraError": errors.MissingExtraError}
        raise of_kind.get(answer["error"], MediaRefusedError if "Refused" in answer["error"] else MediaError)(
            answer["text"]
        )
    return [*answer["values"], *arrays]


def _running(memory: int) -> subprocess.Popen[bytes]:
    global _child
    if _child is not None and (_child[0] != os.getpid() or _child[1] != memory or _child[2].poll() is not None):
        _stop()
    if _child is None:
        process = subprocess.Popen(
            [sys.executable, "-m", "omnitune.inputs.decoder", str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        _child = (os.getpid(), memory, process)
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.daemon = True
        timer.start()
        assert process.stdout is not None
        ready = process.stdout.readline()
        timer.cancel()
        if not ready:
            _stop()
            raise errors.ResourceError(
                f"media_policy: the process that decodes media (isolate=True) does not start: exit code "
                f"{process.returncode}; run {sys.executable} -m omnitune.inputs.decoder to see why"
            )
    return _child[2]


def _stop() -> None:
    global _child
    if _child is not None:
        owner, _, process = _child
        _child = None
        if owner == os.getpid():  # after a fork it is the parent's
            process.kill()
            process.communicate()


atexit.register(_stop)
