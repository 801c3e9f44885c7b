"""Damaged inputs: whatever bytes a file holds, reading it gives a result or one of our errors, and ends no process."""

import contextlib
import io
import json
import random
import shutil
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures.tiny_pdfs import write_folder
from omnitune import SentenceTransformer
from omnitune.documents.folder import read_folder
from omnitune.documents.read.pages import Rendering
from omnitune.errors import OmnituneError
from omnitune.inputs.isolated import decode
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.sampling import AS_IT_IS

LIMITED = replace(DEFAULT_POLICY, isolate=True)
QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A copy with some bytes changed, a part cut out or doubled, or its end missing."""
    made = bytearray(content)
    for _ in range(draw.randint(1, 12)):
        # Headers are at both ends; that is where lies about sizes stand.
        at = min(int(len(made) * draw.random() ** 3), len(made) - 1)
        if draw.random() < 0.3:
            at = len(made) - 1 - at
        made[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    start = draw.randrange(len(made))
    stop = min(start + draw.randrange(1, 200), len(made))
    match draw.randrange(4):
        case 0:
            del made[start:stop]
        case 1:
            made[start:start] = made[start:stop]
        case 2:
            del made[max(start, 8) :]
    return bytes(made)


def image(form: str) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(file, form)
    return file.getvalue()


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(np.sin(np.arange(3200) / 9).astype("<i2").tobytes())
    return file.getvalue()


def clip() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        for number in range(8):
            pixels = np.full((32, 32, 3), number * 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


MEDIA: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{form: ("image", lambda form=form: image(form)) for form in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP")},
    "WAV": ("audio", sound),
    "MP4": ("video", clip),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", MEDIA)
def test_media(form: str) -> None:
    kind, make = MEDIA[form]
    whole = make()
    decode(kind, whole, LIMITED, AS_IT_IS)
    outcomes = []
    for seed in range(40):
        try:
            decode(kind, damaged(whole, random.Random(seed)), LIMITED, AS_IT_IS)
            outcomes.append("read")
        except OmnituneError as error:
            outcomes.append(str(error))
    assert any(outcome != "read" for outcome in outcomes), "the damage is too small to test anything"


@pytest.mark.slow
def test_documents(tmp_path: Path) -> None:
    """A folder with one whole document: that one is read, and each of the others is read or named."""
    folder = write_folder(tmp_path / "folder", ["kitchen"])
    whole = (folder / "kitchen.pdf").read_bytes()
    page = b"<html><head><meta charset='utf-8'></head><body><h1>Seal</h1><table><tr><td>1</table><p>Grease it.</body>"
    mail = b"From: a@b.c\r\nSubject: =?utf-8?b?U2VhbA==?=\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    mail += b"--x\r\n\r\nGrease it.\r\n--x--"
    for seed in range(12):
        (folder / f"a{seed}.pdf").write_bytes(damaged(whole, random.Random(seed)))
    for seed in range(6):
        (folder / f"b{seed}.html").write_bytes(damaged(page, random.Random(seed)))
        (folder / f"c{seed}.eml").write_bytes(damaged(mail, random.Random(seed)))
        (folder / f"d{seed}.tiff").write_bytes(damaged(image("TIFF"), random.Random(seed)))
    documents, skipped = read_folder(folder, tmp_path / "store", Rendering(), show_progress=False)
    named = {one.name for one in (*documents, *skipped)}
    assert named == {path.name for path in folder.iterdir()}
    assert len(next(one for one in documents if one.name == "kitchen.pdf").pages) == 5


ODD: Any = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=8), st.just("../x"),
    st.just([]), st.just({}), st.lists(st.integers(), max_size=3), st.just("x" * 5000),
)  # fmt: skip
FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "config.json",
)


@pytest.fixture(scope="module")
def checkpoint(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    SentenceTransformer(str(tiny_bert), device="cpu").save_pretrained(str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_checkpoints(name: str, checkpoint: Path, tmp_path: Path) -> None:
    content = json.loads((checkpoint / name).read_text())
    spot = st.sampled_from([*range(len(content))] if isinstance(content, list) else [*content])

    @QUICK
    @given(spot=spot, inner=st.integers(0, 9), value=ODD)
    def one(spot: Any, inner: int, value: Any) -> None:
        changed = json.loads(json.dumps(content))
        if isinstance(changed[spot], dict) and changed[spot] and inner < 7:
            changed[spot][[*changed[spot]][inner % len(changed[spot])]] = value
        else:
            changed[spot] = value
        # Sizes of tensors are bounded by the weights' file; a configuration that asks for a larger model is told so.
        (folder / name).write_text(json.dumps(changed))
        with contextlib.suppress(OmnituneError):
            SentenceTransformer(str(folder), device="cpu").encode("a red fox")

    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    one()


@pytest.mark.slow
def test_weights(checkpoint: Path, tmp_path: Path) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    refused = 0
    for seed in range(15):
        (folder / "model.safetensors").write_bytes(damaged(whole, random.Random(seed)))
        try:
            SentenceTransformer(str(folder), device="cpu").encode("a red fox")
        except OmnituneError:
            refused += 1
    assert refused
