import base64
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from omnitune.errors import MediaNotFoundError
from omnitune.inputs.fingerprint import fingerprint


def picture(value=0, mode="RGB"):
    return Image.new("RGB", (4, 3), (value, 10, 20)).convert(mode)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "page.png"
    picture().save(path)
    return path


def test_a_file_has_one_key_in_every_form(file, monkeypatch):
    content = file.read_bytes()
    monkeypatch.chdir(file.parent)
    forms = [
        file, str(file), "page.png", content, bytearray(content), {"bytes": content, "path": None},
        {"bytes": content, "path": "other.png"}, {"bytes": None, "path": str(file)}, {"image": file},
        "data:image/png;base64," + base64.b64encode(content).decode(),
    ]  # fmt: skip
    assert {fingerprint(form, "image") for form in forms} == {fingerprint(file, "image")}
    assert len(fingerprint(file, "image")) == 32


def test_nothing_is_decoded():
    assert fingerprint(b"no image", "image") == fingerprint({"bytes": b"no image"}, "image")


def test_a_changed_file_has_another_key(file):
    before = fingerprint(file, "image")
    picture(1).save(file)
    os.utime(file, ns=(1, 1))
    assert fingerprint(file, "image") != before


def test_a_missing_file_is_named(file):
    with pytest.raises(MediaNotFoundError, match="missing.png"):
        fingerprint(file.with_name("missing.png"), "image")


def test_images_by_their_pixels(file):
    assert fingerprint(picture(), "image") == fingerprint(Image.open(file), "image")
    assert fingerprint(picture(), "image") != fingerprint(picture(1), "image")
    assert fingerprint(Image.new("L", (4, 3)), "image") != fingerprint(Image.new("L", (3, 4)), "image")


def test_palettes_count():
    """Images whose pixels are equal numbers of different colours differ."""
    red, blue = (Image.new("P", (4, 3)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    assert red.tobytes() == blue.tobytes()
    assert fingerprint(red, "image") != fingerprint(blue, "image")


def test_transparency_counts():
    solid, clear = Image.new("L", (4, 3)), Image.new("L", (4, 3))
    clear.info["transparency"] = 0
    assert fingerprint(solid, "image") != fingerprint(clear, "image")


def test_arrays_and_tensors():
    array = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert fingerprint(array, "image") == fingerprint(torch.tensor(array), "image")
    assert fingerprint(array.T.copy().T, "image") == fingerprint(array, "image")
    assert fingerprint(array.reshape(4, 3), "image") != fingerprint(array, "image")
    assert fingerprint(torch.ones(2, 2, dtype=torch.bfloat16), "image") == fingerprint(torch.ones(2, 2), "image")


def test_urls_by_their_address():
    assert fingerprint("https://example.org/a.png", "image") != fingerprint("https://example.org/b.png", "image")


def test_texts():
    assert fingerprint("a", "text") == fingerprint({"text": "a"}, "text")
    assert fingerprint("a", "text") != fingerprint("b", "text")
    assert fingerprint("half of a pair \ud800", "text") == fingerprint("half of a pair \ud800", "text")


def test_dicts_by_what_they_hold(file):
    both = ("image", "text")
    key = fingerprint({"text": "a", "image": file}, both)
    assert key == fingerprint({"image": file.read_bytes(), "text": "a"}, both)
    assert key != fingerprint({"text": "b", "image": file}, both)
    several = fingerprint({"text": "a", "image": [file, file]}, both)
    assert several == fingerprint({"text": "a", "image": [str(file), file]}, both)
    assert several != key


def test_conversations_by_what_they_hold(file):
    def said(part):
        return [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]

    keys = {fingerprint(said({"type": "image", name: file}), "message") for name in ("image", "url", "path")}
    assert len(keys) == 1
    assert keys == {fingerprint(said({"type": "image", "image": file.read_bytes()}), "message")}
    other = io.BytesIO()
    picture(9).save(other, "PNG")
    assert keys != {fingerprint(said({"type": "image", "image": other.getvalue()}), "message")}
