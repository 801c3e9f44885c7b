"""Hooks of Sentence Transformers' trainers: those that work here, and the sentence for each that nothing would call."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import FeatureExtractionMixin, ImageProcessingMixin, PreTrainedTokenizerBase, ProcessorMixin

from omnitune.engine.engine import to_device
from omnitune.errors import InputError
from omnitune.renames import missing, refuse_overrides
from omnitune.training.hooks import HookedTrainer
from omnitune.types import Collated, Column, Labels

LEFT_OUT = {
    **dict.fromkeys(
        ("add_dataset_name_column", "add_dataset_name_transform", "should_dataset_name_column_be_added"),
        'a batch knows its dataset; read inputs["dataset"] in compute_loss',
    ),
    **dict.fromkeys(
        ("preprocess_dataset", "validate_column_names", "maybe_warn_about_column_order"),
        "datasets are checked as they are; change one before the trainer gets it, or a batch in data_collator",
    ),
    **dict.fromkeys(
        ("prepare_loss", "override_model_in_loss"),
        "the trainer puts its model into the loss; give a function of the model as loss=, or override compute_loss",
    ),
    **dict.fromkeys(
        ("add_model_card_callback", "model_card_callback_class", "model_card_data_class"),
        "the card reads the run; set model.model_card_data, or override create_model_card",
    ),
    "accum_loss_components": "override track_loss_components, which sees the parts of every loss, or log",
    "model_class": "use type(trainer.model)",
    "_build_dataloader": "override get_train_dataloader or get_eval_dataloader",
    "_checkpoint_push_skip_names": "a checkpoint is pushed as it is saved; override save_model",
}
"""Names of Sentence Transformers' trainers that are not here, and what takes their place."""

FEATURES = ("input_ids", "sentence_embedding", "pixel_values", "input_features", "input_values", "pixel_values_videos")
"""Features by which a column is found in a batch that a user's collator made of tensors."""


class OldNames(HookedTrainer):
    """Hooks that scripts override or call; stands under the trainer of all families."""

    def __init__(self, **options: Any) -> None:
        refuse_overrides(type(self), LEFT_OUT)
        super().__init__(**options)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise missing(type(self).__name__, name, LEFT_OUT)

    def collect_features(self, inputs: Mapping[str, Any]) -> tuple[list[Any], Labels | None]:
        """Features of every column of a batch, and its labels, as a loss takes them.

        Args:
            inputs: A batch of raw columns; or one of tensors that a collator of one's own made, in which
                `anchor_input_ids` is the feature `input_ids` of the column `anchor`.

        Raises:
            InputError: The batch has no columns.
        """
        if "columns" in inputs:
            return self._features(inputs["columns"]), inputs["labels"]
        starts = dict.fromkeys(
            key.removesuffix(feature) for key in inputs for feature in FEATURES if key.endswith(f"_{feature}")
        )
        if not starts:
            raise InputError(
                f"data_collator: expected a batch with columns, as omnitune.data.collator.Collator makes it, or with "
                f"keys such as 'anchor_input_ids', got {sorted(inputs)}"
            )
        made = [{k.removeprefix(at): v for k, v in inputs.items() if k.startswith(at)} for at in starts]
        return made, inputs.get("label")

    def _features(self, columns: Sequence[Column]) -> list[Any]:
        """Ready features of every column, for a loss that calls the model itself."""
        call, device = self.model.preprocess, self.model.device
        made = (call(list(column.items), prompt=column.prompt, task=column.role) for column in columns)
        return [Collated(to_device(one, device), column) for one, column in zip(made, columns, strict=True)]


def own_processor(model: Any) -> Any:
    """The model's tokenizer or processor, where upstream knows its kind, or None."""
    kinds = (PreTrainedTokenizerBase, ProcessorMixin, ImageProcessingMixin, FeatureExtractionMixin)
    processor = getattr(model, "processor", None)
    return processor if isinstance(processor, kinds) else None
