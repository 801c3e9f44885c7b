"""A tiny BERT on disk, models of it, and datasets of pairs that it can learn."""

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = [f"word{i}" for i in range(60)]


def build(folder: Path, dropout: float) -> Path:
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefgh:"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=40, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare BERT without dropout."""
    return build(tmp_path_factory.mktemp("bert") / "plain", 0.0)


@pytest.fixture(scope="session")
def dropping_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with dropout."""
    return build(tmp_path_factory.mktemp("bert") / "dropping", 0.1)


def sentence(draw: random.Random, topic: int) -> str:
    return " ".join(draw.choice(WORDS[topic * 6 : topic * 6 + 6]) for _ in range(draw.randint(2, 7)))


@pytest.fixture
def pairs() -> Callable[..., Dataset]:
    """Pairs of sentences on one topic; optionally with a negative, a label or a score."""

    def make(rows: int = 48, *, seed: int = 0, extra: str | None = None) -> Dataset:
        draw = random.Random(seed)
        topics = [draw.randrange(10) for _ in range(rows)]
        columns: dict[str, list[Any]] = {
            "anchor": [sentence(draw, t) for t in topics],
            "positive": [sentence(draw, t) for t in topics],
        }
        if extra == "negative":
            columns["negative"] = [sentence(draw, (t + 1) % 10) for t in topics]
        if extra in ("score", "label"):
            columns[extra] = [draw.random() if extra == "score" else draw.randrange(4) for _ in topics]
        return Dataset.from_dict(columns)

    return make


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., Any]:
    """Arguments of a short, quiet run on the CPU."""
    from omnitune.training.arguments import SentenceTransformerTrainingArguments

    def make(**changes: Any) -> Any:
        settings = {**SHORT, "output_dir": str(tmp_path / "run"), **changes}
        return SentenceTransformerTrainingArguments(**settings)

    return make


SHORT = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 1e-3,
    "num_train_epochs": 1,
    "logging_steps": 1,
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "save_strategy": "no",
    "dataloader_pin_memory": False,
    "seed": 12,
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
