"""Sparse encoders beside Sentence Transformers: encodings, scores, losses, gradients, training and saved models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from packaging.version import Version

import omnitune
from omnitune import SparseEncoder
from omnitune.losses import sparse as ours
from omnitune.modules import SparseAutoEncoder
from omnitune.types import Column

rival = pytest.importorskip("sentence_transformers")
from sentence_transformers.sparse_encoder import losses as theirs  # noqa: E402
from sentence_transformers.sparse_encoder import modules as their_modules  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    # ST multiplies sparse tensors, of which torch warns.
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:Sparse invariant checks"),
]

TEXTS = ["the pump pressure", "a seal", "the soil in the garden must be wet before the harvest", "flour and yeast"]
QUERIES = ["the pump", "soil and seed", "flour", "thread page"]
POSITIVES = ["the pump pressure is in the seal", "the seed must be in the soil", "knead dough", "a lock"]
NEGATIVES = ["a term of notice", "orbit", "the harvest", "butter and bread"]
LABELS = torch.tensor([0.9, 0.1, 0.5, 0.3])


def agree(theirs: Any, ours: SparseEncoder, texts: list[str] = TEXTS, *, decodes: bool = True) -> None:
    """Encodings, similarities and what the methods say of them are equal."""
    for verb in ("encode", "encode_query", "encode_document"):
        wanted, found = getattr(theirs, verb)(texts), getattr(ours, verb)(texts)
        torch.testing.assert_close(found.to_dense(), wanted.to_dense(), rtol=1e-5, atol=1e-5)
    queries, documents = theirs.encode_query(texts[:2]), theirs.encode_document(texts)
    torch.testing.assert_close(ours.similarity(queries, documents), theirs.similarity(queries, documents).to_dense())
    pairwise = theirs.similarity_pairwise(queries, queries)
    torch.testing.assert_close(ours.similarity_pairwise(queries, queries), pairwise.to_dense())
    assert ours.sparsity(documents) == pytest.approx(theirs.sparsity(documents))
    assert ours.similarity_fn_name == theirs.similarity_fn_name
    assert ours.max_active_dims == theirs.max_active_dims
    assert ours.max_seq_length == theirs.max_seq_length
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    shared = ours.intersection(queries[0], documents)
    torch.testing.assert_close(shared.to_dense(), theirs.intersection(queries[0], documents).to_dense())
    if decodes:
        for one, other in zip(ours.decode(documents, top_k=4), theirs.decode(documents, top_k=4), strict=True):
            assert [token for token, _ in one] == [token for token, _ in other]


def both_ways(folder: Path, tmp_path: Path, *, decodes: bool = True) -> None:
    """Both read a folder alike, and each what the other wrote of it."""
    theirs, ours = (library.SparseEncoder(str(folder), device="cpu") for library in (rival, omnitune))
    agree(theirs, ours, decodes=decodes)
    ours.save_pretrained(str(tmp_path / "ours"))
    agree(rival.SparseEncoder(str(tmp_path / "ours"), device="cpu"), ours, decodes=decodes)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    agree(theirs, SparseEncoder(str(tmp_path / "theirs"), device="cpu"), decodes=decodes)


def splade(folder: Path, source: Path, **options: Any) -> Path:
    from sentence_transformers.base.modules import Transformer

    modules = [Transformer(str(source), transformer_task="fill-mask"), their_modules.SpladePooling(**options)]
    rival.SparseEncoder(modules=modules, device="cpu", max_active_dims=20).save_pretrained(str(folder))
    return folder


def inference_free(folder: Path, source: Path) -> Path:
    from sentence_transformers.base.modules import Router, Transformer

    backbone = Transformer(str(source), transformer_task="fill-mask")
    weight = torch.rand(len(backbone.tokenizer.get_vocab()), generator=torch.Generator().manual_seed(3))
    router = Router.for_query_document(
        query_modules=[their_modules.SparseStaticEmbedding(backbone.tokenizer, weight)],
        document_modules=[backbone, their_modules.SpladePooling("max")],
    )
    rival.SparseEncoder(modules=[router], device="cpu").save_pretrained(str(folder))
    return folder


FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "bare": lambda folder, source: Path(shutil.copytree(source, folder)),
    "sum": lambda folder, source: splade(folder, source, pooling_strategy="sum"),
    "two logarithms": lambda folder, source: splade(folder, source, activation_function="log1p_relu", chunk_size=3),
    "inference-free": inference_free,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_head_over_a_vocabulary_reads_alike_and_comes_back(form: str, tmp_path: Path, tiny_masked_bert: Path) -> None:
    both_ways(FORMS[form](tmp_path / "model", tiny_masked_bert), tmp_path)


def csr(folder: Path, source: Path, **options: Any) -> Path:
    model = rival.SparseEncoder(str(source), device="cpu")
    torch.manual_seed(4)
    model[-1] = their_modules.SparseAutoEncoder(32, hidden_dim=96, **{"k": 8, "k_aux": 16, **options})
    with torch.no_grad():
        model[-1].latent_bias.normal_(std=0.1)
        model[-1].pre_bias.normal_(std=0.1)
    model.max_active_dims = None
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("normalize", [False, True])
def test_an_autoencoder_reads_alike_and_comes_back(
    tmp_path: Path, tiny_bert: Path, st_bert: Path, normalize: bool
) -> None:

    folder = csr(tmp_path / "model", st_bert, normalize=normalize)
    both_ways(folder, tmp_path, decodes=False)
    for place in (tiny_bert, st_bert):
        one, other = (library.SparseEncoder(str(place), device="cpu") for library in (omnitune, rival))
        assert one[-1].get_config_dict() == other[-1].get_config_dict()
        assert [type(part).__name__ for part in one] == [type(part).__name__ for part in other]
        assert one.similarity_fn_name == other.similarity_fn_name
        other[-1].load_state_dict({**one[-1].state_dict(), "decoder.linear.weight": one[-1].encoder.weight})
        if other[-1].k <= other[-1].hidden_dim:  # ST cannot keep more latents than there are
            agree(other, one, decodes=False)
        else:
            assert one.encode(TEXTS).shape == (4, one[-1].hidden_dim)


@pytest.fixture(scope="module")
def still(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without dropout, which either library would draw for itself."""
    folder = tmp_path_factory.mktemp("still")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps({**config, **quiet}))
    return folder


def test_trained_weights_give_the_same_words(trained: Path, tmp_path: Path) -> None:
    texts = [
        "What is aging?",
        "capital of France",
        "Old people live in Paris.",
        "The bearings are greased every month.",
    ]
    theirs, ours = (library.SparseEncoder(str(trained), device="cpu") for library in (rival, omnitune))
    agree(theirs, ours, texts)
    words = [token for token, _ in ours.decode(ours.encode_query("What is aging?"), top_k=5)]
    assert "aging" in words
    assert ours.sparsity(ours.encode(texts))["active_dims"] < 200
    ours.save_pretrained(str(tmp_path))
    agree(rival.SparseEncoder(str(tmp_path), device="cpu"), ours, texts)


INNER: dict[str, tuple[int, torch.Tensor | None, dict[str, Any]]] = {
    "SparseMultipleNegativesRankingLoss": (3, None, {"scale": 0.7}),
    "SparseMarginMSELoss": (3, LABELS, {}),
    "SparseDistillKLDivLoss": (3, torch.stack([LABELS, LABELS.flip(0)], dim=1), {}),
    "SparseTripletLoss": (3, None, {}),
    "SparseCosineSimilarityLoss": (2, LABELS, {}),
    "SparseCoSENTLoss": (2, LABELS, {}),
    "SparseAnglELoss": (2, LABELS, {}),
}
OUTER: dict[str, dict[str, Any]] = {
    "SpladeLoss": {"query_regularizer_weight": 0.5, "document_regularizer_threshold": 20},
    "CachedSpladeLoss": {"query_regularizer_weight": 0.5, "mini_batch_size": 3},
    "only documents": {"use_document_regularizer_only": True},
}


def compared(folder: Path, make: Callable[[Any, Any], Any], count: int, labels: torch.Tensor | None) -> None:
    """Loss parts and gradients of both, in float64 because sums of float32 differ in their order."""
    texts = [QUERIES, POSITIVES, NEGATIVES][:count]
    labels = None if labels is None else labels.double()
    found = []
    for module, library in ((theirs, rival), (ours, omnitune)):
        model = library.SparseEncoder(str(folder), device="cpu").double()
        model.train()
        loss = make(module, model)
        given: list[Any] = [Column(name=str(i), items=column) for i, column in enumerate(texts)]
        if library is rival:
            given = [model.preprocess(column) for column in texts]
        value = loss(given, labels)
        parts = value if isinstance(value, dict) else {"loss": value}
        torch.stack([part.double() for part in parts.values()]).sum().backward()
        named = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append(({name: float(part.detach()) for name, part in parts.items()}, named))
    (wanted, their_gradients), (made, gradients) = found
    assert set(made) == set(wanted)
    # ST's cached parts pass through float32.
    assert sum(made.values()) == pytest.approx(sum(wanted.values()), rel=1e-5)
    assert made == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    for name, gradient in their_gradients.items():
        if name.startswith("2.decoder"):
            continue
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("inner", INNER)
def test_loss_and_gradients_are_equal(inner: str, tiny_masked_bert: Path) -> None:
    count, labels, options = INNER[inner]
    if inner == "SparseCosineSimilarityLoss" and Version(torch.__version__).release[:2] == (2, 6):
        pytest.skip("ST's own mixes two number formats, whose backward torch 2.6 refuses")

    def make(module: Any, model: Any) -> Any:
        return module.SpladeLoss(model, getattr(module, inner)(model, **options), 0.3, query_regularizer_weight=0.5)

    compared(tiny_masked_bert, make, count, labels)


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("source", ["tiny_masked_bert", "still"])
def test_regularizers_and_cached_forms_are_equal(outer: str, source: str, request: pytest.FixtureRequest) -> None:
    name = outer if outer.endswith("Loss") else "SpladeLoss"

    def make(module: Any, model: Any) -> Any:
        inner = module.SparseMultipleNegativesRankingLoss(model)
        return getattr(module, name)(model, inner, 0.3, **OUTER[outer])

    compared(request.getfixturevalue(source), make, 3, None)


@pytest.mark.parametrize("normalize", [False, True])
def test_csr_losses_are_equal(tmp_path: Path, st_bert: Path, normalize: bool) -> None:
    folder = csr(tmp_path / "model", st_bert, normalize=normalize)
    compared(folder, lambda module, model: module.CSRLoss(model, beta=0.4, gamma=0.9), 3, None)


def test_a_teachers_vectors_are_learned_alike(tiny_masked_bert: Path) -> None:
    labels = torch.rand(4, SparseEncoder(str(tiny_masked_bert), device="cpu").get_embedding_dimension() or 0)
    compared(tiny_masked_bert, lambda module, model: module.SparseMSELoss(model), 1, labels)


@pytest.mark.parametrize("source", ["tiny_masked_bert", "still", "csr"])
def test_three_steps_of_training_have_equal_losses(
    source: str, tmp_path: Path, st_bert: Path, request: pytest.FixtureRequest
) -> None:
    folder = csr(tmp_path / "csr", st_bert) if source == "csr" else request.getfixturevalue(source)
    data = Dataset.from_dict({"query": QUERIES * 3, "positive": POSITIVES * 3, "negative": NEGATIVES * 3})
    logs = []
    for library, module in ((rival, theirs), (omnitune, ours)):
        model = library.SparseEncoder(str(folder), device="cpu")
        loss = module.SpladeLoss(model, module.SparseMultipleNegativesRankingLoss(model), 0.03, 0.05)
        args = library.SparseEncoderTrainingArguments(
            output_dir=str(tmp_path / library.__name__),
            max_steps=3,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            # Adam's first step is the gradient's sign: of trained weights many gradients are rounding alone.
            optim="sgd" if source == "still" else "adamw_torch",
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            seed=3,
            use_cpu=True,
        )
        chosen = module.CSRLoss(model) if source == "csr" else loss
        trainer = library.SparseEncoderTrainer(model=model, args=args, train_dataset=data, loss=chosen)
        trainer.train()
        kept = ("loss", "document_regularizer_weight", "query_regularizer_weight")
        logs.append([[row[key] for key in kept if key in row] for row in trainer.state.log_history if "loss" in row])
    assert len(logs[0]) == 3
    for mine, reference in zip(logs[1], logs[0], strict=True):
        assert mine == pytest.approx(reference, rel=1e-5)


def test_a_latent_is_revived_by_use_alone() -> None:
    """ST counts a step twice, and takes use among four times k for use."""
    found = []
    for kind in (their_modules.SparseAutoEncoder, SparseAutoEncoder):
        torch.manual_seed(0)
        coder = kind(8, hidden_dim=16, k=2, k_aux=4)
        coder({"sentence_embedding": torch.randn(3, 8)})
        found.append(coder.stats_last_nonzero)
    assert int(found[0].max()) == 2
    assert int(found[1].max()) == 1


@pytest.mark.parametrize("rows", [[[3.0, -4.0, 1.0, 0.0], [0.0, 0.5, 0.0, -0.25]], [2.0, 0.0, -1.0, 0.5]])
def test_small_functions_of_sparse_rows(rows: list[Any]) -> None:
    from sentence_transformers import util as theirs

    from omnitune import util as ours

    dense = torch.tensor(rows)
    for form in (dense, dense.numpy()):
        for most in (None, 2, 9):
            found, expected = (library.select_max_active_dims(form, most) for library in (ours, theirs))
            assert type(found) is type(expected) and torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
    with pytest.raises(ValueError, match="positive"):
        ours.select_max_active_dims(dense, 0)
    for form in (dense, dense.to_sparse()):
        found, expected = (library.compute_count_vector(form) for library in (ours, theirs))
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    if dense.ndim == 2:
        found, expected = (library.to_scipy_coo(dense.to_sparse()) for library in (ours, theirs))
        assert found.shape == expected.shape and (found != expected).nnz == 0
