import base64
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from omnitune.errors import MediaError, MediaNotFoundError, MediaRefusedError
from omnitune.inputs.image import image_size, load_image
from omnitune.inputs.policy import DEFAULT_POLICY, MediaPolicy
from omnitune.inputs.source import described, source

FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]


def picture(width=12, height=8):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(format="PNG", **kwargs) -> bytes:
    made = io.BytesIO()
    picture().save(made, format, **kwargs)
    return made.getvalue()


def bomb_header() -> bytes:
    """A PNG that says it is 50,000 by 50,000 pixels, and holds none."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a page.png"
    path.write_bytes(encoded())
    return path


def forms(path: Path):
    content = path.read_bytes()
    return {
        "pil": Image.open(io.BytesIO(content)),
        "path": path,
        "string": str(path),
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "dict of bytes": {"bytes": content, "path": None},
        "dict of path": {"bytes": None, "path": str(path)},
        "dict of both": {"bytes": content, "path": "elsewhere.png"},
        "dict of image": {"image": str(path)},
        "data": "data:image/png;base64," + base64.b64encode(content).decode(),
        "array": np.asarray(picture()),
        "tensor": torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1),
    }


def test_every_form_loads_the_same_pixels(file):
    for name, item in forms(file).items():
        loaded = load_image(item, DEFAULT_POLICY)
        assert isinstance(loaded, Image.Image), name
        assert np.array_equal(np.asarray(loaded.convert("RGB")), np.asarray(picture())), name
        assert image_size(item, DEFAULT_POLICY) == (12, 8), name


def test_home_folder(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))
    assert load_image("~/a page.png", DEFAULT_POLICY).size == (12, 8)


@pytest.mark.parametrize("format", FORMATS)
def test_a_loaded_file_is_closed_and_its_pixels_stay(tmp_path, format):
    path = tmp_path / "several"
    frames = {"save_all": True, "append_images": [picture().rotate(90)]} if format in ("GIF", "TIFF", "WEBP") else {}
    path.write_bytes(encoded(format, **frames))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    loaded = load_image(path, DEFAULT_POLICY)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before
    assert np.asarray(loaded.convert("RGB")).shape == (8, 12, 3)
    assert loaded.copy().resize((3, 2)).size == (3, 2)


@pytest.mark.parametrize(
    ("array", "mode", "size"),
    [
        (np.zeros((8, 12), np.uint8), "L", (12, 8)),
        (np.zeros((8, 12, 1), np.uint8), "L", (12, 8)),
        (np.zeros((8, 12, 3), np.uint8), "RGB", (12, 8)),
        (np.zeros((8, 12, 4), np.uint8), "RGBA", (12, 8)),
        (np.zeros((1, 8, 12), np.uint8), "L", (12, 8)),
        (np.zeros((3, 8, 12), np.uint8), "RGB", (12, 8)),
        (np.zeros((4, 8, 12), np.uint8), "RGBA", (12, 8)),
        (torch.zeros(3, 8, 12, dtype=torch.uint8), "RGB", (12, 8)),
        (torch.zeros(3, 8, 12, dtype=torch.bfloat16), "RGB", (12, 8)),
        (torch.zeros(3, 8, 12, requires_grad=True), "RGB", (12, 8)),
        (np.zeros((8, 12, 3), np.int64)[::2, ::2], "RGB", (6, 4)),
    ],
)
def test_arrays_of_every_layout(array, mode, size):
    loaded = load_image(array, DEFAULT_POLICY)
    assert (loaded.mode, loaded.size) == (mode, size)
    assert image_size(array, DEFAULT_POLICY) == size


def test_arrays_keep_their_values():
    whole = np.arange(6, dtype=np.int32).reshape(2, 3) * 51
    for array in (whole, whole / 255, torch.tensor(whole / 255), whole.astype(np.float16) / np.float16(255)):
        assert np.array_equal(np.asarray(load_image(array, DEFAULT_POLICY)), whole)
    assert load_image(np.array([[True, False]]), DEFAULT_POLICY).getextrema() == (0, 255)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 0), (5,), (), (2, 8, 12), (8, 12, 5), (1, 3, 8, 12)])
def test_arrays_that_are_no_image_name_their_shape(shape):
    for array in (np.zeros(shape, np.uint8), torch.zeros(shape)):
        for read in (load_image, image_size):
            with pytest.raises(MediaError, match=r"array of shape \(" + ", ".join(map(str, shape))):
                read(array, DEFAULT_POLICY)


@pytest.mark.parametrize(
    "values",
    [np.full((2, 2), 256), np.full((2, 2), -1), np.full((2, 2), 255.0), np.full((2, 2), -0.5), np.full((2, 2), np.nan)],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(MediaError, match=r"array of shape \(2, 2\): expected pixels as integers in 0..255 or floats"):
        load_image(values, DEFAULT_POLICY)


def test_arrays_of_other_types_are_refused():
    with pytest.raises(MediaError, match="expected integers or floats, got complex128"):
        load_image(np.zeros((2, 2), complex), DEFAULT_POLICY)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb_header())
    for item, name in ((bomb_header(), "image of 53 bytes"), (tmp_path / "bomb.png", "bomb.png")):
        for read in (load_image, image_size):
            with pytest.raises(MediaRefusedError, match=f"{name}: too many pixels"):
                read(item, DEFAULT_POLICY)


def test_more_pixels_than_the_policy_allows(file):
    small = MediaPolicy(max_pixels=95)
    for name, item in forms(file).items():
        with pytest.raises(MediaRefusedError, match="12x8 pixels, more than the media policy's max_pixels=95"):
            load_image(item, small)
        assert load_image(item, MediaPolicy(max_pixels=96)).size == (12, 8), name


def test_more_bytes_than_the_policy_allows(file):
    small = MediaPolicy(max_bytes=file.stat().st_size - 1)
    for item in (file, str(file), file.read_bytes(), {"bytes": file.read_bytes()}):
        with pytest.raises(MediaRefusedError, match="bytes, more than the media policy's max_bytes="):
            source(item, small)


def test_local_files_can_be_forbidden(file):
    with pytest.raises(MediaRefusedError, match=r"a page.png: the media policy forbids local files"):
        load_image(file, MediaPolicy(allow_local_files=False))


@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # Pillow's, besides its error
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("left", [0.2, 0.5, 0.8])
def test_truncated_files_are_named(tmp_path, format, left):
    whole = encoded(format)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(MediaError, match=f"cut.{format.lower()}: (broken image|not an image)"):
        load_image(path, DEFAULT_POLICY)


def test_a_truncated_pil_image_is_named():
    cut = Image.open(io.BytesIO(encoded()[:-100]))
    with pytest.raises(MediaError, match="PngImageFile of 12x8 pixels: broken image"):
        load_image(cut, DEFAULT_POLICY)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_files_raise_media_errors_alone(format, data):
    content = bytearray(encoded(format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(load_image(bytes(content), DEFAULT_POLICY), Image.Image)
    except MediaError as error:
        assert str(error).startswith("image of ")
    except UserWarning:  # Pillow's own about odd metadata, an error in tests only
        pass


@pytest.mark.parametrize(
    ("item", "error", "text"),
    [
        (None, MediaError, "None: expected an image as PIL"),
        (3, MediaError, "3: expected an image as PIL.*got int"),
        (b"", MediaError, "image of 0 bytes: empty"),
        ({"bytes": b""}, MediaError, "empty"),
        ({"bytes": None, "path": None}, MediaError, "'path': None.*expected an image"),
        ({"image": None}, MediaError, "None: expected an image"),
        (b"no image", MediaError, "image of 8 bytes: not an image that can be read"),
        ("missing.png", MediaNotFoundError, "missing.png: no such file.*working folder"),
        ("", MediaError, "expected a file, got a folder"),
        ("file:///etc/passwd", MediaNotFoundError, "no such file"),
        ("C:\\scans\\page.png", MediaNotFoundError, r"C:\\scans\\page.png: no such file"),
        ("a\0b.png", MediaNotFoundError, "no such file"),
        ("x" * 5000, MediaNotFoundError, "no such file"),
        ("~nobody-has-this-name/a.png", MediaNotFoundError, "no such file"),
        ("data:image/png;base64,!!!", MediaError, "data:image/png;base64,!!!: its base64 is broken"),
        ("data:image/png;base64,", MediaError, "empty"),
        ("data:image/png", MediaError, "empty"),
        ("data:image/svg+xml,%3Csvg/%3E", MediaError, "not an image"),
    ],
)
def test_what_cannot_be_read_is_named(item, error, text):
    for read in (load_image, image_size):
        with pytest.raises(error, match=text):
            read(item, DEFAULT_POLICY)


def test_data_urls_may_be_percent_encoded(file):
    whole = base64.b64encode(file.read_bytes()).decode().replace("+", "%2B").replace("=", "%3D")
    assert load_image(f"data:image/png;base64,{whole}", DEFAULT_POLICY).size == (12, 8)


def test_a_folder_and_an_empty_file(tmp_path):
    with pytest.raises(MediaError, match="expected a file, got a folder or device"):
        load_image(tmp_path, DEFAULT_POLICY)
    (tmp_path / "empty.png").touch()
    with pytest.raises(MediaError, match="empty.png: empty"):
        load_image(tmp_path / "empty.png", DEFAULT_POLICY)


def test_a_long_name_is_shortened():
    assert len(described("x" * 1000)) == 200


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_file_is_turned_upright_by_its_metadata(format):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: the top is on the right
    marked = Image.new("L", (40, 20), 255)
    marked.paste(0, (0, 0, 20, 20))
    made = io.BytesIO()
    marked.save(made, format, exif=exif)
    loaded = load_image(made.getvalue(), DEFAULT_POLICY).convert("L")
    assert loaded.size == (20, 40)
    assert loaded.getpixel((10, 5)) < 20 and loaded.getpixel((10, 35)) > 235


def test_a_pil_image_stays_as_it_is_given():
    turned = picture()
    turned.getexif()[274] = 6
    assert load_image(turned, DEFAULT_POLICY) is turned
    assert turned.size == (12, 8)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_scan_of_16_bits_keeps_its_contrast(format):
    grey = np.asarray(picture().convert("L"))
    scan = Image.fromarray(grey.astype(np.uint16) * 257)
    made = io.BytesIO()
    scan.save(made, format)
    for item in (scan, made.getvalue()):
        loaded = load_image(item, DEFAULT_POLICY)
        assert loaded.mode == "L"
        assert np.array_equal(np.asarray(loaded), grey)


def test_postscript_is_not_run(monkeypatch):
    def run(*args, **kwargs):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", run)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(MediaRefusedError, match="image of 78 bytes: PostScript, which is not run"):
        load_image(program, DEFAULT_POLICY)


def test_an_image_without_pixels():
    with pytest.raises(MediaError, match="Image of 0x5 pixels: it has no pixels"):
        load_image(Image.new("RGB", (0, 5)), DEFAULT_POLICY)


def test_pillow_neither_warns_nor_refuses_what_the_default_policy_allows(monkeypatch):
    assert DEFAULT_POLICY.max_pixels <= Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 95)
    with pytest.raises(MediaRefusedError, match="too many pixels"):  # Pillow's warning is an error in tests
        load_image(encoded(), DEFAULT_POLICY)


def test_a_jpeg_of_scans_without_end_is_refused_before_it_is_decoded(tmp_path):
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rfind(b"\xff\xda")
    many = whole[:-2] + whole[last:-2] * 300 + whole[-2:]
    (tmp_path / "many.jpg").write_bytes(many)
    assert load_image(whole, DEFAULT_POLICY).size == (4000, 4000)
    for item in (many, tmp_path / "many.jpg"):
        with pytest.raises(MediaRefusedError, match=r"a JPEG of 4000x4000 pixels in 30\d scans, which takes minutes"):
            load_image(item, DEFAULT_POLICY)


def test_a_form_that_pillow_does_not_implement_is_named():
    header = b"DDS " + struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(96)
    with pytest.raises(MediaError, match="image of 128 bytes: broken image: Unknown pixel format flags"):
        load_image(header, DEFAULT_POLICY)
