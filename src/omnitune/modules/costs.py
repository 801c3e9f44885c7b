"""Costs of media for a processor, before any is decoded: the tokens they take, and their sampling in time."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import transformers

from omnitune.inputs.cost import AudioRule, CostRule, ImageRule, VideoRule
from omnitune.inputs.processor import channels, sampling_rate
from omnitune.inputs.sampling import AS_IT_IS, Sampling

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

UNLIMITED = 1 << 30
"""Tokenizers without a limit say one like this, or more."""

QWEN_RATIO = 200
"""Longer side over shorter side that processors of the Qwen-VL kind take at most (`smart_resize` in transformers).
Those that scale by the shorter side alone (CLIP) take any, and would make 30 GB of an image of 1 x 200,000 pixels."""


FRAMES_PER_SECOND = 100
"""Steps of a spectrogram a second, as speech encoders make it."""


def sampling(processor: Any, config: Any, video: Mapping[str, Any]) -> Sampling:
    """The rate and channels of audio, and the rule for frames that a processor wants.

    Args:
        processor: The processor.
        config: The backbone's configuration, whose `num_frames` counts where the processor does not choose frames.
        video: Arguments of its calls for video, such as `num_frames` and `fps`.
    """
    frames = getattr(processor, "video_processor", processor)
    size = dict(getattr(getattr(processor, "image_processor", frames), "size", None) or {})
    ratio = QWEN_RATIO if "shortest_edge" in size and "longest_edge" not in size else None
    chosen = Sampling(rate=sampling_rate(processor), channels=channels(processor), max_ratio=ratio)
    if not isinstance(frames, transformers.BaseVideoProcessor):
        return replace(chosen, num_frames=video.get("num_frames") or _frames_of(config) or chosen.num_frames)
    own = {name: getattr(frames, name, None) for name in frames.valid_kwargs.__annotations__}
    arguments = {**own, **dict(getattr(processor, "videos_kwargs", None) or {}), **video}
    asked = video.get("num_frames") is not None or video.get("fps") is not None
    if video.get("num_frames") is not None and video.get("fps") is None:
        arguments["fps"] = None
    if arguments.get("do_sample_frames") or (asked and video.get("do_sample_frames") is not False):
        return replace(chosen, frames=partial(_chosen, frames, arguments))
    return replace(chosen, num_frames=_frames_of(config) or chosen.num_frames)


def _chosen(processor: Any, arguments: Mapping[str, Any], facts: "VideoMetadata") -> list[int]:
    """The processor's own choice of frames."""
    return [int(index) for index in processor.sample_frames(metadata=facts, **arguments)]


def _frames_of(config: Any) -> int | None:
    found = (getattr(part, "num_frames", None) for part in (config, getattr(config, "vision_config", None)))
    return next((frames for frames in found if frames), None)


def cost_rule(processor: Any, config: Any, max_tokens: int | None, frames: Sampling = AS_IT_IS) -> CostRule:
    """The rule of a backbone.

    Args:
        processor: Its processor.
        config: Its configuration.
        max_tokens: Tokens after which text is cut.
        frames: Which frames of a clip are looked at.
    """
    limit = max_tokens if max_tokens is not None and max_tokens < UNLIMITED else None
    tokenizer = getattr(processor, "tokenizer", processor)
    masked = "attention_mask" in getattr(tokenizer, "model_input_names", ("attention_mask",))
    text = isinstance(tokenizer, transformers.PreTrainedTokenizerBase)
    rule = CostRule(max_tokens=limit, padding_counts=text and not masked, audio=_audio_rule(processor, config))
    images = (
        processor
        if isinstance(processor, transformers.ImageProcessingMixin)
        else getattr(processor, "image_processor", None)
    )
    if images is not None:
        rule = replace(rule, image=_image_rule(processor, images, config))
    videos = getattr(processor, "video_processor", processor)
    if not isinstance(videos, transformers.BaseVideoProcessor | transformers.ImageProcessingMixin):
        return rule
    return replace(rule, video=_video_rule(processor, videos, config, frames))


def _audio_rule(processor: Any, config: Any) -> AudioRule:
    """Speech encoders halve the steps of the spectrogram once or more; other processors cut or pad to one length."""
    extractor = getattr(processor, "feature_extractor", processor)
    fixed = getattr(extractor, "nb_max_samples", None)
    part = getattr(config, "audio_config", config)
    if fixed and getattr(config, "model_type", "") in ("clap", "whisper"):
        return AudioRule(tokens=getattr(part, "max_source_positions", None) or FRAMES_PER_SECOND)
    return AudioRule()


def _video_rule(processor: Any, videos: Any, config: Any, frames: Sampling) -> VideoRule:
    frame = _image_rule(processor, videos, config)
    together = int(getattr(videos, "temporal_patch_size", None) or getattr(config, "tubelet_size", None) or 1)
    size = dict(getattr(videos, "size", None) or {})
    limit = size.get("longest_edge") if getattr(videos, "merge_size", None) else None
    if limit is None:
        return VideoRule(sampling=frames, frame=frame, together=together)
    return VideoRule(
        sampling=frames, frame=replace(frame, max_pixels=limit), together=together, max_pixels=limit * together
    )


def _image_rule(processor: Any, images: Any, config: Any) -> ImageRule:
    vision = getattr(config, "vision_config", config)
    patch = _side(getattr(images, "patch_size", None) or getattr(vision, "patch_size", None) or 16)
    size = dict(getattr(images, "size", None) or {})
    merge = getattr(images, "merge_size", None)
    if merge and "longest_edge" in size:  # Qwen-VL: any size between two numbers of pixels
        pixels = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        return ImageRule(cell=patch * merge, max_ratio=QWEN_RATIO, **pixels)
    patches = getattr(images, "max_num_patches", None)
    if patches:  # SigLIP 2: any size up to a number of patches
        return ImageRule(tokens=patches)
    for name in ("image_seq_len", "image_seq_length"):
        per_tile = getattr(processor, name, None) or getattr(images, name, None)
        if per_tile:
            return ImageRule(tokens=per_tile * _tiles(images, size))
    side = _side(getattr(vision, "image_size", None) or 224)
    return ImageRule(tokens=max(1, (side // patch) ** 2))


def _tiles(images: Any, size: dict[str, int]) -> int:
    """Tiles that an image is cut into, the whole image included; every image is enlarged to the same longest edge."""
    tile = dict(getattr(images, "max_image_size", None) or {}).get("longest_edge")
    if not tile or not getattr(images, "do_image_splitting", False) or "longest_edge" not in size:
        return 1
    return int((size["longest_edge"] // tile) ** 2 + 1)


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)
