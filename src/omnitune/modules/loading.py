"""Backbone, configuration and processor out of a directory or a repository. Weights are read from safetensors only."""

import copy
import importlib
import logging
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from transformers import PretrainedConfig

from omnitune import runtime
from omnitune.errors import CheckpointError, CheckpointNotFoundError, OmnituneError, UntrustedCodeError
from omnitune.modules import files
from omnitune.modules.backbones import backbone
from omnitune.modules.config_checks import ADAPTER_CONFIG, check_adapter, check_counts, check_index, leads_away
from omnitune.modules.tasks import Task
from omnitune.places import is_embedded, local_model, no_model, no_repository

logger = logging.getLogger(__name__)

CONFIG_FILES = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
"""Names of a Transformer's configuration file; old versions named it after the architecture."""

WHOLE = {r"^(?:model\.)?encoder\.": "", r"^(?:model\.)?shared\.": "embed_tokens."}
"""Names of an encoder's weights in a checkpoint of encoder and decoder, and what the encoder calls them."""

CALLERS_OWN = frozenset({
    "trust_remote_code", "code_revision", "allow_all_kernels", "use_kernels", "kernel_config", "use_safetensors",
    "weights_only", "offload_folder", "cache_dir", "proxies", "token", "local_files_only", "force_download", "revision",
    "device_map", "max_memory", "tp_plan", "distributed_config", "offload_buffers", "offload_state_dict", "state_dict",
    "key_mapping", "adapter_kwargs", "adapter_name", "gguf_file", "transformers_weights", "variant", "config",
    "tokenizer_file", "vocab_file", "merges_file", "name_or_path", "pretrained_model_name_or_path",
    "_configuration_file",
})  # fmt: skip
"""Arguments of transformers that let code or pickles in, say which files are read or written and on which device they
end, or whom a token is sent to: the caller may give them, a checkpoint's own files may not."""

FRESH = re.compile(r"(^|\.)(pooler\.|masked_spec_embed$|position_ids$)")
"""Weights that a checkpoint may lack: poolers, which token vectors do not pass, and what only pretraining reads."""

SINUSOIDS = re.compile(r"(^|\.)embed_positions\.weight$")
"""Positions that the encoder of an encoder-decoder computes, so that they need not be in the file."""

_RENAMED = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}


def read_settings(folder: Path, known: Collection[str]) -> dict[str, Any]:
    """A Transformer's configuration, under whichever name the file has, without `CALLERS_OWN`.

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
    other = config.get("tokenizer_name_or_path")
    if other is not None and (not isinstance(other, str) or leads_away(other)):
        raise CheckpointError(
            f"{path}: tokenizer_name_or_path: expected a repository owner/name or null, got {reprlib.repr(other)}"
        )
    for key in _RENAMED.values():
        given = config.get(key) or {}
        if not isinstance(given, dict):
            raise CheckpointError(f"{path}: {key}: expected a JSON object, got {given!r}")
        for name, value in given.items():
            if name not in CALLERS_OWN and isinstance(value, str) and leads_away(value):
                raise CheckpointError(
                    f"{path}: {key}: {name}: expected no path out of the checkpoint, got {reprlib.repr(value)}"
                )
        if key in config:
            own = {name: value for name, value in given.items() if name not in CALLERS_OWN}
            if _kernel(own):
                del own["attn_implementation"]
            config[key] = own
    for key in ("max_seq_length", "query_length", "document_length"):
        limit = config.get(key)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise CheckpointError(f"{path}: {key}: expected a positive whole number or null, got {limit!r}")
    return config


def _trusting(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for transformers that say whether code of the checkpoint's own may run.

    Where nothing is said, transformers asks on standard input, so a `y` that was meant for something else runs it.
    """
    return {**kwargs, "trust_remote_code": kwargs.get("trust_remote_code") is True}


@contextmanager
def upstream(place: Path, part: str) -> Iterator[None]:
    """Turn whatever other libraries raise about a checkpoint's files into one sentence; our own errors pass.

    Args:
        place: The checkpoint.
        part: What is being read of it, such as "configuration".

    Raises:
        UntrustedCodeError: The checkpoint needs code of its own, which the caller did not allow.
        CheckpointError: Anything else is wrong with its files, or with the arguments for them.
    """
    try:
        yield
    except (OmnituneError, ImportError, torch.OutOfMemoryError, MemoryError):
        # A missing package names itself. A plain RuntimeError of CPU memory comes of a number in a damaged file.
        raise
    except Exception as error:  # transformers, tokenizers and peft raise every kind there is for a value they dislike
        said = (str(error).strip().splitlines() or [""])[0]
        if "ignore_mismatched_sizes" in said:
            raise CheckpointError(
                f"{place}: expected weights of the sizes that its config.json says, got others; one of the two is "
                "damaged, or of another model. For a new head of another num_labels, add "
                'model_kwargs={"ignore_mismatched_sizes": True}'
            ) from error
        if "trust_remote_code" in str(error):
            raise UntrustedCodeError(
                f"{place}: its {part} needs code that comes with the checkpoint; if you trust it, load it with "
                "trust_remote_code=True"
            ) from error
        raise CheckpointError(
            f"{place}: expected a {part} that can be read, got {type(error).__name__}: {said[:300]}"
        ) from error


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
    """Let a model be called what the user called it, as adapters name their base by it.

    An adapter's base keeps its name, and MiniLM its folder, because peft knows no embedded model.
    """
    if not (folder / ADAPTER_CONFIG).is_file() and not is_embedded(name):
        model.name_or_path = model.config.name_or_path = name


def load_config(folder: Path, task: Task, kwargs: dict[str, Any]) -> PretrainedConfig:
    """The backbone's configuration; of a PEFT adapter, its base model's. Caches for generation are off.

    A classifier that is made anew has one label unless `kwargs` say otherwise.

    Raises:
        CheckpointError: There is none.
        CheckpointNotFoundError: The base model of an adapter is not there.
        MissingExtraError: The directory holds an adapter, and peft is not installed or too old for transformers.
    """
    source: str = str(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        runtime.require_peft()
        source = files.read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or source
        if not isinstance(source, str):
            raise CheckpointError(
                f"{folder / ADAPTER_CONFIG}: base_model_name_or_path: expected a directory or a repository owner/name, "
                f"got {reprlib.repr(source)}"
            )
    elif not (folder / "config.json").is_file():
        raise no_model(folder)
    check_counts(Path(source) / "config.json")
    if kwargs.get("trust_remote_code") is not True and (
        kernel := _kernel(files.read_json(Path(source) / "config.json"))
    ):
        raise UntrustedCodeError(
            f"{folder}: its config.json wants the attention {kernel!r}, code of the hub; if you trust it, load it with "
            "trust_remote_code=True, or remove attn_implementation there"
        )
    with upstream(folder, "configuration"):
        try:
            config = transformers.AutoConfig.from_pretrained(source, **_trusting(kwargs))
        except OSError as error:
            if source == str(folder):
                raise
            local_model(source)
            missing = no_repository(source, error, kwargs.get("cache_dir"))
            raise CheckpointNotFoundError(f"{folder}: an adapter, whose base model is missing: {missing}") from error
    _disable_cache(config, kwargs)
    saved = config.architectures
    classifies = isinstance(saved, list) and any(str(name).endswith("ForSequenceClassification") for name in saved)
    if task.auto_class == "AutoModelForSequenceClassification" and not classifies and "num_labels" not in kwargs:
        config.num_labels = 1
    return config


def _kernel(content: Any) -> str | None:
    """Find the attention of a configuration that is a kernel of the hub, which is code."""
    todo = [content]
    while todo:
        one = todo.pop()
        for key, value in one.items() if isinstance(one, dict) else enumerate(one):
            if str(key).endswith("attn_implementation") and "/" in str(value):
                return str(value)[:100]
            if isinstance(value, dict | list):
                todo.append(value)
    return None


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
    kwargs = {"use_safetensors": True, **_trusting(kwargs), "output_loading_info": True}
    if "torch_dtype" in kwargs:
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
    encoder = backbone(config.model_type).encoder
    alone = encoder is not None and task.auto_class == "AutoModel"
    kind: Any = task.loader
    if alone:
        package, _, class_name = str(encoder).partition(":")
        kind = getattr(importlib.import_module(package), class_name)
    elif task.name == "retrieval":
        # The auto class of retrievers knows two of them; all are classes of transformers.
        kind = getattr(transformers, str((config.architectures or [""])[0]), None) or kind
    with upstream(folder, "model"), files.damaged_weights(folder):
        if (folder / ADAPTER_CONFIG).is_file():
            check_adapter(folder, lambda: _module_names(kind, config, kwargs["trust_remote_code"] is True))
        check_index(Path(_base_of(folder)))
        if alone:
            model, found = _encoder_of(kind, folder, config, kwargs)
        else:
            model, found = kind.from_pretrained(str(folder), config=config, **kwargs)
    _check_complete(model, found, task, folder, encoder=alone, new_sizes=kwargs.get("ignore_mismatched_sizes") is True)
    rename(model, folder, name)
    return model


def _module_names(kind: Any, config: PretrainedConfig, trusted: bool) -> list[str]:
    """Names of the modules of a model that is not there yet, from one without weights."""
    config = copy.deepcopy(config)
    of_auto_class = getattr(kind, "from_config", None)
    with torch.device("meta"):
        made = of_auto_class(config, trust_remote_code=trusted) if of_auto_class else kind(config)
    return [name for name, _ in made.named_modules()]


def _base_of(folder: Path) -> str:
    """Find the weights of a backbone: beside an adapter, or at the place that its configuration names."""
    if (folder / "config.json").is_file():
        return str(folder)
    return str(files.read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or folder)


def _check_complete(
    model: Any, found: Mapping[str, Any], task: Task, folder: Path, *, encoder: bool, new_sizes: bool
) -> None:
    """See that the checkpoint held every weight that the output passes; transformers makes up the others at random.

    A head may be new on a backbone that was saved without one, which is how a reranker begins, or where the caller
    asked for one of another size.

    Raises:
        CheckpointError: A weight is missing, or of another shape than the configuration says.
    """
    core = getattr(model, "base_model_prefix", "") + "."
    kind = type(model).__name__
    saved = model.config.architectures
    headed = isinstance(saved, list) and kind in map(str, saved)
    new_head = not headed and getattr(model, "base_model", model) is not model
    resized = [entry[0] for entry in found.get("mismatched_keys", ())]
    lost = [*found.get("missing_keys", ()), *resized]
    lost = [key for key in lost if not (FRESH.search(key) or (encoder and SINUSOIDS.search(key)))]
    head = [key for key in lost if (new_head or (new_sizes and key in resized)) and not key.startswith(core)]
    if head and task.generates:
        logger.warning("%s: holds no output layer of a %s, so %s is new: train it first.", folder, kind, head)
    missing = sorted(set(lost) - set(head))
    if missing:
        raise CheckpointError(
            f"{folder}: expected the weights of a {kind}, got none for {missing[:3]}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            + "; without them it would encode with random numbers. Copy or download the checkpoint again"
        )


def _encoder_of(kind: Any, folder: Path, config: PretrainedConfig, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Load the encoder alone and what was found of it; it expects the decoder's weights, so nothing is warned of."""

    class Encoder(kind):  # type: ignore[misc]  # its base is known only here
        _keys_to_ignore_on_load_unexpected = ["decoder.*", "lm_head.*", "proj_out.*", "final_logits_bias"]

    part = kind.__name__.endswith("Encoder")  # of the model, whose weights carry the names of the whole
    if part:
        kwargs = {"key_mapping": WHOLE, **kwargs}
    model, found = Encoder.from_pretrained(str(folder), config=config, **kwargs)
    if part:
        model._weight_conversions = []  # or saving would turn the names back
    model.__class__ = kind
    return model, found


def load_processor(folder: Path, config: PretrainedConfig, kwargs: dict[str, Any], *, lower_case: bool) -> Any:
    """The processor, or the tokenizer where there is nothing else; its length limit fits the backbone.

    Args:
        folder: Directory with its files.
        config: The backbone's configuration.
        kwargs: For `from_pretrained`.
        lower_case: Whether texts are put in lower case first.
    """
    with upstream(folder, "processor"):
        processor = _sized(folder, _trusting(kwargs))
    tokenizer = processor if hasattr(processor, "model_max_length") else getattr(processor, "tokenizer", None)
    if tokenizer is None:
        return processor
    positions = getattr(config, "max_position_embeddings", -1)
    if "model_max_length" not in kwargs and positions != -1:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        # Language models are published without one, as they were trained on whole rows; no padding is attended to.
        tokenizer.pad_token = tokenizer.eos_token
        for part in (config, config.get_text_config()):
            if getattr(part, "pad_token_id", None) is None:
                part.pad_token_id = tokenizer.pad_token_id
    if lower_case:
        given = tokenizer.backend_tokenizer.normalizer
        steps: list[Any] = [*given] if isinstance(given, Normalizers) else [] if given is None else [given]  # type: ignore[misc]
        if not any(isinstance(step, Lowercase) for step in steps):
            tokenizer.backend_tokenizer.normalizer = Normalizers([Lowercase(), *steps])
    return processor


def check_vocabulary(tokenizer: Any, folder: Path, kwargs: Mapping[str, Any]) -> None:
    """See that a tokenizer has its words out of a file: without one transformers makes one that knows no word.

    Args:
        tokenizer: The tokenizer; None is passed over.
        folder: Where it was loaded from.
        kwargs: What it was loaded with.

    Raises:
        CheckpointError: No file with them is there.
    """
    kind = type(tokenizer)
    own = kind.__module__.startswith("transformers.")
    names = {name for name in getattr(kind, "vocab_files_names", {}).values() if isinstance(name, str)}
    given = kwargs.keys() & {"tokenizer_file", "vocab_file", "tokenizer_object", "gguf_file"}
    if not own or not names or given:
        return
    places = sorted(names | {"tokenizer.json"})
    # A processor may keep its tokenizer in a folder of its own.
    if not any((folder / name).is_file() for name in places) and not any(any(folder.rglob(name)) for name in places):
        raise CheckpointError(
            f"{folder}: expected the words of its {kind.__name__} in {' or '.join(sorted(names))}, got no such file; "
            "copy or download the checkpoint again"
        )


def save_processor(processor: Any, folder: str) -> None:
    """Write a processor without the limits of its last batch, so that files of the same processor are the same.

    Readers take them for its own otherwise, and of one for audio even for a limit of samples.

    Args:
        processor: A processor or tokenizer.
        folder: Existing folder.
    """
    processor.save_pretrained(folder)
    file = Path(folder) / "tokenizer.json"
    tokenizer: Any = getattr(processor, "tokenizer", processor)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and file.is_file() and (backend.truncation or backend.padding):
        written = Tokenizer.from_file(str(file))  # not the backend itself, which a thread may be using
        written.no_truncation()
        written.no_padding()
        written.save(str(file))


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
