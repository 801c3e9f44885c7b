"""The late-interaction encoder by itself: what it refuses, and what Sentence Transformers has no counterpart for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.late_checkpoints import TEXTS
from omnitune import MultiVectorEncoder
from omnitune.errors import CheckpointError, InputError
from omnitune.model.windows import window_cutter
from omnitune.modules import (
    Dense,
    HierarchicalTokenPooling,
    LambdaTokenPooling,
    MultiVectorMask,
    Normalize,
    Transformer,
)


@pytest.fixture
def model(tiny_bert: Path) -> MultiVectorEncoder:
    torch.manual_seed(0)
    backbone = Transformer(str(tiny_bert))
    hidden = backbone.get_embedding_dimension()
    dense = Dense(hidden, 16, bias=False, activation_function=None, module_input_name="token_embeddings")
    unit = Normalize("token_embeddings")
    return MultiVectorEncoder(modules=[backbone, dense, MultiVectorMask(["."]), unit], device="cpu")


def test_vectors_are_those_of_every_token_and_of_unit_length(model: MultiVectorEncoder) -> None:
    found = model.encode_document(["a page.", "a page"])
    assert [row.shape for row in found] == [(5, 16), (5, 16)]  # without the full stop
    assert torch.equal(model.encode_document("a page"), found[1])
    torch.testing.assert_close(found[0].norm(dim=1), torch.ones(5))
    arrays = model.encode_query(TEXTS, convert_to_numpy=True)
    assert all(array.dtype == "float32" for array in arrays)
    assert model.encode([]) == []


def test_pooling_a_call_is_that_of_a_module(model: MultiVectorEncoder) -> None:
    by_call = model.encode_document(TEXTS, token_pooling=HierarchicalTokenPooling(2.0))
    halves = model.encode_document(TEXTS, token_pooling=LambdaTokenPooling(lambda rows: rows[::2]))
    plain = model.encode_document(TEXTS)
    assert all(torch.equal(half, whole[::2]) for half, whole in zip(halves, plain, strict=True))
    queries = model.encode_query(TEXTS, token_pooling=HierarchicalTokenPooling(2.0))
    assert [len(row) for row in queries] == [len(row) for row in model.encode_query(TEXTS)]
    model.append(HierarchicalTokenPooling(2.0))
    for one, other in zip(model.encode_document(TEXTS), by_call, strict=True):
        torch.testing.assert_close(one, other)


def test_pooling_trains_through_its_means() -> None:
    rows = torch.nn.functional.normalize(torch.randn(9, 4), dim=-1).requires_grad_()
    pooled = HierarchicalTokenPooling(2.0).pool([rows], task="document")
    pooled[0].sum().backward()
    assert rows.grad is not None
    assert bool(rows.grad.abs().sum(dim=1).gt(0).all())
    padded = HierarchicalTokenPooling(2.0).pool(rows.detach()[None].repeat(2, 1, 1), padding_side="left")
    assert padded.shape == (2, 5, 4)


def test_windows_read_a_text_to_its_end(model: MultiVectorEncoder) -> None:
    """The limit is that of a document's length, and of the prompt's place in it."""
    words = [f"{a} {b}" for a in ("page", "names", "table") for b in ("of", "and", "the", "numbers", "more")]
    long = ". ".join(words * 3)
    model.prompts["document"] = "names: "
    model[0].document_length = 20
    whole = model.encode_document(long, windows=True)
    assert len(model.encode_document(long)) <= 20 < len(whole)
    windows = window_cutter(model, prompt="names: ")(long)
    assert len(windows) > 3
    assert all(len(model.tokenizer("names: " + window)["input_ids"]) <= 20 for window in windows)
    torch.testing.assert_close(whole, torch.cat(model.encode_document(windows)))
    short = "a page"
    several = model.encode_document([short, long, {"text": long}], windows=True)
    assert [len(row) for row in several] == [len(model.encode_document(short)), len(whole), len(whole)]
    arrays = model.encode_document([long], windows=True, convert_to_numpy=True)
    torch.testing.assert_close(torch.from_numpy(arrays[0]), whole)
    with pytest.raises(InputError, match="windows: expected False for queries, got True"):
        model.encode_query("a", windows=True)
    with pytest.raises(InputError, match="windows: expected False for output_value=None"):
        model.encode_document("a", windows=True, output_value=None)


def test_recordings_have_a_vector_a_token_too(tiny_qwen2_5_omni: Path) -> None:
    modules = [Transformer(str(tiny_qwen2_5_omni)), MultiVectorMask(), Normalize("token_embeddings")]
    model = MultiVectorEncoder(modules=modules, device="cpu")
    waves = [np.sin(np.arange(length) / step).astype(np.float32) for length, step in ((8000, 9.0), (16000, 5.0))]
    items = [*({"array": wave, "sampling_rate": 16_000} for wave in waves), "a text"]
    found = model.encode_document(items)
    assert len(found[0]) < len(found[1])
    for item, row in zip(items, found, strict=True):
        torch.testing.assert_close(row.norm(dim=1), torch.ones(len(row)))
        torch.testing.assert_close(model.encode_document([item])[0], row, rtol=0, atol=1e-5)


def test_a_pool_of_processes_gives_the_same(model: MultiVectorEncoder) -> None:
    pool = model.start_multi_process_pool(["cpu"])
    try:
        found = model.encode_document(TEXTS, pool=pool)
    finally:
        model.stop_multi_process_pool(pool)
    for one, other in zip(found, model.encode_document(TEXTS), strict=True):
        torch.testing.assert_close(one, other)


def test_the_embedded_model_gives_its_text_route(minilm: Path) -> None:
    late = MultiVectorEncoder.from_dense("embedded", device="cpu")
    scores = late.similarity(late.encode_query(["how often"]), late.encode_document(["weekly", "an oven"]))
    assert scores[0, 0] > scores[0, 1]


def test_what_cannot_work_is_said(model: MultiVectorEncoder, tiny_bert: Path, tiny_clip: Path) -> None:
    with pytest.raises(InputError, match="convert_to_tensor: expected nothing"):
        model.encode(["a"], convert_to_tensor=True)
    with pytest.raises(InputError, match="output_value: expected token_embeddings or None, got 'sentence_embedding'"):
        model.encode(["a"], output_value="sentence_embedding")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="similarity_fn_name: expected one of .* got 'cosine'"):
        model.similarity_fn_name = "cosine"
    with pytest.raises(InputError, match="got 'xtr'; XTR is a way to score in training"):
        model.similarity_fn_name = "xtr"
    with pytest.raises(InputError, match="pool_factor: expected at least 1, got 0.5"):
        HierarchicalTokenPooling(0.5)
    with pytest.raises(InputError, match="num_protected_tokens: expected at least 0, got -1"):
        HierarchicalTokenPooling(num_protected_tokens=-1)
    with pytest.raises(NotImplementedError, match="expected a module that can be saved"):
        LambdaTokenPooling(lambda rows: rows).save("nowhere")
    with pytest.raises(InputError, match="expected an encoder that makes token vectors, got Transformer"):
        MultiVectorEncoder.from_dense(str(tiny_clip))
    with pytest.raises(InputError, match=r"expected resolve_with_tokenizer\(tokenizer\) before the first forward"):
        MultiVectorMask(["."])({"input_ids": torch.ones(1, 1), "attention_mask": torch.ones(1, 1)})
    with pytest.raises(CheckpointError, match="expected a Hugging Face model"):
        MultiVectorEncoder(str(tiny_bert.parent))


EXPANSIONS = [
    ({"length": 8}, "strategy: expected one of .* got None"),
    ({"strategy": "min"}, "length: expected a positive number of tokens .*, got None"),
    ({"strategy": "fixed", "length": 8, "words": 1}, r"expected keys among .* got \['words'\]"),
    ({"strategy": "fixed", "length": 8, "token": "nowhere"}, "expected a token of the vocabulary, got 'nowhere'"),
    ({"strategy": "fixed", "length": 8, "attend": 1}, "attend: expected True or False, got 1"),
    ({"strategy": "fixed", "length": 80}, "query_length: expected at least the 80 tokens of query_expansion, got 20"),
]


@pytest.mark.parametrize(("expansion", "message"), EXPANSIONS)
def test_settings_of_query_expansion_are_checked(tiny_bert: Path, expansion: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Transformer(str(tiny_bert), query_expansion=expansion, query_length=20)


def test_conversations_are_not_expanded(tiny_qwen3_vl: Path) -> None:
    with pytest.raises(InputError, match="expected None for a backbone that takes conversations"):
        Transformer(str(tiny_qwen3_vl), query_expansion={"strategy": "fixed", "length": 8})


def test_a_full_query_is_said_once(tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbone = Transformer(str(tiny_bert), query_expansion={"strategy": "fixed", "length": 6})
    for _ in range(2):
        features = backbone.preprocess([TEXTS[1], "a"], task="query", modality="text")
        assert features["input_ids"].shape == (2, 6)
    assert sum("a query fills all of its 6 tokens" in record.message for record in caplog.records) == 1
    assert "query_expansion_positions" not in backbone.preprocess(["a"], task="document", modality="text")


def test_unpadded_batches_and_expansion_agree(tiny_bert: Path) -> None:
    expansion = {"strategy": "fixed", "length": 9}
    encoders = []
    for unpad in (False, True):
        backbone = Transformer(str(tiny_bert), query_expansion=expansion, unpad_inputs=unpad)
        encoders.append(MultiVectorEncoder(modules=[backbone, MultiVectorMask(), Normalize("token_embeddings")]))
    for verb in ("encode_query", "encode_document"):
        plain, unpadded = (getattr(encoder, verb)(TEXTS[:5]) for encoder in encoders)
        for one, other in zip(unpadded, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
