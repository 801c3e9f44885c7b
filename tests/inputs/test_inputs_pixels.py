"""Bytes in place of floats: equal to the last bit to what processors make, or left as it is."""

from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from omnitune.inputs.pixels import in_bytes, in_floats

PROCESSORS: dict[str, Any] = {
    "Qwen2VLImageProcessor": {"patch_size": 16, "size": {"shortest_edge": 1024, "longest_edge": 64 * 1024}},
    "CLIPImageProcessor": {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}},
    "SiglipImageProcessor": {"size": {"height": 48, "width": 48}},
    "Idefics3ImageProcessor": {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 48}},
    "LlavaNextImageProcessor": {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}},
    "Gemma3ImageProcessor": {"size": {"height": 48, "width": 48}},
}


@pytest.mark.parametrize("options", [{}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.7, 0.8, 0.9]}])
@pytest.mark.parametrize("name", PROCESSORS)
def test_bytes_come_back_to_the_last_bit(name: str, options: dict[str, Any], page_images: list[Image.Image]) -> None:
    processor = getattr(transformers, name)(**PROCESSORS[name], **options)
    images = [image.convert("RGB") for image in page_images[:4]]
    noise = Image.effect_noise((64, 48), 90).convert("RGB")
    features = dict(processor([*images, noise], return_tensors="pt"))
    kept = in_bytes(features, processor)
    assert kept["pixel_values"].dtype == torch.uint8
    assert kept["pixel_values"].nbytes * 4 == features["pixel_values"].nbytes
    back = in_floats(kept)
    assert back.keys() == features.keys() and torch.equal(back["pixel_values"], features["pixel_values"])


@pytest.mark.parametrize("options", [{"do_normalize": False}, {"do_rescale": False}])
def test_a_step_that_is_left_out(options: dict[str, Any], page_images: list[Image.Image]) -> None:
    processor = transformers.SiglipImageProcessor(size={"height": 48, "width": 48}, **options)
    features = dict(processor(page_images[0].convert("RGB"), return_tensors="pt"))
    kept = in_bytes(features, processor)
    assert kept["pixel_values"].dtype == torch.uint8
    assert torch.equal(in_floats(kept)["pixel_values"], features["pixel_values"])


def test_clips_have_their_own_processor() -> None:
    processor = transformers.Qwen2VLVideoProcessor(image_mean=[0.1, 0.2, 0.3])
    videos = torch.randint(256, (1, 4, 3, 56, 56), dtype=torch.uint8)
    features = dict(processor(videos, return_tensors="pt", do_sample_frames=False))
    kept = in_bytes(features, processor)
    assert kept["pixel_values_videos"].dtype == torch.uint8
    assert torch.equal(in_floats(kept)["pixel_values_videos"], features["pixel_values_videos"])


def test_what_was_no_byte_stays() -> None:
    processor = transformers.SiglipImageProcessor()
    for values in (torch.rand(2, 3, 8, 8), torch.full((2, 3, 8, 8), 3.0), torch.zeros(2, 5)):
        features = {"pixel_values": values, "input_ids": torch.ones(2, 1, dtype=torch.int64)}
        assert in_bytes(features, processor) == features and in_floats(features) == features
    half = {"pixel_values": torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16)}
    assert in_bytes(half, processor) == half
