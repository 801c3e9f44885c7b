"""What else answers the test: BM25 and a text embedder, both on the documents' own text layer.

They see what a page retriever does not: the text as the author typed it. So they are strong on born-digital documents
and mute on scans.
"""

import logging
from collections.abc import Sequence

import torch

from omnitune.finetune.measure import Scorer
from omnitune.ops.bm25 import BM25

logger = logging.getLogger(__name__)

TEXT_SHARE = 0.5
"""Least share of pages with a text layer for which a baseline on the text layer says something."""


def bm25_scorer(queries: Sequence[str], texts: Sequence[str]) -> Scorer:
    """Scores of BM25; a page that shares no word with the query is not found.

    Args:
        queries: Texts.
        texts: Text layer of every page that is searched.
    """
    index = BM25(texts)

    def scores(block: slice) -> torch.Tensor:
        found = torch.from_numpy(index.scores(queries[block]))
        return found.where(found > 0, -torch.inf)

    return scores


def has_text(texts: Sequence[str]) -> bool:
    """Whether enough pages have a text layer for the baselines to mean something."""
    return sum(bool(text.strip()) for text in texts) >= TEXT_SHARE * len(texts)
