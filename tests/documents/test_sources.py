"""Folders of documents that were noted: only those that this user noted count, and nothing outside of them is found."""

import os
import shutil
from pathlib import Path

import pytest

from omnitune.documents.sources import FILE, find_document, note_source, signed_sources
from omnitune.io import read_json, write_json


def test_only_notes_of_this_user_count_wherever_they_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, first, second = tmp_path / "run", tmp_path / "first", tmp_path / os.fsdecode(b"caf\xe9")
    for folder in (place, first, second):
        folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for folder in (first, Path(os.path.relpath(second)), first):
        note_source(place, folder)
    shutil.copytree(place, tmp_path / "moved")
    assert signed_sources(tmp_path / "moved") == [first, second]
    notes = read_json(place / FILE)
    forged = [{"folder": str(tmp_path), "signature": notes[0]["signature"]}, {"folder": "/etc"}, 7, {"folder": 7}]
    for one in ("0" * 64, "é\ud800", None, 7):
        write_json(place / FILE, [{"folder": "/etc", "signature": one}, *forged, *notes])
        assert signed_sources(place) == [first, second]
    (place / FILE).write_text("[{")
    assert signed_sources(place) == []
    assert oct((Path(os.environ["XDG_STATE_HOME"]) / "omnitune" / "key").stat().st_mode)[-3:] == "600"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other user"))
    assert signed_sources(tmp_path / "moved") == []


def test_without_a_place_for_the_key_or_the_note_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    note_source(tmp_path / "file", tmp_path)  # no folder to write to
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    note_source(tmp_path, tmp_path)
    assert not (tmp_path / FILE).exists() and signed_sources(tmp_path) == []


def test_a_key_that_a_kill_cut_off_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    key = tmp_path / "state" / "omnitune" / "key"
    key.parent.mkdir(parents=True)
    for torn in (b"", b"12"):
        key.write_bytes(torn)
        note_source(tmp_path, tmp_path)
        assert signed_sources(tmp_path) == [tmp_path] and oct(key.stat().st_mode)[-3:] == "600"


def test_documents_are_found_by_their_printed_names_and_never_outside(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.pdf").touch()
    strange = old / "sub" / os.fsdecode(b"caf\xe9\n.pdf")
    strange.touch()
    secret = tmp_path / "secret.pdf"
    secret.touch()
    (new / "link.pdf").symlink_to(secret)
    (new / "sub" / "sub").mkdir()
    (new / r"sub\sub").symlink_to(secret)
    (new / "out").symlink_to(tmp_path)
    folders = [tmp_path / "gone", new, old]
    assert find_document(folders, "sub/a.pdf") == new / "sub" / "a.pdf"
    assert find_document(folders, r"sub/caf\xe9\n.pdf") == strange
    for name in ("../secret.pdf", "sub/../../secret.pdf", "link.pdf", "out/secret.pdf", r"sub\sub", str(secret), "",
                 "sub", ".", "sub//a.pdf", "a\0.pdf", "\ud800.pdf", r"..\secret.pdf", "x" * 5000):  # fmt: skip
        assert find_document(folders, name) is None, name
