"""PDFs and images become pages; files that cannot be read say why."""

import io
from pathlib import Path

import pypdfium2
import pytest
from PIL import Image

from fixtures.tiny_pdfs import Sheet, write_pdf
from omnitune.documents.read import images, pdf
from omnitune.documents.read.pages import Rendering, encode, image_hash, store
from omnitune.errors import DocumentError

EXAMPLES = Path(__file__).parents[3] / "examples" / "documents"
ENCRYPTED = b"""%PDF-1.4
1 0 obj
<< /Type /Catalog /Pages 2 0 R >>
endobj
2 0 obj
<< /Type /Pages /Count 1 /Kids [3 0 R] >>
endobj
3 0 obj
<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] >>
endobj
4 0 obj
<< /Filter /Standard /V 1 /R 2 /P -44
/O <0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20>
/U <2122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f40> >>
endobj
trailer << /Size 5 /Root 1 0 R /Encrypt 4 0 R /ID [<00> <00>] >>
%%EOF
"""


def no_pages() -> bytes:
    buffer = io.BytesIO()
    pypdfium2.PdfDocument.new().save(buffer)
    return buffer.getvalue()


def box(path: Path, media_box: str, rotate: int = 0) -> Path:
    path.write_bytes(
        b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n"
        b"2 0 obj\n<< /Type /Pages /Count 1 /Kids [3 0 R] >>\nendobj\n"
        + f"3 0 obj\n<< /Type /Page /Parent 2 0 R /MediaBox [{media_box}] /Rotate {rotate} >>\nendobj\n".encode()
        + b"trailer << /Size 4 /Root 1 0 R >>\n%%EOF\n"
    )
    return path


def only_page(path: Path, folder: Path, **rendering: int):
    (page,) = pdf.pages(path, 0, 1, folder, Rendering(**rendering))
    return page


def test_a_real_manual_gives_outline_text_label_and_image(tmp_path: Path) -> None:
    path = EXAMPLES / "R-data.pdf"
    described = pdf.describe(path)
    assert described.pages == 41
    assert [entry.title for entry in described.outline[:3]] == ["Acknowledgements", "1 Introduction", "Imports"]
    assert [entry.level for entry in described.outline[:3]] == [0, 0, 1]
    page = next(pdf.pages(path, 6, 7, tmp_path, Rendering()))
    assert (page.number, page.label, page.width) == (7, "3", 900)
    assert "1 Introduction" in page.text
    heading = next(line for line in page.lines if line.text == "1 Introduction")
    body = next(line for line in page.lines if line.text.startswith("Reading data into"))
    assert heading.size > 1.3 * body.size
    with Image.open(tmp_path / page.image) as image:
        assert image.size == (page.width, page.height)


def test_a_page_made_again_lands_on_the_same_file(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", [Sheet("Title", ["Some text."])])
    assert only_page(path, tmp_path / "x") == only_page(path, tmp_path / "x")
    assert len([file for file in (tmp_path / "x").rglob("*") if file.is_file()]) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "a.pdf: the file is empty"),
        (b"no pdf at all", "a.pdf: not a PDF, or a damaged one"),
        (ENCRYPTED, "a.pdf: encrypted: it needs a password"),
        (no_pages(), "a.pdf: it has no pages"),
    ],
)
def test_an_unreadable_pdf_says_its_name_and_why(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    with pytest.raises(DocumentError) as error:
        pdf.describe(path)
    assert str(error.value) == reason


def test_a_truncated_pdf_gives_pages_or_an_error_never_a_crash(tmp_path: Path) -> None:
    whole = (EXAMPLES / "R-data.pdf").read_bytes()
    path = tmp_path / "cut.pdf"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DocumentError, match="^cut.pdf: "):
        list(pdf.pages(path, 0, pdf.describe(path).pages, tmp_path, Rendering(width=100)))


def test_rotation_turns_the_page(tmp_path: Path) -> None:
    upright = only_page(box(tmp_path / "a.pdf", "0 0 200 400"), tmp_path, width=100)
    turned = only_page(box(tmp_path / "b.pdf", "0 0 200 400", rotate=90), tmp_path, width=100)
    assert (upright.width, upright.height) == (100, 200)
    assert (turned.width, turned.height) == (100, 50)


@pytest.mark.parametrize("media_box", ["0 0 14400 14400", "0 0 10 14000", "0 0 14000 10"])
def test_no_page_has_more_pixels_than_allowed(tmp_path: Path, media_box: str) -> None:
    page = only_page(box(tmp_path / "a.pdf", media_box), tmp_path, width=900, max_pixels=200_000)
    assert 0 < page.width * page.height <= 205_000
    assert page.width <= 900


def test_an_empty_page_has_no_look_and_no_text(tmp_path: Path) -> None:
    page = only_page(box(tmp_path / "a.pdf", "0 0 200 200"), tmp_path)
    assert (page.fingerprint, page.text, page.lines) == ("", "", ())


def test_grey_pages_are_stored_grey_and_coloured_ones_in_colour() -> None:
    for colour, mode in (((90, 90, 90), "L"), ((90, 10, 10), "RGB")):
        data, suffix = encode(Image.new("RGB", (50, 50), colour))
        assert suffix == ".png"
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == mode
            assert image.convert("RGB").getpixel((0, 0)) == colour


def test_a_photograph_becomes_a_jpeg(tmp_path: Path) -> None:
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    assert store(noise, tmp_path).endswith(".jpg")


def test_look_survives_shrinking_and_tells_pages_apart(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    found = list(pdf.pages(EXAMPLES / "R-data.pdf", 6, 10, folder, Rendering()))
    with Image.open(folder / found[0].image) as image:
        small = image_hash(image.resize((450, image.height // 2)))
    distance = [(int(small, 16) ^ int(page.fingerprint, 16)).bit_count() for page in found]
    assert distance[0] <= 12 < min(distance[1:])


def test_an_image_is_a_document_of_one_page_never_enlarged(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    Image.new("RGB", (300, 200), (10, 200, 30)).save(path)
    assert images.describe(path).pages == 1
    (page,) = images.pages(path, 0, 1, tmp_path / "i", Rendering(width=900))
    assert (page.width, page.height) == (300, 200)
    (page,) = images.pages(path, 0, 1, tmp_path / "i", Rendering(width=150))
    assert (page.width, page.height) == (150, 100)


def test_every_frame_of_a_tiff_is_a_page(tmp_path: Path) -> None:
    path = tmp_path / "scan.tiff"
    frames = [Image.new("L", (40, 30), shade) for shade in (0, 100, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert images.describe(path).pages == 3
    found = list(images.pages(path, 1, 3, tmp_path / "i", Rendering()))
    assert [page.number for page in found] == [2, 3]
    with Image.open(tmp_path / "i" / found[0].image) as image:
        assert image.getpixel((0, 0)) == 100


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"text", "not an image that can be read")])
def test_an_unreadable_image_says_its_name_and_why(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(content)
    with pytest.raises(DocumentError, match=f"^scan.png: {reason}"):
        images.describe(path)


def test_a_damaged_image_is_refused_when_its_page_is_made(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    Image.effect_noise((100, 100), 80).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DocumentError, match="^scan.png: broken image: image file is truncated"):
        list(images.pages(path, 0, 1, tmp_path / "i", Rendering()))


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.png"
    Image.new("L", (100, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DocumentError, match="^scan.png: too many pixels"):
        images.describe(path)
