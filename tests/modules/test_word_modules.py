"""Word embeddings, word weights and weighted layers: hand-worked numbers, files, and what is refused."""

import json
import logging

import pytest
import torch

from omnitune.errors import CheckpointError, InputError, ShapeError
from omnitune.modules import Pooling, WeightedLayerPooling, WhitespaceTokenizer, WordEmbeddings, WordWeights

VOCAB = ["PAD", "red", "Fish", "don't", "blue"]
TABLE = [[0.0, 0.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]


@pytest.fixture
def words():
    return WordEmbeddings(WhitespaceTokenizer(VOCAB, ["the"]), TABLE)


# -- words


def test_a_word_is_known_as_it_is_or_without_punctuation_or_in_lower_case():
    tokenizer = WhitespaceTokenizer(VOCAB, ["the", "blue"])
    assert tokenizer.tokenize("red (Red) Fish fish don't 'don't' unknown !") == [1, 1, 2, 3, 3]
    assert tokenizer.tokenize("The the, Blue blue") == []
    assert WhitespaceTokenizer(VOCAB, do_lower_case=True).tokenize("RED Fish") == [1]


def test_a_tokenizer_is_read_as_it_was_written(tmp_path):
    tokenizer = WhitespaceTokenizer(["PAD", "red", "red"], ["the"], True)
    tokenizer.save(str(tmp_path))
    again = WhitespaceTokenizer.load(str(tmp_path))
    assert vars(again) == vars(tokenizer)
    assert again.get_vocab() == ["PAD", "red", "red"]


def test_a_tokenizer_of_another_form_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"whitespacetokenizer_config.json: expected the keys vocab.*got no file"):
        WhitespaceTokenizer.load(str(tmp_path))
    (tmp_path / "whitespacetokenizer_config.json").write_text('{"vocab": [], "ngrams": 2}')
    with pytest.raises(CheckpointError, match=r"got \['ngrams', 'vocab'\]"):
        WhitespaceTokenizer.load(str(tmp_path))


# -- word embeddings


def test_words_become_padded_rows_of_the_table(words):
    features = words.preprocess(["Fish", "", "blue Fish"], prompt="red ")
    assert features["input_ids"].tolist() == [[1, 2, 0], [1, 0, 0], [1, 4, 2]]
    assert features["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    words.max_seq_length = 1
    assert words.preprocess(["blue red"])["input_ids"].tolist() == [[4]]
    assert words.preprocess([""])["attention_mask"].tolist() == [[0]]
    assert words(words.preprocess(["red"]))["token_embeddings"].tolist() == [[TABLE[1]]]


def test_the_table_is_a_copy_that_trains_when_asked(words):
    table = torch.tensor(TABLE)
    trained = WordEmbeddings(words.tokenizer, table, update_embeddings=True)
    assert (words.emb_layer.weight.requires_grad, trained.emb_layer.weight.requires_grad) == (False, True)
    with torch.no_grad():
        trained.emb_layer.weight.zero_()
    assert table.tolist() == TABLE


def test_what_cannot_be_a_table_or_a_tokenizer_is_refused(words):
    with pytest.raises(InputError, match="tokenizer: expected a WhitespaceTokenizer or a tokenizer .* got list"):
        WordEmbeddings(VOCAB, TABLE)
    for wrong in (TABLE[:4], torch.zeros(5)):
        with pytest.raises(ShapeError, match="embedding_weights: expected a row for each of the 5 words .* got"):
            WordEmbeddings(words.tokenizer, wrong)


@pytest.mark.parametrize(
    "name", ["os.WhitespaceTokenizer", "sentence_transformers.models.tokenizer.PhraseTokenizer", None]
)
def test_a_tokenizer_that_is_not_here_is_never_imported(tmp_path, words, name):
    words.save(str(tmp_path))
    path = tmp_path / "wordembedding_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": name}))
    with pytest.raises(CheckpointError, match=rf"tokenizer_class: expected one of \[.*\] of .*, got {name}"):
        WordEmbeddings.load(str(tmp_path))


def test_a_damaged_folder_of_word_embeddings_is_named(tmp_path, words):
    words.save(str(tmp_path))
    path = tmp_path / "wordembedding_config.json"
    kept = path.read_text()
    path.write_text(json.dumps({**json.loads(kept), "dropout": 0.1}))
    with pytest.raises(CheckpointError, match="it does not configure a WordEmbeddings .*'dropout'"):
        WordEmbeddings.load(str(tmp_path))
    path.write_text(kept)
    WeightedLayerPooling(2).save_torch_weights(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"expected a tensor 'emb_layer.weight', got \['layer_weights'\]"):
        WordEmbeddings.load(str(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        WordEmbeddings.load(str(tmp_path))


# -- word weights


def test_a_mean_of_weighted_words_divides_by_their_weights(words):
    weights = WordWeights(VOCAB, {"red": 3.0, "fish": 0.5}, 2)
    assert weights.emb_layer.weight.flatten().tolist() == [2.0, 3.0, 0.5, 2.0, 2.0]
    features = weights(words(words.preprocess(["red Fish", "red"])))
    assert features["token_weights_sum"].tolist() == [3.5, 3.0]
    mean = Pooling(2)(features)["sentence_embedding"]
    torch.testing.assert_close(mean, torch.tensor([[(3 + 1.5) / 3.5, (6 + 2) / 3.5], [1.0, 2.0]]))


def test_word_weights_without_weights_beside_the_configuration_are_made_of_it(tmp_path):
    weights = WordWeights(VOCAB, {"red": 2.37})
    weights.save_config(str(tmp_path))
    assert torch.equal(WordWeights.load(str(tmp_path)).emb_layer.weight, weights.emb_layer.weight)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        WordWeights.load(str(tmp_path))


def test_weights_beside_the_configuration_count_more(tmp_path):
    weights = WordWeights(VOCAB, {"red": 2.0})
    weights.save(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "word_weights": {}}))
    assert WordWeights.load(str(tmp_path)).emb_layer.weight[1].item() == 2.0


def test_word_weights_do_not_show_all_their_words():
    assert repr(WordWeights(VOCAB, {})) == "WordWeights(words=5, unknown_word_weight=1)"


# -- weighted layers


def test_layers_are_averaged_by_their_weights():
    layers = [torch.full((1, 2, 3), float(value)) for value in (100, 1, 5)]
    pooling = WeightedLayerPooling(3, num_hidden_layers=2, layer_start=1, layer_weights=[3, 1])
    assert pooling({"all_layer_embeddings": layers})["token_embeddings"].tolist() == [[[2.0] * 3] * 2]
    assert WeightedLayerPooling(3).layer_weights.tolist() == [1.0] * 9
    assert pooling.get_embedding_dimension() == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_weights": [1.0, 2.0]}, r"one for each of the 9 layers from 4 to 12, got \(2,\)"),
        ({"num_hidden_layers": 3}, r"one for each of the 0 layers from 4 to 3, got \(0,\)"),
    ],
)
def test_there_is_one_weight_a_layer(arguments, message):
    with pytest.raises(ShapeError, match=f"layer_weights: expected {message}"):
        WeightedLayerPooling(3, **arguments)


def test_another_number_of_layers_is_an_error():
    with pytest.raises(ShapeError, match="num_hidden_layers: expected the backbone's 2, got 12"):
        WeightedLayerPooling(3)({"all_layer_embeddings": [torch.zeros(1, 1, 3)] * 3})


def test_without_layers_the_token_vectors_stay_and_a_warning_says_so_once(caplog):
    pooling, tokens = WeightedLayerPooling(3), torch.ones(1, 1, 3)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert pooling({"token_embeddings": tokens})["token_embeddings"] is tokens
    assert ["output_hidden_states" in record.message for record in caplog.records] == [True]
