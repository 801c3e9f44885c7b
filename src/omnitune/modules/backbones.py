"""Facts about architectures that the general rules do not find out by themselves: one row each, by `model_type`.

The general rules are in `outputs`: modalities from the processor's parts; a model whose forward gives
`last_hidden_state` gives token vectors; one with `get_text_features` and the like gives an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from omnitune.types import Modality

TOKENS = "token_embeddings"
EMBEDDING = "sentence_embedding"

FORWARD = ("forward", "last_hidden_state")
TEXT_POOLED = ("get_text_features", "pooler_output")
IMAGE_POOLED = ("get_image_features", "pooler_output")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """What is particular about one architecture.

    Attributes:
        encoder: Where an encoder-decoder's encoder is, `"package.module:Class"`, if only that is to be loaded.
        outputs: Which method to call for each modality, and which of its outputs to take; None for the general rules.
        output_name: Feature that `outputs` make.
        structured_messages: Whether its chat template takes structured content; None looks at the template.
        flat_processor: Whether its processor takes no nested arguments.
    """

    encoder: str | None = None
    outputs: Mapping[Modality, tuple[str, str]] | None = None
    output_name: str = TOKENS
    structured_messages: bool | None = None
    flat_processor: bool = False


def _fused(*modalities: Modality) -> Backbone:
    return Backbone(outputs={modality: FORWARD for modality in modalities})


BACKBONES: Mapping[str, Backbone] = {
    # Encoder-decoders of which only the encoder is used.
    "t5": Backbone(encoder="transformers:T5EncoderModel"),
    "mt5": Backbone(encoder="transformers:MT5EncoderModel"),
    "umt5": Backbone(encoder="transformers:UMT5EncoderModel"),
    "longt5": Backbone(encoder="transformers:LongT5EncoderModel"),
    "switch_transformers": Backbone(encoder="transformers:SwitchTransformersEncoderModel"),
    "m2m_100": Backbone(encoder="transformers.models.m2m_100.modeling_m2m_100:M2M100Encoder"),
    "marian": Backbone(encoder="transformers.models.marian.modeling_marian:MarianEncoder"),
    "pegasus": Backbone(encoder="transformers.models.pegasus.modeling_pegasus:PegasusEncoder"),
    # Image-and-text models without a tower for each.
    "paligemma": _fused(("image", "text")),
    "vilt": _fused(("image", "text")),
    "kosmos-2": _fused(("image", "text")),
    "git": _fused("text", ("image", "text")),
    "layoutlmv3": _fused("image", ("image", "text")),
    # Towers whose features are not where the rules look.
    "blip": Backbone(outputs={"text": TEXT_POOLED, "image": IMAGE_POOLED}, output_name=EMBEDDING),
    "flava": Backbone(outputs={"text": TEXT_POOLED, "image": IMAGE_POOLED}),
    "clipseg": Backbone(flat_processor=True),
    # Chat templates that look structured and are not.
    "apertus": Backbone(structured_messages=False),
    "deepseek_v3": Backbone(structured_messages=False),
    "gpt_oss": Backbone(structured_messages=False),
    "seed_oss": Backbone(structured_messages=False),
}

_ORDINARY = Backbone()


def backbone(model_type: str) -> Backbone:
    """The row of an architecture; an empty one where the general rules do."""
    return BACKBONES.get(model_type, _ORDINARY)
