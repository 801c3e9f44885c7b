"""The embedded model in small: a BERT with random weights behind the real page reader, as a directory."""

from pathlib import Path

import torch
from tiny_pdfs import FILLER, TOPICS
from transformers import BertConfig, BertModel, BertTokenizerFast


def write_tiny_bert(folder: Path) -> Path:
    """A bare BERT that knows the words of the tiny manuals."""
    folder.mkdir(parents=True)
    text = " ".join([*TOPICS, *(title for titles in TOPICS.values() for title in titles), FILLER]).lower()
    words = sorted(set(text.split()))
    letters = [letter for one in "abcdefghijklmnopqrstuvwxyz" for letter in (one, f"##{one}")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *letters, *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def write_tiny_reader(folder: Path, bert: Path) -> Path:
    """That BERT as a text encoder, and behind a reader as a page encoder."""
    from omnitune import SentenceTransformer
    from omnitune.modules import Normalize, Pooling, Router, TextReader, Transformer

    text = [Transformer(str(bert), max_seq_length=64), Pooling(32, "mean"), Normalize()]
    router = Router({"text": text, "image": [TextReader(), *text]}, default_route="text")
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(str(folder))
    return folder
