"""Evaluators give no number to input that has none: an error that names the argument and the place, before encoding."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from omnitune import evaluation as e
from omnitune.cross_encoder import evaluation as c
from omnitune.errors import InputError
from omnitune.ops.classification import binary_metrics
from omnitune.ops.metrics import pearson, ranking_metrics, spearman

NAN = math.nan
TEXTS = ["a", "b", "c"]


class Blind:
    """Encodes everything to no number."""

    similarity_fn_name = "cosine"
    model_card_data = None
    num_labels = 1

    def encode(self, inputs: Any, convert_to_tensor: bool = False, **options: Any) -> Any:
        made = np.full((len(inputs), 4), NAN, np.float32)
        return torch.from_numpy(made) if convert_to_tensor else made

    encode_query = encode_document = encode

    def similarity(self, a: Any, b: Any) -> torch.Tensor:
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def predict(self, inputs: Any, **options: Any) -> Any:
        return np.full(len(inputs), NAN, np.float32)


class Sure(Blind):
    """Encodes to numbers."""

    def encode(self, inputs: Any, convert_to_tensor: bool = False, **options: Any) -> Any:
        made = np.random.default_rng(0).random((len(inputs), 4), np.float32)
        return torch.from_numpy(made) if convert_to_tensor else made

    encode_query = encode_document = encode


IR = {"queries": {"q1": "x", "q2": "y"}, "corpus": {"d1": "a", "d2": "b"}}
RERANK = {"query": "x", "positive": ["a"], "negative": ["b"]}

CASES: dict[str, tuple[Any, str]] = {
    "similarity, nan": (
        lambda: e.EmbeddingSimilarityEvaluator(TEXTS, TEXTS, [0.1, NAN, 0.2]),
        r"scores\[1\]: expected a finite number, got nan",
    ),
    "similarity, None": (
        lambda: e.EmbeddingSimilarityEvaluator(TEXTS, TEXTS, [0.1, 0.2, None]),
        r"scores\[2\]: missing",
    ),
    "similarity, text": (
        lambda: e.EmbeddingSimilarityEvaluator(TEXTS, TEXTS, ["1", "2", "3"]),
        r"scores\[0\]: expected a number",
    ),
    "similarity, one text": (
        lambda: e.EmbeddingSimilarityEvaluator("abc", "abc", [1, 2, 3]),
        r"sentences1: expected a list of inputs, got the text 'abc'",
    ),
    "binary, nan": (lambda: e.BinaryClassificationEvaluator(TEXTS, TEXTS, [1, 0, NAN]), "labels: expected 0 or 1"),
    "binary, one class": (
        lambda: e.BinaryClassificationEvaluator(TEXTS, TEXTS, [0, 0, 0]),
        "labels: expected at least one pair that is alike",
    ),
    "retrieval, text for ids": (
        lambda: e.InformationRetrievalEvaluator(**IR, relevant_docs={"q1": "d1"}),
        r"relevant_docs\['q1'\]: expected a set of identifiers, got the text 'd1'; give \{'d1'\}",
    ),
    "retrieval, number for ids": (
        lambda: e.InformationRetrievalEvaluator(**IR, relevant_docs={"q1": 1}),
        r"relevant_docs\['q1'\]: expected a set of identifiers, got 1",
    ),
    "retrieval, no id in the corpus": (
        lambda: e.InformationRetrievalEvaluator(**IR, relevant_docs={"q1": {1, 2}}),
        "relevant_docs: expected identifiers of the corpus, such as 'd1', got none, such as 1",
    ),
    "retrieval, relevance of 0": (
        lambda: e.InformationRetrievalEvaluator(**IR, relevant_docs={"q1": {"d1": 0, "d2": 0}}),
        "relevant_docs: expected relevant documents for at least one of 2 queries",
    ),
    "reranking, keys": (lambda: e.RerankingEvaluator([{"query": "x", "positive": "a"}]), r"samples\[0\]: .*'negative'"),
    "reranking, None": (
        lambda: e.RerankingEvaluator([{"query": None, "positive": "a", "negative": "b"}]),
        r"samples\[0\]: expected a query, got None",
    ),
    "triplets, one text": (lambda: e.TripletEvaluator("abc", "abc", "abc"), "anchors: expected a list of inputs"),
    "mse, empty": (lambda: e.MSEEvaluator([], [], Sure()), "source_sentences, target_sentences: .*at least one"),
    "mse, teacher": (lambda: e.MSEEvaluator(TEXTS, TEXTS, Blind()), "embeddings: expected numbers"),
    "mse, languages": (
        lambda: e.MSEEvaluatorFromDataFrame([{"en": "a"}], Sure(), [("en", "de")]),
        r"combinations: expected rows with both languages, got none for \('en', 'de'\)",
    ),
    "mse, None": (
        lambda: e.MSEEvaluatorFromDataFrame([{"en": "a", "de": None}], Sure(), [("en", "de")]),
        r"combinations: expected rows with both languages",
    ),
    "duplicates, none": (
        lambda: e.ParaphraseMiningEvaluator({"1": "a", "2": "b"}),
        "duplicates_list, duplicates_dict: expected at least one pair of different sentences",
    ),
    "duplicates, of others": (
        lambda: e.ParaphraseMiningEvaluator({"1": "a", "2": "b"}, [("7", "8")]),
        "duplicates_list, duplicates_dict: expected at least one pair",
    ),
    "sequence, empty": (lambda: e.SequentialEvaluator([]), "evaluators: expected at least one, got none"),
    "pairs, nan": (
        lambda: c.CrossEncoderCorrelationEvaluator([["a", "b"]] * 3, [1.0, NAN, 2.0]),
        r"scores\[1\]: expected a finite number",
    ),
    "pairs, one": (lambda: c.CrossEncoderCorrelationEvaluator([["a", "b"]], [1.0]), "at least two"),
    "classes, none": (lambda: c.CrossEncoderClassificationEvaluator([], []), "at least one"),
    "classes, nan": (
        lambda: c.CrossEncoderClassificationEvaluator([["a", "b"]] * 2, [1, NAN]),
        r"labels\[1\]: expected a whole number",
    ),
    "reranker, no positive": (
        lambda: c.CrossEncoderRerankingEvaluator([{"query": "x", "positive": [], "negative": ["b"]}]),
        "samples: expected at least one with a positive",
    ),
    "reranker, text for documents": (
        lambda: c.CrossEncoderRerankingEvaluator([{"query": "x", "positive": ["a"], "documents": "abc"}]),
        r"samples\[0\]: expected a list of documents, got the text 'abc'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_input_without_numbers_is_refused(name: str) -> None:
    make, message = CASES[name]
    with pytest.raises(InputError, match=message):
        make()


def test_label_accuracy_of_nothing() -> None:
    from torch.utils.data import DataLoader

    empty: Any = DataLoader([], batch_size=2)  # type: ignore[arg-type, var-annotated]
    with pytest.raises(InputError, match="dataloader: expected at least one example"):
        e.LabelAccuracyEvaluator(empty, softmax_model=object()).measure(Sure())


MODELS: dict[str, Any] = {
    "similarity": lambda: e.EmbeddingSimilarityEvaluator(TEXTS, TEXTS, [0.1, 0.5, 0.2]),
    "binary": lambda: e.BinaryClassificationEvaluator(TEXTS, TEXTS, [1, 0, 1]),
    "retrieval": lambda: e.InformationRetrievalEvaluator(**IR, relevant_docs={"q1": {"d1"}}),
    "reranking": lambda: e.RerankingEvaluator([RERANK]),
    "triplets": lambda: e.TripletEvaluator(TEXTS, TEXTS, TEXTS),
    "translation": lambda: e.TranslationEvaluator(TEXTS, TEXTS),
    "mse": lambda: e.MSEEvaluator(TEXTS, TEXTS, Sure()),
    "duplicates": lambda: e.ParaphraseMiningEvaluator({"1": "a", "2": "b", "3": "c"}, [("1", "2")]),
    "pairs": lambda: c.CrossEncoderCorrelationEvaluator([["a", "b"]] * 3, [1.0, 0.5, 2.0]),
    "classes": lambda: c.CrossEncoderClassificationEvaluator([["a", "b"]] * 2, [1, 0]),
    "reranker": lambda: c.CrossEncoderRerankingEvaluator([RERANK]),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_gives_no_numbers_is_not_measured(name: str) -> None:
    with pytest.raises(InputError, match=r"(embeddings|scores): expected numbers .*got nan"):
        MODELS[name]().measure(Blind())


def test_correlations_of_no_numbers_are_none() -> None:
    full, gap = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, NAN, 3.0])
    for correlation in (pearson, spearman):
        assert math.isnan(correlation(full, gap)) and math.isnan(correlation(gap, full))
        assert math.isnan(correlation(full, torch.tensor([1.0, math.inf, 3.0]))) == (correlation is pearson)


def test_rankings_of_no_numbers_are_refused() -> None:
    scores, marks = torch.tensor([0.1, NAN]), torch.tensor([True, False])
    with pytest.raises(InputError, match="scores: expected numbers .*got nan"):
        ranking_metrics(scores, marks, torch.tensor([2]), 10)
    with pytest.raises(InputError, match="scores: expected numbers .*got nan"):
        binary_metrics(scores, marks.long())


def test_each_evaluator_has_lists_of_its_own() -> None:
    first, second = (e.InformationRetrievalEvaluator(**IR, relevant_docs={"q1": {"d1"}}) for _ in range(2))
    first.ndcg_at_k.append(3)
    assert second.ndcg_at_k == [10]


def test_graded_relevance_counts_what_is_above_zero() -> None:
    made = e.InformationRetrievalEvaluator(**IR, relevant_docs={"q1": {"d1": 2, "d2": 0}})
    assert made.relevant_docs == {"q1": {"d1"}}
