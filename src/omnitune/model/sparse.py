"""The public sparse encoder: one weight a word of a vocabulary, or a latent, most of them zero."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnitune.engine import arguments
from omnitune.engine.inference import Request, check_finite, make_request, materialized, results
from omnitune.errors import InputError, ShapeError
from omnitune.inputs.detect import is_single
from omnitune.model import checkpoint, sparse_formats
from omnitune.model import pool as pools
from omnitune.model.base import Backend
from omnitune.model.encoder import Encoder, verbs
from omnitune.model.family import SPARSE, Family
from omnitune.model.old_names import OldDimension, OldSimilarities
from omnitune.modules import vocabulary_head
from omnitune.modules.router import Router
from omnitune.modules.sparse_auto_encoder import SparseAutoEncoder
from omnitune.modules.sparse_static_embedding import SparseStaticEmbedding
from omnitune.modules.splade_pooling import SpladePooling
from omnitune.modules.transformer import Transformer
from omnitune.ops import sparse
from omnitune.ops.similarity import SimilarityFunction, Vectors
from omnitune.renames import renamed
from omnitune.report.card import SparseEncoderModelCardData
from omnitune.types import Embeddings, Features

SparseEncoded = Any
"""A sparse COO tensor, a dense one or a list of rows; see `SparseEncoder.encode`."""


class SparseEncoder(OldDimension, OldSimilarities, Encoder):
    """A sparse encoder (SPLADE, CSR): weights of a vocabulary or of latents, most of them zero.

    Args:
        model_name_or_path: A directory or a Hugging Face repository: a checkpoint of this family; a bare
            masked-language model, to which `SpladePooling` is added; a `SentenceTransformer` or another bare encoder,
            to which a new `SparseAutoEncoder` is added.
        modules: Modules in order, instead of a checkpoint.
        device: As in `SentenceTransformer`, as are all that are not named here.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; None takes the checkpoint's, else "dot".
        max_active_dims: Entries that a vector keeps at most; None takes the checkpoint's.

    Raises:
        CheckpointError: The directory is incomplete or foreign.
        UntrustedCodeError: It needs code, and `trust_remote_code` is False.
        InputError: `similarity_fn_name` or `max_active_dims` cannot be.

    Example:
        >>> model = SparseEncoder("naver/splade-v3")  # downloads  # doctest: +SKIP
        >>> model.decode(model.encode_query("How often are the bearings greased?"), top_k=2)  # doctest: +SKIP
        [('bearings', 2.6), ('grease', 2.1)]
    """

    family: ClassVar[Family] = SPARSE
    default_prompts: ClassVar[Mapping[str, str]] = {"query": "", "document": ""}

    @renamed(tokenizer_kwargs="processor_kwargs")
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
        model_card_data: SparseEncoderModelCardData | None = None,
        backend: Backend = "torch",
        similarity_fn_name: str | SimilarityFunction | None = None,
        max_active_dims: int | None = None,
    ) -> None:
        self.max_active_dims = arguments.count_or_none("max_active_dims", max_active_dims)
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
            model_card_data=model_card_data or SparseEncoderModelCardData(),
            backend=backend,
        )
        if similarity_fn_name is not None:
            self.similarity_fn_name = similarity_fn_name
        coder = next((module for module in self.children() if isinstance(module, SparseAutoEncoder)), None)
        if self.max_active_dims is None and coder is not None:
            self.max_active_dims = coder.k
        for route in self.modules() if self.graph is None else ():  # a graph holds its head
            parts = list(route.children())
            for backbone, pooling in itertools.pairwise(parts):
                if isinstance(backbone, Transformer) and isinstance(pooling, SpladePooling):
                    sparse_formats.settle_head(backbone, pooling)

    def forward(self, input: Features, **kwargs: Any) -> Features:
        """Apply all modules; logits of all tokens over the vocabulary are left out where a head can do without."""
        with vocabulary_head.deferred():
            return super().forward(input, **kwargs)

    @classmethod
    def load_checkpoint(cls, path_or_id: str, options: checkpoint.LoadOptions) -> checkpoint.Checkpoint:
        """Load any of the formats that `sparse_formats` knows."""
        return sparse_formats.load(path_or_id, options)

    @classmethod
    def modules_for_bare(cls, path_or_id: str, options: checkpoint.LoadOptions) -> dict[str, nn.Module]:
        """The modules that make a sparse encoder out of a backbone without modules."""
        return sparse_formats.bare(path_or_id, options)

    def _configure(self, config: Mapping[str, Any], prompts: dict[str, str], default_prompt_name: str | None) -> None:
        super()._configure(config, prompts, default_prompt_name)
        if self.max_active_dims is None:
            self.max_active_dims = config.get("max_active_dims")

    def _model_config(self) -> dict[str, Any]:
        config = super()._model_config()
        return config if self.max_active_dims is None else {**config, "max_active_dims": self.max_active_dims}

    # -- encode

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | list[str | torch.device] | None = None,
        max_active_dims: int | None = None,
        pool: pools.Pool | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> SparseEncoded:
        """Sparse vectors of one input or many.

        Args:
            inputs: Texts, or whatever the backbone takes; one, or a list.
            prompt_name: Name of the prompt in `prompts`.
            prompt: The prompt itself; takes the place of `prompt_name`.
            batch_size: Items a mini-batch.
            show_progress_bar: None shows it on a terminal.
            convert_to_tensor: Return one tensor; else a list of rows.
            convert_to_sparse_tensor: Return sparse COO tensors; else dense ones.
            save_to_cpu: Move the results to the host as they come.
            device: Where to compute; a list of devices encodes on all of them, a process each.
            max_active_dims: Entries of largest magnitude to keep; None takes the model's.
            pool: From `start_multi_process_pool`.
            chunk_size: Items sent to a process at a time.
            **kwargs: `task`, `processing_kwargs`, and what `get_model_kwargs` names.

        Returns:
            `(items, dim)`, coalesced where sparse; without its first axis for a single input.

        Raises:
            InputError: An argument cannot work.
            MediaError: An input cannot be read; it is named.

        Example:
            >>> vectors = sparse.encode(pages, max_active_dims=16)
            >>> vectors.shape[0], vectors.is_sparse, vectors.values().numel()
            (2, True, 32)
        """
        single = is_single(inputs)
        rows = self.encode_rows(
            [inputs] if single else inputs,
            prompt_name,
            prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            on_host=save_to_cpu,
            device=device,
            max_active_dims=max_active_dims,
            pool=pool,
            chunk_size=chunk_size,
            **kwargs,
        )
        if not len(rows):
            empty = torch.tensor([], device=rows.values.device)
            return [] if not convert_to_tensor else empty.to_sparse() if convert_to_sparse_tensor else empty
        if single:
            return _row(rows, 0, sparse_form=convert_to_sparse_tensor)
        if not convert_to_tensor:
            return [_row(rows, place, sparse_form=convert_to_sparse_tensor) for place in range(len(rows))]
        return rows.coo() if convert_to_sparse_tensor else rows.coo().to_dense()

    def encode_rows(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        on_host: bool = True,
        device: str | list[str | torch.device] | None = None,
        max_active_dims: int | None = None,
        pool: pools.Pool | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Embeddings:
        """CSR rows of many inputs, for indexes: what `encode` gives, sliced and joined without a copy of zeros.

        Args:
            inputs: A list of items.
            prompt_name: As for `encode`, as are all that are not named here.
            on_host: Whether the rows are in host memory.

        Returns:
            csr `Embeddings` of one row an item.

        Example:
            >>> rows = sparse.encode_rows(pages, max_active_dims=16)
            >>> len(rows), rows[:1].values.shape
            (2, torch.Size([16]))
        """
        arguments.count_or_none("max_active_dims", max_active_dims)
        limit = max_active_dims if max_active_dims is not None else self.max_active_dims
        items = materialized(inputs)
        if limit is not None and "max_active_dims" in self.get_model_kwargs():
            kwargs["max_active_dims"] = limit
        request = make_request(
            self,
            prompt=self.resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            kwargs=kwargs,
        )
        call: dict[str, Any] = {"request": request, "max_active_dims": limit, "on_host": on_host}
        parts = self.encode_anywhere(items, call, device=device, pool=pool, chunk_size=chunk_size)
        return Embeddings.cat(parts)

    encode_query, encode_document = verbs(
        encode,
        "Sparse vectors",
        'sparse.encode_query("How hot is the oven?", max_active_dims=8).values().shape\ntorch.Size([8])',
        "len(sparse.encode_document(pages))\n2",
    )

    def encode_here(
        self,
        items: Sequence[Any],
        *,
        request: Request,
        max_active_dims: int | None,
        on_host: bool,
        device: str | torch.device | None = None,
    ) -> list[Embeddings]:
        """Encode in this process: csr rows of all items, in a list of one."""
        finite: list[Tensor] = []

        def read(outputs: Features, count: int) -> Embeddings:
            values = self.family.read(outputs).values[:count]
            finite.append(torch.isfinite(values).all())
            rows = Embeddings.csr(values)
            rows = rows if max_active_dims is None else sparse.top_entries(rows, max_active_dims)
            return rows.to("cpu") if on_host else rows

        parts: list[Embeddings] = []
        order = torch.empty(len(items), dtype=torch.int64)
        before = 0
        with self.inference(device):
            for (places, sources), rows in results(self.engine, items, request, read):
                order[places] = sources + before
                before += len(rows)
                parts.append(rows)
            check_finite(self, finite, None, request)
        if not parts:
            nothing = torch.empty(0, device="cpu" if on_host else self.device)
            zero = torch.zeros(1, dtype=torch.int64)
            return [Embeddings(nothing, None, zero, nothing.long(), self.get_embedding_dimension())]
        rows = Embeddings.cat(parts)[order]
        indices = None if rows.indices is None else rows.indices.clone()
        # Copies: a graph may not use what was made in inference mode.
        return [Embeddings(rows.values.clone(), None, rows.offsets, indices, rows.dim)]

    # -- similarity

    def similarity_hint(self, name: str) -> str:
        """Point from MaxSim to the family that has it."""
        return "; MaxSim compares token vectors: use MultiVectorEncoder" if name in ("maxsim", "meanmaxsim") else ""

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Similarity of every vector of the first with every one of the second `(n, m)`, dense, float32.

        Args:
            embeddings1: Sparse or dense `(n, dim)`, or `(dim,)`.
            embeddings2: Likewise `(m, dim)`.

        Example:
            >>> query, documents = sparse.encode_query("How hot is the oven?"), sparse.encode_document(pages)
            >>> sparse.similarity(query, documents).shape
            torch.Size([1, 2])
        """
        return SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Similarity of the first vector with the first, the second with the second, ...: `(n,)`."""
        return SimilarityFunction.to_similarity_pairwise_fn(self.similarity_fn_name)(embeddings1, embeddings2)

    # -- what a vector holds

    @staticmethod
    def sparsity(embeddings: Tensor) -> dict[str, float]:
        """Mean number of entries of a vector that are not zero, and the share that is.

        Args:
            embeddings: Sparse or dense `(rows, dim)`, or `(dim,)`.

        Returns:
            `active_dims` and `sparsity_ratio`.

        Raises:
            InputError: It is no tensor.
            ShapeError: It has more than two axes.

        Example:
            >>> SparseEncoder.sparsity(torch.tensor([[0.0, 2.0, 0.0, 1.0]]))
            {'active_dims': 2.0, 'sparsity_ratio': 0.5}
        """
        rows = sparse.as_csr(_tensor(embeddings))
        if not len(rows) or not rows.dim:
            return {"active_dims": 0.0, "sparsity_ratio": 1.0}
        stored = rows.values.count_nonzero() if len(rows.values) else torch.tensor(0)
        active = float(stored) / len(rows)
        return {"active_dims": active, "sparsity_ratio": 1.0 - active / rows.dim}

    @staticmethod
    def intersection(embeddings_1: Tensor, embeddings_2: Tensor) -> Tensor:
        """The product of one vector with others, entry by entry, where it is above zero: what two texts share.

        Args:
            embeddings_1: One vector `(dim,)`.
            embeddings_2: One `(dim,)`, or several `(rows, dim)`.

        Returns:
            Sparse COO in the shape of `embeddings_2`.

        Raises:
            ShapeError: The shapes do not go together.

        Example:
            >>> shared = SparseEncoder.intersection(torch.tensor([0.0, 2.0, 3.0]), torch.tensor([1.0, 0.5, 0.0]))
            >>> shared.to_dense()
            tensor([0., 1., 0.])
        """
        if _tensor(embeddings_1).ndim != 1:
            raise ShapeError(f"embeddings_1: expected one vector (dim,), got the shape {tuple(embeddings_1.shape)}")
        shared = sparse.shared_entries(sparse.as_csr(embeddings_1), sparse.as_csr(_tensor(embeddings_2)))
        return shared.coo() if embeddings_2.ndim == 2 else _row(shared, 0)

    def decode(self, embeddings: Tensor, top_k: int | None = None) -> Any:
        """The words of a vector and their weights, largest first.

        Args:
            embeddings: `(dim,)`, or `(rows, dim)`.
            top_k: Most words of a vector; None gives all.

        Returns:
            A list of `(token, weight)`; for several vectors, a list of such lists.

        Raises:
            InputError: `top_k` is not positive, or `embeddings` is no tensor.

        Example:
            >>> sparse.decode(sparse.encode_document(pages[0]), top_k=2)
            [('...', ...), ('...', ...)]
        """
        arguments.count_or_none("top_k", top_k)
        rows = sparse.as_csr(_tensor(embeddings))
        rows = rows if top_k is None else sparse.top_entries(rows, top_k)
        assert rows.indices is not None
        lengths = rows.lengths.tolist()
        named = []
        parts = zip(torch.split(rows.indices, lengths), torch.split(rows.values, lengths), strict=True)
        for indices, values in parts:
            order = values.argsort(descending=True, stable=True)
            tokens = self.tokenizer.convert_ids_to_tokens(indices[order].tolist())
            named.append(list(zip(tokens, values[order].tolist(), strict=True)))
        return named[0] if embeddings.ndim == 1 else named

    # -- parts

    @property
    def kinds(self) -> list[str]:
        """Kind of the sparse encoder, for the model card: "Asymmetric", "Inference-free", "SPLADE", "CSR"."""
        held = {type(module) for module in self.modules()}
        signs = {
            "Asymmetric": Router,
            "Inference-free": SparseStaticEmbedding,
            "SPLADE": SpladePooling,
            "CSR": SparseAutoEncoder,
        }
        return [name for name, kind in signs.items() if kind in held]

    @property
    def splade_pooling_chunk_size(self) -> int | None:
        """Tokens whose logits `SpladePooling` transforms at a time; None for all, and without such a module."""
        return next((module.chunk_size for module in self.modules() if isinstance(module, SpladePooling)), None)

    @splade_pooling_chunk_size.setter
    def splade_pooling_chunk_size(self, value: int | None) -> None:
        found = [module for module in self.modules() if isinstance(module, SpladePooling)]
        if not found:
            raise InputError("splade_pooling_chunk_size: expected a model with SpladePooling, got one without")
        for module in found:
            module.chunk_size = value


def _tensor(embeddings: Any) -> Tensor:
    if not isinstance(embeddings, Tensor):
        raise InputError(f"embeddings: expected a tensor, got {type(embeddings).__name__}")
    return embeddings


def _row(rows: Embeddings, place: int, *, sparse_form: bool = True) -> Tensor:
    """One csr row as a vector `(dim,)`."""
    assert rows.offsets is not None and rows.indices is not None
    cut = slice(int(rows.offsets[place]), int(rows.offsets[place + 1]))
    places, values, size = rows.indices[None, cut], rows.values[cut], (rows.dim or 0,)
    row = torch.sparse_coo_tensor(places, values, size, is_coalesced=True, check_invariants=False)
    return row if sparse_form else row.to_dense()
