"""A stranger's run names files outside of itself: none is opened, unless the user named its folder."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

import httpx
from typer.testing import CliRunner

from fixtures.recordings import tone, wav
from fixtures.servers import error, post, running
from omnitune import MultiVectorEncoder, Retriever
from omnitune.cli.main import app as command
from omnitune.documents.read.pages import Word, write_words
from omnitune.documents.sources import note_source
from omnitune.errors import DatasetError
from omnitune.io import read_json, write_json
from omnitune.modules import MultiVectorMask, Normalize, Transformer
from omnitune.places import PREPARED
from omnitune.retrieval.reasons import reason_of
from omnitune.retrieval.stages import LateStage, LexicalStage
from omnitune.serve.run import links_of, open_served


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder of the user: a page image with its words, a recording, a document, a file to write to."""
    place = tmp_path / "secrets"
    place.mkdir()
    Image.new("RGB", (60, 80), "red").save(place / "secret.png")
    write_words([Word(text="password", box=(0.1, 0.2, 0.3, 0.3))], "secret.png", place)
    (place / "secret.wav").write_bytes(wav(tone(440)))
    (place / "secret.pdf").write_bytes(b"%PDF-1.4 secret")
    (place / "profile").write_text("untouched")
    return place


@pytest.fixture
def run(tmp_path: Path, secrets: Path) -> Path:
    """The stranger's run, as it was unpacked."""
    made, place = tmp_path / "run", tmp_path / "run" / "retriever"
    (made / "dataset").mkdir(parents=True)
    place.mkdir()
    (place / "link.png").symlink_to(secrets / "secret.png")
    (place / "beside.wav").write_bytes(wav(tone(440)))
    (place / "beside.jpg").symlink_to(secrets / "secret.png")
    named = [
        str(secrets / "secret.png"),
        "../../secrets/secret.png",
        "link.png",
        str(secrets / "secret.wav"),
        "beside.wav",
    ]
    pages: list[dict[str, Any]] = [
        {"id": f"secret.pdf#{number}", "page": number, "text": "the password", "path": path}
        for number, path in enumerate(named)
    ]
    Retriever.build(pages, [LexicalStage()], show_progress=False).save(place)
    write_json(made / "dataset" / PREPARED, {"source": str(secrets)})
    (made / "feedback.jsonl").symlink_to(secrets / "profile")
    return made


def test_no_file_outside_of_a_strangers_run_is_shown(run: Path, secrets: Path) -> None:
    with running(open_served(str(run))) as (url, _):
        hits = httpx.get(f"{url}/search", params={"q": "password"}).json()["hits"]
        assert len(hits) == 5
        assert [hit["boxes"] for hit in hits] == [[]] * 5 and [hit["link"] for hit in hits] == [None] * 5
        assert {hit["id"] for hit in hits if hit["playing"]} == {"secret.pdf#4"}
        for number in range(5):
            assert httpx.get(f"{url}/pages/secret.pdf%23{number}").status_code == 404
        assert [httpx.get(f"{url}/segments/secret.pdf%23{number}").status_code for number in (3, 4)] == [404, 200]
        assert httpx.get(f"{url}/documents/secret.pdf").status_code == 404
        vote = {"query": "a", "page": "secret.pdf#1", "label": "yes", "rank": 1}
        assert "cannot be written" in error(f"{url}/feedback", 503, **vote)
    assert (secrets / "profile").read_text() == "untouched"


def test_a_folder_that_the_user_names_is_shown(run: Path, secrets: Path) -> None:
    with running(open_served(str(run), documents=secrets)) as (url, _):
        hits = post(f"{url}/search", query="password")["hits"]
        assert [box[0] for box in hits[0]["boxes"]] == ["password"] and hits[0][
            "link"
        ] == "/documents/secret.pdf#page=0"
        for number in (0, 1, 2, 4):
            assert httpx.get(f"{url}/pages/secret.pdf%23{number}").headers["content-type"].startswith("image/")
    opened = Retriever.open(run / "retriever", files=secrets)
    assert opened.search("password", explain=True)[0].boxes


def test_a_run_that_was_made_here_knows_its_documents(run: Path, secrets: Path, tmp_path: Path) -> None:
    served = open_served(str(run))
    assert served.documents == ()
    assert f"the run names {secrets}, but has no note that you made it" in links_of(served, str(run))
    assert f"the run names {secrets}" in links_of(served, str(run / "retriever"))
    note_source(run / "dataset", secrets)
    shutil.copytree(run, tmp_path / "other", symlinks=True)
    write_json(run / "dataset" / PREPARED, {"source": str(tmp_path)})
    assert [open_served(str(one)).documents for one in (run, tmp_path / "other")] == [(secrets,)] * 2


def test_a_sheet_shows_no_image_from_outside(run: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.html"
    result = CliRunner().invoke(command, ["search", str(run), "password", "--html", str(sheet)])
    assert result.exit_code == 0 and "data:image" not in sheet.read_text()


def test_no_patches_of_an_image_outside(tiny_qwen3_vl: Path, secrets: Path, tmp_path: Path) -> None:
    modules = [Transformer(str(tiny_qwen3_vl)), MultiVectorMask(), Normalize("token_embeddings")]
    stage = LateStage(model=MultiVectorEncoder(modules=modules, device="cpu"), reads="path", windows=False, pooled=0)
    page = {"id": "a.pdf#1", "page": 1, "path": str(secrets / "secret.png"), "text": ""}
    Retriever.build([page], [stage], show_progress=False).save(tmp_path / "retriever")
    assert not reason_of(Retriever.open(tmp_path / "retriever"), "a table", "a.pdf#1").patches
    assert reason_of(Retriever.open(tmp_path / "retriever", files=secrets), "a table", "a.pdf#1").patches


def test_no_segment_of_an_index_outside(run: Path, secrets: Path) -> None:
    place = run / "retriever" / "index"
    facts = read_json(place / "index.json")
    moved = secrets / "rows.safetensors"
    (place / facts["segments"][0]["name"]).rename(moved)
    for name in ("../../../secrets/rows.safetensors", str(moved)):
        facts["segments"][0]["name"] = name
        write_json(place / "index.json", facts)
        with pytest.raises(DatasetError, match="which leads out of it"):
            Retriever.open(run / "retriever").remove("secret.pdf#1")
    assert moved.is_file()
