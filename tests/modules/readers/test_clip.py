import numpy as np
import pytest
from PIL import Image

from fixtures.media_folders import SENTENCES, write_show
from fixtures.recordings import clip, frames
from omnitune import SentenceTransformer, runtime
from omnitune.errors import InputError
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.video import Clip
from omnitune.modules import ClipReader, Pooling, Router, Transformer
from omnitune.modules.base import InputModule, Reader
from omnitune.modules.readers import readings
from omnitune.modules.readers.audio import RECOGNISERS
from omnitune.modules.readers.clip import legible
from omnitune.modules.readers.text import ENGINES


class Eye:
    """Names the brightness of a picture."""

    @staticmethod
    def identity() -> str:
        return "eye-1"

    def __init__(self, *, language: str, segmentation: int, dpi: int) -> None:
        pass

    def text(self, image: Image.Image) -> str:
        return f"shade {round(np.asarray(image).mean(), -1):.0f}\n~ |_\n"


class Ear:
    """Names the strongest frequency."""

    @staticmethod
    def identity() -> str:
        return "ear-1"

    def __init__(self, *, language: str) -> None:
        pass

    def text(self, samples: np.ndarray) -> str:
        return f"pitch {round(np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples), -2):.0f}"


@pytest.fixture(autouse=True)
def engines(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(readings, "_remembered", {})
    monkeypatch.setattr(readings, "_idle", {})
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    monkeypatch.setitem(ENGINES, "eye", Eye)
    monkeypatch.setitem(RECOGNISERS, "ear", Ear)


def reader(**settings: object) -> ClipReader:
    return ClipReader(**{"ocr": "eye", "speech": "ear", **settings})


def made(*shades: int, hertz: float | None = None) -> Clip:
    """A clip in memory."""
    pictures = np.stack([np.full((40, 60, 3), shade, np.uint8) for shade in shades])
    time = np.arange(8000) / 16_000
    sound = None if hertz is None else np.sin(2 * np.pi * hertz * time).astype(np.float32)
    return Clip(frames=pictures, metadata=None, sound=sound)


def test_what_is_shown_then_what_is_said():
    clips = [made(50, 200, hertz=400), made(50, 50), made(90, 90, hertz=800)]
    assert reader().read(clips) == ["shade 50\nshade 200\npitch 400", "shade 50", "shade 90\npitch 800"]
    assert reader().read([]) == []


def test_frames_in_channels_first_order_are_turned():
    turned = made(50, 200)
    other = Clip(frames=turned.frames.transpose(0, 3, 1, 2), metadata=None)
    assert reader().read([other]) == reader().read([turned])


def test_a_still_picture_is_read_once(monkeypatch):
    read = []
    text = Eye.text
    monkeypatch.setattr(Eye, "text", lambda self, image: read.append(1) or text(self, image))
    reader().read([made(70, 70, hertz=400), made(70, 70, hertz=800)])
    assert len(read) == 1


def test_a_clip_in_a_file_is_loaded_as_the_reader_wants_it(tmp_path):
    time = np.arange(32_000) / 16_000
    path = clip(tmp_path / "a.mp4", frames(24), fps=12, sound=np.sin(2 * np.pi * 500 * time).astype(np.float32))
    mine = reader(frames=3)
    loaded = load(path, "video", DEFAULT_POLICY, mine.sampling("video"))
    assert loaded.metadata.frames_indices == [4, 12, 20], "the middles of three parts"
    assert len(loaded.sound) == pytest.approx(32_000, rel=0.1)
    assert mine.read([loaded])[0].endswith("pitch 500")
    assert load(path, "video", DEFAULT_POLICY).sound is None, "nobody asked for it"


def test_a_model_without_a_hub_takes_clips(tiny_bert, tmp_path):
    text = [Transformer(str(tiny_bert)), Pooling(32, "mean")]
    model = SentenceTransformer(modules=[Router({"text": text, "video": [reader(), *text]}, default_route="text")],
                                device="cpu")  # fmt: skip
    assert model.modalities == ["text", "video"]
    path = clip(tmp_path / "a.mp4", frames(12), fps=12)
    shown = reader().read([load(path, "video", DEFAULT_POLICY, reader().sampling("video"))])
    assert model.encode_document([str(path)]) == pytest.approx(model.encode_document(shown), abs=1e-6)
    model.save_pretrained(str(tmp_path / "model"))
    again = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert again.encode_document([str(path)]) == pytest.approx(model.encode_document([str(path)]), abs=1e-6)
    kept = next(module for module in again.modules() if isinstance(module, ClipReader))
    assert kept.get_config_dict() == reader().get_config_dict()


def test_it_is_a_reader():
    assert isinstance(reader(), Reader) and isinstance(reader(), InputModule)
    assert reader().forward({"a": 1}) == {"a": 1}
    with pytest.raises(InputError, match="engine: expected one of"):
        ClipReader(speech="nobody")


def test_strokes_are_not_words():
    assert legible("~~ | _\nCafé au lait\n1 2 3\n|.:;,-'a\n   \nab cd\n") == ["Café au lait"]


@pytest.mark.slow
def test_the_real_engines_read_and_hear(tmp_path):
    pytest.importorskip("tesserocr")
    pytest.importorskip("pocketsphinx")
    real = ClipReader()
    path = write_show(tmp_path / "a.mp4", SENTENCES[:1])
    text = real.read([load(path, "video", DEFAULT_POLICY, real.sampling("video"))])[0]
    assert text.splitlines()[0] == "how to grow" and "garden" in text.splitlines()[-1]
