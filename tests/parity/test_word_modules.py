"""Word embeddings, word weights and weighted layers: either library reads what either wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentence_transformers
import torch
from sentence_transformers.sentence_transformer import modules as st_modules
from sentence_transformers.sentence_transformer.modules import tokenizer as st_tokenizers
from transformers import AutoTokenizer

import omnitune
from fixtures.agree import agree
from omnitune import models
from omnitune.modules import WhitespaceTokenizer

pytestmark = pytest.mark.parity

LIBRARIES: dict[str, Any] = {"ours": omnitune, "theirs": sentence_transformers}
KINDS: dict[str, Any] = {"ours": models, "theirs": st_modules}
SPLITTERS: dict[str, Any] = {"ours": WhitespaceTokenizer, "theirs": st_tokenizers.WhitespaceTokenizer}
WAYS = [("ours", "theirs"), ("theirs", "ours"), ("ours", "ours")]

VOCAB = ["PADDING_TOKEN", "red", "Blue", "don't", "fish", "the", "zeb-ra"]
TEXTS = ["the red fish", "The 'Red', FISH! (blue) Blue", "don't zeb-ra; unknown words", "", "the", "red " * 9]
WEIGHTS = {"red": 2.37, "blue": 0.11, "Fish": 9.0, "elsewhere": 3.0}


def word_vectors(key: str, _: Path, *, lower: bool = False, words: int = 1_000_000) -> list[Any]:
    """Words of a list, of which one is a stop word."""
    table = torch.randn(len(VOCAB), 8, generator=torch.Generator().manual_seed(1))
    splitter = SPLITTERS[key](VOCAB, ["the", "unknown"], lower)
    return [KINDS[key].WordEmbeddings(splitter, table, max_seq_length=words)]


def weighted(key: str, bert: Path) -> list[Any]:
    """A weight for each of the words."""
    return [*word_vectors(key, bert, words=5), KINDS[key].WordWeights(VOCAB, WEIGHTS, 0.5)]


def tokens(key: str, bert: Path) -> list[Any]:
    """The tokens of a tokenizer of transformers."""
    tokenizer = AutoTokenizer.from_pretrained(bert)
    table = torch.randn(len(tokenizer), 8, generator=torch.Generator().manual_seed(2)).double().numpy()
    return [KINDS[key].WordEmbeddings(tokenizer, table, True, 6)]


def layers(key: str, bert: Path) -> list[Any]:
    """The layers of a transformer but the embedding layer."""
    backbone = KINDS[key].Transformer(str(bert), config_kwargs={"output_hidden_states": True})
    count = backbone.config.num_hidden_layers
    weights = torch.nn.Parameter(torch.linspace(0.3, 1.7, count))
    return [backbone, KINDS[key].WeightedLayerPooling(32, count, 1, weights)]


STACKS: dict[str, Callable[[str, Path], list[Any]]] = {
    "words": word_vectors,
    "lower_case": lambda key, bert: word_vectors(key, bert, lower=True),
    "weighted": weighted,
    "tokens": tokens,
    "layers": layers,
}


def made(key: str, stack: str, bert: Path, mode: Any = "mean") -> Any:
    modules = STACKS[stack](key, bert)
    modules.append(KINDS[key].Pooling(modules[0].get_embedding_dimension(), mode))
    return LIBRARIES[key].SentenceTransformer(modules=modules, device="cpu", prompts={"red": "red "})


@pytest.mark.parametrize("stack", STACKS)
def test_the_same_modules_embed_the_same(tiny_bert: Path, stack: str) -> None:
    for mode in (["mean"], ["mean_sqrt_len_tokens", "weightedmean"], ["lasttoken"]):
        ours, theirs = (made(key, stack, tiny_bert, mode) for key in LIBRARIES)
        agree(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-6)
        agree(ours.encode(TEXTS, prompt_name="red"), theirs.encode(TEXTS, prompt_name="red"), atol=1e-6)
        assert (ours.max_seq_length, ours.modalities) == (theirs.max_seq_length, theirs.modalities)


@pytest.mark.parametrize(("writer", "reader"), WAYS)
@pytest.mark.parametrize("stack", STACKS)
def test_either_reads_what_either_wrote(tmp_path: Path, tiny_bert: Path, stack: str, writer: str, reader: str) -> None:
    written = made(writer, stack, tiny_bert)
    written.save_pretrained(str(tmp_path), create_model_card=False)
    read = LIBRARIES[reader].SentenceTransformer(str(tmp_path), device="cpu")
    agree(read.encode(TEXTS), written.encode(TEXTS), atol=1e-6)
    assert read.max_seq_length == written.max_seq_length
    trained = {name for name, weight in written.named_parameters() if weight.requires_grad}
    assert {name for name, weight in read.named_parameters() if weight.requires_grad} == trained


@pytest.mark.parametrize("stack", STACKS)
def test_files_have_the_same_names(tmp_path: Path, tiny_bert: Path, stack: str) -> None:
    found = []
    for key in LIBRARIES:
        made(key, stack, tiny_bert).save_pretrained(str(tmp_path / key), create_model_card=False)
        found.append({path.relative_to(tmp_path / key) for path in (tmp_path / key).rglob("*") if path.is_file()})
    assert found[0] == found[1]


def test_words_that_are_there_twice_keep_their_vectors(tmp_path: Path) -> None:
    table = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    words = models.WordEmbeddings(WhitespaceTokenizer(["PAD", "red", "red", "fish"]), table)
    model = omnitune.SentenceTransformer(modules=[words, models.Pooling(8)], device="cpu")
    model.save_pretrained(str(tmp_path), create_model_card=False)
    for library in LIBRARIES.values():
        agree(
            library.SentenceTransformer(str(tmp_path), device="cpu").encode(["red fish"]),
            table[2:].mean(0, True).numpy(),
        )


def test_trained_word_weights_reach_either_reader(tmp_path: Path, tiny_bert: Path) -> None:
    model = made("ours", "weighted", tiny_bert)
    with torch.no_grad():
        model[1].emb_layer.weight.add_(torch.rand_like(model[1].emb_layer.weight))
    model.save_pretrained(str(tmp_path), create_model_card=False)
    for library in LIBRARIES.values():
        agree(library.SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), model.encode(TEXTS), atol=1e-6)
