import numpy as np
import pytest

from fixtures.media_folders import SENTENCES
from fixtures.recordings import tone, wav
from fixtures.speech import spoken
from omnitune import SentenceTransformer, runtime
from omnitune.errors import InputError, MissingExtraError
from omnitune.inputs.audio import resample
from omnitune.modules import AudioReader, Pooling, Router, TextReader, Transformer
from omnitune.modules.base import InputModule, Reader
from omnitune.modules.readers import readings
from omnitune.modules.readers.audio import RECOGNISERS

SAID = ("the water pump is leaking", "we grow tomatoes in the garden every summer")


class FakeRecogniser:
    """Names the strongest frequency, and remembers how loud it heard it."""

    heard: list[float] = []

    @staticmethod
    def identity() -> str:
        return "fake-1"

    def __init__(self, *, language: str) -> None:
        assert language == "en-us"

    def text(self, samples: np.ndarray) -> str:
        self.heard.append(float(np.abs(samples).max()))
        hertz = np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples)
        return f" pitch {round(hertz, -2):.0f}\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(readings, "_remembered", {})
    monkeypatch.setattr(readings, "_idle", {})


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(RECOGNISERS, "fake", FakeRecogniser)
    monkeypatch.setattr(FakeRecogniser, "heard", [])
    return AudioReader("fake")


def test_speech_becomes_words():
    pytest.importorskip("pocketsphinx")
    texts = AudioReader().read([spoken(text) for text in SAID])
    found = [len(set(text.split()) & set(said.split())) for text, said in zip(texts, SAID, strict=True)]
    assert found[0] == 5
    assert found[1] >= 4


def test_equal_recordings_are_read_once_and_kept(fake, monkeypatch):
    low, high = tone(400), tone(900)
    assert fake.read([low, high, low.copy()]) == ["pitch 400", "pitch 900", "pitch 400"]
    monkeypatch.setattr(readings, "_remembered", {})  # as in a new process
    assert fake.read([high, low]) == ["pitch 900", "pitch 400"]
    assert len(fake.engines()["fake"].heard) == 2


def test_quiet_speech_is_made_loud_and_silence_is_not_read(fake):
    assert fake.read([tone(400) * 0.01, np.zeros(8000, np.float32), tone(400, 0.05)]) == ["pitch 400", "", ""]
    assert FakeRecogniser.heard == [pytest.approx(0.7, abs=0.02)]
    assert fake.read([]) == []


def test_recordings_take_the_route_of_texts(fake, tiny_bert, tmp_path):
    text = [Transformer(str(tiny_bert)), Pooling(32)]
    model = SentenceTransformer(
        modules=[Router({"text": text, "audio": [fake, *text]}, default_route="text")], device="cpu"
    )
    assert model.modalities == ["audio", "text"]
    model.save(str(tmp_path / "model"))
    again = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    stereo = np.stack([resample(tone(900), 16_000, 44_100)] * 2)
    for reader in (model, again):
        vectors = reader.encode([wav(stereo, 44_100), "pitch 900", wav(tone(400)), "pitch 400"])
        np.testing.assert_allclose(vectors[::2], vectors[1::2], atol=1e-5)
        assert np.abs(vectors[0] - vectors[2]).max() > 1e-3
    assert model.cost_rule.audio.tokens == 64


def test_what_it_is():
    reader = AudioReader()
    assert isinstance(reader, Reader)
    assert isinstance(reader, InputModule)
    assert reader.modalities == ["audio"]
    assert reader.sampling("audio").rate == 16_000
    assert reader.get_config_dict() == {"engine": "pocketsphinx", "language": "en-us"}
    assert TextReader().modalities == ["image"]


def test_engines_and_languages_that_are_not_there():
    with pytest.raises(InputError, match=r"engine: expected one of \['pocketsphinx'\], got 'other'"):
        AudioReader("other")
    pytest.importorskip("pocketsphinx")
    with pytest.raises(InputError, match="language: expected \"en-us\", the model .* got 'de'"):
        AudioReader(language="de").read([tone(400)])


def test_without_the_package(monkeypatch):
    def missing(package, *, extra):
        raise MissingExtraError(f"{package} is needed here: pip install 'omnitune[{extra}]'")

    monkeypatch.setattr(runtime, "require", missing)
    with pytest.raises(MissingExtraError, match=r"omnitune\[speech\]"):
        AudioReader().read([tone(400)])


@pytest.mark.slow
def test_a_reading_does_not_depend_on_the_recordings_before_it():
    pytest.importorskip("pocketsphinx")
    items = [spoken(text) for text in SENTENCES[:4]]
    engine = RECOGNISERS["pocketsphinx"](language="en-us")
    reader = AudioReader()
    forwards = [reader.text_of(engine, item) for item in items]
    assert [reader.text_of(engine, item) for item in items[::-1]][::-1] == forwards
