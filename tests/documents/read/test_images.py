"""Image files become the pages that people see: transparent paper is white, and scans keep their contrast."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from omnitune.documents.read import images
from omnitune.documents.read.pages import Page, Rendering
from omnitune.errors import DocumentError
from omnitune.inputs.image import load_image, on_paper
from omnitune.inputs.policy import DEFAULT_POLICY


def page(path: Path, folder: Path, number: int = 0) -> tuple[Page, np.ndarray]:
    (made,) = images.pages(path, number, number + 1, folder, Rendering())
    return made, np.asarray(Image.open(folder / made.image).convert("RGB"))


def drawing(mode: str) -> Image.Image:
    """Black letters on nothing."""
    image = Image.new("RGBA", (300, 400), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((50, 100, 250, 120), fill=(20, 20, 20, 255))
    return image.convert(mode)


@pytest.mark.parametrize(("name", "mode"), [
    ("a.png", "RGBA"), ("a.png", "LA"), ("a.png", "PA"), ("a.webp", "RGBA"), ("a.tif", "RGBA"), ("a.tif", "LA"),
    ("a.gif", "RGBA"), ("a.avif", "RGBA"),
])  # fmt: skip
def test_what_is_transparent_is_paper(tmp_path: Path, name: str, mode: str) -> None:
    image = drawing(mode) if mode != "PA" else drawing("RGBA").quantize(4)
    image.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    made, pixels = page(tmp_path / name, tmp_path / "out")
    assert pixels[10, 10].min() > 245 and pixels[110, 150].max() < 60
    assert made.fingerprint, "it is no page of one colour"
    assert np.array_equal(pixels, np.asarray(on_paper(load_image(tmp_path / name, DEFAULT_POLICY))))


def scans() -> dict[str, tuple[np.ndarray, int, int]]:
    """Pixels, and the shades of paper and print that they become."""
    grey = np.full((400, 300), 60_000, np.uint16)
    grey[100:120, 50:250] = 9_000
    floats = (grey / 65_535).astype(np.float32)
    holes = floats.copy()
    holes[:50] = np.nan
    endless = floats.copy()
    endless[300:] = np.inf
    return {
        "16 bits": (grey, 233, 35),
        "12 bits": ((grey // 16).astype(np.uint16), 233, 35),
        "32 bits": (grey.astype(np.int32), 233, 35),
        "floats in 0..1": (floats, 233, 35),
        "floats of metres": (floats * 3000, 255, 38),
        "floats with holes": (holes, 233, 35),
        "floats without end": (endless, 233, 35),
    }


@pytest.mark.parametrize("name", [*scans()])
def test_scans_keep_their_contrast(tmp_path: Path, name: str) -> None:
    pixels, paper, print_ = scans()[name]
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    _, made = page(tmp_path / "a.tif", tmp_path / "out")
    assert abs(int(made[200, 10].max()) - paper) <= 2 and abs(int(made[110, 150].max()) - print_) <= 2
    assert np.array_equal(made, np.asarray(on_paper(load_image(tmp_path / "a.tif", DEFAULT_POLICY))))


def test_an_image_of_no_number_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 30), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DocumentError, match="a.tif: .*expected pixels that are numbers, got none that is finite"):
        page(tmp_path / "a.tif", tmp_path / "out")


def test_every_frame_of_a_tiff_is_a_page(tmp_path: Path) -> None:
    first, second = drawing("RGB"), drawing("RGB").resize((100, 200))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    assert images.describe(tmp_path / "a.tif").pages == 2
    made, pixels = page(tmp_path / "a.tif", tmp_path / "out", 1)
    assert (made.number, made.width, made.height) == (2, 100, 200) and pixels.shape == (200, 100, 3)


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("a.png", b"", "a.png: empty"),
    ("a.png", b"no image", "a.png: not an image that can be read"),
    ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "a.png: PostScript"),
])  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError, match=reason):
        images.describe(tmp_path / name)


def test_an_image_that_is_cut_off(tmp_path: Path) -> None:
    drawing("RGB").save(tmp_path / "whole.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-60])
    with pytest.raises(DocumentError, match="a.png: broken image"):
        page(tmp_path / "a.png", tmp_path / "out")
