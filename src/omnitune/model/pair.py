"""The public cross encoder: scores pairs of a query and a document, which it reads together."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from omnitune.engine import arguments
from omnitune.engine.inference import Request, as_numpy, make_request, materialized, stacked
from omnitune.errors import CheckpointError, InputError, MediaError
from omnitune.inputs.detect import is_conversation, is_message, is_single
from omnitune.inputs.messages import pair_to_messages
from omnitune.model import checkpoint
from omnitune.model import pool as pools
from omnitune.model.base import Backend, Model
from omnitune.model.family import PAIR, Family
from omnitune.model.old_names import PREDICT_NAMES, RANK_NAMES, PairOldNames, pair_loading
from omnitune.modules.dense import Dense, activation_name, activation_named
from omnitune.modules.logit_score import LogitScore, narrow_output_layer
from omnitune.modules.precision import compute_in_float32
from omnitune.modules.sequence import check_becomes_text, read_pairs
from omnitune.modules.tasks import SCORES
from omnitune.modules.transformer import Transformer
from omnitune.renames import renamed
from omnitune.report.card import CrossEncoderModelCardData
from omnitune.types import Column, Features, Modality

logger = logging.getLogger(__name__)

Activation = Callable[[Tensor], Tensor]
Scores = Tensor | list[Tensor] | NDArray[Any]

ANSWERS = ("yes", "no")
"""Tokens whose logits score a pair where a bare language model is made a cross encoder."""


class CrossEncoder(PairOldNames, Model, pools.PoolMixin):
    """A reranker: one score, or one a label, for a pair of any two inputs that the model takes.

    A bare language model (`...ForCausalLM`) scores by the logits of "yes" and "no"; any other by a classifier, which is
    new where the checkpoint has none.

    Args:
        model_name_or_path: A directory or a Hugging Face repository: a checkpoint with `modules.json`, or a bare
            classifier, encoder or language model.
        modules: Modules in order, instead of a checkpoint; the last one writes `scores`.
        prompts: As in `SentenceTransformer`, as are all that are not named here.
        num_labels: Scores a pair has; None takes the checkpoint's, else 1.
        max_length: Tokens after which a pair is cut; None takes the tokenizer's limit.
        activation_fn: Applied to the scores by `predict`; None takes the checkpoint's, else a sigmoid for one label and
            nothing for several.
        keep_in_fp32_modules: Paths of linear layers that compute in float32, whatever the model's dtype; None takes
            the checkpoint's, else none.

    Attributes:
        activation_fn: See above.
        keep_in_fp32_modules: See above.

    Raises:
        CheckpointError: The directory is incomplete or foreign.
        UntrustedCodeError: It needs code, or names an activation function that is not one of torch's, and
            `trust_remote_code` is False.

    Example:
        >>> reranker = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")  # downloads  # doctest: +SKIP
        >>> reranker.predict([("How hot is the oven?", page) for page in pages]).shape
        (2,)
    """

    family: ClassVar[Family] = PAIR

    @pair_loading
    def __init__(
        self,
        model_name_or_path: str | None = None,
        *,
        modules: list[nn.Module] | None = None,
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
        model_card_data: CrossEncoderModelCardData | None = None,
        backend: Backend = "torch",
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        keep_in_fp32_modules: list[str] | None = None,
    ) -> None:
        num_labels = arguments.count_or_none("num_labels", num_labels)
        max_length = arguments.count_or_none("max_length", max_length)
        _check_activation(activation_fn)
        config_kwargs = arguments.mapping("config_kwargs", config_kwargs)
        processor_kwargs = arguments.mapping("processor_kwargs", processor_kwargs)
        if num_labels is not None:
            config_kwargs = {**config_kwargs, "num_labels": num_labels}
        if max_length is not None:
            processor_kwargs = {**processor_kwargs, "model_max_length": max_length}
        super().__init__(
            model_name_or_path,
            modules=modules,
            device=device,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            cache_folder=cache_folder,
            trust_remote_code=trust_remote_code,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            model_card_data=model_card_data or CrossEncoderModelCardData(),
            backend=backend,
        )
        if activation_fn is None and self._activation_name is not None:
            activation_fn = activation_named(self._activation_name, trust_remote_code=self.trust_remote_code)
        self.activation_fn: Activation = activation_fn or (nn.Sigmoid() if self.num_labels == 1 else nn.Identity())
        # The backbone renders pairs, and computes no logits but those that the score is made of.
        backbone: Transformer | None = None
        for module in self.children():
            if isinstance(module, Transformer):
                backbone = module
                if "message" in module.modalities and module.take_pairs():
                    logger.warning("chat_template: extended for the roles query and document, which it did not know.")
            elif isinstance(module, LogitScore) and backbone is not None:
                narrow_output_layer(backbone.model, module.token_ids)
        self.set_keep_in_fp32_modules(self._saved_in_fp32 if keep_in_fp32_modules is None else keep_in_fp32_modules)

    def __setattr__(self, name: str, value: Any) -> None:
        # An activation that is a module is no step of the model: it must not be saved or applied as one.
        if name == "activation_fn":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _configure(self, config: Mapping[str, Any], prompts: dict[str, str], default_prompt_name: str | None) -> None:
        super()._configure(config, prompts, default_prompt_name)
        # Before version 5.4 the backbone's configuration said it, and before 4.0 under another name.
        backbone = getattr(self.config, "sentence_transformers", None) or {}
        old = getattr(self.config, "sbert_ce_default_activation_function", None)
        self._saved_in_fp32: list[str] = config.get("keep_in_fp32_modules") or []
        self._activation_name: str | None = config.get("activation_fn") or backbone.get("activation_fn") or old

    @classmethod
    def modules_for_bare(cls, path_or_id: str, options: checkpoint.LoadOptions) -> dict[str, nn.Module]:
        """A language model and the score of its answer; or a classifier, new where there is none."""
        if not checkpoint.architecture(path_or_id, options).endswith("ForCausalLM"):
            return {"0": checkpoint.bare_transformer(path_or_id, options, "sequence-classification")}
        transformer = checkpoint.bare_transformer(path_or_id, options, "text-generation")
        vocabulary = {} if transformer.tokenizer is None else transformer.tokenizer.get_vocab()
        missing = [answer for answer in ANSWERS if answer not in vocabulary]
        if missing:
            raise CheckpointError(
                f"{path_or_id}: expected a tokenizer with the tokens {list(ANSWERS)}, got none for {missing}; give "
                "modules=[Transformer(..., transformer_task='text-generation'), LogitScore(true_token_id, "
                "false_token_id)] with tokens that it has"
            )
        return {"0": transformer, "1": LogitScore(*(vocabulary[answer] for answer in ANSWERS))}

    def _model_config(self) -> dict[str, Any]:
        exact = {"keep_in_fp32_modules": self.keep_in_fp32_modules} if self.keep_in_fp32_modules else {}
        return {**super()._model_config(), "activation_fn": activation_name(self.activation_fn), **exact}

    def set_keep_in_fp32_modules(self, module_names: list[str]) -> None:
        """Let the named linear layers compute in float32, and no others.

        Args:
            module_names: Paths as in `named_modules()`, e.g. `"0.model.classifier"`.

        Raises:
            InputError: A path leads to no plain linear layer.
        """
        compute_in_float32(self, module_names)
        self.keep_in_fp32_modules = list(module_names)

    @property
    def num_labels(self) -> int:
        """Scores that a pair has."""
        for module in reversed(list(self.children())):
            if isinstance(module, Dense) and module.module_output_name == SCORES:
                return module.out_features
            if isinstance(module, LogitScore):
                return 1
            if isinstance(module, Transformer):
                return int(module.config.num_labels)
        return 1

    @property
    def output_size(self) -> int:
        """The same, as every family names the size of its output."""
        return self.num_labels

    # -- pairs

    def pair(self, query: Any, document: Any) -> Any:
        """The one input that a pair is to the model: two texts, or a conversation of the two.

        A bare string as query is text, whatever it looks like; as document it may be the path or URL of media that the
        model takes.

        Args:
            query: Text, image, or a dict of several.
            document: The same.

        Raises:
            ModalityError: The model takes no such input.
            MediaNotFoundError: The document looks like a path of media, and nothing is there.
        """
        kinds = tuple(super(CrossEncoder, self).modality_of(item, strings_are_text=i == 0)
                      for i, item in enumerate((query, document)))  # fmt: skip
        if kinds == ("text", "text"):
            return tuple(item["text"] if isinstance(item, dict) else item for item in (query, document))
        if "message" not in self.modalities:
            check_becomes_text(list(self.children()), kinds)
        return pair_to_messages(query, document, kinds)

    def _inputs(self, pairs: Sequence[Any]) -> list[Any]:
        """Make the model's inputs of pairs; a conversation is one already."""
        column, made = Column(name="inputs", items=pairs), []
        for row, item in enumerate(pairs):
            try:
                if not is_conversation(item) and (not isinstance(item, list | tuple | np.ndarray) or len(item) != 2):
                    raise InputError(f"expected a pair (query, document), got {repr(item)[:80]}")
                made.append(item if is_conversation(item) else self.pair(*item))
            except MediaError as error:
                raise error.at(column.place(row)) from error
            except InputError as error:
                raise type(error)(f"{column.place(row)}: {error}") from error
        return made

    def modality_of(self, item: Any, *, strings_are_text: bool = False) -> Modality:
        """Detect the modality of `item`, for this model: one side of a pair, or what `pair` made of both.

        Raises:
            ModalityError: The model takes no such input.
            MediaNotFoundError: It looks like a path of media, and nothing is there.
        """
        if is_conversation(item) and item[0]["role"] == "query":
            return "message"  # its contents were looked at when the pair was made
        return super().modality_of(item, strings_are_text=strings_are_text)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> Features:
        """Pairs to the features that `forward` takes, on the host.

        Args:
            inputs: Pairs `(query, document)`, or conversations.
            prompt: Text put before every pair.
            **kwargs: `task` for a `Router`; `processing_kwargs` for the processor.

        Raises:
            InputError: An input is no pair.
            ModalityError: The model takes no such input.
            MediaError: An input cannot be read.
        """
        return super().preprocess(self._inputs(inputs), prompt, **kwargs)

    def preprocess_loaded(
        self, inputs: Sequence[Any], prompt: str | None, *, modality: Modality | None, **kwargs: Any
    ) -> Features:
        """Loaded pairs to features; those with media that a reader turns into text become pairs of texts."""
        if "message" not in self.modalities:
            inputs, modality = read_pairs(list(self.children()), inputs), "text"
        return super().preprocess_loaded(inputs, prompt, modality=modality, **kwargs)

    # -- scores

    @renamed(**PREDICT_NAMES)
    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str | torch.device] | None = None,
        pool: pools.Pool | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Scores:
        """Score one pair or many; all are one batch, sorted by cost, and equal ones are computed once.

        Args:
            inputs: Pairs `(query, document)` of texts, images or multimodal dicts; one pair, or a list of them.
            prompt_name: Name of the prompt in `prompts`.
            prompt: The prompt itself; takes the place of `prompt_name`.
            batch_size: Pairs a mini-batch.
            show_progress_bar: None shows it on a terminal.
            activation_fn: Applied to the scores; None takes the model's.
            apply_softmax: Make the scores of several labels add up to 1.
            convert_to_numpy: Return one numpy array.
            convert_to_tensor: Return one tensor; takes the place of `convert_to_numpy`.
            device: Where to compute; a list of devices computes on all of them, a process each.
            pool: From `start_multi_process_pool`.
            chunk_size: Pairs sent to a process at a time.
            **kwargs: `task`, `processing_kwargs`, and what `get_model_kwargs` names.

        Returns:
            `(pairs,)` for one label, else `(pairs, labels)`, as array, tensor or list; without its first axis for a
            single pair.

        Raises:
            InputError: An argument cannot work, or an input is no pair.
            MediaError: An input cannot be read; it is named.

        Example:
            >>> reranker.predict([("how tall is it?", "It is 8 m tall."), ("how tall is it?", "It is red.")]).shape
            (2,)
        """
        _check_activation(activation_fn)
        single = self.is_singular_input(inputs)
        items = [inputs] if single else materialized(inputs)
        request = make_request(
            self,
            prompt=self.resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            kwargs=kwargs,
        )
        call: dict[str, Any] = {
            "request": request,
            "activation_fn": activation_fn or self.activation_fn,
            "apply_softmax": bool(apply_softmax),
            "on_host": convert_to_numpy and not convert_to_tensor,
        }
        scores: Tensor = self.encode_anywhere(
            self._inputs(items), call, device=device, pool=pool, chunk_size=chunk_size
        )
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores.squeeze(-1)
        converted: Any = list(scores)
        if convert_to_tensor:
            converted = scores
        elif convert_to_numpy:
            converted = as_numpy(scores.float()) if len(scores) else np.array([], np.float32)
        return converted[0] if single else converted  # type: ignore[no-any-return]  # of any of the three

    def encode_here(
        self,
        items: Sequence[Any],
        *,
        request: Request,
        activation_fn: Activation,
        apply_softmax: bool,
        on_host: bool,
        device: str | torch.device | None = None,
    ) -> Tensor:
        """Score inputs, from `pair`, in this process: `(items, labels)`."""

        def finish(values: Tensor) -> Tensor:
            # In half precision, many scores of a long ranking would be equal.
            exact = values.float() if values.is_floating_point() and values.element_size() < 4 else values
            scores = activation_fn(exact)
            return scores.softmax(dim=1) if apply_softmax and scores.shape[-1] > 1 else scores

        with self.inference(device):
            return stacked(self.engine, items, request, finish, on_host=on_host)

    @renamed(**RANK_NAMES)
    def rank(
        self,
        query: Any,
        documents: Iterable[Any],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: str | list[str | torch.device] | None = None,
        pool: pools.Pool | None = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Documents by their score with a query, best first; equal scores keep the documents' order.

        Args:
            query: Text, image, or a dict of several.
            documents: The same, of any mixture: a list, a column of a table or a dataset, or what yields them.
            top_k: Documents to return; None returns all.
            return_documents: Whether to return the documents too.
            prompt_name: As in `predict`, as are all that are not named here.

        Returns:
            For each document a dict of `corpus_id` (its place in `documents`), `score` and, with `return_documents`,
            the document as `text`.

        Raises:
            InputError: The model has several labels, or `documents` is one document and no list of them.

        Example:
            >>> reranker.rank("How hot is the oven?", pages, top_k=1)
            [{'corpus_id': ..., 'score': ...}]
        """
        top_k = arguments.count_or_none("top_k", top_k, least=0)
        if is_single(documents) and not isinstance(documents, np.ndarray | Tensor):
            raise InputError(
                f"documents: expected a list of documents, got one {type(documents).__name__}: {repr(documents)[:80]}; "
                "give [document] to rank it alone"
            )
        documents = list(documents)  # scores are asked for by place, and what is yielded comes once
        if self.num_labels != 1:
            raise InputError(
                f"rank: expected a model with one label, got one with {self.num_labels}; use predict on pairs"
            )
        scores = self.predict(
            [(query, document) for document in documents],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            convert_to_tensor=True,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        )
        results: list[dict[str, Any]] = [
            {"corpus_id": i, "score": score} | ({"text": documents[i]} if return_documents else {})
            for i, score in enumerate(torch.as_tensor(scores).tolist())
        ]
        return sorted(results, key=lambda result: -result["score"])[:top_k]

    def is_singular_input(self, inputs: Any) -> bool:
        """Tell whether `inputs` is one pair and not a list of pairs."""
        if isinstance(inputs, np.ndarray):
            return inputs.ndim == 1 and inputs.size > 0
        if isinstance(inputs, list | tuple):
            first = inputs[0] if inputs else []
            return not (isinstance(first, list | tuple) or (isinstance(first, np.ndarray) and first.dtype.kind in "UO"))
        return is_message(inputs)


def _check_activation(activation_fn: Any) -> None:
    if activation_fn is not None and not callable(activation_fn):
        raise InputError(f"activation_fn: expected a function of a tensor, or None, got {activation_fn!r}")
