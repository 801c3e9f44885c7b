"""Office files as PDF, by LibreOffice where it is installed (decision 070): their pages are then those of a PDF.

`worker` runs this module in processes of its own, within its limits of memory and time. LibreOffice runs in the
worker's process group, which is ended as a whole. It sees a copy of the file alone, with a fresh profile in which
macros do not run and nothing that a file links to is loaded: by itself it fetches linked pictures from the network and
from other files.
"""

import ctypes
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from omnitune.documents.read import pdf
from omnitune.documents.read.markup import read_blocks
from omnitune.documents.read.pages import Description, Page, Rendering
from omnitune.documents.read.text import terms
from omnitune.errors import DocumentError
from omnitune.folders import scratch
from omnitune.io import printable
from omnitune.runtime import end_group

SECONDS, SECONDS_PER_MEGABYTE = 120.0, 10.0
"""Longest that a file may take: 113 pages of text take 3 s, and twice as long on a busy machine."""

START_SECONDS = 30.0
"""Longest that LibreOffice may take to name its version: usually 0.4."""

MOST_WRITTEN = 1 << 30
"""Bytes of the PDF, or of any other file that it writes."""

MOST_CUT = 0.02
"""Share of the different words of a workbook that its print may lack."""

_EMPTY = {"nan", "nat", "unnamed"}
"""Words that markitdown gives of cells without content."""

_HEADS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"{\\rtf")
"""Of Office Open XML and OpenDocument, of the older Office formats, of RTF."""

_UNNAMED = re.compile(r"(?:Slide|Sheet|Diapo\w*|Folie|Tabelle|Feuil\w*|Hoja|Foglio)[ _]?\d+")
"""Titles that slides and sheets without a title have in the outline."""

_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
{}</oor:items>
"""
_SETTING = (
    '<item oor:path="/org.openoffice.Office.Common/Security/Scripting">'
    '<prop oor:name="{}" oor:op="fuse"><value>{}</value></prop></item>\n'
)
_SAFE = {
    "DisableMacrosExecution": "true",
    "MacroSecurityLevel": "3",
    "DisableActiveContent": "true",
    "BlockUntrustedRefererLinks": "true",  # of pictures and other parts, whether files or addresses
}

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_unshare = getattr(ctypes.CDLL(None), "unshare", None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LibreOffice:
    """The LibreOffice of this machine.

    Attributes:
        program: Path of `soffice`.
        version: Such as "LibreOffice 7.4.7.2".
    """

    program: str
    version: str


def installed() -> LibreOffice | None:
    """Find LibreOffice on the PATH; None where it is not there.

    Raises:
        DocumentError: It is there and does not start; says why.
    """
    if sys.platform == "win32":  # a worker and what it starts cannot be ended there as one
        return None
    program = shutil.which("soffice") or shutil.which("libreoffice")
    return None if program is None else _started(program)


@functools.lru_cache(8)
def _started(program: str) -> LibreOffice:
    with scratch("omnitune-office-") as folder:
        said = _run(program, ["--version"], folder, seconds=START_SECONDS)
    found = re.search(r"LibreOffice \d[\d.]*\d", said)
    if found is None:
        raise DocumentError(f"{program} --version says {_last_line(said)}, which is no version")
    return LibreOffice(program=program, version=found[0])


def describe(path: Path, rendering: Rendering) -> Description:
    """Convert a file as `rendering.conversion` says, and describe the PDF; its outline is that of the file.

    Raises:
        DocumentError: It is no office file, or LibreOffice makes no PDF of it.
    """
    program, made = rendering.conversion[0], Path(rendering.conversion[1])
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith(_HEADS) or (head.startswith(_HEADS[0]) and not zipfile.is_zipfile(path)):
        # It would be read as plain text.
        raise DocumentError(f"{path.name}: not a {path.suffix.lower()} file, or a damaged one")
    with tempfile.TemporaryDirectory(prefix="profile-", dir=made.parent) as name:
        folder = Path(name)
        settings = "".join(_SETTING.format(*row) for row in _SAFE.items())
        (folder / "user").mkdir()
        (folder / "user" / "registrymodifications.xcu").write_text(_PROFILE.format(settings), encoding="utf-8")
        # A copy under a plain name: names may be no UTF-8, and a relative link must not lead to a file beside it.
        copy = folder / f"document{path.suffix.lower()}"
        (_fitted if copy.suffix == ".xlsx" else shutil.copyfile)(path, copy)
        asked = ["--headless", "--norestore", "--convert-to", "pdf", "--outdir", str(folder), str(copy)]
        said = _run(program, asked, folder)
        written = copy.with_suffix(".pdf")
        if not written.is_file():
            raise DocumentError(f"{path.name}: no PDF came of it ({_last_line(said)})")
        written.replace(made)
    try:
        found = pdf.describe(made)
    except DocumentError as error:
        reason = str(error).removeprefix(f"{made.name}: ")
        raise DocumentError(f"{path.name}: what came of it is no PDF that can be read ({reason})") from error
    if path.suffix.lower() == ".xlsx":
        _check_words(path, made)
    return replace(
        found, outline=tuple(entry for entry in found.outline if not _UNNAMED.fullmatch(entry.title.strip()))
    )


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Make pages of the PDF that `describe` left (see `pdf.pages`)."""
    del path
    return pdf.pages(Path(rendering.conversion[1]), start, stop, folder, rendering)


def _check_words(path: Path, made: Path) -> None:
    """Refuse the print of a workbook that lacks words: what is wider than its cell is cut off.

    Raises:
        DocumentError: It lacks more than `MOST_CUT` of them.
    """
    try:
        cells = [block.text for block in read_blocks(path) if not block.level]  # names of sheets are not printed
        wanted = {word for text in cells for word in terms(text) if word.isalpha()} - _EMPTY
    except DocumentError:  # markitdown does not read it, or is not there: the print is all there is
        return
    with pdf.opened(made) as document:
        shown = {word for page in document for word in terms(page.get_textpage().get_text_range())}
    cut = len(wanted - shown)
    if cut > MOST_CUT * len(wanted):
        raise DocumentError(
            f"{path.name}: its print lacks {cut:,} of its {len(wanted):,} words, cut off by cells that are too narrow"
        )


def _fitted(path: Path, copy: Path) -> None:
    """Copy a workbook so that its sheets are as wide as a page, where its author has not said how they are printed.

    Printed as it is, the columns of a wide sheet are dealt out to several pages, each without the others.
    """
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            data = source.read(part)
            if re.fullmatch(r"xl/worksheets/[^/]+\.xml", part.filename):
                data = _fit(data)
            target.writestr(part.filename, data)


def _fit(sheet: bytes) -> bytes:
    if b"fitToPage" in sheet:  # its author has said how it is printed
        return sheet
    sheet = re.sub(rb"<pageSetup\b[^>]*/>", b"", sheet)
    setup = b'<pageSetup orientation="landscape" fitToWidth="1" fitToHeight="0"/>'
    sheet, margins = re.subn(rb"(<pageMargins\b[^>]*/>)", rb"\1" + setup, sheet, count=1)
    if not margins:
        sheet = re.sub(rb"(</sheetData>|<sheetData\s*/>)", rb"\1" + setup, sheet, count=1)
    fit = b'<pageSetUpPr fitToPage="1"/>'
    if b"<sheetPr" in sheet:
        sheet = re.sub(rb"<sheetPr\b([^>]*)/>", rb"<sheetPr\1></sheetPr>", sheet, count=1)
        return re.sub(rb"<pageSetUpPr\b[^>]*/>", b"", sheet).replace(b"</sheetPr>", fit + b"</sheetPr>", 1)
    return re.sub(rb"(<worksheet\b[^>]*>)", rb"\1<sheetPr>" + fit + b"</sheetPr>", sheet, count=1)


def _run(program: str, arguments: list[str], folder: Path, seconds: float | None = None) -> str:
    """Run LibreOffice with `folder` as its profile; returns what it says.

    Args:
        program: Path of `soffice`.
        arguments: Of the program.
        folder: Of its profile, its temporary files and its home.
        seconds: How long it may take, in a process group of its own; None leaves it in that of the worker, which ends
            as a whole.

    Raises:
        DocumentError: It cannot be run, or takes too long.
    """
    environment = {"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile(dir=folder) as output:
        try:
            process = subprocess.Popen(
                [program, f"-env:UserInstallation={folder.as_uri()}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=seconds is not None,
                preexec_fn=None if seconds is not None else _confine,
            )
        except OSError as error:
            raise DocumentError(f"{program} cannot be run ({error.strerror})") from error
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise DocumentError(f"{program} takes longer than {seconds:g} s") from error
        finally:
            if seconds is not None:
                end_group(process)
                process.wait()
        output.seek(0)
        return output.read(1 << 16).decode("utf-8", "replace")


def _confine() -> None:
    """Bound the files that the process writes and, where the system lets it, take its network away."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_WRITTEN, MOST_WRITTEN))
    if _unshare is not None and _unshare(_CLONE_NEWNET):  # only root may; others get a user namespace with it
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _last_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip() and "javaldx" not in line]
    return printable(lines[-1].strip(), lines=False) if lines else "it says nothing"
