import io
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor, SiglipImageProcessor

from fixtures.recordings import frames, tone
from omnitune.errors import InputError, MediaError, MediaNotFoundError, MediaRefusedError, ModalityError
from omnitune.inputs.detect import inputs_of, is_single, modality_of
from omnitune.inputs.endings import ENDINGS
from omnitune.inputs.fingerprint import fingerprint
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.modules.costs import sampling

ALL = ["text", "image", "audio", "video", "message"]
MESSAGE = {"role": "user", "content": "hello"}
PICTURE = Image.new("RGB", (2, 2))


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my page.PNG"
    PICTURE.save(path)
    return path


@pytest.mark.parametrize(
    ("item", "modality"),
    [
        ("a sentence", "text"),
        ("", "text"),
        ("What is a .png", "text"),
        (("a pair", "of texts"), "text"),
        (PICTURE, "image"),
        (b"\x89PNG", "image"),
        (bytearray(b"x"), "image"),
        (memoryview(b"x"), "image"),
        (Path("page"), "image"),
        (Path("sound.mp3"), "audio"),
        ("https://example.org/a.JPG", "image"),
        ("https://example.org/a.jpg?size=3#top", "image"),
        ("https://example.org/a.mp4", "video"),
        ("https://example.org/page.html", "text"),
        ("data:image/png;base64,AAAA", "image"),
        ("data: all of it", "text"),
        ("http://[broken.png", "image"),
        (np.zeros((2, 2), np.uint8), "image"),
        (np.zeros((2, 2, 3)), "image"),
        (torch.zeros(3, 2, 2), "image"),
        (np.zeros(100), "audio"),
        (np.zeros((2, 100)), "audio"),
        (torch.zeros(4, 3, 2, 2), "video"),
        ({"array": np.zeros(9), "sampling_rate": 16_000}, "audio"),
        ({"bytes": b"x", "path": None}, "image"),
        ({"bytes": b"x", "path": "a.wav"}, "audio"),
        ({"path": "a.png"}, "image"),
        ({"text": "a.png"}, "text"),
        ({"image": PICTURE}, "image"),
        ({"text": "what?", "image": PICTURE}, ("image", "text")),
        (MESSAGE, "message"),
        ([MESSAGE, MESSAGE], "message"),
    ],
)
def test_what_an_item_is(item, modality):
    assert modality_of(item, supported=ALL) == modality


def test_files_by_their_names(page):
    for name in (str(page), "my page.PNG", "./my page.PNG", page):
        assert modality_of(name, supported=ALL) == "image"


@pytest.mark.parametrize(
    "text",
    [
        "missing.png", "pages/missing.png", "/no such/folder/scan 12.png", "C:\\scans\\page.png", "Scan 12.png",
        "Screenshot 2024-01-01 at 10.00.00.png", "file:///etc/a.png", "~nobody-has-this-name/a.png", "~.png",
        "a\0b.png", "x" * 300 + ".png", ".png", "clip.mp4",
    ],
)  # fmt: skip
def test_a_name_of_media_that_is_not_there_is_an_error_that_names_it(text, page):
    with pytest.raises(MediaNotFoundError) as caught:
        modality_of(text, supported=ALL)
    assert repr(text) in str(caught.value)
    assert "no such file is there" in str(caught.value)
    assert f'give {{"text": {text!r}}}' in str(caught.value)
    assert modality_of({"text": text}, supported=ALL) == "text"


@pytest.mark.parametrize(
    "text",
    ["The figure on the left is kept in scan.png", "convert svg to .png", "one line\nscan.png", "x" * 5000 + ".png"],
)
def test_a_sentence_may_mention_media(text):
    assert modality_of(text, supported=ALL) == "text"


def test_a_model_without_images_takes_names_as_text():
    assert modality_of("missing.png", supported=["text"]) == "text"
    assert modality_of("missing.mp3", supported=["text", "image"]) == "text"


@given(st.text() | st.text(alphabet="~/\\.:?#[]@ \0apng%é", max_size=40))
def test_no_text_raises_unless_it_ends_like_media(text):
    try:
        kind = modality_of(text, supported=ALL)
    except MediaNotFoundError as error:
        assert (
            text.split("?")[0].split("#")[0].lower().endswith(tuple(e for row in ENDINGS.values() for e in row.common))
        )
        assert repr(text) in str(error)
    else:
        assert kind in ALL


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (None, "got NoneType: None"),
        (3.5, "got float: 3.5"),
        ([], r"got list: \[\]"),
        (["a", "b"], "got list"),
        ({}, r"expected a dict with keys among .*, got \[\]"),
        ({"text": "a", "picture": 3}, r"got \['picture', 'text'\]"),
        ({"image": None}, r"expected values for \['image'\], got None for \['image'\]"),
        ({"text": "a", "image": None}, r"got None for \['image'\]"),
        ({"text": 5}, "expected a string for 'text', got int: 5"),
        ({"text": ["a", 5]}, "expected a string for 'text', got list"),
        ({"text": b"a", "image": PICTURE}, "expected a string for 'text', got bytes"),
        (np.zeros(()), r"1 to 5 dimensions, got shape \(\)"),
        (np.zeros((1,) * 6), r"got shape \(1, 1, 1, 1, 1, 1\)"),
    ],
)
def test_what_is_no_input_is_named(item, text):
    with pytest.raises(ModalityError, match=text):
        modality_of(item, supported=ALL)


@pytest.mark.parametrize(
    ("inputs", "single"),
    [
        ("text", True),
        (b"bytes", True),
        (PICTURE, True),
        (Path("a"), True),
        ({"text": "a"}, True),
        ([MESSAGE], True),
        (np.zeros((2, 2, 3)), True),
        (torch.zeros(3, 2, 2), True),
        ([], False),
        (["text"], False),
        ([[MESSAGE]], False),
        (("a", "b"), False),
        (np.array(["a", "b"]), False),
    ],
)
def test_one_item_or_a_batch(inputs, single):
    assert is_single(inputs) is single


def test_a_cell_holds_one_input_or_a_list_of_them() -> None:
    conversation = [{"role": "user", "content": "a"}]
    assert inputs_of("a") == ["a"]
    assert inputs_of(["a", {"text": "b"}]) == ["a", {"text": "b"}]
    assert inputs_of(conversation) == [conversation]


# --- files of rarer formats, open files, tables -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.avif", "a.jp2", "a.tga", "a.ppm", "a.jfif", "A.AVIF"])
def test_rarer_pictures_that_are_there_are_opened(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert modality_of(name, supported=ALL) == "text", "nothing is there"
    Image.new("RGB", (8, 4)).save(name, "JPEG" if name == "a.jfif" else None)
    content = Path(name).read_bytes()
    for item in (name, str(tmp_path / name), Path(name), content, {"path": name}, {"bytes": content, "path": name}):
        assert modality_of(item, supported=ALL) == "image"
        assert load(item, "image", DEFAULT_POLICY).size == (8, 4)
    assert modality_of(name, supported=["text"]) == "text"
    assert modality_of({"text": name}, supported=ALL) == "text"


@pytest.mark.parametrize(("name", "codec", "kind"), [
    ("a.aiff", "pcm_s16be", "audio"), ("a.caf", "pcm_s16le", "audio"), ("a.au", "pcm_s16be", "audio"),
    ("a.w64", "pcm_s16le", "audio"), ("a.mka", "aac", "audio"), ("a.ts", "mpeg4", "video"),
    ("a.mpg", "mpeg1video", "video"),    ("a.3gp", "mpeg4", "video"), ("a.m2ts", "mpeg4", "video"),
])  # fmt: skip
def test_rarer_recordings_and_clips_that_are_there_are_opened(tmp_path, name, codec, kind):
    path = tmp_path / name
    assert modality_of(str(path), supported=ALL) == "text"
    with av.open(str(path), "w") as file:
        if kind == "video":
            stream = file.add_stream(codec, rate=25)
            stream.width = stream.height = 48
            stream.pix_fmt = "yuv420p"
            made = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames(20)]
        else:
            stream = file.add_stream(codec, rate=16_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone(440)[None], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            made = av.AudioResampler(
                format=stream.codec_context.format, rate=16_000, frame_size=stream.codec_context.frame_size or 1024
            ).resample(frame)
        for frame in [*made, None]:
            file.mux(stream.encode(frame))
    for item in (str(path), path, {"path": str(path)}):
        assert modality_of(item, supported=ALL) == kind
        assert load(item, kind, DEFAULT_POLICY) is not None
    if name != "a.mka":  # which may hold either, so its bytes alone do not say
        assert modality_of(path.read_bytes(), supported=ALL) == kind


@pytest.mark.parametrize("name", ["a.heic", "a.svg", "a.pdf", "A.PSD"])
def test_a_file_that_is_not_read_is_no_text(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert modality_of(name, supported=ALL) == "text", "nothing is there: a title"
    Path(name).write_bytes(b"content")
    for item in (name, str(tmp_path / name)):
        with pytest.raises(ModalityError, match=f"{name}' is a file of a format that is not read; convert it to PNG"):
            modality_of(item, supported=ALL)
    assert modality_of(name, supported=["text"]) == modality_of({"text": name}, supported=ALL) == "text"


def test_typescript_is_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("index.ts").write_text("export const answer = 42;\n" * 40)
    for text in ("index.ts", "src/missing.ts", "https://example.org/index.ts", "https://example.org/a.pdf"):
        assert modality_of(text, supported=ALL) == "text"
    assert modality_of("https://example.org/a.avif?size=2", supported=ALL) == "image"


def test_the_folder_reader_takes_what_strings_name():
    from omnitune.documents.folder import READERS
    from omnitune.documents.read.markup import ALONE, OFFICE

    endings = {ending for row in ENDINGS.values() for ending in (*row.common, *row.rarer)}
    texts = {*OFFICE, *ALONE, ".html", ".htm", ".md", ".markdown", ".txt", ".eml"}
    assert endings - READERS.keys() == {".ts", ".mts"} and READERS.keys() - endings == {".pdf", *texts}


def test_a_file_that_is_open_is_what_it_holds(page):
    content = page.read_bytes()
    in_memory = io.BytesIO(content)
    in_memory.read()
    with page.open("rb") as file, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(content)
        for item in (file, in_memory, spooled):
            assert is_single(item)
            assert modality_of(item, supported=ALL) == "image"
            for _ in range(2):
                assert load(item, "image", DEFAULT_POLICY).size == (2, 2)
            assert fingerprint(item, "image") == fingerprint(page, "image")
    assert in_memory.tell() == len(content), "its place is the caller's"
    assert modality_of({"image": io.BytesIO(content)}, supported=ALL) == "image"
    with pytest.raises(MediaError, match=f"{page}: cannot be read: .*closed"):
        modality_of(file, supported=ALL)
    with pytest.raises(MediaError, match="image in BytesIO: empty"):
        load(io.BytesIO(), "image", DEFAULT_POLICY)


def test_a_table_or_an_open_text_file_is_no_batch(page):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match=r"got a DataFrame with the columns 'text', 'n'; give one column, as df\["):
        is_single(pandas.DataFrame({"text": ["a"], "n": [1]}))
    assert not is_single(pandas.Series(["a", "b"]))
    with pytest.raises(InputError, match="the open text file .*; give its text"), page.open() as file:
        is_single(file)
    with pytest.raises(InputError, match="the open text file"):
        is_single(io.StringIO("a"))


def test_a_closed_image_is_named(page):
    with Image.open(page) as image:
        pass
    image.close()
    for read in (fingerprint, lambda item, kind: load(item, kind, DEFAULT_POLICY)):
        with pytest.raises(MediaError, match="PngImageFile of 2x2 pixels: broken image: Operation on closed image"):
            read(image, "image")


def test_a_picture_that_is_too_long_for_its_processor(tmp_path):
    """224 pixels for the shorter side would be 45 million for the longer one."""
    thread = Image.new("RGB", (1, 200_000))
    thread.save(tmp_path / "a.png")
    clip_like = sampling(CLIPImageProcessor(), None, {})
    for item in (thread, tmp_path / "a.png", np.asarray(thread), torch.from_numpy(np.array(thread))):
        with pytest.raises(MediaRefusedError, match="1x200000 pixels, expected a longer side of at most 200 times"):
            load(item, "image", DEFAULT_POLICY, clip_like)
        assert load(item, "image", DEFAULT_POLICY, sampling(SiglipImageProcessor(), None, {})).size == (1, 200_000)
    with pytest.raises(MediaRefusedError, match="1x2000 pixels, expected a longer side"):
        load(np.zeros((4, 2000, 1, 3), np.uint8), "video", DEFAULT_POLICY, clip_like)
