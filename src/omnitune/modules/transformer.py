"""A Hugging Face backbone with its processor: loaded items in, token vectors or embeddings out."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from omnitune.errors import InputError
from omnitune.inputs import processor as processors
from omnitune.inputs.cost import CostRule
from omnitune.inputs.sampling import Sampling
from omnitune.modules import files, loading, outputs, packing, varlen, vocabulary_head
from omnitune.modules import query_expansion as expansion
from omnitune.modules.backbones import EMBEDDING, TOKENS, backbone
from omnitune.modules.base import InputModule, loaded_modality
from omnitune.modules.conversations import Conversations
from omnitune.modules.costs import cost_rule, sampling
from omnitune.modules.long_texts import shortened
from omnitune.modules.outputs import ModalityConfig
from omnitune.modules.tasks import TASKS, Task, TransformerTask, check_supported, task_named
from omnitune.renames import renamed_loading
from omnitune.types import Features, Modality

logger = logging.getLogger(__name__)

ALWAYS_WRITTEN = {"transformer_task", "modality_config", "module_output_name"}
"""Keys of the configuration that are there whatever their values."""


class Transformer(InputModule):
    """A backbone for text, images, audio, video, or several of them.

    Args:
        model_name_or_path: Directory or repository of a Hugging Face model.
        transformer_task: What the backbone is for, a name in `tasks.TASKS`: it says which head is loaded.
        model_kwargs: For the model's `from_pretrained`: `dtype`, `attn_implementation`, `device_map`, ...
        processor_kwargs: For the processor's: `min_pixels`, `max_pixels`, `padding_side`, `chat_template`, ...
        config_kwargs: For the configuration's.
        processing_kwargs: For every call of the processor, in buckets: `"text"`, `"image"`, `"audio"`, `"video"`,
            `"common"`, and `"chat_template"`.
        backend: Only `"torch"`.
        modality_config: Method and output for each modality; None finds them out.
        module_output_name: Feature that comes out; needed with `modality_config`.
        unpad_inputs: Whether batches run without padding (`packing`): None where `attn_implementation` is
            "omnitune_varlen" or flash attention; True switches to the former, and warns where that cannot be.
        query_length: Tokens after which a text with `task="query"` is cut.
        document_length: Tokens after which a text with `task="document"` is cut.
        query_expansion: How queries of multi-vector models are filled up (`modules.query_expansion`); None for not.
        max_seq_length: Tokens after which any text is cut; None takes the tokenizer's limit.
        do_lower_case: Whether texts are put in lower case.
        tokenizer_name_or_path: Where the processor is, if not with the model.

    Raises:
        InputError: An argument asks for what there is not.
        CheckpointError: The directory holds no model, or its weights are pickled.

    Example:
        >>> reranker.save_pretrained("bert")
        >>> Transformer("bert", max_seq_length=64).max_seq_length
        64
    """

    config_file_name: ClassVar[str] = "sentence_bert_config.json"
    config_keys: ClassVar[list[str]] = [
        "transformer_task",
        "modality_config",
        "module_output_name",
        "processing_kwargs",
        "unpad_inputs",
        "query_length",
        "document_length",
        "query_expansion",
    ]

    @renamed_loading
    def __init__(
        self,
        model_name_or_path: str,
        *,
        transformer_task: TransformerTask = "feature-extraction",
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        processing_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
        backend: Literal["torch", "onnx", "openvino"] = "torch",
        modality_config: ModalityConfig | None = None,
        module_output_name: str | None = None,
        unpad_inputs: bool | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        query_expansion: Mapping[str, Any] | None = None,
        max_seq_length: int | None = None,
        do_lower_case: bool = False,
        tokenizer_name_or_path: str | None = None,
    ) -> None:
        super().__init__()
        self.task = task_named(transformer_task)
        check_supported(backend)
        if modality_config is not None and module_output_name is None:
            raise InputError(f"module_output_name: expected {TOKENS!r} or {EMBEDDING!r} with modality_config, got None")
        model_kwargs, processor_kwargs, config_kwargs = (
            dict(kwargs or {}) for kwargs in (model_kwargs, processor_kwargs, config_kwargs)
        )
        if max_seq_length is not None:
            processor_kwargs.setdefault("model_max_length", max_seq_length)
        asked = varlen.asked(model_kwargs)
        folder = loading.locate(model_name_or_path, model_kwargs, config_kwargs, processor_kwargs)
        config = loading.load_config(folder, self.task, loading.located(config_kwargs))
        self.model: transformers.PreTrainedModel = loading.load_model(
            folder, model_name_or_path, self.task, config, loading.located(model_kwargs)
        )
        other = tokenizer_name_or_path not in (None, model_name_or_path)
        processor_folder = loading.locate(str(tokenizer_name_or_path), processor_kwargs) if other else folder
        self.processor: Any = loading.load_processor(
            processor_folder, self.model.config, loading.located(processor_kwargs), lower_case=do_lower_case
        )
        self.transformer_task: TransformerTask = transformer_task
        if self.task.generates and self.tokenizer is not None:
            self.tokenizer.padding_side = "left"
        self.backend = backend
        self.do_lower_case = do_lower_case
        self.query_length = query_length
        self.document_length = document_length
        self.processing_kwargs = {key: dict(value) for key, value in (processing_kwargs or {}).items()}
        processors.merged(self.processing_kwargs)
        self.unpad_inputs = unpad_inputs
        self.defers_head = False
        self.packer = packing.Packer(self, asked=asked)
        known = backbone(self.config.model_type).structured_messages
        self._conversations = Conversations(self.processor, modality_config, known=known)
        if modality_config is None or module_output_name is None:
            modality_config, module_output_name = outputs.modality_config(
                self.model, self.processor, self.task, structured=self._conversations.structured
            )
        self.modality_config: ModalityConfig = modality_config
        self.module_output_name: str = module_output_name
        if {"text", "message"} & self.modality_config.keys():  # a recogniser's encoder has no use for words
            loading.check_vocabulary(self.tokenizer, processor_folder, processor_kwargs)
        self._prompt_lengths: dict[str, int] = {}
        self._without_prompt: set[Modality] = set()
        self._signatures: dict[str, inspect.Signature] = {}
        self.expand_queries(query_expansion)

    def expand_queries(self, given: Mapping[str, Any] | None) -> None:
        """Fill queries up from now on, as `query_expansion` says (`query_expansion.settled`); None for not."""
        attention = str(self.config.get_text_config()._attn_implementation)
        message = "message" in self.modality_config
        self._cut_queries = False
        self.query_expansion = expansion.settled(given, self.tokenizer, self.query_length, attention, message=message)

    # -- parts

    @property
    def auto_model(self) -> "transformers.PreTrainedModel":
        """The backbone."""
        return self.model

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's configuration."""
        return self.model.config

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:  # None without text
        """The tokenizer, or None where the processor has none."""
        if isinstance(self.processor, PreTrainedTokenizerBase):
            return self.processor
        return getattr(self.processor, "tokenizer", None)

    @tokenizer.setter
    def tokenizer(self, value: PreTrainedTokenizerBase) -> None:
        if isinstance(self.processor, PreTrainedTokenizerBase):
            self.processor = value
            self._conversations.use(value)
        else:
            self.processor.tokenizer = value

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which a text is cut: the tokenizer's limit, else the backbone's; None where there is none."""
        if self.tokenizer is not None:
            limit: int | None = self.tokenizer.model_max_length
            return limit
        positions: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return positions

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if self.tokenizer is not None:
            self.tokenizer.model_max_length = value

    @property
    def modalities(self) -> list[Modality]:
        """Modalities that `preprocess` takes."""
        return list(self.modality_config)

    @property
    def takes_pairs(self) -> bool:
        """Tell whether a pair of texts can be one input; processors of text and media tokenize single texts."""
        return "message" in self.modality_config or not isinstance(self.processor, transformers.ProcessorMixin)

    @property
    def is_text_only(self) -> bool:
        """Tell whether its forward gives token vectors of text, as every reader of the format assumes."""
        return (self.modality_config, self.module_output_name) == outputs.text_only(TASKS["feature-extraction"])

    @property
    def is_text_vocabulary(self) -> bool:
        """Tell whether its forward gives logits over the vocabulary of text, as readers of `MLMTransformer` assume."""
        return (self.modality_config, self.module_output_name) == outputs.text_only(TASKS["fill-mask"])

    @property
    def cost_rule(self) -> CostRule:
        """Rule for the tokens of an item, without preprocessing it."""
        return cost_rule(self.processor, self.config, self.max_seq_length, self.sampling("video"))

    def sampling(self, modality: Modality, **kwargs: Any) -> Sampling:  # noqa: ARG002
        """Sampling of audio and video that the processor wants."""
        buckets = processors.merged(self.processing_kwargs, kwargs.get("processing_kwargs") or {})
        return sampling(self.processor, self.config, buckets["video"])

    def get_embedding_dimension(self) -> int:
        """Dimension of the vectors that come out; of a masked-language head, the size of its vocabulary."""
        if self.task.name == "fill-mask":
            return int(self.config.get_text_config().vocab_size)
        return outputs.embedding_dimension(self.config, self.module_output_name)

    def defer_head(self) -> bool:
        """Leave the last layer of a masked-language head to `SpladePooling` from now on; whether that can be."""
        self.defers_head = self.task.name == "fill-mask" and vocabulary_head.defer(self.model)
        return self.defers_head

    # -- features

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        modality: Modality | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> Features:
        """Tensors of a batch.

        A backbone with a chat template gets everything as conversations; a prompt is then a message of the system.

        Args:
            inputs: Loaded items; as in `InputModule.preprocess`, as are all that are not named here.
            processing_kwargs: For this call's processor, over the module's own.
            modality: What the items are; None looks at each, and they may differ where conversations are taken.
            task: "query" and "document" apply `query_length` and `document_length`; a template may read it.
            **kwargs: `max_length` of texts; others are not for this module.

        Returns:
            The processor's tensors, `"modality"`, and for a text with a prompt `"prompt_length"` in tokens.

        Raises:
            ModalityError: The backbone does not take such items.
        """
        if not inputs:
            return {}
        lengths = {"query": self.query_length, "document": self.document_length}
        cut = kwargs.get("max_length") or lengths.get(task or "")
        asked: dict[str, dict[str, Any]] = {"text": {"max_length": cut}} if cut else {}
        expands = self.query_expansion if task == "query" else None
        row = backbone(self.config.model_type)
        layers = processors.DEFAULTS, row.processing, asked, self.processing_kwargs, processing_kwargs or {}
        buckets = processors.merged(*layers)
        buckets["text"].pop("logits_to_keep", None)  # a checkpoint may say so; `LogitScore` reads the last alone
        kinds = [loaded_modality(item) if modality is None else modality for item in inputs]
        if "message" in self.modality_config:
            outputs.check_parts(kinds, self.modality_config)
            features = self._conversations.features(
                inputs, kinds, buckets, prompt=prompt, task=task, max_length=self.max_seq_length
            )
            if self.task.generates:
                processors.check_left_padded(features)
            return features
        kind = outputs.common_kind(kinds, self.modality_config)
        if prompt and kind == "text":
            inputs = [processors.prefixed(prompt, text) for text in inputs]
        elif prompt and kind not in self._without_prompt:
            self._without_prompt.add(kind)
            logger.warning(
                "prompt: %r is ignored for %s, which this model takes without text.", prompt, outputs.spelt(kind)
            )
        if expands is not None and kind == "text":
            buckets["text"] |= expansion.text_arguments(expands, buckets["text"].get("max_length"))
        if kind == "text" and isinstance(self.processor, PreTrainedTokenizerBase):
            inputs = shortened(self.processor, inputs, {**buckets["text"], **buckets["common"]})
        features = processors.call(self.processor, kind, inputs, buckets, flat=row.flat_processor)
        if self.task.generates:
            processors.check_left_padded(features)
        if expands is not None and kind == "text":
            assert self.tokenizer is not None
            self._cut_queries |= expansion.expanded(features, expands, self.tokenizer, warned=self._cut_queries)
        features["modality"] = kind
        if prompt and kind == "text" and "input_ids" in features:
            if prompt not in self._prompt_lengths:  # tokens of the prompt alone, without the one that ends a text
                ids = self.preprocess([prompt], modality="text")["input_ids"][0]
                special = getattr(self.tokenizer, "all_special_ids", [])
                self._prompt_lengths[prompt] = len(ids) - (int(ids[-1]) in special)
            features["prompt_length"] = self._prompt_lengths[prompt]
        return features

    def take_pairs(self) -> bool:
        """Let the chat template render pairs; whether it had to be extended for that."""
        return self._conversations.take_pairs(self.processing_kwargs.get("chat_template", {}))

    def forward(self, features: Features, **kwargs: Any) -> Features:
        """Features with `module_output_name`.

        Args:
            features: From `preprocess`; with `output_hidden_states`, those of every layer come out as
                `all_layer_embeddings`, the embedding layer's first.
            **kwargs: For the backbone; they win over the features.

        Returns:
            `token_embeddings` `(rows, tokens, dim)`, or `sentence_embedding` `(rows, dim)` where the backbone projects;
            with a head, `scores` `(rows, labels)` or `causal_logits` `(rows, 1, vocabulary)` of the last token.
        """
        if outputs.TOWER_OUTPUT in features:
            features[self.module_output_name] = features.pop(outputs.TOWER_OUTPUT)
            return features
        params = self.modality_config[features.get("modality", "text")]
        method, path = params["method"], params["method_output_name"]
        signature = self._signatures.setdefault(method, inspect.signature(getattr(self.model, method)))
        arguments = outputs.accepted(
            {**features, **kwargs, "return_dict": True}, signature, any_other=method == "forward"
        )
        if self.task.generates and "logits_to_keep" in signature.parameters:
            arguments["logits_to_keep"] = 1
        if "hidden_states" in (path if isinstance(path, list) else [path]):
            arguments["output_hidden_states"] = True
        layer = vocabulary_head.last_layer(self.model) if self.defers_head else None
        real = features.get(outputs.HOST_MASK, features.get("attention_mask"))
        packing = self.packer.layout(features, params)
        on_host, positions = features.pop(outputs.HOST_MASK, None), features.pop(outputs.HOST_POSITIONS, {})
        if packing is None:
            declared = signature.parameters.get("attention_mask")
            optional = declared is not None and declared.default is None and "input_ids" in features
            if optional and on_host is not None and on_host.all():
                # The backbone would ask the device whether there is padding, and drop a mask of ones itself.
                arguments.pop("attention_mask", None)
            arguments |= {name: value for name, value in positions.items() if name not in kwargs}
        with vocabulary_head.capturing(layer) as captured:
            try:
                if packing is None:
                    result = getattr(self.model, method)(**arguments)
                else:
                    result = self.packer.call(features, arguments, packing, positions)
            except IndexError:
                outputs.check_tokens(features, self.model)
                raise
        if layer is not None and captured is not None and captured.hidden is not None:
            features[vocabulary_head.HEAD] = vocabulary_head.head_of(captured.hidden, layer, real, packing)
            return features
        features[self.module_output_name] = tokens = outputs.selected(result, path)
        mask, shorten = features.get("attention_mask"), getattr(self.model, "_get_feature_vector_attention_mask", None)
        if mask is not None and shorten is not None and tokens.ndim == 3 and mask.shape != tokens.shape[:2]:
            # A mask of samples: the backbone says which token vectors are of a recording and not of its padding.
            features["attention_mask"] = shorten(tokens.shape[1], mask)
        asked = features.get("output_hidden_states") or getattr(self.config, "output_hidden_states", False)
        if asked and "hidden_states" in result:
            features["all_layer_embeddings"] = result["hidden_states"]
        return features

    # -- files

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, without those at their default."""
        config = {**super().get_config_dict(), "modality_config": outputs.to_json(self.modality_config)}
        return {key: value for key, value in config.items() if key in ALWAYS_WRITTEN or value not in (None, {})}

    def save_config(self, output_path: str, filename: str | None = None) -> None:
        """Write the configuration; of a text encoder, in the two keys that every reader of the format knows."""
        config = self.get_config_dict()
        if (self.is_text_only or self.is_text_vocabulary) and not config.keys() - ALWAYS_WRITTEN:
            limit = self.max_seq_length
            config = {"max_seq_length": limit if limit and limit < 1 << 30 else None, "do_lower_case": False}
        files.write_json(Path(output_path) / (filename or self.config_file_name), config)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the backbone (an adapter alone, where there is one), the processor and the configuration.

        Raises:
            InputError: `safe_serialization` is False.
        """
        if not safe_serialization:
            raise InputError("safe_serialization: expected True, got False; only safetensors files are written")
        self.model.save_pretrained(output_path)
        loading.save_processor(self.processor, output_path)
        self.save_config(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> Self:
        """Read the module from a checkpoint.

        Args:
            model_name_or_path: As in `Module.load`; others as there, or the constructor's over the checkpoint's.
            trust_remote_code: Whether the backbone's own code may run.
            **kwargs: `name`, what the user called the checkpoint.

        Raises:
            CheckpointError: The configuration has unknown keys, or the model is missing.
        """
        options = files.HubOptions(
            token=token, cache_folder=cache_folder, revision=revision, local_files_only=local_files_only
        )
        folder = files.resolve(model_name_or_path, options, subfolder=subfolder) / subfolder
        config = cls.read_config(folder)
        # A revision is this checkpoint's: a tokenizer, or an adapter's base, that lies elsewhere has its own.
        hub = {**replace(options, revision=None).kwargs(), **({"trust_remote_code": True} if trust_remote_code else {})}
        asked = {"model_kwargs": model_kwargs, "processor_kwargs": processor_kwargs, "config_kwargs": config_kwargs}
        for key, over in asked.items():
            config[key] = {**hub, **config.get(key, {}), **(over or {})}
        module = cls(str(folder), **{**config, "backend": backend})
        if not subfolder:
            loading.rename(module.model, folder, kwargs.get("name") or model_name_or_path)
        return module

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """The constructor's arguments that the configuration in `folder` holds, under whichever name it has."""
        arguments = inspect.signature(Transformer).parameters.keys() - {"model_name_or_path", "backend"}
        config = loading.read_settings(folder, arguments)
        if "modality_config" in config:
            config["modality_config"] = outputs.from_json(config["modality_config"], folder / cls.config_file_name)
        else:
            task = task_named(config.get("transformer_task", "feature-extraction"))
            config["modality_config"], config["module_output_name"] = cls.assumed_outputs(task)
        return config

    @classmethod
    def assumed_outputs(cls, task: Task) -> tuple[ModalityConfig, str]:
        """Outputs that a checkpoint without `modality_config` means."""
        return outputs.text_only(task)

    def __repr__(self) -> str:
        return f"Transformer({self.get_config_dict()}, architecture={type(self.model).__name__!r})"
