"""Odd values in calls are one sentence before any work, and ordinary ones of other types work."""

import time

import numpy as np
import pytest
import torch
import transformers

from fixtures.agree import agree
from omnitune import CrossEncoder, SentenceTransformer
from omnitune.errors import CheckpointError, CheckpointNotFoundError, InputError, OmnituneError
from omnitune.modules import Transformer
from omnitune.modules.long_texts import shortened

pytestmark = pytest.mark.slow

PAIRS = [("a page", "about lists"), ("the quick", "brown fox")]


@pytest.fixture(scope="module")
def dense(tiny_bert):
    return SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.fixture(scope="module")
def reranker(tiny_bert):
    return CrossEncoder(str(tiny_bert), device="cpu")


@pytest.mark.parametrize("options", [
    {"batch_size": "8"}, {"batch_size": None}, {"batch_size": 1.5}, {"batch_size": True}, {"batch_size": -1},
    {"truncate_dim": 1.5}, {"truncate_dim": "4"}, {"truncate_dim": 0}, {"prompt": 5}, {"prompt": ["q: "]},
    {"prompt_name": 5}, {"prompt_name": ["query"]}, {"task": 5}, {"chunk_size": "x", "pool": {}}, {"pool": {"a": 1}},
    {"processing_kwargs": 5}, {"processing_kwargs": {1: 2}}, {"device": 5.5}, {"device": "gpu"}, {"precision": 5},
    {"output_value": 5}, {"no_such": 1},
])  # fmt: skip
def test_an_odd_option_of_encode_is_one_sentence(dense, options):
    with pytest.raises(InputError, match=rf"({'|'.join(options)}: expected|unknown argument 'no_such')"):
        dense.encode(["a page"], **options)


@pytest.mark.parametrize("options", [
    {"batch_size": "8"}, {"prompt": ["q: "]}, {"activation_fn": "sigmoid"}, {"prompt_name": 5},
])  # fmt: skip
def test_an_odd_option_of_predict_is_one_sentence(reranker, options):
    with pytest.raises(InputError, match=f"{next(iter(options))}: expected"):
        reranker.predict(PAIRS, **options)


@pytest.mark.parametrize("options", [
    {"model_name_or_path": 5}, {"model_name_or_path": ""}, {"model_name_or_path": ["a"]}, {"prompts": ["a"]},
    {"prompts": {"query": 5}}, {"default_prompt_name": 5}, {"model_kwargs": 5}, {"processor_kwargs": [1]},
    {"config_kwargs": "x"}, {"truncate_dim": "x"}, {"similarity_fn_name": 5}, {"device": 5.5},
    {"model_kwargs": {"no_such_argument": 5}}, {"model_kwargs": {"dtype": "float99"}},
])  # fmt: skip
def test_an_odd_option_of_a_model_is_one_sentence(tiny_bert, options):
    with pytest.raises(OmnituneError):
        SentenceTransformer(**{"model_name_or_path": str(tiny_bert), "device": "cpu", **options})


@pytest.mark.parametrize("options", [
    {"num_labels": 0}, {"num_labels": "x"}, {"max_length": "x"}, {"max_length": 0}, {"activation_fn": "relu"},
])  # fmt: skip
def test_an_odd_option_of_a_reranker_is_one_sentence(tiny_bert, options):
    with pytest.raises(InputError, match=f"{next(iter(options))}: expected"):
        CrossEncoder(str(tiny_bert), device="cpu", **options)


def test_a_token_without_a_row_is_named(tiny_bert):
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model.tokenizer.add_tokens(["<pump>"])
    assert model.encode("a page").shape == (32,)
    with pytest.raises(InputError, match=r"tokenizer: expected token ids below .*, got .*resize_token_embeddings"):
        model.encode("a <pump>")


@pytest.mark.parametrize(("one", "other", "message"), [
    (["a"], [[1.0]], "expected rows of numbers"), (np.array(["a"]), [[1.0]], "expected rows of numbers"),
    ([[1.0, 2.0]], [[1.0]], "as many dimensions on both sides, got 2 and 1"), ([{"a": 1}], [[1.0]], "rows of numbers"),
])  # fmt: skip
def test_similarity_is_of_embeddings(dense, one, other, message):
    for name in ("cosine", "dot", "euclidean", "manhattan"):
        dense.similarity_fn_name = name
        with pytest.raises(OmnituneError, match=message):
            dense.similarity(one, other)
    dense.similarity_fn_name = "cosine"


def test_modules_that_are_none_are_named():
    with pytest.raises(InputError, match="modules: expected a torch.nn.Module at 1, got int"):
        SentenceTransformer(modules=[torch.nn.Linear(1, 1), 5])


def test_paths_and_numbers_of_other_types_work(tiny_bert, dense):
    model = SentenceTransformer(tiny_bert, device=torch.device("cpu"))
    agree(model.encode(["a", "b"], batch_size=np.int64(1)), dense.encode(["a", "b"]))


def test_documents_are_ranked_whatever_holds_them(reranker):
    documents = ["about lists", "brown fox", "a page"]
    expected = reranker.rank("a page", documents, return_documents=True)
    pandas = pytest.importorskip("pandas")
    for held in (tuple(documents), iter(documents), pandas.Series(documents, index=[7, 3, 5]), np.array(documents)):
        assert reranker.rank("a page", held, return_documents=True) == expected
    assert reranker.rank("a page", documents, top_k=0) == []
    for one in ("one text", {"text": "one text"}, b"", 5):
        with pytest.raises(InputError, match="documents: expected a list of documents, got one"):
            reranker.rank("a page", one)
    with pytest.raises(InputError, match="top_k: expected a number from 0 on, got -1"):
        reranker.rank("a page", documents, top_k=-1)


def test_no_pairs_give_scores_of_the_usual_type(reranker):
    assert reranker.predict([]).dtype == reranker.predict(PAIRS).dtype == np.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_does_not_leave(tiny_bert, value):
    model, reranker = SentenceTransformer(str(tiny_bert), device="cpu"), CrossEncoder(str(tiny_bert), device="cpu")
    with torch.no_grad():
        model[0].model.embeddings.LayerNorm.weight[0] = value
        reranker[0].model.bert.embeddings.LayerNorm.weight[0] = value
    place = r"model: expected finite weights, got NaN or infinity in \['0.model.*embeddings.LayerNorm.weight'\]"
    for call in (
        lambda: model.encode(["a page"]),
        lambda: model.encode(["a page"], output_value="token_embeddings"),
        lambda: model.encode("a page", output_value=None),
        lambda: reranker.predict(PAIRS),
        lambda: reranker.rank("a", ["b"]),
    ):
        with pytest.raises(CheckpointError, match=place):
            call()


def test_sums_that_overflow_are_told_from_broken_weights(tiny_bert):
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model.append(torch.nn.Module())
    model[-1].forward = lambda features: {**features, "sentence_embedding": features["sentence_embedding"] * 1e39}
    with pytest.raises(InputError, match="NaN or infinity, first in row 0, though its weights are finite.*float32"):
        model.encode(["a page"])


@pytest.mark.parametrize("limit", [21, 22, 64])
@pytest.mark.parametrize("lengths", [(900, 1000), (1000, 900), (1000, 1000), (3, 1000)])
def test_long_pairs_are_cut_to_the_same_tokens(tiny_bert, limit, lengths):
    tokenizer = Transformer(str(tiny_bert)).tokenizer
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lists,", "pages;", "and", "unbelievable-things", "1234"]
    pair = tuple(" ".join(words[(i * k) % len(words)] for i in range(n)) for k, n in zip((3, 5), lengths, strict=True))
    arguments = {"truncation": "longest_first", "max_length": limit}
    short = shortened(tokenizer, [pair], arguments)
    assert sum(map(len, short[0])) < sum(map(len, pair)) or lengths[0] == 3
    assert tokenizer(short, **arguments)["input_ids"] == tokenizer([pair], **arguments)["input_ids"]


@pytest.mark.parametrize("tail", ["", "x" * 9000, "\n" * 9000, "e\u0301" * 3000])
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_qwen3"])
def test_long_texts_are_cut_to_the_same_tokens(name, tail, request):
    tokenizer = Transformer(str(request.getfixturevalue(name))).tokenizer
    text = "the quick brown fox, unbelievable-things 1234 e\u0301\tpages\n lists " * 60 + tail
    arguments = {"truncation": True, "max_length": 24}
    for given in (text, tail + text, " " * 3000 + text, text.replace(" ", "")):
        short = shortened(tokenizer, [given, "short"], arguments)
        assert tokenizer(short, **arguments)["input_ids"] == tokenizer([given, "short"], **arguments)["input_ids"]
    assert len(shortened(tokenizer, [text], arguments)[0]) <= 40 * 24
    tokenizer.truncation_side = "left"
    assert shortened(tokenizer, [text], arguments) == [text]


def test_a_text_of_megabytes_takes_no_more_than_its_tokens(tiny_bert):
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    start = time.perf_counter()
    model.encode("the quick brown fox " * 200_000)
    assert time.perf_counter() - start < 2


def test_pairs_of_two_long_texts_take_no_more_than_their_tokens(reranker):
    pair = ("the quick brown fox " * 1250, "a page about lists " * 1250)
    start = time.perf_counter()
    reranker.predict([pair])
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("head", ["Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "Qwen3Model"])
def test_a_language_model_without_a_padding_token_reads_batches(tiny_qwen3, tmp_path, head):
    tokenizer = Transformer(str(tiny_qwen3)).tokenizer
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.pad_token, tokenizer.eos_token = None, "<|endoftext|>"
    kind = getattr(transformers, head)
    options = {"num_labels": 1} if "Classification" in head else {}
    backbone = kind(transformers.AutoConfig.from_pretrained(tiny_qwen3, pad_token_id=None, **options))
    backbone.resize_token_embeddings(len(tokenizer))
    backbone.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [*PAIRS, ("the quick", "brown fox and a page about lists")]
    model = CrossEncoder(str(tmp_path), device="cpu")
    together = model.predict(pairs)
    agree(together, np.array([model.predict(pair) for pair in pairs]))
    model.save_pretrained(str(tmp_path / "saved"))
    agree(CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(pairs), together)


@pytest.mark.parametrize("name", ["a" * 10_000, "a/" + "b" * 300, "/" + "a" * 5_000])
@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder])
def test_a_name_that_no_system_takes_is_one_sentence(kind, name):
    with pytest.raises(CheckpointNotFoundError, match=r"^model_name_or_path: .{20,500}$"):
        kind(name, device="cpu")


@pytest.mark.parametrize("inputs", [[("a",)], [("a", "b", "c")], {"text": ["a"]}])
def test_what_a_tokenizer_takes_for_no_text_is_one_sentence(dense, inputs):
    with pytest.raises(InputError, match="inputs: expected whole texts, or pairs of two texts, got"):
        dense.encode(inputs)
    with pytest.raises(InputError, match="inputs: expected whole texts, or pairs of two texts, got"):
        dense.encode(["a"], prompt="\udcff")


@pytest.mark.parametrize("inputs", [5, None])
def test_what_is_no_list_of_pairs_is_one_sentence(reranker, inputs):
    with pytest.raises(InputError, match="inputs: expected a list of inputs, got"):
        reranker.predict(inputs)
