"""Progress bars end with the run, however it ends."""

import pytest
from datasets import Dataset
from transformers import ProgressCallback

from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses


class Failing(losses.MultipleNegativesRankingLoss):
    def objective(self, *arguments, **options):
        raise RuntimeError("at the first step")


def test_a_bar_is_closed_when_training_raises(tiny_bert, tmp_path):
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=False
    )
    data = Dataset.from_dict({"anchor": ["a page", "the quick"], "positive": ["lists", "brown fox"]})
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=data, loss=Failing(model))
    bars = []

    class Watched(ProgressCallback):
        def on_train_begin(self, *arguments, **options):
            super().on_train_begin(*arguments, **options)
            bars.append(self.training_bar)

    trainer.pop_callback(ProgressCallback)
    trainer.add_callback(Watched)
    with pytest.raises(RuntimeError, match="at the first step"):
        trainer.train()
    assert [bar.disable for bar in bars] == [True]  # how tqdm marks a bar that is closed
