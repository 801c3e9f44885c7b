"""A file may end the process that decodes it, and nothing else."""

import io
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures.recordings import clip, frames, tone, wav
from omnitune.errors import MediaError, MediaNotFoundError, MediaRefusedError
from omnitune.inputs import isolated
from omnitune.inputs.cost import CostRule, ImageRule, cost_of
from omnitune.inputs.isolated import decode, measure
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.sampling import Sampling

APART = replace(DEFAULT_POLICY, isolate=True)
SPEECH = Sampling(rate=16_000)


@pytest.fixture(scope="module", autouse=True)
def one_child():
    yield
    isolated._stop()


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    made = io.BytesIO()
    image.save(made, format)
    return made.getvalue()


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))


@pytest.mark.slow
def test_what_is_decoded_apart_is_the_same(tmp_path: Path) -> None:
    for image in (PICTURE, PICTURE.convert("L"), PICTURE.convert("RGBA"), PICTURE.quantize(4), PICTURE.convert("1")):
        content = encoded(image)
        (tmp_path / "a.png").write_bytes(content)
        for item in (content, tmp_path / "a.png", {"bytes": content}, {"image": content}, io.BytesIO(content)):
            made = load(item, "image", APART)
            assert np.array_equal(made.convert("RGBA"), image.convert("RGBA"))
            assert measure("image", item, APART) == (12, 8)
    assert np.array_equal(
        load(wav(tone(440)), "audio", APART, SPEECH), load(wav(tone(440)), "audio", DEFAULT_POLICY, SPEECH)
    )
    assert measure("audio", wav(tone(440)), APART) == (0.5,)
    path = clip(tmp_path / "a.mp4", frames(37), sound=tone(440, 3))
    for rule in (
        Sampling(num_frames=5),
        Sampling(frames=lambda facts: [facts.total_num_frames - 1, 3], sound=True, rate=8_000),
    ):
        ours, apart = load(path, "video", DEFAULT_POLICY, rule), load({"video": path}, "video", APART, rule)
        assert np.array_equal(apart.frames, ours.frames) and dict(apart.metadata) == dict(ours.metadata)
        assert (apart.sound is None) == (ours.sound is None)
        assert ours.sound is None or np.array_equal(apart.sound, ours.sound)
    assert dict(measure("video", path, APART)[0]) == dict(measure("video", path, DEFAULT_POLICY)[0])


def test_what_is_decoded_already_needs_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_ask", lambda *_: pytest.fail("the child was asked"))
    assert load(PICTURE, "image", APART) is PICTURE
    assert len(load(tone(440), "audio", APART, SPEECH)) == 8000
    assert len(load({"array": tone(440), "sampling_rate": 16_000}, "audio", APART, SPEECH)) == 8000
    assert load(frames(4), "video", APART, Sampling()).frames.shape == (4, 48, 48, 3)


def test_errors_and_limits_are_those_of_the_caller(tmp_path: Path) -> None:
    for policy, item, error, reason in (
        (APART, b"no image", MediaError, "image of 8 bytes: not an image"),
        (APART, tmp_path / "missing.png", MediaNotFoundError, "no such file"),
        (replace(APART, max_pixels=50), encoded(PICTURE), MediaRefusedError, "12x8 pixels, more than"),
        (replace(APART, allow_local_files=False), __file__, MediaRefusedError, "forbids local files"),
    ):
        with pytest.raises(error, match=reason):
            decode("image", item, policy, Sampling())
    with pytest.raises(MediaRefusedError, match="expected a longer side"):
        decode("image", encoded(Image.new("L", (1, 900))), APART, Sampling(max_ratio=200))


def test_a_decoder_that_dies_costs_one_item() -> None:
    assert decode("image", encoded(PICTURE), APART, Sampling()).size == (12, 8)
    assert isolated._child is not None
    os.kill(isolated._child[2].pid, signal.SIGSTOP)
    os.kill(isolated._child[2].pid, signal.SIGSEGV)
    os.kill(isolated._child[2].pid, signal.SIGCONT)
    started = time.monotonic()
    while isolated._child[2].poll() is None and time.monotonic() < started + 10:
        time.sleep(0.01)
    assert decode("image", encoded(PICTURE), APART, Sampling()).size == (12, 8), "another one is started"


def test_a_decoder_that_dies_over_an_item_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decode("image", encoded(PICTURE), APART, Sampling())
    send = isolated.send

    def send_and_shoot(stream, message, payloads):
        os.kill(isolated._child[2].pid, signal.SIGKILL)
        isolated._child[2].wait()
        send(stream, message, payloads)

    monkeypatch.setattr(isolated, "send", send_and_shoot)
    with pytest.raises(MediaError, match=r"image of .* bytes: it ended its decoder \(exit code -9\)"):
        decode("image", encoded(PICTURE), APART, Sampling())


def test_a_decoder_that_hangs_is_given_up() -> None:
    decode("image", encoded(PICTURE), APART, Sampling())
    assert isolated._child is not None
    os.kill(isolated._child[2].pid, signal.SIGSTOP)
    with pytest.raises(MediaRefusedError, match="takes longer than the media policy's decode_seconds=0.5"):
        decode("image", encoded(PICTURE), replace(APART, decode_seconds=0.5), Sampling())


def test_a_decoder_that_wants_too_much_memory_is_refused() -> None:
    large = encoded(Image.new("RGB", (9000, 9000)))
    assert len(large) < 2**20
    small = replace(APART, decode_memory=2**27)
    with pytest.raises(MediaError, match="takes too much memory|ended its decoder|broken image"):
        decode("image", large, small, Sampling())
    assert decode("image", encoded(PICTURE), small, Sampling()).size == (12, 8)


def test_costs_are_read_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = isolated._ask
    monkeypatch.setattr(isolated, "_ask", lambda *arguments: asked.append(arguments[0]) or ask(*arguments))
    rule = CostRule(image=ImageRule(cell=4))
    assert (
        cost_of(encoded(PICTURE), "image", rule, APART) == cost_of(encoded(PICTURE), "image", rule, DEFAULT_POLICY) == 6
    )
    assert asked == ["size"]
