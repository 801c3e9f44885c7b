"""Ours runs every usual snippet of scripts; and so does Sentence Transformers, or the snippet would be none.

`snippets/*.txt` hold them, a cell each: `# %% name (setup)`. `LIB` stands for the library; `BI`, `CE` and `OUT` for a
dense checkpoint, a bare BERT for rerankers, and a new folder. A file that begins with an underscore is a setup.
"""

import re
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("snippets")
CELL = re.compile(r"^# %% (?P<name>[^(\n]+?)(?: \((?P<setup>\w+)\))?\n", re.MULTILINE)

REFUSED_BY_ST = {
    "fit a denoiser's data": "nltk is not installed",
    "fit a reranker by a loss": "its wrapper takes no prompt",
    "a model with encode alone": "mining asks a model for its card",
}
"""Snippets that Sentence Transformers 6.2.0 does not run here."""


def read() -> dict[str, str]:
    """Snippets by name, each with its setup in front."""
    head = (FOLDER / "_head.txt").read_text()
    found: dict[str, str] = {}
    for path in sorted(FOLDER.glob("[!_]*.txt")):
        text = path.read_text()
        cells = list(CELL.finditer(text))
        ends = [cell.start() for cell in cells[1:]] + [len(text)]
        for cell, end in zip(cells, ends, strict=True):
            setup = (FOLDER / f"_{cell['setup']}.txt").read_text() if cell["setup"] else ""
            assert cell["name"] not in found
            found[cell["name"]] = head + setup + text[cell.end() : end]
    return found


SNIPPETS = read()


def run(name: str, library: str, bi: Path, bare: Path, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"BI": str(bi), "CE": str(bare), "OUT": str(out), "__name__": "snippet"}
        exec(SNIPPETS[name].replace("LIB", library), given)


def test_there_are_enough() -> None:
    assert len(SNIPPETS) >= 87


@pytest.mark.parametrize("name", SNIPPETS)
def test_ours(
    name: str, st_bert_legacy: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(name, "omnitune", st_bert_legacy, tiny_bert, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", [name for name in SNIPPETS if name not in REFUSED_BY_ST])
def test_st(name: str, st_bert_legacy: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    run(name, "sentence_transformers", st_bert_legacy, tiny_bert, tmp_path / "out")
