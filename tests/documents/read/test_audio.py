"""Recordings become segments that lose nothing; what is wrong with a file is said in one sentence."""

import io
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fixtures.media_folders import write_sound
from fixtures.recordings import tone, wav
from omnitune.documents.duplicates import groups
from omnitune.documents.folder import read_folder
from omnitune.documents.queries.captions import Caption
from omnitune.documents.read import audio as recordings
from omnitune.documents.read import media
from omnitune.documents.read.pages import Page, Rendering, picture_of
from omnitune.errors import DocumentError

RATE = media.RATE
QUIET = np.zeros(RATE, np.float32)


def noise(seconds: float, seed: int, *, low: int = 3) -> np.ndarray:
    """Sound that changes over time, as speech does `(samples,)`."""
    rng = np.random.default_rng(seed)
    parts = [tone(float(hertz), 0.15) for hertz in rng.uniform(150, 3000, round(seconds / 0.15))]
    return np.concatenate(parts) + rng.normal(0, 0.01, sum(map(len, parts))).astype(np.float32)


def cut_up(path: Path, folder: Path, **settings: object) -> list[Page]:
    rendering = Rendering(**{"segments": "silence", **settings})
    described = recordings.describe(path, rendering)
    marked = Rendering(boundaries=described.boundaries)
    return list(recordings.pages(path, 0, described.pages, folder, marked))


def stored(page: Page, folder: Path) -> np.ndarray:
    with wave.open(str(folder / page.image)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


@pytest.fixture
def spoken_twice(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_bytes(wav(np.concatenate([noise(2.1, 0), QUIET, noise(3, 1)])))
    return tmp_path / "a.wav"


def test_segments_end_in_pauses_and_lose_nothing(spoken_twice: Path, tmp_path: Path) -> None:
    pages = cut_up(spoken_twice, tmp_path / "out")
    assert [(page.number, page.label) for page in pages] == [(1, "0:00-0:03"), (2, "0:03-0:06")]
    assert pages[0].start == 0 and pages[0].end == pages[1].start == pytest.approx(2.6, abs=0.05)
    with wave.open(str(spoken_twice)) as file:
        whole = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.array_equal(np.concatenate([stored(page, tmp_path / "out") for page in pages]), whole)


def test_windows_are_cut_by_the_clock(spoken_twice: Path, tmp_path: Path) -> None:
    pages = cut_up(spoken_twice, tmp_path / "out", segments="windows", seconds=2.0)
    assert [page.label for page in pages] == ["0:00-0:02", "0:02-0:04", "0:04-0:06"]
    assert len(stored(pages[0], tmp_path / "out")) == 2 * RATE


def test_a_part_is_made_as_the_whole_is(spoken_twice: Path, tmp_path: Path) -> None:
    whole = cut_up(spoken_twice, tmp_path / "out", segments="windows", seconds=1.5)
    boundaries = tuple(page.start for page in whole) + (whole[-1].end,)
    assert list(recordings.pages(spoken_twice, 1, 3, tmp_path / "out", Rendering(boundaries=boundaries))) == whole[1:3]


def test_a_picture_lies_beside_every_segment(spoken_twice: Path, tmp_path: Path) -> None:
    for page in cut_up(spoken_twice, tmp_path / "out"):
        assert picture_of(page.image) == page.image.replace(".wav", ".jpg")
        picture = np.asarray(Image.open(tmp_path / "out" / picture_of(page.image)).convert("L"))
        columns = (picture < 150).sum(axis=0)
        assert picture.shape == media.PICTURE[::-1] and columns.max() > 100, "the loudest fills the height"


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".ogg", ".m4a"])
def test_other_files_are_kept_in_the_same_form(tmp_path: Path, suffix: str) -> None:
    sound = np.concatenate([noise(2, 0), QUIET, noise(2, 1)])
    path = write_sound(tmp_path / f"a{suffix}", sound, rate=48_000 if suffix == ".ogg" else 44_100)
    pages = cut_up(path, tmp_path / "out")
    assert [page.start for page in pages] == pytest.approx([0, 2.5], abs=0.1)
    assert sum(len(stored(page, tmp_path / "out")) for page in pages) == pytest.approx(len(sound), rel=0.03)


def test_stereo_becomes_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = noise(1, 0) * 0.4, noise(1, 1) * 0.4
    (tmp_path / "a.wav").write_bytes(wav(np.stack([left, right])))
    (page,) = cut_up(tmp_path / "a.wav", tmp_path / "out")
    assert stored(page, tmp_path / "out") / 32768 == pytest.approx((left + right) / 2, abs=2e-3)


@given(
    st.lists(st.integers(0, 5000), max_size=6),
    st.lists(st.floats(0.01, 1.5), max_size=5),
)
def test_pieces_put_together_are_the_whole(blocks: list[int], lengths: list[float]) -> None:
    samples = np.arange(sum(blocks), dtype=np.int16)
    boundaries = np.concatenate([[0], np.cumsum([*lengths, 0.5])]).tolist()
    edges = np.cumsum([0, *blocks])
    pieces = [*media.cut((samples[a:b] for a, b in zip(edges, edges[1:], strict=False)), boundaries)]
    assert len(pieces) == len(boundaries) - 1
    assert np.array_equal(np.concatenate(pieces), samples)
    for piece, start, end in zip(pieces[:-1], boundaries, boundaries[1:], strict=False):
        assert len(piece) <= round(end * RATE) - round(start * RATE)


def test_only_a_segment_is_in_memory() -> None:
    taken = []

    def endless():
        for number in range(1000):
            taken.append(number)
            yield np.zeros(RATE, np.int16)

    next(media.cut(endless(), [0, 5, 10, 1000]))
    assert len(taken) == 5


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.mp3", b"", "a.mp3: empty"),
        ("a.wav", wav(noise(2, 0))[:20_000], "a.wav: truncated: its header says .* bytes, and it has 20000"),
        ("a.mp3", b"not sound at all" * 100, "a.mp3: no audio that can be read"),
        ("a.wav", wav(np.zeros(0, np.float32)), "a.wav: it has no samples"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError, match=reason):
        recordings.describe(tmp_path / name, Rendering(segments="silence"))


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [
        (".mp3", "truncated: its header says 8.0 s, and it ends after 4.0 s"),
        (".flac", "broken audio: Invalid data"),
        (".m4a", "no audio that can be read"),
    ],
)
def test_a_recording_that_is_cut_off(tmp_path: Path, suffix: str, reason: str) -> None:
    content = write_sound(tmp_path / f"whole{suffix}", tone(300, 8.0)).read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(DocumentError, match=f"a{suffix}: {reason}"):
        recordings.describe(tmp_path / f"a{suffix}", Rendering(segments="silence"))


def test_a_stream_without_channels(tmp_path: Path) -> None:
    content = bytearray(wav(noise(1, 0)))
    content[22:24] = (0).to_bytes(2, "little")
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DocumentError, match="a.wav: its sound track has no channels"):
        recordings.describe(tmp_path / "a.wav", Rendering(segments="silence"))


def test_a_clip_is_no_recording_unless_it_has_sound(tmp_path: Path) -> None:
    from fixtures.recordings import clip, frames

    clip(tmp_path / "a.mp4", frames(12)).rename(tmp_path / "a.m4a")
    with pytest.raises(DocumentError, match="a.m4a: there is no audio in it"):
        recordings.describe(tmp_path / "a.m4a", Rendering(segments="silence"))


# --- fingerprints -----------------------------------------------------------------------------------------------------


def integers(samples: np.ndarray) -> np.ndarray:
    return (samples * 32767).round().astype(np.int16)


def decoded(path: Path) -> np.ndarray:
    return np.concatenate([*media.sound(path)])


def test_a_copy_sounds_the_same(tmp_path: Path) -> None:
    sound = noise(4, 0)
    quieter = np.concatenate([np.zeros(3000, np.float32), sound * 0.3])
    fingerprints = [media.audio_fingerprint(integers(sound)), media.audio_fingerprint(integers(quieter))]
    fingerprints += [
        media.audio_fingerprint(decoded(write_sound(tmp_path / f"a{suffix}", sound)))
        for suffix in (".mp3", ".ogg", ".m4a")
    ]
    assert {len(one) for one in fingerprints} == {64}
    assert groups([""] * 5, fingerprints) == [0] * 5


def test_others_do_not() -> None:
    fingerprints = [media.audio_fingerprint(integers(noise(4, seed))) for seed in range(12)]
    fingerprints += [media.audio_fingerprint(integers(tone(hertz, 4.0))) for hertz in (220, 440, 880, 1760)]
    assert groups([""] * 16, fingerprints) == list(range(16))


def test_silence_has_no_look() -> None:
    assert media.audio_fingerprint(np.zeros(RATE, np.int16)) == media.audio_fingerprint(np.zeros(0, np.int16)) == ""
    assert media.audio_fingerprint(integers(noise(0.15, 0))[:300]), "shorter than one window"


def test_levels_are_decibels() -> None:
    square = np.full(RATE, 16384, np.int16)
    levels, duration = media.levels([square[:100], square[100:], np.zeros(RATE, np.int16)])
    assert duration == 2.0
    assert levels[:50] == pytest.approx(-6.02, abs=0.01) and levels[50:] == pytest.approx(-100)


def test_wav_is_a_file(tmp_path: Path) -> None:
    with wave.open(io.BytesIO(media.wav(np.array([1, -2, 3], np.int16)))) as file:
        assert np.frombuffer(file.readframes(3), "<i2").tolist() == [1, -2, 3]


@pytest.mark.parametrize("ending", [".m4a", ".mp3", ".mka"])
def test_chapters_inside_a_file_are_its_captions(tmp_path: Path, ending: str) -> None:
    (tmp_path / "in").mkdir()
    marks = [("Greasing the bearing", 0, 2000), (" ", 2000, 2500), ("Changing\nthe oil", 2500, 4000)]
    with av.open(
        str(tmp_path / "in" / f"a{ending}"), "w", format={".m4a": "mp4", ".mka": "matroska"}.get(ending)
    ) as made:
        stream = made.add_stream("mp3" if ending == ".mp3" else "aac", rate=RATE, layout="mono")
        made.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                for n, (title, a, b) in enumerate(marks)
            ]
        )
        frame = av.AudioFrame.from_ndarray(noise(4, 0)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        made.mux(stream.encode(frame))
        made.mux(stream.encode())
    for _ in range(2):  # the second time from what is kept
        ((found,), _) = read_folder(tmp_path / "in", tmp_path / "out", Rendering(segments="silence"), workers=1)
        assert found.captions == (
            Caption(text="Greasing the bearing", start=0, end=2),
            Caption(text="Changing the oil", start=2.5, end=4),
        )
