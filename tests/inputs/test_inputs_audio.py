import io
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
import transformers

from fixtures.recordings import clip, frames, tone, wav
from omnitune import runtime
from omnitune.errors import MediaError, MediaNotFoundError, MediaRefusedError, MissingExtraError
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
    ({"array": TONE}, "expected 'sampling_rate' beside 'array'"),
    ({"array": TONE, "sampling_rate": 0}, "expected a positive sampling rate, got 0"),
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
