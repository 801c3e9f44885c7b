"""Video in every form that inputs give it, as the few frames that the model looks at.

Which frames those are is settled before any is decoded. Of a file, the packets are listed without decoding them, which
gives every frame's time; then each wanted frame is reached from the key frame before it. So neither memory nor decoding
grows with the length of a clip, and frame `i` is the frame that decoding from the start would number `i`.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from PIL import Image

from omnitune.errors import MediaError, MediaRefusedError
from omnitune.inputs.audio import load_audio
from omnitune.inputs.container import Opened, opened, seconds_of, upright
from omnitune.inputs.endings import ENDINGS
from omnitune.inputs.image import check_ratio, load_image
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import Sampling
from omnitune.inputs.source import described

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

PACKET = 188
"""Bytes of a packet of a transport stream; each begins with `SYNC`."""
SYNC = 0x47

SIGNATURE = (
    rb"....ftyp(?!avi[fs]|hei[cxms]|hev[cx]|mif1|msf1)|\x1a\x45\xdf\xa3|RIFF....AVI |FLV\x01|\x30\x26\xb2\x75"
    rb"|\x00\x00\x01[\xb3\xba]"
)
"""Regular expression of the first bytes of a clip."""

ASSUMED_FPS = 24.0
"""Frames a second of a clip that does not say."""

MOST_STATED = 10_000_000
"""Frames that metadata beside an array may state, as some rules list all of them: a day at 100 a second has fewer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """A loaded clip.

    Attributes:
        frames: `(frames, height, width, 3)` or `(frames, 3, height, width)`; of a file the first, uint8.
        metadata: Of the whole clip, with the numbers of these frames in it.
        sound: `(samples,)`, where the model asks for it and the file has a sound track.
    """

    frames: np.ndarray
    metadata: "VideoMetadata"
    sound: np.ndarray | None = None


def load_video(item: Any, policy: MediaPolicy, sampling: Sampling) -> Clip:
    """Load the frames of a clip that the model looks at.

    Args:
        item: Path, bytes, `{"bytes", "path"}`, `{"video": ...}`, http(s) or data URL; a list of images;
            `{"array", "video_metadata"}`; a decoder with `get_frames_at(indices)` and `metadata` as torchcodec's; or an
            array or tensor `(frames, height, width, channels)` or `(frames, channels, height, width)`.
        policy: Limits.
        sampling: The model's rule for frames.

    Raises:
        MediaError: It cannot be read, or lacks a frame; the message names it.
        MediaRefusedError: It breaks the policy.
    """
    if isinstance(item, Clip):
        return item
    if isinstance(item, dict) and "video" in item:
        return load_video(item["video"], policy, sampling)
    name = described(item, "video")
    if hasattr(item, "get_frames_at"):
        facts = _facts_of_decoder(item)
        indices = _indices(facts, sampling, name, policy, in_memory=False)
        return _clip(np.asarray(item.get_frames_at(indices).data), facts, indices)
    if not isinstance(item, list | np.ndarray | torch.Tensor) and not (isinstance(item, dict) and "array" in item):
        return _decoded(item, policy, sampling)
    frames, facts = _in_memory(item, policy)
    indices = _indices(facts, sampling, name, policy, in_memory=True)
    if max(indices) >= len(frames):
        raise MediaError(f"{name}: frame {max(indices)} is wanted, and it has {len(frames)}; see its video_metadata")
    return _clip(frames if indices == [*range(len(frames))] else frames[indices], facts, indices)


def video_size(item: Any, policy: MediaPolicy) -> tuple["VideoMetadata"]:
    """Read a clip's metadata from its header; of a file, the number of frames may be an estimate.

    Raises:
        MediaError: The header cannot be read.
    """
    if isinstance(item, Clip):
        return (item.metadata,)
    if isinstance(item, dict) and "video" in item:
        return video_size(item["video"], policy)
    if hasattr(item, "get_frames_at"):
        return (_facts_of_decoder(item),)
    if isinstance(item, list | np.ndarray | torch.Tensor) or (isinstance(item, dict) and "array" in item):
        return (_in_memory(item, policy)[1],)
    with opened(item, policy, "video") as file:
        stream = file.stream
        fps = float(stream.average_rate or ASSUMED_FPS)
        return (_facts(stream, stream.frames or round((seconds_of(file.container, stream) or 0.0) * fps)),)


def is_transport_stream(head: bytes | bytearray | memoryview) -> bool:
    """Tell whether bytes (three packets suffice) are an MPEG transport stream; camcorders put 4 bytes before each."""
    starts = ((0, PACKET, 2 * PACKET), (4, PACKET + 8, 2 * PACKET + 12))
    return any(len(head) > start[-1] and all(head[place] == SYNC for place in start) for start in starts)


def are_frames(item: Any) -> bool:
    """Tell whether a list is one clip frame by frame, and not several clips."""
    return isinstance(item, list | tuple) and bool(item) and all(map(_is_frame, item))


def _is_frame(item: Any) -> bool:
    if isinstance(item, np.ndarray | torch.Tensor):
        return item.ndim == 3
    return isinstance(item, Image.Image) or (isinstance(item, str) and item.lower().endswith(ENDINGS["image"].common))


def _clip(frames: np.ndarray, facts: "VideoMetadata", indices: Sequence[int]) -> Clip:
    facts.frames_indices = list(indices)
    return Clip(frames=frames, metadata=facts)


def _indices(
    facts: "VideoMetadata", sampling: Sampling, name: str, policy: MediaPolicy, *, in_memory: bool
) -> list[int]:
    if not facts.total_num_frames:
        raise MediaError(f"{name}: it has no frames")
    _check_pixels(facts.width or 0, facts.height or 0, name, policy)
    check_ratio(facts.width or 1, facts.height or 1, name, sampling.max_ratio)
    try:
        indices = sampling.indices(facts, in_memory=in_memory)
    except ValueError as error:  # the processor's rule
        raise MediaError(f"{name}: its frames cannot be chosen: {error}") from error
    if len(indices) > policy.max_frames:
        raise MediaRefusedError(
            f"{name}: {len(indices)} frames, more than the media policy's max_frames={policy.max_frames}"
        )
    return indices


def _check_pixels(width: int, height: int, name: str, policy: MediaPolicy) -> None:
    if width * height > policy.max_pixels:
        raise MediaRefusedError(
            f"{name}: frames of {width}x{height} pixels, more than the media policy's max_pixels={policy.max_pixels}"
        )


def _in_memory(item: Any, policy: MediaPolicy) -> tuple[np.ndarray, "VideoMetadata"]:
    given = item.get("video_metadata") if isinstance(item, dict) else None
    values = item["array"] if isinstance(item, dict) else item
    if isinstance(values, list):
        images = [np.asarray(load_image(part, policy).convert("RGB")) for part in values]
        if len({image.shape for image in images}) != 1:
            raise MediaError(f"{described(item, 'video')}: expected frames of one size, at least one")
        values = np.stack(images)
    frames = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if frames.ndim == 5 and len(frames) == 1:
        frames = frames[0]
    if frames.ndim != 4 or not {1, 3, 4} & {frames.shape[1], frames.shape[3]}:
        raise MediaError(
            f"{described(frames, 'video')}: expected (frames, height, width, channels) or "
            "(frames, channels, height, width)"
        )
    if given is not None:
        try:
            facts = transformers.video_utils.VideoMetadata(**dict(given))
        except (TypeError, ValueError) as error:
            raise MediaError(f"{described(frames, 'video')}: video_metadata: {error}") from error
        total = facts.total_num_frames
        counted = isinstance(total, int | np.integer) and not isinstance(total, bool)
        if total and not (counted and 0 < total <= MOST_STATED):
            raise MediaError(
                f"{described(frames, 'video')}: video_metadata: total_num_frames: expected a number of frames up to "
                f"{MOST_STATED:,}, got {total!r}"
            )
        return frames, facts
    height, width = frames.shape[1:3] if frames.shape[3] in (1, 3, 4) else frames.shape[2:]
    return frames, transformers.video_utils.VideoMetadata(total_num_frames=len(frames), height=height, width=width)


def _facts_of_decoder(decoder: Any) -> "VideoMetadata":
    facts = decoder.metadata
    return transformers.video_utils.VideoMetadata(
        total_num_frames=int(facts.num_frames or 0),
        fps=facts.average_fps,
        width=getattr(facts, "width", None),
        height=getattr(facts, "height", None),
        duration=getattr(facts, "duration_seconds", None),
    )


def _facts(stream: Any, total: int) -> "VideoMetadata":
    fps = float(stream.average_rate or ASSUMED_FPS)
    return transformers.video_utils.VideoMetadata(
        total_num_frames=total, fps=fps, width=stream.width, height=stream.height, duration=total / fps
    )


def _decoded(item: Any, policy: MediaPolicy, sampling: Sampling) -> Clip:
    name = described(item, "video")
    with opened(item, policy, "video") as file:
        times: list[int] = []
        keys: list[int] = []
        for packet in file.packets():
            if not packet.size or packet.is_discard:
                continue
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None or packet.is_corrupt:
                raise MediaError(f"{file.name}: broken video after {len(times)} frames")
            times.append(time)
            if packet.is_keyframe:
                keys.append(time)
        times, keys = sorted(times), sorted(keys)
        facts = _facts(file.stream, len(times))
        indices = _indices(facts, sampling, name, policy, in_memory=False)
        wanted = sorted({times[index] for index in indices})
        found = dict(zip(wanted, _frames_at(file, wanted, keys), strict=True))
        facts.height, facts.width = found[wanted[0]].shape[:2]
        made = _clip(np.stack([found[times[index]] for index in indices]), facts, indices)
        heard = sampling.sound and bool(file.container.streams.audio)
    return replace(made, sound=load_audio(item, policy, sampling)) if heard else made


def _frames_at(file: Opened, wanted: Sequence[int], keys: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames `(height, width, 3)`, uint8, at ascending times; what lies between two key frames is decoded once."""
    decoder: Iterator[Any] = iter(())
    at: int | None = None
    size: tuple[int, int] | None = None
    indexed = True
    for time in wanted:
        key = keys[bisect_right(keys, time) - 1] if keys and keys[0] <= time else None
        if at is None or (indexed and key is not None and key > at):
            file.container.seek(time if key is None else key, stream=file.stream)
            decoder = file.container.decode(file.stream)
        frame = _frame_from(decoder, time)
        if indexed and (frame is None or frame.pts != time):
            # Without an index a search may end behind the key frame (MPEG program streams): from the start, then.
            indexed = False
            file.container.seek(0)
            decoder = file.container.decode(file.stream)
            frame = _frame_from(decoder, time)
        if frame is None or frame.pts != time or frame.is_corrupt:
            seconds = time * float(file.stream.time_base)
            raise MediaError(f"{file.name}: its frame at {seconds:.2f} s cannot be decoded")
        at = time
        _check_pixels(frame.width, frame.height, file.name, file.policy)
        size = size or (frame.width, frame.height)  # a stream may change its size in the middle
        yield upright(frame.reformat(*size, format="rgb24").to_ndarray(), frame)


def _frame_from(decoder: Iterator[Any], time: int) -> Any:
    return next((frame for frame in decoder if frame.pts is not None and frame.pts >= time), None)
