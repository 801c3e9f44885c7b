import io
import re

import pytest
from PIL import Image, ImageDraw

from omnitune.errors import InputError
from omnitune.retrieval.contact_sheet import thumbnail, write_contact_sheet
from omnitune.search import Found


def page(number: int) -> Image.Image:
    image = Image.new("RGB", (900, 1200), "white")
    drawing = ImageDraw.Draw(image)
    for line in range(30):
        drawing.text((60, 60 + 36 * line), f"page {number}, line {line}: how to change the belt", fill="black")
    return image


@pytest.fixture
def found():
    entries = [{"id": f"p{i}", "document": f"<manual> {i % 2}.pdf", "page": i + 1} for i in range(4)]
    return [Found(rank=i + 1, score=0.9 - i / 10, row=i, entry=entry) for i, entry in enumerate(entries)]


def test_the_sheet_shows_every_page_and_escapes_what_came_from_outside(found, tmp_path):
    images = [page(1), None, page(3), page(4)]
    path = write_contact_sheet(tmp_path / "s.html", query="<belt> & oil", model="m", found=found, images=images)
    text = path.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 3
    assert "&lt;belt&gt; &amp; oil" in text and "<belt>" not in text
    assert "&lt;manual&gt; 1.pdf, page 4" in text
    assert re.findall(r"score (0\.\d+)", text) == ["0.900", "0.800", "0.700", "0.600"]
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_a_thumbnail_is_small_and_never_larger_than_the_page():
    small = thumbnail(page(1))
    assert len(small) < 60_000
    assert thumbnail(Image.new("L", (10, 5)))[:2] == b"\xff\xd8"


def test_what_is_transparent_is_paper():
    shown = Image.open(io.BytesIO(thumbnail(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))))
    assert shown.getextrema() == ((255, 255),) * 3


def test_one_image_for_each_page(found, tmp_path):
    with pytest.raises(InputError, match="images: expected one for each of 4 pages found, got 1"):
        write_contact_sheet(tmp_path / "s.html", query="q", model="m", found=found, images=[None])
