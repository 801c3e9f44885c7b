"""Token vectors of a dense encoder, for late interaction without training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from omnitune.model.dense import SentenceTransformer

_JOINERS = "#▁ĠĊ"
"""Marks of tokenizers for where a token stands in its word."""


class TokenVectors:
    """A dense encoder as a late-interaction one, without training: unit vectors of its tokens.

    Args:
        model: The dense encoder. All tokens of a query count, [CLS] and [SEP] with them (without them, 0.666 instead of
            0.742 on the demo's held-out pages); of a document, all but punctuation, which is near every query's [SEP]
            and takes a fifth of the room.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model
        self.prompts, self.default_prompt_name = model.prompts, model.default_prompt_name
        self.tokenizer, self.max_seq_length = model.tokenizer, model.max_seq_length
        self.modality_of = model.modality_of
        tokenizer = model.tokenizer
        special = set(getattr(tokenizer, "all_special_ids", ()))
        vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
        muted = {
            token: number
            for token, number in vocabulary.items()
            if number not in special and not any(letter.isalnum() for letter in token.lstrip(_JOINERS))
        }
        self.mute_words, self._mute = list(muted), list(muted.values())

    def encode_query(self, inputs: Sequence[Any], **options: Any) -> list[Any]:
        """Token vectors `(tokens, dim)` of every query."""
        return [_unit(row) for row in self.model.encode_query(list(inputs), output_value="token_embeddings", **options)]

    def encode_document(self, inputs: Sequence[Any], **options: Any) -> list[Any]:
        """Token vectors `(tokens, dim)` of every document, without those of punctuation."""
        made = self.model.encode_document(list(inputs), output_value="token_embeddings", **options)
        return [_unit(row)[kept] for row, kept in zip(made, self.said(inputs, list(map(len, made))), strict=True)]

    def encode_both(self, queries: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Vectors `(queries, dim)` of queries as the dense encoder makes them, and `encode_query`, of one forward."""
        made = self.model.encode_query(list(queries), output_value=None, show_progress_bar=False)
        dense = np.stack([one["sentence_embedding"][: self.model.truncate_dim].float().cpu().numpy() for one in made])
        return dense, [_unit(one["token_embeddings"][: int(one["attention_mask"].sum())]) for one in made]

    def said(self, inputs: Sequence[Any], lengths: Sequence[int]) -> list[Any]:
        """Masks of the tokens of documents that are no punctuation; where a prompt was put before them, of all."""
        masks = [np.ones(length, dtype=bool) for length in lengths]
        texts = [(place, text) for place, text in enumerate(inputs) if isinstance(text, str)]
        if not self._mute or not texts:
            return masks
        made = self.tokenizer(
            [text for _, text in texts], truncation=True, max_length=self.max_seq_length, padding=False, verbose=False
        )
        for (place, _), numbers in zip(texts, made["input_ids"], strict=True):
            if len(numbers) == lengths[place]:
                masks[place] = ~np.isin(numbers, self._mute)
        return masks


def _unit(rows: Any) -> Any:
    values = rows.detach().float().cpu().numpy() if hasattr(rows, "detach") else np.asarray(rows, dtype=np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
