"""Mining from a dataset: the same rows as Sentence Transformers, bounded memory, embeddings encoded once."""

import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, Image

from omnitune import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from omnitune.data.hard_negatives import Pairs, Rules
from omnitune.errors import DatasetError, InputError
from omnitune.modules import StaticEmbedding
from omnitune.retrieval import mining
from omnitune.retrieval.store import identity
from omnitune.util import mine_hard_negatives


@pytest.fixture(scope="module")
def model(tiny_bert) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.fixture(scope="module")
def pairs(text_pairs) -> Dataset:
    """Anchors with several positives, positives that occur twice, and a whole row twice."""
    anchors, positives = list(text_pairs["anchor"]), list(text_pairs["positive"])
    positives[5] = positives[2]
    return Dataset.from_dict({"anchor": [*anchors, anchors[0]], "positive": [*positives, positives[0]]})


class Overlap:
    """A reranker: share of the words of a query that stand in a document; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict(self, inputs: Any, batch_size: int = 32, **kwargs: Any) -> Any:
        self.calls.append(len(inputs))
        scores = [len(set(q.split()) & set(d.split())) / len(q.split()) + crc32(d.encode()) / 2**40 for q, d in inputs]
        return torch.tensor(scores) if kwargs.get("convert_to_tensor") else np.array(scores)


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"num_negatives": 2, "range_min": 3},
    {"num_negatives": 2, "range_min": 1, "range_max": 4},
    {"num_negatives": 4, "range_max": 500},
    {"relative_margin": 0.01},
    {"relative_margin": 0.02, "num_negatives": 2},
    {"absolute_margin": 0.02, "max_score": 0.94, "min_score": 0.9, "range_max": 20},
    {"max_score": 0.93, "num_negatives": 6},
    {"include_positives": True, "output_format": "n-tuple"},
    {"anchor_column_name": "positive", "positive_column_name": "anchor"},
    {"faiss_batch_size": 5},
    {"query_prompt": "query: ", "corpus_prompt": "document: "},
]


@pytest.mark.parity
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda one: "-".join(one) or "defaults")
@pytest.mark.parametrize("form", ["triplet", "n-tuple", "labeled-pair", "labeled-list"])
@pytest.mark.parametrize("scored", [False, True])
def test_the_same_rows(tiny_bert, model, pairs, texts, arguments, form, scored):
    theirs = their_rows(tiny_bert, pairs, corpus=texts, **{"output_format": form, "output_scores": scored, **arguments})
    ours = mine_hard_negatives(
        pairs, model, corpus=texts, **{"output_format": form, "output_scores": scored, **arguments}
    )
    assert_equal(ours, theirs)


@pytest.mark.parity
@pytest.mark.parametrize(
    "arguments", [{}, {"relative_margin": 0.1}, {"min_score": 0.1}, {"max_score": 0.4, "absolute_margin": 0.0}]
)
def test_the_same_rows_with_a_reranker(tiny_bert, model, pairs, arguments):
    ours, theirs = Overlap(), Overlap()
    options = {"output_scores": True, "output_format": "labeled-list", **arguments}
    assert_equal(
        mine_hard_negatives(pairs, model, cross_encoder=ours, **options),
        their_rows(tiny_bert, pairs, cross_encoder=theirs, **options),
    )
    assert len(ours.calls) == (2 if arguments else 0)  # candidates of all queries in one call, then the positives


def their_rows(folder, pairs: Dataset, **arguments: Any) -> Dataset:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.util import mine_hard_negatives as theirs

    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return theirs(pairs, reference, verbose=False, **arguments)


def assert_equal(ours: Dataset, theirs: Dataset) -> None:
    assert ours.column_names == theirs.column_names
    assert 0 < len(ours) == len(theirs)
    for name in ours.column_names:
        if name in ("score", "scores"):
            for mine, reference in zip(ours[name], theirs[name], strict=True):
                assert mine == pytest.approx(reference, abs=1e-5)
        else:
            assert list(ours[name]) == list(theirs[name])


def test_draws_come_from_the_allowed(model, pairs):
    options = {"num_negatives": 2, "relative_margin": 0.0, "output_format": "labeled-list"}
    allowed = mine_hard_negatives(pairs, model, range_max=8, **{**options, "num_negatives": 8})
    best: dict[str, set[str]] = {}
    for row in allowed:
        best.setdefault(row["anchor"], set()).update(row["positive"][1:])
    drawn = []
    for seed in (1, 1, 2):
        random.seed(seed)
        drawn.append(mine_hard_negatives(pairs, model, range_max=8, sampling_strategy="random", **options).to_dict())
    assert drawn[0] == drawn[1] != drawn[2]
    for anchor, listed in zip(drawn[2]["anchor"], drawn[2]["positive"], strict=True):
        assert set(listed[1:]) <= best[anchor]


def test_images_are_mined_by_content_and_stay_undecoded(tiny_clip, page_files):
    model = SentenceTransformer(str(tiny_clip), device="cpu")
    files = [str(path) for path in page_files[:6]]
    rows = Dataset.from_dict(
        {"query": ["a page", "a page", "words", "more words", "last"], "image": [*files[:4], files[0]]}
    )
    rows = rows.cast_column("image", Image())
    mined = mine_hard_negatives(rows, model, corpus=[{"path": path, "bytes": None} for path in files], num_negatives=2)
    assert mined.features["image"] == mined.features["negative"] == Image()
    stored = mined.cast_column("image", Image(decode=False)).cast_column("negative", Image(decode=False))
    assert {row["path"] for row in stored["negative"]} <= set(files)
    of_page = [row["negative"]["path"] for row in stored if row["query"] == "a page"]
    assert len(of_page) == 4 and not set(of_page) & set(files[:2])


def test_excluded_pairs_do_not_cost_negatives():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    own = Pairs(torch.arange(40), torch.arange(40))
    free = mining.mine(vectors, vectors, own, Rules(num_negatives=3))
    first = Pairs(torch.arange(40).repeat_interleave(2), free.documents[:, :2].flatten())
    mined = mining.mine(vectors, vectors, own, Rules(num_negatives=3), excluded={"neighbour": first})
    assert mined.dropped["neighbour"] == 80 and mined.dropped["positive"] == 40
    assert (mined.documents >= 0).all()
    assert (mined.documents[:, 0] == free.documents[:, 2]).all()


def test_memory_is_that_of_a_tile_not_of_all_scores(monkeypatch):
    monkeypatch.setattr(mining, "TILE", 1 << 16)
    generator = np.random.default_rng(0)
    queries, corpus = (generator.normal(size=(6000, 8)).astype(np.float32) for _ in range(2))
    largest: list[int] = []
    top = torch.Tensor.topk

    def watched(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        largest.append(self.numel())
        return top(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "topk", watched)
    tracemalloc.start()
    mined = mining.mine(
        queries, corpus, Pairs(torch.arange(6000), torch.arange(6000)), Rules(), similarity="dot", queries_at_once=256
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(largest) <= 1 << 16  # of 36,000,000 scores
    assert len(largest) >= 6000 * 6000 // (1 << 16)
    assert peak < 20e6
    exact = torch.from_numpy(queries[:50]) @ torch.from_numpy(corpus).T
    exact[torch.arange(50), torch.arange(50)] = -torch.inf
    assert torch.equal(mined.documents[:50], exact.topk(3).indices)


def test_embeddings_are_encoded_once(model, pairs, tmp_path, monkeypatch):
    seen: Counter[str] = Counter()
    for verb in ("encode_query", "encode_document"):
        encode = getattr(model, verb)

        def counting(inputs: Any, *args: Any, encode: Any = encode, **kwargs: Any) -> Any:
            seen.update(inputs)
            return encode(inputs, *args, **kwargs)

        monkeypatch.setattr(model, verb, counting)
    options = {"cache_folder": str(tmp_path), "output_scores": True}
    few = mine_hard_negatives(pairs.select(range(20)), model, **options)
    all_rows = mine_hard_negatives(pairs, model, **options)
    assert set(seen.values()) == {1}
    assert_equal(few, mine_hard_negatives(pairs.select(range(20)), model, output_scores=True))
    assert_equal(all_rows, mine_hard_negatives(pairs, model, output_scores=True))
    seen.clear()
    mine_hard_negatives(pairs, model, **options)
    assert not seen
    mine_hard_negatives(pairs, model, corpus_prompt="document: ", **options)
    assert set(seen) == set(pairs["positive"])


def test_other_weights_are_another_cache(tiny_bert):
    one, same, other = (SentenceTransformer(str(tiny_bert), device="cpu") for _ in range(3))
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1
    assert identity(one) == identity(same) != identity(other)
    same.max_seq_length = 7
    assert identity(one) != identity(same)


def test_other_pixels_or_words_are_another_cache(tiny_qwen3_vl, tiny_bert):
    one, fewer = (
        SentenceTransformer(str(tiny_qwen3_vl), device="cpu", processor_kwargs={"max_pixels": pixels})
        for pixels in (128 * 128, 64 * 64)
    )
    assert identity(one) != identity(fewer)
    table = torch.zeros(50, 4)
    words = SentenceTransformer(str(tiny_bert), device="cpu").tokenizer.backend_tokenizer
    first = SentenceTransformer(modules=[StaticEmbedding(words, embedding_weights=table)], device="cpu")
    before = identity(first)
    words.add_tokens(["another"])
    assert identity(first) != before


@pytest.mark.parametrize("form", [np.array, pd.Series, lambda texts: Dataset.from_dict({"t": texts})["t"]])
def test_a_corpus_of_any_form(model, pairs, texts, form):
    few = pairs.select(range(8))
    assert_equal(mine_hard_negatives(few, model, corpus=form(texts)), mine_hard_negatives(few, model, corpus=texts))


def test_old_names_and_needless_arguments_are_told(model, pairs, caplog):
    few = pairs.select(range(12))
    old = mine_hard_negatives(few, model, margin=0.02, as_triplets=False, use_faiss=True)
    assert_equal(old, mine_hard_negatives(few, model, absolute_margin=0.02, output_format="n-tuple"))
    for said in (
        "margin: use absolute_margin=0.02",
        "as_triplets: use output_format='n-tuple'",
        "use_faiss: True is not",
    ):
        assert said in caplog.text
    scored = mine_hard_negatives(few, model, output_format="n-tuple-scores")
    assert_equal(scored, mine_hard_negatives(few, model, output_format="n-tuple", output_scores=True))
    mine_hard_negatives(few, model, include_positives=True)
    assert "'n-tuple' is taken, because include_positives" in caplog.text


@pytest.mark.parametrize(
    ("rows", "arguments", "error", "message"),
    [
        ({"anchor": [], "positive": []}, {}, DatasetError, "dataset: expected rows of query and positive, got none"),
        ({"anchor": ["a"]}, {}, DatasetError, "dataset: expected a column of queries and one of positives"),
        ({"a": ["x"], "b": ["y"]}, {"faiss_batch_size": 0}, InputError, "faiss_batch_size: expected at least 1, got 0"),
        ({"a": ["x"], "b": ["y"]}, {"output_format": "pairs"}, InputError, "output_format: expected one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_mined(model, rows, arguments, error, message):
    with pytest.raises(error, match=message):
        mine_hard_negatives(Dataset.from_dict(rows), model, **arguments)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_sparse_model_mines_by_its_own_similarity(tiny_masked_bert, pairs, similarity, tmp_path):
    sparse = SparseEncoder(str(tiny_masked_bert), device="cpu", similarity_fn_name=similarity)
    options = {"num_negatives": 2, "output_format": "labeled-list", "output_scores": True, "verbose": False}
    found = mine_hard_negatives(pairs, sparse, **options)
    assert found[:] == mine_hard_negatives(pairs, sparse, cache_folder=str(tmp_path), **options)[:]
    texts = list(dict.fromkeys(pairs["positive"]))
    for row in list(found)[:5]:
        own = {b for a, b in zip(pairs["anchor"], pairs["positive"], strict=True) if a == row["anchor"]}
        scores = sparse.similarity(sparse.encode_query([row["anchor"]]), sparse.encode_document(texts))[0]
        best = [texts[at] for at in scores.argsort(descending=True, stable=True).tolist() if texts[at] not in own][:2]
        assert row["positive"][1:] == best
        expected = [float(scores[texts.index(text)]) for text in row["positive"]]
        assert next(row[name] for name in ("scores", "score") if name in row) == pytest.approx(expected, rel=1e-4)


def test_a_late_interaction_encoder_is_refused_in_a_sentence(tiny_bert: Path) -> None:
    rows = Dataset.from_dict({"query": ["a"], "page": ["b"]})
    with pytest.raises(InputError, match="one vector a text, got a MultiVectorEncoder"):
        mine_hard_negatives(rows, MultiVectorEncoder(str(tiny_bert)))
