"""The search page in a real browser: hits with boxes, players that seek, the map over a page, votes, and its keys."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from fixtures.browser import Browser
from fixtures.recordings import clip, frames, tone, wav
from fixtures.servers import running
from omnitune import MultiVectorEncoder, Retriever
from omnitune.documents.read.pages import Rendering
from omnitune.documents.read.video import describe
from omnitune.documents.read.video import pages as segments
from omnitune.modules import MultiVectorMask, Normalize, Transformer
from omnitune.retrieval.stages import LateStage, LexicalStage
from omnitune.serve.run import open_served
from omnitune.serve.served import Served

SHOWN = "document.querySelectorAll('#hits > li').length"
_READY = """[...document.querySelectorAll('audio, video')].map((one) => one.readyState > 1 && !one.seeking)"""


def shown(browser: Browser, address: str, count: int, **window: int) -> None:
    """Open a page and wait until it shows so many hits."""
    browser.requests.clear()
    browser.open(address, **window)
    browser.wait(f"document.readyState === 'complete' && {SHOWN} === {count}")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a recording and a clip of eight seconds, whose segments are kept as `omnitune prepare` keeps them."""
    root = tmp_path_factory.mktemp("media")
    files, kept = root / "files", root / "run" / "dataset" / "images"
    files.mkdir()
    (files / "talk.wav").write_bytes(wav(tone(440, 8.0)))
    moving = clip(files / "shots.webm", frames(96, side=96))
    rendering = Rendering(segments="windows", seconds=4.0)
    facts = describe(moving, rendering)
    made = list(
        segments(moving, 0, facts.pages, kept, Rendering(segments="windows", seconds=4.0, boundaries=facts.boundaries))
    )
    sound = kept / "ab" / "sound.wav"
    sound.parent.mkdir(exist_ok=True)
    sound.write_bytes(wav(tone(440, 3.0)))
    Image.new("RGB", (60, 40), "gray").save(sound.with_suffix(".jpg"))
    pages: list[dict[str, Any]] = [
        {"id": "talk.wav#1", "page": 1, "times": "0:02-0:05", "text": "a word about the pump", "path": str(sound)},
        {
            "id": "shots.webm#2",
            "page": 2,
            "times": made[1].label,
            "text": "the pump turns",
            "path": str(kept / made[1].image),
        },
    ]
    Retriever.build(pages, [LexicalStage()], show_progress=False).save(root / "run" / "retriever")
    return root / "run"


@pytest.mark.slow
def test_players_start_at_the_second(browser: Browser, media: Path) -> None:
    with running(open_served(str(media), documents=media.parent / "files")) as (url, _):
        shown(browser, f"{url}/?q=pump", 2)
        browser.wait(f"{_READY}.every(Boolean)")
        players = browser.run(
            "[...document.querySelectorAll('audio, video')].map((one) => [one.tagName, one.currentTime, one.duration])"
        )
        assert sorted(players) == [["AUDIO", 2, 8], ["VIDEO", 4, 8]]
        told = browser.run("document.querySelector('audio').play().then(() => 'plays', String)")
        assert told == "plays" and browser.wait("document.querySelector('audio').currentTime > 2.1")
        assert browser.run("document.querySelector('video').videoWidth") == 96
        assert not [one for one in browser.requests if not one.startswith((url, "data:"))]


@pytest.mark.slow
def test_segments_play_where_their_document_is_not_known(browser: Browser, media: Path) -> None:
    with running(open_served(str(media))) as (url, _):
        shown(browser, f"{url}/?q=pump", 2)
        browser.wait(f"{_READY}.every(Boolean)")
        players = browser.run(
            "[...document.querySelectorAll('audio, video')].map((one) => [one.tagName, one.currentTime, one.duration])"
        )
        assert [[one[0], one[1], round(one[2], 1)] for one in sorted(players)] == [["AUDIO", 0, 3], ["VIDEO", 0, 4]]
        assert browser.run("document.querySelector('video').videoWidth") == 96


@pytest.mark.slow
def test_the_map_lies_over_the_page(browser: Browser, tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    modules = [Transformer(str(tiny_qwen3_vl)), MultiVectorMask(), Normalize("token_embeddings")]
    model = MultiVectorEncoder(modules=modules, device="cpu")
    image = Image.new("RGB", (256, 320), "white")
    ImageDraw.Draw(image).rectangle((40, 60, 120, 140), fill="black")
    image.save(tmp_path / "page.png")
    page = {"id": "a.pdf#1", "page": 1, "path": str(tmp_path / "page.png"), "text": "a table"}
    retriever = Retriever.build(
        [page], [LateStage(model=model, reads="path", windows=False, pooled=0)], show_progress=False
    )
    with running(Served("pages", retriever=retriever, feedback=tmp_path / "feedback.jsonl")) as (url, _):
        shown(browser, f"{url}/?q=a+table", 1, width=390, height=844)
        size = browser.wait("((one) => one && [one.width, one.height])(document.querySelector('canvas'))")
        assert size[1] > size[0] > 1
        places = browser.run(
            "['canvas', 'figure img'].map((one) => document.querySelector(one).getBoundingClientRect().toJSON())"
        )
        assert all(abs(places[0][side] - places[1][side]) < 2 for side in ("left", "top", "right", "bottom"))
        drawn = browser.run(
            "((one) => [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data])"
            "(document.querySelector('canvas'))"
        )
        strength = np.array(drawn).reshape(-1, 4)[:, 3]
        assert strength.max() == 255 and strength.min() == 0
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")  # nothing to push aside
        for key in ("j", "y"):
            browser.press(key)
        browser.wait("document.querySelector('[data-key=y]').ariaPressed === 'true'")
        browser.press("/")
        assert browser.run("document.activeElement.id") == "query"
    kept = json.loads((tmp_path / "feedback.jsonl").read_text())
    assert (kept["query"], kept["page"], kept["label"]) == ("a table", "a.pdf#1", "yes")
