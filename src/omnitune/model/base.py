"""A model is a sequence of modules that a checkpoint lists, and an engine that encodes with them.

What differs between families is the `family` value and the public verbs in `encoders`; everything here serves all.
"""

import itertools
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, cast, get_args

import torch
import transformers
from torch import nn

from omnitune import runtime
from omnitune.engine import arguments
from omnitune.engine.engine import Engine
from omnitune.errors import InputError, ModalityError
from omnitune.inputs.cost import CostRule
from omnitune.inputs.detect import check_text, modality_of
from omnitune.inputs.fingerprint import fingerprint
from omnitune.inputs.policy import DEFAULT_POLICY, MediaPolicy
from omnitune.model import checkpoint
from omnitune.model.adapters import AdapterMixin
from omnitune.model.family import Family
from omnitune.model.graph import Graph, open_graph, release_weights, split_options
from omnitune.model.hub import HubMixin
from omnitune.modules import files, precision, registry
from omnitune.modules.base import Module
from omnitune.modules.router import Router
from omnitune.modules.sequence import (
    first_input_module,
    load_through,
    modalities_through,
    preprocess_through,
    route_cost_rule,
)
from omnitune.places import MINILM, is_embedded
from omnitune.report import card
from omnitune.types import Features, Modality

logger = logging.getLogger(__name__)

Backend = Literal["torch", "onnx", "openvino"]


class Model(nn.Sequential, AdapterMixin, HubMixin):
    """Modules "0", "1", ... applied in order; subclasses add a family's public verbs.

    Attributes:
        family: What kind of model it is.
        engine: Plans, prepares and runs; training, `encode` and evaluation share it.
        media_policy: Limits on media that inputs refer to. Assign another to change them.
        prompts: Prompt texts by name.
        default_prompt_name: Name of the prompt used where none is asked for, or None.
    """

    family: ClassVar[Family]
    default_prompts: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        model_name_or_path: str | None = None,
        *,
        modules: Sequence[nn.Module] | Mapping[str, nn.Module] | None = None,
        device: str | None = None,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        model_card_data: card.SentenceTransformerModelCardData | None = None,
        backend: Backend = "torch",
    ) -> None:
        model_name_or_path = arguments.path_or_none("model_name_or_path", model_name_or_path)
        prompts = arguments.prompts(prompts)
        default_prompt_name = arguments.text_or_none("default_prompt_name", default_prompt_name)
        processor_kwargs = arguments.mapping("processor_kwargs", processor_kwargs)
        config_kwargs = arguments.mapping("config_kwargs", config_kwargs)
        if backend not in get_args(Backend):
            raise InputError(f"backend: expected one of {', '.join(get_args(Backend))}, got {backend!r}")
        model_kwargs = arguments.mapping("model_kwargs", model_kwargs)
        graph_options: dict[str, Any] = {}
        if backend != "torch":
            graph_options, model_kwargs = split_options(model_kwargs)
            device = "cpu"  # where the features are made; the runtime of the graph has devices of its own
        model_kwargs = precision.settled(model_kwargs, str(device or runtime.best_device()))
        options = checkpoint.LoadOptions(
            token=token,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
        )
        model_name_or_path = files.with_owner(model_name_or_path, self.family.organization, options.hub)
        loaded = self._loaded(model_name_or_path, modules, options)
        super().__init__(OrderedDict(loaded.modules))
        self.forward_kwargs = loaded.forward_kwargs
        self.backend = backend
        self.trust_remote_code = trust_remote_code
        self.media_policy: MediaPolicy = DEFAULT_POLICY
        self.model_card_data = model_card_data or card.SentenceTransformerModelCardData()
        self.engine = Engine(self)
        self.graph: Graph | None = None
        if backend != "torch":
            self.graph = open_graph(model_name_or_path, options.hub, backend, graph_options)
            release_weights(list(self.children())[: None if self.graph.whole else 1])
        self._configure(loaded.config, prompts, default_prompt_name)
        self._settle(device, model_kwargs)
        if model_name_or_path and not self.model_card_data.base_model:
            self.model_card_data.base_model = MINILM if is_embedded(model_name_or_path) else model_name_or_path
        for module in self.modules():
            if isinstance(module, Module):
                module.on_model_ready(self)

    @classmethod
    def _loaded(
        cls,
        path_or_id: str | None,
        modules: Sequence[nn.Module] | Mapping[str, nn.Module] | None,
        options: checkpoint.LoadOptions,
    ) -> checkpoint.Checkpoint:
        if modules is None and is_embedded(path_or_id) and (embedded := cls.modules_for_embedded()) is not None:
            path_or_id, modules = None, embedded
        if path_or_id is not None:
            if modules is not None:
                logger.warning("modules: ignored, because model_name_or_path was given and its modules are loaded.")
            return cls.load_checkpoint(path_or_id, options)
        if not modules:
            raise InputError(
                f"{cls.__name__}: expected model_name_or_path, or modules with at least one module; got neither"
            )
        named = modules if isinstance(modules, Mapping) else {str(i): m for i, m in enumerate(modules)}
        for name, module in named.items():
            if not isinstance(module, nn.Module):
                raise InputError(f"modules: expected a torch.nn.Module at {name}, got {type(module).__name__}")
        return checkpoint.Checkpoint(modules=dict(named), forward_kwargs={}, config={})

    @classmethod
    def load_checkpoint(cls, path_or_id: str, options: checkpoint.LoadOptions) -> checkpoint.Checkpoint:
        """Load a directory or repository as this family; one with formats of its own overrides it."""
        return checkpoint.load(path_or_id, options, bare=cls.modules_for_bare, family=cls.family)

    @classmethod
    def modules_for_embedded(cls) -> Sequence[nn.Module] | None:
        """The modules that the word "embedded" stands for; None takes MiniLM's directory as any other."""
        return None

    @classmethod
    def modules_for_bare(cls, path_or_id: str, options: checkpoint.LoadOptions) -> dict[str, nn.Module]:
        """The modules that make this family out of a bare Hugging Face checkpoint."""
        raise NotImplementedError

    def _configure(self, config: Mapping[str, Any], prompts: dict[str, str], default_prompt_name: str | None) -> None:
        """Take over what the checkpoint says about the model, where the caller did not say otherwise.

        Raises:
            InputError: `default_prompt_name` names no prompt.
        """
        saved = {name: text or "" for name, text in (config.get("prompts") or {}).items()}
        self.prompts: dict[str, str] = {**self.default_prompts, **saved, **prompts}
        self.default_prompt_name = default_prompt_name or config.get("default_prompt_name")
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise InputError(
                f"default_prompt_name: expected one of {sorted(self.prompts)}, got {self.default_prompt_name!r}"
            )

    def _settle(self, device: str | None, model_kwargs: Mapping[str, Any]) -> None:
        """Put all modules on one device, in the backbone's dtype."""
        dtype = next((p.dtype for p in self[0].parameters()), None)
        if dtype is not None:
            for module in list(self.children())[1:]:
                module.to(dtype)
        if model_kwargs.get("device_map") is None:
            self.to(runtime.device_named(device) if device is not None else runtime.best_device())
        elif device is not None:
            logger.warning("device: %r is ignored, because model_kwargs has a device_map.", device)

    # -- what it takes

    @property
    def modalities(self) -> list[Modality]:
        """Modalities it takes, e.g. `["text", "image", "message"]`."""
        return modalities_through(list(self.children()))

    @property
    def input_module(self) -> nn.Module:
        """The module that makes the features: the first that is not a reader."""
        return first_input_module(list(self.children()))

    def supports(self, modality: Modality) -> bool:
        """Tell whether inputs of `modality` can be encoded.

        Args:
            modality: `"text"`, `"image"`, ..., or a tuple for inputs that combine several.
        """
        offered = self.modalities
        combined = isinstance(modality, tuple) and "message" in offered and all(part in offered for part in modality)
        return combined or modality in offered

    def modality_of(self, item: Any, *, strings_are_text: bool = False) -> Modality:
        """Detect the modality of `item`, for this model.

        Raises:
            ModalityError: The model takes no such input.
            InputError: A text in it is none.
            MediaNotFoundError: It looks like a path of media, and nothing is there.
        """
        check_text(item)
        if strings_are_text and isinstance(item, str):
            return "text"
        modality = modality_of(item, supported=self.modalities)
        if isinstance(item, tuple) and modality == "text" and not getattr(self.input_module, "takes_pairs", True):
            raise ModalityError(
                f"inputs: this {type(self).__name__} takes single texts, as its processor takes no pairs; got the pair "
                f"{repr(item)[:80]}"
            )
        if not self.supports(modality):
            raise ModalityError(
                f"inputs: this {type(self).__name__} takes {', '.join(map(str, self.modalities))}; "
                f"got {modality!r} ({type(item).__name__})"
            )
        return modality

    def content_key(self, item: Any) -> Hashable:
        """Make a key that inputs of equal content share; nothing is decoded.

        Raises:
            ModalityError: The model takes no such input.
        """
        local_files = self.media_policy.allow_local_files
        return item if isinstance(item, str) else fingerprint(item, self.modality_of(item), local_files=local_files)

    @property
    def cost_rule(self) -> CostRule:
        """Rule for the cost of inputs."""
        return route_cost_rule(list(self.children()))

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> Features:
        """Raw inputs to the features that `forward` takes, on the host.

        Args:
            inputs: Items in any accepted form; one call may mix modalities where the model takes messages.
            prompt: Text put before every item.
            **kwargs: `task` for a `Router`; `processing_kwargs` for the processor.

        Raises:
            ModalityError: An input is of a kind the model does not take.
            MediaError: An input cannot be read.
        """
        if not len(inputs):
            return {}
        modalities = [self.modality_of(item) for item in inputs]
        modules, pairs = list(self.children()), zip(inputs, modalities, strict=True)
        loaded = [load_through(modules, item, kind, self.media_policy, **kwargs) for item, kind in pairs]
        same = modalities[0] if len(set(modalities)) == 1 else None
        return self.preprocess_loaded(loaded, prompt, modality=same, **kwargs)

    def preprocess_loaded(
        self, inputs: Sequence[Any], prompt: str | None, *, modality: Modality | None, **kwargs: Any
    ) -> Features:
        """Loaded items of one modality (None: several) to features."""
        return preprocess_through(list(self.children()), inputs, prompt, modality=modality, **kwargs)

    def forward(self, input: Features, **kwargs: Any) -> Features:
        """Apply all modules.

        Args:
            input: From `preprocess`, on the model's device.
            **kwargs: Handed to the modules whose checkpoint entry or `forward_kwargs` names them.

        Returns:
            The features with every module's outputs, e.g. `token_embeddings` and `sentence_embedding`.

        Raises:
            InputError: A graph was asked for gradients, or no graph is for such inputs.
        """
        named = list(self.named_children())
        if self.graph is not None:
            if self.training and torch.is_grad_enabled():
                raise InputError(
                    f"backend: {self.backend!r} computes no gradients; load the model with backend='torch'"
                )
            input = self.graph.run(
                [module for _, module in named], {**input, **{k: v for k, v in kwargs.items() if k == "task"}}
            )
            named = [] if self.graph.whole else named[1:]
        for name, module in named:
            wanted = set(self.forward_kwargs.get(name, ())) | set(getattr(module, "forward_kwargs", ()))
            every = isinstance(module, Router)
            input = module(input, **{key: value for key, value in kwargs.items() if every or key in wanted})
        return input

    def get_model_kwargs(self) -> list[str]:
        """Names of extra arguments that `encode` passes on to the modules."""
        names: set[str] = set()
        for name, module in list(self.named_modules())[1:]:  # the model's own `forward_kwargs` goes by module
            names |= set(self.forward_kwargs.get(name, ())) | set(getattr(module, "forward_kwargs", None) or ())
        return sorted(names - {"modality"})

    # -- prompts

    def resolve_prompt(self, prompt: str | None, prompt_name: str | None) -> str | None:
        """The prompt text that applies: `prompt`, else the one named, else the default one, else None.

        Raises:
            InputError: No prompt has that name, or it is no text.
        """
        arguments.text_or_none("prompt_name", prompt_name)
        if arguments.text_or_none("prompt", prompt) is not None:
            if prompt_name is not None:
                logger.warning("prompt_name: %r is ignored, because prompt was given.", prompt_name)
            return prompt
        name = prompt_name if prompt_name is not None else self.default_prompt_name
        if name is None:
            return None
        if name not in self.prompts:
            raise InputError(f"prompt_name: expected one of {sorted(self.prompts)}, got {name!r}")
        return self.prompts[name]

    # -- parts

    @property
    def tokenizer(self) -> Any:
        """The input module's tokenizer."""
        return self.input_module.tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        setattr(self.input_module, "tokenizer", value)  # noqa: B010  # torch types attributes as modules

    @property
    def processor(self) -> Any:
        """The input module's processor."""
        return self.input_module.processor

    @property
    def own_modules(self) -> list[str]:
        """Names of the module classes that only omnitune has; without one, Sentence Transformers loads the model."""
        return registry.own_types(self.children())

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which text is cut, or None."""
        return cast("int | None", getattr(self.input_module, "max_seq_length", None))

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        setattr(self.input_module, "max_seq_length", value)  # noqa: B010  # torch types attributes as modules

    @property
    def token_limit(self) -> int | None:
        """Tokens after which text is cut; None, too, where `max_seq_length` is infinite, which JSON cannot say."""
        return None if self.max_seq_length == math.inf else self.max_seq_length

    @property
    def transformers_model(self) -> "transformers.PreTrainedModel | None":
        """The first transformers model among the modules, or None."""
        return next((m for m in self.modules() if isinstance(m, transformers.PreTrainedModel)), None)

    @property
    def config(self) -> Any:
        """The configuration of `transformers_model`, or None; the Trainer and its integrations read it."""
        return getattr(self.transformers_model, "config", None)

    @config.setter
    def config(self, value: Any) -> None:
        if self.transformers_model is not None:
            self.transformers_model.config = value

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        # One weight is looked at, not all: this is asked several times a mini-batch.
        weights = itertools.chain(self.parameters(), self.buffers())
        return next((weight.device for weight in weights), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype | None:
        """Dtype of the first weight, or None without weights."""
        return next((p.dtype for p in self.parameters()), None)

    @property
    def is_distributed_loading_by_transformers(self) -> bool:
        """Tell whether weights are sharded already: transformers' trainer then neither wraps nor shards them again."""
        return self.engine.sharded

    def get_backend(self) -> Backend:
        """Name of what computes the forward."""
        return self.backend

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Recompute activations in backward instead of holding them, in every backbone that can."""
        for module in self.modules():
            if isinstance(module, transformers.PreTrainedModel) and module.supports_gradient_checkpointing:
                # transformers deprecates the second name, which older releases know alone.
                enable = getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)
                enable(activation_checkpointing_kwargs, **kwargs)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """The same as `activation_checkpointing_enable`, under its older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **kwargs)

    @contextmanager
    def inference(self, device: torch.device | str | None = None) -> Iterator[None]:
        """Evaluation mode without gradients, on `device`; the mode is as it was afterwards."""
        if device is not None and runtime.device_named(device) != self.device:
            self.to(device)
        # Buffers that FSDP makes in inference mode could not be trained with.
        without_graph = torch.no_grad() if self.engine.sharded else torch.inference_mode()
        with self.engine.evaluating(), without_graph:
            yield

    # -- saving

    def _model_config(self) -> dict[str, Any]:
        """Contents of `config_sentence_transformers.json`, versions aside."""
        return {
            "model_type": self.family.name,
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt_name,
        }

    def evaluate(self, evaluator: Any, output_path: str | None = None) -> dict[str, float] | float:
        """Run an evaluator on this model.

        Args:
            evaluator: Called with the model and `output_path`.
            output_path: Folder for its files, made when missing; None writes none.
        """
        if output_path is not None:
            os.makedirs(output_path, exist_ok=True)
        return cast("dict[str, float] | float", evaluator(self, output_path))
