"""The module that checkpoints of SPLADE list: a backbone with its masked-language head."""

from typing import Any

from omnitune.modules import outputs
from omnitune.modules.outputs import ModalityConfig
from omnitune.modules.tasks import TASKS, Task
from omnitune.modules.transformer import Transformer


class MLMTransformer(Transformer):
    """A `Transformer` with `transformer_task="fill-mask"`, under the name that older checkpoints and scripts use.

    Args:
        *args: As for `Transformer`.
        **kwargs: Likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"transformer_task": "fill-mask", **kwargs})

    @classmethod
    def assumed_outputs(cls, task: Task) -> tuple[ModalityConfig, str]:
        """Logits over the vocabulary, because a configuration without a task is older than tasks."""
        del task
        return outputs.text_only(TASKS["fill-mask"])
