import re
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor, SmolVLMVideoProcessor
from transformers.video_utils import VideoMetadata

from fixtures.recordings import clip, frames
from omnitune.errors import MediaError, MediaNotFoundError, MediaRefusedError
from omnitune.inputs.detect import modality_of
from omnitune.inputs.fingerprint import fingerprint
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.sampling import AS_IT_IS, Sampling
from omnitune.inputs.video import load_video, video_size
from omnitune.modules.costs import sampling

FEW = Sampling(num_frames=5)


def loaded(item, policy=DEFAULT_POLICY, rule=FEW):
    return load_video(item, policy, rule)


def in_order(path):
    """All frames, decoded from the start."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def decoder(pictures):
    asked = []

    def get_frames_at(indices):
        asked.append(list(indices))
        return SimpleNamespace(data=torch.from_numpy(pictures[indices]).permute(0, 3, 1, 2))

    facts = SimpleNamespace(num_frames=len(pictures), average_fps=12.0, width=48, height=48, duration_seconds=None)
    return SimpleNamespace(get_frames_at=get_frames_at, metadata=facts, asked=asked)


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "avi"])
def test_frames_of_a_file_are_those_of_decoding_it_from_the_start(tmp_path, ending):
    path = clip(tmp_path / f"clip.{ending}", frames(37))
    everything = in_order(path)
    for rule in (FEW, Sampling(num_frames=37), Sampling(frames=lambda facts: [36, 3, 3, 20, 21])):
        made = loaded(path, rule=rule)
        assert made.metadata.total_num_frames == len(everything) == 37
        assert made.metadata.fps == 12.0
        np.testing.assert_array_equal(made.frames, [everything[i] for i in made.metadata.frames_indices])


def test_only_the_wanted_frames_become_pictures(tmp_path, monkeypatch):
    path = clip(tmp_path / "clip.mp4", frames(60))
    made = []
    stack = np.stack
    monkeypatch.setattr(np, "stack", lambda parts: made.append(len(parts)) or stack(parts))
    loaded(path)
    assert made == [5]


QWEN = {"fps": 2, "min_frames": 4, "max_frames": 12, "do_sample_frames": True}
SMOL = {"fps": 1, "num_frames": 8, "size": {"longest_edge": 64}, "do_sample_frames": True}


@pytest.mark.parametrize(("processor", "asked"), [
    *((Qwen3VLVideoProcessor(**QWEN), asked) for asked in ({}, {"fps": 4}, {"num_frames": 6})),
    *((Qwen2VLVideoProcessor(**QWEN), asked) for asked in ({}, {"fps": 4}, {"num_frames": 6})),
    (SmolVLMVideoProcessor(**SMOL), {}),
], ids=lambda value: str(value) if isinstance(value, dict) else type(value).__name__)  # fmt: skip
def test_frame_indices_are_the_processors_own(processor, asked):
    rule = sampling(processor, None, asked)
    for total in (8, 31, 144, 900):
        facts = {"total_num_frames": total, "fps": 24.0, "duration": total / 24, "height": 16, "width": 16}
        pictures = np.zeros((total, 16, 16, 3), np.uint8)
        call = {**asked, "fps": None} if "num_frames" in asked else asked
        if "num_frames" in asked:
            processor = type(processor)(**{**processor.to_dict(), "fps": None})
        theirs = processor([pictures], video_metadata=[facts], return_metadata=True, do_sample_frames=True, **call)[
            "video_metadata"
        ][0]
        ours = rule.indices(VideoMetadata(**facts), in_memory=False)
        assert ours == [int(index) for index in theirs.frames_indices]


def test_a_model_without_a_rule_gets_its_number_of_frames(tmp_path):
    rule = sampling(object(), SimpleNamespace(num_frames=8), {})
    facts = VideoMetadata(total_num_frames=100, fps=25.0)
    assert rule.indices(facts, in_memory=False) == [0, 12, 25, 37, 50, 62, 75, 87]
    assert rule.indices(VideoMetadata(total_num_frames=4), in_memory=False) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(sampling(object(), None, {"num_frames": 3}).indices(facts, in_memory=False)) == 3
    assert AS_IT_IS.indices(facts, in_memory=True) == [*range(100)]


def test_forms_in_memory():
    pictures = frames(6)
    images = [Image.fromarray(picture) for picture in pictures]
    everything = Sampling()
    for item in (pictures, torch.from_numpy(pictures), images, {"video": images}, {"array": pictures}, pictures[None]):
        np.testing.assert_array_equal(loaded(item, rule=everything).frames, pictures)
    channels_first = pictures.transpose(0, 3, 1, 2)
    made = loaded(channels_first, rule=everything)
    assert (made.metadata.height, made.metadata.width, made.frames.shape) == (48, 48, (6, 3, 48, 48))
    facts = {"total_num_frames": 6, "fps": 3.0}
    made = loaded({"array": pictures, "video_metadata": facts}, rule=Sampling(frames=lambda facts: [0, 4]))
    assert (made.metadata.fps, made.metadata.frames_indices) == (3.0, [0, 4])
    assert loaded(made) is made


def test_a_decoder_gives_the_wanted_frames_alone():
    source = decoder(frames(60))
    made = loaded(source)
    assert source.asked == [[0, 12, 24, 36, 48]]
    assert made.frames.shape == (5, 3, 48, 48)
    assert modality_of(source, supported=["video"]) == "video"
    assert fingerprint(source, "video") == fingerprint(decoder(frames(60)), "video")
    assert fingerprint(source, "video") != fingerprint(decoder(frames(60, seed=1)), "video")


def test_bytes_and_lists_of_clips(tmp_path):
    path = clip(tmp_path / "clip.mp4", frames(20))
    content = path.read_bytes()
    for item in (content, {"bytes": content}, str(path), {"path": str(path)}):
        assert modality_of(item, supported=["video"]) == "video"
        np.testing.assert_array_equal(loaded(item).frames, loaded(path).frames)
        assert fingerprint(item, "video") == fingerprint(path, "video")
    made = load({"text": "a", "video": [str(path), content]}, ("text", "video"), DEFAULT_POLICY, FEW)
    assert [len(part.frames) for part in made["video"]] == [5, 5]
    pictures = [Image.fromarray(picture) for picture in frames(3)]
    made = load({"text": "a", "video": pictures}, ("text", "video"), DEFAULT_POLICY, FEW)
    assert made["video"].frames.shape == (3, 48, 48, 3)


def test_the_header_gives_size_and_length(tmp_path):
    path = clip(tmp_path / "clip.mkv", frames(24))
    for item in (path, {"video": path}, frames(24), decoder(frames(24)), loaded(path)):
        (facts,) = video_size(item, DEFAULT_POLICY)
        assert (facts.total_num_frames, facts.width, facts.height) == (24, 48, 48)


def broken_files(folder):
    plain, fast, matroska = (
        clip(folder / name, frames(40), options=options).read_bytes()
        for name, options in (("a.mp4", None), ("b.mp4", {"movflags": "faststart"}), ("c.mkv", None))
    )
    return {
        "no-index.mp4": (plain[: len(plain) // 2], "no video that can be read: Invalid data found"),
        "cut.mp4": (fast[: len(fast) // 2], "broken video after|truncated"),
        "cut.mkv": (matroska[: len(matroska) // 2], "truncated: its header says 3.3 s, and it ends after"),
        "empty.mp4": (b"", "empty"),
        "text.mp4": (b"this is no clip " * 20, "no video that can be read: Invalid data found"),
        "playlist.mp4": (b"#EXTM3U\n#EXTINF:9,\na.mp4\n#EXT-X-ENDLIST\n", "no video that can be read"),
    }


@pytest.mark.parametrize("name", ["no-index.mp4", "cut.mp4", "cut.mkv", "empty.mp4", "text.mp4", "playlist.mp4"])
def test_broken_files_are_named(tmp_path, name):
    content, reason = broken_files(tmp_path)[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=f"^{re.escape(str(tmp_path / name))}: ({reason})"):
        loaded(tmp_path / name)


def test_a_frame_that_is_missing_is_named(tmp_path):
    path = clip(tmp_path / "clip.mp4", frames(30))
    content = bytearray(path.read_bytes())
    start, stop = len(content) // 3, len(content) * 2 // 3
    content[start:stop] = bytes(stop - start)
    with pytest.raises(MediaError, match="^video of .* bytes: (its frame at .* s cannot be decoded|broken video)"):
        loaded(bytes(content), rule=Sampling(num_frames=30))


def test_limits(tmp_path):
    path = clip(tmp_path / "clip.mp4", frames(36))
    for policy, reason in (
        ({"max_pixels": 1000}, "frames of 48x48 pixels, more than the media policy's max_pixels=1000"),
        ({"max_frames": 4}, "5 frames, more than the media policy's max_frames=4"),
        ({"max_seconds": 2}, "at least 3 s long, more than the media policy's max_seconds=2"),
        ({"max_clip_bytes": 100}, "more than the media policy's max_clip_bytes=100"),
    ):
        with pytest.raises(MediaRefusedError, match=f"clip.mp4: .*{reason}"):
            loaded(path, replace(DEFAULT_POLICY, **policy))
    with pytest.raises(MediaNotFoundError, match="no such file"):
        loaded(tmp_path / "missing.mp4")


@pytest.mark.parametrize(("item", "reason"), [
    (np.zeros((4, 5, 6, 7), np.uint8), "expected .frames, height, width, channels. or"),
    (np.zeros((0, 5, 6, 3), np.uint8), "it has no frames"),
    ([], "expected frames of one size, at least one"),
    ([Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2))], "expected frames of one size, at least one"),
    ({"array": np.zeros((4, 5, 6, 3), np.uint8), "video_metadata": {"total_num_frames": 9, "fps": 1.0}},
     "frame 8 is wanted, and it has 4; see its video_metadata"),
    *[({"array": np.zeros((4, 5, 6, 3), np.uint8), "video_metadata": {"total_num_frames": total}},
       "video_metadata: total_num_frames: expected a number of frames up to 10,000,000, got")
      for total in (10**12, -1, "x", True, 2.5)],
    *[({"array": np.zeros((4, 5, 6, 3), np.uint8), "video_metadata": facts}, "video_metadata: ")
      for facts in ({"no_such": 1}, 5, [1])],
    (3, "expected a video as path, bytes"),
])  # fmt: skip
def test_what_is_no_video(item, reason):
    with pytest.raises(MediaError, match=reason):
        loaded(item, rule=Sampling())


def test_a_rule_that_cannot_choose_is_named():
    rule = sampling(Qwen2VLVideoProcessor(do_sample_frames=True, fps=2), None, {})
    with pytest.raises(MediaError, match="array of shape .*: its frames cannot be chosen: Asked to sample `fps`"):
        loaded(frames(8), rule=rule)


# --- as a person sees it ----------------------------------------------------------------------------------------------


def quarters():
    """Four quarters of different shades, wider than high `(64, 96, 3)`."""
    made = np.zeros((64, 96, 3), np.uint8)
    made[:32, :48], made[:32, 48:], made[32:, :48], made[32:, 48:] = 20, 90, 160, 230
    return made


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize(("left_right", "upside_down"), [(False, False), (True, False), (False, True)])
def test_a_clip_is_seen_as_it_is_shown(tmp_path, ending, degrees, left_right, upside_down):
    if ending == "mkv" and (left_right or upside_down):
        pytest.skip("Matroska keeps turns alone")
    path = clip(tmp_path / f"a.{ending}", np.stack([quarters()] * 12), turn=(degrees, left_right, upside_down))
    shown = np.rot90(quarters(), degrees // 90)
    shown = shown[:, ::-1] if left_right else shown
    shown = shown[::-1] if upside_down else shown
    for item in (path, path.read_bytes(), {"video": str(path)}):
        made = loaded(item)
        assert np.abs(made.frames[2].astype(int) - shown).mean() < 6
        assert (made.metadata.height, made.metadata.width) == made.frames.shape[1:3] == shown.shape[:2]


def test_a_size_that_changes_in_the_middle(tmp_path):
    small, large = (
        clip(tmp_path / f"{side}.ts", frames(12, side=side), options={"mpegts_flags": "+initial_discontinuity"})
        for side in (48, 96)
    )
    joined = small.read_bytes() + large.read_bytes()
    made = loaded(joined, rule=Sampling(num_frames=12))
    assert made.frames.shape[1:] == (48, 48, 3)


# --- lengths that a container states, and those that are guessed ------------------------------------------------------


def trimmed(content, track, seconds, start):
    """An MP4 whose edit list shows only a part of a track."""
    content = bytearray(content)
    movie = content.index(b"mvhd") + 16
    length = seconds * int.from_bytes(content[movie : movie + 4], "big")
    place = -1
    for _ in range(track + 1):
        place = content.index(b"elst", place + 1)
    content[place + 12 : place + 20] = length.to_bytes(4, "big") + start.to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "flv", "mov"])
@pytest.mark.parametrize("seconds", [1.0, 8.0])
def test_sound_may_be_shorter_or_longer_than_the_picture(tmp_path, ending, seconds):
    sound = np.zeros(round(seconds * 16_000), np.float32)
    path = clip(tmp_path / f"a.{ending}", frames(36), sound=sound)
    assert len(loaded(path).frames) == 5


def test_a_clip_that_an_editor_trimmed(tmp_path):
    whole = clip(tmp_path / "a.mp4", frames(96), sound=np.zeros(128_000, np.float32)).read_bytes()
    head = trimmed(trimmed(whole, 0, 2, 0), 1, 2, 1024)
    assert loaded(head).metadata.total_num_frames == 24
    tail = trimmed(trimmed(whole, 0, 4, 4 * 12_288), 1, 4, 4 * 16_000)
    assert loaded(tail).metadata.total_num_frames == 48


def stills(path, times):
    """One picture at each of some times in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix != ".flv" else "flv", rate=12)
        stream.height = stream.width = 48
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(times, frames(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv", "flv", "avi"])
def test_pictures_that_are_shown_for_long(tmp_path, ending):
    path = stills(tmp_path / f"a.{ending}", [0, 40, 80, 10_000, 10_040, 20_000, 30_000])
    assert len(loaded(path).frames) == 5


def test_a_length_that_was_not_known_when_it_was_written(tmp_path):
    for name, options in (("a.mkv", {"live": "1"}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov"}), ("a.ts", {})):
        path = clip(tmp_path / name, frames(36), sound=np.zeros(32_000, np.float32), options=options)
        assert len(loaded(path).frames) == 5
