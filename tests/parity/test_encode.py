"""`encode` and its kin give what Sentence Transformers gives, for every architecture, kind of input and option."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from fixtures.agree import agree
from fixtures.checkpoints import BUILDERS
from fixtures.words import PROMPT, sentences

pytestmark = pytest.mark.parity

SAVED = ("st_bert", "st_bert_legacy", "st_clip", "st_dense", "st_qwen3_vl", "st_router", "st_static")
SEEING = (
    "tiny_clip",
    "tiny_qwen2_5_vl",
    "tiny_qwen2_vl",
    "tiny_qwen3_5",
    "tiny_qwen3_vl",
    "tiny_siglip",
    "tiny_smolvlm",
)
TALKING = ("tiny_qwen2_5_vl", "tiny_qwen2_vl", "tiny_qwen3_5", "tiny_qwen3_vl", "tiny_smolvlm")
VERBS = ("encode", "encode_query", "encode_document")

Both = Callable[..., Any]
Request = pytest.FixtureRequest


def opened(request: Request, both: Both, name: str, **options: Any) -> Any:
    return both(request.getfixturevalue(name), **options)


def same(pair: Any, inputs: Any, verb: str = "encode", **options: Any) -> Any:
    ours, theirs = (getattr(model, verb)(inputs, **options) for model in pair)
    agree(ours, theirs)
    return ours


@pytest.mark.parametrize("name", [*BUILDERS, *SAVED])
def test_models_look_the_same(request: Request, both: Both, name: str) -> None:
    ours, theirs = opened(request, both, name)
    assert ours.modalities == theirs.modalities
    for modality in ("text", "image", "audio", "video", "message", ("image", "text"), ("audio", "text")):
        assert ours.supports(modality) == theirs.supports(modality), modality
    for fact in ("max_seq_length", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"):
        assert getattr(ours, fact) == getattr(theirs, fact), fact
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert [type(module).__name__ for module in ours] == [type(module).__name__ for module in theirs]
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", [*(name for name in BUILDERS if name != "tiny_paligemma"), *SAVED])
def test_texts(request: Request, both: Both, texts: list[str], name: str, verb: str) -> None:
    pair = opened(request, both, name)
    vectors = same(pair, texts, verb)
    assert np.ptp(vectors, axis=0).mean() > 0.05
    same(pair, texts[4], verb)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_mpnet", "tiny_qwen3", "tiny_qwen3_vl", "st_router"])
@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_batch_sizes_and_order(request: Request, both: Both, texts: list[str], name: str, batch_size: int) -> None:
    pair = opened(request, both, name)
    vectors = same(pair, texts, batch_size=batch_size)
    shuffled = same(pair, [*reversed(texts)], batch_size=batch_size)
    np.testing.assert_allclose(shuffled[::-1], vectors, atol=2e-5)


@pytest.mark.parametrize("batch_size", [32, 100])
def test_texts_whose_padding_no_mask_hides(both: Both, tiny_siglip: Path, tmp_path: Path, batch_size: int) -> None:
    """As released SigLIP checkpoints say it: a text's vector depends on the mini-batch that it is padded in."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_siglip, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_input_names": ["input_ids"]}))
    pair = both(folder)
    assert "attention_mask" not in pair.ours.preprocess(["a"])
    many = [text * (1 + i % 4) for i, text in enumerate(sentences(90))]
    many += many[:20]
    vectors = same(pair, many, batch_size=batch_size)
    assert np.abs(pair.ours.encode(many, batch_size=7) - vectors).max() > 1e-3, "the cut has no effect here"


@pytest.mark.parametrize("name", SEEING)
def test_images(
    request: Request, both: Both, page_images: list[Image.Image], page_files: list[Path], name: str
) -> None:
    pair = opened(request, both, name)
    vectors = same(pair, page_images, "encode_document", batch_size=5)
    assert np.ptp(vectors, axis=0).mean() > 0.03
    same(pair, [str(path) for path in page_files])
    same(pair, page_images[1])
    np.testing.assert_allclose(pair.ours.encode(page_files), vectors, atol=2e-5)
    np.testing.assert_allclose(pair.ours.encode([path.read_bytes() for path in page_files]), vectors, atol=2e-5)


@pytest.mark.parametrize("name", SEEING)
def test_image_arrays(request: Request, both: Both, page_images: list[Image.Image], name: str) -> None:
    same(opened(request, both, name), [np.array(image) for image in page_images])


@pytest.mark.parametrize("name", [*TALKING, "tiny_paligemma"])
def test_images_with_texts(
    request: Request, both: Both, page_images: list[Image.Image], page_files: list[Path], texts: list[str], name: str
) -> None:
    pair = opened(request, both, name)
    same(pair, [{"text": text, "image": image} for text, image in zip(texts, page_images, strict=False)])
    same(pair, [{"image": str(path), "text": text} for text, path in zip(texts, page_files, strict=False)])
    same(pair, {"text": texts[0], "image": page_images[3]})


@pytest.mark.parametrize("name", TALKING)
def test_dicts_of_one_modality(
    request: Request, both: Both, page_images: list[Image.Image], texts: list[str], name: str
) -> None:
    pair = opened(request, both, name)
    same(pair, [{"text": text} for text in texts])
    same(pair, [{"image": image} for image in page_images])


@pytest.mark.parametrize("name", TALKING)
def test_mixed_batches(
    request: Request, both: Both, page_images: list[Image.Image], texts: list[str], name: str
) -> None:
    mixed = [*texts[:5], *page_images[:5], *({"text": text, "image": page_images[7]} for text in texts[:3])]
    same(opened(request, both, name), mixed)


@pytest.mark.parametrize("name", TALKING)
def test_conversations(request: Request, both: Both, page_images: list[Image.Image], name: str) -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Represent the page."}]}
    conversations = [
        [system, {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "a page"}]}]
        for image in page_images[:4]
    ]
    same(opened(request, both, name), conversations)
    same(opened(request, both, name), conversations[0])


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_clip", "tiny_qwen3", "tiny_qwen3_vl", "tiny_smolvlm", "st_dense"])
def test_prompts(request: Request, both: Both, texts: list[str], name: str) -> None:
    pair = opened(request, both, name)
    plain = same(pair, texts)
    assert np.abs(same(pair, texts, prompt=PROMPT) - plain).max() > 1e-3
    for model in pair:
        model.prompts = {**model.prompts, "query": PROMPT, "other": "when "}
    same(pair, texts, "encode_query")
    same(pair, texts, "encode_document")
    same(pair, texts, prompt_name="other")


@pytest.mark.parametrize("name", ["tiny_qwen3_vl", "tiny_qwen2_vl", "tiny_smolvlm"])
def test_prompts_of_images(request: Request, both: Both, page_images: list[Image.Image], name: str) -> None:
    pair = opened(request, both, name)
    plain = same(pair, page_images)
    assert np.abs(same(pair, page_images, prompt="Represent the page.") - plain).max() > 1e-3


def test_the_default_prompt(both: Both, tiny_bert: Path, texts: list[str]) -> None:
    import sentence_transformers

    import omnitune

    options = {"prompts": {"short": "when "}, "default_prompt_name": "short", "device": "cpu"}
    pair = [library.SentenceTransformer(str(tiny_bert), **options) for library in (omnitune, sentence_transformers)]
    for verb in VERBS:
        same(pair, texts, verb)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_qwen3"])
def test_pooling_without_the_prompt(request: Request, both: Both, texts: list[str], name: str) -> None:
    pair = opened(request, both, name, default_prompt_name=None)
    with_prompt = same(pair, texts, prompt=PROMPT)
    for model in pair:
        model.set_pooling_include_prompt(False)
    without = same(pair, texts, prompt=PROMPT)
    for model in pair:
        model.set_pooling_include_prompt(True)
    if name == "tiny_bert":
        assert np.abs(with_prompt - without).max() > 1e-3


@pytest.mark.parametrize("name", ["st_bert", "st_dense", "tiny_qwen3_vl", "tiny_clip", "st_router"])
@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_precisions(request: Request, both: Both, name: str, precision: str) -> None:
    # Calibration on fewer than 100 embeddings warns in both libraries.
    pair = opened(request, both, name)
    many = sentences(120)
    dim = 8 * (pair.ours.get_embedding_dimension() // 8)
    ours, theirs = (model.encode(many, precision=precision, truncate_dim=dim) for model in pair)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    # Values at the edge of two buckets may fall to either side.
    assert np.mean(ours != theirs) < (1.0 if precision == "float32" else 0.01)


@pytest.mark.parametrize("options", [
    {"normalize_embeddings": True},
    {"truncate_dim": 12},
    {"truncate_dim": 12, "normalize_embeddings": True},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"convert_to_numpy": False, "normalize_embeddings": True},
    {"output_value": "token_embeddings"},
    {"output_value": "token_embeddings", "convert_to_tensor": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_qwen3", "tiny_qwen3_vl"])
def test_options(request: Request, both: Both, texts: list[str], name: str, options: dict[str, Any]) -> None:
    pair = opened(request, both, name)
    same(pair, texts, **options)
    same(pair, texts[3], **options)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_qwen3_vl"])
def test_all_outputs(request: Request, both: Both, texts: list[str], name: str) -> None:
    ours, theirs = (model.encode(texts[:6], output_value=None, batch_size=3) for model in opened(request, both, name))
    assert len(ours) == len(theirs) == 6
    for mine, reference in zip(ours, theirs, strict=True):
        assert reference.keys() <= mine.keys() | {"modality"}
        for key in reference.keys() & mine.keys():
            agree(mine[key], reference[key])


def test_a_tuple_is_a_batch(both: Both, tiny_bert: Path) -> None:
    assert same(both(tiny_bert), ("a pump", "the valve")).shape == (2, 32)


def test_nothing(both: Both, tiny_bert: Path) -> None:
    ours, theirs = (model.encode([]) for model in both(tiny_bert))
    assert ours.shape == theirs.shape == (0,)
    # On purpose: an empty result has the type of any other.
    assert (ours.dtype, theirs.dtype) == (np.float32, np.float64)
    same(both(tiny_bert), [], convert_to_tensor=True)
    same(both(tiny_bert), [], convert_to_numpy=False)


def test_columns_and_arrays_of_texts(both: Both, tiny_bert: Path, texts: list[str]) -> None:
    pair = both(tiny_bert)
    same(pair, np.array(texts))
    same(pair, Dataset.from_dict({"text": texts})["text"])


def test_truncation_of_the_model(both: Both, tiny_bert: Path, texts: list[str]) -> None:
    pair = both(tiny_bert, truncate_dim=10)
    assert same(pair, texts).shape == (24, 10)
    assert pair.ours.get_embedding_dimension() == pair.theirs.get_embedding_dimension() == 10
    for model in pair:
        with model.truncate_embeddings(6):
            assert model.encode(texts).shape == (24, 6)
        assert model.truncate_dim == 10


def test_long_texts_are_cut(both: Both, st_bert_legacy: Path) -> None:
    pair = both(st_bert_legacy)
    long = "pump valve seal " * 40
    np.testing.assert_array_equal(same(pair, [long]), pair.ours.encode([long + "garden " * 30]))
    for model in pair:
        model.max_seq_length = 9
    same(pair, [long, "a pump"])
    for model in pair:
        model.max_seq_length = 24


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_clip", "tiny_qwen3_vl", "st_static"])
def test_preprocess(request: Request, both: Both, texts: list[str], name: str) -> None:
    ours, theirs = (model.preprocess(texts[:4]) for model in opened(request, both, name))
    tensors = [key for key, value in theirs.items() if isinstance(value, torch.Tensor)]
    agree({key: ours[key] for key in tensors}, {key: theirs[key] for key in tensors})


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities(both: Both, tiny_bert: Path, texts: list[str], similarity: str) -> None:
    pair = both(tiny_bert, similarity_fn_name=similarity)
    vectors = pair.ours.encode(texts)
    agree(*(model.similarity(vectors[:5], vectors) for model in pair))
    agree(*(model.similarity_pairwise(vectors[:12], vectors[12:]) for model in pair))
    agree(*(model.similarity(vectors[0], vectors) for model in pair))


def test_tasks_reach_the_routes(both: Both, st_router: Path, texts: list[str]) -> None:
    pair = both(st_router)
    query, document = (same(pair, texts, task=task) for task in ("query", "document"))
    assert np.abs(query - document).max() > 0.1
    np.testing.assert_allclose(same(pair, texts), document, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtypes(tiny_bert: Path, texts: list[str], dtype: str) -> None:
    import sentence_transformers

    import omnitune

    options = {"device": "cpu", "model_kwargs": {"dtype": dtype}}
    pair = [library.SentenceTransformer(str(tiny_bert), **options) for library in (omnitune, sentence_transformers)]
    ours, theirs = (model.encode(texts) for model in pair)
    agree(ours, theirs, atol=1e-5 if dtype == "float32" else 0.05)
    ours, theirs = (model.encode(texts, convert_to_tensor=True) for model in pair)
    assert ours.dtype == theirs.dtype


def test_processor_options(tiny_qwen3_vl: Path, page_images: list[Image.Image]) -> None:
    import sentence_transformers

    import omnitune

    options = {"device": "cpu", "processor_kwargs": {"min_pixels": 256, "max_pixels": 6 * 256}}
    pair = [library.SentenceTransformer(str(tiny_qwen3_vl), **options) for library in (omnitune, sentence_transformers)]
    patches = {model.preprocess(page_images[:1])["pixel_values"].shape for model in pair}
    assert len(patches) == 1
    assert next(iter(patches))[0] <= 24
    same(pair, page_images)
