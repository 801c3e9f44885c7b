"""What a backbone can be for: one row a task, by the name that a checkpoint keeps as `transformer_task`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
)

from omnitune.errors import InputError
from omnitune.modules.backbones import TOKENS

SCORES = "scores"
LOGITS = "causal_logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        name: Its name.
        loader: Class of transformers that loads a backbone with its head.
        output: Field of the forward's result that is taken.
        feature: Feature that it becomes.
        generates: Whether the head predicts the next token, so that rows end in a real token (padding on the left).
    """

    name: str
    loader: Any
    output: str
    feature: str
    generates: bool = False


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(name="feature-extraction", loader=AutoModel, output="last_hidden_state", feature=TOKENS),
        Task(
            name="sequence-classification", loader=AutoModelForSequenceClassification, output="logits", feature=SCORES
        ),
        Task(name="text-generation", loader=AutoModelForCausalLM, output="logits", feature=LOGITS, generates=True),
        Task(name="any-to-any", loader=AutoModelForMultimodalLM, output="logits", feature=LOGITS, generates=True),
    )
}


def task_named(name: str) -> Task:
    """The row of a task.

    Raises:
        InputError: There is none of that name.
    """
    if name not in TASKS:
        raise InputError(f"transformer_task: expected one of {sorted(TASKS)}, got {name!r}")
    return TASKS[name]
