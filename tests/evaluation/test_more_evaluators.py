"""What the evaluators of pairs, candidates and translations do beside giving ST's numbers; see test_parity."""

import logging
from typing import Any

import pytest
import torch
from PIL import Image

from omnitune import evaluation
from omnitune.errors import DatasetError, InputError, ShapeError
from omnitune.evaluation import BaseEvaluator, BinaryClassificationEvaluator
from omnitune.evaluation.ranking import nearest_pairs
from omnitune.ops.similarity import dot_score


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "message"),
    [
        ("BinaryClassificationEvaluator", (["a"], ["b"], [1, 0]), ShapeError, "got 1, 1 and 2"),
        ("BinaryClassificationEvaluator", (["a"], ["b"], [2]), InputError, "labels: expected 0 or 1, got 2"),
        ("LabelAccuracyEvaluator", ([],), InputError, "softmax_model: expected the SoftmaxLoss"),
        (
            "MSEEvaluator",
            (["a"], ["b", "c"], 1),
            ShapeError,
            "expected equally many, and at least one of each, got 1 and 2",
        ),
        ("MSEEvaluator", (["a"], ["b"]), InputError, "teacher_model: expected the model"),
        ("MSEEvaluatorFromDataFrame", ([{"en": "a", "de": " "}], 1, [("en", "de")]), InputError, "got none for"),
        ("NanoBEIREvaluator", (["trec"],), InputError, r"dataset_names: expected .* got \['trec'\]"),
        ("NanoBEIREvaluator", ([],), InputError, "got none"),
        ("NanoBEIREvaluator", (["nq"], "no/such"), DatasetError, "without a network it has to be in the cache"),
        ("ParaphraseMiningEvaluator", ({"a": "x"},), InputError, "expected at least two sentences, got 1"),
        ("RerankingEvaluator", ([{"query": "q", "positive": [], "negative": ["x"]}],), InputError, "got none in 1"),
        ("TranslationEvaluator", (["a"], []), ShapeError, "got 1 and 0"),
    ],
)
def test_what_cannot_be_evaluated(name, arguments, kind, message):
    with pytest.raises(kind, match=message):
        getattr(evaluation, name)(*arguments)


def test_prompts_of_every_dataset():
    with pytest.raises(InputError, match="query_prompts: expected a prompt for every dataset, got none for fever"):
        evaluation.NanoBEIREvaluator(["nq", "fever"], query_prompts={"nq": "find: "})


def test_a_table_without_its_columns(tmp_path):
    from datasets import Dataset

    (tmp_path / "corpus").mkdir()
    Dataset.from_dict({"_id": ["a"]}).to_parquet(tmp_path / "corpus" / "NanoNQ.parquet")
    entry = "- config_name: corpus\n  data_files:\n  - split: NanoNQ\n    path: corpus/NanoNQ.parquet"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{entry}\n---\n")
    with pytest.raises(DatasetError, match=r"corpus, NanoNQ: expected the columns .* missing \['text'\]"):
        evaluation.NanoBEIREvaluator(["nq"], str(tmp_path))


def test_a_threshold_of_distances_is_a_distance(encoder):
    sides = ["a", "b", "c", "d"], ["a", "b", "x", "y"]
    found = evaluation.BinaryClassificationEvaluator(*sides, [1, 1, 0, 0], similarity_fn_names=["euclidean"])(encoder)
    assert found["euclidean_accuracy"] == 1.0
    assert found["euclidean_accuracy_threshold"] > 0
    # Both sides in one call, so that equal items are encoded once.
    assert [count for _, count, _ in encoder.calls] == [8]


def test_images_may_be_candidates(encoder):
    page, other = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    found = evaluation.RerankingEvaluator([{"query": "q", "positive": page, "negative": [other, "text"]}])(encoder)
    assert found.keys() == {"map", "mrr@10", "ndcg@10"}


def test_the_former_name_of_the_cut_off(caplog):
    sample = {"query": "q", "positive": "a", "negative": ["b"]}
    assert evaluation.RerankingEvaluator([sample], mrr_at_k=3).at_k == 3
    assert "mrr_at_k is called at_k now" in caplog.text


def test_wrong_matches_are_logged(encoder, caplog):
    caplog.set_level(logging.INFO)
    evaluation.TranslationEvaluator(["eins", "zwei"], ["zwei", "drei"], print_wrong_matches=True)(encoder)
    assert "Wrong match: 'zwei' is 'drei'" in caplog.text


def test_a_path_joins_duplicates():
    graph = {"a": {"b": True}, "b": {"c": True, "e": False}, "d": {"e": True}}
    closed = evaluation.ParaphraseMiningEvaluator.add_transitive_closure(graph)
    assert closed["c"] == {"a": True, "b": True}
    assert closed["e"] == {"d": True}
    evaluator = evaluation.ParaphraseMiningEvaluator(
        {key: key for key in "abcde"}, [("a", "b"), ("b", "c")], add_transitive_closure=True
    )
    assert evaluator.total_num_duplicates == 3


def test_the_same_pairs_however_rows_are_cut():
    rows = torch.randint(-2, 3, (40, 3), generator=torch.Generator().manual_seed(0)).float()
    whole = nearest_pairs(rows, dot_score, 6, 50)
    cut = nearest_pairs(rows, dot_score, 6, 50, block=7, chunk=11)
    assert torch.equal(whole[1], cut[1])
    assert (whole[1][:, 0] < whole[1][:, 1]).all()
    assert len(whole[1].unique(dim=0)) == len(whole[1]) == 50


def test_helpers_that_only_the_rival_calls_say_what_to_use() -> None:
    class Helped(BinaryClassificationEvaluator):
        def compute_metrices(self, model: Any) -> dict[str, float]:
            return {}

    class WithItsOwn(Helped):
        def measure(self, model: Any) -> dict[str, float]:
            return self.compute_metrices(model)

    class Alone(BaseEvaluator):
        def compute_metrics(self, model: Any) -> dict[str, float]:
            return {}

        def __call__(self, model: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
            return self.compute_metrics(model)

    with pytest.raises(InputError, match=r"Helped\.compute_metrices: expected no override.*override, measure\(model\)"):
        Helped(["a"], ["b"], [1])
    assert WithItsOwn(["a"], ["b"], [1]).measure(None) == {} and Alone()(None) == {}
    with pytest.raises(AttributeError, match="no 'compute_metrices' on purpose: use, or override, measure"):
        _ = BinaryClassificationEvaluator(["a"], ["b"], [1]).compute_metrices
