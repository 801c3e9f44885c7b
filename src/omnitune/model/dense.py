"""Public encoders: a family and its verbs. Loading, saving and the encoding loop are in `model` and `inference`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.engine import arguments
from omnitune.engine.inference import Request, as_numpy, check_options, listed, make_request, materialized, stacked
from omnitune.inputs.detect import is_single
from omnitune.model import checkpoint
from omnitune.model import pool as pools
from omnitune.model.base import Backend
from omnitune.model.embedded import embedded_modules
from omnitune.model.encoder import Encoder, verbs
from omnitune.model.family import DENSE, Family
from omnitune.model.old_names import ENCODE_NAMES, DenseOldNames, dense_loading
from omnitune.modules.pooling import Pooling
from omnitune.ops.quantize import quantize_embeddings
from omnitune.ops.similarity import SimilarityFunction
from omnitune.renames import renamed
from omnitune.report.card import SentenceTransformerModelCardData
from omnitune.types import Features

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
OutputValue = Literal["sentence_embedding", "token_embeddings"]
SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]
Encoded = Any
"""Vectors as numpy array, tensor or list, of one item or of many; see `SentenceTransformer.encode`."""


class SentenceTransformer(DenseOldNames, Encoder):
    """A dense encoder: one vector an input, whatever its modality.

    Args:
        model_name_or_path: A directory or a Hugging Face repository: a checkpoint with `modules.json`, or a bare
            encoder or vision-language model, to which pooling is added.
        modules: Modules in order, instead of a checkpoint.
        device: Where to put the weights; None takes the best there is.
        prompts: Prompt texts by name; "query" and "document" are what `encode_query` and `encode_document` use.
        default_prompt_name: Prompt that applies where none is asked for.
        cache_folder: Where downloaded files are kept.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        revision: Branch, tag or commit of the repository.
        local_files_only: Never download.
        token: Access token of the hub.
        model_kwargs: For the backbone's `from_pretrained`, e.g. `dtype`, `attn_implementation`. `dtype="auto-bf16"` is
            bfloat16 where the device multiplies it in hardware, else float32 with a warning.
        processor_kwargs: For the processor's, e.g. `max_pixels`.
        config_kwargs: For the configuration's.
        model_card_data: What the model card says.
        backend: "torch", or "onnx" or "openvino" for the graphs that `omnitune export` put into the directory.
        similarity_fn_name: Similarity of two embeddings; None takes the checkpoint's, else cosine.
        truncate_dim: Dimensions that `encode` keeps; None keeps all.

    Raises:
        CheckpointError: The directory is incomplete or foreign.
        UntrustedCodeError: It needs code, and `trust_remote_code` is False.

    Example:
        >>> model = SentenceTransformer("embedded")
        >>> query, documents = model.encode_query("How hot is the oven?"), model.encode_document(pages)
        >>> model.similarity(query, documents).argmax().item()
        1
    """

    family: ClassVar[Family] = DENSE
    default_prompts: ClassVar[Mapping[str, str]] = {"query": "", "document": ""}

    @dense_loading
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
        model_card_data: SentenceTransformerModelCardData | None = None,
        backend: Backend = "torch",
        similarity_fn_name: SimilarityName | SimilarityFunction | None = None,
        truncate_dim: int | None = None,
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
            model_card_data=model_card_data,
            backend=backend,
        )
        if similarity_fn_name is not None:
            self.similarity_fn_name = similarity_fn_name
        arguments.count_or_none("truncate_dim", truncate_dim)
        self.truncate_dim = truncate_dim if truncate_dim is not None else self._saved_truncate_dim

    def _configure(self, config: Mapping[str, Any], prompts: dict[str, str], default_prompt_name: str | None) -> None:
        super()._configure(config, prompts, default_prompt_name)
        self._saved_truncate_dim: int | None = config.get("truncate_dim")

    @classmethod
    def modules_for_embedded(cls) -> list[nn.Module]:
        """MiniLM, with its readers of images, sound and clips in front."""
        return embedded_modules()

    @classmethod
    def modules_for_bare(cls, path_or_id: str, options: checkpoint.LoadOptions) -> dict[str, nn.Module]:
        """A bare backbone, and pooling of its token vectors: the last token for causal models, else the mean."""
        transformer = checkpoint.bare_transformer(path_or_id, options)
        modules: dict[str, nn.Module] = {"0": transformer}
        if transformer.module_output_name == "token_embeddings":
            dim = transformer.get_embedding_dimension()
            named = (getattr(transformer.config, "architectures", None) or [""])[0]
            causal = named.endswith("ForCausalLM") and getattr(transformer.config, "is_causal", True)
            modules["1"] = Pooling(dim, "lasttoken" if causal else "mean")
        return modules

    def _model_config(self) -> dict[str, Any]:
        config = {**super()._model_config(), "similarity_fn_name": self.similarity_fn_name}
        return config if self.truncate_dim is None else {**config, "truncate_dim": self.truncate_dim}

    # -- encode

    @renamed(**ENCODE_NAMES)
    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str | torch.device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: pools.Pool | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Encoded:
        """Embed one input or many.

        Args:
            inputs: Texts, images (PIL, path, bytes, array, URL), multimodal dicts, conversations; one, or a list.
            prompt_name: Name of the prompt in `prompts`.
            prompt: The prompt itself; takes the place of `prompt_name`.
            batch_size: Items a mini-batch.
            show_progress_bar: None shows it on a terminal.
            output_value: "sentence_embedding"; "token_embeddings" for every token's vector; None for all outputs.
            precision: Number format of the embeddings; other than "float32" they are quantized together.
            convert_to_numpy: Return one numpy array.
            convert_to_tensor: Return one tensor; takes the place of `convert_to_numpy`.
            device: Where to compute; a list of devices encodes on all of them, a process each.
            normalize_embeddings: Scale every embedding to unit length.
            truncate_dim: Dimensions to keep, before scaling; None takes the model's.
            pool: From `start_multi_process_pool`.
            chunk_size: Items sent to a process at a time.
            **kwargs: `task`, `processing_kwargs`, and what `get_model_kwargs` names.

        Returns:
            `(items, dim)` as array or tensor, or a list of them; without its first axis for a single input. For other
            output values, a list with one entry an item.

        Raises:
            InputError: An argument cannot work.
            MediaError: An input cannot be read; it is named.

        Example:
            >>> model.encode(["a page about lists", "the quick brown fox"]).shape
            (2, 384)
            >>> model.encode("one text", truncate_dim=128, normalize_embeddings=True).shape
            (128,)
        """
        truncate_dim = truncate_dim if truncate_dim is not None else self.truncate_dim
        check_options(precision, output_value, truncate_dim)
        single = is_single(inputs)
        items = [inputs] if single else materialized(inputs)
        request = make_request(
            self,
            prompt=self.resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            kwargs=kwargs,
        )
        vectors = output_value == "sentence_embedding"
        call: dict[str, Any] = {
            "request": request,
            "output_value": output_value,
            "normalize_embeddings": normalize_embeddings,
            "truncate_dim": truncate_dim,
            "on_host": vectors and convert_to_numpy and not convert_to_tensor,
        }
        if pool is None and not isinstance(device, list):
            encoded = self.encode_here(items, device=device, **call)
        else:
            encoded = self.encode_anywhere(items, call, device=device, pool=pool, chunk_size=chunk_size)
        if vectors:
            if len(encoded) and precision not in (None, "float32"):
                encoded = quantize_embeddings(as_numpy(encoded), precision=precision)
            if convert_to_tensor or not convert_to_numpy:
                encoded = torch.as_tensor(encoded)
                encoded = encoded if convert_to_tensor else list(encoded)
            elif isinstance(encoded, Tensor):
                encoded = as_numpy(encoded)
        return encoded[0] if single else encoded

    encode_query, encode_document = (
        renamed(**ENCODE_NAMES)(verb)
        for verb in verbs(
            encode,
            "Embeddings",
            'model.encode_query("How hot is the oven?").shape\n(384,)',
            "model.encode_document(pages).shape\n(2, 384)",
        )
    )

    def encode_here(
        self,
        items: Sequence[Any],
        *,
        request: Request,
        output_value: OutputValue | None,
        normalize_embeddings: bool,
        truncate_dim: int | None,
        on_host: bool,
        device: str | torch.device | None = None,
    ) -> Any:
        """Encode in this process: a tensor `(items, dim)`, or a list for other output values."""

        def finish(values: Tensor) -> Tensor:
            kept = values[..., :truncate_dim]
            return F.normalize(kept, dim=-1) if normalize_embeddings else kept

        with self.inference(device):
            if output_value == "sentence_embedding":
                whole = truncate_dim is None and not normalize_embeddings
                return stacked(self.engine, items, request, None if whole else finish, on_host=on_host)
            return listed(self.engine, items, request, _token_rows if output_value == "token_embeddings" else _all_rows)

    # -- similarity

    def similarity(
        self,
        embeddings1: Tensor | NDArray[Any] | list[Tensor] | list[NDArray[Any]],
        embeddings2: Tensor | NDArray[Any] | list[Tensor] | list[NDArray[Any]],
    ) -> Tensor:
        """Similarity of every embedding of the first `(n, dim)` with every one of the second `(m, dim)`: `(n, m)`.

        Example:
            >>> query, documents = model.encode_query("How hot is the oven?"), model.encode_document(pages)
            >>> model.similarity(query, documents).argsort(descending=True).tolist()
            [[1, 0]]
        """
        return SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(embeddings1, embeddings2)

    def similarity_pairwise(
        self,
        embeddings1: Tensor | NDArray[Any] | list[Tensor] | list[NDArray[Any]],
        embeddings2: Tensor | NDArray[Any] | list[Tensor] | list[NDArray[Any]],
    ) -> Tensor:
        """Similarity of the first embedding with the first, the second with the second, ...: `(n,)`.

        Example:
            >>> queries = model.encode_query(["What is greased?", "How hot is the oven?"])
            >>> model.similarity_pairwise(queries, model.encode_document(pages)).shape
            torch.Size([2])
        """
        return SimilarityFunction.to_similarity_pairwise_fn(self.similarity_fn_name)(embeddings1, embeddings2)

    # -- dimensions and pooling

    def get_embedding_dimension(self) -> int | None:
        """Dimensions of what `encode` returns, or None where no module says."""
        dim = super().get_embedding_dimension()
        if self.truncate_dim is None or dim is None:
            return self.truncate_dim if dim is None else dim
        return min(dim, self.truncate_dim)

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within this context `encode` keeps the first `truncate_dim` dimensions; None keeps all."""
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before


def _token_rows(outputs: Features, rows: int) -> list[Tensor]:
    """Vectors of every row's tokens `(tokens, dim)`, up to the last one attended to."""
    lengths = [int(mask.nonzero()[-1]) + 1 if mask.any() else 1 for mask in outputs["attention_mask"][:rows]]
    return [values[:length] for values, length in zip(outputs["token_embeddings"], lengths, strict=False)]


def _all_rows(outputs: Features, rows: int) -> list[Features]:
    """Every output of every row; what is not one a row is given to each."""
    total = len(outputs["sentence_embedding"])

    def row_of(value: Any, row: int) -> Any:
        return value[row] if isinstance(value, Tensor) and value.ndim > 0 and len(value) == total else value

    return [{name: row_of(value, row) for name, value in outputs.items()} for row in range(rows)]
