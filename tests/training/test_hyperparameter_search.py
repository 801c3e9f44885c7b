"""`hyperparameter_search` of the trainer, with optuna."""

from pathlib import Path

import pytest
from datasets import Dataset

from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from omnitune.evaluation import EmbeddingSimilarityEvaluator


@pytest.mark.slow
def test_every_trial_trains_a_model_of_its_own(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[SentenceTransformer] = []
    held: list[object] = []

    def make(_trial: object) -> SentenceTransformer:
        made.append(SentenceTransformer(str(tiny_bert), device="cpu"))
        return made[-1]

    def loss(model: SentenceTransformer) -> losses.Loss:
        held.append(model)
        return losses.MultipleNegativesRankingLoss(model)

    trainer = SentenceTransformerTrainer(
        model_init=make,
        args=SentenceTransformerTrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=3, report_to="none", save_strategy="no",
            use_cpu=True, eval_strategy="steps", eval_steps=2, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"q": ["a fox", "water", "map"] * 2, "p": ["red fox", "lake", "old map"] * 2}),
        evaluator=EmbeddingSimilarityEvaluator(["a fox", "a map"], ["the fox", "water"], [0.9, 0.1], name="dev"),
        loss=loss,
    )  # fmt: skip
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True)},
        compute_objective=lambda metrics: metrics["eval_dev_spearman_cosine"],
        n_trials=2,
        direction="maximize",
        backend="optuna",
    )
    assert 1e-6 <= best.hyperparameters["learning_rate"] <= 1e-4
    assert len(made) == 3, "one to begin with, and one a trial"
    assert all(one is model for one, model in zip(held, made, strict=True))
    assert "held another model" not in caplog.text
