"""Tasks of a backbone: one row each, by the name that a checkpoint keeps as `transformer_task`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import transformers

from omnitune.errors import InputError
from omnitune.modules.backbones import TOKENS

SCORES = "scores"
LOGITS = "causal_logits"

TransformerTask = Literal[
    "feature-extraction", "sequence-classification", "text-generation", "any-to-any", "fill-mask", "retrieval"
]
"""Names that checkpoints use; `TASKS` are those that this version has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        name: Its name.
        auto_class: Class of transformers that loads a backbone with its head, by name: the class loads much code.
        output: Field of the forward's result that is taken.
        feature: Feature that it becomes.
        generates: Whether the head predicts the next token, so that rows end in a real token (padding on the left).
    """

    name: str
    auto_class: str
    output: str
    feature: str
    generates: bool = False

    @property
    def loader(self) -> Any:
        """The class that `auto_class` names."""
        return getattr(transformers, self.auto_class)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(name="feature-extraction", auto_class="AutoModel", output="last_hidden_state", feature=TOKENS),
        Task(
            name="sequence-classification",
            auto_class="AutoModelForSequenceClassification",
            output="logits",
            feature=SCORES,
        ),
        Task(name="fill-mask", auto_class="AutoModelForMaskedLM", output="logits", feature=TOKENS),
        Task(name="retrieval", auto_class="AutoModel", output="embeddings", feature=TOKENS),
        Task(
            name="text-generation", auto_class="AutoModelForCausalLM", output="logits", feature=LOGITS, generates=True
        ),
        Task(name="any-to-any", auto_class="AutoModelForMultimodalLM", output="logits", feature=LOGITS, generates=True),
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


def check_supported(backend: str) -> None:
    """Refuse what computes a forward elsewhere than in torch.

    Raises:
        InputError: A checkpoint or a caller asks for it.
    """
    if backend != "torch":
        raise InputError(
            f'backend: expected "torch", got {backend!r}; a model as a whole runs elsewhere: '
            "SentenceTransformer(path, backend='onnx')"
        )
