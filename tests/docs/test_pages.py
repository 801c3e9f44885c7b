"""Pages say what is so: their Python runs, their commands parse, the errors they explain exist."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from datasets import Dataset
from PIL import Image

from fixtures.tiny_pdfs import write_folder
from omnitune import Retriever, SentenceTransformer
from omnitune.cli.main import app
from omnitune.retrieval.stages import DenseStage, LexicalStage

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/[tg]*/*.md"))]
BLOCK = re.compile(r"^```(python|bash)([^\n]*)\n(.*?)^```", re.M | re.S)


def blocks(language: str) -> list[Any]:
    """Blocks of all pages with the line where each begins; one marked `no-run: why` is not run."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match[1] == language and "no-run:" not in match[2]:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match[3], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder as the pages assume it: a run with a retriever in it."""
    desk = tmp_path_factory.mktemp("desk")
    page = {"id": "pump.pdf#12", "document": "pump.pdf", "page": 12, "text": "Grease the bearing every week."}
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    Retriever.build([page], [LexicalStage(), DenseStage(model=model)]).save(desk / "run" / "retriever")
    return desk


def triplets(*_: Any, **__: Any) -> Dataset:
    image = Image.new("RGB", (56, 56), "white")
    return Dataset.from_dict({"query": ["a fox", "a map"], "image": [image] * 2, "negative_0": [image] * 2})


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(
    code: str, desk: Path, tiny_bert: Path, tiny_qwen3_vl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setattr("datasets.load_dataset", triplets)
    # A tiny model of the same kind stands for one of a hub, with dimensions that it has.
    for shown, tiny in {
        "Qwen/Qwen3-VL-Embedding-2B": tiny_qwen3_vl,
        "colbert-ir/colbertv2.0": tiny_bert,
        "path/to/model": tiny_bert,
        "path/to/reranker": tiny_bert,
        "path/or/name": tiny_bert,
        "[2048, 1536, 1024, 512, 256, 128, 64]": "[32, 16]",
        "bf16=True": "bf16=True, use_cpu=True",
        "28 * 28": "16 * 16",
        "600 * 600": "64 * 64",
    }.items():
        code = code.replace(shown, str(tiny))
    exec(compile(code, "page", "exec"), {"__name__": "__main__"})  # noqa: S102 - the pages are ours


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path: Path, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "manuals", ["kitchen", "workshop"])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)  # noqa: S102 - the notebooks are ours
    if "after" in names:
        assert names["after"] >= names["before"]


@pytest.mark.parametrize("code", blocks("bash"))
def test_commands_parse(code: str) -> None:
    command = typer.main.get_command(app)
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["omnitune"]:
            context = command.make_context("omnitune", words[1:], resilient_parsing=False)
            name, sub, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            sub.make_context(name, rest, parent=context)


def test_explained_errors_exist() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("src/**/*.py"))
    # Sentences are cut into literals at any place, so quotes and line ends between them do not count.
    source = re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", source))
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sentences = re.findall(r"^\*\*`(.*?)`\*\*", page, re.M)
    assert len(sentences) >= 10
    assert [sentence for sentence in sentences if sentence not in source] == []


def test_pages_link_to_what_is_there() -> None:
    missing = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                missing.append((page.name, target))
    assert not missing


def test_tests_that_a_page_names_exist() -> None:
    named = [(page.name, *found) for page in PAGES for found in re.findall(r"`([\w/]+\.py)::(\w+)`", page.read_text())]
    assert len(named) > 100
    sources = {path: (ROOT / "tests" / path).read_text() for _, path, _ in named}
    assert [one for one in named if f"def {one[2]}(" not in sources[one[1]]] == []
