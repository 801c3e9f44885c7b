import io
import time
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
import transformers

from fixtures.recordings import clip, frames, tone, wav
from omnitune import runtime
from omnitune.errors import MediaError, MediaNotFoundError, MediaRefusedError, MissingExtraError
from omnitune.inputs import audio
from omnitune.inputs import processor as processors
from omnitune.inputs.audio import audio_size, load_audio, resample
from omnitune.inputs.detect import modality_of
from omnitune.inputs.fingerprint import fingerprint
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.sampling import Sampling
from omnitune.modules.costs import sampling

SPEECH = Sampling(rate=16_000)
TONE = tone(440)


def loaded(item, policy=DEFAULT_POLICY, sampling=SPEECH):
    return load_audio(item, policy, sampling)


def encoded(samples, codec, container, rate=16_000):
    """A recording in any of FFmpeg's formats."""
    made = io.BytesIO()
    with av.open(made, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        shaped = av.AudioResampler(
            format=stream.codec_context.format, rate=rate, frame_size=stream.codec_context.frame_size or 1024
        )
        for part in [*shaped.resample(frame), *shaped.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode())
    return made.getvalue()


def decoder(samples, rate):
    result = SimpleNamespace(data=torch.from_numpy(samples), sample_rate=rate)
    return SimpleNamespace(get_all_samples=lambda: result, metadata=SimpleNamespace(duration_seconds=1.0))


def test_every_form_gives_the_same_waveform(tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(wav(TONE))
    decoded = loaded(path)
    np.testing.assert_allclose(decoded, TONE, atol=5e-5)
    assert (decoded.dtype, decoded.shape) == (np.float32, (8000,))
    for item in (str(path), wav(TONE), {"bytes": wav(TONE), "path": None}, {"audio": path}, {"path": str(path)}):
        np.testing.assert_array_equal(loaded(item), decoded)
        assert modality_of(item, supported=["audio"]) == "audio"
    stereo = np.stack([TONE, TONE])
    for item in (
        {"array": TONE, "sampling_rate": 16_000},
        {"array": stereo, "sampling_rate": 16_000},
        TONE,
        torch.from_numpy(TONE),
        stereo.T,
        decoder(stereo, 16_000),
    ):
        np.testing.assert_array_equal(loaded(item), TONE)
        assert modality_of(item, supported=["audio"]) == "audio"


def test_channels_are_averaged_and_integers_scaled():
    left, right = tone(300), tone(700)
    np.testing.assert_allclose(loaded(wav(np.stack([left, right]))), (left + right) / 2, atol=5e-5)
    np.testing.assert_allclose(loaded((TONE * 32767).round().astype(np.int16)), TONE, atol=5e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_last_packet_of_one_sample_keeps_its_channels(channels):
    content = wav(np.stack([tone(300, 1.0), tone(700, 1.0)])[:, :8193])  # FFmpeg reads WAV in packets of 4,096 bytes
    assert loaded(content, sampling=Sampling(channels=channels)).shape[-1] == 8193


def test_a_model_of_two_channels_hears_both(tmp_path):
    extractor = transformers.EncodecFeatureExtractor(feature_size=2, sampling_rate=24_000)
    asked = sampling(extractor, None, {})
    assert (asked.rate, asked.channels) == (24_000, 2)
    assert sampling(transformers.EncodecFeatureExtractor(feature_size=1), None, {}).channels == 1
    assert sampling(transformers.WhisperFeatureExtractor(feature_size=32), None, {}).channels == 1
    pair = np.stack([tone(300), tone(700)])
    (tmp_path / "two.wav").write_bytes(wav(pair))
    expected = np.stack([resample(side, 16_000, 24_000) for side in pair])
    assert expected.shape == (2, 12_000)
    for item in (tmp_path / "two.wav", {"array": pair, "sampling_rate": 16_000}, decoder(pair.T, 16_000)):
        np.testing.assert_allclose(loaded(item, sampling=asked), expected, atol=5e-5)
    mono, three = (loaded({"array": a, "sampling_rate": 24_000}, sampling=asked) for a in (TONE, np.stack([TONE] * 3)))
    np.testing.assert_allclose(mono, np.stack([TONE, TONE]))
    np.testing.assert_allclose(three, np.stack([TONE, TONE]), atol=1e-7)
    features = processors.call(extractor, "audio", [expected, mono], processors.merged(processors.DEFAULTS))
    np.testing.assert_array_equal(features["input_values"][0].numpy(), expected)
    assert features["input_values"].shape == (2, 2, 12_000)


@pytest.mark.parametrize(("codec", "container"), [("flac", "flac"), ("libmp3lame", "mp3"), ("aac", "mp4")])
def test_formats_are_known_by_their_bytes(codec, container):
    content = encoded(TONE, codec, container)
    decoded = loaded(content)
    assert abs(len(decoded) - len(TONE)) < 2200  # what the encoder puts before and after
    assert modality_of({"audio": content}, supported=["audio"]) == "audio"
    assert modality_of(content, supported=["audio"]) == ("video" if container == "mp4" else "audio")


def test_the_sound_track_of_a_clip(tmp_path):
    path = clip(tmp_path / "clip.mp4", frames(12), sound=tone(440, 1.0))
    peak = np.abs(np.fft.rfft(loaded(path)[:16_000])).argmax()
    assert abs(peak - 440) <= 1


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (48_000, 16_000), (8_000, 16_000), (22_050, 48_000)])
def test_resampling_is_exact_for_what_the_rate_can_hold(source, target):
    """Against the tones themselves at the other rate, and against FFmpeg's resampler."""

    def tones(rate):
        time = np.arange(rate) / rate
        return sum(np.sin(2 * np.pi * hertz * time + hertz) for hertz in (97.0, 1000.0, 3100.0)).astype(np.float32) / 3

    made = resample(tones(source), source, target)
    assert (made.dtype, made.shape) == (np.float32, (target,))
    inside = slice(target // 10, -target // 10)
    np.testing.assert_allclose(made[inside], tones(target)[inside], atol=1e-5)
    frame = av.AudioFrame.from_ndarray(tones(source)[None], format="fltp", layout="mono")
    frame.sample_rate = source
    reference = av.AudioResampler(format="fltp", rate=target)
    theirs = np.concatenate([part.to_ndarray()[0] for part in [*reference.resample(frame), *reference.resample(None)]])
    stop = min(len(theirs), target) - target // 10
    np.testing.assert_allclose(made[target // 10 : stop], theirs[target // 10 : stop], atol=1e-3)


def test_resampling_leaves_out_what_the_rate_cannot_hold():
    high = np.sin(2 * np.pi * 11_000 * np.arange(44_100) / 44_100).astype(np.float32)
    assert np.abs(resample(high, 44_100, 16_000)[1000:-1000]).max() < 1e-3


def test_resampling_is_said_once(caplog):
    caplog.set_level("INFO", "omnitune.inputs.audio")
    item = {"array": tone(440, rate=11_025), "sampling_rate": 11_025}
    for _ in range(3):
        assert len(loaded(item)) == 8000
    assert caplog.messages == ["audio: resampled from 11025 Hz to the model's 16000 Hz."]
    assert len(loaded(item, sampling=Sampling())) == 5512


def test_the_header_gives_the_length(tmp_path):
    (tmp_path / "tone.wav").write_bytes(wav(TONE))
    for item in (tmp_path / "tone.wav", {"array": TONE, "sampling_rate": 16_000}, TONE, {"audio": wav(TONE)}):
        assert audio_size(item, DEFAULT_POLICY) == (0.5,)
    assert audio_size(decoder(TONE, 16_000), DEFAULT_POLICY) == (1.0,)


def test_fingerprints_are_of_the_content(tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(wav(TONE))
    assert fingerprint(path, "audio") == fingerprint(wav(TONE), "audio") == fingerprint({"audio": path}, "audio")
    rates = {fingerprint({"array": TONE, "sampling_rate": rate}, "audio") for rate in (8_000, 16_000)}
    decoders = {fingerprint(decoder(samples, 8_000), "audio") for samples in (TONE, TONE.copy(), TONE[::-1].copy())}
    assert (len(rates), len(decoders)) == (2, 2)


def broken_files():
    whole = wav(tone(440, 2.0))
    silent = bytearray(whole)
    silent[22:24] = b"\0\0"  # channels
    mp3 = encoded(tone(440, 4.0), "libmp3lame", "mp3")
    flac = encoded(tone(440, 4.0), "flac", "flac")
    return {
        "cut.wav": (whole[: len(whole) // 2], "truncated: its header says 64044 bytes, and it has 32022"),
        "cut.mp3": (mp3[: len(mp3) // 2], "truncated: its header says 4.0 s, and it ends after"),
        "cut.flac": (flac[: len(flac) // 2], "broken audio: Invalid data found"),
        "empty.wav": (b"", "empty"),
        "text.wav": (b"this is no recording " * 20, "no audio that can be read: Invalid data found"),
        "no-channels.wav": (bytes(silent), "its sound track has no channels"),
        "playlist.mp3": (b"#EXTM3U\n#EXTINF:9,\nother.wav\n#EXT-X-ENDLIST\n", "no audio that can be read"),
        "no-samples.wav": (wav(np.zeros(0, np.float32)), "it has no samples"),
    }


@pytest.mark.parametrize("name", [*broken_files()])
def test_broken_files_are_named(tmp_path, name):
    content, reason = broken_files()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=f"^{tmp_path / name}: {reason}"):
        loaded(tmp_path / name)


def test_a_stream_without_an_end_stops_at_the_limit():
    endless = bytearray(wav(tone(440, 3.0)))
    endless[4:8] = endless[40:44] = b"\xff\xff\xff\xff"  # a length not known when it was written
    assert len(loaded(bytes(endless))) == 48_000
    with pytest.raises(MediaRefusedError, match="audio of 96044 bytes: at least .* max_seconds=2"):
        loaded(bytes(endless), replace(DEFAULT_POLICY, max_seconds=2))


def test_limits(tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(wav(TONE))
    with pytest.raises(MediaRefusedError, match="16044 bytes, more than the media policy's max_clip_bytes=1000"):
        loaded(path, replace(DEFAULT_POLICY, max_clip_bytes=1000))
    with pytest.raises(MediaRefusedError, match="array of shape .*: at least 0 s long"):
        loaded({"array": TONE, "sampling_rate": 16_000}, replace(DEFAULT_POLICY, max_seconds=0.1))
    with pytest.raises(MediaRefusedError, match="forbids local files"):
        loaded(path, replace(DEFAULT_POLICY, allow_local_files=False))
    with pytest.raises(MediaNotFoundError, match="no such file"):
        loaded(tmp_path / "missing.wav")


@pytest.mark.parametrize(("item", "reason"), [
    ({"array": TONE}, "expected samples a second as 'sampling_rate' beside 'array', got None"),
    *(({"array": TONE, "sampling_rate": rate}, "expected samples a second as 'sampling_rate'")
      for rate in (None, 0, -1, float("nan"), float("inf"), "16000")),
    ({"array": [], "sampling_rate": 8}, "it has no samples"),
    ({"array": [[0.0, 1.0], [0.5]], "sampling_rate": 8}, "expected samples as floats or integers"),
    (np.zeros((50, 60), np.float32), "expected 1 to 32 channels"),
    (np.zeros((0, 60), np.float32), "expected 1 to 32 channels"),
    (np.zeros((2, 3, 4), np.float32), "expected .samples,., .channels, samples."),
    (np.array(["a"]), "expected samples as floats or integers"),
    (np.array([0.0, np.nan]), "samples that are no finite numbers"),
    (np.zeros(0, np.float32), "it has no samples"),
    (3, "expected audio as path, bytes"),
])  # fmt: skip
def test_what_is_no_audio(item, reason):
    with pytest.raises(MediaError, match=reason):
        loaded(item)


def test_a_file_without_a_sound_track(tmp_path):
    path = clip(tmp_path / "silent.mp4", frames(4))
    with pytest.raises(MediaError, match="silent.mp4: there is no audio in it"):
        loaded(path)


def test_without_the_package(monkeypatch):
    def missing(package, *, extra):
        raise MissingExtraError(f"{package} is needed here: pip install 'omnitune[{extra}]'")

    monkeypatch.setattr(runtime, "require", missing)
    assert len(loaded(TONE)) == 8000
    with pytest.raises(MissingExtraError, match=r"omnitune\[audio\]"):
        loaded(wav(TONE))


@pytest.mark.parametrize("channels", [3, 8, 9, 16, 33, 64])
def test_recordings_of_any_number_of_channels(tmp_path, channels):
    """PyAV reads eight planes of planar sound and crashes beyond; 7.1 sound has eight."""
    sides = np.stack([tone(100 + 20 * number) / 2 for number in range(channels)])
    content = wav(sides)
    np.testing.assert_allclose(loaded(content), sides.mean(axis=0), atol=5e-5)
    two = loaded(content, sampling=Sampling(rate=16_000, channels=2))
    np.testing.assert_allclose(two, np.stack([sides.mean(axis=0)] * 2), atol=5e-5)


@pytest.mark.parametrize("layout", ["5.1", "7.1", "7.1(wide)", "22.2"])
def test_recordings_of_any_layout(layout):
    sides = np.stack([tone(100 + 20 * number) for number in range(av.AudioLayout(layout).nb_channels)])
    made = io.BytesIO()
    with av.open(made, "w", format="flac" if len(sides) <= 8 else "wav") as file:
        stream = file.add_stream("flac" if len(sides) <= 8 else "pcm_s16le", rate=16_000, layout=layout)
        packed = np.ascontiguousarray((sides.T * 32767).round().astype(np.int16)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.sample_rate = 16_000
        shaped = av.AudioResampler(format="s16", layout=layout, frame_size=stream.codec_context.frame_size or 1024)
        for part in [*shaped.resample(frame), *shaped.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode())
    np.testing.assert_allclose(loaded(made.getvalue()), sides.mean(axis=0), atol=5e-5)


def test_too_many_channels_are_refused():
    with pytest.raises(MediaError, match="audio of .* bytes: "):
        loaded(wav(np.zeros((200, 160), np.float32)))


def test_a_recording_whose_channels_and_rate_change_in_the_middle():
    """Files joined byte by byte, as radio streams and editors do."""
    made = []
    for rate, layout in ((16_000, "mono"), (32_000, "stereo")):
        content = io.BytesIO()
        with av.open(content, "w", format="adts") as file:
            stream = file.add_stream("aac", rate=rate, layout=layout)
            for start in range(0, rate, 1024):
                samples = np.tile(tone(440, 2.0, rate)[None, start : start + 1024], (2 if layout == "stereo" else 1, 1))
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
                frame.sample_rate, frame.pts = rate, start
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        made.append(content.getvalue())
    samples = loaded(b"".join(made))
    assert len(samples) / 16_000 == pytest.approx(2.1, abs=0.1)
    for half in (samples[2_000:14_000], samples[20_000:32_000]):
        assert abs(np.abs(np.fft.rfft(half)).argmax() * 16_000 / len(half) - 440) <= 2


@pytest.mark.parametrize(("source", "target"), [(16_001, 16_000), (44_101, 16_000), (22_255, 16_000), (16_000, 44_101)])
def test_rates_with_a_small_common_divisor_take_little_memory(source, target):
    """A filter for each of 16,000 phases would take gigabytes."""

    def tones(rate):
        time = np.arange(rate) / rate
        return sum(np.sin(2 * np.pi * hertz * time + hertz) for hertz in (97.0, 1000.0, 3100.0)).astype(np.float32) / 3

    made = resample(np.stack([tones(source), tones(source)]), source, target)
    assert made.shape == (2, target)
    inside = slice(target // 10, -target // 10)
    np.testing.assert_allclose(made[:, inside], np.stack([tones(target)] * 2)[:, inside], atol=1e-5)


def test_a_recording_of_one_sample_a_second_is_heard_in_seconds():
    started = time.process_time()
    assert load_audio(wav(TONE[:300], rate=1), DEFAULT_POLICY, Sampling(rate=16_000, channels=1)).shape == (4_800_000,)
    assert time.process_time() - started < 5
    with pytest.raises(MediaError, match="expected samples a second as 'sampling_rate' beside 'array', got True"):
        load_audio({"array": TONE, "sampling_rate": True}, DEFAULT_POLICY, Sampling(rate=16_000, channels=1))


def test_both_ways_of_resampling_agree(monkeypatch):
    noise = np.random.default_rng(0).normal(size=4410).astype(np.float32)
    by_table = resample(noise, 44_100, 16_000)
    monkeypatch.setattr(audio, "MOST_OF_TABLE", 1 << 12)
    monkeypatch.setattr(audio, "MOST_TAPS", 1 << 12)
    np.testing.assert_allclose(resample(noise, 44_100, 16_000), by_table, atol=1e-5)


def test_an_absurd_rate_is_refused_in_every_form():
    lying = bytearray(wav(TONE[:10]))
    lying[24:28] = (2_000_000_000).to_bytes(4, "little")
    for item, name in (
        (bytes(lying), "audio of 64 bytes"),
        ({"bytes": bytes(lying)}, "audio of 64 bytes"),
        ({"array": TONE, "sampling_rate": 2_000_000_000}, "array of shape .8000,."),
        (decoder(TONE, 2_000_000_000), "namespace"),
    ):
        with pytest.raises(MediaRefusedError, match=f"{name}.*: 2000000000 samples a second, more than .*=768000"):
            loaded(item)
    with pytest.raises(MediaRefusedError, match="the model's processor: 1000000000 samples a second"):
        loaded({"array": TONE, "sampling_rate": 8_000}, sampling=Sampling(rate=1_000_000_000))


def test_samples_as_lists(tmp_path):
    for values in (TONE.tolist(), [TONE.tolist()] * 2, np.stack([TONE, TONE]).T.tolist(), tuple(TONE.tolist())):
        for rate in (16_000, 16_000.0, np.int64(16_000)):
            item = {"array": values, "sampling_rate": rate, "path": None}
            np.testing.assert_array_equal(loaded(item), TONE)
            assert audio_size(item, DEFAULT_POLICY) == (0.5,)
            assert modality_of(item, supported=["audio"]) == "audio"
            assert fingerprint(item, "audio") == fingerprint({**item, "array": np.asarray(values)}, "audio")
    for rate in (None, 0):
        with pytest.raises(MediaError, match="expected samples a second"):
            audio_size({"array": TONE, "sampling_rate": rate}, DEFAULT_POLICY)


# --- lengths that a container states, and those that are guessed ------------------------------------------------------

QUIET_FIRST = np.concatenate([np.zeros(48_000, np.float32), np.random.default_rng(0).normal(0, 0.3, 80_000)]).astype(
    np.float32
)


def with_options(codec, container, **options):
    made = io.BytesIO()
    with av.open(made, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(QUIET_FIRST[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        shaped = av.AudioResampler(
            format=stream.codec_context.format, rate=16_000, frame_size=stream.codec_context.frame_size or 1024
        )
        for part in [*shaped.resample(frame), *shaped.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode())
    return made.getvalue()


@pytest.mark.parametrize(("codec", "container", "options"), [
    ("aac", "adts", {}),  # FFmpeg guesses 61 s from the bit rate of the silence at the beginning
    ("libmp3lame", "mp3", {"write_xing": "0"}),
    ("aac", "mpegts", {}),
    ("mp2", "mpeg", {}),
    ("aac", "matroska", {"live": "1"}),
    ("pcm_s16le", "matroska", {"live": "1"}),
    ("pcm_s16be", "aiff", {}),
    ("pcm_s16le", "caf", {}),
    ("pcm_s16be", "au", {}),
    ("aac", "asf", {}),
    ("aac", "mp4", {"movflags": "frag_keyframe+empty_moov"}),
])  # fmt: skip
def test_a_guessed_length_refuses_nothing(codec, container, options):
    content = with_options(codec, container, **options)
    assert len(loaded(content)) / 16_000 == pytest.approx(8.0, abs=0.2)
    assert len(loaded(content, replace(DEFAULT_POLICY, max_seconds=9.0))), "nor by the policy's limit"


@pytest.mark.parametrize(("codec", "container"), [("libmp3lame", "mp3"), ("aac", "matroska"), ("pcm_s16be", "aiff")])
def test_a_stated_length_shows_what_is_cut(codec, container):
    content = with_options(codec, container)
    assert len(loaded(content)) / 16_000 == pytest.approx(8.0, abs=0.2)
    with pytest.raises(MediaError, match="truncated: its header says 8.* s, and it ends after"):
        loaded(content[: len(content) * 2 // 3])


@pytest.mark.parametrize("add", [
    lambda mp3: b"ID3\x04\0\0\0\x01\0\0" + bytes(1 << 14) + mp3,
    lambda mp3: mp3 + b"TAG" + bytes(125),
    lambda mp3: mp3 + b"APETAGEX\xd0\x07\0\0\x20\0\0\0\0\0\0\0\0\0\0\x80" + bytes(8),
])  # fmt: skip
def test_tags_around_an_mp3(add):
    content = encoded(tone(440, 4.0), "libmp3lame", "mp3")
    assert len(loaded(add(content))) / 16_000 == pytest.approx(4.0, abs=0.1)
    with pytest.raises(MediaError, match="truncated: its header says 4.0 s|broken audio"):
        loaded(add(content[:6_000]))


def test_a_broadcast_is_recorded_from_within_a_packet_to_within_a_packet():
    for content in (with_options("aac", "adts"), with_options("libmp3lame", "mp3", write_xing="0")):
        tapped = content[len(content) // 4 + 3 : len(content) * 3 // 4 - 3]
        assert len(loaded(tapped)) > 16_000


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x80000024, 0xFFFFFFFF, 0x7FFFF024])
def test_the_length_that_a_pipe_could_not_know(size):
    streamed = bytearray(wav(TONE))
    streamed[4:8] = size.to_bytes(4, "little")
    streamed[40:44] = min(0xFFFFFFFF, size).to_bytes(4, "little")
    assert len(loaded(bytes(streamed))) == 8000


@pytest.mark.parametrize("wrong", [1, 8, 0 - 8])
def test_a_riff_size_that_a_writer_counted_wrongly(wrong):
    content = bytearray(wav(TONE))
    content[4:8] = (len(content) - 8 + wrong).to_bytes(4, "little")
    assert len(loaded(bytes(content))) == 8000


def test_sound_that_pauses_or_begins_late():
    """Recordings of calls leave out what is silent: the samples are fewer than the seconds."""
    made = io.BytesIO()
    with av.open(made, "w", format="matroska") as file:
        stream = file.add_stream("libopus", rate=48_000, layout="mono")
        pieces = []
        for start in [*range(0, 48_000, 960), *range(20 * 48_000, 21 * 48_000, 960)]:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
            pieces += stream.encode(frame)
        for packet in [*pieces, *stream.encode()]:
            file.mux(packet)
    assert len(loaded(made.getvalue())) / 16_000 == pytest.approx(2.0, abs=0.1)
