"""Clips become shots, each a small clip of its own; what is wrong with a file is said in one sentence."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fixtures.media_folders import SENTENCES, slide, write_show
from fixtures.recordings import clip, frames, tone
from omnitune.documents.duplicates import groups
from omnitune.documents.read import video as clips
from omnitune.documents.read.pages import Description, Page, Rendering, picture_of
from omnitune.errors import DocumentError
from omnitune.inputs.audio import load_audio
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.sampling import Sampling
from omnitune.inputs.video import load_video

FPS = 12
SHOTS = [slide(SENTENCES[number], number) for number in range(3)]


def shots(*seconds: float) -> np.ndarray:
    return np.concatenate(
        [np.repeat(SHOTS[number][None], round(FPS * length), 0) for number, length in enumerate(seconds)]
    )


def described(path: Path, **settings: object) -> Description:
    return clips.describe(path, Rendering(**{"segments": "shots", **settings}))


def cut_up(path: Path, folder: Path, **settings: object) -> list[Page]:
    found = described(path, **settings)
    return list(
        clips.pages(
            path, 0, found.pages, folder, Rendering(width=settings.get("width", 900), boundaries=found.boundaries)
        )
    )


def stored(page: Page, folder: Path) -> np.ndarray:
    """All frames of a segment."""
    every = Sampling(frames=lambda facts: range(facts.total_num_frames))
    return load_video(folder / page.image, DEFAULT_POLICY, every).frames


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".webm"])
def test_shots_are_found_to_the_frame(tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"a{suffix}", shots(2, 1.5, 3), fps=FPS)
    assert described(path).boundaries == pytest.approx((0, 2, 3.5, 6.5), abs=0.01)


def test_a_cut_between_two_key_frames_is_found(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", shots(2, 3), fps=FPS, options={"sc_threshold": "1000000000"})
    assert described(path).boundaries == pytest.approx((0, 2, 5), abs=0.01)


def test_slides_of_one_template_are_shots(tmp_path: Path) -> None:
    slides = [slide(f"One title of all {sentence}", 7) for sentence in SENTENCES[:4]]
    path = clip(tmp_path / "a.mp4", np.repeat(np.stack(slides), 2 * FPS, axis=0), fps=FPS)
    assert described(path).boundaries == pytest.approx((0, 2, 4, 6, 8), abs=0.01)


def test_two_cuts_between_two_key_frames_are_found(tmp_path: Path) -> None:
    options = {"sc_threshold": "1000000000"}
    path = clip(tmp_path / "a.mp4", shots(1.2, 1.2, 1.2), fps=FPS, options=options, group=120)
    assert described(path, seconds=60.0).pages == 1, "all in one group of pictures: nothing to compare"
    path = clip(tmp_path / "b.mp4", np.concatenate([shots(1.2, 1.2, 1.2)] * 4), fps=FPS, options=options, group=32)
    assert described(path, seconds=60.0).boundaries[:4] == pytest.approx((0, 1.17, 2.33, 3.5), abs=0.1)


def test_what_moves_is_one_shot(tmp_path: Path) -> None:
    turning = np.stack([np.roll(SHOTS[0], 9 * number, axis=1) for number in range(48)])
    assert described(clip(tmp_path / "a.mp4", turning, fps=FPS)).pages == 1
    assert described(clip(tmp_path / "b.mp4", frames(48), fps=FPS)).pages == 1


def test_long_shots_are_cut_into_equal_parts(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", shots(4, 3), fps=FPS)
    assert described(path, seconds=3.0).boundaries == pytest.approx((0, 2, 4, 7), abs=0.01)
    assert described(path, segments="windows", seconds=3.0).boundaries == pytest.approx((0, 3, 7), abs=0.01)


def test_a_segment_holds_its_frames_and_its_sound(tmp_path: Path) -> None:
    sound = np.concatenate([tone(300, 2), tone(900, 3)])
    path = clip(tmp_path / "a.mp4", shots(2, 3), fps=FPS, sound=sound)
    pages = cut_up(path, tmp_path / "out")
    assert [page.label for page in pages] == ["0:00-0:02", "0:02-0:05"]
    for page, shown, hertz, seconds in zip(pages, SHOTS, (300, 900), (2, 3), strict=False):
        found = stored(page, tmp_path / "out")
        assert len(found) == clips.FPS * seconds and (page.height, page.width) == shown.shape[:2]
        assert np.abs(found.astype(int) - shown).mean() < 4, "the pictures of this shot alone"
        heard = load_audio(tmp_path / "out" / page.image, DEFAULT_POLICY, Sampling(rate=16_000))
        assert len(heard) / 16_000 == pytest.approx(seconds, abs=0.2)
        assert np.abs(np.fft.rfft(heard)).argmax() * 16_000 / len(heard) == pytest.approx(hertz, abs=3)


def test_a_silent_clip_stays_silent(tmp_path: Path) -> None:
    pages = cut_up(clip(tmp_path / "a.mp4", shots(2, 2), fps=FPS), tmp_path / "out")
    assert len(pages) == 2
    asked = Sampling(rate=16_000, sound=True)
    assert load_video(tmp_path / "out" / pages[0].image, DEFAULT_POLICY, asked).sound is None


def test_frames_are_made_smaller_and_never_larger(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", shots(2), fps=FPS)
    assert [(page.width, page.height) for page in cut_up(path, tmp_path / "out", width=101)] == [(100, 56)]
    assert cut_up(path, tmp_path / "out", width=4000)[0].width == 320


def test_a_long_segment_has_no_more_frames_than_fit(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", np.repeat(frames(1), 20 * 40, 0), fps=20)
    (page,) = cut_up(path, tmp_path / "out", seconds=60.0)
    assert len(stored(page, tmp_path / "out")) <= clips.MOST_FRAMES


def test_the_same_clip_is_the_same_file(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", shots(2, 2), fps=FPS, sound=tone(300, 4))
    assert cut_up(path, tmp_path / "one") == cut_up(path, tmp_path / "other")


def test_key_frames_lie_beside_every_segment(tmp_path: Path) -> None:
    (page,) = cut_up(clip(tmp_path / "a.mp4", shots(2), fps=FPS), tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / picture_of(page.image)))
    assert picture.shape == (360, 640, 3)
    assert np.abs(picture.astype(int) - np.tile(SHOTS[0], (2, 2, 1))).mean() < 5


def test_a_part_is_made_as_the_whole_is(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", shots(1, 1, 2), fps=FPS)
    whole = cut_up(path, tmp_path / "out")
    boundaries = described(path).boundaries
    assert list(clips.pages(path, 1, 2, tmp_path / "out", Rendering(boundaries=boundaries))) == whole[1:2]


def test_copies_look_alike_and_others_do_not(tmp_path: Path) -> None:
    names = ["a.mp4", "b.mkv", "c.mp4", "d.mp4"]
    said = [SENTENCES[0], SENTENCES[0], SENTENCES[1], SENTENCES[0]]
    pages = []
    for number, (name, sentence) in enumerate(zip(names, said, strict=True)):
        write_show(tmp_path / name, [sentence], sound=number != 3)
        pages += cut_up(tmp_path / name, tmp_path / "out", width=900 if number != 1 else 200)
    assert {len(page.fingerprint) for page in pages} == {192}
    assert groups([""] * 4, [page.fingerprint for page in pages]) == [0, 0, 2, 3], "the last has no sound"


def test_nothing_to_see_or_hear_has_no_look(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", np.full((12, 48, 48, 3), 90, np.uint8), fps=FPS)
    assert cut_up(path, tmp_path / "out")[0].fingerprint == ""


def broken(path: Path) -> bytes:
    clip(path, frames(60), fps=FPS)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.mp4", b"", "a.mp4: empty"),
        ("a.webm", b"not a clip" * 100, "a.webm: no video that can be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DocumentError, match=reason):
        described(tmp_path / name)


@pytest.mark.parametrize(
    ("suffix", "reason"),
    [
        (".avi", "truncated: its header says .* bytes, and it has"),
        (".mkv", "truncated: its header says 5.0 s, and it ends after"),
        (".mp4", "no video that can be read"),
    ],
)
def test_a_clip_that_is_cut_off(tmp_path: Path, suffix: str, reason: str) -> None:
    content = broken(tmp_path / f"whole{suffix}")
    (tmp_path / f"a{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(DocumentError, match=f"a{suffix}: {reason}"):
        described(tmp_path / f"a{suffix}")


def test_a_clip_whose_header_came_first_and_is_cut_off(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", frames(60), fps=FPS, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        DocumentError, match="a.mp4: (broken video after [0-9]+ frames|truncated: its header says 5.0 s)"
    ):
        described(path)


@pytest.mark.parametrize(("suffix", "reason"), [(".mkv", "broken video$"), (".ts", "broken video after [0-9]+ frames")])
def test_a_clip_with_a_hole(tmp_path: Path, suffix: str, reason: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = 96
        stream.codec_context.gop_size = 30
        for number in range(60):
            rng = np.random.default_rng(number)
            noise = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(whole.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 9000] = bytes(9000)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(DocumentError, match=rf"a{suffix}: {reason}"):
        boundaries = described(path).boundaries
        list(clips.pages(path, 0, len(boundaries) - 1, tmp_path / "out", Rendering(boundaries=boundaries)))


def test_a_frame_without_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "a.mp4", frames(24), fps=FPS)
    monkeypatch.setattr(clips, "_at", lambda timed: timed.pts if timed.pts else None)
    with pytest.raises(DocumentError, match="a.mp4: broken video after 0 frames"):
        described(path)


def test_a_recording_is_no_clip(tmp_path: Path) -> None:
    from fixtures.media_folders import write_sound

    write_sound(tmp_path / "a.m4a", tone(300)).rename(tmp_path / "a.mp4")
    with pytest.raises(DocumentError, match="a.mp4: there is no video in it"):
        described(tmp_path / "a.mp4")


def test_a_clip_is_cut_up_as_it_is_shown(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", shots(2), fps=FPS, turn=(90, False, False))
    (page,) = cut_up(path, tmp_path / "out", width=101)
    assert (page.width, page.height) == (100, 180)
    (upright,) = cut_up(path, tmp_path / "large")
    found = stored(upright, tmp_path / "large")
    assert np.abs(found.astype(int) - np.rot90(SHOTS[0])).mean() < 6
    picture = np.asarray(Image.open(tmp_path / "large" / picture_of(upright.image)))
    assert picture.shape == (640, 360, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_goes_on_after_the_picture_is_cut_up_too(tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"a{suffix}", shots(2, 2), fps=FPS, sound=tone(300, 10))
    pages = cut_up(path, tmp_path / "out", seconds=3.0)
    assert pages[-1].end == pytest.approx(10, abs=0.1)
    for page in pages:
        heard = load_audio(tmp_path / "out" / page.image, DEFAULT_POLICY, Sampling(rate=16_000))
        assert len(heard) / 16_000 == pytest.approx(page.end - page.start, abs=0.2)


def lying(content: bytes, box: bytes, offset: int, value: int, size: int = 4) -> bytes:
    changed = bytearray(content)
    at = content.index(box) + 4 + offset
    changed[at : at + size] = value.to_bytes(size, "big")
    return bytes(changed)


@pytest.mark.parametrize(("box", "offset", "value"), [
    (b"stts", 12, 0x7FFFFFFF), (b"stts", 12, 400_000_000), (b"stts", 12, 0), (b"stts", 8, 1), (b"stts", 8, 0x7FFFFFFF),
    (b"mdhd", 12, 1), (b"mdhd", 12, 0xFFFFFFFF), (b"mvhd", 12, 1), (b"mvhd", 16, 0xFFFFFFFF), (b"elst", 12, 0x7FFFFFFF),
    (b"elst", 8, 1), (b"stsz", 8, 0x7FFFFFFF), (b"stsc", 12, 0x7FFFFFFF), (b"stss", 8, 0x7FFFFFFF), (b"tkhd", 80, 1),
])  # fmt: skip
def test_a_clip_whose_times_lie_costs_itself_alone(tmp_path: Path, box: bytes, offset: int, value: int) -> None:
    content = clip(tmp_path / "whole.mp4", shots(2, 2), fps=FPS, sound=tone(300, 4)).read_bytes()
    (tmp_path / "a.mp4").write_bytes(lying(content, box, offset, value))
    for way in ("shots", "windows"):
        try:
            found = described(tmp_path / "a.mp4", segments=way)
            assert found.pages < 500
            pages = clips.pages(
                tmp_path / "a.mp4", 0, found.pages, tmp_path / "out", Rendering(boundaries=found.boundaries)
            )
            assert len([*pages]) == found.pages, "or the document would never be done"
        except DocumentError as error:
            assert str(error).startswith("a.mp4: ")
