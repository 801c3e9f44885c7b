"""Packed rows: what a padded batch gives, for every architecture that packs; why the others stay padded."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from fixtures import checkpoints
from omnitune import SentenceTransformer, losses
from omnitune.modules import Pooling, Transformer, packing, varlen
from omnitune.modules.outputs import HOST_MASK
from omnitune.modules.packing import Packing
from omnitune.modules.varlen import VARLEN, Lengths, UnpackableError, varlen_attention
from omnitune.types import Column

TEXTS = [
    "the quick fox",
    "a page of a manual about R data frames, and lists of figures. " * 3,
    "",
    "tables",
    "of lists",
]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CAUSAL = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
SIDES = ("right", "left")

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "xlm_roberta": ("XLMRoberta", {**SHAPE, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "modernbert": (
        "ModernBert",
        {**SHAPE, "num_hidden_layers": 3, "local_attention": 8, "global_attn_every_n_layers": 2, "bos_token_id": None,
         "eos_token_id": None, "cls_token_id": None, "sep_token_id": None},
    ),
    "mistral": ("Mistral", {**CAUSAL, "sliding_window": 6}),
    "gemma2": ("Gemma2", CAUSAL),
    "gpt_oss": ("GptOss", {**CAUSAL, "num_local_experts": 2, "num_experts_per_tok": 1}),
}  # fmt: skip
"""Architectures with a WordPiece tokenizer: class and configuration."""


@pytest.fixture(scope="session")
def wordpiece_model(built: Callable[..., Path]) -> Callable[[str], Path]:
    def build(folder: Path, name: str) -> Path:
        tokenizer = transformers.BertTokenizerFast(tokenizer_object=checkpoints.wordpiece(), model_max_length=64)
        kind, options = ARCHITECTURES[name]
        options = {"max_position_embeddings": 70, "pad_token_id": 0, **options, "vocab_size": len(tokenizer)}
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**options))
        return checkpoints.finish(model, tokenizer, folder)

    return lambda name: built(name, build, name)


@pytest.fixture
def path_of(request: pytest.FixtureRequest, wordpiece_model: Callable[[str], Path]) -> Callable[[str], str]:
    return lambda name: str(wordpiece_model(name) if name in ARCHITECTURES else request.getfixturevalue(name))


def both(path: str, side: str = "right", **options: Any) -> tuple[Transformer, Transformer]:
    """Padded and packed."""
    options = {"processor_kwargs": {"padding_side": side}, **options}
    packed = Transformer(path, model_kwargs={"attn_implementation": VARLEN}, **options)
    return Transformer(path, **options).eval(), packed.eval()


def tokens(module: Transformer, items: list[Any], **kwargs: Any) -> Tensor:
    features = module.preprocess(items)
    with torch.no_grad():
        made = module(dict(features), **kwargs)
    assert made["token_embeddings"].shape[:2] == features["attention_mask"].shape
    return made["token_embeddings"][features["attention_mask"].bool()]


def watched(module: Transformer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the queries of every attention within items."""
    shapes: list[tuple[int, ...]] = []

    def watching(layer: nn.Module, query: Tensor, *args: Any, lengths: Lengths | None = None, **kwargs: Any) -> Any:
        if lengths is not None:
            shapes.append(tuple(query.shape))
        return varlen_attention(layer, query, *args, lengths=lengths, **kwargs)

    assert module.packer.packs()
    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, VARLEN, watching)
    return shapes


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["tiny_bert", "xlm_roberta", "modernbert", "tiny_qwen3", "mistral", "tiny_qwen3_vl"])
def test_texts_packed_are_texts_padded(
    path_of: Callable[[str], str], name: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded, packed = both(path_of(name), side)
    expected = tokens(padded, TEXTS)
    if (name, side) == ("tiny_bert", "left"):
        # Its positions are learned and count padding: on the left, an item's vectors depend on the longest one.
        expected = torch.cat([tokens(padded, [text]) for text in TEXTS])
    shapes = watched(packed, monkeypatch)
    torch.testing.assert_close(tokens(packed, TEXTS), expected, rtol=0, atol=1e-5)
    assert {(shape[0], shape[2]) for shape in shapes} == {(1, len(expected))}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["tiny_qwen3_vl", "tiny_qwen2_5_vl", "tiny_qwen2_vl"])
def test_images_and_texts_packed_are_padded(
    path_of: Callable[[str], str],
    name: str,
    side: str,
    page_images: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b, c, *_ = page_images
    items = [TEXTS[0], a, {"text": TEXTS[1], "image": b}, TEXTS[3], {"image": [b, c], "text": "both"}]
    padded, packed = both(path_of(name), side)
    expected = tokens(padded, items)
    shapes = watched(packed, monkeypatch)
    torch.testing.assert_close(tokens(packed, items), expected, rtol=0, atol=1e-5)
    assert {(shape[0], shape[2]) for shape in shapes} == {(1, len(expected))}, "images have an attention of their own"


def test_a_clip_is_packed_with_its_places_in_time(tiny_qwen3_vl: Path) -> None:
    clip = torch.randint(0, 255, (4, 3, 32, 48), dtype=torch.uint8).numpy()
    padded, packed = both(str(tiny_qwen3_vl))
    items = [{"video": clip, "text": "a clip"}, TEXTS[1], {"video": clip[:2]}]
    modules = [SentenceTransformer(modules=[module, Pooling(32)], device="cpu") for module in (padded, packed)]
    a, b = (model.encode(items, convert_to_tensor=True) for model in modules)
    torch.testing.assert_close(b, a, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", Pooling.POOLING_MODES)
def test_every_pooling_reads_what_comes_out(tiny_qwen3: Path, mode: Any) -> None:
    padded, packed = both(str(tiny_qwen3), "left")
    models = [SentenceTransformer(modules=[m, Pooling(32, mode)], device="cpu") for m in (padded, packed)]
    a, b = (model.encode(TEXTS, prompt="find: ", convert_to_tensor=True) for model in models)
    torch.testing.assert_close(b, a, rtol=0, atol=1e-5)
    assert packed.packer.verdicts == {VARLEN: True}


def test_no_mask_is_made_for_a_packed_row(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be as wide and high as all items together."""
    _, packed = both(str(tiny_qwen3))
    assert packed.packer.packs()
    monkeypatch.setattr(transformers.masking_utils, "sdpa_mask", lambda **_: pytest.fail("made"))
    tokens(packed, TEXTS)


def test_token_vectors_of_encode_are_those_of_each_item(tiny_bert: Path) -> None:
    models = [SentenceTransformer(modules=[m, Pooling(32)], device="cpu") for m in both(str(tiny_bert))]
    a, b = (model.encode(TEXTS, output_value="token_embeddings") for model in models)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5)


def test_layers_are_padded_again_each(tiny_bert: Path) -> None:
    made = []
    for module in both(str(tiny_bert)):
        features = {**module.preprocess(TEXTS), "output_hidden_states": True}
        with torch.no_grad():
            mask = features["attention_mask"].bool()
            made.append([layer[mask] for layer in module(features)["all_layer_embeddings"]])
    assert len(made[0]) == 3
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_qwen3", "tiny_qwen3_vl"])
def test_answers_are_those_of_every_rows_last_token(request: pytest.FixtureRequest, name: str) -> None:
    task: Any = "text-generation" if name == "tiny_qwen3" else "any-to-any"
    made = []
    for asked in (None, True):
        torch.manual_seed(0)  # the output layer is drawn
        module = Transformer(str(request.getfixturevalue(name)), transformer_task=task, unpad_inputs=asked).eval()
        with torch.no_grad():
            made.append(module(module.preprocess([text or "none" for text in TEXTS]))["causal_logits"])
    assert made[0].shape[:2] == (5, 1) and module.packer.verdicts == {VARLEN: True}
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=1e-5)


# -- training


def one_step(module: Transformer, columns: list[Column], budget: int, seed: int = 0) -> tuple[float, Tensor]:
    """Loss and gradients of one step."""
    model = SentenceTransformer(modules=[module, Pooling(32, "mean")], device="cpu").train()
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)
    loss.strategy.activation_memory = budget
    model.zero_grad()
    torch.manual_seed(seed)
    value = loss(columns, None)
    value.backward()
    assert (loss.strategy.last_kept == 0) == (budget == 0)
    gradients = [torch.zeros(1) if p.grad is None else p.grad.flatten() for p in model.parameters()]
    return value.item(), torch.cat(gradients)


def text_columns() -> list[Column]:
    long = "lists of figures and tables of data "
    queries = [f"{'a page ' * (i % 5)}{i}" for i in range(10)]
    return [Column(name="q", items=queries), Column(name="d", items=[f"{i} {long * (i % 4)}" for i in range(10)])]


@pytest.mark.parametrize("budget", [0, 1 << 30])
@pytest.mark.parametrize("name", ["tiny_bert", "xlm_roberta", "modernbert", "tiny_qwen3"])
def test_a_step_packed_is_a_step_padded(path_of: Callable[[str], str], name: str, budget: int) -> None:
    padded, packed = both(path_of(name))
    expected, result = (one_step(module, text_columns(), budget) for module in (padded, packed))
    assert packed.packer.verdicts == {VARLEN: True}
    assert result[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(result[1], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_a_step_on_images_packed_is_a_step_padded(
    tiny_qwen3_vl: Path, budget: int, page_images: list[Image.Image]
) -> None:
    padded, packed = both(str(tiny_qwen3_vl))
    pages = [{"text": "a page " * (i % 3), "image": page} if i % 2 else page for i, page in enumerate(page_images[:8])]
    columns = [Column(name="q", items=[f"query {'x ' * i}" for i in range(8)]), Column(name="d", items=pages)]
    expected, result = (one_step(module, columns, budget) for module in (padded, packed))
    assert result[0] == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(result[1], expected[1], rtol=1e-4, atol=1e-5)
    assert any(p.grad is not None for p in packed.model.visual.parameters())
    assert packing.packs_through([packed], "image") and packing.packs_through([packed], "message")
    assert not packing.packs_through([padded], "text") and not packing.packs_through([nn.Linear(1, 1)], "text")


def test_dropout_is_replayed_in_packed_rows(tiny_bert_dropout: Path) -> None:
    _, module = both(str(tiny_bert_dropout))
    kept, replayed, other = (
        one_step(module, text_columns(), budget, seed) for budget, seed in ((1 << 30, 3), (0, 3), (0, 4))
    )
    assert replayed[0] == pytest.approx(kept[0], rel=1e-6) and other[0] != pytest.approx(kept[0], rel=1e-3)
    torch.testing.assert_close(replayed[1], kept[1], rtol=1e-4, atol=1e-6)


def test_checkpointed_layers_run_within_items_again(tiny_qwen3: Path) -> None:
    _, module = both(str(tiny_qwen3))
    expected = one_step(module, text_columns(), 1 << 30)
    SentenceTransformer(
        modules=[module], device="cpu"
    ).activation_checkpointing_enable()  # transformers 5.20 has an older name
    result = one_step(module, text_columns(), 1 << 30)
    torch.testing.assert_close(result[1], expected[1], rtol=1e-4, atol=1e-6)


def test_outputs_of_a_frozen_tower_are_packed_too(tiny_qwen3_vl: Path, page_images: list[Image.Image]) -> None:
    padded, packed = (
        SentenceTransformer(modules=[m, Pooling(32)], device="cpu").requires_grad_(False)
        for m in both(str(tiny_qwen3_vl))
    )
    items = [{"text": "a page " * i, "image": page} for i, page in enumerate(page_images[:5])]
    expected = padded.encode(items, convert_to_tensor=True)
    packed.engine.towers.keep()
    for _ in range(2):
        torch.testing.assert_close(packed.encode(items, convert_to_tensor=True), expected, rtol=0, atol=1e-5)
    assert (packed.engine.towers.hits, packed.engine.towers.misses) == (5, 5)


# -- who packs, who does not


def test_nothing_is_packed_unless_asked(tiny_bert: Path) -> None:
    module = Transformer(str(tiny_bert))
    assert not module.packer.packs() and module.config._attn_implementation == "sdpa" and module.packer.verdicts == {}
    unasked = Transformer(str(tiny_bert), model_kwargs={"attn_implementation": VARLEN}, unpad_inputs=False)
    assert not unasked.packer.packs()


def test_the_switch_is_kept_with_the_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    Transformer(str(tiny_bert), unpad_inputs=True).save(str(tmp_path))
    module = Transformer.load(str(tmp_path))
    assert module.unpad_inputs and module.packer.packs()
    module.unpad_inputs = False
    assert not module.packer.packs()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tiny_mpnet", "MPNetModel stays padded: its attention cannot be told where items begin"),
        ("tiny_qwen3_5", "Qwen3_5Model stays padded: its layers of linear_attention would read on from one item"),
        ("gemma2", "Gemma2Model stays padded: its attention takes softcap"),
        ("gpt_oss", "GptOssModel stays padded: its attention takes s_aux"),
        ("tiny_clip", "CLIPModel stays padded: it gives sentence_embedding, which is not made of single tokens"),
    ],
)
def test_what_cannot_pack_stays_padded_and_says_why_once(
    path_of: Callable[[str], str], name: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = path_of(name)
    usual, module = Transformer(path).eval(), Transformer(path, unpad_inputs=True).eval()
    for _ in range(2):
        results = []
        for one in (usual, module):
            with torch.no_grad():
                results.append(one(one.preprocess(TEXTS))[one.module_output_name])
        assert torch.equal(*results)
    assert module.config.get_text_config()._attn_implementation == usual.config.get_text_config()._attn_implementation
    said = [message for message in caplog.messages if "unpad_inputs" in message]
    assert len(said) == 1 and said[0].startswith(f"unpad_inputs: {reason}")


def test_a_probe_that_differs_keeps_the_padding(
    tiny_bert: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture whose positions are elsewhere would be packed wrong."""
    numbers = lambda packer, features, row, *_: torch.arange(len(row.positions))[None]  # noqa: E731
    monkeypatch.setattr(packing.Packer, "_positions", numbers)
    module = Transformer(str(tiny_bert), unpad_inputs=True)
    assert not module.packer.packs() and module.config._attn_implementation == "sdpa"
    assert "packed, the outputs differ by" in caplog.text


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_qwen3_vl"])
def test_half_precision_and_autocast_pack_too(request: pytest.FixtureRequest, name: str) -> None:
    path = str(request.getfixturevalue(name))
    half = Transformer(path, unpad_inputs=True, model_kwargs={"dtype": torch.bfloat16})
    assert half.packer.packs()
    usual = Transformer(path, unpad_inputs=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert usual.packer.packs()


def test_images_of_other_architectures_stay_padded(
    tiny_smolvlm: Path, page_images: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    padded, packed = both(str(tiny_smolvlm))
    for _ in range(2):
        items = [page_images[0], TEXTS[1]]
        torch.testing.assert_close(tokens(packed, items), tokens(padded, items), rtol=0, atol=0)
    assert caplog.text.count("batches with media stay padded") == 1
    assert packed.packer.packs()
    kinds = ("text", "image", ("image", "text"), "message")
    assert [packing.packs_through([packed], kind) for kind in kinds] == [True, False, False, False]


def test_flash_attention_gets_the_lengths_of_the_items(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen by the user, it packs by itself; its kernel is stood in for, as it runs on CUDA alone."""
    seen = []

    def flash(layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **kwargs: Any) -> Any:
        assert mask is None
        ends = kwargs.get("cu_seq_lens_q")
        if ends is None:  # the probe, one text at a time
            ends = torch.tensor([0, query.shape[2]])
        else:
            assert ends is kwargs["cu_seq_lens_k"] and ends.dtype == torch.int32
            seen.append((ends.tolist(), kwargs["max_length_q"], kwargs["max_length_k"]))
        lengths = Lengths.of(ends.diff().tolist(), query.device)
        return varlen_attention(layer, query, key, value, None, scaling=kwargs["scaling"], lengths=lengths)

    module = Transformer(str(tiny_qwen3)).eval()
    expected = tokens(module, TEXTS)
    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "flash_attention_2", flash)
    module.config._attn_implementation_internal = "flash_attention_2"
    torch.testing.assert_close(tokens(module, TEXTS), expected, rtol=0, atol=1e-5)
    ends, *longest = seen[-1]
    assert ends[-1] == len(expected) and longest == [max(torch.tensor(ends).diff().tolist())] * 2


# -- the parts


def test_a_packing_of_a_padded_batch() -> None:
    mask = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 1]])
    features = {"attention_mask": mask}
    row = Packing.of(features, by_length=True)
    assert row is not None
    assert row.lengths.tokens == (3, 2, 1, 0) and row.lengths.cumulative.tolist() == [0, 3, 5, 6, 6]
    assert row.index.tolist() == [3, 4, 5, 10, 11, 2]
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 0]
    assert row.last[[0, 1, 3]].tolist() == [5, 2, 4]
    values = torch.arange(12.0).view(4, 3, 1)
    assert row.row(values).flatten().tolist() == [3, 4, 5, 10, 11, 2]
    assert torch.equal(row.rows(row.row(values)), values * mask[..., None])
    kept = Packing.of({**features, HOST_MASK: mask}, by_length=False)
    assert kept is not None and kept.lengths.tokens == (1, 3, 0, 2)
    assert Packing.of({"attention_mask": torch.ones(2, 3)}, by_length=True) is None
    assert Packing.of({"attention_mask": torch.zeros(2, 3)}, by_length=True) is None


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_within_items_is_that_of_each_item(causal: bool, window: int | None) -> None:
    sizes = (4, 4, 7, 0, 2, 7)
    lengths = Lengths.of(sizes, torch.device("cpu"))
    assert lengths.runs == [(2, 4), (1, 7), (1, 2), (1, 7)]
    query, key, value = torch.randn(1, 4, 24, 8), torch.randn(1, 2, 24, 8), torch.randn(1, 2, 24, 8)
    layer = SimpleNamespace(is_causal=causal)
    result, _ = varlen_attention(layer, query, key, value, None, scaling=0.3, sliding_window=window, lengths=lengths)  # type: ignore[arg-type]
    start, expected = 0, []
    for size in sizes:
        q, k, v = (t[0, :, start : start + size] for t in (query, key, value))
        scores = 0.3 * q @ k.repeat_interleave(2, dim=0).mT
        away = torch.arange(size)[:, None] - torch.arange(size)
        hidden = (away < 0 if causal else torch.zeros_like(away).bool()) | (away.abs() >= (window or 99))
        expected.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.repeat_interleave(2, dim=0))
        start += size
    torch.testing.assert_close(result[0], torch.cat(expected, dim=1).transpose(0, 1), rtol=0, atol=1e-6)


def test_what_attention_within_items_does_not_do_is_named() -> None:
    lengths, states = Lengths.of((2, 3), torch.device("cpu")), torch.randn(1, 2, 5, 8)
    with pytest.raises(UnpackableError, match="its attention takes softcap"):
        varlen_attention(nn.Identity(), states, states, states, None, lengths=lengths, softcap=30.0)


def test_a_kernel_that_takes_fewer_arguments_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ModuleType("torch.nn.attention.varlen")  # as it first came: without `enable_gqa`
    first.varlen_attn = lambda query, key, value, *lengths, scale=None, window_size=(-1, -1): query  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", first)
    assert varlen._kernel.__wrapped__() is None


@pytest.mark.filterwarnings("ignore")
def test_the_kernel_of_cuda_is_called_as_torch_declares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no such device here: fake tensors run the kernel's shape rules, which name each argument."""
    if varlen._kernel() is None:
        pytest.skip("this torch has no such kernel")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        query, key = (torch.empty(1, heads, 9, 64, dtype=torch.bfloat16, device="cuda") for heads in (4, 2))
        lengths = Lengths((4, 5), torch.empty(3, dtype=torch.int32, device="cuda"))
        assert varlen._has_kernel(query, key, 0.0) and not varlen._has_kernel(query, key, 0.1)
        assert not varlen._has_kernel(query.float(), key.float(), 0.0)
        result = varlen._by_kernel(query, key, key, lengths, 0.1, True, 3)
    assert result.shape == (1, 9, 4, 64) and result.device.type == "cuda"
