"""The sparse encoder's verbs: shapes, layouts, sparsity, words, and what it refuses."""

from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from fixtures import checkpoints
from omnitune import SparseEncoder
from omnitune.errors import CheckpointError, InputError, ShapeError
from omnitune.losses.sparse import SparseMultipleNegativesRankingLoss, SpladeLoss
from omnitune.modules import SparseAutoEncoder, SparseStaticEmbedding
from omnitune.types import Column

TEXTS = ["the pump pressure", "a seal", "the soil in the garden must be wet before the harvest", "a seal"]


@pytest.fixture(scope="module")
def splade(tiny_masked_bert: Path) -> SparseEncoder:
    return SparseEncoder(str(tiny_masked_bert), device="cpu")


def test_a_masked_language_model_becomes_splade(splade: SparseEncoder) -> None:
    vocabulary = len(splade.tokenizer)
    assert splade.get_embedding_dimension() == vocabulary
    assert splade.similarity_fn_name == "dot"
    found = splade.encode(TEXTS)
    assert found.is_sparse
    assert found.is_coalesced()
    assert found.shape == (4, vocabulary)
    dense = splade.encode(TEXTS, convert_to_sparse_tensor=False)
    torch.testing.assert_close(found.to_dense(), dense)
    assert torch.equal(dense[1], dense[3])
    rows = splade.encode(TEXTS, convert_to_tensor=False)
    torch.testing.assert_close(torch.stack(rows).to_dense(), dense)
    assert splade.encode("a seal").shape == (vocabulary,)
    torch.testing.assert_close(splade.encode("a seal").to_dense(), dense[1])
    assert splade.encode([]).is_sparse
    assert splade.encode([], convert_to_tensor=False) == []


def test_the_vector_is_the_largest_weight_of_the_tokens(splade: SparseEncoder) -> None:
    features = splade.preprocess(["the pump pressure"])
    with torch.no_grad():
        logits = splade.transformers_model(**{k: features[k] for k in ("input_ids", "attention_mask")}).logits
    wanted = logits[0].relu().log1p().amax(dim=0)
    torch.testing.assert_close(splade.encode("the pump pressure").to_dense(), wanted)


def test_max_active_dims_keeps_the_largest(splade: SparseEncoder, tmp_path: Path, tiny_masked_bert: Path) -> None:
    whole, cut = splade.encode(TEXTS).to_dense(), splade.encode(TEXTS, max_active_dims=5).to_dense()
    assert (cut > 0).sum(dim=1).tolist() == [5, 5, 5, 5]
    torch.testing.assert_close(cut, torch.where(whole >= whole.topk(5).values[:, -1:], whole, 0))
    model = SparseEncoder(str(tiny_masked_bert), max_active_dims=3, similarity_fn_name="cosine", device="cpu")
    model.save_pretrained(str(tmp_path))
    again = SparseEncoder(str(tmp_path), device="cpu")
    assert (again.max_active_dims, again.similarity_fn_name) == (3, "cosine")
    assert again.sparsity(again.encode(TEXTS))["active_dims"] == 3.0
    torch.testing.assert_close(again.encode(TEXTS).to_dense(), model.encode(TEXTS).to_dense())


def test_similarities_are_those_of_dense_vectors(splade: SparseEncoder) -> None:
    found = splade.encode(TEXTS)
    dense = found.to_dense()
    torch.testing.assert_close(splade.similarity(found, found[1]), dense @ dense[1:2].T)
    torch.testing.assert_close(splade.similarity_pairwise(found, dense), (dense * dense).sum(dim=1))


def test_words_shares_and_sparsity_of_a_vector(splade: SparseEncoder) -> None:
    vector = torch.zeros(len(splade.tokenizer))
    vector[[7, 9, 11]] = torch.tensor([1.0, 3.0, 2.0])
    names = splade.tokenizer.convert_ids_to_tokens([9, 11, 7])
    assert splade.decode(vector) == list(zip(names, [3.0, 2.0, 1.0], strict=True))
    assert splade.decode(vector.to_sparse()[None], top_k=1) == [[(names[0], 3.0)]]
    other = torch.zeros(2, len(vector))
    other[0, [9, 10]] = 2.0
    shared = splade.intersection(vector, other.to_sparse())
    assert shared.shape == other.shape
    assert shared.to_dense().nonzero().tolist() == [[0, 9]]
    assert float(shared.to_dense()[0, 9]) == 6.0
    assert splade.intersection(vector, other[1]).shape == vector.shape
    assert splade.sparsity(other) == {"active_dims": 1.0, "sparsity_ratio": 1 - 1 / len(vector)}
    assert splade.sparsity(torch.zeros(0, 4)) == {"active_dims": 0.0, "sparsity_ratio": 1.0}


def test_what_cannot_be_is_refused(splade: SparseEncoder, tiny_masked_bert: Path) -> None:
    with pytest.raises(InputError, match="max_active_dims: expected a"):
        SparseEncoder(str(tiny_masked_bert), max_active_dims=0)
    with pytest.raises(InputError, match="similarity_fn_name: expected one of .*use MultiVectorEncoder"):
        splade.similarity_fn_name = "maxsim"
    with pytest.raises(InputError, match="embeddings: expected a tensor, got list"):
        splade.sparsity([1.0])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="embeddings: expected"):
        splade.decode(torch.zeros(1, 1, 1))
    with pytest.raises(ShapeError, match=r"embeddings_1: expected one vector"):
        splade.intersection(torch.zeros(1, 3), torch.zeros(3))
    with pytest.raises(ShapeError, match="embeddings_2: expected the dimension 3"):
        splade.intersection(torch.zeros(3), torch.zeros(4))
    with pytest.raises(InputError, match="top_k"):
        splade.decode(torch.zeros(3), top_k=0)


def test_a_page_becomes_words(tiny_smolvlm: Path, tmp_path: Path) -> None:
    folder = checkpoints.masked_modernvbert(tmp_path / "model", tiny_smolvlm)
    model = SparseEncoder(str(folder), device="cpu")
    page = Image.effect_noise((40, 60), 80).convert("RGB")
    assert model[0].defers_head
    found = model.encode([page, "the pump pressure"]).to_dense()
    assert found.shape == (2, len(model.tokenizer))
    assert bool((found > 0).any(dim=1).all())
    model[0].defers_head = False
    torch.testing.assert_close(model.encode([page, "the pump pressure"]).to_dense(), found, rtol=1e-4, atol=1e-4)
    model[0].defers_head = True
    model.train()
    loss = SpladeLoss(model, SparseMultipleNegativesRankingLoss(model), 0.1, 0.1)
    other = Image.effect_noise((40, 60), 20).convert("RGB")
    value = loss([Column(name="query", items=["a pump", "a seal"]), Column(name="page", items=[page, other])])
    torch.stack(list(value.values())).sum().backward()  # type: ignore[no-untyped-call]
    towers = [p.grad for name, p in model.named_parameters() if "vision" in name and p.grad is not None]
    assert any(float(gradient.abs().sum()) > 0 for gradient in towers)


@pytest.mark.parametrize("kind", ["DistilBert", "Roberta", "ModernBert", "MPNet", "Albert"])
def test_architectures_leave_their_last_product_out_or_keep_it(
    kind: str, tmp_path: Path, tiny_masked_bert: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_masked_bert)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 80}
    if kind == "DistilBert":
        sizes |= {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    config = getattr(transformers, f"{kind}Config")(**sizes, **tokens)
    torch.manual_seed(0)
    checkpoints.finish(getattr(transformers, f"{kind}ForMaskedLM")(config), tokenizer, tmp_path)
    model = SparseEncoder(str(tmp_path), device="cpu")
    assert model[0].defers_head
    found = model.encode(TEXTS).to_dense()
    model[0].defers_head = False
    torch.testing.assert_close(model.encode(TEXTS).to_dense(), found, rtol=1e-4, atol=1e-4)


def test_a_head_that_does_more_keeps_its_logits(
    tiny_masked_bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = transformers.BertForMaskedLM.forward

    def capped(self: object, *args: object, **kwargs: object) -> object:
        made = whole(self, *args, **kwargs)
        made["logits"] = 0.2 * torch.tanh(made["logits"] / 0.2)
        return made

    monkeypatch.setattr(transformers.BertForMaskedLM, "forward", capped)
    model = SparseEncoder(str(tiny_masked_bert), device="cpu")
    assert not model[0].defers_head
    assert "ends in more than a product with the vocabulary" in caplog.text
    assert float(model.encode("the pump").to_dense().max()) < 0.2


def test_the_backbone_alone_gives_logits(splade: SparseEncoder) -> None:
    features = splade.preprocess(["the pump"])
    assert splade[0](dict(features))["token_embeddings"].shape[-1] == len(splade.tokenizer)
    assert "token_embeddings" not in splade(dict(features))


def test_packed_batches_give_the_same(tiny_masked_bert: Path, splade: SparseEncoder) -> None:
    packed = SparseEncoder(str(tiny_masked_bert), device="cpu", model_kwargs={"attn_implementation": "omnitune_varlen"})
    assert packed[0].packer.packs()
    torch.testing.assert_close(packed.encode(TEXTS).to_dense(), splade.encode(TEXTS).to_dense(), rtol=1e-4, atol=1e-5)


def test_words_of_a_text_count_once(tiny_masked_bert: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_masked_bert)
    file = tmp_path / "idf.json"
    file.write_text('{"pump": 2.5, "the": 0.5}')
    module = SparseStaticEmbedding.from_json(str(file), tokenizer)
    pump, pad = tokenizer.convert_tokens_to_ids(["pump", "[PAD]"])
    weight = module.weight.detach()
    assert float(weight[pump]) == 2.5
    assert float(weight.sum()) == 3.0
    model = SparseEncoder(modules=[SparseStaticEmbedding(tokenizer)], device="cpu")
    found = model.encode(["the pump the pump", "the [PAD] pump", "soil"]).to_dense()
    assert found[0].max() == 1
    assert float(found[1, pad]) == 1
    assert float(found[2, pad]) == 0
    model.save_pretrained(str(tmp_path / "model"))
    again = SparseEncoder(str(tmp_path / "model"), device="cpu")
    torch.testing.assert_close(again.encode("the pump").to_dense(), model.encode("the pump").to_dense())
    assert again.kinds == ["Inference-free"]
    with pytest.raises(ShapeError, match="weight: expected one number a word"):
        SparseStaticEmbedding(tokenizer, torch.ones(2, 2))
    with pytest.raises(CheckpointError, match="expected a JSON object of weights by word"):
        SparseStaticEmbedding.from_json(str(tiny_masked_bert / "config.json"), tokenizer)


def test_an_autoencoder_with_other_weights_is_refused(tmp_path: Path) -> None:
    coder = SparseAutoEncoder(4, hidden_dim=8, k=2)
    coder.save(str(tmp_path))
    again = SparseAutoEncoder.load(str(tmp_path))
    assert torch.equal(again.encoder.weight, coder.encoder.weight)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "more": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected the weights of a SparseAutoEncoder, got others in .*more"):
        SparseAutoEncoder.load(str(tmp_path))


def test_the_card_says_what_kind_it_is(splade: SparseEncoder, tmp_path: Path) -> None:
    splade.save_pretrained(str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    for line in (
        "- splade",
        "- sparse-encoder",
        "pipeline_tag: feature-extraction",
        "SPLADE Sparse Encoder",
        "Dot Product",
    ):
        assert line in card
