"""Captions out of the files that people put beside recordings and clips."""

import json
import math
import os
import re
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnitune.documents.queries import captions
from omnitune.documents.queries.captions import SIDECARS, Caption, caption_files, overlapped, read_captions, seconds
from omnitune.errors import DocumentError

SRT = """1
00:00:01,000 --> 00:00:03,500
The <i>pump</i>
leaks &amp; drips

2
00:00:04,000 --> 00:00:05,000
[Music]

3
01:00:04,000 --> 01:00:05,250 X1:40 X2:600
- Close the valve
"""
VTT = """WEBVTT - a talk

NOTE nothing here

STYLE
::cue { color: red }

intro
00:01.000 --> 00:03.500 align:start
<v Anna>The pump leaks
"""


def paths(folder: Path, names: list[str]) -> dict[str, Path]:
    return {name: folder / name for name in names}


def found(text: str, suffix: str) -> list[tuple[str, float, float]]:
    return [(one.text, one.start, one.end) for one in SIDECARS[suffix].captions(text)]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_srt(ending: str) -> None:
    expected = [("The pump leaks & drips", 1.0, 3.5), ("Close the valve", 3604.0, 3605.25)]
    assert found(SRT.replace("\n", ending), ".srt") == expected


def test_vtt() -> None:
    assert found(VTT, ".vtt") == [("The pump leaks", 1.0, 3.5)]


def test_cues_without_a_blank_line_between_them() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nOne\n2\n00:00:02,000 --> 00:00:03,000\nTwo\n"
    assert found(text, ".srt") == [("One", 1.0, 2.0), ("Two", 2.0, 3.0)]
    assert found(text.replace("1\n", "", 1).replace("2\n", "", 1), ".vtt") == found(text, ".srt")


def test_txt_is_a_caption_a_line_of_the_whole() -> None:
    assert found("A dog barks (twice)\n\n  far away  \n(applause)\n", ".txt") == [
        ("A dog barks (twice)", 0, math.inf),
        ("far away", 0, math.inf),
    ]


def test_a_line_with_a_time_before_it_is_a_chapter() -> None:
    text = "A talk about pumps\n0:00 Welcome\n[1:30] - Greasing the bearing\n(1:02:03.5) Questions\n12:30\n"
    assert found(text, ".txt") == [
        ("A talk about pumps", 0, math.inf),
        ("Welcome", 0, 90),
        ("Greasing the bearing", 90, 3723.5),
        ("Questions", 3723.5, math.inf),
        ("12:30", 0, math.inf),
    ]


def test_notes_give_their_headings() -> None:
    text = "# Pumps\nNot this.\n## 2:00 Greasing the bearing ##\n#no heading\n"
    assert found(text, ".md") == [("Pumps", 0, math.inf), ("Greasing the bearing", 120, math.inf)]


def test_what_was_said_becomes_sentences() -> None:
    cues = ["So the bearing has to be", "greased once a week.", "Who has never", "done that? Well.", "and yet [noise]"]
    times = [(0, 2), (2, 4), (4, 5), (5, 7), (20, 21)]
    text = "".join(f"\n00:{a:02}.000 --> 00:{b:02}.000\n{cue}\n" for (a, b), cue in zip(times, cues, strict=True))
    assert [*SIDECARS[".vtt"].captions("WEBVTT\n" + text)] == [
        Caption(text="So the bearing has to be greased once a week.", start=0, end=4, spoken=True),
        Caption(text="Who has never done that? Well.", start=4, end=7, spoken=True),
        Caption(text="and yet", start=20, end=21, spoken=True),
    ]
    paragraph = "The bearing is greased once a week. " + "It is done slowly and with care by one who knows. " * 2
    assert [one.text for one in SIDECARS[".txt"].captions(paragraph)][0] == "The bearing is greased once a week."
    assert all(one.spoken for one in SIDECARS[".txt"].captions(paragraph))


def test_subtitles_without_cues() -> None:
    with pytest.raises(DocumentError, match="no subtitles in it: expected lines such as"):
        found("just words", ".srt")
    assert found("", ".srt") == []


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_times(hours: int, minutes: int, whole: int, thousandths: int) -> None:
    expected = 3600 * hours + 60 * minutes + whole + thousandths / 1000
    for mark in ".,":
        assert seconds(f"{hours:02}:{minutes:02}:{whole:02}{mark}{thousandths:03}") == pytest.approx(expected)
    assert seconds(str(expected)) == seconds(expected) == pytest.approx(expected)


@pytest.mark.parametrize("written", ["soon", "-3", "nan", "1:2:3:4", ""])
def test_what_is_no_time(written: str) -> None:
    with pytest.raises(DocumentError, match="expected a time such as 75.5 or 0:01:15.5, got"):
        seconds(written)


SPANS = [(0.0, 10.0), (10.0, 20.0), (20.0, 21.0)]


@pytest.mark.parametrize(
    ("start", "end", "places"),
    [
        (2, 4, [0]),
        (9, 12, [1]),  # a third of it is before the cut
        (8, 12, [0, 1]),  # a half each
        (15, 30, [1, 2]),  # all of the third segment, though little of the caption
        (0, math.inf, [0, 1, 2]),
        (5, math.inf, [0, 1, 2]),
        (21, 25, []),
        (40, 41, []),
    ],
)
def test_which_segments_a_caption_is_about(start: float, end: float, places: list[int]) -> None:
    assert overlapped(Caption(text="x", start=start, end=end), SPANS) == places


def test_sidecars_are_found_by_name(tmp_path: Path) -> None:
    names = ["a.mp3", "b.wav", "sub/a.mp3", "c.mp3"]
    (tmp_path / "sub").mkdir()
    files = {
        "a.txt": "of a",
        "b.wav.txt": "of b",
        "sub/a.srt": SRT,
        "c.pt-BR.vtt": VTT,
        "ab.txt": "no",
        "a.notes.txt": "no",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    known = read_captions(tmp_path, paths(tmp_path, names))
    assert {name: [one.text for one in some] for name, some in known.of.items()} == {
        "a.mp3": ["of a"],
        "b.wav": ["of b"],
        "sub/a.mp3": ["The pump leaks & drips", "Close the valve"],
        "c.mp3": ["The pump leaks"],
    }
    read = {path.relative_to(tmp_path).as_posix() for path in caption_files(tmp_path, paths(tmp_path, names))}
    assert read == {"a.txt", "b.wav.txt", "sub/a.srt", "c.pt-BR.vtt"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "file,start,end,caption\na.mp3,1,0:02.5,One\nsub/b.mp3,,,Two\ngone.mp3,,,Three\n"),
        ("manifest.csv", "\ufeffFile;Start;End;Text\n./a.mp3;1;2.5;One\nb.mp3;;;Two\n"),
        ("metadata.jsonl", '{"file_name": "a.mp3", "start": 1, "end": 2.5, "transcription": "One"}\n\n'
                           '{"file_name": "sub/b.mp3", "transcription": "Two"}\n'),
    ],
)  # fmt: skip
def test_manifests(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / name).write_text(text, encoding="utf-8")
    known = read_captions(tmp_path, paths(tmp_path, ["a.mp3", "sub/b.mp3"]))
    assert known.of == {
        "a.mp3": [Caption(text="One", start=1, end=2.5)],
        "sub/b.mp3": [Caption(text="Two", start=0, end=math.inf)],
    }
    assert not known.broken


def test_a_bare_name_that_two_files_have_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    (tmp_path / "captions.csv").write_text("file,caption\nb.mp3,Which\ny/b.mp3,This\n")
    known = read_captions(tmp_path, paths(tmp_path, ["x/b.mp3", "y/b.mp3"]))
    assert {name: [one.text for one in some] for name, some in known.of.items()} == {"y/b.mp3": ["This"]}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("captions.csv", b"name,words\na.mp3,x\n", r"expected columns 'file' and 'caption', got \['name', 'words'\]"),
        ("captions.csv", b"file,caption,start\na.mp3,x,soon\n", "row 2: expected a time such as 75.5"),
        ("captions.csv", b"file,caption,start,end\na.mp3,x,4,3\n", "row 2: expected an end after the start 4, got 3"),
        ("captions.csv", b"file,caption\nz.mp3,x\n", "none of its rows names a file of the folder; .* 'z.mp3'"),
        ("captions.jsonl", b'{"file": "a.mp3", "text": "x"}\n{"file"\n', "row 2 is no JSON"),
        ("captions.jsonl", b'["a.mp3", "x"]\n', "row 1: expected an object, got list"),
        ("a.txt", "über".encode("latin-1"), "not UTF-8: invalid start byte at byte 0"),
        ("a.srt", b"words", "no subtitles in it"),
        ("captions.csv", b'file,caption\na.mp3,"' + b"x" * 200_000 + b'"\n', "no CSV that can be read: field larger"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "b.txt").write_text("fine")
    known = read_captions(tmp_path, paths(tmp_path, ["a.mp3", "b.mp3"]))
    assert [one.text for one in known.of["b.mp3"]] == ["fine"]
    assert list(known.broken) == [name] and re.match(reason, known.broken[name])


def test_rows_are_matched_however_their_names_are_spelled(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    on_disk = ["Prüfung.mp3", "sub/b.mp3", "c.mp3", "d.mp3"]
    rows = [
        {"file": unicodedata.normalize("NFD", "Prüfung.mp3"), "caption": "One"},
        {"file": "sub\\b.mp3", "caption": "Two"},
        {"file": "/home/anna/talks/c.mp3", "caption": "Three"},
        {"file": "C:\\Users\\anna\\d.mp3", "caption": "Four"},
        {"file": "gone.mp3", "caption": "Five"},
        {"file": "elsewhere/c.mp3", "caption": "Six"},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    known = read_captions(tmp_path, paths(tmp_path, on_disk))
    assert {name: [one.text for one in some] for name, some in known.of.items()} == {
        "Prüfung.mp3": ["One"],
        "sub/b.mp3": ["Two"],
        "c.mp3": ["Three"],
        "d.mp3": ["Four"],
    }
    assert known.unmatched == {"captions.jsonl": ["gone.mp3", "elsewhere/c.mp3"]}


def test_sidecars_are_matched_however_their_names_are_spelled(tmp_path: Path) -> None:
    (tmp_path / (unicodedata.normalize("NFD", "Prüfung") + ".txt")).write_text("One")
    known = read_captions(tmp_path, paths(tmp_path, ["Prüfung.mp3"]))
    assert [one.text for one in known.of["Prüfung.mp3"]] == ["One"]


@pytest.mark.parametrize("suffix", SIDECARS)
@pytest.mark.parametrize(
    "line", ["<" * 30_000, "[" * 30_000, "{\\" * 30_000, "# a" + "#" * 30_000 + "b", "# a" + " " * 30_000 + "b"]
)
def test_a_line_of_opening_marks_takes_no_more_than_it_is_long(line: str, suffix: str) -> None:
    started = time.process_time()
    assert len(found(f"00:01.000 --> 00:02.000\n{line}\n", suffix)) < 3
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", ["talk.txt", "talk.srt", "captions.csv", "captions.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero") if kind == "device" else path.mkdir()
    read = read_captions(tmp_path, paths(tmp_path, ["talk.mp3"]))
    assert not read.of
    assert read.broken == ({name: "expected a file, got a folder, a pipe or a device"} if "talk" in name else {})


def test_more_captions_than_anyone_writes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "MOST_CAPTIONS", 3)
    monkeypatch.setattr(captions, "MOST_BYTES", 2000)
    (tmp_path / "a.txt").write_text("pump\n" * 4)
    (tmp_path / "b.srt").write_text("x" * 2001)
    (tmp_path / "c.txt").write_text(f"{'9' * 400}:00:01 pump\n{'1' * 999}:00:01 seal\n")
    (tmp_path / "captions.jsonl").write_text("[" * 1999)
    read = read_captions(tmp_path, paths(tmp_path, ["a.mp3", "b.mp3", "c.mp3"]))
    assert read.broken["a.txt"] == "expected at most 3 captions of one file, got 4 of a.mp3"
    assert read.broken["b.srt"] == "expected at most 0 MB of captions, got more; split it"
    assert read.broken["captions.jsonl"].startswith("row 1 is no JSON: ")
    assert [one.start for one in read.of["c.mp3"]] == [0, 0]
