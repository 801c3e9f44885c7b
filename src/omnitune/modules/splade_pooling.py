"""SPLADE: one weight a word of the vocabulary, out of the logits of a text's tokens."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from omnitune.errors import InputError
from omnitune.modules import files
from omnitune.modules.base import Module
from omnitune.modules.vocabulary_head import HEAD, VocabularyHead
from omnitune.ops.splade_head import MEMORY, splade_head
from omnitune.renames import renamed
from omnitune.types import Features

SpladeStrategy = Literal["max", "sum"]
SpladeActivation = Literal["relu", "log1p_relu"]


class SpladePooling(Module):
    """Pools logits of a masked-language head into weights of the vocabulary, none below 0.

    A token's weight of a word is `log(1 + relu(logit))`; a text's is the largest of its tokens, or their sum.

    Args:
        pooling_strategy: "max" or "sum" over tokens.
        activation_function: "relu", or "log1p_relu" for a second `log(1 + x)`.
        embedding_dimension: Size of the vocabulary; None until the first forward says.
        chunk_size: Tokens whose logits are transformed at a time; None takes all.

    Raises:
        InputError: A strategy or an activation is unknown.

    Source:
        Formal et al. 2021 (arXiv:2107.05720, arXiv:2109.10086); the second logarithm is of arXiv:2504.14839.

    Example:
        >>> splade = SparseEncoder(modules=[sparse[0], SpladePooling("max")])
        >>> splade.encode(pages).shape[1] == len(sparse.tokenizer)
        True
    """

    SPLADE_POOLING_MODES: ClassVar[tuple[str, ...]] = ("sum", "max")
    SPLADE_ACTIVATION: ClassVar[list[str]] = ["relu", "log1p_relu"]
    config_keys: ClassVar[list[str]] = ["pooling_strategy", "activation_function", "embedding_dimension"]
    config_key_renames: ClassVar[dict[str, str]] = {"word_embedding_dimension": "embedding_dimension"}

    @renamed(word_embedding_dimension="embedding_dimension")
    def __init__(
        self,
        pooling_strategy: SpladeStrategy = "max",
        activation_function: SpladeActivation = "relu",
        embedding_dimension: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if pooling_strategy not in self.SPLADE_POOLING_MODES:
            raise InputError(f'pooling_strategy: expected "max" or "sum", got {pooling_strategy!r}')
        if activation_function not in self.SPLADE_ACTIVATION:
            raise InputError(f'activation_function: expected "relu" or "log1p_relu", got {activation_function!r}')
        self.pooling_strategy: SpladeStrategy = pooling_strategy
        self.activation_function: SpladeActivation = activation_function
        self.embedding_dimension = embedding_dimension
        self.chunk_size = chunk_size

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `sentence_embedding` `(rows, vocabulary)`.

        Args:
            features: `token_embeddings`, the logits `(rows, tokens, vocabulary)`, with `attention_mask`
                `(rows, tokens)`; or `vocabulary_head`, from which the weights are made without logits of every token.
        """
        head: VocabularyHead | None = features.pop(HEAD, None)
        if head is None:
            pooled = self._plain(features["token_embeddings"], features["attention_mask"])
        else:
            pooled = splade_head(
                head.hidden,
                head.weight,
                head.bias,
                pooling=self.pooling_strategy,
                twice=self.activation_function == "log1p_relu",
                memory=features.get(MEMORY),
            )
            pooled = pooled if head.rows is None else pooled[head.rows.to(pooled.device)]
        self.embedding_dimension = self.embedding_dimension or pooled.shape[1]
        features["sentence_embedding"] = pooled
        return features

    def _plain(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Pool logits that are all there."""
        hidden = ~mask.bool()[..., None]
        size = self.chunk_size if self.chunk_size and self.chunk_size > 0 else max(logits.shape[1], 1)
        pooled: Tensor | None = None
        for start in range(0, logits.shape[1], size):
            weights = logits[:, start : start + size].masked_fill(hidden[:, start : start + size], 0).relu().log1p()
            if self.activation_function == "log1p_relu":
                weights = weights.log1p()
            part = weights.max(dim=1).values if self.pooling_strategy == "max" else weights.sum(dim=1)
            if pooled is None:
                pooled = part
            else:
                pooled = torch.maximum(pooled, part) if self.pooling_strategy == "max" else pooled + part
        return logits.new_zeros(logits.shape[0], logits.shape[2]) if pooled is None else pooled

    def get_embedding_dimension(self) -> int | None:
        """Size of the vocabulary, or None before the first forward of a module that was not told."""
        return self.embedding_dimension

    def save_config(self, output_path: str, filename: str | None = None) -> None:
        """Write the configuration in the older key, which every reader of the format knows."""
        config: dict[str, Any] = self.get_config_dict()
        config["word_embedding_dimension"] = config.pop("embedding_dimension")
        files.write_json(Path(output_path) / (filename or self.config_file_name), config)
