"""Signatures, values and gradients against sentence-transformers 6.2.0 on the same tiny BERT and the same features."""

import inspect
import random
import warnings
from itertools import product

import pytest
import torch
from torch import nn

from omnitune import losses
from omnitune.ops import similarity
from omnitune.types import Embeddings

pytestmark = pytest.mark.parity
ROWS, DIM = 6, 32

NAMES = [n for n in losses.__all__ if n.endswith("Loss") and n != "Loss"] + ["ContrastiveTensionLossInBatchNegatives"]
EXTENSIONS = {"cache_guide"}
"""Options that Sentence Transformers does not have; keyword-only."""


@pytest.fixture(scope="module")
def st():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers")
        from sentence_transformers.sentence_transformer import losses as theirs
    return theirs


@pytest.fixture(scope="module")
def st_util(st):
    from sentence_transformers import util

    return util


def build(module, name, model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(module, name)(model, **options)


def options_of(name, module, encoder):
    """What a constructor needs beside the model."""
    if name in ("MatryoshkaLoss", "Matryoshka2dLoss"):
        return {"loss": module.CoSENTLoss(encoder), "matryoshka_dims": (32, 8)}
    if name == "AdaptiveLayerLoss":
        return {"loss": module.CoSENTLoss(encoder)}
    if name == "SoftmaxLoss":
        return {"embedding_dimension": DIM, "num_labels": 3}
    return {"guide": encoder} if "GIST" in name else {}


def same(ours, theirs, tolerance=1e-5):
    """Values and gradients agree to `tolerance`, relative where they are larger than 1."""
    value, gradient = ours
    their_value, their_gradient = theirs
    assert value == pytest.approx(their_value, rel=tolerance, abs=tolerance)
    assert gradient.shape == their_gradient.shape
    assert their_gradient.norm() > 0
    assert (gradient - their_gradient).abs().max() < tolerance * max(1.0, their_gradient.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_constructor_signatures(st, name):
    ours = dict(inspect.signature(getattr(losses, name).__init__).parameters)
    assert all(ours.pop(extra).kind is inspect.Parameter.KEYWORD_ONLY for extra in EXTENSIONS & ours.keys())
    theirs = inspect.signature(getattr(st, name).__init__).parameters
    assert list(ours) == list(theirs)
    for key, parameter in ours.items():
        other = theirs[key]
        assert parameter.kind == other.kind
        if callable(parameter.default) and parameter.default is not inspect.Parameter.empty:
            assert getattr(parameter.default, "__name__", type(parameter.default).__name__).strip("<>") in (
                getattr(other.default, "__name__", type(other.default).__name__).strip("<>"),
                "TripletDistanceMetric",
                "SiameseDistanceMetric",
            )
        else:
            assert parameter.default == other.default


DIRECTIONS = [
    ("query_to_doc",),
    ("query_to_doc", "query_to_query"),
    ("query_to_doc", "doc_to_query"),
    ("query_to_doc", "doc_to_doc"),
    ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
]
HARDNESS = [(None, 0.0), ("in_batch_negatives", 9.0), ("hard_negatives", 5.0), ("all_negatives", 3.0)]
PARTITIONS = [(d, "joint") for d in DIRECTIONS] + [(DIRECTIONS[0], "per_direction"), (DIRECTIONS[2], "per_direction")]


@pytest.mark.parametrize(("partition", "hardness", "columns"), list(product(PARTITIONS, HARDNESS, (2, 3, 5))), ids=str)
def test_multiple_negatives_options(st, partition, hardness, columns):
    directions, mode = partition
    options = {
        "directions": directions, "partition_mode": mode, "hardness_mode": hardness[0], "hardness_strength": hardness[1]
    }  # fmt: skip
    ours = losses.MultipleNegativesRankingLoss(nn.Identity(), **options)
    theirs = st.MultipleNegativesRankingLoss(nn.Identity(), **options)
    torch.manual_seed(columns)
    columns_a = [torch.randn(ROWS, DIM, requires_grad=True) for _ in range(columns)]
    columns_b = [c.detach().clone().requires_grad_() for c in columns_a]
    a = ours.objective([Embeddings(c) for c in columns_a], None)
    b = theirs.compute_loss_from_embeddings(columns_b, None)
    a.backward()
    b.backward()
    same(
        (a.item(), torch.cat([c.grad for c in columns_a])),
        (b.item(), torch.cat([c.grad for c in columns_b])),
    )


EVERY = {"directions": DIRECTIONS[-1], "hardness_mode": "all_negatives", "hardness_strength": 2.0}


@pytest.mark.parametrize("columns", (2, 3, 4))
@pytest.mark.parametrize("options", ({}, EVERY, {"scale": 3.0}), ids=("default", "every", "scale"))
@pytest.mark.parametrize("name", ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"))
def test_multiple_negatives_on_a_model(st, encoder, features, gradients, name, options, columns):
    batch = features(columns)
    cached = {"mini_batch_size": 2} if name.startswith("Cached") else {}
    ours = gradients(build(losses, name, encoder, **options, **cached), batch, None)
    same(ours, gradients(build(st, name, encoder, **options, **cached), batch, None))


@pytest.mark.parametrize("function", ("dot_score", "euclidean_sim", "manhattan_sim"))
def test_multiple_negatives_with_other_similarities(st, st_util, encoder, features, gradients, function):
    batch = features(3)
    ours = losses.MultipleNegativesRankingLoss(encoder, 1.0, getattr(similarity, function))
    theirs = st.MultipleNegativesRankingLoss(encoder, 1.0, getattr(st_util, function))
    same(gradients(ours, batch, None), gradients(theirs, batch, None))


@pytest.mark.parametrize("prefix", ("", "Cached"))
def test_symmetric(st, encoder, features, gradients, prefix):
    name = f"{prefix}MultipleNegativesSymmetricRankingLoss"
    batch = features(2)
    same(
        gradients(build(losses, name, encoder), batch, None),
        gradients(build(st, name, encoder), batch, None),
    )


SCORES = torch.tensor([0.9, 0.1, 0.5, 0.5, 0.0, 0.7])


@pytest.mark.parametrize("name", ("CoSENTLoss", "AnglELoss", "CosineSimilarityLoss"))
@pytest.mark.parametrize(
    "labels", (SCORES, SCORES[:, None], (SCORES > 0.4).long(), SCORES > 0.4), ids=("flat", "column", "int", "bool")
)
def test_scored_pairs(st, encoder, features, gradients, name, labels):
    batch = features(2)
    same(
        gradients(build(losses, name, encoder), batch, labels),
        gradients(build(st, name, encoder), batch, labels),
    )


def test_cosine_similarity_with_other_functions(st, encoder, features, gradients):
    options = {"loss_fct": nn.L1Loss(), "cos_score_transformation": nn.Sigmoid()}
    batch = features(2)
    same(
        gradients(losses.CosineSimilarityLoss(encoder, **options), batch, SCORES),
        gradients(st.CosineSimilarityLoss(encoder, **options), batch, SCORES),
    )


@pytest.mark.parametrize("columns", (3, 5))
@pytest.mark.parametrize("labels", (None, SCORES), ids=("none", "scores"))
def test_angle_tuples(st, encoder, features, gradients, columns, labels):
    batch = features(columns)
    same(
        gradients(losses.AnglELoss(encoder), batch, labels),
        gradients(st.AnglELoss(encoder), batch, labels),
    )


@pytest.mark.parametrize("metric", ("COSINE", "EUCLIDEAN", "MANHATTAN"))
@pytest.mark.parametrize("margin", (0.2, 5))
def test_triplet(st, encoder, features, gradients, metric, margin):
    batch = features(3)
    ours = losses.TripletLoss(encoder, getattr(losses.TripletDistanceMetric, metric), margin)
    theirs = st.TripletLoss(encoder, getattr(st.TripletDistanceMetric, metric), margin)
    same(gradients(ours, batch, None), gradients(theirs, batch, None))


@pytest.mark.parametrize("columns", (1, 2, 3))
@pytest.mark.parametrize("projection", (None, 20), ids=("same", "projected"))
@pytest.mark.parametrize("each", (False, True), ids=("broadcast", "each"))
def test_mse(st, encoder, features, gradients, columns, projection, each):
    torch.manual_seed(3)
    width = projection or DIM
    labels = torch.randn(ROWS, columns, width) if each else torch.randn(ROWS, width)
    torch.manual_seed(4)
    ours = losses.MSELoss(encoder, projection)
    torch.manual_seed(4)
    theirs = st.MSELoss(encoder, projection)
    batch = features(columns)
    same(gradients(ours, batch, labels), gradients(theirs, batch, labels))


@pytest.mark.parametrize(("negatives", "shape"), [(1, (6,)), (1, (6, 1)), (1, (6, 2)), (3, (6, 3)), (3, (6, 4))])
def test_margin_mse(st, st_util, encoder, features, gradients, negatives, shape):
    torch.manual_seed(5)
    labels = torch.randn(shape)
    batch = features(2 + negatives)
    for name in ("pairwise_dot_score", "pairwise_cos_sim"):
        ours = losses.MarginMSELoss(encoder, getattr(similarity, name))
        theirs = st.MarginMSELoss(encoder, getattr(st_util, name))
        same(gradients(ours, batch, labels), gradients(theirs, batch, labels))


INNER = {
    "MultipleNegativesRankingLoss": (3, None, {}),
    "CachedMultipleNegativesRankingLoss": (3, None, {"mini_batch_size": 4}),
    "CoSENTLoss": (2, SCORES, {}),
    "CosineSimilarityLoss": (2, SCORES, {}),
    "TripletLoss": (3, None, {}),
    "MSELoss": (2, torch.linspace(-1, 1, ROWS * DIM).reshape(ROWS, DIM), {}),
    "MarginMSELoss": (3, SCORES, {}),
    "AnglELoss": (3, None, {}),
}


@pytest.mark.parametrize("weights", (None, (0.5, 2, 1)), ids=("equal", "weighted"))
@pytest.mark.parametrize("name", INNER)
def test_matryoshka(st, encoder, features, gradients, name, weights):
    columns, labels, options = INNER[name]
    batch = features(columns)
    results = []
    for module in (losses, st):
        inner = build(module, name, encoder, **options)
        results.append(gradients(module.MatryoshkaLoss(encoder, inner, (32, 8, 16), weights), batch, labels))
    same(*results)


@pytest.mark.parametrize("options", (EVERY, {"directions": DIRECTIONS[2], "partition_mode": "per_direction"}))
@pytest.mark.parametrize("function", ("cos_sim", "dot_score", "euclidean_sim"))
def test_matryoshka_of_multiple_negatives_options(st, st_util, encoder, features, gradients, options, function):
    batch = features(4)
    results = []
    for module, functions in ((losses, similarity), (st, st_util)):
        inner = module.MultipleNegativesRankingLoss(encoder, 5.0, getattr(functions, function), **options)
        results.append(gradients(module.MatryoshkaLoss(encoder, inner, (32, 16, 8)), batch, None))
    same(*results)


def test_matryoshka_draws_the_same_dimensions(st, encoder, features, gradients):
    batch = features(2)
    results = []
    for module in (losses, st):
        loss = module.MatryoshkaLoss(
            encoder, module.MultipleNegativesRankingLoss(encoder), (32, 24, 16, 8), n_dims_per_step=2
        )
        random.seed(11)
        results.append([gradients(loss, batch, None)[0] for _ in range(5)])
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert len({round(v, 4) for v in results[0]}) > 1


WHOLE = ("AdaptiveLayerLoss", "CachedGISTEmbedLoss", "DenoisingAutoEncoderLoss", "GISTEmbedLoss", "Matryoshka2dLoss")
"""Losses that want more of a model than this file's encoder has; see test_whole_models_parity."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WHOLE])
def test_config_and_citation(st, encoder, name):
    ours, theirs = (build(module, name, encoder, **options_of(name, module, encoder)) for module in (losses, st))
    assert ours.get_config_dict() == theirs.get_config_dict()
    # CosineSimilarityLoss has no paper in either library.
    assert bool(ours.citation) == hasattr(theirs, "citation") or name == "OnlineContrastiveLoss"


CLASSES = torch.tensor([0, 1, 0, 2, 1, 0])


@pytest.mark.parametrize("distance", ("cosine_distance", "euclidean_distance"))
@pytest.mark.parametrize("classes", (CLASSES, CLASSES[:, None], torch.zeros(ROWS).long(), torch.arange(ROWS)), ids=str)
@pytest.mark.parametrize("kind", ("All", "Hard", "SemiHard", "HardSoftMargin"))
def test_batch_triplets(st, encoder, features, gradients, kind, classes, distance):
    batch = features(1)
    results = []
    for module in (losses, st):
        metric = getattr(module.BatchHardTripletLossDistanceFunction, distance)
        margin = {} if kind == "HardSoftMargin" else {"margin": 0.3}
        loss = getattr(module, f"Batch{kind}TripletLoss")(encoder, metric, **margin)
        try:
            results.append(gradients(loss, batch, classes))
        except RuntimeError:  # without triplets there is no graph there
            results.append(None)
    ours, theirs = results
    if theirs is None or theirs[1].norm() == 0:
        assert ours is None or ours[0] == pytest.approx(0 if theirs is None else theirs[0])
    else:
        same(ours, theirs)


def test_distances_of_a_batch(st):
    torch.manual_seed(1)
    rows = torch.randn(5, 4)
    rows[3] = rows[1]
    mine, reference = losses.BatchHardTripletLossDistanceFunction, st.BatchHardTripletLossDistanceFunction
    for options in ({}, {"squared": True}):
        ours = mine.eucledian_distance(rows, **options)
        assert torch.allclose(ours, reference.euclidean_distance(rows, **options), atol=1e-5)
    assert torch.allclose(mine.cosine_distance(rows), reference.cosine_distance(rows), atol=1e-6)


ALIKE = torch.tensor([1, 0, 1, 0, 0, 1])


@pytest.mark.parametrize("metric", ("EUCLIDEAN", "MANHATTAN", "COSINE_DISTANCE"))
@pytest.mark.parametrize("labels", (ALIKE, ALIKE[:, None].float()), ids=("flat", "column"))
@pytest.mark.parametrize(
    ("name", "options"),
    [("ContrastiveLoss", {}), ("ContrastiveLoss", {"size_average": False}), ("OnlineContrastiveLoss", {"margin": 0.9})],
)
def test_contrastive(st, encoder, features, gradients, name, options, labels, metric):
    batch = features(2)
    results = []
    for module in (losses, st):
        loss = getattr(module, name)(encoder, getattr(module.SiameseDistanceMetric, metric), **options)
        results.append(gradients(loss, batch, labels))
    same(*results)


@pytest.mark.parametrize("name", ("ContrastiveLoss", "OnlineContrastiveLoss"))
@pytest.mark.filterwarnings("ignore:.*expects binary labels")
def test_contrastive_with_other_labels(st, encoder, features, gradients, name):
    batch, labels = features(2), torch.tensor([1, 0, 0.5, 0, 1, 0.2])
    same(*(gradients(getattr(module, name)(encoder), batch, labels) for module in (losses, st)))


@pytest.mark.parametrize("mini_batched", (True, False))
def test_mega_batch_margin(st, encoder, features, gradients, mini_batched):
    batch = features(2)
    options = {"use_mini_batched_version": mini_batched, "mini_batch_size": 4}
    same(*(gradients(m.MegaBatchMarginLoss(encoder, **options), batch, None) for m in (losses, st)))


@pytest.mark.parametrize("options", ({}, {"mean_weight": None}, {"second_moment_weight": 0.0}, {"aggregation": "sum"}))
@pytest.mark.parametrize("columns", (1, 2))
def test_global_orthogonal_regularization(st, encoder, features, options, columns):
    batch = features(columns)
    results = []
    for module in (losses, st):
        encoder.zero_grad()
        parts = module.GlobalOrthogonalRegularizationLoss(encoder, **options)([dict(c) for c in batch], None)
        sum(parts.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        results.append(({name: value.item() for name, value in parts.items()}, gradient))
    ours, theirs = results
    assert ours[0] == pytest.approx(theirs[0])
    assert torch.allclose(ours[1], theirs[1], atol=1e-5)


@pytest.mark.parametrize(
    "options", ({}, {"temperature": 2.0}, {"temperature": 2.0, "student_temperature": 0.5, "teacher_temperature": 3.0})
)
@pytest.mark.parametrize("columns", (3, 5))
def test_distill_kl(st, st_util, encoder, features, gradients, options, columns):
    torch.manual_seed(6)
    batch, labels = features(columns), torch.randn(ROWS, columns - 1)
    results, configs = [], []
    for module, functions in ((losses, similarity), (st, st_util)):
        loss = module.DistillKLDivLoss(encoder, functions.pairwise_cos_sim, **options)
        results.append(gradients(loss, batch, labels))
        configs.append(loss.get_config_dict())
    same(*results)
    assert configs[0] == configs[1]


@pytest.mark.parametrize("metric", ("mse", "l2", "cosine"))
@pytest.mark.parametrize("projection", (None, 20), ids=("same", "projected"))
@pytest.mark.parametrize("each", (False, True), ids=("broadcast", "each"))
def test_embed_distill(st, encoder, features, gradients, metric, projection, each):
    torch.manual_seed(3)
    width = projection or DIM
    labels = torch.randn(ROWS, 2, width) if each else torch.randn(ROWS, width)
    batch, results = features(2), []
    for module in (losses, st):
        torch.manual_seed(4)
        results.append(gradients(module.EmbedDistillLoss(encoder, metric, projection), batch, labels))
    same(*results)


def test_projections_travel_between_the_libraries(st, encoder, tmp_path):
    ours, theirs = losses.EmbedDistillLoss(encoder, projection_dim=20), st.EmbedDistillLoss(encoder)
    ours.save_projection(tmp_path / "a.safetensors")
    theirs.load_projection(tmp_path / "a.safetensors")
    assert torch.equal(theirs.projection.weight, ours.projection.weight)
    again = losses.EmbedDistillLoss(encoder)
    theirs.save_projection(tmp_path / "b.safetensors")
    again.load_projection(tmp_path / "b.safetensors")
    assert torch.equal(again.projection.bias, ours.projection.bias)


@pytest.mark.parametrize("probabilities", (False, True))
@pytest.mark.parametrize(
    "parts", ((True, True, False), (False, True, True), (True, False, False)), ids=("default", "both", "rep")
)
def test_softmax(st, encoder, features, gradients, parts, probabilities):
    torch.manual_seed(7)
    labels = torch.rand(ROWS, 3).softmax(dim=1) if probabilities else CLASSES
    batch, results = features(2), []
    for module in (losses, st):
        torch.manual_seed(8)
        results.append(gradients(module.SoftmaxLoss(encoder, DIM, 3, *parts), batch, labels))
    same(*results)
