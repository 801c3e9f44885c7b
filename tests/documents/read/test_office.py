"""Word, PowerPoint, Excel, HTML, Markdown, e-mail and text become pages with headings, words and images."""

import os
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures.tiny_pdfs import write_folder
from omnitune.documents import prepare
from omnitune.documents.folder import list_folder, read_folder
from omnitune.documents.queries.extract import written_queries
from omnitune.documents.read import markup, office
from omnitune.documents.read.markup import Block, parse_markdown, read_blocks
from omnitune.documents.read.pages import Page, Rendering
from omnitune.documents.read.text import sentences
from omnitune.errors import DocumentError, MissingExtraError

MARKDOWN = """# Pump *handbook*

Grease the [bearing](https://example.org/(a)) **every
month**, not `daily`.

Seals
-----

| part | price |
|------|------:|
| seal | 3 |

* one
* two

```
x = 1
    y = 2
```
"""
NESTED_MAIL = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(1200))
BLOCKS = [
    Block(text="Pump handbook", level=1),
    Block(text="Grease the bearing every month, not daily."),
    Block(text="Seals", level=2),
    Block(text="part | price"),
    Block(text="seal | 3"),
    Block(text="* one"),
    Block(text="* two"),
    Block(text="x = 1", code=True),
    Block(text="    y = 2", code=True),
]


def write_docx(path: Path, paragraphs: list[tuple[str, str]]) -> Path:
    """A Word file of paragraphs, each with its style."""
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    names = {"Heading1": "heading 1", "Heading2": "heading 2", "HTMLPreformatted": "HTML Preformatted"}
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{style}"><w:name w:val="{name}"/></w:style>'
        for style, name in names.items()
    )
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{kind}.document.main+xml"/>'
        f'<Override PartName="/word/styles.xml" ContentType="{kind}.styles+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "word/document.xml": f"<w:document {w}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f"<w:styles {w}>{styles}</w:styles>",
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, text in parts.items():
            file.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)
    return path


def drawn(path: Path, folder: Path, **parts: int) -> list[Page]:
    return list(office.pages(path, 0, office.describe(path).pages, folder, Rendering(**parts)))


def test_markdown_is_taken_apart() -> None:
    assert list(parse_markdown(MARKDOWN)) == BLOCKS
    assert list(parse_markdown(MARKDOWN.replace("\n", "\r\n"))) == BLOCKS


@given(st.text(alphabet=st.sampled_from("ab #*_`|-=[]()!<>\\\n\t1."), max_size=200))
def test_any_text_is_markdown(text: str) -> None:
    for block in parse_markdown(text):
        assert "\n" not in block.text


def test_text_that_looks_like_markdown_is_text(tmp_path: Path) -> None:
    lines = ["# a comment", "A_B_C and *_B", "1. May", "- 3 degrees", "[x](y) &amp; z"]
    texts = [line.replace("&amp;", "&") for line in lines]
    code = [("HTMLPreformatted", "# compile"), ("HTMLPreformatted", "  make all")]
    pytest.importorskip("markitdown")
    word = write_docx(tmp_path / "a.docx", [*(("Normal", line) for line in lines), *code])
    assert read_blocks(word) == [
        *(Block(text=text) for text in texts),
        Block(text="# compile", code=True),
        Block(text="  make all", code=True),
    ]
    page = tmp_path / "a.html"
    page.write_text(
        "".join(f"<p>{line}</p>" for line in lines) + "<table><tr><th>a | b</th><td>c_d_e</td></tr></table>"
    )
    assert read_blocks(page) == [*(Block(text=text) for text in texts), Block(text="a | b | c_d_e")]


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.xlsx", "a.html", "a.eml", "a.txt", "a.md"])
def test_every_kind_of_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.docx":
        write_docx(path, [("Heading1", "Seal of the pump"), ("Normal", "Grease it every month.")])
    elif name == "a.pptx":
        pptx = pytest.importorskip("pptx")
        show = pptx.Presentation()
        for title in ("Seal of the pump", "Bearing of the pump"):
            slide = show.slides.add_slide(show.slide_layouts[1])
            slide.shapes.title.text, slide.placeholders[1].text = title, "Grease it every month."
        show.save(path)
    elif name == "a.xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        book.active.title = "Seal of the pump"
        book.active.append(["Grease it every month.", 3])
        book.save(path)
    else:
        path.write_text(
            {
                "a.html": "<h1>Seal of the pump</h1><p>Grease it <i>every</i> month.</p><script>x</script>",
                "a.eml": "Subject: Seal of the pump\nContent-Type: text/plain\n\nGrease it every month.\n",
                "a.txt": "Seal of the pump\n\nGrease it\nevery month.",
                "a.md": "# Seal of the pump\n\nGrease it every month.",
            }[name]
        )
    blocks = [block for block in read_blocks(path) if block.text]
    assert blocks[0] == Block(text="Seal of the pump", level=0 if name == "a.txt" else 2 if name == "a.xlsx" else 1)
    assert any("Grease it every month." in block.text for block in blocks)
    assert not any("script" in block.text for block in blocks)
    found = drawn(path, tmp_path / "i")
    assert len(found) == (2 if name == "a.pptx" else 1)
    assert office.describe(path).outline[:1] == () or found[0].lines[0].bold


def test_a_long_text_has_pages_that_are_full_and_words_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    sections = [f"## Section {n}\n\n" + f"The seal number {n} is greased every month. " * 40 for n in range(12)]
    path.write_text("# Handbook\n\n" + "\n\n".join(sections) + "\n\n" + "x" * 500)
    found = drawn(path, tmp_path / "i", width=400)
    assert len(found) > 3 and [page.number for page in found] == list(range(1, len(found) + 1))
    entries = office.describe(path).outline
    assert [entry.title for entry in entries] == ["Handbook", *(f"Section {n}" for n in range(12))]
    for entry in entries:
        assert entry.title in found[(entry.page or 0) - 1].text
    assert all("month" in page.text for page in found[:-1])
    for page in found:
        with Image.open(tmp_path / "i" / page.image) as image:
            assert image.size == (400, 566)
            word = page.words[len(page.words) // 2]
            box = [round(edge * side) for edge, side in zip(word.box, (400, 566, 400, 566), strict=True)]
            assert image.convert("L").crop(tuple(box)).getextrema()[0] < 200, word
        assert all(0 <= edge <= 1 for word in page.words for edge in word.box)
        assert page.uncovered < 0.1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.docx", b"no word", "a.docx: not a .docx file that can be read"),
        ("a.txt", b"", "a.txt: the file is empty"),
        ("a.txt", b" \n ", "a.txt: there is no text in it"),
        ("a.html", b"<p></p>", "a.html: there is no text in it"),
        ("a.xlsx", b"PK\x03\x04cut", "a.xlsx: not a .xlsx file that can be read"),
        ("a.eml", NESTED_MAIL, "a.eml: its parts are nested too deeply to be read"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError, match=f"^{reason}"):
        office.describe(tmp_path / name)


@pytest.mark.parametrize("mark", ["[", "<!--", " **a", "Fig. "])
def test_no_text_takes_the_square_of_its_length(mark: str) -> None:
    """A file of 100,000 opening brackets took a minute, and one of abbreviations longer, in the caller's process."""
    text = (mark * 40_000)[:40_000] + "x"
    begun = time.process_time()
    for block in (*parse_markdown(text), *parse_markdown("# " + text), *markup._plain(text)):
        sentences(block.text)
    assert time.process_time() - begun < 5


def test_a_text_that_is_too_long_or_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_docx(tmp_path / "a.docx", [("Normal", "Grease it every month.")])
    monkeypatch.setattr(markup, "MOST_LETTERS", 10)
    with pytest.raises(DocumentError, match=r"^a.docx: expected at most 10 letters, got \d+; split it"):
        read_blocks(path)

    def require(package: str, *, extra: str) -> None:
        raise MissingExtraError(f"{package} is needed: pip install 'omnitune[{extra}]'")

    monkeypatch.setattr(markup, "require", require)
    with pytest.raises(DocumentError, match=r"^a.docx: markitdown is needed: pip install 'omnitune\[office\]'"):
        read_blocks(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Prüfung".encode(), "Prüfung"),
        ("Prüfung".encode("latin-1"), "Prüfung"),
        ("Prüfung".encode("utf-16"), "Prüfung"),
        ("\ufeffPrüfung".encode(), "Prüfung"),
    ],
)
def test_text_files_of_any_encoding(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_blocks(tmp_path / "a.txt") == [Block(text=expected)]


def test_headings_of_a_word_file_are_queries(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = "The seal of the pump is greased every month with the grease of the table. " * 8
    parts = [("Heading1", "Handbook of pumps"), ("Heading2", "Greasing the seal"), ("Normal", text)]
    write_docx(tmp_path / "in" / "a.docx", parts)
    ((document,), skipped) = read_folder(
        tmp_path / "in", tmp_path / "out", Rendering(width=300, office="drawn"), workers=1
    )
    assert not skipped
    assert [query.text for query in written_queries(document)] == ["Handbook of pumps", "Greasing the seal"]


def test_office_files_beside_pdfs_are_one_dataset(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["garden", "kitchen"])
    (tmp_path / "in" / "README.md").write_text("# About this folder")
    (tmp_path / "in" / "licences").mkdir()
    (tmp_path / "in" / "licences" / "GPL.txt").write_text("Licence")
    sections = "\n\n".join(f"## {title}\n\nMore about {title.lower()}." for title in ("Rigging sails", "Tying knots"))
    (tmp_path / "in" / "boat.md").write_text(f"# Boats\n\n{sections}")
    listing = list_folder(tmp_path / "in")
    assert list(listing.paths) == ["boat.md", "garden.pdf", "kitchen.pdf"]
    assert listing.others == {".md": 1, ".txt": 1}
    made = prepare(tmp_path / "in", tmp_path / "out", width=200, test=["boat"], show_progress=False, workers=1)
    assert "Rigging sails" in made.test_queries
    assert made.texts["boat.md#1"].startswith("Boats")
    assert made.words_of("boat.md#1")[0].text == "Boats"


def test_texts_beside_recordings_are_no_documents(tmp_path: Path) -> None:
    for name in ("a.wav", "a.txt", "notes.docx", "page.html"):
        (tmp_path / name).write_bytes(b"x")
    listing = list_folder(tmp_path)
    assert listing.kind.name == "recordings" and list(listing.paths) == ["a.wav"]
    assert listing.others == {".docx": 1, ".html": 1}
    assert list(list_folder(tmp_path, "pages").paths) == ["a.txt", "notes.docx", "page.html"]


def test_a_name_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(name)).write_text("Grease it every month.")
    (page,) = drawn(Path(os.fsdecode(name)), tmp_path / "i")
    assert page.text == "Grease it every month."
