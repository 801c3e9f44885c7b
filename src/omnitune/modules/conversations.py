"""Items as conversations, for a backbone whose processor has a chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from omnitune.inputs import messages
from omnitune.inputs import processor as processors
from omnitune.inputs.templates import carry_pairs
from omnitune.modules.outputs import ModalityConfig
from omnitune.types import Features, Modality

PART_FEATURES = (("image", "pixel_values"), ("video", "video_grid_thw"), ("audio", "input_features"))
"""Kinds of parts, and the feature of a processor in which those of the whole batch lie one after another."""


class Conversations:
    """Turns items into conversations, and those into tensors.

    Args:
        processor: A processor or tokenizer; its chat template is asked for when a batch comes.
        modality_config: Of a checkpoint, which may say in which form the template takes content; None has to find out.
        known: Whether the architecture takes content as typed parts, where that is known.

    Attributes:
        structured: Whether the template takes the content of a message as typed parts, and not as a bare value.
    """

    def __init__(self, processor: Any, modality_config: ModalityConfig | None, *, known: bool | None) -> None:
        message = (modality_config or {}).get("message")
        form = "auto" if message is None else message.get("format", "auto")
        if form == "auto":
            self.structured = messages.reads_structured(getattr(processor, "chat_template", None), known=known)
        else:
            self.structured = form == "structured"
        self.use(processor)

    def use(self, processor: Any) -> None:
        """Take the chat template of another processor from now on."""
        self._template = processors.ChatTemplate(processor)

    def features(
        self,
        inputs: Sequence[Any],
        kinds: Sequence[Modality],
        buckets: processors.Buckets,
        *,
        prompt: str | None,
        task: str | None,
        max_length: int | None,
    ) -> Features:
        """Tensors of a batch, with the number of its images, clips and recordings in every row.

        Args:
            inputs: Loaded items.
            kinds: What each of them is.
            buckets: Arguments, from `processor.merged`.
            prompt: A message of the system before each.
            task: For a template that reads it.
            max_length: Tokens after which the tokenizer cuts when no argument says so.
        """
        conversations = [
            messages.to_messages(item, kind, prompt=prompt, structured=self.structured)
            for item, kind in zip(inputs, kinds, strict=True)
        ]
        if task is not None and processors.template_takes(self._template.processor, "task"):
            buckets["chat_template"].setdefault("task", task)
        features = self._template.features(conversations, buckets, max_length=max_length)
        counts = messages.count_parts(conversations, [kind for kind, _ in PART_FEATURES])
        for kind, sign in PART_FEATURES:
            if sign in features:
                features[f"num_{kind}s_per_sample"] = Tensor(counts[kind]).long()
        features["modality"] = "message"
        return features

    def take_pairs(self, options: Mapping[str, Any]) -> bool:
        """Let the template render pairs.

        Args:
            options: Arguments of the template.

        Returns:
            Whether it had to be extended for that.
        """
        given = {key: value for key, value in options.items() if key != "restore_suffix"}
        return carry_pairs(self._template.processor, structured=self.structured, options=given)
