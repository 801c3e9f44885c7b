"""Office files become pages as LibreOffice draws them; where it fails, as we do, and that is said."""

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from documents.read.test_office import write_docx
from fixtures.tiny_pdfs import Sheet, write_folder, write_pdf
from omnitune.documents import prepare
from omnitune.documents.folder import read_folder
from omnitune.documents.queries.extract import written_queries
from omnitune.documents.read import libreoffice, worker
from omnitune.documents.read.pages import Rendering, read_words
from omnitune.errors import DatasetError
from omnitune.finetune.dataset import prepare_step
from omnitune.finetune.recipe import Recipe

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="office files are drawn there by omnitune alone")

SCRIPT = """#!/bin/sh
case "$*" in *--version*) {version}; exit;; esac
for file; do :; done
echo "$HOME $*" >> {folder}/calls
mode() {{ grep -aq "$1" "$file"; }}
if mode HANG; then sleep 300 & echo $! > {folder}/sleeper; wait; fi
if mode FAIL; then echo "Error: source file could not be loaded"; exit; fi
if mode CRASH; then kill -SEGV $$; fi
if mode GARBAGE; then echo no PDF > "${{file%.*}}.pdf"; exit; fi
cp "$HOME/user/registrymodifications.xcu" {folder}/settings
cp {folder}/converted.pdf "${{file%.*}}.pdf"
"""
NAMED = "echo 'LibreOffice 9.8.7.6 50(Build:3)'"
SMALL = Rendering(width=200)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a `soffice` on the PATH that does what the text of a file asks, and says a version; returns its folder."""

    def install(version: str = NAMED) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        sheets = [Sheet(title, ["The seal is greased every month."]) for title in ("Greasing seals", "Spare bearings")]
        write_pdf(folder / "converted.pdf", [*sheets, Sheet("Slide 3", ["More."])])
        (folder / "soffice").write_text(SCRIPT.format(folder=folder, version=version))
        (folder / "soffice").chmod(0o755)
        libreoffice._started.cache_clear()
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder

    return install


def docx(path: Path, text: str = "The pump is greased every month.") -> Path:
    path.parent.mkdir(exist_ok=True)
    return write_docx(path, [("Heading1", "Handbook of pumps"), ("Normal", text)])


def is_gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_pages_outline_and_words_are_those_of_the_pdf(tmp_path: Path, fake: Callable[..., Path]) -> None:
    folder, name = fake(), os.fsdecode(b"caf\xe9 -v.docx")
    docx(tmp_path / "in" / name)
    docx(tmp_path / "in" / "a.odt", "Another text.")
    documents, skipped = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert not skipped and [one.drawn_by for one in documents] == ["LibreOffice 9.8.7.6"] * 2
    document = documents[1]
    assert [page.text.split("\n")[0].strip() for page in document.pages] == [
        "Greasing seals",
        "Spare bearings",
        "Slide 3",
    ]
    assert [entry.title for entry in document.outline] == ["Greasing seals", "Spare bearings"], "no unnamed slides"
    assert [query.text for query in written_queries(document)] == ["Greasing seals", "Spare bearings"]
    assert read_words(document.pages[0].image, tmp_path / "out" / "images")[0].text == "Greasing"
    home, *words = (folder / "calls").read_text().split("\n")[0].split(" ")
    assert words[-1].startswith(f"{home}/document.") and home != os.environ.get("HOME")
    assert not Path(home).exists(), "the profile is left behind"
    settings = (folder / "settings").read_text()
    assert all(name in settings for name in libreoffice._SAFE)

    again, _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert again == documents and len((folder / "calls").read_text().splitlines()) == 2
    fake("echo 'LibreOffice 10.1 50'")
    newer, _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert {one.drawn_by for one in newer} == {"LibreOffice 10.1"} and newer[0].key != documents[0].key


def test_what_it_does_not_convert_is_drawn_and_said_once(
    tmp_path: Path, fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fake()
    monkeypatch.setattr(libreoffice, "SECONDS", 1.0)
    monkeypatch.setattr(worker, "SECONDS_PER_PAGE", 3.0)
    for name in ("crash", "fail", "garbage", "hang", "sound"):
        docx(tmp_path / "in" / f"{name}.docx", name.upper())
    (tmp_path / "in" / "torn.docx").write_text("no Word file")
    docx(tmp_path / "in" / "only.odt", "FAIL")
    documents, skipped = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    failed = {
        "crash.docx": "LibreOffice failed: no PDF came of it (it says nothing)",
        "fail.docx": "LibreOffice failed: no PDF came of it (Error: source file could not be loaded)",
        "garbage.docx": "LibreOffice failed: what came of it is no PDF that can be read (not a PDF, or a damaged one)",
        "hang.docx": "LibreOffice failed: reading it takes longer than 3 s",
    }
    assert {one.name: one.fallback for one in documents if one.fallback} == failed
    assert {one.name for one in documents if one.drawn_by} == {"sound.docx"}
    assert documents[0].outline[0].title == "Handbook of pumps"
    assert is_gone(int((folder / "sleeper").read_text())), "what LibreOffice started goes on"
    reasons = {one.name: one.reason for one in skipped}
    assert reasons["only.odt"] == failed["fail.docx"]
    assert reasons["torn.docx"].startswith("not a .docx file that can be read")
    for name, reason in failed.items():
        said = f"{name}: drawn by omnitune as text, because {reason}"
        assert [record.getMessage() for record in caplog.records].count(said) == 1


def test_one_that_does_not_start_or_is_not_wanted_draws_nothing(
    tmp_path: Path, fake: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    docx(tmp_path / "in" / "a.docx")
    docx(tmp_path / "alone" / "a.odt", "Another text.")
    fake("echo 'error while loading shared libraries'")
    documents, _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert documents[0].drawn_by == "" and not documents[0].fallback
    assert "because LibreOffice does not start: " in caplog.text and "shared libraries" in caplog.text
    caplog.clear()
    monkeypatch.setattr(libreoffice, "START_SECONDS", 0.2)
    fake("sleep 300")
    assert read_folder(tmp_path / "in", tmp_path / "out", SMALL)[0] == documents
    assert "soffice takes longer than 0.2 s" in caplog.text
    fake()
    assert read_folder(tmp_path / "in", tmp_path / "out", Rendering(width=200, office="drawn"))[0] == documents
    with pytest.raises(DatasetError, match="LibreOffice alone reads .odt files: install it and prepare with office="):
        read_folder(tmp_path / "alone", tmp_path / "out", Rendering(width=200, office="drawn"), workers=1)


def test_it_ends_with_a_caller_that_was_killed(tmp_path: Path, fake: Callable[..., Path]) -> None:
    folder = fake()
    docx(tmp_path / "in" / "a.docx", "HANG")
    code = "import sys; from pathlib import Path; from omnitune.documents.folder import read_folder\n"
    code += "from omnitune.documents.read.pages import Rendering\n"
    code += f"read_folder(Path({str(tmp_path / 'in')!r}), Path({str(tmp_path / 'out')!r}), Rendering(), workers=1)"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (folder / "sleeper").is_file() or not (folder / "sleeper").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_gone(int((folder / "sleeper").read_text()))


def test_a_dataset_says_what_drew_its_documents(tmp_path: Path, fake: Callable[..., Path]) -> None:
    fake()
    write_folder(tmp_path / "in", ["garden", "kitchen"])
    docx(tmp_path / "in" / "pump.docx")
    docx(tmp_path / "in" / "torn.docx", "FAIL")
    made = prepare(tmp_path / "in", tmp_path / "out", width=200, test=["pump"], show_progress=False, workers=1)
    assert made.facts["drawn_by"] == {"LibreOffice 9.8.7.6": 1, "omnitune": 1}
    assert "office files drawn by LibreOffice 9.8.7.6: 1, office files drawn by omnitune: 1" in made.summary()
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "- drawn by LibreOffice 9.8.7.6: 1\n" in card and "- `torn.docx`: LibreOffice failed: no PDF came of it" in card
    )
    assert "- `office`: auto" in card
    assert made.test_queries == ["Greasing seals", "Spare bearings"]


def test_a_run_prepares_again_where_libreoffice_is_new(tmp_path: Path, fake: Callable[..., Path]) -> None:
    docx(tmp_path / "in" / "a.docx")
    asked: list[dict[str, object]] = []

    def noted(_: str, inputs: dict[str, object], *__: object, **___: object) -> None:
        asked.append(inputs)
        raise KeyboardInterrupt

    steps = SimpleNamespace(folder=tmp_path, run=noted)
    for version, recipe in (
        ("1.1", Recipe()),
        ("1.1", Recipe()),
        ("1.2", Recipe()),
        ("1.2", Recipe(prepare={"office": "drawn"})),
    ):
        fake(f"echo LibreOffice {version}")
        with pytest.raises(KeyboardInterrupt):
            prepare_step(steps, tmp_path / "in", recipe, print)  # type: ignore[arg-type]  # what it needs of steps
    first, second, newer, drawn = [json.dumps(one, default=str) for one in asked]
    assert first == second != newer != drawn and "LibreOffice" not in drawn


# --- with a real one --------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")


@pytest.fixture
def asked_for() -> Iterator[tuple[str, list[str]]]:
    """Address of a server of this machine, and the requests that reach it."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_OPTIONS = do_PROPFIND = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


@real
def test_it_draws_headings_and_loads_nothing_that_is_linked(
    tmp_path: Path, asked_for: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libreoffice, "_unshare", None)  # the settings alone must do
    address, requests = asked_for
    office = "urn:oasis:names:tc:opendocument:xmlns"
    (tmp_path / "in").mkdir()
    picture = '<text:p><draw:frame svg:width="5cm" svg:height="5cm"><draw:image xlink:href="{}"/></draw:frame></text:p>'
    with zipfile.ZipFile(tmp_path / "in" / "a.odt", "w") as file:
        file.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        file.writestr(
            "content.xml",
            f'<office:document-content xmlns:office="{office}:office:1.0" xmlns:text="{office}:text:1.0" '
            f'xmlns:draw="{office}:drawing:1.0" xmlns:svg="{office}:svg-compatible:1.0" '
            'xmlns:xlink="http://www.w3.org/1999/xlink" office:version="1.2"><office:body><office:text>'
            '<text:h text:outline-level="1">Greasing the seal</text:h><text:p>It is greased every month.</text:p>'
            f"{picture.format(address + '/a.png')}</office:text></office:body></office:document-content>",
        )
        file.writestr(
            "META-INF/manifest.xml",
            f'<m:manifest xmlns:m="{office}:manifest:1.0" m:version="1.2"><m:file-entry m:full-path="/" '
            'm:media-type="application/vnd.oasis.opendocument.text"/><m:file-entry m:full-path="content.xml" '
            'm:media-type="text/xml"/></m:manifest>',
        )
    ((document,), skipped) = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert not skipped and document.drawn_by.startswith("LibreOffice ")
    assert [query.text for query in written_queries(document)] == ["Greasing the seal"]
    assert "It is greased every month." in document.pages[0].text
    assert requests == []


@real
def test_a_workbook_is_as_wide_as_a_page_or_is_drawn(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    (tmp_path / "in").mkdir()
    for name, width in (("narrow", 6), ("wide", 24)):
        book = openpyxl.Workbook()
        for row in range(2):
            book.active.append(
                [f"{word} of the pump" for word in ("Bearing", "Impeller", "Gasket", "Housing")] * 3 + [row]
            )
        for column in "ABCDEFGHIJKL":
            book.active.column_dimensions[column].width = width
        book.save(tmp_path / "in" / f"{name}.xlsx")
    (narrow, wide), _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert narrow.drawn_by == "" and narrow.fallback.startswith("LibreOffice failed: its print lacks ")
    assert wide.drawn_by.startswith("LibreOffice ") and len(wide.pages) == 1
    assert wide.pages[0].text.count("Housing of the pump") == 6
