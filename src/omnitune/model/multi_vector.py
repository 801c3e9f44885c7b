"""The public late-interaction encoder: one vector a token, compared by MaxSim."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.engine.inference import Request, as_numpy, listed, make_request, materialized
from omnitune.errors import InputError
from omnitune.inputs.detect import is_single, modality_of
from omnitune.model import checkpoint, late_formats
from omnitune.model import pool as pools
from omnitune.model.base import Backend
from omnitune.model.dense import SentenceTransformer
from omnitune.model.embedded import text_modules
from omnitune.model.encoder import Encoder, verbs
from omnitune.model.family import MULTI_VECTOR, Family
from omnitune.model.old_names import OldSimilarities
from omnitune.model.windows import window_cutter
from omnitune.modules.multi_vector_mask import MultiVectorMask
from omnitune.modules.router import Router
from omnitune.modules.token_pooling import BaseTokenPooling
from omnitune.ops import token_similarity
from omnitune.ops.similarity import SimilarityFunction
from omnitune.report.card import MultiVectorEncoderModelCardData
from omnitune.types import Features, Modality

TokenEncoded = Any
"""Token vectors of one item or of many; see `MultiVectorEncoder.encode`."""

_XTR = "XTR is a way to score in training: give XTRScores() to a loss as similarity_fct. "


class MultiVectorEncoder(OldSimilarities, Encoder):
    """A late-interaction encoder (ColBERT, ColPali): one vector a token, whatever the modality.

    Args:
        model_name_or_path: A directory or a Hugging Face repository: a checkpoint of this family, of PyLate, Stanford
            ColBERT or transformers (`ColPaliForRetrieval` and its kin), a `SentenceTransformer`, or a bare backbone;
            or "embedded", the token vectors of the MiniLM that the extra `demo` installs.
        modules: Modules in order, instead of a checkpoint.
        device: As in `SentenceTransformer`, as are all that are not named here.
        similarity_fn_name: "maxsim" or "meanmaxsim"; None takes the checkpoint's, else "maxsim".

    Raises:
        CheckpointError: The directory is incomplete or foreign.
        UntrustedCodeError: It needs code, and `trust_remote_code` is False.
        InputError: `similarity_fn_name` is another.

    Example:
        >>> model = MultiVectorEncoder("embedded")
        >>> query, documents = model.encode_query("How hot is the oven?"), model.encode_document(pages)
        >>> model.similarity(query, documents).argmax().item()
        1
    """

    family: ClassVar[Family] = MULTI_VECTOR
    default_prompts: ClassVar[Mapping[str, str]] = {"query": "", "document": ""}

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
        model_card_data: MultiVectorEncoderModelCardData | None = None,
        backend: Backend = "torch",
        similarity_fn_name: str | SimilarityFunction | None = None,
    ) -> None:
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
            model_card_data=model_card_data or MultiVectorEncoderModelCardData(),
            backend=backend,
        )
        if similarity_fn_name is not None:
            self.similarity_fn_name = similarity_fn_name
        for module in self.modules():
            if isinstance(module, MultiVectorMask):
                module.resolve_with_tokenizer(self.tokenizer)

    @classmethod
    def modules_for_embedded(cls) -> list[nn.Module]:
        """MiniLM's token vectors as they are; its directory would get a new projection, as every dense one does."""
        return late_formats.token_level(text_modules())

    @classmethod
    def from_dense(cls, model: SentenceTransformer | str, **kwargs: Any) -> "MultiVectorEncoder":
        """The token vectors of a dense encoder, compared by MaxSim, without a new weight and without training.

        Args:
            model: A `SentenceTransformer`, whose modules are shared, or where one lies.
            **kwargs: As for the constructor.

        Raises:
            InputError: It has no token vectors, as a model of two towers has none.

        Example:
            >>> MultiVectorEncoder.from_dense(model).encode_document("the hot oven").shape
            torch.Size([5, 384])
        """
        dense = SentenceTransformer(model) if isinstance(model, str) else model
        modules = list(dense.children())
        # The other routes read pages and recordings for the same text encoder.
        if isinstance(modules[0], Router) and "text" in modules[0].sub_modules:
            modules = list(modules[0].sub_modules["text"].children())
        if getattr(modules[0], "module_output_name", None) != "token_embeddings":
            raise InputError(f"model: expected an encoder that makes token vectors, got {type(modules[0]).__name__}")
        return cls(
            modules=late_formats.token_level(modules),
            **{"prompts": dict(dense.prompts), "default_prompt_name": dense.default_prompt_name, **kwargs},
        )

    @classmethod
    def load_checkpoint(cls, path_or_id: str, options: checkpoint.LoadOptions) -> checkpoint.Checkpoint:
        """Load any of the formats that `late_formats` knows."""
        return late_formats.load(path_or_id, options)

    @classmethod
    def modules_for_bare(cls, path_or_id: str, options: checkpoint.LoadOptions) -> dict[str, nn.Module]:
        """A bare backbone, a new projection of every token, the mask, and unit length."""
        return late_formats.load(path_or_id, options).modules

    def preprocess_loaded(
        self, inputs: Sequence[Any], prompt: str | None, *, modality: Modality | None, **kwargs: Any
    ) -> Features:
        """Loaded items of one modality (None: several) to features, which keep the task: the mask depends on it."""
        features = super().preprocess_loaded(inputs, prompt, modality=modality, **kwargs)
        return features if kwargs.get("task") is None else {**features, "task": kwargs["task"]}

    # -- encode

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["token_embeddings"] | None = "token_embeddings",
        convert_to_numpy: bool = False,
        device: str | list[str | torch.device] | None = None,
        normalize_embeddings: bool = False,
        pool: pools.Pool | None = None,
        chunk_size: int | None = None,
        token_pooling: BaseTokenPooling | None = None,
        task: str | None = None,
        *,
        windows: bool = False,
        **kwargs: Any,
    ) -> TokenEncoded:
        """Token vectors of one input or many.

        Args:
            inputs: Texts, images (PIL, path, bytes, array, URL), multimodal dicts, conversations; one, or a list.
            prompt_name: Name of the prompt in `prompts`.
            prompt: The prompt itself; takes the place of `prompt_name`.
            batch_size: Items a mini-batch.
            show_progress_bar: None shows it on a terminal.
            output_value: "token_embeddings"; None for all outputs of every item, padding included.
            convert_to_numpy: Return arrays, on the host.
            device: Where to compute; a list of devices encodes on all of them, a process each.
            normalize_embeddings: Scale every vector to unit length.
            pool: From `start_multi_process_pool`.
            chunk_size: Items sent to a process at a time.
            token_pooling: Pools the vectors that come out, on threads beside the next forward.
            task: "query" or "document": decides lengths, expansion, mask and pooling.
            windows: Read a text beyond the model's limit to its end: it is cut into overlapping windows, at the ends of
                sentences where one is near, and has the vectors of all of them. Not for queries, whose tokens are added
                up, so that what two windows share would count twice.
            **kwargs: `processing_kwargs`, and what `get_model_kwargs` names.

        Returns:
            A list of `(tokens, dim)`, one an item; without the list for a single input.

        Raises:
            InputError: An argument cannot work.
            MediaError: An input cannot be read; it is named.

        Example:
            >>> [len(vectors) for vectors in late.encode(["oven", "the hot oven"])]  # words, and two marks
            [3, 5]
        """
        if "convert_to_tensor" in kwargs:
            raise InputError(
                "convert_to_tensor: expected nothing, because token vectors have as many rows as an item has tokens "
                "and a list of tensors comes back anyway; drop it, or give convert_to_numpy=True for arrays"
            )
        if output_value not in ("token_embeddings", None):
            raise InputError(f"output_value: expected token_embeddings or None, got {output_value!r}")
        if windows and (task == "query" or output_value is None):
            asked = "queries" if task == "query" else "output_value=None"
            raise InputError(f"windows: expected False for {asked}, got True; it is for token vectors of documents")
        single = is_single(inputs)
        items = [inputs] if single else materialized(inputs)
        prompt = self.resolve_prompt(prompt, prompt_name)
        parts = self._cut(items, prompt) if windows else []
        request = make_request(
            self,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            kwargs={**kwargs, "task": task},
        )
        call: dict[str, Any] = {
            "request": request,
            "output_value": output_value,
            "normalize_embeddings": normalize_embeddings,
            "token_pooling": token_pooling,
            "on_host": convert_to_numpy,
        }
        flat = [part for item in parts for part in item] if windows else items
        encoded = self.encode_anywhere(flat, call, device=device, pool=pool, chunk_size=chunk_size)
        if windows:
            rows = iter(encoded)
            encoded = [torch.cat([next(rows) for _ in item]) for item in parts]
        if convert_to_numpy and output_value is not None:
            encoded = [as_numpy(row) for row in encoded]
        return encoded[0] if single else encoded

    encode_query, encode_document = verbs(
        encode,
        "Token vectors",
        'len(late.encode_query("the hot oven"))\n5',
        "len(late.encode_document(pages))\n2",
    )

    def _cut(self, items: Sequence[Any], prompt: str | None) -> list[list[Any]]:
        """Every item's windows; what is no text is its own."""
        cut, supported = window_cutter(self, prompt=prompt), set(self.modalities)
        bare = [item["text"] if isinstance(item, dict) and item.keys() == {"text"} else item for item in items]
        texts = [isinstance(item, str) and modality_of(item, supported=supported) == "text" for item in bare]
        return [cut(text) if is_text else [text] for text, is_text in zip(bare, texts, strict=True)]

    def encode_here(
        self,
        items: Sequence[Any],
        *,
        request: Request,
        output_value: Literal["token_embeddings"] | None,
        normalize_embeddings: bool,
        token_pooling: BaseTokenPooling | None,
        on_host: bool,
        device: str | torch.device | None = None,
    ) -> list[Any]:
        """Encode in this process: one `(tokens, dim)` an item, or one dict of outputs."""
        task = request.task

        def pooled(row: Tensor) -> Tensor:
            with torch.inference_mode():  # a mode is a thread's own
                assert token_pooling is not None
                return token_pooling.pool_one(row)

        with ExitStack() as stack:
            stack.enter_context(self.inference(device))
            pools_here = token_pooling is not None and token_pooling.applies_to(task)
            threads = (
                stack.enter_context(ThreadPoolExecutor(thread_name_prefix="omnitune-pool")) if pools_here else None
            )

            def rows_of(outputs: Features, count: int) -> list[Any]:
                del count
                rows = self.family.read(outputs).unbind()
                if normalize_embeddings:
                    rows = [F.normalize(row, dim=-1) for row in rows]
                made: list[Any] = [row.cpu() if on_host else row for row in rows]
                if threads is not None:
                    made = [threads.submit(pooled, row) for row in made]
                return made if output_value is not None else _outputs_of(outputs, made)

            results = listed(self.engine, items, request, rows_of)
            return [_settled(result) for result in results]

    # -- similarity

    def similarity_hint(self, name: str) -> str:
        """Say where XTR scores belong, and that single vectors are not compared here."""
        return f"; {_XTR if name == 'xtr' else ''}others compare single vectors"

    def similarity(
        self, embeddings1: token_similarity.TokenVectors, embeddings2: token_similarity.TokenVectors, **kwargs: Any
    ) -> Tensor:
        """Similarity of every query with every document.

        Args:
            embeddings1: Token vectors of queries: a list of `(tokens, dim)`, padded, or of one query.
            embeddings2: Likewise of documents.
            **kwargs: As for `ops.token_similarity.maxsim`: masks, `length_normalize`, `device`.

        Returns:
            `(queries, documents)`.

        Example:
            >>> queries = late.encode_query(["What is greased?", "How hot is the oven?"])
            >>> late.similarity(queries, late.encode_document(pages)).argmax(dim=1)
            tensor([0, 1])
        """
        mean = self.similarity_fn_name == "meanmaxsim"
        score = token_similarity.mean_maxsim if mean else token_similarity.maxsim
        return score(embeddings1, embeddings2, **kwargs)

    def similarity_pairwise(
        self, embeddings1: token_similarity.TokenVectors, embeddings2: token_similarity.TokenVectors, **kwargs: Any
    ) -> Tensor:
        """Similarity of the first query with the first document, the second with the second, ...: `(rows,)`."""
        mean = self.similarity_fn_name == "meanmaxsim"
        score = token_similarity.mean_maxsim_pairwise if mean else token_similarity.maxsim_pairwise
        return score(embeddings1, embeddings2, **kwargs)

    # -- dimensions


def _settled(result: Any) -> Any:
    """A result whose pooling is done."""
    if isinstance(result, Future):
        return result.result()
    return {key: _settled(value) for key, value in result.items()} if isinstance(result, dict) else result


def _outputs_of(outputs: Features, rows: list[Any]) -> list[Features]:
    """Every output of every item; what is not one an item is given to each. Pooled vectors replace the others."""
    count = len(rows)
    made = []
    for number in range(count):
        item = {
            name: value[number] if isinstance(value, Tensor) and value.ndim > 0 and len(value) == count else value
            for name, value in outputs.items()
            if name != "task"
        }
        made.append({**item, "token_embeddings": rows[number]} if isinstance(rows[number], Future) else item)
    return made
