"""Accuracy of finding a sentence's translation among all of them."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from omnitune.errors import ShapeError
from omnitune.evaluation.base import EmbeddingEvaluator, check_inputs
from omnitune.ops.metrics import expect_numbers
from omnitune.ops.similarity import cos_sim

logger = logging.getLogger(__name__)

_SHOWN = 5


class TranslationEvaluator(EmbeddingEvaluator):
    """Share of sentences whose nearest sentence of the other side, by cosine, is their translation, in both directions.

    Args:
        source_sentences: One side.
        target_sentences: Their translations.
        show_progress_bar, batch_size, name, write_csv, truncate_dim: As in `EmbeddingEvaluator`.
        print_wrong_matches: Log every source that finds another target, with the nearest ones.

    Raises:
        ShapeError: The sides differ in number, or there are none.

    Example:
        >>> evaluator = TranslationEvaluator(["a hotel", "an old radio"], ["ein Hotel", "ein altes Radio"])
        >>> evaluator(model)["mean_accuracy"]
        1.0
    """

    def __init__(
        self,
        source_sentences: list[str],
        target_sentences: list[str],
        show_progress_bar: bool = False,
        batch_size: int = 16,
        name: str = "",
        print_wrong_matches: bool = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_inputs(source_sentences=source_sentences, target_sentences=target_sentences)
        if len(source_sentences) != len(target_sentences) or not source_sentences:
            raise ShapeError(
                "source_sentences, target_sentences: expected equally many, and at least one of each, "
                f"got {len(source_sentences)} and {len(target_sentences)}"
            )
        self.source_sentences = source_sentences
        self.target_sentences = target_sentences
        self.show_progress_bar = show_progress_bar
        self.batch_size = batch_size
        self.name = name
        self.print_wrong_matches = print_wrong_matches
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "translation_evaluation" + (f"_{name}" if name else "") + "_results.csv"
        self.primary_metric = "mean_accuracy"

    def measure(self, model: Any) -> dict[str, float]:
        """`src2trg_accuracy`, `trg2src_accuracy` and `mean_accuracy`."""
        cosines = cos_sim(
            self.embed_inputs(model, self.source_sentences), self.embed_inputs(model, self.target_sentences)
        ).cpu()
        expect_numbers(cosines, "embeddings")
        if self.print_wrong_matches:
            best = cosines.sort(dim=1, descending=True, stable=True)
            for row, (scores, places) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
                if self.target_sentences[places[0]] != self.target_sentences[row]:
                    nearest = [
                        (self.target_sentences[p], round(s, 4)) for s, p in zip(scores[:_SHOWN], places, strict=False)
                    ]
                    logger.info(
                        "Wrong match: %r is %r (%.4f); nearest: %s",
                        self.source_sentences[row],
                        self.target_sentences[row],
                        cosines[row, row],
                        nearest,
                    )
        there, back = _accuracy(cosines, self.target_sentences), _accuracy(cosines.T, self.source_sentences)
        return {"src2trg_accuracy": there, "trg2src_accuracy": back, "mean_accuracy": (there + back) / 2}

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The columns `src2trg` and `trg2src`."""
        return {way: metrics[f"{way}_accuracy"] for way in ("src2trg", "trg2src")}


def _accuracy(cosines: Tensor, found: list[str]) -> float:
    """Share of rows whose best column holds the same sentence as the column of the row's own number."""
    best: list[int] = cosines.argmax(dim=1).tolist()
    return sum(found[column] == found[row] for row, column in enumerate(best)) / len(best)
