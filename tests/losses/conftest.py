"""A tiny BERT with mean pooling that both libraries' losses can train on ready features."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from omnitune.types import Embeddings, Features

DIM = 32
ROWS = 6


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=50, hidden_size=DIM, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
            max_position_embeddings=16,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, features: Features) -> Features:
        names = ("input_ids", "attention_mask")
        return features | {"token_embeddings": self.bert(**{n: features[n] for n in names}).last_hidden_state}


class Mean(nn.Module):
    def forward(self, features: Features) -> Features:
        mask = features["attention_mask"][..., None]
        return features | {"sentence_embedding": (features["token_embeddings"] * mask).sum(1) / mask.sum(1)}


class Encoder(nn.Sequential):
    """The least that a loss of either library asks of a model."""

    def __init__(self) -> None:
        super().__init__(Words(), Mean())
        self.eval()

    def get_embedding_dimension(self) -> int:
        return DIM

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def engine(self) -> SimpleNamespace:
        return SimpleNamespace(run=lambda features: Embeddings(self(features)["sentence_embedding"]))


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


@pytest.fixture
def features() -> Callable[[int], list[Features]]:
    """Ready features of that many columns, of different lengths."""

    def make(columns: int, rows: int = ROWS) -> list[Features]:
        generator = torch.Generator().manual_seed(columns)
        made = []
        for column in range(columns):
            width = 5 + column
            lengths = torch.randint(2, width + 1, (rows, 1), generator=generator)
            lengths[0] = width
            mask = (torch.arange(width) < lengths).long()
            made.append({"input_ids": torch.randint(1, 50, (rows, width), generator=generator) * mask})
            made[-1]["attention_mask"] = mask
        return made

    return make


@pytest.fixture
def gradients() -> Callable[..., tuple[float, Tensor]]:
    """Value of a loss on some features, and the gradient of all its parameters as one vector."""

    def compute(loss: nn.Module, columns: list[Features], labels: Tensor | None) -> tuple[float, Tensor]:
        loss.zero_grad(set_to_none=True)
        value = loss([dict(c) for c in columns], labels)
        value.backward()
        parameters = [p.grad for _, p in sorted(loss.named_parameters()) if p.grad is not None]
        return value.item(), torch.cat([g.flatten() for g in parameters])

    return compute
