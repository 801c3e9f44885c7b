"""The search page's routes: rankings, reasons, neighbours, recordings, images, and the page in a browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

import httpx

from fixtures.browser import Browser
from fixtures.recordings import tone, wav
from fixtures.servers import data_uri, error, post, running
from omnitune import MultiVectorEncoder, Retriever, SentenceTransformer
from omnitune.documents.read.pages import Word, write_words
from omnitune.modules import MultiVectorMask, Normalize, Transformer
from omnitune.retrieval.reasons import boxes_of, reason_of, sentences
from omnitune.retrieval.stages import DenseStage, LateStage
from omnitune.serve.run import open_served
from omnitune.serve.served import Served


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A run that was moved: pages of a manual whose words lie beside their images, and a segment of a recording."""
    root = tmp_path_factory.mktemp("search")
    images = root / "run" / "dataset" / "images" / "ab"
    images.mkdir(parents=True)
    (root / "files").mkdir()
    for place in (images / "sound.wav", root / "files" / "talk.wav"):
        place.write_bytes(wav(tone(440)))
    for name in ("one.png", "two.png", "sound.jpg"):
        Image.new("RGB", (60, 80), "white").save(images / name)
    placed = enumerate(["Grease", "the", "bearing"])
    words = [Word(text=text, box=(0.1 * at, 0.2, 0.1 * at + 0.1, 0.3)) for at, text in placed]
    write_words(words, "two.png", images)
    pages: list[dict[str, Any]] = [
        {"id": "pump.pdf#1", "page": 1, "text": "Contents. Safety first.", "path": "/gone/ab/one.png"},
        {"id": "pump.pdf#2", "page": 2, "text": "Stop it. Grease the bearing", "path": "/gone/ab/two.png"},
        {"id": "talk.wav#1", "page": 1, "times": "0:02-0:05", "text": "the oven", "path": "/gone/ab/sound.wav"},
    ]
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    stages = [LateStage(model=model), DenseStage(model=model)]
    Retriever.build(pages, stages, show_progress=False).save(root / "run" / "retriever")
    return root / "run"


def test_rankings_neighbours_words_and_recordings(run: Path) -> None:
    with running(open_served(str(run), documents=run.parent / "files")) as (url, _):
        facts = httpx.get(f"{url}/info").json()
        assert facts["rankings"] == ["chosen", "lexical", "late", "dense"] and facts["rerank"] is None
        assert facts["fusion"] == {"method": "z", "weights": {"late": 1.0, "dense": 1.0}}
        by = {}
        for ranking in ("chosen", "lexical", "late", "dense"):
            asked = {"q": "grease the bearing", "ranking": ranking}
            by[ranking] = httpx.get(f"{url}/search", params=asked).json()["hits"]
        assert [hit["id"] for hit in by["lexical"]] == ["pump.pdf#2", "talk.wav#1"]  # "the" is in both, and in no other
        assert set(by["dense"][0]["stages"]) == {"dense"} and set(by["chosen"][0]["ranks"]) == {"late", "dense"}
        assert [hit["ranks"]["late"] for hit in by["late"]] == [1, 2, 3]
        page = next(hit for hit in by["chosen"] if hit["id"] == "pump.pdf#2")
        assert [box[0] for box in page["boxes"]] == ["Grease", "the", "bearing"]
        assert [one["id"] for one in page["neighbours"]] == ["pump.pdf#1"]
        assert httpx.get(url + page["image"]).headers["content-type"] == "image/png"
        talk = next(hit for hit in by["chosen"] if hit["id"] == "talk.wav#1")
        assert talk["playing"] == {"kind": "audio", "start": 2.0, "source": "/documents/talk.wav#t=2,5"}
        part = httpx.get(f"{url}/documents/talk.wav", headers={"Range": "bytes=0-3"})
        assert part.status_code == 206 and part.content == b"RIFF" and "inline" in part.headers["content-disposition"]
        assert httpx.get(f"{url}/segments/talk.wav%231").headers["content-type"] == "audio/wav"
        assert httpx.get(f"{url}/pages/talk.wav%231").headers["content-type"] == "image/jpeg"
        assert httpx.get(f"{url}/segments/pump.pdf%231").status_code == 404
        assert "ranking: expected one of" in error(f"{url}/search", query="a", ranking="best")
        why = httpx.get(f"{url}/why", params={"q": "grease the bearing", "page": "pump.pdf#2"}).json()
        assert (why["sentence"], why["by"]) == ("Grease the bearing", "late")
        assert httpx.get(f"{url}/why", params={"q": "a", "page": "nothing"}).status_code == 404
        assert "opens no address" in error(f"{url}/search", image="/etc/passwd")


def test_sentences_and_their_places() -> None:
    assert sentences("Stop the pump. Grease\nit weekly.\n\nEnd") == ["Stop the pump.", "Grease it weekly.", "End"]
    assert max(map(len, sentences("a row of numbers\n" * 100))) <= 320
    placed = [[word, at, 0, at + 1, 1] for at, word in enumerate(["Stop.", "Grease", "it,", "Stop", "it"])]
    assert [box[1] for box in boxes_of("Stop it", placed)] == [3, 4]
    assert boxes_of("Stop grease", placed) == [placed[0], placed[1]]
    assert boxes_of("grease stop", placed) == []  # rather nothing than the wrong words


def test_an_image_finds_pages_and_the_patches_say_why(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    modules = [Transformer(str(tiny_qwen3_vl)), MultiVectorMask(), Normalize("token_embeddings")]
    model = MultiVectorEncoder(modules=modules, device="cpu")
    rng = np.random.default_rng(0)
    pages = []
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        pages.append({"id": f"a.pdf#{number}", "page": number, "path": str(tmp_path / f"{number}.png"), "text": ""})
    retriever = Retriever.build(
        pages, [LateStage(model=model, reads="path", windows=False, pooled=0)], show_progress=False
    )
    patches = reason_of(retriever, "a table", "a.pdf#1").patches
    assert len({len(line) for line in patches}) == 1 and max(map(max, patches)) == 1 and min(map(min, patches)) == 0
    with running(Served("pages", retriever=retriever)) as (url, _):
        assert httpx.get(f"{url}/info").json()["image_queries"]
        hits = post(f"{url}/search", image=data_uri(Image.open(tmp_path / "2.png")))["hits"]
        assert {hit["id"] for hit in hits} == {"a.pdf#0", "a.pdf#1", "a.pdf#2"} and hits[0]["words"] == []


@pytest.mark.slow
def test_the_page_shows_all_of_it_on_a_phone(run: Path, browser: Browser) -> None:
    with running(open_served(str(run), documents=run.parent / "files")) as (url, _):
        browser.open(f"{url}/?q=grease+the+bearing&ranking=lexical", width=390, height=844)
        browser.wait("document.querySelectorAll('.sentence').length === 2")
        page = browser.run("document.documentElement.outerHTML")
    assert '<option value="lexical">' in page and page.count("<li ") == 2
    assert 'rare words count more (BM25)">lexical</abbr> no. 1' in page
    assert "How these were found" in page and "One stage alone ordered the hits. All of it took" in page
    assert 'class="snippet sentence"' in page
    assert '<audio controls="" preload="metadata" src="/documents/talk.wav#t=2,5"' in page
    assert 'alt="page 1"' in page and "<i " in page and "<b style" in page
