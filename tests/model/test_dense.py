"""The public verbs: shapes, order, prompts, precision, modes, several processes, errors."""

import copy
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnitune import SentenceTransformer
from omnitune.engine.inference import _answers
from omnitune.errors import CheckpointError, InputError, MediaError, ModalityError
from omnitune.modules import Router, Transformer
from omnitune.types import MiniBatch, Plan

TEXTS = ["the pump", "a table lists the pressure of every valve", "filter", "the pump"]


@pytest.fixture(scope="module")
def bert(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_clip), device="cpu")


def test_one_input_gives_one_vector(bert: SentenceTransformer) -> None:
    dim = bert.get_embedding_dimension()
    assert bert.encode("the pump").shape == (dim,)
    assert bert.encode(["the pump"]).shape == (1, dim)
    assert bert.encode(np.array(TEXTS)).shape == (4, dim)


def test_order_does_not_depend_on_the_batches(bert: SentenceTransformer) -> None:
    whole = bert.encode(TEXTS, batch_size=4)
    for size in (1, 2, 3):
        np.testing.assert_allclose(bert.encode(TEXTS, batch_size=size), whole, atol=1e-6)
    np.testing.assert_array_equal(whole[0], whole[3])


def test_formats(bert: SentenceTransformer) -> None:
    array = bert.encode(TEXTS)
    tensor = bert.encode(TEXTS, convert_to_tensor=True)
    many = bert.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert not tensor.is_inference()
    assert isinstance(many, list)
    np.testing.assert_array_equal(array, tensor.numpy())
    np.testing.assert_array_equal(array, torch.stack(many).numpy())


def test_nothing_to_encode(bert: SentenceTransformer) -> None:
    assert bert.encode([]).shape == (0,)
    assert bert.encode([], convert_to_tensor=True).shape == (0,)
    assert bert.encode([], convert_to_numpy=False) == []


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch_size", 0, "batch_size: expected a positive number, got 0"),
        ("truncate_dim", -3, "truncate_dim: expected a positive number, got -3"),
        ("precision", "int4", "precision: expected one of float32, int8, uint8, binary, ubinary, got 'int4'"),
        ("output_value", "vector", "output_value: expected sentence_embedding, token_embeddings or None, got 'vector'"),
    ],
)
def test_options_that_cannot_be(bert: SentenceTransformer, option: str, value: int | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bert.encode(TEXTS, **{option: value})


def test_truncation_comes_before_scaling(bert: SentenceTransformer) -> None:
    full = bert.encode(TEXTS)
    expected = full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True)
    found = bert.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with bert.truncate_embeddings(8):
        assert bert.get_embedding_dimension() == 8
        np.testing.assert_array_equal(bert.encode(TEXTS), full[:, :8])
    assert bert.truncate_dim is None


def test_the_mode_is_what_it_was(bert: SentenceTransformer) -> None:
    bert.train()
    bert.encode(TEXTS)
    assert bert.training
    assert bert[0].model.training
    bert.eval()


def test_prompts(tiny_bert: Path) -> None:
    model = SentenceTransformer(str(tiny_bert), prompts={"query": "question: ", "passage": "text: "})
    plain = model.encode(["question: pump", "text: pump"])
    np.testing.assert_array_equal(model.encode_query(["pump"])[0], plain[0])
    np.testing.assert_array_equal(model.encode("pump", prompt_name="passage"), plain[1])
    np.testing.assert_array_equal(model.encode("pump", prompt="text: "), plain[1])
    model.prompts.pop("document")
    np.testing.assert_array_equal(model.encode_document("pump"), plain[1])
    with pytest.raises(InputError, match="prompt_name: expected one of .*'passage', 'query'.*, got 'doc'"):
        model.encode("pump", prompt_name="doc")
    with pytest.raises(InputError, match="default_prompt_name: expected one of"):
        SentenceTransformer(str(tiny_bert), default_prompt_name="none")


def test_a_query_is_text_even_when_it_names_an_image(clip: SentenceTransformer, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    Image.new("RGB", (20, 20), "red").save(path)
    as_text = clip.encode({"text": str(path)})
    np.testing.assert_array_equal(clip.encode_query(str(path)), as_text)
    assert not np.allclose(clip.encode(str(path)), as_text)


def test_images_in_every_form(clip: SentenceTransformer, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    image.save(path)
    forms = [image, str(path), path, path.read_bytes(), {"bytes": path.read_bytes(), "path": None}, np.array(image)]
    vectors = clip.encode([*forms, {"image": path}, torch.from_numpy(np.array(image)).permute(2, 0, 1)])
    for vector in vectors[1:]:
        np.testing.assert_allclose(vector, vectors[0], atol=1e-6)


def test_a_broken_image_is_named(clip: SentenceTransformer, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(MediaError, match="row 1, column 'inputs': .*broken.png: not an image"):
        clip.encode([Image.new("RGB", (20, 20)), path])


def test_an_image_is_refused_by_a_text_model(bert: SentenceTransformer) -> None:
    with pytest.raises(ModalityError, match="takes text; got 'image'"):
        bert.encode(Image.new("RGB", (20, 20)))
    assert bert.supports("text")
    assert not bert.supports("image")


@pytest.mark.parametrize(("argument", "value"), [("batch_size", 0), ("precision", "int4"), ("colour", "red")])
def test_arguments_that_cannot_work(bert: SentenceTransformer, argument: str, value: object) -> None:
    with pytest.raises(InputError, match=argument):
        bert.encode(TEXTS, **{argument: value})


@pytest.mark.parametrize(
    ("item", "place"), [("a p\udc00mp", "row 2"), ({"text": "a p\udc00mp"}, "row 2"), (("a pump", "\ud800"), "row 2")]
)
def test_half_a_character_is_named(bert: SentenceTransformer, item: object, place: str) -> None:
    with pytest.raises(InputError, match=f"{place}, column 'inputs': inputs: expected text, got half of a character, "):
        bert.encode(["the pump", "Motörhead 🙂", item])
    with pytest.raises(
        InputError, match=r"half of a character, '\\udc00', at position 3 of 'a p\\udc00mp'; text.encode\("
    ):
        bert.encode_query("a p\udc00mp")
    mended = "a p\udc00mp \ud83d\ude42".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert mended == "a p\ufffdmp 🙂"
    assert bert.encode(mended).shape == (32,)


def test_a_pair_is_no_input_of_two_towers(
    clip: SentenceTransformer, bert: SentenceTransformer, tiny_clip: Path, tiny_bert: Path
) -> None:
    message = (
        r"row 1, column 'inputs': inputs: this Sent.* takes single texts, as its processor takes no pairs; got the pair"
    )
    with pytest.raises(ModalityError, match=message):
        clip.encode(["a", ("a", "b")])
    assert bert.encode([("a", "b")]).shape == (1, 32)
    for path, takes in ((tiny_clip, False), (tiny_bert, True)):
        assert Router({"all": [Transformer(str(path))]}, default_route="all").takes_pairs is takes


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", 'device: expected a name such as "cpu", "cuda", "cuda:1" or "mps", got \'gpu\''),
        ("cuda:93", "device: expected one that this machine has, got 'cuda:93'; the best there is: "),
    ],
)
def test_devices_that_are_not_there(bert: SentenceTransformer, tiny_bert: Path, device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SentenceTransformer(str(tiny_bert), device=device)
    for where in (device, [device]):
        with pytest.raises(InputError, match=message):
            bert.encode(TEXTS, device=where)
    with pytest.raises(InputError, match=message):
        bert.start_multi_process_pool(["cpu", device])


def test_no_model_and_no_modules() -> None:
    with pytest.raises(InputError, match="expected model_name_or_path, or modules with at least one module"):
        SentenceTransformer()


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is there"):
        SentenceTransformer(str(tmp_path / "none"))


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder", "MultiVectorEncoder"])
def test_a_checkpoint_of_another_family_gives_its_backbone(
    kind: str, tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import sentence_transformers

    getattr(sentence_transformers, kind)(str(tiny_bert), device="cpu").save_pretrained(str(tmp_path))
    ours = SentenceTransformer(str(tmp_path), device="cpu").encode(["a red fox", "water"])
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode(["a red fox", "water"])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert f"a {kind}, whose backbone is taken for a SentenceTransformer with a new head" in caplog.text


def test_pickles_are_not_written(bert: SentenceTransformer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safe_serialization: expected True"):
        bert.save_pretrained(str(tmp_path), safe_serialization=False)


def test_similarity(bert: SentenceTransformer) -> None:
    vectors = bert.encode(TEXTS)
    scores = bert.similarity(vectors, vectors)
    assert scores.shape == (4, 4)
    torch.testing.assert_close(scores.diagonal(), torch.ones(4))
    torch.testing.assert_close(bert.similarity_pairwise(vectors, vectors), torch.ones(4))
    with pytest.raises(InputError, match="similarity_fn_name: expected one of .*, got 'maxsim'"):
        bert.similarity_fn_name = "maxsim"


def test_save_and_load(bert: SentenceTransformer, tmp_path: Path) -> None:
    made = SentenceTransformer(
        modules=list(bert), prompts={"query": "q: "}, similarity_fn_name="dot", truncate_dim=16, device="cpu"
    )
    made.save_pretrained(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_array_equal(loaded.encode_query(TEXTS), made.encode_query(TEXTS))
    assert loaded.prompts == {"query": "q: ", "document": ""}
    assert loaded.similarity_fn_name == "dot"
    assert loaded.truncate_dim == 16


def test_token_vectors_and_all_outputs(bert: SentenceTransformer) -> None:
    tokens = bert.encode(TEXTS, output_value="token_embeddings")
    assert [t.shape[1] for t in tokens] == [bert.get_embedding_dimension()] * 4
    assert len(tokens[1]) > len(tokens[0])
    rows = bert.encode(TEXTS, output_value=None)
    vectors = bert.encode(TEXTS)
    for row, vector in zip(rows, vectors, strict=True):
        np.testing.assert_allclose(row["sentence_embedding"].numpy(), vector, atol=1e-6)


def test_copies_and_pickles(bert: SentenceTransformer) -> None:
    expected = bert.encode(TEXTS)
    np.testing.assert_array_equal(copy.deepcopy(bert).encode(TEXTS), expected)
    again = pickle.loads(pickle.dumps(bert))
    assert again.engine.model is again
    np.testing.assert_array_equal(again.encode(TEXTS), expected)


@pytest.mark.slow
def test_several_processes_give_the_same(bert: SentenceTransformer) -> None:
    texts = [f"{text} {i}" for i in range(10) for text in TEXTS]
    expected = bert.encode(texts, batch_size=4)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the processes inherit; they end all the same
    try:
        pool = bert.start_multi_process_pool(["cpu", "cpu"])
    finally:
        signal.signal(signal.SIGTERM, before)
    try:
        np.testing.assert_allclose(bert.encode(texts, batch_size=4, pool=pool, chunk_size=7), expected, atol=1e-6)
        tensor = bert.encode(texts, pool=pool, convert_to_tensor=True, precision="int8")
        assert tensor.dtype == torch.int8
        with pytest.raises(InputError, match="chunk_size: expected a positive number"):
            bert.encode(texts, pool=pool, chunk_size=0)
        with pytest.raises(ModalityError, match="row 3, column 'inputs': .* takes text; got 'image'"):
            bert.encode([*TEXTS[:3], Image.new("RGB", (8, 8)), *TEXTS], pool=pool, chunk_size=1)
        np.testing.assert_allclose(bert.encode(TEXTS, pool=pool, chunk_size=1), bert.encode(TEXTS), atol=1e-6)
        assert bert.encode([], pool=pool).shape == (0,)
    finally:
        bert.stop_multi_process_pool(pool)


def test_equal_items_share_a_row_of_their_mini_batch() -> None:
    def batch(count: int) -> MiniBatch:
        return MiniBatch(items=[""] * count, places=[""] * count, modality="text")

    plan = Plan(mini_batches=[batch(2), batch(1)], rows=[torch.tensor([1, 2, 0, 1])])
    answers = [(places.tolist(), rows.tolist()) for places, rows in _answers(plan)]
    assert answers == [([2, 0, 3], [0, 1, 1]), ([1], [0])]


def test_an_unknown_argument_is_named(bert: SentenceTransformer) -> None:
    with pytest.raises(InputError, match="encode: got the unknown argument 'normalise'; besides those of its"):
        bert.encode(TEXTS, normalise=True)
