"""StaticEmbedding: means of rows, both flavours of files, and Sentence Transformers' numbers."""

import math

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from omnitune.errors import CheckpointError, InputError
from omnitune.modules import StaticEmbedding

WORDS = ["[UNK]", "query:", "the", "cat", "sat", "mat"]
TEXTS = ["the cat sat", "", "mat", "the dog"]


@pytest.fixture
def tokenizer():
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return made


@pytest.fixture
def table():
    return torch.randn(len(WORDS), 4, generator=torch.Generator().manual_seed(0))


def embed(module, texts, prompt=None):
    with torch.no_grad():
        return module(module.preprocess(texts, prompt))["sentence_embedding"]


def test_an_embedding_is_the_mean_of_the_rows_of_its_tokens(tokenizer, table):
    out = embed(StaticEmbedding(tokenizer, table), TEXTS)
    torch.testing.assert_close(out, torch.stack([table[2:5].mean(0), torch.zeros(4), table[5], table[[2, 0]].mean(0)]))


def test_a_prompt_is_put_before_every_text(tokenizer, table):
    module = StaticEmbedding(PreTrainedTokenizerFast(tokenizer_object=tokenizer), table.numpy())
    torch.testing.assert_close(embed(module, ["cat"], "the "), embed(module, ["the cat"]))
    assert module.max_seq_length == math.inf
    assert module.cost_rule.max_tokens is None


def test_what_a_model_does_with_its_tokenizer_changes_no_table_that_took_it(tokenizer, table):
    shared = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[UNK]")
    module = StaticEmbedding(shared, table)
    shared(["the cat sat", "mat"], padding=True, truncation=True, max_length=2)
    torch.testing.assert_close(embed(module, TEXTS), embed(StaticEmbedding(tokenizer, table), TEXTS), rtol=0, atol=0)


def test_round_trip(tokenizer, table, tmp_path):
    StaticEmbedding(tokenizer, table).save(str(tmp_path))
    torch.testing.assert_close(
        embed(StaticEmbedding.load(str(tmp_path)), TEXTS), embed(StaticEmbedding(tokenizer, table), TEXTS)
    )


def test_model2vec_files_are_read_with_their_mapping_and_weights(tokenizer, table, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    mapping = torch.tensor([0, 0, 1, 1, 2, 2])
    weights = torch.tensor([1.0, 1.0, 0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    tensors = {"embeddings": table[:3].half().contiguous(), "mapping": mapping, "weights": weights}
    save_file(tensors, tmp_path / "model.safetensors")
    module = StaticEmbedding.from_model2vec(str(tmp_path))
    expected = (table[:3].half().float()[mapping] * weights[:, None]).float()
    torch.testing.assert_close(module.embedding.weight.data, expected)
    assert module.base_model == str(tmp_path)


def test_what_is_missing_is_named(tokenizer, table, tmp_path):
    with pytest.raises(InputError, match="embedding_weights, embedding_dim: expected one of the two"):
        StaticEmbedding(tokenizer)
    with pytest.raises(InputError, match="tokenizer: expected a fast tokenizer, got str"):
        StaticEmbedding("bert", table)
    with pytest.raises(CheckpointError, match=r"expected tokenizer.json, got none"):
        StaticEmbedding.load(str(tmp_path))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"expected model.safetensors, got no weights"):
        StaticEmbedding.load(str(tmp_path))
    save_file({"table": table}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'embedding.weight', or 'embeddings'.*got \['table'\]"):
        StaticEmbedding.load(str(tmp_path))


@pytest.mark.parity
def test_equals_sentence_transformers_both_ways(tokenizer, table, tmp_path):
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding as Rival

    rival = Rival(tokenizer, table)
    expected = embed(rival, TEXTS, "query: ")
    torch.testing.assert_close(embed(StaticEmbedding(tokenizer, table), TEXTS, "query: "), expected, rtol=0, atol=0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rival.save(str(tmp_path / "a"))
    StaticEmbedding(tokenizer, table).save(str(tmp_path / "b"))
    ours = embed(StaticEmbedding.load(str(tmp_path / "a")), TEXTS, "query: ")
    theirs = embed(Rival.load(str(tmp_path / "b")), TEXTS, "query: ")
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    torch.testing.assert_close(theirs, expected, rtol=0, atol=0)
