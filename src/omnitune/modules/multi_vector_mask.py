"""Mask of the token vectors that take part in late interaction."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnitune.errors import InputError
from omnitune.modules.base import Module
from omnitune.modules.query_expansion import POSITIONS
from omnitune.types import Features

logger = logging.getLogger(__name__)

QUERY = "query"
DOCUMENT = "document"


def tasks_of(tasks: str | Sequence[str] | None) -> list[str]:
    """Names of tasks as a list; "document" where none is named."""
    return [DOCUMENT] if tasks is None else [tasks] if isinstance(tasks, str) else list(tasks)


class MultiVectorMask(Module):
    """Lets `attention_mask` say which token vectors are scored.

    Those of real tokens, and of a query's expansion; without a document's punctuation, where there is a skiplist; of
    documents, where asked, those of some tokens alone, such as an image's.

    Args:
        skiplist_words: Tokens of the vocabulary that are not scored.
        skiplist_tasks: Tasks that the skiplist is for, "document" by default; without a task an input is a document.
        keep_only_token_ids: Of everything but queries, tokens with other ids are not scored; None keeps all.

    Example:
        >>> mask = MultiVectorMask(skiplist_words=[".", ","])
        >>> muted = MultiVectorEncoder(modules=[model[0], mask, modules.Normalize("token_embeddings")])
        >>> len(muted.encode_document("Grease it, daily.")), len(muted.encode_query("Grease it, daily."))
        (5, 7)
    """

    config_keys: ClassVar[list[str]] = ["skiplist_words", "skiplist_tasks", "keep_only_token_ids"]
    forward_kwargs: set[str] = {"task"}

    def __init__(
        self,
        skiplist_words: list[str] | None = None,
        *,
        skiplist_tasks: str | list[str] | None = None,
        keep_only_token_ids: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.skiplist_words = list(skiplist_words or [])
        self.skiplist_tasks = tasks_of(skiplist_tasks)
        self.keep_only_token_ids = None if keep_only_token_ids is None else list(keep_only_token_ids)
        self.skiplist: list[int] | None = None

    def resolve_with_tokenizer(self, tokenizer: Any) -> None:
        """Look the skiplist's words up; those that are not in the vocabulary are left out, with a warning."""
        unknown = getattr(tokenizer, "unk_token_id", None)
        words = self.skiplist_words
        ids = [None if tokenizer is None else tokenizer.convert_tokens_to_ids(word) for word in words]
        missing = [word for word, found in zip(words, ids, strict=True) if found is None or found == unknown]
        if missing:
            logger.warning("skiplist_words: %s are no tokens of this vocabulary and are left out.", missing)
        self.skiplist = [found for found in ids if found is not None and found != unknown]

    def forward(self, features: Features, task: str | None = None) -> Features:  # type: ignore[override]
        """Features with `attention_mask` `(rows, tokens)`, bool, True for vectors that are scored.

        Raises:
            InputError: The skiplist was never looked up, because the module is in no `MultiVectorEncoder`.
        """
        ids = features.get("input_ids")
        if ids is None:
            return features
        task = features.get("task") if task is None else task
        mask = features["attention_mask"].bool()
        if task == QUERY and POSITIONS in features:
            mask = mask | features[POSITIONS]
        if self.skiplist_words and (task or DOCUMENT) in self.skiplist_tasks:
            if self.skiplist is None:
                raise InputError("skiplist_words: expected resolve_with_tokenizer(tokenizer) before the first forward")
            mask = mask & ~_among(ids, self.skiplist)
        if self.keep_only_token_ids is not None and task != QUERY:
            mask = mask & _among(ids, self.keep_only_token_ids)
        features["attention_mask"] = mask
        return features


def _among(ids: Tensor, some: Sequence[int]) -> Tensor:
    """Tell which ids are among some; `torch.isin`, which ONNX does not have, for lists that are short."""
    listed = torch.tensor(some, dtype=ids.dtype, device=ids.device)
    return (ids[..., None] == listed).any(dim=-1)
