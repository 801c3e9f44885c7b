"""A folder is read document by document: failures cost only themselves, and nothing is read twice."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from fixtures.tiny_pdfs import Sheet, write_folder, write_pdf
from omnitune.documents import folder as folder_module
from omnitune.documents.folder import counted, find_documents, key_of, list_folder, read_folder
from omnitune.documents.read.pages import Rendering
from omnitune.documents.read.worker import Job, Worker, Workers
from omnitune.errors import DatasetError, MissingExtraError, ResourceError

SMALL = Rendering(width=120)


def markers(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (store / "documents").glob("*.json")}


def test_documents_are_found_in_order_and_hidden_files_are_not(tmp_path: Path) -> None:
    for name in ("b.PDF", "a/z.pdf", "a/1.png", "notes.odg", ".hidden/c.pdf", ".d.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find_documents(tmp_path)]
    assert names == ["a/1.png", "a/z.pdf", "b.PDF"]


def test_a_folder_that_is_none_or_has_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manuals").mkdir()
    with pytest.raises(DatasetError, match=r"where nothing is; did you mean '.*/manuals'\?"):
        find_documents(tmp_path / "manual")
    (tmp_path / "notes.odg").touch()
    with pytest.raises(DatasetError, match="which is a file; name the folder that it lies in, such as"):
        find_documents(tmp_path / "notes.odg")
    with pytest.raises(DatasetError, match=r"found none but 1 other files \(1 .odg\); put some there, or name another"):
        find_documents(tmp_path)


def test_documents_keep_order_pages_outline_and_headings(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["kitchen", "garden"])
    Image.effect_noise((60, 80), 40).save(tmp_path / "in" / "scan.png")
    documents, skipped = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=2)
    assert skipped == []
    assert [document.name for document in documents] == ["garden.pdf", "kitchen.pdf", "scan.png"]
    garden, _, scan = documents
    assert [page.number for page in garden.pages] == [1, 2, 3, 4, 5]
    assert garden.pages[0].headings == ("Sowing tomatoes early",)
    assert garden.outline[1].title == "Pruning apple trees"
    assert garden.outline[1].page == 2
    assert scan.pages[0].text == ""
    assert all((tmp_path / "out" / "images" / page.image).is_file() for page in garden.pages)


def test_bad_documents_are_named_with_the_reason_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path / "in", ["garden"])
    (tmp_path / "in" / "broken.pdf").write_bytes(b"garbage")
    (tmp_path / "in" / "empty.pdf").touch()
    (tmp_path / "in" / "cut.png").write_bytes(b"\x89PNG\r\n")
    documents, skipped = read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    assert [document.name for document in documents] == ["garden.pdf"]
    assert [(one.name, one.reason.split(" (")[0]) for one in skipped] == [
        ("broken.pdf", "not a PDF, or a damaged one"),
        ("cut.png", "not an image that can be read"),
        ("empty.pdf", "the file is empty"),
    ]
    assert "skipped broken.pdf: not a PDF, or a damaged one" in caplog.text


def test_a_folder_of_bad_documents_only_is_an_error_that_lists_them(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"x")
    (tmp_path / "b.pdf").touch()
    with pytest.raises(DatasetError, match=r"(?s)none of the 2 documents.*a.pdf: not a PDF.*b.pdf: the file is empty"):
        read_folder(tmp_path, tmp_path / "out", SMALL)


def test_a_file_that_may_not_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "in", ["garden", "kitchen"])

    def refused(path: Path, rendering: Rendering, office: str) -> str:
        if path.name == "kitchen.pdf":
            raise PermissionError(13, "Permission denied", str(path))
        return key_of(path, rendering, office)

    monkeypatch.setattr(folder_module, "key_of", refused)
    documents, skipped = read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    assert [document.name for document in documents] == ["garden.pdf"]
    assert [one.reason for one in skipped] == ["the file cannot be opened (Permission denied)"]


def test_the_second_run_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "in", ["garden", "kitchen"])
    first = read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    monkeypatch.setattr(folder_module, "Workers", None)
    assert read_folder(tmp_path / "in", tmp_path / "out", SMALL) == first


def test_only_what_changed_is_read_again(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["garden", "kitchen"])
    read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    before = markers(tmp_path / "out")
    write_pdf(tmp_path / "in" / "garden.pdf", [Sheet("Entirely new", ["Other words."])])
    documents, _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    after = markers(tmp_path / "out")
    assert documents[0].pages[0].headings == ("Entirely new",)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1


def test_a_document_whose_images_are_gone_is_read_again(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["garden"])
    documents, _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    image = tmp_path / "out" / "images" / documents[0].pages[2].image
    image.unlink()
    read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    assert image.is_file()


def test_a_document_moved_or_renamed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "in", ["garden"])
    read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    (tmp_path / "in" / "garden.pdf").rename(tmp_path / "in" / "yard.pdf")
    monkeypatch.setattr(folder_module, "Workers", None)
    documents, _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    assert documents[0].name == "yard.pdf"


def test_the_width_is_part_of_the_key(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", [Sheet("A", [])])
    assert key_of(path, Rendering(width=100)) != key_of(path, Rendering(width=101))


def test_a_kind_has_the_settings_that_decide_it(tmp_path: Path) -> None:
    for name in ("a.pdf", "a.wav", "a.mp4"):
        (tmp_path / name).write_bytes(b"same")
    usual = Rendering(segments="windows")
    keys = {name: key_of(tmp_path / name, usual) for name in ("a.pdf", "a.wav", "a.mp4")}
    assert len(set(keys.values())) == 3

    def changed(rendering: Rendering) -> set[str]:
        return {name for name, key in keys.items() if key_of(tmp_path / name, rendering) != key}

    assert changed(dataclasses.replace(usual, width=100)) == {"a.pdf", "a.mp4"}
    assert changed(dataclasses.replace(usual, max_pixels=100)) == {"a.pdf"}
    assert changed(dataclasses.replace(usual, seconds=3.0)) == {"a.wav", "a.mp4"}
    assert changed(dataclasses.replace(usual, segments="silence", boundaries=(0.0, 1.0))) == {"a.wav", "a.mp4"}


def test_a_kind_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")

    def require(package: str, *, extra: str) -> None:
        raise MissingExtraError(f"{package}: pip install 'omnitune[{extra}]'")

    monkeypatch.setattr(folder_module, "require", require)
    with pytest.raises(MissingExtraError, match=r"av: pip install 'omnitune\[audio\]'"):
        read_folder(tmp_path, tmp_path / "out", SMALL)


def test_long_files_may_take_long_to_describe(tmp_path: Path) -> None:
    with (tmp_path / "a.mp4").open("wb") as file:
        file.truncate(50 << 20)
    (tmp_path / "a.pdf").write_bytes(b"x")
    jobs = [folder_module._job(tmp_path / name, SMALL) for name in ("a.mp4", "a.pdf")]
    assert [job.patience for job in jobs] == [500, 0]
    assert jobs[0].memory > jobs[1].memory


def test_a_killed_run_keeps_what_was_done(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["garden", "kitchen", "workshop"])
    many = [Sheet(f"Page {n}", [f"line {k} of page {n}" for k in range(20)]) for n in range(64)]
    write_pdf(tmp_path / "in" / "zz.pdf", many)
    script = (
        "from pathlib import Path\n"
        "from omnitune.documents.folder import read_folder\n"
        "from omnitune.documents.read.pages import Rendering\n"
        f"read_folder(Path({str(tmp_path / 'in')!r}), Path({str(tmp_path / 'out')!r}), Rendering(width=900), workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    until = time.monotonic() + 60
    while not (tmp_path / "out" / "documents").is_dir() or len(markers(tmp_path / "out")) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = markers(tmp_path / "out")
    assert 2 <= len(kept) < 4
    documents, skipped = read_folder(tmp_path / "in", tmp_path / "out", Rendering(width=900))
    assert [len(document.pages) for document in documents] == [5, 5, 5, 64]
    assert skipped == []
    assert kept.items() <= markers(tmp_path / "out").items()


# --- workers ----------------------------------------------------------------------------------------------------------

READER = """
import os, time
from omnitune.documents.read.pages import Description, Page

def describe(path, rendering):
    return Description(pages=int(path.read_text()))

def pages(path, start, stop, folder, rendering):
    for number in range(start + 1, stop + 1):
        if path.name == "crash.x" and number == 3:
            os._exit(7)
        if path.name == "raise.x":
            raise RuntimeError("surprising")
        if path.name == "hang.x" and number == 2:
            time.sleep(60)
        if path.name == "noisy.x":
            os.write(1, b"a library says something\\n")
        yield Page(number=number, label="", image=f"{path.stem}-{number}", width=1, height=1, fingerprint="")
"""


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "odd_reader.py").write_text(READER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "odd_reader"


def make(reader: str, path: Path, pages: int) -> Job:
    path.write_text(str(pages))
    return Job(reader=reader, path=str(path), start=0, stop=pages)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("crash.x", {3: r"page 3: its reader crashed \(exit code 7\)"}),
        ("hang.x", {2: r"page 2: reading it takes longer than 3 s"}),
        ("noisy.x", {}),
    ],
)
def test_a_page_that_takes_down_its_reader_costs_itself(
    tmp_path: Path, reader: str, name: str, lost: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnitune.documents.read.worker.SECONDS_PER_PAGE", 3.0)
    worker = Worker()
    read = worker.do(make(reader, tmp_path / name, 6))
    assert [page.number for page in read.pages] == [number for number in range(1, 7) if number not in lost]
    assert [one.number for one in read.lost] == list(lost)
    assert all(re.fullmatch(lost[one.number], one.reason) for one in read.lost)
    assert len(worker.do(make(reader, tmp_path / "good.x", 40)).pages) == 40
    worker.close()


def test_a_document_whose_pages_all_take_down_their_reader_is_given_up(tmp_path: Path, reader: str) -> None:
    worker = Worker()
    read = worker.do(make(reader, tmp_path / "raise.x", 2000))
    worker.close()
    assert not read.pages and len(read.lost) == 2000
    assert read.lost[0].reason == "page 1: its reader crashed (exit code 1: surprising)"
    assert read.lost[-1].reason == "page 2000: not tried, because 3 pages took down their reader"


def test_a_segment_that_is_missing_costs_its_document_and_not_the_folder(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_reader.py").write_text(
        READER.replace("pages=int(path.read_text()))", "pages=4, boundaries=(0.0, 1.0, 2.0, 3.0, 4.0))").replace(
            "range(start + 1, stop + 1)", "range(start + 1, stop + 1 - (path.name == 'short.x'))"
        )
    )
    monkeypatch.setitem(folder_module.READERS, ".x", reader)
    for name in ("short.x", "whole.x", "crash.x"):
        (tmp_path / name).write_text("4")
    documents, skipped = read_folder(tmp_path, tmp_path / "out", SMALL)
    assert [document.name for document in documents] == ["whole.x"]
    assert {one.name: one.reason for one in skipped} == {
        "short.x": "it has 4 segments by its times, and only 3 can be read",
        "crash.x": "its reader crashed (exit code 7)",
    }


def test_an_interrupted_run_does_not_wait_for_a_page_that_hangs(tmp_path: Path, reader: str) -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers[str](1) as pool:
        pool._threads.submit(pool._one, make(reader, tmp_path / "hang.x", 4))
        time.sleep(2)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 15


def test_workers_give_back_answers_with_their_keys(tmp_path: Path, reader: str) -> None:
    jobs = [(name, make(reader, tmp_path / f"{name}.x", 4)) for name in ("one", "crash", "two")]
    with Workers[str](2) as pool:
        results = dict(pool.run(jobs))
    assert [len(results[name].pages) for name in ("one", "crash", "two")] == [4, 3, 4]


def test_a_new_kind_of_document_is_one_row(tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(folder_module.READERS, ".x", reader)
    make(reader, tmp_path / "in.x", 20)
    (tmp_path / "raise.x").write_text("20")
    documents, skipped = read_folder(tmp_path, tmp_path / "out", SMALL)
    assert [(document.name, len(document.pages)) for document in documents] == [("in.x", 20)]
    assert [one.name for one in skipped] == ["raise.x"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"title": 5}', '{"title": "", "outline": [], "pages": []}']
)
def test_a_damaged_marker_means_not_done(tmp_path: Path, content: str) -> None:
    write_folder(tmp_path / "in", ["garden"])
    first = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    (marker,) = (tmp_path / "out" / "documents").glob("*.json")
    marker.write_text(content)
    assert read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1) == first


def test_a_marker_that_names_an_image_elsewhere_means_not_done(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["garden"])
    first = read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1)
    (marker,) = (tmp_path / "out" / "documents").glob("*.json")
    kept = json.loads(marker.read_text())
    Image.new("L", (9, 9)).save(tmp_path / "secret.png")
    kept["pages"][0]["image"] = "../../secret.png"
    marker.write_text(json.dumps(kept))
    assert read_folder(tmp_path / "in", tmp_path / "out", SMALL, workers=1) == first


def test_an_image_that_is_empty_is_made_again(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["garden"])
    documents, _ = read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    image = tmp_path / "out" / "images" / documents[0].pages[2].image
    image.write_bytes(b"")
    read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    assert image.stat().st_size


def test_names_are_bytes(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["garden"])
    odd = os.fsencode(tmp_path / "in") + b"/caf\xe9 \x1b[31m.pdf"
    os.rename(tmp_path / "in" / "garden.pdf", odd)
    (tmp_path / "in" / r"caf\xe9 \x1b[31m.pdf").write_bytes(Path(os.fsdecode(odd)).read_bytes())
    documents, skipped = read_folder(tmp_path / "in", tmp_path / "out", SMALL)
    assert [document.name for document in documents] == [r"caf\xe9 \x1b[31m.pdf", r"caf\xe9 \x1b[31m.pdf~"]
    assert not skipped


def test_other_files_are_counted_by_suffix(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.odg", "c/d.ODG", "e.zip", "LICENCE", ".hidden.odg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = list_folder(tmp_path)
    assert listing.others == {".odg": 2, ".zip": 1, "": 1}
    assert counted(listing.others) == "2 .odg, 1 without a suffix, 1 .zip"
    (tmp_path / "a.pdf").unlink()
    with pytest.raises(DatasetError, match=r"found none but 4 other files \(2 .odg, 1 without a suffix, 1 .zip\)"):
        list_folder(tmp_path)


def test_a_dataset_inside_the_folder_is_no_document(tmp_path: Path) -> None:
    for name in ("a.pdf", "ds/images/ab/x.png", "ds/tables/y", "ds/prepared.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in find_documents(tmp_path)] == ["a.pdf"]


def test_a_full_disk_stops_the_run(tmp_path: Path, reader: str) -> None:
    (tmp_path / "odd_reader.py").write_text(
        READER + "\nfrom omnitune.errors import ResourceError\n"
        "def describe(path, rendering):\n    raise ResourceError('the disk is full')\n"
    )
    worker = Worker()
    (tmp_path / "a.x").touch()
    with pytest.raises(ResourceError, match="the disk is full"):
        worker.do(Job(reader=reader, path=str(tmp_path / "a.x")))
    worker.close()


@pytest.mark.parametrize("reader", ["pdf", "images", "audio", "video", "office"])
def test_a_worker_imports_neither_torch_nor_datasets(reader: str) -> None:
    room = "omnitune.documents.read"
    code = f"import {room}.worker, {room}.{reader}, sys, json; print(json.dumps([*sys.modules]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    assert not {"torch", "datasets", "transformers"} & set(loaded)
