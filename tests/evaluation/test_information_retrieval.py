import csv
import json
import logging

import pytest
import torch

from omnitune.errors import InputError, ShapeError
from omnitune.evaluation import InformationRetrievalEvaluator, Ranking
from omnitune.evaluation.ranking import Hits
from omnitune.ops.similarity import cos_sim, dot_score


class Lookup:
    """A model whose queries and documents are numbers on a line."""

    similarity_fn_name = "euclidean"

    def similarity(self, a, b):
        return -torch.cdist(a, b)

    def encode_query(self, inputs, **options):
        return torch.tensor([[float(item)] for item in inputs])

    encode_document = encode_query


@pytest.fixture
def line():
    """Query 0 finds b, a, c in this order; query 10 finds c, a, b."""
    return {
        "queries": {"q0": "0", "q10": "10", "unused": "5"},
        "corpus": {"a": "3", "b": "1", "c": "9"},
        "relevant_docs": {"q0": {"a"}, "q10": {"b", "c"}, "unused": set(), "stranger": {"a"}},
    }


def test_metrics_by_hand(line):
    metrics = InformationRetrievalEvaluator(**line, precision_recall_at_k=[2], name="line")(Lookup())
    assert metrics["line_euclidean_accuracy@1"] == 0.5
    assert metrics["line_euclidean_precision@2"] == 0.5
    assert metrics["line_euclidean_recall@2"] == 0.75
    assert metrics["line_euclidean_mrr@10"] == 0.75
    assert metrics["line_euclidean_map@100"] == pytest.approx((0.5 + (1 + 2 / 3) / 2) / 2)
    log3 = 1.584962500721156
    assert metrics["line_euclidean_ndcg@10"] == pytest.approx((1 / log3 + 1.5 / (1 + 1 / log3)) / 2)


def test_measure_is_pure_and_has_no_prefix(line, tmp_path):
    evaluator = InformationRetrievalEvaluator(**line, name="line")
    first = evaluator.measure(Lookup())
    assert evaluator.primary_metric is None
    assert first == evaluator.measure(Lookup())
    assert {f"line_{key}": value for key, value in first.items()} == evaluator(Lookup(), str(tmp_path))


def test_every_query_has_its_value(line):
    ranking = InformationRetrievalEvaluator(**line).rank(Lookup())["euclidean"]
    assert isinstance(ranking, Ranking)
    assert ranking.query_ids == ["q0", "q10"]
    assert ranking.per_query["mrr@10"].tolist() == [0.5, 1.0]
    assert [document for document, _ in ranking.found(0)] == ["b", "a", "c"]
    assert ranking.found(1, 1) == [("c", -1.0)]
    assert ranking.relevant.tolist() == [[False, True, False], [True, False, True]]


def test_results_do_not_depend_on_the_chunks(make_encoder, retrieval):
    encoder = make_encoder("dot")  # of integers, so that no rounding tells chunks apart
    whole = InformationRetrievalEvaluator(**retrieval).measure(encoder)
    for size in (1, 7, 50):
        assert InformationRetrievalEvaluator(**retrieval, corpus_chunk_size=size).measure(encoder) == whole


def test_items_are_looked_up_a_chunk_at_a_time(encoder, retrieval):
    class Lazy(dict):
        held = 0

        def __getitem__(self, key):
            Lazy.held += 1
            return super().__getitem__(key)

    evaluator = InformationRetrievalEvaluator(
        **{**retrieval, "corpus": Lazy(retrieval["corpus"])}, corpus_chunk_size=10
    )
    assert Lazy.held == 0
    evaluator.measure(encoder)
    assert Lazy.held == 101
    assert [n for verb, n, _ in encoder.calls if verb == "document"] == [10] * 10 + [1]


def test_prompts_and_options_reach_the_verbs(encoder, retrieval):
    evaluator = InformationRetrievalEvaluator(
        **retrieval, batch_size=5, truncate_dim=4, query_prompt="q: ", corpus_prompt_name="page"
    )
    evaluator.measure(encoder)
    common = {"batch_size": 5, "show_progress_bar": False, "convert_to_tensor": True, "truncate_dim": 4}
    assert [(verb, options) for verb, _, options in encoder.calls] == [
        ("query", {**common, "prompt": "q: ", "prompt_name": None}),
        ("document", {**common, "prompt": None, "prompt_name": "page"}),
    ]
    assert evaluator.get_config_dict() == {"truncate_dim": 4, "query_prompt": "q: ", "corpus_prompt_name": "page"}


def test_ready_embeddings_and_another_corpus_model(encoder, make_encoder, retrieval):
    evaluator = InformationRetrievalEvaluator(**retrieval, corpus_chunk_size=30)
    embeddings = encoder.encode_document(list(retrieval["corpus"].values()), convert_to_tensor=True)
    expected = evaluator(encoder)
    encoder.calls.clear()
    assert evaluator(encoder, corpus_embeddings=embeddings) == expected
    assert [verb for verb, _, _ in encoder.calls] == ["query"]
    other = make_encoder()
    assert evaluator(encoder, corpus_model=other) == expected
    assert {verb for verb, _, _ in other.calls} == {"document"}


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_dimensions_come_from_one_encoding(make_encoder, retrieval, similarity):
    model = make_encoder(similarity)
    rankings = InformationRetrievalEvaluator(**retrieval, corpus_chunk_size=40).rank_dims(model, [8, 4, 2])
    assert [verb for verb, _, _ in model.calls] == ["query", "document", "document", "document"]
    for dim, ranking in rankings.items():
        alone = InformationRetrievalEvaluator(**retrieval, corpus_chunk_size=40, truncate_dim=dim).rank(model)
        assert ranking.means() == alone[similarity].means()
        assert ranking.hits.rows.equal(alone[similarity].hits.rows)


def test_dimensions_that_the_model_does_not_have(encoder, retrieval):
    with pytest.raises(InputError, match="dims: expected at most the embedding dimension 8, got 16"):
        InformationRetrievalEvaluator(**retrieval).rank_dims(encoder, [4, 16])


def test_any_system_can_be_judged(line):
    evaluator = InformationRetrievalEvaluator(**line)
    hits = Hits(torch.tensor([[2.0, 1.0], [0.0, 0.0]]), torch.tensor([[0, 1], [-1, -1]]))
    ranking = evaluator.judge(hits)
    assert ranking.per_query["ndcg@10"].tolist() == [1.0, 0.0]
    assert ranking.found(1) == []
    with pytest.raises(
        ShapeError, match="hits: expected one row for each of 2 queries that have a relevant document, got 1"
    ):
        evaluator.judge(Hits(hits.scores[:1], hits.rows[:1]))


def test_score_functions_of_the_user(encoder, retrieval):
    functions = {"dot": dot_score, "cos": cos_sim}
    evaluator = InformationRetrievalEvaluator(**retrieval, score_functions=functions)
    metrics = evaluator(encoder)
    assert {key.split("_")[0] for key in metrics} == {"dot", "cos"}
    best = max(("cos", "dot"), key=lambda name: metrics[f"{name}_ndcg@10"])
    assert evaluator.primary_metric == f"{best}_ndcg@10"


def test_the_primary_metric_stays_and_follows_another_model(make_encoder, retrieval):
    evaluator = InformationRetrievalEvaluator(**retrieval, name="val", ndcg_at_k=[3, 10])
    metrics = evaluator(make_encoder("cosine"))
    assert evaluator.primary_metric == "val_cosine_ndcg@10"
    assert evaluator.primary_metric in metrics
    evaluator(make_encoder("cosine"))
    assert evaluator.primary_metric == "val_cosine_ndcg@10"
    assert "val_dot_ndcg@10" in evaluator(make_encoder("dot"))
    assert evaluator.primary_metric == "val_dot_ndcg@10"
    evaluator = InformationRetrievalEvaluator(
        **retrieval, main_score_function="dot", score_functions={"dot": dot_score}
    )
    evaluator(make_encoder("cosine"))
    assert evaluator.primary_metric == "dot_ndcg@10"


def test_files(line, tmp_path):
    evaluator = InformationRetrievalEvaluator(
        **line, name="line", write_predictions=True, precision_recall_at_k=[1], accuracy_at_k=[1], ndcg_at_k=[2, 3]
    )
    metrics = evaluator(Lookup(), str(tmp_path / "eval"), epoch=1, steps=20)
    evaluator(Lookup(), str(tmp_path / "eval"), epoch=2)
    with (tmp_path / "eval" / "Information-Retrieval_evaluation_line_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["steps"]) for row in rows] == [("1", "20"), ("2", "-1")]
    kinds = ["Accuracy@1", "Precision@1", "Recall@1", "MRR@10", "NDCG@2", "NDCG@3", "MAP@100"]
    assert list(rows[0]) == ["epoch", "steps", *(f"euclidean-{kind}" for kind in kinds)]
    assert float(rows[0]["euclidean-NDCG@2"]) == metrics["line_euclidean_ndcg@2"]
    predictions = (tmp_path / "eval" / "Information-Retrieval_evaluation_line_predictions_euclidean.jsonl").read_text()
    first, second = map(json.loads, predictions.splitlines())
    assert first["query_id"], first["query"] == ("q0", "0")
    assert second["results"][0] == {"corpus_id": "c", "score": -1.0}


def test_no_files_unless_asked(line, tmp_path):
    InformationRetrievalEvaluator(**line, write_csv=False)(Lookup(), str(tmp_path))
    InformationRetrievalEvaluator(**line)(Lookup())
    assert not list(tmp_path.iterdir())


def test_relevant_documents_outside_the_corpus_count_as_missed(line, caplog):
    line["relevant_docs"] = {"q0": {"b", "elsewhere"}}
    with caplog.at_level(logging.WARNING):
        evaluator = InformationRetrievalEvaluator(**line)
    assert "1 relevant documents are not in the corpus, such as 'elsewhere'; they count as missed" in caplog.text
    assert evaluator.measure(Lookup())["euclidean_recall@10"] == 0.5


def test_what_cannot_be_evaluated_is_an_error(line):
    with pytest.raises(InputError, match="relevant_docs: expected relevant documents for at least one of 3 queries"):
        InformationRetrievalEvaluator(**{**line, "relevant_docs": {0: {"a"}}})
    with pytest.raises(InputError, match="corpus: expected at least one document"):
        InformationRetrievalEvaluator(**{**line, "corpus": {}})
    with pytest.raises(InputError, match=r"ndcg_at_k: expected cut-offs of at least 1, got \[0\]"):
        InformationRetrievalEvaluator(**line, ndcg_at_k=[0])


def test_the_card_gets_the_metrics_where_there_is_one(line):
    class Card:
        def set_evaluation_metrics(self, evaluator, metrics, epoch, step):
            self.got = (evaluator, metrics, epoch, step)

    model = Lookup()
    model.model_card_data = Card()
    evaluator = InformationRetrievalEvaluator(**line)
    metrics = evaluator(model, epoch=1, steps=3)
    assert model.model_card_data.got == (evaluator, metrics, 1, 3)
    assert evaluator.description == "Information Retrieval"
