"""Backbone, configuration and processor out of a directory or a repository. Weights are read from safetensors only."""

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import transformers
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from transformers import PretrainedConfig

from omnitune import runtime
from omnitune.errors import CheckpointError
from omnitune.modules import files
from omnitune.modules.backbones import backbone
from omnitune.modules.tasks import Task

ADAPTER_CONFIG = "adapter_config.json"


CONFIG_FILES = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
"""Names of a Transformer's configuration file; old versions named it after the architecture."""

WHOLE = {r"^(?:model\.)?encoder\.": "", r"^(?:model\.)?shared\.": "embed_tokens."}
"""Names of an encoder's weights in a checkpoint of encoder and decoder, and what the encoder calls them."""

_RENAMED = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}


def read_settings(folder: Path, known: Collection[str]) -> dict[str, Any]:
    """A Transformer's configuration, under whichever name the file has; what it says of trusting code is dropped.

    Args:
        folder: Where it lies.
        known: Keys that it may have.

    Raises:
        CheckpointError: It has others.
    """
    path = next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), folder / CONFIG_FILES[0])
    config = {_RENAMED.get(key, key): value for key, value in files.read_json(path).items()}
    unknown = sorted(config.keys() - set(known))
    if unknown:
        raise CheckpointError(f"{path}: expected keys among {sorted(known)}, got {unknown}")
    for key in _RENAMED.values():
        if key in config:
            config[key] = {name: value for name, value in config[key].items() if name != "trust_remote_code"}
    return config


def locate(model_name_or_path: str, *sources: dict[str, Any]) -> Path:
    """The local directory of a backbone.

    Args:
        model_name_or_path: Directory or repository.
        *sources: Keyword arguments for transformers, which may say how the hub is reached.
    """
    asked = {key: value for source in reversed(sources) for key, value in source.items() if value is not None}
    subfolder = asked.get("subfolder") or ""
    return files.resolve(model_name_or_path, files.HubOptions.from_kwargs(asked), subfolder=subfolder) / subfolder


def located(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for transformers once the directory is known.

    How to reach the hub stays: an adapter's base model, or code, may be elsewhere.
    """
    return {key: value for key, value in kwargs.items() if key not in ("revision", "subfolder")}


def rename(model: "transformers.PreTrainedModel", folder: Path, name: str) -> None:
    """Let a model be called what the user called it, as adapters name their base by it; an adapter's base keeps its."""
    if not (folder / ADAPTER_CONFIG).is_file():
        model.name_or_path = model.config.name_or_path = name


def load_config(folder: Path, task: Task, kwargs: dict[str, Any]) -> PretrainedConfig:
    """The backbone's configuration; of a PEFT adapter, its base model's. Caches for generation are off.

    A classifier that is made anew has one label unless `kwargs` say otherwise.

    Raises:
        CheckpointError: There is none.
        MissingExtraError: The directory holds an adapter and peft is not installed.
    """
    source: str = str(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        runtime.require("peft", extra="lora")
        source = files.read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or source
    elif not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: expected a Hugging Face model (config.json) or a checkpoint with modules.json, got neither"
        )
    config = transformers.AutoConfig.from_pretrained(source, **kwargs)
    _disable_cache(config, kwargs)
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
    if task.auto_class == "AutoModelForSequenceClassification" and not classifies and "num_labels" not in kwargs:
        config.num_labels = 1
    return config


def _disable_cache(config: Any, kwargs: dict[str, Any], wanted: bool = False) -> None:
    wanted = kwargs.get("use_cache", wanted)
    if hasattr(config, "use_cache"):
        config.use_cache = wanted
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            _disable_cache(part, kwargs.get(name) or {}, wanted)


def load_model(
    folder: Path, name: str, task: Task, config: PretrainedConfig, kwargs: dict[str, Any]
) -> "transformers.PreTrainedModel":
    """The backbone with its task's head; of an encoder-decoder, its encoder where the table says so.

    Args:
        folder: Directory with the weights.
        name: What the user called it.
        task: What it is for.
        config: From `load_config`.
        kwargs: For `from_pretrained`.

    Raises:
        CheckpointError: There are no safetensors weights.
    """
    if not any(folder.glob("*.safetensors")):
        files.refuse_pickle(folder)
        raise CheckpointError(
            f"{folder}: expected weights as safetensors, got none. If {name!r} has only pickled weights "
            f"({files.PICKLED_WEIGHTS}), which are not read because a pickle can run code, convert them once, if you "
            f"trust them: AutoModel.from_pretrained({name!r}).save_pretrained(...) writes safetensors"
        )
    kwargs = {"use_safetensors": True, **kwargs}
    if "torch_dtype" in kwargs:
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
    encoder = backbone(config.model_type).encoder
    with files.damaged_weights(folder):
        if encoder is None or task.auto_class != "AutoModel":
            model = task.loader.from_pretrained(str(folder), config=config, **kwargs)
        else:
            package, _, class_name = encoder.partition(":")
            model = _encoder_of(getattr(importlib.import_module(package), class_name), folder, config, kwargs)
    rename(model, folder, name)
    return model


def _encoder_of(kind: Any, folder: Path, config: PretrainedConfig, kwargs: dict[str, Any]) -> Any:
    """The encoder alone; the decoder's weights in the file are expected, so transformers need not warn.

    Raises:
        CheckpointError: Weights of the encoder are missing.
    """

    class Encoder(kind):  # type: ignore[misc]  # its base is known only here
        _keys_to_ignore_on_load_unexpected = ["decoder.*", "lm_head.*", "proj_out.*", "final_logits_bias"]

    part = kind.__name__.endswith("Encoder")  # of the model, whose weights carry the names of the whole
    if part:
        kwargs = {"key_mapping": WHOLE, **kwargs}
    model, found = Encoder.from_pretrained(str(folder), config=config, output_loading_info=True, **kwargs)
    missing = sorted(key for key in found["missing_keys"] if not key.endswith("embed_positions.weight"))
    if missing:  # sinusoids aside, which need not be in the file
        raise CheckpointError(f"{folder}: expected the weights of a {kind.__name__}, got none for {missing[:3]}")
    if part:
        model._weight_conversions = []  # or saving would turn the names back
    model.__class__ = kind
    return model


def load_processor(folder: Path, config: PretrainedConfig, kwargs: dict[str, Any], *, lower_case: bool) -> Any:
    """The processor, or the tokenizer where there is nothing else; its length limit fits the backbone.

    Args:
        folder: Directory with its files.
        config: The backbone's configuration.
        kwargs: For `from_pretrained`.
        lower_case: Whether texts are put in lower case first.
    """
    processor = _sized(folder, kwargs)
    tokenizer = processor if hasattr(processor, "model_max_length") else getattr(processor, "tokenizer", None)
    if tokenizer is None:
        return processor
    positions = getattr(config, "max_position_embeddings", -1)
    if "model_max_length" not in kwargs and positions != -1:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    if lower_case:
        _lower(tokenizer.backend_tokenizer)
    return processor


def save_processor(processor: Any, folder: str) -> None:
    """Write a processor; one for audio without the limit of its last text, which readers take for one of samples too.

    Args:
        processor: A processor or tokenizer.
        folder: Existing folder.
    """
    tokenizer: Any = getattr(processor, "tokenizer", None)
    if getattr(processor, "feature_extractor", None) is not None and hasattr(tokenizer, "backend_tokenizer"):
        tokenizer.backend_tokenizer.no_truncation()
    processor.save_pretrained(folder)


def _sized(folder: Path, kwargs: dict[str, Any]) -> Any:
    """The processor, `min_pixels` and `max_pixels` set on its parts for images and video.

    Given to `from_pretrained`, they would reach the tokenizer too, and come back from it and warn with every call.
    """
    pixels = {"shortest_edge": kwargs.get("min_pixels"), "longest_edge": kwargs.get("max_pixels")}
    pixels = {edge: value for edge, value in pixels.items() if value is not None}
    others = {key: value for key, value in kwargs.items() if key not in ("min_pixels", "max_pixels")}
    processor = transformers.AutoProcessor.from_pretrained(str(folder), **others)
    if not pixels:
        return processor
    parts = [processor, *(getattr(processor, name, None) for name in ("image_processor", "video_processor"))]
    fitting = [part for part in parts if {"shortest_edge", "longest_edge"} <= dict(getattr(part, "size", {})).keys()]
    if not fitting:  # an architecture that has its own idea of them
        return transformers.AutoProcessor.from_pretrained(str(folder), **kwargs)
    for part in fitting:
        part.size = type(part.size)(**{**dict(part.size), **pixels})
    return processor


def _lower(tokenizer: Any) -> None:
    given = tokenizer.normalizer
    steps: list[Any] = [*given] if isinstance(given, Normalizers) else [] if given is None else [given]  # type: ignore[misc]
    if not any(isinstance(step, Lowercase) for step in steps):
        tokenizer.normalizer = Normalizers([Lowercase(), *steps])
