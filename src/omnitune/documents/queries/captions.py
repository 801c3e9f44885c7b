"""Captions of recordings and clips, as people wrote them into files beside those.

| file | what is in it |
|---|---|
| `talk.txt`, `talk.mp3.txt` | a caption a line, of the whole file; with a time before it, of what follows that time |
| `talk.md` | notes, of which the headings are captions, with or without a time |
| `talk.srt`, `talk.vtt`, `talk.en.vtt` | subtitles with their times |
| `captions.csv`, `manifest.csv`, `metadata.csv`, or `.jsonl`, in the folder itself | a row a caption: `file`, `caption`, and perhaps `start` and `end` |

What was said is told from what it is about: paragraphs, and subtitles that are punctuated, become sentences
(`Caption.spoken`), which are queries where nothing better is there.
"""  # noqa: E501 - a table row is one line

import csv
import html
import io
import itertools
import json
import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from omnitune.documents.read.text import printable, sentences, words
from omnitune.errors import DocumentError

MANIFESTS = ("captions", "manifest", "metadata")
"""Names of the files that hold captions of a whole folder, ending in `.csv` or `.jsonl`."""

FILE_COLUMNS = ("file", "file_name", "filename", "path", "audio", "video")
TEXT_COLUMNS = ("caption", "text", "transcription", "transcript", "sentence")

UNDERSTOOD = (
    "NAME.txt (a caption a line), NAME.md (headings), NAME.srt or NAME.vtt beside the file NAME.*, chapters inside it, "
    "or a captions.csv or captions.jsonl with the columns file, caption and perhaps start and end"
)

MOST_WORDS = 24
"""Words of a caption; a longer line of a text file is a paragraph of a transcript."""
PUNCTUATED = 1 / 3
"""Share of the cues that end as sentences do, from which subtitles are speech: a third or more of those of films and
talks, none of those that name chapters."""
PAUSE = 2.0
"""Seconds between two cues that end a sentence, whatever its punctuation."""

MOST_BYTES = 64 << 20
"""Of one file: a million rows. It is read as a whole, in the caller's process."""
MOST_PARTS = 100
"""Folders of an absolute path in a manifest that are compared: the last ones."""
MOST_CAPTIONS = 100_000
"""Of one recording or clip: a cue every two seconds for two days. Each is compared with every segment."""

_LANGUAGE = re.compile(r"\.[a-z]{2,3}(?:-[A-Za-z]+)?$")
_CLOCK = re.compile(r"(?:(?P<hours>\d{1,5}):)?(?P<minutes>\d{1,2}):(?P<seconds>\d{1,2}(?:[.,]\d+)?)")
_TIMES = re.compile(r"^\s*([\d:.,]+)\s*-->\s*([\d:.,]+)")
# What is between two marks does not repeat the first, or a line of opening brackets would take hours.
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_NO_SPEECH = re.compile(r"\[[^\[\]]*\]|^\s*\([^)]*\)\s*$|[♪♫]+")
"""Remarks about the sound: "[Music]", or "(applause)" alone in its line."""
_MARK = re.compile(r"^[(\[]?((?:\d{1,5}:)?\d{1,2}:\d{2}(?:[.,]\d+)?)[)\]]?(?:\s*[-–—:|]\s*|\s+)(?=\S)")
"""A time that a line begins with: "12:30 Bearings", "[0:12:30] - Bearings"."""
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S.*)$", re.MULTILINE)
_SENTENCE_ENDS = re.compile(r"[.!?…。！？][\"'”’)\]]*$")
_SPEAKER = re.compile(r"^\s*(?:>>+|-)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A text that someone wrote about a recording or clip, or a part of it.

    Attributes:
        text: In one line.
        start: Second at which the part begins; 0 where the whole is meant.
        end: Second at which it ends; infinity where the whole, or all that follows, is meant.
        spoken: Whether it is a sentence of what was said, not what someone wrote about it.
    """

    text: str
    start: float = 0.0
    end: float = math.inf
    spoken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """Contents of the caption files of a folder.

    Attributes:
        of: Captions by name of the document.
        broken: Files that cannot be read, and why; by name inside the folder.
        unmatched: By name of a manifest, the files that its rows name and that are not in the folder, a name a row.
    """

    of: Mapping[str, Sequence[Caption]]
    broken: Mapping[str, str]
    unmatched: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_captions(folder: Path, paths: Mapping[str, Path]) -> Captions:
    """Read the captions of the documents of a folder; of a file that is broken, none.

    Args:
        folder: Where they are.
        paths: The documents by name (see `folder.Listing`).
    """
    found: dict[str, list[Caption]] = {}
    broken: dict[str, str] = {}
    unmatched: dict[str, list[str]] = {}

    def take(path: Path, content: Iterable[tuple[str, Caption]]) -> bool:
        try:
            whole = [*content]
            for name, count in Counter(name for name, _ in whole).items():
                if count > MOST_CAPTIONS:
                    raise DocumentError(
                        f"expected at most {MOST_CAPTIONS:,} captions of one file, got {count:,} of {name}"
                    )
        except DocumentError as error:
            broken[printable(path.relative_to(folder).as_posix())] = str(error)
            return False
        for name, caption in whole:
            found.setdefault(name, []).append(caption)
        return True

    for path in _manifests(folder):
        strangers: list[str] = []
        if take(path, _of_manifest(path, folder, paths, strangers)) and strangers:
            unmatched[path.name] = strangers
    for path, name in _sidecars(paths):
        take(path, _of_sidecar(path, name))
    return Captions(of=found, broken=broken, unmatched=unmatched)


def caption_files(folder: Path, paths: Mapping[str, Path]) -> list[Path]:
    """List the files that `read_captions` reads."""
    return [*_manifests(folder), *(path for path, _ in _sidecars(paths))]


def lines(text: str) -> Iterator[Caption]:
    """Captions of a text file: one a line, of the whole recording or clip, or of what follows the time before it.

    A paragraph gives its sentences, because it is what was said.
    """
    timed = [(line, _MARK.match(line)) for line in map(str.strip, text.splitlines())]
    starts = sorted({seconds(mark[1]) for _, mark in timed if mark})
    following = dict(itertools.pairwise(starts))
    for line, mark in timed:
        start = seconds(mark[1]) if mark else 0.0
        end = following.get(start, math.inf) if mark else math.inf
        written = _plain(line[mark.end() :] if mark else line)
        spoken = len(words(written)) > MOST_WORDS
        for one in sentences(written) if spoken else [written]:
            if one:
                yield Caption(text=one, start=start, end=end, spoken=spoken)


def notes(text: str) -> Iterator[Caption]:
    """Captions of notes in Markdown: their headings, as `lines` takes them."""
    yield from lines("\n".join(title.rstrip().rstrip("#") for title in _HEADING.findall(text)))


def subtitles(text: str) -> Iterator[Caption]:
    """Captions of subtitles, SubRip or WebVTT, with their times.

    Raises:
        DocumentError: There is not a single cue, or one has a time that is none.
    """
    cues: list[tuple[str, str, list[str]]] = []
    spoken: list[str] | None = None  # lines of the cue that is open; none in the header, a note or a style
    for line in text.splitlines():
        times = _TIMES.match(line)
        if times is not None:
            if spoken and spoken[-1].strip().isdigit():  # without a blank line before it, the number of this cue
                spoken.pop()
            spoken = []
            cues.append((times[1], times[2], spoken))
        elif not line.strip():
            spoken = None
        elif spoken is not None:
            spoken.append(line)
    if not cues and text.strip():
        raise DocumentError("no subtitles in it: expected lines such as 00:01:02.000 --> 00:01:04.500")
    captions: list[Caption] = []
    for begin, stop, parts in cues:
        said = _plain(" ".join(_SPEAKER.sub("", line) for line in parts))
        start, end = seconds(begin), seconds(stop)
        if said and end > start:
            captions.append(Caption(text=said, start=start, end=end))
    closed = sum(_SENTENCE_ENDS.search(one.text) is not None for one in captions)
    yield from captions if closed < PUNCTUATED * len(captions) or not closed else _spoken(captions)


def _spoken(cues: Sequence[Caption]) -> Iterator[Caption]:
    """Join cues to sentences: until one ends as a sentence does, or a pause follows."""
    run: list[Caption] = []
    for cue, after in zip(cues, [*cues[1:], None], strict=True):
        run.append(cue)
        if after is None or _SENTENCE_ENDS.search(cue.text) or after.start - cue.end > PAUSE:
            text = " ".join(one.text for one in run)
            yield Caption(text=text, start=run[0].start, end=cue.end, spoken=True)
            run = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """A format of the files that hold the captions of one recording or clip each.

    Attributes:
        captions: Makes captions of the text of a file; raises `DocumentError` where it is broken.
        languages: Whether a language may stand before the ending, as in `talk.en.vtt`.
    """

    captions: Callable[[str], Iterable[Caption]]
    languages: bool = False


SIDECARS: Mapping[str, Sidecar] = {
    ".txt": Sidecar(captions=lines),
    ".md": Sidecar(captions=notes),
    ".srt": Sidecar(captions=subtitles, languages=True),
    ".vtt": Sidecar(captions=subtitles, languages=True),
}
"""Formats by the ending of their files. A new one is a row."""


def seconds(written: str | float | int) -> float:
    """A time in seconds: `"75.5"`, `"1:15.5"`, `"00:01:15,500"`.

    Raises:
        DocumentError: It is none.
    """
    text = str(written).strip()
    match = _CLOCK.fullmatch(text)
    if match is not None:
        whole = 3600 * int(match["hours"] or 0) + 60 * int(match["minutes"])
        return whole + float(match["seconds"].replace(",", "."))
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise DocumentError(f"expected a time such as 75.5 or 0:01:15.5, got {reprlib.repr(text)}")
    return found


def overlapped(caption: Caption, spans: Sequence[tuple[float, float]]) -> list[int]:
    """Find the segments of a caption: the one that it overlaps most, and those that it overlaps by half.

    Half of the shorter of the two is meant: a cue that runs over into the next segment by a word is not of both.

    Args:
        caption: With its times.
        spans: Starts and ends of the segments, in seconds.
    """
    shared = [min(caption.end, end) - max(caption.start, start) for start, end in spans]
    most = max(shared, default=0.0)
    if most <= 0:
        return []
    length = caption.end - caption.start
    first = shared.index(most)
    return [
        index
        for index, ((start, end), share) in enumerate(zip(spans, shared, strict=True))
        if index == first or (share > 0 and share >= 0.5 * min(length, end - start))
    ]


def _manifests(folder: Path) -> list[Path]:
    places = (folder / f"{name}{suffix}" for name in MANIFESTS for suffix in (".csv", ".jsonl"))
    return [path for path in places if path.is_file()]


def _sidecars(paths: Mapping[str, Path]) -> Iterator[tuple[Path, str]]:
    """Files with the captions of one document each, and its name."""
    called: dict[Path, dict[str, list[str]]] = {}
    for name, path in paths.items():
        for key in (path.stem, path.name):
            called.setdefault(path.parent, {}).setdefault(_spelled(key), []).append(name)
    for parent, documents in called.items():
        for path in sorted(one for one in parent.iterdir() if one.suffix.lower() in SIDECARS):
            stem = _spelled(path.name[: -len(path.suffix)])
            bare = _LANGUAGE.sub("", stem) if SIDECARS[path.suffix.lower()].languages else stem
            yield from ((path, name) for key in dict.fromkeys((stem, bare)) for name in documents.get(key, ()))


def _of_sidecar(path: Path, name: str) -> Iterator[tuple[str, Caption]]:
    yield from ((name, caption) for caption in SIDECARS[path.suffix.lower()].captions(_text(path)))


def _of_manifest(
    path: Path, folder: Path, paths: Mapping[str, Path], strangers: list[str]
) -> Iterator[tuple[str, Caption]]:
    """Captions by name of their document; what a row names that is no document is added to `strangers`."""
    whole = {_spelled(document.relative_to(folder).as_posix()): name for name, document in paths.items()}
    times = Counter(PurePosixPath(spelled).name for spelled in whole)
    bare = ((PurePosixPath(spelled).name, name) for spelled, name in whole.items())
    by_name = {spelled: name for spelled, name in bare if times[spelled] == 1} | whole
    matched = number = 0
    rows = _json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)
    for number, row in rows:
        known = {str(key).strip().lower(): value for key, value in row.items() if key is not None}
        file, text = (
            next((column for column in columns if column in known), None) for columns in (FILE_COLUMNS, TEXT_COLUMNS)
        )
        if file is None or text is None:
            raise DocumentError(f"expected columns 'file' and 'caption', got {sorted(known)} (row {number})")
        name = _document_named(str(known[file] or ""), by_name)
        if name is None:
            strangers.append(printable(str(known[file] or "")))
            continue
        matched += 1
        written = _plain(str(known[text] or ""))
        if written:
            try:
                start, end = (None if known.get(key) in (None, "") else seconds(known[key]) for key in ("start", "end"))
            except DocumentError as error:
                raise DocumentError(f"row {number}: {error}") from None
            caption = Caption(text=written, start=start or 0.0, end=math.inf if end is None else end)
            if caption.end <= caption.start:
                raise DocumentError(
                    f"row {number}: expected an end after the start {caption.start:g}, got {caption.end:g}"
                )
            yield name, caption
    if number and not matched:
        raise DocumentError(f"none of its rows names a file of the folder; the first names {strangers[0]!r}")


def _spelled(name: str) -> str:
    """A name as it is compared: composed letters, because a Mac writes them apart."""
    return unicodedata.normalize("NFC", name)


def _document_named(written: str, by_name: Mapping[str, str]) -> str | None:
    """The document that a row of a manifest means; an absolute path may be that of another machine."""
    spelled = _spelled(written.strip().replace("\\", "/"))
    while spelled.startswith("./"):
        spelled = spelled[2:]
    if not re.match(r"/|[A-Za-z]:|file:", spelled):
        return by_name.get(spelled)
    parts = spelled.split("/")[-MOST_PARTS:]
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((by_name[end] for end in ends if end in by_name), None)


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = _text(path)
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        yield from enumerate(csv.DictReader(io.StringIO(text), delimiter=delimiter), start=2)
    except csv.Error as error:
        raise DocumentError(f"no CSV that can be read: {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"row {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise DocumentError(f"row {number}: expected an object, got {type(row).__name__}")
        yield number, row


def _text(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would be waited for, a device read for ever
            raise DocumentError("expected a file, got a folder, a pipe or a device")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DocumentError(f"expected at most {MOST_BYTES >> 20} MB of captions, got more; split it")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DocumentError(f"the file cannot be opened ({error.strerror})") from None


def _plain(text: str) -> str:
    """Without markup and remarks about the sound, in one line."""
    return " ".join(_NO_SPEECH.sub(" ", html.unescape(_MARKUP.sub("", text))).split())
