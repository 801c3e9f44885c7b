"""Text embeddings without a transformer: the mean of a table's rows, one a token."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from omnitune.errors import CheckpointError, InputError
from omnitune.modules import files
from omnitune.modules.base import InputModule
from omnitune.types import Features, Modality

TOKENIZER = "tokenizer.json"


class StaticEmbedding(InputModule):
    """Mean of the token vectors of a text.

    Args:
        tokenizer: A fast tokenizer, of `tokenizers` or of `transformers`.
        embedding_weights: The table `(vocabulary, dim)`.
        embedding_dim: Dimension of a new random table; needed without `embedding_weights`.
        **kwargs: `base_model`, the model the table was made from, for the model card.

    Raises:
        InputError: The tokenizer is not a fast one, or neither weights nor a dimension is given.

    Example:
        >>> words = StaticEmbedding(model.tokenizer, embedding_dim=64)
        >>> SentenceTransformer(modules=[words]).encode(pages).shape
        (2, 64)
    """

    def __init__(
        self,
        tokenizer: Tokenizer | PreTrainedTokenizerFast,
        embedding_weights: NDArray[Any] | Tensor | None = None,
        embedding_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if isinstance(tokenizer, PreTrainedTokenizerFast):
            # A copy: the model that it is of sets padding and truncation in it with every batch.
            tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)
        if not isinstance(tokenizer, Tokenizer):
            raise InputError(
                f"tokenizer: expected a fast tokenizer, got {type(tokenizer).__name__}; "
                "tokenizers.Tokenizer.from_file(...) and AutoTokenizer give one"
            )
        if embedding_weights is not None:
            weights = torch.as_tensor(
                np.asarray(embedding_weights) if not torch.is_tensor(embedding_weights) else embedding_weights
            )
            self.embedding = nn.EmbeddingBag.from_pretrained(weights, freeze=False)
        elif embedding_dim is not None:
            self.embedding = nn.EmbeddingBag(tokenizer.get_vocab_size(), embedding_dim)
        else:
            raise InputError("embedding_weights, embedding_dim: expected one of the two, got neither")
        self.num_embeddings: int = self.embedding.num_embeddings
        self.embedding_dim: int = self.embedding.embedding_dim
        self.tokenizer: Tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.base_model: str | None = kwargs.get("base_model")

    @property
    def max_seq_length(self) -> float:  # type: ignore[override]  # as in Sentence Transformers: nothing is cut
        """Infinite: no text is cut."""
        return math.inf

    def preprocess(
        self,
        inputs: Sequence[str],
        prompt: str | None = None,
        *,
        modality: Modality | None = None,  # noqa: ARG002 - always text
        task: str | None = None,  # noqa: ARG002 - the same for all
        **kwargs: Any,  # noqa: ARG002 - the interface of input modules
    ) -> Features:
        """Token ids of all texts in one row `(tokens,)` int64, and where each text begins `(rows,)` int64."""
        texts = [prompt + text for text in inputs] if prompt else list(inputs)
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.cumsum([0, *(len(row) for row in ids)], dtype=np.int64)
        flat = np.fromiter((token for row in ids for token in row), dtype=np.int64, count=int(lengths[-1]))
        return {"input_ids": torch.from_numpy(flat), "offsets": torch.from_numpy(lengths[:-1].copy())}

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `sentence_embedding` `(rows, dim)`."""
        features["sentence_embedding"] = self.embedding(features["input_ids"], features["offsets"])
        return features

    def get_embedding_dimension(self) -> int:
        """Dimension of the embedding."""
        return self.embedding_dim

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the table and the tokenizer; there is no configuration."""
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        self.save_tokenizer(output_path)

    @classmethod
    def from_files(cls, root: Path, subfolder: str, **kwargs: Any) -> Self:
        """Read a table saved by this class, by Sentence Transformers or by model2vec.

        Raises:
            CheckpointError: The tokenizer or the table is missing.
        """
        folder = root / subfolder
        path = folder / TOKENIZER
        if not path.is_file():
            raise CheckpointError(f"{folder}: expected {TOKENIZER}, got none; the checkpoint is incomplete")
        return cls(Tokenizer.from_file(str(path)), _table(files.read_tensors(folder), folder), **kwargs)

    @classmethod
    def from_distillation(cls, model_name: str, *_: Any, **__: Any) -> "StaticEmbedding":
        """Refuse: model2vec distils, and `from_model2vec` reads what it made.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"from_distillation: expected a distilled folder, got the model {model_name!r}; distil it by "
            "model2vec.distill.distill(model_name).save_pretrained(folder), then StaticEmbedding.from_model2vec(folder)"
        )

    @classmethod
    def from_model2vec(cls, model_id_or_path: str) -> "StaticEmbedding":
        """A model2vec model, from its directory or repository; the package model2vec is not needed.

        Args:
            model_id_or_path: Directory or repository.

        Raises:
            CheckpointError: The tokenizer or the table is missing.
        """
        return cls.load(model_id_or_path, base_model=model_id_or_path)


def _table(tensors: Mapping[str, Tensor], folder: Path) -> Tensor:
    """One row a token id. model2vec keeps fewer rows and a mapping to them, and a weight for each token."""
    if "embedding.weight" in tensors:
        return tensors["embedding.weight"]
    if "embeddings" not in tensors:
        raise CheckpointError(
            f"{folder / files.WEIGHTS}: expected a tensor 'embedding.weight', or 'embeddings' as model2vec writes it; "
            f"got {sorted(tensors)}"
        )
    table = tensors["embeddings"]
    if "mapping" in tensors:
        table = table[tensors["mapping"].long()]
    if "weights" in tensors:
        table = table.to(torch.promote_types(table.dtype, torch.float32)) * tensors["weights"][:, None]
        table = table.to(torch.float32) if tensors["weights"].dtype == torch.float64 else table
    return table.contiguous()
