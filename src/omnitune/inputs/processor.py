"""Calls to Hugging Face processors: one batch of loaded items of one modality in, tensors out.

Arguments come in buckets, one a modality, one for all (`common`) and one for the chat template, because that is how
`transformers` processors take them.
"""

import logging
import reprlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _get_template_variables

from omnitune.errors import InputError
from omnitune.inputs.messages import Conversation, is_text_only
from omnitune.inputs.templates import limit_templates
from omnitune.inputs.video import Clip
from omnitune.types import Features, Modality

logger = logging.getLogger(__name__)

Buckets = dict[str, dict[str, Any]]

BUCKETS = ("common", "text", "audio", "image", "video", "chat_template")

DEFAULTS: Buckets = {
    "common": {"return_tensors": "pt"},
    "text": {"padding": True, "truncation": "longest_first"},
    "audio": {"padding": True},
    "image": {},
    "video": {},
    "chat_template": {},
}

_ARGUMENTS = {"text": "text", "image": "images", "audio": "audio", "video": "videos"}
_WRAPPING: Mapping[Any, str] = {"text": "process_queries", "image": "process_images"}
_SIZES = frozenset({"padding", "truncation", "max_length", "return_tensors"})
"""Arguments that a tokenizer's `apply_chat_template` wants at its top level."""

SUFFIX_CACHE = 256
"""Conversation shapes whose template suffix is remembered."""


def merged(*layers: Mapping[str, Mapping[str, Any]]) -> Buckets:
    """Buckets in which a later layer's entries win over an earlier one's.

    Raises:
        InputError: A layer has a bucket that does not exist.
    """
    result: Buckets = {bucket: {} for bucket in BUCKETS}
    for layer in layers:
        unknown = set(layer) - set(BUCKETS)
        if unknown:
            raise InputError(
                f"processing_kwargs: expected keys among {BUCKETS}, got {sorted(unknown)}; arguments of a processor go "
                'inside one of them, as in {"image": {"max_pixels": 602112}}'
            )
        for bucket, entries in layer.items():
            result[bucket].update(entries)
    return result


def call(processor: Any, modality: Modality, items: Sequence[Any], buckets: Buckets, *, flat: bool = False) -> Features:
    """Make tensors of a batch that is not made of conversations.

    Args:
        processor: A processor, tokenizer or image processor.
        modality: What the items are.
        items: Loaded items; dicts where `modality` is a tuple.
        buckets: Arguments, from `merged`.
        flat: Whether the processor predates buckets.
    """
    columns = {kind: [item[kind] for item in items] for kind in modality} if isinstance(modality, tuple) else None
    if columns is None:
        columns = {str(modality): [_unwrapped(item, modality) for item in items]}
    columns, buckets = _plain(processor, columns, buckets)
    if isinstance(processor, transformers.ProcessorMixin):
        arguments = {_ARGUMENTS[kind]: values for kind, values in columns.items()}
        if wraps(processor) and modality in _WRAPPING:
            # ColPali's and ColQwen2's put the words in when they are called, too; ColModernVBert's only here.
            return dict(getattr(processor, _WRAPPING[modality])(**arguments, **_nested(buckets)))
        if flat:
            # Of arguments that several have, audio's count: Whisper's are padded to one length.
            own = {key: value for kind in sorted(columns, reverse=True) for key, value in buckets[kind].items()}
            return dict(processor(**arguments, **own, **buckets["common"]))
        return dict(processor(**arguments, **_nested(buckets)))
    kind = "text" if isinstance(processor, PreTrainedTokenizerBase) else str(modality)
    try:
        return dict(processor(columns[kind], **{**buckets[kind], **buckets["common"]}))
    except TypeError as error:  # of tokenizers, which say neither which item nor why
        if "TextEncodeInput" not in str(error):
            raise
        raise InputError(
            f"inputs: expected whole texts, or pairs of two texts, got {reprlib.repr(columns[kind])}"
        ) from error


def wraps(processor: Any) -> bool:
    """Tell whether a processor is a retriever's, which puts words of its own around a query or a page."""
    return all(hasattr(processor, method) for method in _WRAPPING.values())


def sampling_rate(processor: Any) -> int | None:
    """Hertz of the audio that a processor takes, or None where it takes none."""
    extractor = getattr(processor, "feature_extractor", processor)
    rate: int | None = getattr(extractor, "sampling_rate", None)
    return rate


def channels(processor: Any) -> int:
    """Channels of the audio that a processor takes: two where its feature extractor has a `feature_size` of 2.

    Extractors that hand on the waveform (EnCodec's and those made after it) call their channels so; others so call the
    bins of a spectrogram, of which none has two.
    """
    return 2 if getattr(getattr(processor, "feature_extractor", processor), "feature_size", None) == 2 else 1


def _plain(
    processor: Any, columns: Mapping[str, Sequence[Any]], buckets: Buckets
) -> tuple[dict[str, list[Any]], Buckets]:
    """Columns whose clips are bare frames, and buckets that say at which rate and from where media were sampled.

    Raises:
        InputError: The buckets say the latter already.
    """
    made = {kind: list(values) for kind, values in columns.items()}
    buckets = dict(buckets)
    if "audio" in made:
        # A tokenizer remembers the limit of its last call, in its file too. A processor that reads it there hands it
        # to the feature extractor as well, which would cut a recording after as many samples: 4,096 are a quarter of a
        # second.
        remembered = getattr(getattr(processor, "tokenizer", None), "init_kwargs", {})
        buckets["audio"] = {
            **({"max_length": None} if "max_length" in remembered else {}),
            **buckets["audio"],
            "sampling_rate": sampling_rate(processor),
        }
    if "video" in made:
        if "video_metadata" in buckets["video"]:
            raise InputError(
                "processing_kwargs: expected no 'video_metadata' for a whole batch, whose clips are sorted by cost; "
                'give each clip its own, {"array": frames, "video_metadata": {"fps": 12.0, "total_num_frames": 24}}'
            )
        clips = [clip for value in made["video"] for clip in (value if isinstance(value, list) else [value])]
        made["video"] = [
            [clip.frames for clip in value] if isinstance(value, list) else value.frames for value in made["video"]
        ]
        if not takes_metadata(processor):  # an image processor, which takes a clip as a list of images
            made["video"] = [list(frames) for frames in made["video"]]
            return made, buckets
        facts = [dict(clip.metadata) for clip in clips]
        buckets["video"] = {**buckets["video"], "video_metadata": facts, "do_sample_frames": False}
    return made, buckets


def takes_metadata(processor: Any) -> bool:
    """Tell whether a processor has a part for video and not just one for images."""
    return isinstance(getattr(processor, "video_processor", processor), transformers.BaseVideoProcessor)


def _unwrapped(item: Any, modality: Modality) -> Any:
    return item[modality] if isinstance(item, dict) and item.keys() == {modality} else item


def _nested(buckets: Buckets) -> dict[str, dict[str, Any]]:
    return {
        "text_kwargs": buckets["text"],
        "images_kwargs": buckets["image"],
        "audio_kwargs": buckets["audio"],
        "videos_kwargs": buckets["video"],
        "common_kwargs": buckets["common"],
    }


def prefixed(prompt: str, text: Any) -> Any:
    """Put a prompt before a text, or before the first of a pair of texts."""
    return prompt + text if isinstance(text, str) else (prompt + text[0], *text[1:])


def check_left_padded(features: Features) -> None:
    """Check that every row ends in a real token, where a head that predicts the next one reads.

    Raises:
        InputError: A row ends in padding.
    """
    mask = features.get("attention_mask")
    if isinstance(mask, Tensor) and not bool(mask[:, -1].all()):
        raise InputError(
            'padding_side: expected "left" for a model that is read at the last token, got padding at the end of a '
            'row; set model.tokenizer.padding_side = "left"'
        )


def template_takes(processor: Any, variable: str) -> bool:
    """Tell whether the chat template reads `variable`, e.g. `"task"`."""
    template = getattr(processor, "chat_template", None)
    if template is None:
        template = getattr(getattr(processor, "tokenizer", None), "chat_template", None)
    sources = template.values() if isinstance(template, dict) else [template]
    return any(isinstance(source, str) and variable in _variables(source) for source in sources)


@lru_cache(maxsize=16)
def _variables(template: str) -> frozenset[str]:
    return frozenset(_get_template_variables(template))


class ChatTemplate:
    """Renders conversations with a processor's chat template and turns them into tensors.

    Args:
        processor: A processor or tokenizer with a chat template.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._suffixes: dict[str, list[int]] = {}

    def features(self, conversations: Sequence[Conversation], buckets: Buckets, *, max_length: int | None) -> Features:
        """Tensors of a batch of conversations.

        A text that is cut keeps what the template puts after it (an end token, the start of the answer), because
        models that read the last token were trained with it there.

        Args:
            conversations: One an item.
            buckets: Arguments, from `merged`; `chat_template: {"restore_suffix": False}` cuts the end too.
            max_length: Tokens after which the tokenizer cuts when no argument says so.
        """
        options = dict(buckets["chat_template"])
        restore = options.pop("restore_suffix", True)
        buckets = {**buckets, "chat_template": options}
        features = self._render(conversations, buckets)
        given = [options, buckets["text"], buckets["common"]]
        truncation = next((bucket["truncation"] for bucket in given if "truncation" in bucket), None)
        limit = next((bucket["max_length"] for bucket in given if "max_length" in bucket), None)
        cuts = truncation not in (None, False, "do_not_truncate") or (truncation is None and limit is not None)
        if restore and cuts:
            self._restore(features, conversations, buckets, limit if limit is not None else max_length or 0)
        return features

    def _render(self, conversations: Sequence[Conversation], buckets: Buckets) -> Features:
        options = {key: value for key, value in buckets["chat_template"].items() if key not in _SIZES}
        limit_templates(self.processor, options.get("chat_template"))
        sizes = {key: value for key, value in buckets["chat_template"].items() if key in _SIZES}
        buckets = {**buckets, "text": {**buckets["text"], **sizes}}
        tokenizer = getattr(self.processor, "tokenizer", None)
        # PaliGemma's processor refuses text without an image; its tokenizer gives the same ids.
        if isinstance(self.processor, transformers.PaliGemmaProcessor) and is_text_only(conversations):
            return self._tokenize(tokenizer, conversations, buckets, options)
        if not isinstance(self.processor, transformers.ProcessorMixin):
            return self._tokenize(self.processor, conversations, buckets, options)
        if buckets["video"].get("load_audio_from_video") or options.get("load_audio_from_video"):
            raise InputError(
                "load_audio_from_video: expected False, got True; a clip with its sound track is "
                '{"video": "clip.mp4", "audio": "clip.mp4"}'
            )
        conversations, buckets = _plain_messages(self.processor, conversations, buckets)
        rendered = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_tensors=buckets["common"].get("return_tensors"),
            processor_kwargs=_nested(buckets),
            **options,
        )
        return dict(rendered)

    def _tokenize(
        self, tokenizer: Any, conversations: Sequence[Conversation], buckets: Buckets, options: dict[str, Any]
    ) -> Features:
        arguments = {**buckets["common"], **buckets["text"]}
        rendered = tokenizer.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            tokenizer_kwargs={key: value for key, value in arguments.items() if key not in _SIZES},
            **{key: value for key, value in arguments.items() if key in _SIZES},
            **options,
        )
        return dict(rendered)

    def _restore(self, features: Features, conversations: Sequence[Conversation], buckets: Buckets, limit: int) -> None:
        """Write the template's suffix over the last tokens of every row that may have been cut, in place."""
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or ids.shape[1] < limit:
            return
        lengths = mask.sum(dim=1)
        for row in torch.nonzero(lengths >= limit).flatten().tolist():
            suffix = self._suffix(conversations[row], buckets)
            keep = min(len(suffix), int(lengths[row]))
            if keep:
                end = ids.shape[1] if mask[row, 0] == 0 else int(lengths[row])
                ids[row, end - keep : end] = torch.tensor(suffix[-keep:], dtype=ids.dtype)

    def _suffix(self, conversation: Conversation, buckets: Buckets) -> list[int]:
        """Token ids that the template puts after the content; none for conversations with media.

        What two renderings with different content have in common at their end is the template's.
        """
        if not is_text_only([conversation]):
            return []
        key = repr((_skeleton(conversation, ""), {name: buckets[name] for name in ("common", "text", "chat_template")}))
        if key not in self._suffixes:
            first, second = (self._ids(_skeleton(conversation, filler), buckets) for filler in ("0", "1 2 3 4"))
            common = 0
            for left, right in zip(reversed(first), reversed(second), strict=False):
                if left != right:
                    break
                common += 1
            differ = common < min(len(first), len(second))
            if len(self._suffixes) >= SUFFIX_CACHE:
                self._suffixes.clear()
            self._suffixes[key] = first[len(first) - common :] if differ else []
        return self._suffixes[key]

    def _ids(self, conversation: Conversation, buckets: Buckets) -> list[int]:
        """Token ids of one conversation, not cut."""
        plain = {name: {k: v for k, v in bucket.items() if k not in _SIZES} for name, bucket in buckets.items()}
        plain["text"] |= {"padding": False, "truncation": False}
        ids: list[Any] = self._render([conversation], plain)["input_ids"]
        return list(ids[0]) if ids and isinstance(ids[0], list) else list(ids)


def _plain_messages(
    processor: Any, conversations: Sequence[Conversation], buckets: Buckets
) -> tuple[list[Conversation], Buckets]:
    """As `_plain`, for conversations."""
    found: dict[str, list[Any]] = {}
    for conversation in conversations:
        for message in conversation:
            for part in message["content"] if isinstance(message.get("content"), list) else []:
                kind = part.get("type")
                if kind in ("audio", "video"):
                    found.setdefault(kind, []).append(part[kind])
    _, buckets = _plain(processor, found, buckets)
    return [[_plain_message(message) for message in conversation] for conversation in conversations], buckets


def _plain_message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    clips = [part.get("video") if isinstance(part, dict) else None for part in content]
    parts = zip(content, clips, strict=True)
    return {**message, "content": [{**p, "video": c.frames} if isinstance(c, Clip) else p for p, c in parts]}


def _skeleton(conversation: Conversation, filler: str) -> Conversation:
    """The conversation with every content but the system's replaced, as prompts may be rendered at the end."""
    return [
        message
        if message.get("role") == "system"
        else {
            **message,
            "content": [{"type": "text", "text": filler}] if isinstance(message.get("content"), list) else filler,
        }
        for message in conversation
    ]
