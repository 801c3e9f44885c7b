"""Positions of a page's patches and tokens, worked out on the host before a forward on a device begins.

A vision-language backbone derives them from the sizes of the images, which it reads from the device: Qwen3-VL eight
times a page, three times a layer of its tower and ten times besides. Each read waits for all that was started.
transformers takes the same tensors as arguments; made here, by its own functions from the host's copy of the features,
they are the same numbers without a wait.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import vision_utils

from omnitune.modules.backbones import backbone
from omnitune.modules.transformer import Transformer
from omnitune.types import Features


def host_positions(module: Any, features: Features) -> dict[str, Tensor]:
    """Arguments that spare the forward its reads; none for a backbone or a batch that is not known to take them.

    Args:
        module: The input module.
        features: Of a mini-batch, on the host.
    """
    if not isinstance(module, Transformer) or not backbone(module.config.model_type).takes_positions:
        return {}
    ids, grid = features.get("input_ids"), features.get("image_grid_thw")
    if ids is None or any(key in features for key in ("video_grid_thw", "position_ids")):
        return {}
    if grid is None:  # with positions of three axes, the backbone does not ask whether rows hold several texts
        return {"position_ids": torch.arange(ids.shape[1]).expand(3, *ids.shape)}
    core = getattr(module.model, "base_model", module.model)
    visual, config = core.visual, core.visual.config
    mask = features.get("attention_mask")
    places, _ = core.get_rope_index(ids, features["mm_token_type_ids"], image_grid_thw=grid, attention_mask=mask)
    made: dict[str, Tensor] = {"position_ids": places}
    if "pixel_values" not in features:  # the tower's outputs are there already
        return made
    made["image_position_ids"] = vision_utils.get_vision_position_ids(grid, config.spatial_merge_size)
    made["image_interp_indices"], made["image_interp_weights"] = (
        vision_utils.get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=config.spatial_merge_size,
        )
    )
    if "flash" not in str(config._attn_implementation):
        # SDPA runs image by image and wants their lengths on the host; flash attention wants them on the device.
        made |= {"image_cu_seqlens": vision_utils.get_vision_cu_seqlens(grid), "image_grid_thw": grid}
    return made


def on_device(positions: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same with what the device reads on it, copied without waiting."""
    stays = ("image_cu_seqlens", "image_grid_thw")
    moved = {n: v.pin_memory().to(device, non_blocking=True) for n, v in positions.items() if n not in stays}
    return {**positions, **moved}
