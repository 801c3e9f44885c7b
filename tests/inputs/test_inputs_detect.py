from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from omnitune.errors import MediaNotFoundError, ModalityError
from omnitune.inputs.detect import MEDIA, inputs_of, is_single, modality_of

ALL = ["text", "image", "audio", "video", "message"]
MESSAGE = {"role": "user", "content": "hello"}
PICTURE = Image.new("RGB", (2, 2))


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my page.PNG"
    PICTURE.save(path)
    return path


@pytest.mark.parametrize(
    ("item", "modality"),
    [
        ("a sentence", "text"),
        ("", "text"),
        ("What is a .png", "text"),
        (("a pair", "of texts"), "text"),
        (PICTURE, "image"),
        (b"\x89PNG", "image"),
        (bytearray(b"x"), "image"),
        (memoryview(b"x"), "image"),
        (Path("page"), "image"),
        (Path("sound.mp3"), "audio"),
        ("https://example.org/a.JPG", "image"),
        ("https://example.org/a.jpg?size=3#top", "image"),
        ("https://example.org/a.mp4", "video"),
        ("https://example.org/page.html", "text"),
        ("data:image/png;base64,AAAA", "image"),
        ("data: all of it", "text"),
        ("http://[broken.png", "image"),
        (np.zeros((2, 2), np.uint8), "image"),
        (np.zeros((2, 2, 3)), "image"),
        (torch.zeros(3, 2, 2), "image"),
        (np.zeros(100), "audio"),
        (np.zeros((2, 100)), "audio"),
        (torch.zeros(4, 3, 2, 2), "video"),
        ({"array": np.zeros(9), "sampling_rate": 16_000}, "audio"),
        ({"bytes": b"x", "path": None}, "image"),
        ({"bytes": b"x", "path": "a.wav"}, "audio"),
        ({"path": "a.png"}, "image"),
        ({"text": "a.png"}, "text"),
        ({"image": PICTURE}, "image"),
        ({"text": "what?", "image": PICTURE}, ("image", "text")),
        (MESSAGE, "message"),
        ([MESSAGE, MESSAGE], "message"),
    ],
)
def test_what_an_item_is(item, modality):
    assert modality_of(item, supported=ALL) == modality


def test_files_by_their_names(page):
    for name in (str(page), "my page.PNG", "./my page.PNG", page):
        assert modality_of(name, supported=ALL) == "image"


@pytest.mark.parametrize(
    "text",
    [
        "missing.png", "pages/missing.png", "/no such/folder/scan 12.png", "C:\\scans\\page.png", "Scan 12.png",
        "Screenshot 2024-01-01 at 10.00.00.png", "file:///etc/a.png", "~nobody-has-this-name/a.png", "~.png",
        "a\0b.png", "x" * 300 + ".png", ".png", "clip.mp4",
    ],
)  # fmt: skip
def test_a_name_of_media_that_is_not_there_is_an_error_that_names_it(text, page):
    with pytest.raises(MediaNotFoundError) as caught:
        modality_of(text, supported=ALL)
    assert repr(text) in str(caught.value)
    assert "no such file is there" in str(caught.value)
    assert f'give {{"text": {text!r}}}' in str(caught.value)
    assert modality_of({"text": text}, supported=ALL) == "text"


@pytest.mark.parametrize(
    "text",
    ["The figure on the left is kept in scan.png", "convert svg to .png", "one line\nscan.png", "x" * 5000 + ".png"],
)
def test_a_sentence_may_mention_media(text):
    assert modality_of(text, supported=ALL) == "text"


def test_a_model_without_images_takes_names_as_text():
    assert modality_of("missing.png", supported=["text"]) == "text"
    assert modality_of("missing.mp3", supported=["text", "image"]) == "text"


@given(st.text() | st.text(alphabet="~/\\.:?#[]@ \0apng%é", max_size=40))
def test_no_text_raises_unless_it_ends_like_media(text):
    try:
        kind = modality_of(text, supported=ALL)
    except MediaNotFoundError as error:
        assert (
            text.split("?")[0]
            .split("#")[0]
            .lower()
            .endswith(tuple(e for row in MEDIA.values() for e in row.extensions))
        )
        assert repr(text) in str(error)
    else:
        assert kind in ALL


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (None, "got NoneType: None"),
        (3.5, "got float: 3.5"),
        ([], r"got list: \[\]"),
        (["a", "b"], "got list"),
        ({}, r"expected a dict with keys among .*, got \[\]"),
        ({"text": "a", "picture": 3}, r"got \['picture', 'text'\]"),
        ({"image": None}, r"expected values for \['image'\], got None for \['image'\]"),
        ({"text": "a", "image": None}, r"got None for \['image'\]"),
        (np.zeros(()), r"1 to 5 dimensions, got shape \(\)"),
        (np.zeros((1,) * 6), r"got shape \(1, 1, 1, 1, 1, 1\)"),
    ],
)
def test_what_is_no_input_is_named(item, text):
    with pytest.raises(ModalityError, match=text):
        modality_of(item, supported=ALL)


@pytest.mark.parametrize(
    ("inputs", "single"),
    [
        ("text", True),
        (b"bytes", True),
        (PICTURE, True),
        (Path("a"), True),
        ({"text": "a"}, True),
        ([MESSAGE], True),
        (np.zeros((2, 2, 3)), True),
        (torch.zeros(3, 2, 2), True),
        ([], False),
        (["text"], False),
        ([[MESSAGE]], False),
        (("a", "b"), False),
        (np.array(["a", "b"]), False),
    ],
)
def test_one_item_or_a_batch(inputs, single):
    assert is_single(inputs) is single


def test_a_cell_holds_one_input_or_a_list_of_them() -> None:
    conversation = [{"role": "user", "content": "a"}]
    assert inputs_of("a") == ["a"]
    assert inputs_of(["a", {"text": "b"}]) == ["a", {"text": "b"}]
    assert inputs_of(conversation) == [conversation]
