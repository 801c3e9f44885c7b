"""A tiny BERT on disk, models of it, and datasets of pairs that it can learn."""

import io
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizerFast,
)

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


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare CLIP: text and images."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)] + list("0123456789")
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shared, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": len(vocabulary) - 1}
    config = CLIPConfig(
        text_config=text, vision_config={**shared, "image_size": 16, "patch_size": 8}, projection_dim=16
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


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
def pages() -> Callable[..., Dataset]:
    """Queries and page images, optionally one of them broken or some of them the same."""

    def make(bad: int | None = None, same: tuple[int, ...] = ()) -> Dataset:
        rows = []
        for i in range(12):
            buffer = io.BytesIO()
            shade = torch.Generator().manual_seed(same[0] if i in same else i)
            noise = torch.randint(0, 255, (20, 20, 3), generator=shade).to(torch.uint8)
            Image.fromarray(noise.numpy()).save(buffer, "PNG")
            content = buffer.getvalue()
            rows.append({"bytes": content[: len(content) // 2] if i == bad else content, "path": None})
        features = datasets.Features({"query": datasets.Value("string"), "page": datasets.Image()})
        return Dataset.from_dict({"query": [f"word{i}" for i in range(12)], "page": rows}, features=features)

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
