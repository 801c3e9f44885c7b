"""Each loss on hand-worked embeddings, and what it says when it is given the wrong things."""

import logging
from functools import partial
from math import e, exp, log, sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from omnitune.errors import InputError, ShapeError
from omnitune.losses import (
    AnglELoss,
    CachedMultipleNegativesRankingLoss,
    CachedMultipleNegativesSymmetricRankingLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    Loss,
    MarginMSELoss,
    MatryoshkaLoss,
    MSELoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
    TripletDistanceMetric,
    TripletLoss,
    cross_encoder,
)
from omnitune.losses.base import _papers
from omnitune.losses.cross_encoder.base import PairLoss
from omnitune.ops.similarity import cos_sim, dot_score, euclidean_sim
from omnitune.types import Embeddings


class Width(nn.Module):
    """A model of which only the dimension and the number of labels are asked."""

    num_labels = 1

    def __init__(self, width: int | None = 2) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.zeros(1))

    def get_embedding_dimension(self) -> int | None:
        return self.width


MODEL = Width()
X, Y = [1.0, 0.0], [0.0, 1.0]


def rows(*vectors: list[float]) -> Embeddings:
    return Embeddings(torch.tensor(vectors))


def value(loss: Loss, *columns: Embeddings, labels: Tensor | None = None) -> float:
    result = loss.objective(columns, labels)
    assert isinstance(result, Tensor)
    return result.item()


def about(expected: float):
    return pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_multiple_negatives_by_hand():
    queries, positives, negatives = rows(X, Y), rows([2.0, 0.0], [0.0, 3.0]), rows(Y, Y)
    assert value(MultipleNegativesRankingLoss(MODEL, scale=1), queries, positives) == about(log(e + 1) - 1)
    first, second = log(e + 1 + 2), log(e + 1 + 2 * e)
    with_hard = value(MultipleNegativesRankingLoss(MODEL, scale=1), queries, positives, negatives)
    assert with_hard == about((first + second) / 2 - 1)
    dot = value(MultipleNegativesRankingLoss(MODEL, scale=1, similarity_fct=dot_score), queries, positives)
    assert dot == about((log(exp(2) + 1) - 2 + log(exp(3) + 1) - 3) / 2)


@pytest.mark.parametrize("cls", [MultipleNegativesSymmetricRankingLoss, CachedMultipleNegativesSymmetricRankingLoss])
def test_symmetric_by_hand(cls):
    queries, positives = rows(X, X), rows(X, Y)
    forward = ((log(e + 1) - 1) + log(e + 1)) / 2
    backward = ((log(2 * e) - 1) + log(2)) / 2
    assert value(cls(MODEL, scale=1), queries, positives) == about((forward + backward) / 2)


def test_cached_is_the_same_objective():
    generator = torch.Generator().manual_seed(0)
    columns = [Embeddings(torch.randn(5, 8, generator=generator)) for _ in range(3)]
    assert value(CachedMultipleNegativesRankingLoss(MODEL), *columns) == about(
        value(MultipleNegativesRankingLoss(MODEL), *columns)
    )


def test_cached_sets_the_strategy():
    loss = CachedMultipleNegativesRankingLoss(
        MODEL, mini_batch_size=7, mini_batch_num_tokens=90, show_progress_bar=True
    )
    assert (loss.strategy.mini_batch_size, loss.strategy.mini_batch_num_tokens) == (7, 90)
    assert loss.strategy.show_progress_bar
    assert MatryoshkaLoss(MODEL, loss, [2]).strategy is loss.strategy


def test_cosent_by_hand():
    value_ = value(CoSENTLoss(MODEL, scale=1), rows(X, X), rows(X, Y), labels=torch.tensor([0.0, 1.0]))
    assert value_ == about(log(1 + e))


def test_angle_by_hand():
    # The positive scores 1; the negative 1 - i, whose conjugate is 1 + i, scores 2 / sqrt 2.
    tuples = value(AnglELoss(MODEL, scale=1), rows(X), rows(X), rows([1.0, -1.0]))
    assert tuples == about(log(1 + exp(sqrt(2) - 1)))
    halves = value(AnglELoss(MODEL, scale=1), rows(X), rows(X), rows([1.0, -1.0]), labels=torch.tensor([0.5]))
    assert halves == about(0.0)  # a positive worth 0.5 has negatives worth 0.5: nothing to order


def test_cosine_similarity_by_hand():
    labels = torch.tensor([0.5, 1.0])
    assert value(CosineSimilarityLoss(MODEL), rows(X, X), rows(X, Y), labels=labels) == about((0.25 + 1) / 2)
    absolute = CosineSimilarityLoss(MODEL, nn.L1Loss(), nn.Sigmoid())
    assert value(absolute, rows(X), rows(Y), labels=torch.tensor([2])) == about(1.5)


@pytest.mark.parametrize(
    ("metric", "near", "far"),
    [(TripletDistanceMetric.COSINE, 0.0, 1.0), (TripletDistanceMetric.EUCLIDEAN, 1.0, sqrt(2)),
     (TripletDistanceMetric.MANHATTAN, 1.0, 2.0)],
)  # fmt: skip
def test_triplet_by_hand(metric, near, far):
    assert value(TripletLoss(MODEL, metric, 3.0), rows(X), rows([2.0, 0.0]), rows(Y)) == about(near - far + 3)
    assert metric(torch.tensor([X]), torch.tensor([[2.0, 0.0]])).item() == about(near)


def test_mse_by_hand():
    one, two = rows(X), rows(Y)
    assert value(MSELoss(MODEL), one, two, labels=torch.tensor([[0.0, 0.0]])) == about(0.5)
    assert value(MSELoss(MODEL), one, two, labels=torch.tensor([[X, X]])) == about(0.5)


def test_mse_projection_is_trained_with_the_loss():
    loss = MSELoss(MODEL, projection_dim=3)
    assert dict(loss.named_parameters())["projection.weight"].shape == (3, 2)
    value(loss, rows(X), labels=torch.zeros(1, 3))


@pytest.mark.parametrize("labels", [[3.0], [[3.0]], [[5.0, 2.0]]])
def test_margin_mse_by_hand(labels):
    # The student's margin is 2 - 0.
    assert value(MarginMSELoss(MODEL), rows(X), rows([2.0, 0.0]), rows(Y), labels=torch.tensor(labels)) == about(1.0)


def test_margin_mse_with_several_negatives():
    columns = (rows(X), rows([2.0, 0.0]), rows(Y), rows([1.0, 0.0]))
    assert value(MarginMSELoss(MODEL), *columns, labels=torch.tensor([[2.0, 2.0]])) == about(0.5)
    assert value(MarginMSELoss(MODEL), *columns, labels=torch.tensor([[4.0, 2.0, 2.0]])) == about(0.5)


def test_matryoshka_by_hand():
    inner = CosineSimilarityLoss(MODEL)
    columns, labels = (rows([3.0, 4.0]), rows([3.0, 0.0])), torch.tensor([0.5])
    assert value(MatryoshkaLoss(MODEL, inner, [1, 2], [10, 1]), *columns, labels=labels) == about(10 * 0.25 + 0.01)


def test_matryoshka_one_pass_equals_the_loop():
    generator = torch.Generator().manual_seed(1)
    columns = [Embeddings(torch.randn(5, 8, generator=generator)) for _ in range(4)]
    every = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
    for function in (cos_sim, dot_score):
        inner = MultipleNegativesRankingLoss(MODEL, 5, function, False, every, "joint", "all_negatives", 2.0)
        fast, slow = inner.objective_at(columns, None, [2, 8, 5]), Loss.objective_at(inner, columns, None, [2, 8, 5])
        assert torch.allclose(torch.stack(fast), torch.stack(slow), rtol=1e-5)


def test_matryoshka_of_a_loss_with_parts():
    class Parts(Loss):
        def objective(self, embeddings, labels):
            total = embeddings[0].values.sum()
            return {"one": total, "two": 2 * total}

    loss = MatryoshkaLoss(MODEL, Parts(MODEL), [1, 2], [1.0, 0.5])
    parts = loss.objective([rows([3.0, 4.0])], None)
    assert {name: part.item() for name, part in parts.items()} == about({"one": 1 + 0.7, "two": 2 + 1.4})


def test_matryoshka_sorts_and_reports_its_dimensions(caplog):
    loss = MatryoshkaLoss(Width(8), MultipleNegativesRankingLoss(MODEL), [2, 8, 4], [1, 2, 3])
    assert loss.get_config_dict() == {
        "loss": "MultipleNegativesRankingLoss",
        "matryoshka_dims": (8, 4, 2),
        "matryoshka_weights": (2, 3, 1),
        "n_dims_per_step": -1,
    }
    assert not caplog.records
    MatryoshkaLoss(Width(None), CoSENTLoss(MODEL), [4])
    with caplog.at_level(logging.WARNING):
        MatryoshkaLoss(Width(8), CoSENTLoss(MODEL), [4, 2])
    assert "[4, 2] leave out the model's own dimension 8" in caplog.text


def test_negatives_per_query():
    plain = MultipleNegativesRankingLoss(MODEL)
    assert plain.negatives_per_query(64, 2) == 63
    assert plain.negatives_per_query(64, 3) == 63 + 64
    assert CachedMultipleNegativesRankingLoss(MODEL).negatives_per_query(64, 5) == 63 + 3 * 64
    assert MatryoshkaLoss(MODEL, plain, [2]).negatives_per_query(64, 3) == 127
    assert MultipleNegativesSymmetricRankingLoss(MODEL).negatives_per_query(64, 2) == 63
    every = MultipleNegativesRankingLoss(
        MODEL, directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
    )
    assert every.negatives_per_query(64, 3) == 127 + 63 + 63 + 126
    assert CoSENTLoss(MODEL).negatives_per_query(64, 2) is None


def test_negatives_per_query_counts_what_the_softmax_sees():
    # With all scores equal, the loss is the logarithm of the number of candidates: negatives, the positive, and with
    # "doc_to_query" the positive pair once more, seen from its document.
    same = Embeddings(torch.ones(4, 2))
    for directions, again in (
        (("query_to_doc",), 0),
        (("query_to_doc", "query_to_query"), 0),
        (("query_to_doc", "doc_to_query"), 1),
        (("query_to_doc", "doc_to_doc"), 0),
    ):
        for columns in (2, 4):
            loss = MultipleNegativesRankingLoss(MODEL, directions=directions)
            candidates = loss.negatives_per_query(4, columns) + 1 + again
            assert value(loss, *[same] * columns) == about(log(candidates))


def test_config_names_functions():
    named = MultipleNegativesRankingLoss(MODEL, similarity_fct=partial(cos_sim, b=1)).get_config_dict()
    assert named["similarity_fct"] == "cos_sim(b=1)"
    assert (
        CoSENTLoss(MODEL, similarity_fct=partial(euclidean_sim)).get_config_dict()["similarity_fct"] == "euclidean_sim"
    )
    assert TripletLoss(MODEL).get_config_dict()["distance_metric"] == "TripletDistanceMetric.EUCLIDEAN"
    assert TripletLoss(MODEL, euclidean_sim).get_config_dict()["distance_metric"] == "euclidean_sim"


def test_hardness_without_strength_warns(caplog):
    MultipleNegativesRankingLoss(MODEL, hardness_mode="hard_negatives")
    assert "hardness_mode='hard_negatives' has no effect with hardness_strength=0" in caplog.text


A, B = rows(X, Y), rows(Y, X)


@pytest.mark.parametrize(
    ("loss", "columns", "message"),
    [
        (
            MultipleNegativesRankingLoss(MODEL),
            [A],
            r"MultipleNegativesRankingLoss: expected the input columns \(query, ",
        ),
        (CoSENTLoss(MODEL), [A, A, A], r"CoSENTLoss: expected the input columns \(input, input\), got 3 columns"),
        (AnglELoss(MODEL), [A], r"AnglELoss: expected .* got 1 columns"),
        (CosineSimilarityLoss(MODEL), [A], r"CosineSimilarityLoss: expected .* got 1 columns"),
        (
            TripletLoss(MODEL),
            [A, A],
            r"TripletLoss: .*\(anchor, positive, negative\), got 2 columns; keep exactly these",
        ),
        (MSELoss(MODEL), [], r"MSELoss: expected the input columns \(input,\)"),
        (MarginMSELoss(MODEL), [A, A], r"MarginMSELoss: expected the input columns \(query, positive, negative\)"),
    ],
)
def test_wrong_number_of_columns(loss, columns, message):
    with pytest.raises(InputError, match=message):
        loss.objective(columns, torch.ones(2))


@pytest.mark.parametrize(
    ("loss", "columns", "meaning"),
    [
        (CoSENTLoss(MODEL), [A, B], "similarity score"),
        (AnglELoss(MODEL), [A, B], "similarity score"),
        (CosineSimilarityLoss(MODEL), [A, B], "similarity score"),
        (MSELoss(MODEL), [A], "the teacher's embeddings"),
        (MatryoshkaLoss(MODEL, MSELoss(MODEL), [2]), [A], "the teacher's embeddings"),
        (MarginMSELoss(MODEL), [A, B, B], "the teacher's margins or scores"),
    ],
)
def test_missing_labels(loss, columns, meaning):
    with pytest.raises(
        InputError, match=rf'expected labels \({meaning}\), got None; add .* "label", "labels", "score"'
    ):
        loss.objective(columns, None)


@pytest.mark.parametrize(
    ("loss", "columns", "shape", "message"),
    [
        (
            CoSENTLoss(MODEL),
            2,
            (3,),
            r"CoSENTLoss: expected 2 labels, one similarity score per row, got 3 in shape \(3,\)",
        ),
        (AnglELoss(MODEL), 3, (2, 2), r"AnglELoss: expected 2 labels, .* got 4 in shape \(2, 2\)"),
        (CosineSimilarityLoss(MODEL), 2, (1,), r"CosineSimilarityLoss: expected 2 labels"),
        (MSELoss(MODEL), 2, (2, 3), r"labels of shape \(2, 2\) or \(2, 2, 2\), got \(2, 3\); .* needs projection_dim"),
        (MSELoss(MODEL), 1, (2,), r"MSELoss: expected labels of shape \(2, 2\) or \(2, 1, 2\), got \(2,\)"),
        (MatryoshkaLoss(MODEL, MSELoss(MODEL), [1]), 1, (2, 3), r"MSELoss: expected labels of shape \(2, 2\)"),
        (
            MarginMSELoss(MODEL),
            4,
            (2,),
            r"MarginMSELoss: .* \(2, 2\) \(margins .*\) or \(2, 3\) \(scores .* got \(2,\)",
        ),
    ],
)
def test_label_shapes(loss, columns, shape, message):
    with pytest.raises(ShapeError, match=message):
        loss.objective([A] * columns, torch.ones(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale: expected a positive number, got 0"),
        ({"directions": ()}, r'directions: expected "query_to_doc" and any of query_to_query, .*, got \(\)'),
        ({"directions": ("query_to_doc", "sideways")}, r"directions: expected .* got \('query_to_doc', 'sideways'\)"),
        ({"directions": ("doc_to_query",)}, r"directions: expected .* got \('doc_to_query',\)"),
        ({"partition_mode": "both"}, r"partition_mode: expected one of \('joint', 'per_direction'\), got 'both'"),
        (
            {"directions": ("query_to_doc", "doc_to_doc"), "partition_mode": "per_direction"},
            'partition_mode: "per_direction" needs the positive among .*; use "joint"',
        ),
        ({"hardness_mode": "easy"}, r"hardness_mode: expected None or one of .*, got 'easy'"),
        ({"hardness_strength": -1.0}, r"hardness_strength: expected at least 0, got -1.0"),
    ],
)
@pytest.mark.parametrize("cls", [MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss])
def test_multiple_negatives_options(cls, options, message):
    with pytest.raises(InputError, match=message):
        cls(MODEL, **options)


@pytest.mark.parametrize(
    ("dims", "options", "message"),
    [
        ([], {}, r"matryoshka_dims: expected at least one positive number, got \[\]"),
        ([2, 0], {}, r"matryoshka_dims: expected at least one positive number, got \[2, 0\]"),
        ([2, 3], {}, r"matryoshka_dims: expected at most the model's embedding dimension 2, got \[2, 3\]; leave out"),
        (
            [2, 1],
            {"matryoshka_weights": [1]},
            "matryoshka_weights: expected one for each of the 2 matryoshka_dims, got 1",
        ),
    ],
)
def test_matryoshka_options(dims, options, message):
    with pytest.raises(InputError, match=message):
        MatryoshkaLoss(MODEL, CoSENTLoss(MODEL), dims, **options)


def test_matryoshka_wants_an_objective():
    with pytest.raises(InputError, match=r"loss: expected a subclass of omnitune.losses.Loss, .* got torch.nn.*Linear"):
        MatryoshkaLoss(MODEL, nn.Linear(1, 1), [2])


def test_matryoshka_dimensions_larger_than_the_embeddings():
    unknown = Width(None)
    for inner, columns in (
        (CoSENTLoss(unknown), 2),
        (MultipleNegativesRankingLoss(unknown), 2),
        (TripletLoss(unknown), 3),
    ):
        with pytest.raises(ShapeError, match="dims?: expected .* the embedding dimension"):
            MatryoshkaLoss(unknown, inner, [4]).objective([A] * columns, torch.ones(2))


def test_matryoshka_of_a_loss_that_takes_whole_embeddings_only():
    with pytest.raises(InputError, match="got MSELoss with a layer that takes whole embeddings only"):
        MatryoshkaLoss(MODEL, MSELoss(MODEL, 3), [2])
    assert MatryoshkaLoss(MODEL, MSELoss(MODEL), [2])


def test_a_loss_without_an_objective():
    with pytest.raises(NotImplementedError):
        Loss(MODEL).objective([A], None)
    assert Loss(MODEL).get_config_dict() == {}


def test_labels_of_different_lengths_are_refused_by_losses_that_take_none(encoder, features):
    loss = CoSENTLoss(encoder)
    with pytest.raises(
        ShapeError, match=r"CoSENTLoss: expected labels that are numbers or lists of one length.*\[1, 2\]"
    ):
        loss(features(2), [torch.ones(1), torch.ones(2)])


def test_every_paper_is_in_the_bibliography():
    """A key that is not there would raise when the model card is written, after the training."""
    classes, cited = [Loss], set()
    while classes:
        kind = classes.pop()
        classes += kind.__subclasses__()
        cited |= {kind.paper} - {""}
    assert cited and cited | {"li2023general", "gunther2024jina", "gao2021scaling"} <= _papers().keys()
    assert all(entry.startswith("@") and entry.endswith("}") for entry in _papers().values())


@pytest.mark.parametrize(
    "loss", [CosineSimilarityLoss, MarginMSELoss, cross_encoder.MSELoss, cross_encoder.MarginMSELoss]
)
@pytest.mark.parametrize("number", [torch.bfloat16, torch.float64])
def test_scores_of_any_format_meet_labels_of_one(
    loss: type[Loss], number: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backward of torch 2.6's `mse_loss` wants both operands in one number format."""
    found: list[torch.dtype] = []
    compare = functional.mse_loss

    def strict(first: Tensor, second: Tensor, *args: object, **options: object) -> Tensor:
        found.extend([first.dtype, second.dtype])
        return compare(first, second)

    monkeypatch.setattr(functional, "mse_loss", strict)
    paired = issubclass(loss, PairLoss)
    count = {CosineSimilarityLoss: 2, cross_encoder.MSELoss: 1}.get(loss, 2 if paired else 3)
    columns = [Embeddings(torch.rand(2, 1 if paired else 2, dtype=number)) for _ in range(count)]
    for labels in (torch.tensor([0.5, 1.0]), torch.tensor([0.5, 1.0], dtype=torch.float64)):
        loss(MODEL).objective(columns, labels)
    assert len(found) == 4 and found[0] == found[1] and found[2] == found[3]
