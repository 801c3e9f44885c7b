"""The text of a page comes from its text layer where that is sound, and from recognition where it is not."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from fixtures import hostile_pdfs
from omnitune.documents.folder import read_folder
from omnitune.documents.read import pdf
from omnitune.documents.read.pages import Rendering, Word, uncovered
from omnitune.documents.read.text import terms
from omnitune.documents.reading import counted_sources, source_of, with_texts
from omnitune.documents.stored import Document, StoredPage, kept_page
from omnitune.errors import InputError, MissingLanguageError
from omnitune.modules.readers.text import TextReader

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
SOUND = "\n".join(hostile_pdfs.PROSE)
SHIFTED = "".join(chr(ord(letter) + 7) if letter.isalpha() else letter for letter in SOUND)


def tesseract(paths: Sequence[Path]) -> list[str]:
    return TextReader().read([Image.open(path) for path in paths])


def read_one(tmp_path: Path, code: Callable[[int], int]) -> Document:
    (tmp_path / "in").mkdir()
    hostile_pdfs.mapped(tmp_path / "in" / "a.pdf", code)
    ((document,), _) = read_folder(tmp_path / "in", tmp_path / "out", Rendering(width=900), workers=1)
    return document


@pytest.mark.parametrize(
    "code",
    [lambda letter: letter + 7, lambda letter: 0xE000 + letter, lambda letter: 0],
    ids=["shifted", "private", "nul"],
)
def test_a_garbled_layer_is_recognised_instead(tmp_path: Path, code: Callable[[int], int]) -> None:
    document = read_one(tmp_path, code)
    assert "bearing" not in document.pages[0].text
    (found,) = with_texts([document], tmp_path / "out" / "images", tesseract)
    for page in found.pages:
        assert {"bearing", "greased", "handbook"} <= set(terms(page.text))
        assert source_of(page) == "recognised" and page.headings == ()
    assert counted_sources([found]) == {"recognised": 4}
    assert with_texts([document], tmp_path / "out" / "images", tesseract, "layer") == [document]


def test_a_sound_layer_is_not_recognised(tmp_path: Path) -> None:
    document = read_one(tmp_path, lambda letter: letter)
    assert "bearing is greased" in document.pages[0].text

    def never(paths: Sequence[Path]) -> list[str]:
        raise AssertionError(f"{len(paths)} pages were recognised")

    assert with_texts([document], tmp_path / "out" / "images", never) == [document]
    (found,) = with_texts([document], tmp_path / "out" / "images", lambda paths: ["read"] * len(paths), "recognise")
    assert {page.text for page in found.pages} == {"read"}


def test_a_language_without_a_model_stops_only_pages_that_must_be_recognised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def foreign(paths: Sequence[Path]) -> list[str]:
        return TextReader(language="xyz").read([Image.open(path) for path in paths])

    images = tmp_path / "out" / "images"
    caplog.set_level("INFO", "omnitune")
    shifted = read_one(tmp_path, lambda letter: letter + 7)  # doubted, but it may be a language without small words
    assert with_texts([shifted], images, foreign) == [shifted]
    assert "cannot be compared with a recognition and keep" in caplog.text and "got 'xyz'" in caplog.text
    empty = dataclasses.replace(shifted, pages=tuple(dataclasses.replace(page, text="") for page in shifted.pages))
    with pytest.raises(MissingLanguageError) as caught:
        with_texts([empty], images, foreign)
    assert "got 'xyz'; put xyz.traineddata into that folder" in str(caught.value)
    assert "4 page(s) have no sound text layer, the first a.pdf#1" in str(caught.value)
    assert "{reading: layer}" in str(caught.value)
    assert with_texts([empty], images, foreign, "layer") == [empty]


def test_recognised_pages_have_the_headings_that_are_numbered(tmp_path: Path) -> None:
    document = read_one(tmp_path, lambda letter: letter)
    body = "The bearing is greased once a week.\n1. Stop the pump and wait until it is cold\n5.5 bars are enough."
    texts = [
        "Handbook of pumps\n2.1 Greasing the bearing\n" + body,
        "2.1 Greasing the bearing\n2.2. Changing the Oil\n2.3 Filters\n9",  # the end of a table of contents
        body + "\nA.1 Spare Parts of the Pump\n" + body,
        "",
    ]
    (found,) = with_texts([document], tmp_path / "out" / "images", lambda paths: texts[: len(paths)], "recognise")
    assert [page.headings for page in found.pages] == [
        ("2.1 Greasing the bearing",),
        (),
        ("A.1 Spare Parts of the Pump",),
        (),
    ]


def test_an_index_without_prose_is_recognised_as_itself(tmp_path: Path) -> None:
    pages = list(pdf.pages(EXAMPLES / "R-data.pdf", 37, 39, tmp_path, Rendering()))
    kept = tuple(kept_page(page, []) for page in pages)
    document = Document(name="a.pdf", key="k", title="", outline=(), pages=kept)
    asked: list[Path] = []

    def reader(paths: Sequence[Path]) -> list[str]:
        asked.extend(paths)
        return tesseract(paths)

    assert with_texts([document], tmp_path, reader) == [document]
    assert len(asked) == 2 and max(page.garbled for page in pages) == 0


def stored(text: str, **parts: float) -> StoredPage:
    return StoredPage(number=1, label="", image="ab/c.png", fingerprint="f" * 64, text=text, **parts)


def chosen(page: StoredPage, read: str) -> StoredPage:
    document = Document(name="a.pdf", key="k", title="", outline=(), pages=(page,))
    (found,) = with_texts([document], Path(), lambda paths: [read] * len(paths))
    return found.pages[0]


@pytest.mark.parametrize(
    ("page", "read", "source"),
    [
        (stored(SHIFTED), SOUND, "recognised"),
        (stored(SHIFTED), "xq zz kw jj", "layer"),  # a recogniser that reads nothing either proves nothing
        (stored(SOUND), "xq zz", "layer"),
        (stored("SELECT id FROM orders WHERE total " * 8), "SELECT id FROM orders WHERE total " * 8, "layer"),
        (stored("Привет это текст о насосах и клапанах " * 8), SOUND, "layer"),  # not a recogniser's script
        (stored("Downloaded from example.org", uncovered=0.95), SOUND, "recognised"),
        (stored("Downloaded from example.org", uncovered=0.95), "Downloaded from example", "layer"),
        (stored("Downloaded from example.org", uncovered=0.1), SOUND, "layer"),
        (stored("\ue000\ue001", garbled=1.0), "", "none"),
        (stored(""), SOUND, "recognised"),
        (stored(""), "", "none"),
    ],
)
def test_a_layer_is_doubted_and_replaced_for_cause(page: StoredPage, read: str, source: str) -> None:
    found = chosen(page, read)
    assert source_of(found) == source
    if source == "layer":
        assert found == page


def test_garbled_pages_without_a_recogniser_are_no_text_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    document = Document(
        name="a.pdf", key="k", title="", outline=(), pages=(stored("\ue000", garbled=1.0), stored(SOUND))
    )
    document = dataclasses.replace(
        document, pages=(document.pages[0], dataclasses.replace(document.pages[1], image="x"))
    )
    (found,) = with_texts([document], Path(), None)
    assert [source_of(page) for page in found.pages] == ["none", "layer"]
    assert "1 page(s) have a text layer of codes that stand for nothing" in caplog.text
    with pytest.raises(InputError, match="reading: expected a reader with 'recognise', got none"):
        with_texts([document], Path(), None, "recognise")


def test_ink_outside_of_the_words() -> None:
    image = Image.new("L", (400, 400), 255)
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 40, 119, 59), fill=0)
    word = Word(text="w", box=(0.1, 0.1, 0.3, 0.15))
    assert uncovered(image, [word]) == 0
    assert uncovered(image, []) == 1
    draw.rectangle((40, 240, 119, 299), fill=0)
    assert uncovered(image, [word]) == pytest.approx(0.75, abs=0.05)
    assert uncovered(Image.new("L", (40, 40), 255), []) == 0
