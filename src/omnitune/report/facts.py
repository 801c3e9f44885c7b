"""Facts that a model card states, as they were recorded while the model was loaded, trained and evaluated."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from omnitune.report.wording import WORDING, Wording


@dataclasses.dataclass(slots=True, kw_only=True)
class DatasetFacts:
    """One dataset that the model was trained or evaluated on.

    Attributes:
        name: Its name among several, or None.
        kind: `"training"` or `"evaluation"`.
        rows: Number of rows, None for a stream.
        columns: Columns that were encoded, in order.
        label: Label column, or None.
        loss: Class name of the loss.
        loss_config: The loss's settings.
    """

    name: str | None
    kind: str
    rows: int | None
    columns: Sequence[str]
    label: str | None
    loss: str
    loss_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True, kw_only=True)
class TrainingFacts:
    """Facts that the trainer records for the card.

    Attributes:
        datasets: Training and evaluation datasets.
        arguments: Training arguments that differ from their defaults.
        citations: BibTeX of the losses by class name.
        log: One dict a logged step: "Epoch", "Step", "Training Loss", evaluation losses and primary metrics.
        best_step: Step of the weights that were loaded at the end, or None.
        seconds: Time in training.
        negatives: Lines on how many negatives a query meets.
        skipped: Bad items that were left out, one line each.
    """

    datasets: list[DatasetFacts] = dataclasses.field(default_factory=list)
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    citations: dict[str, str] = dataclasses.field(default_factory=dict)
    log: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_step: int | None = None
    seconds: float = 0.0
    negatives: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)

    def record(self, step: int, epoch: float | None, values: Mapping[str, float]) -> None:
        """Add values to the log's row of this step."""
        if not self.log or self.log[-1]["Step"] != step:
            self.log.append({"Epoch": epoch or 0.0, "Step": step})
        self.log[-1].update(values)


@dataclasses.dataclass(slots=True, kw_only=True)
class EvaluationFacts:
    """The latest result of one evaluator."""

    name: str
    description: str
    metrics: dict[str, float | str]
    primary: str | None
    config: Mapping[str, Any]
    epoch: float
    step: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts of the model itself.

    `own_modules` are the classes in it that sentence_transformers does not have, `kinds` what it is called within its
    family, such as SPLADE.
    """

    family: str
    size: int | None
    max_seq_length: int | None
    similarity: str | None
    modalities: Sequence[str]
    architecture: str
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    own_modules: Sequence[str] = ()
    kinds: Sequence[str] = ()
    max_active_dims: int | None = None

    @property
    def wording(self) -> Wording:
        """Words of the card for the family."""
        return WORDING.get(self.family, WORDING["SentenceTransformer"])
