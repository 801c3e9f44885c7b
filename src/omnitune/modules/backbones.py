"""Facts about architectures that the general rules do not find out by themselves: one row each, by `model_type`.

The general rules are in `outputs`: modalities from the processor's parts; a model whose forward gives
`last_hidden_state` gives token vectors; one with `get_text_features` and the like gives an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from omnitune.types import Modality

TOKENS = "token_embeddings"
EMBEDDING = "sentence_embedding"

_Output = tuple[str, str]
FORWARD: _Output = ("forward", "last_hidden_state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """Particularities of one architecture.

    Attributes:
        encoder: Where an encoder-decoder's encoder is, `"package.module:Class"`, if only that is to be loaded.
        outputs: Which method to call for each modality, and which of its outputs to take; None for the general rules.
        output_name: Feature that `outputs` make.
        structured_messages: Whether its chat template takes structured content; None looks at the template.
        flat_processor: Whether its processor takes no nested arguments.
        processing: Arguments of its processor, over the general ones.
        packs_media: Whether texts with images and video can be packed into one row: it takes its towers' outputs, and
            positions of its tokens in place and time.
        takes_positions: Whether its forward takes positions that were made before (`modules.host_positions`).
    """

    encoder: str | None = None
    outputs: Mapping[Modality, tuple[str, str]] | None = None
    output_name: str = TOKENS
    structured_messages: bool | None = None
    flat_processor: bool = False
    processing: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    packs_media: bool = False
    takes_positions: bool = False


def _encoder(place: str) -> Backbone:
    return Backbone(encoder=f"transformers{place}")


def _forward(*modalities: Modality) -> Backbone:
    return Backbone(outputs={modality: FORWARD for modality in modalities})


_PAIR: Modality = ("image", "text")
_PACKS_MEDIA = Backbone(packs_media=True)
_HEARING = _forward("audio", ("audio", "text"))

BACKBONES: Mapping[str, Backbone] = {
    # Encoder-decoders of which only the encoder is used.
    "t5": _encoder(":T5EncoderModel"),
    "mt5": _encoder(":MT5EncoderModel"),
    "umt5": _encoder(":UMT5EncoderModel"),
    "longt5": _encoder(":LongT5EncoderModel"),
    "udop": _encoder(":UdopEncoderModel"),
    "switch_transformers": _encoder(":SwitchTransformersEncoderModel"),
    "prophetnet": _encoder(":ProphetNetEncoder"),
    "blenderbot": _encoder(".models.blenderbot.modeling_blenderbot:BlenderbotEncoder"),
    "blenderbot-small": _encoder(".models.blenderbot_small.modeling_blenderbot_small:BlenderbotSmallEncoder"),
    "m2m_100": _encoder(".models.m2m_100.modeling_m2m_100:M2M100Encoder"),
    "marian": _encoder(".models.marian.modeling_marian:MarianEncoder"),
    "pegasus": _encoder(".models.pegasus.modeling_pegasus:PegasusEncoder"),
    "pegasus_x": _encoder(".models.pegasus_x.modeling_pegasus_x:PegasusXEncoder"),
    # Image-and-text models that take only some combinations.
    "git": _forward("text", _PAIR),
    "grounding-dino": _forward(_PAIR),
    "idefics": _forward("text", "image", _PAIR),
    "kosmos-2": _forward(_PAIR),
    "layoutlmv3": _forward("image", _PAIR),
    "paligemma": _forward(_PAIR),
    "vilt": _forward(_PAIR),
    "visual_bert": _forward("text", _PAIR),
    # Speech encoders, whose processors can tokenize transcripts too.
    "hubert": _HEARING,
    "moonshine": replace(_HEARING, encoder="transformers.models.moonshine.modeling_moonshine:MoonshineEncoder"),
    "sew": _HEARING,
    "sew-d": _HEARING,
    "unispeech": _HEARING,
    "unispeech-sat": _HEARING,
    "wav2vec2": _HEARING,
    "wav2vec2-conformer": _HEARING,
    "wavlm": _HEARING,
    "whisper": replace(
        _HEARING,
        encoder="transformers.models.whisper.modeling_whisper:WhisperEncoder",
        flat_processor=True,
        processing={"audio": {"padding": "max_length"}},  # its positions are those of 30 seconds
    ),
    # Towers whose features are not where the general rules look.
    "blip": Backbone(
        outputs={
            "text": ("get_text_features", "pooler_output"),
            "image": ("get_image_features", "pooler_output"),
            _PAIR: ("get_multimodal_features", "pooler_output"),
        },
        output_name=EMBEDDING,
    ),
    "blip-2": Backbone(
        outputs={
            "text": ("get_text_features", "last_hidden_state"),
            "image": ("get_image_features", "last_hidden_state"),
        }
    ),
    "xclip": Backbone(
        outputs={"text": ("get_text_features", "pooler_output"), "video": ("get_video_features", "pooler_output")},
        output_name=EMBEDDING,
    ),
    "flava": Backbone(
        outputs={"text": ("get_text_features", "pooler_output"), "image": ("get_image_features", "pooler_output")}
    ),
    "sam3": Backbone(
        outputs={
            "text": ("get_text_features", "last_hidden_state"),
            "image": ("get_vision_features", "last_hidden_state"),
        },
        flat_processor=True,
    ),
    "clipseg": Backbone(flat_processor=True),
    # Vision-language models whose rows can be packed with their images.
    "qwen2_vl": _PACKS_MEDIA,
    "qwen2_5_vl": _PACKS_MEDIA,
    "qwen3_vl": replace(_PACKS_MEDIA, takes_positions=True),
    "qwen3_vl_moe": replace(_PACKS_MEDIA, takes_positions=True),
    # Chat templates that look structured and are not.
    "apertus": Backbone(structured_messages=False),
    "deepseek_v3": Backbone(structured_messages=False),
    "gpt_oss": Backbone(structured_messages=False),
    "seed_oss": Backbone(structured_messages=False),
}

TOWERS: Mapping[str, tuple[str, ...]] = {
    "vision": ("visual", "vision_model", "vision_tower"),
    "audio": ("audio_model", "audio_tower"),
    "language": ("language_model", "text_model"),
}
"""What the part of a backbone that reads one modality is called in it."""

_ORDINARY = Backbone()


def backbone(model_type: str) -> Backbone:
    """The row of an architecture; an empty one where the general rules do."""
    return BACKBONES.get(model_type, _ORDINARY)
