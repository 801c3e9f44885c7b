"""Modules that older checkpoints and scripts name, and that are a `Transformer` today."""

from typing import Any, cast

from omnitune.modules import outputs
from omnitune.modules.backbones import EMBEDDING
from omnitune.modules.outputs import ModalityConfig
from omnitune.modules.tasks import TASKS, Task
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


class MLMTransformer(Transformer):
    """A `Transformer` with `transformer_task="fill-mask"`, under the name that older checkpoints and scripts use.

    Args:
        *args: As for `Transformer`.
        **kwargs: Likewise.

    Example:
        >>> sparse.save_pretrained("splade")
        >>> splade = SparseEncoder(modules=[MLMTransformer("splade"), modules.SpladePooling()])
        >>> splade[0].transformer_task
        'fill-mask'
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"transformer_task": "fill-mask", **kwargs})

    @classmethod
    def assumed_outputs(cls, task: Task) -> tuple[ModalityConfig, str]:
        """Logits over the vocabulary, because a configuration without a task is older than tasks."""
        del task
        return outputs.text_only(TASKS["fill-mask"])
