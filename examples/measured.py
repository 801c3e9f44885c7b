"""What the examples end with: a finetuning whose gain on held-out items is measured, with an interval."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor

from omnitune import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.ops.significance import Comparison, paired_bootstrap


def finetuned(
    model: SentenceTransformer,
    rows: list[dict[str, Any]],
    evaluator: InformationRetrievalEvaluator,
    folder: Path,
    **settings: Any,
) -> Comparison:
    """NDCG@10 of the held-out queries before and after training on `rows` of a query and what it should find."""

    def scores() -> Tensor:
        return evaluator.rank(model)[model.similarity_fn_name].per_query["ndcg@10"]

    before = scores()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), batch_sampler="no_duplicates", warmup_steps=0.1, report_to="none", save_strategy="no",
        seed=0, disable_tqdm=True, logging_steps=50, **settings,
    )  # fmt: skip
    loss = losses.MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), loss=loss)
    trainer.train()
    return paired_bootstrap(before, scores())


def report(gain: Comparison) -> str:
    """The gain in one line."""
    return (
        f"NDCG@10 of {gain.queries} held-out queries: {gain.baseline:.3f} before, {gain.candidate:.3f} after; "
        f"{gain.difference:+.3f} (95% interval {gain.low:+.3f} to {gain.high:+.3f}, paired bootstrap)"
    )
