"""A file that lies, loops or grows costs the page it is on, in bounded time and memory; all else is read."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from fixtures import hostile_pdfs
from omnitune.documents.folder import read_folder
from omnitune.documents.read import pdf, worker
from omnitune.documents.read.pages import Rendering, read_words
from omnitune.documents.read.worker import Job, PagesRead, Worker
from omnitune.errors import DocumentError

SMALL = Rendering(width=200)
READER = "omnitune.documents.read.pdf"


def pages_of(path: Path, stop: int, folder: Path, **parts: int) -> PagesRead:
    one = Worker()
    try:
        found = one.do(Job(reader=READER, path=str(path), stop=stop, folder=str(folder), rendering=SMALL, **parts))
    finally:
        one.close()
    assert isinstance(found, PagesRead)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no limit of a process's data")
@pytest.mark.parametrize("kind", ["calls itself", "zeros"])
def test_a_page_that_asks_for_all_memory_is_stopped_at_the_limit(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pdf"
    hostile_pdfs.calls_itself(path) if kind == "calls itself" else hostile_pdfs.zeros(path, 300)
    found = pages_of(path, 1, tmp_path, memory=256 << 20)
    assert [one.reason for one in found.lost] == ["page 1: reading it takes more than 0.25 GB of memory"]


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no limit of a process's data")
def test_a_worker_cannot_hold_more_than_its_limit() -> None:
    code = "from omnitune.documents.read.worker import limit_memory; limit_memory(256 << 20); bytearray(300 << 20)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1].startswith("MemoryError")


def test_a_deadline_is_a_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile_pdfs.slow(tmp_path / "a.pdf", operators=8_000_000)
    monkeypatch.setattr(worker, "SECONDS_PER_PAGE", 4.0)
    started = time.monotonic()
    found = pages_of(path, 4, tmp_path)
    assert [page.number for page in found.pages] == [1, 3, 4]
    assert [(one.number, one.reason) for one in found.lost] == [(2, "page 2: reading it takes longer than 4 s")]
    assert time.monotonic() - started < 60


def test_a_count_of_pages_that_lies_is_compared_with_the_pages(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    hostile_pdfs.texts(tmp_path / "in" / "a.pdf", 5, claimed=1_000_000)
    started = time.monotonic()
    ((document,), skipped) = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert [page.number for page in document.pages] == [1, 2, 3, 4, 5] and not skipped
    assert [one.reason for one in document.lost] == ["page 6: the file says it has 1,000,000 pages, 5 are there"]
    assert time.monotonic() - started < 60


def test_a_page_that_is_not_there_is_named_and_the_others_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    hostile_pdfs.texts(tmp_path / "in" / "a.pdf", 4, kids=[3, 999, 7, 9])
    ((document,), _) = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert [page.number for page in document.pages] == [1, 3, 4]
    assert [one.number for one in document.lost] == [2]
    assert "a.pdf: left out page 2 cannot be loaded" in caplog.text
    again, _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    assert again == [document]


def test_a_tree_that_names_one_page_too_often_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MOST_PAGES", 10)
    path = hostile_pdfs.texts(tmp_path / "a.pdf", 1, kids=[3] * 11)
    with pytest.raises(DocumentError, match="^a.pdf: expected at most 10 pages, got 11; split it"):
        pdf.describe(path)


def test_a_page_of_too_many_letters_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile_pdfs.texts(tmp_path / "a.pdf", 1)
    monkeypatch.setattr(pdf, "MOST_LETTERS", 20)
    with pytest.raises(DocumentError, match=r"^page 1: expected at most 20 letters, got \d+"):
        list(pdf.pages(path, 0, 1, tmp_path, SMALL))


def test_none_of_the_pages_is_there(tmp_path: Path) -> None:
    path = hostile_pdfs.texts(tmp_path / "a.pdf", 1, kids=[99, 98])
    with pytest.raises(DocumentError, match="^a.pdf: none of its 2 pages can be loaded"):
        pdf.describe(path)


def test_a_bookmark_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    broken = b"<FEFFD83D>"  # half a surrogate pair
    path = hostile_pdfs.outlined(tmp_path / "a.pdf", [b"(Oiling the pump)", broken, b"(Changing the seal)"])
    assert [entry.title for entry in pdf.describe(path).outline] == ["Oiling the pump", "Changing the seal"]


def test_an_outline_has_all_its_levels(tmp_path: Path) -> None:
    path = hostile_pdfs.outlined(tmp_path / "a.pdf", [b"(Level %d)" % n for n in range(40)], nested=True)
    found = pdf.describe(path).outline
    assert [(entry.title, entry.level) for entry in found] == [(f"Level {n}", n) for n in range(40)]


def test_the_values_of_a_form_are_drawn_and_read(tmp_path: Path) -> None:
    (page,) = pdf.pages(hostile_pdfs.form(tmp_path / "a.pdf"), 0, 1, tmp_path, Rendering(width=400))
    for value in ("Surname:", "Grossmann", "Wuppertal", "Reviewed in March"):
        assert value in page.text
    with Image.open(tmp_path / page.image) as image:
        for left, top in ((120, 35), (120, 85), (20, 180)):
            assert image.convert("L").crop((left, top, left + 100, top + 20)).getextrema()[0] < 100
    place = next(word.box for word in page.words if word.text == "Grossmann")
    assert 0.29 < place[0] < 0.32 and 0.11 < place[1] < place[3] < 0.19


def test_words_are_kept_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    hostile_pdfs.texts(tmp_path / "in" / "a.pdf", 1)
    ((document,), _) = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    words = read_words(document.pages[0].image, tmp_path / "out" / "images")
    assert [word.text for word in words][:4] == ["This", "is", "page", "number"]
    left, top, right, bottom = words[0].box
    assert left == pytest.approx(0.05, abs=0.01)  # 20 of 400 points
    assert 0.27 < top < bottom < 0.36  # the baseline stands 200 of 300 points above the lower edge
    assert right < words[1].box[0]
    damaged = tmp_path / "out" / "images" / document.pages[0].image.replace(".png", ".words.json")
    damaged.write_text('[["This"')
    assert read_words(document.pages[0].image, tmp_path / "out" / "images") == ()


def test_words_of_a_turned_page_stand_where_they_are_seen(tmp_path: Path) -> None:
    path = hostile_pdfs.texts(tmp_path / "a.pdf", 1)
    path.write_bytes(path.read_bytes().replace(b"/Type /Page /Parent", b"/Rotate 90 /Type /Page /Parent"))
    (page,) = pdf.pages(path, 0, 1, tmp_path, SMALL)
    assert page.height > page.width
    left, top, right, bottom = page.words[0].box
    assert 0.64 < left < right < 0.73 and top == pytest.approx(0.05, abs=0.01) and bottom > top
