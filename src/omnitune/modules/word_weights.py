"""Token vectors times a number for each word, such as its inverse document frequency."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnitune.modules import files
from omnitune.modules.base import Module
from omnitune.types import Features


class WordWeights(Module):
    """Scales `token_embeddings` by the weight of their word; means that follow divide by the sum of the weights.

    Args:
        vocab: Words, each at its id; the tokenizer's.
        word_weights: Weight of a word, as it is or in lower case; it may have other words, and not all.
        unknown_word_weight: Weight of the words that it does not have.
    """

    config_keys: ClassVar[list[str]] = ["vocab", "word_weights", "unknown_word_weight"]

    def __init__(self, vocab: Sequence[str], word_weights: Mapping[str, float], unknown_word_weight: float = 1) -> None:
        super().__init__()
        self.vocab = list(vocab)
        self.word_weights = dict(word_weights)
        self.unknown_word_weight = unknown_word_weight
        weights = [word_weights.get(word, word_weights.get(word.lower(), unknown_word_weight)) for word in self.vocab]
        table = torch.tensor(weights, dtype=torch.float32)[:, None]
        self.emb_layer = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]  # torch's

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `token_embeddings` `(rows, tokens, dim)` scaled, and `token_weights_sum` `(rows,)`."""
        weights: Tensor = self.emb_layer(features["input_ids"]).squeeze(-1) * features["attention_mask"]
        features["token_embeddings"] = features["token_embeddings"] * weights[..., None]
        features["token_weights_sum"] = weights.sum(dim=1)
        return features

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments with the weights of now: readers may take them from here alone."""
        now = dict(zip(self.vocab, self.emb_layer.weight.flatten().tolist(), strict=True))
        return {**super().get_config_dict(), "word_weights": {**self.word_weights, **now}}

    def read_weights(self, folder: Path) -> None:
        """Read the weights, where they were written: until version 4 they were in the configuration alone."""
        if any((folder / name).is_file() for name in (files.WEIGHTS, files.PICKLED_WEIGHTS)):
            super().read_weights(folder)

    def __repr__(self) -> str:
        return f"WordWeights(words={len(self.vocab)}, unknown_word_weight={self.unknown_word_weight})"
