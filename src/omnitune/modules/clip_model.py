"""The module that older checkpoints of CLIP list."""

from typing import cast

from omnitune.modules.backbones import EMBEDDING
from omnitune.modules.outputs import ModalityConfig
from omnitune.modules.tasks import Task
from omnitune.modules.transformer import Transformer


class CLIPModel(Transformer):
    """The module that older checkpoints of CLIP list: text and image features of its two towers."""

    @classmethod
    def assumed_outputs(cls, task: Task) -> tuple[ModalityConfig, str]:  # noqa: ARG003  # it has one
        """Both towers' features, which share a space."""
        return cast(
            ModalityConfig,
            {
                kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"}
                for kind in ("text", "image")
            },
        ), EMBEDDING
