"""Losses that want guides, copies, layers or a decoder, against sentence-transformers 6.2.0 on the same checkpoints.

Ours get raw columns, as in training; theirs get features. Both run in double precision: at 1e-5, float32 sums in
another order already differ.
"""

import random

import pytest
import torch
from PIL import Image

from omnitune import SentenceTransformer, losses
from omnitune.errors import InputError
from omnitune.types import Column, Embeddings

A = ["a red fox", "numbers and letters", "the third page of it", "water", "an old map of the town"]
P = ["fox red", "letters", "page three", "a lake of water and stone", "map"]
N = ["stone", "one two three", "the town", "page", "a red letter"]
COLUMNS = {"pairs": [A, P], "triplets": [A, P, N]}


@pytest.fixture(scope="module")
def both(st_bert):
    import sentence_transformers
    from sentence_transformers.sentence_transformer import losses as theirs

    ours, reference = SentenceTransformer(str(st_bert)), sentence_transformers.SentenceTransformer(str(st_bert))
    return (losses, ours.double()), (theirs, reference.double())


@pytest.fixture(scope="module")
def guides(st_dense):
    import sentence_transformers

    ours, reference = SentenceTransformer(str(st_dense)), sentence_transformers.SentenceTransformer(str(st_dense))
    return ours.double(), reference.double()


def columns_of(texts):
    return [Column(name=str(i), items=items) for i, items in enumerate(texts)]


def result(loss, model, texts, labels=None):
    """Value and the gradients of the model's parameters, in the order of the modules."""
    loss.zero_grad(set_to_none=True)
    model.zero_grad(set_to_none=True)
    ours = isinstance(loss, losses.Loss)
    inputs = columns_of(texts) if ours else [model.preprocess(items) for items in texts]
    value = loss(inputs, labels)
    value.backward()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return value.item(), torch.cat([g.flatten() for g in gradients])


def same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5, abs=1e-5)
    assert theirs[1].norm() > 0
    assert (ours[1] - theirs[1]).abs().max() < 1e-5 * max(1.0, theirs[1].abs().max().item())


def compare(both, name, texts, *arguments, labels=None, **options):
    results = []
    for module, model in both:
        torch.manual_seed(0)
        random.seed(0)
        made = [argument(module, model) if callable(argument) else argument for argument in arguments]
        results.append(result(getattr(module, name)(model, *made, **options), model, texts, labels))
    same(*results)


GUIDED = [
    {},
    {"margin": 0.05, "temperature": 0.1},
    {"margin_strategy": "relative", "margin": 0.1},
    {"contrast_anchors": False, "contrast_positives": False},
]


@pytest.mark.parity
@pytest.mark.parametrize("options", GUIDED, ids=str)
@pytest.mark.parametrize("texts", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("name", ("GISTEmbedLoss", "CachedGISTEmbedLoss"))
def test_guided(both, guides, name, texts, options):
    cached = {"mini_batch_size": 2} if name.startswith("Cached") else {}
    results = []
    for (module, model), guide in zip(both, guides, strict=True):
        results.append(result(getattr(module, name)(model, guide, **options, **cached), model, texts))
    same(*results)
    # The card names the guide; there it is the model itself.
    assert losses.GISTEmbedLoss(both[0][1], guides[0]).get_config_dict()["guide"] == "st_dense"


@pytest.mark.parity
def test_guided_and_truncated(both, guides):
    results = []
    for (module, model), guide in zip(both, guides, strict=True):
        inner = module.GISTEmbedLoss(model, guide, temperature=0.1)
        results.append(result(module.MatryoshkaLoss(model, inner, [32, 8]), model, [A, P]))
    same(*results)


@pytest.mark.parity
@pytest.mark.parametrize("labels", (None, torch.tensor([1, 0, 1, 0, 0])), ids=("equal texts", "labels"))
def test_contrastive_tension(both, labels):
    compare(both, "ContrastiveTensionLoss", [A, [A[0], *P[1:3], A[3], P[0]]], labels=labels)


@pytest.mark.parity
def test_contrastive_tension_in_batch(both):
    compare(both, "ContrastiveTensionLossInBatchNegatives", [A])


@pytest.mark.parity
@pytest.mark.parametrize(
    "weighting", ("uniform", "log", "linear", lambda layer: 0.5 + layer), ids=("uniform", "log", "linear", "function")
)
@pytest.mark.parametrize("options", ({}, {"kl_temperature": 0.0, "last_layer_weight": 0.5, "prior_layers_weight": 2.0}))
def test_adaptive_layer(both, weighting, options):
    def inner(module, model):
        return module.MultipleNegativesRankingLoss(model)

    results = []
    for module, model in both:
        loss = module.AdaptiveLayerLoss(model, inner(module, model), -1, layer_weighting=weighting, **options)
        results.append(result(loss, model, [A, P, N]))
    same(*results)


@pytest.mark.parity
def test_adaptive_layer_draws_one_layer(both):
    compare(both, "AdaptiveLayerLoss", [A, P], lambda module, model: module.CoSENTLoss(model), labels=torch.rand(5))


@pytest.mark.parity
def test_matryoshka_2d(both):
    compare(
        both, "Matryoshka2dLoss", [A, P], lambda module, model: module.MultipleNegativesRankingLoss(model), [32, 16, 8],
        n_layers_per_step=-1, n_dims_per_step=-1, matryoshka_weights=[1, 0.5, 2],
    )  # fmt: skip


@pytest.mark.parity
def test_configs(both, guides):
    def config(module, model, guide, name):
        inner = module.CoSENTLoss(model)
        more = {"AdaptiveLayerLoss": (inner,), "Matryoshka2dLoss": (inner, [32, 8])}.get(name, (guide,))
        loss = getattr(module, name)(model, *more)
        assert loss.citation if name.startswith(("Ada", "Mat", "GIST")) else True
        return {key: value for key, value in loss.get_config_dict().items() if key != "guide"}

    for name in ("AdaptiveLayerLoss", "Matryoshka2dLoss", "GISTEmbedLoss", "CachedGISTEmbedLoss"):
        ours, theirs = (config(*library, guide, name) for library, guide in zip(both, guides, strict=True))
        assert ours == theirs


@pytest.mark.parity
@pytest.mark.parametrize("tied", (True, False))
def test_denoising(st_bert, tiny_bert, tied):
    import sentence_transformers
    from sentence_transformers.sentence_transformer import losses as theirs

    results, configs = [], []
    for module, kind in ((losses, SentenceTransformer), (theirs, sentence_transformers.SentenceTransformer)):
        model = kind(str(st_bert))  # its weights get tied to a decoder
        torch.manual_seed(0)
        options = {} if tied else {"decoder_name_or_path": str(tiny_bert), "tie_encoder_decoder": False}
        loss = module.DenoisingAutoEncoderLoss(model, **options).eval()
        results.append(result(loss, model, [N, A]))
        configs.append(loss.get_config_dict())
    same(*results)
    assert configs[0] == configs[1]


def test_a_cached_loss_of_layers_keeps_and_replays_the_same_gradients(st_bert):
    model = SentenceTransformer(str(st_bert))
    results = []
    for memory in ("auto", 0):
        inner = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
        inner.strategy.activation_memory = memory
        results.append(result(losses.AdaptiveLayerLoss(model, inner, -1), model, [A, P]))
        assert (inner.strategy.last_replayed > 0) == (memory == 0)
    plain = losses.AdaptiveLayerLoss(model, losses.MultipleNegativesRankingLoss(model), -1)
    same(results[0], results[1])
    same(results[0], result(plain, model, [A, P]))


def test_layers_need_a_backbone(st_static, st_bert):
    static, model = SentenceTransformer(str(st_static)), SentenceTransformer(str(st_bert))
    with pytest.raises(InputError, match="first module is a text backbone with layers .* got StaticEmbedding"):
        losses.AdaptiveLayerLoss(static, losses.CoSENTLoss(static))
    with pytest.raises(InputError, match="layer_weighting: expected one of .* got 'cubic'"):
        losses.AdaptiveLayerLoss(model, losses.CoSENTLoss(model), layer_weighting="cubic")
    with pytest.raises(InputError, match="expected one with a transformers backbone"):
        losses.DenoisingAutoEncoderLoss(static)


def test_layers_of_a_loss_with_parts(st_bert):
    model = SentenceTransformer(str(st_bert))
    inner = losses.GlobalOrthogonalRegularizationLoss(model)
    parts = losses.AdaptiveLayerLoss(model, inner, -1)(columns_of([A]))
    assert parts.keys() == {"gor_mean", "gor_second_moment", "layers"}


class Counting:
    """Counts what an engine runs."""

    def __init__(self, engine):
        self.engine, self.rows, self.run_ = engine, 0, engine.run

    def __call__(self, features):
        output = self.run_(features)
        self.rows += len(output)
        return output


def test_a_guide_sees_images_and_remembers_them(st_clip, st_bert, monkeypatch):
    model, guide = SentenceTransformer(str(st_clip)), SentenceTransformer(str(st_clip))
    images = [Image.new("RGB", (24, 24), colour) for colour in ("red", "green", "blue", "white", "black")]
    count = Counting(guide.engine)
    monkeypatch.setattr(guide.engine, "run", count)
    values = []
    for remembers in (False, True, True):
        loss = losses.GISTEmbedLoss(model, guide, cache_guide=True) if remembers else losses.GISTEmbedLoss(model, guide)
        values.append([loss(columns_of([A, images])).item() for _ in range(2)])
    assert values[0] == pytest.approx(values[1])
    # Ten distinct items: encoded in every step without the cache, and once with it.
    assert count.rows == 2 * 10 + 10 + 10
    assert not any(p is q for p in loss.parameters() for q in guide.parameters())


def test_candidates_of_two_ranks_are_those_of_the_joined_batch(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Identity()
    joined = [Embeddings(torch.randn(8, 5)) for _ in range(6)]
    options = {"temperature": 0.2, "contrast_anchors": False}
    whole = losses.GISTEmbedLoss(model, model, **options).objective(joined, None)
    gathering = losses.GISTEmbedLoss(model, model, **options, gather_across_devices=True)
    parts = []
    for rank in range(2):
        own = slice(4 * rank, 4 * rank + 4)
        local = [e[own] for e in joined]
        known = {part.values.data_ptr(): e.values for part, e in zip(local, joined, strict=True)}
        monkeypatch.setattr(
            "omnitune.losses.guided.gather_columns",
            lambda columns, known=known, rank=rank: ([known[c.data_ptr()] for c in columns], 4 * rank),
        )
        parts.append(gathering.objective(local, None))
    assert torch.stack(parts).mean() == pytest.approx(whole.item(), rel=1e-5)


def test_a_guide_with_another_tokenizer_wants_raw_items(st_bert, st_clip):
    model, guide = SentenceTransformer(str(st_bert)), SentenceTransformer(str(st_clip))
    loss = losses.GISTEmbedLoss(model, guide)
    with pytest.raises(InputError, match="expected columns of raw items"):
        loss([model.preprocess(A), model.preprocess(P)])
    assert loss(columns_of([A, P])).isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"margin_strategy": "none"}, "margin_strategy: expected"), ({"temperature": 0.0}, "temperature: expected a")],
)
def test_options_of_guided_losses(st_bert, options, message):
    model = SentenceTransformer(str(st_bert))
    with pytest.raises(InputError, match=message):
        losses.GISTEmbedLoss(model, model, **options)


def test_images_do_not_say_whether_rows_are_equal(st_clip):
    model = SentenceTransformer(str(st_clip))
    image = Image.new("RGB", (24, 24))
    with pytest.raises(InputError, match="expected labels, or two columns of texts"):
        losses.ContrastiveTensionLoss(model)(columns_of([[image], [image]]))
    assert losses.ContrastiveTensionLoss(model)(columns_of([[image], [image]]), torch.ones(1)).isfinite()


def test_denoising_options(st_bert, tiny_qwen3, tiny_clip):
    model = SentenceTransformer(str(st_bert))
    with pytest.raises(InputError, match="expected a decoder with tie_encoder_decoder=False, got None"):
        losses.DenoisingAutoEncoderLoss(model, tie_encoder_decoder=False)
    with pytest.raises(InputError, match="expected a model with a causal form, got 'clip'"):
        losses.DenoisingAutoEncoderLoss(model, str(tiny_clip), tie_encoder_decoder=False)
    with pytest.raises(InputError, match=r"expected the input columns \(damaged text, text\), got 1 columns"):
        losses.DenoisingAutoEncoderLoss(model)(columns_of([A]))
