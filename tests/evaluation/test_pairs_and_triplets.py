import csv
import logging
import math

import numpy as np
import pytest

from omnitune.errors import InputError, ShapeError
from omnitune.evaluation import BaseEvaluator, EmbeddingSimilarityEvaluator, SequentialEvaluator, TripletEvaluator


class Plane:
    """Items are written as "x y"."""

    similarity_fn_name = "cosine"

    def encode(self, inputs, **options):
        return np.array([list(map(float, item.split())) for item in inputs], dtype=np.float32)

    encode_query = encode_document = encode


TRIPLETS = {
    "anchors": ["1 0", "1 0", "0 1"],
    "positives": ["2 0", "0 1", "1 2"],
    "negatives": ["0 3", "1 1", "1 1"],
}


def test_triplets_by_hand():
    evaluator = TripletEvaluator(**TRIPLETS, name="t")
    assert evaluator(Plane()) == {"t_cosine_accuracy": pytest.approx(2 / 3)}
    assert evaluator.primary_metric == "t_cosine_accuracy"
    assert TripletEvaluator(**TRIPLETS, margin=0.5).measure(Plane()) == {"cosine_accuracy": pytest.approx(1 / 3)}
    assert TripletEvaluator(**TRIPLETS, margin={"dot": 9}).measure(Plane()) == {"cosine_accuracy": pytest.approx(2 / 3)}


def test_a_tie_is_no_success():
    assert TripletEvaluator(["1 0"], ["1 0"], ["2 0"]).measure(Plane()) == {"cosine_accuracy": 0.0}


def test_triplets_under_several_similarities(tmp_path):
    evaluator = TripletEvaluator(**TRIPLETS, similarity_fn_names=["cosine", "euclidean", "dot"])
    metrics = evaluator(Plane(), str(tmp_path), 1, 2)
    assert list(metrics) == ["cosine_accuracy", "euclidean_accuracy", "dot_accuracy", "max_accuracy"]
    assert metrics["max_accuracy"] == max(metrics.values())
    assert evaluator.primary_metric == "max_accuracy"
    with (tmp_path / "triplet_evaluation_results.csv").open() as file:
        header, row = csv.reader(file)
    assert header == ["epoch", "steps", "accuracy_cosine", "accuracy_euclidean", "accuracy_dot"]
    assert [float(value) for value in row] == [1, 2, *list(metrics.values())[:3]]


def test_triplet_roles(encoder):
    TripletEvaluator(["a"], ["b"], ["c"], truncate_dim=3, batch_size=4).measure(encoder)
    assert [verb for verb, _, _ in encoder.calls] == ["query", "document", "document"]
    assert all(options["truncate_dim"] == 3 and options["batch_size"] == 4 for _, _, options in encoder.calls)


def test_triplet_arguments(caplog):
    with pytest.raises(ShapeError, match="anchors, positives, negatives: expected equally many.* got 2, 1 and 1"):
        TripletEvaluator(["a", "b"], ["a"], ["b"])
    with pytest.raises(InputError, match="margin: expected similarities among cosine, dot, .* got angular"):
        TripletEvaluator(**TRIPLETS, margin={"angular": 1})
    with pytest.raises(InputError, match="similarity: expected one of"):
        TripletEvaluator(**TRIPLETS, similarity_fn_names=["angular"])
    with caplog.at_level(logging.WARNING):
        old = TripletEvaluator(**TRIPLETS, main_distance_function="dot")
    assert "main_distance_function is called main_similarity_function now" in caplog.text
    old(Plane())
    assert old.primary_metric == "dot_accuracy"
    assert TripletEvaluator(**TRIPLETS, margin=0.5, truncate_dim=2).get_config_dict() == {
        "margin": dict.fromkeys(["cosine", "dot", "euclidean", "manhattan"], 0.5),
        "truncate_dim": 2,
    }


PAIRS = {
    "sentences1": ["1 0", "1 0", "1 0", "1 0"],
    "sentences2": ["1 0", "1 1", "0 1", "-1 0"],
    "scores": [3.0, 2.0, 2.0, 0.0],
}


def test_pairs_by_hand():
    cosines, gold = np.array([1, math.sqrt(0.5), 0, -1]), np.array(PAIRS["scores"])
    evaluator = EmbeddingSimilarityEvaluator(**PAIRS, name="p")
    metrics = evaluator(Plane())
    assert metrics["p_pearson_cosine"] == pytest.approx(np.corrcoef(cosines, gold)[0, 1], abs=1e-6)
    assert metrics["p_spearman_cosine"] == pytest.approx(np.corrcoef([4, 3, 2, 1], [4, 2.5, 2.5, 1])[0, 1], abs=1e-6)
    assert evaluator.primary_metric == "p_spearman_cosine"
    assert evaluator.description == "Semantic Similarity"


def test_pairs_under_several_similarities(tmp_path):
    evaluator = EmbeddingSimilarityEvaluator(**PAIRS, similarity_fn_names=["cosine", "manhattan"], name="p")
    metrics = evaluator(Plane(), str(tmp_path))
    assert metrics["p_spearman_max"] == max(metrics["p_spearman_cosine"], metrics["p_spearman_manhattan"])
    assert evaluator.primary_metric == "p_spearman_max"
    with (tmp_path / "similarity_evaluation_p_results.csv").open() as file:
        header, row = csv.reader(file)
    names = ["cosine_pearson", "cosine_spearman", "manhattan_pearson", "manhattan_spearman"]
    assert header == ["epoch", "steps", *names]
    assert [float(value) for value in row[2:]] == list(metrics.values())[:4]


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_pairs_at_a_precision(encoder, precision):
    sides = [f"left {i}" for i in range(60)], [f"right {i}" for i in range(60)]
    exact = encoder.encode([*sides[0], *sides[1]])
    gold = (exact[:60] * exact[60:]).sum(1) / np.linalg.norm(exact[:60], axis=1) / np.linalg.norm(exact[60:], axis=1)
    encoder.calls.clear()
    evaluator = EmbeddingSimilarityEvaluator(*sides, gold.tolist(), precision=precision, main_similarity="cosine")
    metrics = evaluator(encoder)
    assert 0.5 < metrics["spearman_cosine"] < 1
    assert len(encoder.calls) == (1 if precision.endswith("int8") else 2)
    assert all(options["normalize_embeddings"] and options["precision"] == precision for *_, options in encoder.calls)
    assert evaluator.csv_file == f"similarity_evaluation_{precision}_results.csv"
    assert evaluator.get_config_dict() == {"precision": precision}


def test_pair_arguments():
    with pytest.raises(ShapeError, match="sentences1, sentences2, scores: expected equally many.* got 1, 1 and 1"):
        EmbeddingSimilarityEvaluator(["a"], ["b"], [1.0])


class Fixed(BaseEvaluator):
    def __init__(self, metrics, name="", primary=None):
        super().__init__()
        self.metrics, self.name, self.primary_metric = metrics, name, primary

    def measure(self, model):
        return self.metrics


class Scalar(BaseEvaluator):
    def __call__(self, model, output_path=None, epoch=-1, steps=-1):
        return 0.25


def test_sequence_collects_everything():
    inner = SequentialEvaluator([Fixed({"z": 0.9})])
    sequence = SequentialEvaluator([Fixed({"a": 1.0, "b": 0.5}, "x", "b"), Scalar(), inner], main_score_function=sum)
    expected = {"x_a": 1.0, "x_b": 0.5, "evaluator_1": 0.25, "z": 0.9, "sequential_score": 0.5 + 0.25 + 0.9}
    assert sequence(None) == expected
    assert sequence.primary_metric == "sequential_score"
    assert SequentialEvaluator([Fixed({"a": 1.0}), Fixed({"b": 0.5})])(None)["sequential_score"] == 0.5


def test_metrics_of_the_same_name_are_an_error():
    text = r"number 1 \(Fixed 'dim'\) and number 2 \(Fixed 'dim'\) both return 'dim_a'; give them different names"
    with pytest.raises(InputError, match=text):
        SequentialEvaluator([Fixed({"a": 1.0}, "dim"), Fixed({"a": 0.5}, "dim")])(None)


def test_an_evaluator_without_measure_says_so():
    with pytest.raises(NotImplementedError, match=r"BaseEvaluator needs a measure\(model\)"):
        BaseEvaluator()(None)


def test_a_base_evaluator_writes_its_metrics(tmp_path):
    evaluator = Fixed({"a": 1.0}, "x")
    evaluator.write_csv, evaluator.csv_file = True, "fixed.csv"
    evaluator(None, str(tmp_path), 3)
    assert (tmp_path / "fixed.csv").read_text() == "epoch,steps,a\n3,-1,1.0\n"


def test_metrics_of_an_evaluator_written_for_st_may_be_texts():
    evaluator = Scalar()
    evaluator.primary_metric = "a"
    assert evaluator.prefix_name_to_metrics({"a": 1, "note": "fine"}, "x") == {"x_a": 1.0, "x_note": "fine"}
    assert evaluator.primary_metric == "x_a"
