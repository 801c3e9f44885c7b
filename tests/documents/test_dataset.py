"""A folder becomes a dataset once; what is held out stays out."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from fixtures import hostile_pdfs
from fixtures.tiny_pdfs import Sheet, write_folder, write_pdf
from omnitune.documents import DocumentDataset, check_leaks, load, preparation, prepare
from omnitune.documents import dataset as dataset_module
from omnitune.documents.folder import read_folder
from omnitune.documents.read.pages import Rendering
from omnitune.documents.reading import with_texts
from omnitune.documents.rows import Choices, make_rows, round_trip
from omnitune.documents.splits import SplitPage, split_pages
from omnitune.errors import DatasetError, InputError, LeakageError, ResourceError
from omnitune.folders import locked

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
SMALL: dict[str, Any] = {"width": 120, "show_progress": False, "test": ["kitchen"]}
CHOICES = Choices(
    split="documents", test=("kitchen",), validation=0.0, seed=0, similarity=0.8, sentences=3, round_trip=100
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DocumentDataset:
    place = tmp_path_factory.mktemp("made")
    folder = write_folder(place / "in")
    (folder / "broken.pdf").write_bytes(b"x")
    return prepare(folder, place / "out", width=120, show_progress=False, test=["kitchen"], validation=["garden"])


def test_the_sides_hold_whole_documents(made: DocumentDataset) -> None:
    assert {page.split("#")[0] for page in made.pages_of("test")} == {"kitchen.pdf"}
    assert {page.split("#")[0] for page in made.pages_of("validation")} == {"garden.pdf"}
    assert set(made.tables["train"]["document"]) == {"workshop.pdf", "harbour.pdf"}
    assert set(made.tables["train"]["origin"]) == {"title", "sentence"}


def test_a_test_that_tells_little_says_so_and_what_to_do(made: DocumentDataset) -> None:
    (said,) = made.doubts()
    assert said == "The test has 5 queries about 5 pages and tells large differences only: hold out more documents"
    shared = {**made.facts, "settings": {**made.facts["settings"], "test": 0.2}}
    (said,) = replace(made, facts=shared).doubts()
    assert "half of the pages stay for training, so add documents, name those" in said
    large = {**shared, "pages": {"test": 30}, "queries": {"test": {"title": 20, "caption": 10}}}
    assert not replace(made, facts=large).doubts()
    (said,) = replace(made, facts={**large, "queries": {"test": {"caption": 10, "sentence": 20}}}).doubts()
    assert said.startswith("20 of the 30 test queries are sentences of what is said")


def test_test_queries_are_titles_with_their_pages(made: DocumentDataset) -> None:
    assert made.test_queries == [
        "Baking rye bread",
        "Sharpening steel knives",
        "Fermenting white cabbage",
        "Roasting pumpkin",
        "Fish stock",
    ]
    assert made.relevant["test-2"] == {"kitchen.pdf#2"}
    assert set(made.queries) == set(made.relevant)
    assert len(made.validation.queries) == 5
    assert set(made.tables["test"]["origin"]) == {"title"}


def test_training_pairs_are_texts_and_images(made: DocumentDataset) -> None:
    assert made.train.column_names == ["query", "page"]
    row = made.train[0]
    assert isinstance(row["page"], Image.Image)
    assert row["page"].width == 120
    stored = made.train.cast_column("page", datasets.Image(decode=False))[0]["page"]
    assert stored["bytes"] is None
    assert Path(stored["path"]).is_file()


def test_corpus_texts_and_pages_agree(made: DocumentDataset) -> None:
    assert len(made.corpus) == len(made.pages) == len(made.page_texts) == len(made.page_ids) == 20
    assert list(made.corpus) == list(made.texts) == made.page_ids
    assert "Roasting pumpkin" in made.texts["kitchen.pdf#4"]
    assert Path(made.corpus["kitchen.pdf#4"]["path"]).is_file()
    assert made.corpus["kitchen.pdf#4"]["bytes"] is None


def test_facts_name_what_was_skipped_and_counted(made: DocumentDataset) -> None:
    assert made.facts["skipped"] == [{"name": "broken.pdf", "reason": "not a PDF, or a damaged one"}]
    assert made.facts["pages"] == {"validation": 5, "train": 10, "test": 5}
    assert made.facts["queries"]["test"] == {"title": 5}
    assert made.summary().startswith("4 documents, 20 pages (10 train, 5 validation, 5 test); ")
    assert made.summary().endswith("5 test queries; 1 document skipped")
    assert made.name == "in"
    card = (made.folder / "README.md").read_text()
    assert "| kitchen.pdf | test | 5 | 5 |" in card
    assert "`broken.pdf`: not a PDF, or a damaged one" in card


def test_the_tables_load_with_datasets_alone(made: DocumentDataset) -> None:
    tables = datasets.load_from_disk(str(made.folder / "tables"))
    assert {name: table.features for name, table in tables.items()} == dataset_module.SCHEMA
    assert tables["pages"][3]["page_id"] == "garden.pdf#4"
    assert (made.folder / tables["pages"][3]["image"]).is_file()


def test_exported_tables_have_images_inside(made: DocumentDataset, tmp_path: Path) -> None:
    made.to_datasets().save_to_disk(str(tmp_path / "x"))
    page = datasets.load_from_disk(str(tmp_path / "x"))["pages"].cast_column("image", datasets.Image(decode=False))[0]
    assert page["image"]["bytes"][:4] == b"\x89PNG"


def test_a_dataset_can_be_moved(made: DocumentDataset, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "moved")
    moved = load(tmp_path / "moved")
    assert moved.pages[0]["path"].startswith(str(tmp_path / "moved"))
    assert isinstance(moved.train[0]["page"], Image.Image)
    assert moved.train["query"][:] == made.train["query"][:]


def test_opening_what_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected a dataset made by `omnitune prepare`, got '.*'"):
        load(tmp_path)


@pytest.mark.parametrize("fault", ["torn facts", "an earlier layout"])
def test_opening_what_is_damaged_or_old_says_what_to_do(made: DocumentDataset, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "old"
    shutil.copytree(made.folder, folder)
    if fault == "torn facts":
        (folder / "prepared.json").write_bytes((folder / "prepared.json").read_bytes()[:40])
    else:
        older = made.tables.copy()
        older["pages"] = made.tables["pages"].rename_column("fingerprint", "look")
        shutil.rmtree(folder / "tables")
        type(made.tables)(older).save_to_disk(str(folder / "tables"))
    with pytest.raises(DatasetError, match="expected a whole dataset of this version.*`omnitune prepare` again"):
        load(folder)


# --- once -------------------------------------------------------------------------------------------------------------


def test_the_second_run_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "in")
    first = prepare(folder, tmp_path / "out", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    monkeypatch.setattr(preparation, "make_rows", None)
    again = prepare(folder, tmp_path / "out", **SMALL)
    assert again.facts == first.facts
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"sentences": 1}, {"test": ["garden"]}, {"similarity": 0.7}])
def test_other_settings_make_it_again(tmp_path: Path, made: DocumentDataset, change: dict[str, Any]) -> None:
    shutil.copytree(made.folder, tmp_path / "out")
    settings = {"width": 120, "test": ["kitchen"], "validation": ["garden"], "show_progress": False, **change}
    again = prepare(made.facts["source"], tmp_path / "out", **settings)
    assert again.facts["fingerprint"] != made.facts["fingerprint"]


def test_an_added_document_makes_it_again_and_reads_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "in", ["garden", "kitchen"])
    prepare(folder, tmp_path / "out", **SMALL)
    markers = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "documents").iterdir()}
    write_folder(folder, ["workshop"])
    again = prepare(folder, tmp_path / "out", **SMALL)
    assert len(again.page_ids) == 15
    assert markers.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "documents").iterdir()}.items()


def test_a_run_that_dies_while_saving_is_made_good_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "in")
    whole = prepare(folder, tmp_path / "out", **SMALL)

    def dies(path: Path, facts: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_card", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, tmp_path / "out", **{**SMALL, "seed": 5})
    with pytest.raises(DatasetError):
        load(tmp_path / "out")
    again = prepare(folder, tmp_path / "out", **SMALL)
    assert again.train["query"][:] == whole.train["query"][:]


def test_two_runs_make_the_same_dataset(tmp_path: Path, made: DocumentDataset) -> None:
    again = prepare(
        made.facts["source"], tmp_path / "out", width=120, show_progress=False, test=["kitchen"], validation=["garden"]
    )
    for name, table in made.tables.items():
        assert again.tables[name].to_dict() == table.to_dict()


# --- leaks ------------------------------------------------------------------------------------------------------------


def test_a_clean_dataset_has_no_leaks(made: DocumentDataset) -> None:
    check_leaks(made)


def test_a_test_page_in_training_is_a_leak(made: DocumentDataset) -> None:
    train = made.tables["train"].to_list()
    train[0]["page_id"] = "kitchen.pdf#3"
    tables = datasets.DatasetDict({**made.tables, "train": datasets.Dataset.from_list(train)})
    with pytest.raises(LeakageError, match="kitchen.pdf#3 is, or nearly is, held-out page kitchen.pdf#3"):
        check_leaks(DocumentDataset(folder=made.folder, tables=tables, facts=made.facts))


def test_a_near_duplicate_that_carries_another_group_is_a_leak_all_the_same(made: DocumentDataset) -> None:
    pages = made.tables["pages"].to_list()
    texts = {page["page_id"]: page["text"] for page in pages}
    copied = next(page for page in pages if page["page_id"] == "workshop.pdf#1")
    copied["text"] = texts["kitchen.pdf#5"] + " more"
    tables = datasets.DatasetDict({**made.tables, "pages": datasets.Dataset.from_list(pages)})
    with pytest.raises(LeakageError, match="workshop.pdf#1 is, or nearly is, held-out page kitchen.pdf#5"):
        check_leaks(DocumentDataset(folder=made.folder, tables=tables, facts=made.facts))


def test_pages_that_stand_in_both_are_left_out_of_training(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    notice = Sheet("Permission notice", [f"Line {n} of a long notice that all manuals carry." for n in range(9)])
    for name in ("kitchen", "workshop"):
        titles = [Sheet(f"{name} {word}", [f"{name} {word} text."]) for word in ("alpha", "beta", "gamma")]
        write_pdf(folder / f"{name}.pdf", [notice, *titles])
    made = prepare(folder, tmp_path / "out", **SMALL)
    assert made.facts["left_out"] == {"workshop.pdf#1": "kitchen.pdf#1"}
    assert made.facts["near_duplicates"] == [["kitchen.pdf#1", "workshop.pdf#1"]]
    assert "workshop.pdf#1" not in made.tables["train"]["page_id"]
    assert made.relevant["test-1"] == {"kitchen.pdf#1", "workshop.pdf#1"}


def test_a_query_of_the_test_is_not_trained_on(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    for name in ("kitchen", "workshop"):
        others = [Sheet(f"{name} {word}", [f"{name} {word} text."]) for word in ("alpha", "beta")]
        write_pdf(folder / f"{name}.pdf", [Sheet("Cleaning the floor", [f"In the {name} we clean."]), *others])
    made = prepare(folder, tmp_path / "out", **SMALL)
    assert made.relevant["test-1"] == {"kitchen.pdf#1", "workshop.pdf#1"}
    assert "Cleaning the floor" not in made.train["query"][:]
    assert made.facts["dropped"]["also asked in the test"] == 1


# --- filters and readers ----------------------------------------------------------------------------------------------


def test_round_trip_keeps_what_bm25_finds() -> None:
    texts = {"a": "bees and honey", "b": "cows and milk", "c": "hens and eggs", "d": ""}
    kept = round_trip(1)(["honey", "milk", "milk", "eggs"], ["a", "b", "c", "d"], texts)
    assert kept == [True, True, False, True]


def test_a_filter_of_ones_own_sees_training_only(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    seen: list[str] = []

    def keep(queries: list[str], pages: list[str], texts: dict[str, str]) -> list[bool]:
        seen.extend(texts)
        return [page.endswith("#1") for page in pages]

    made = prepare(folder, tmp_path / "out", keep=keep, **SMALL)
    assert set(made.tables["train"]["page_id"]) == {"garden.pdf#1", "harbour.pdf#1", "workshop.pdf#1"}
    assert not any(page.startswith("kitchen") for page in seen)
    assert made.facts["dropped"]["keep"] > 0


def test_a_reader_reads_pages_without_text_and_only_those(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", ["garden", "kitchen"])
    Image.effect_noise((60, 80), 40).save(folder / "scan.png")
    Image.new("L", (60, 80), 255).save(folder / "white.png")
    documents, _ = read_folder(folder, tmp_path / "out", Rendering(width=120))
    asked: list[Path] = []

    def reader(paths: list[Path]) -> list[str]:
        asked.extend(paths)
        return ["Figure 1: A very old engraving of bees"] * len(paths)

    read = with_texts(documents, tmp_path / "out" / "images", reader)
    assert [path.is_file() for path in asked] == [True]
    assert [document.pages[0].text for document in read[2:]] == ["Figure 1: A very old engraving of bees", ""]
    rows = make_rows(read, CHOICES)
    assert "A very old engraving of bees" in [row["query"] for row in rows.train]


def test_images_alone_cannot_be_asked_about_without_a_reader(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for shade in range(4):
        Image.effect_noise((60, 80), 10 + 20 * shade).save(tmp_path / "in" / f"{shade}.png")
    with pytest.raises(DatasetError, match=r"1 page\(s\) of .* have no text; pass reader="):
        prepare(tmp_path / "in", tmp_path / "out", show_progress=False)


def test_pages_with_text_and_nothing_to_ask_name_their_documents(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for shade in range(4):
        Image.effect_noise((60, 80), 10 + 20 * shade).save(tmp_path / "in" / f"{shade}.png")
    with pytest.raises(DatasetError, match=r"1 page\(s\) of \d.png have no outline, captions or headings; hold out"):
        prepare(
            tmp_path / "in", tmp_path / "out", reader=lambda paths: [f"word {p}" for p in paths], show_progress=False
        )


def test_one_document_is_an_error_unless_pages_may_be_split(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", ["garden"])
    with pytest.raises(DatasetError, match="at least 2 different documents"):
        prepare(folder, tmp_path / "out", show_progress=False)
    made = prepare(folder, tmp_path / "out", split="pages", width=120, show_progress=False)
    assert made.pages_of("test") == ["garden.pdf#5"]
    assert made.facts["documents"][0]["side"] == "test and train"


def test_a_document_that_asks_nothing_is_not_the_whole_test(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", ["garden", "kitchen", "workshop"])
    lines = ["Nothing of note stands here, and nothing asks for it.", "It goes on and on in this way, line after line."]
    write_pdf(
        folder / "mute.pdf", [Sheet("", [*lines, f"So ends page {number}."]) for number in range(5)], outline=False
    )
    for seed in range(4):  # of four equal documents, one of which is in turn the first
        made = prepare(folder, tmp_path / "out", width=120, seed=seed, show_progress=False)
        assert len(made.test_queries) == 10


def test_real_manuals_make_titles_of_their_outlines(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("R-data.pdf", "R-FAQ.pdf"):
        shutil.copy(EXAMPLES / name, folder)
    made = prepare(folder, tmp_path / "out", width=300, test=["R-data"], show_progress=False)
    assert len(made.page_ids) == 93
    assert 38 <= len(made.test_queries) <= 43
    assert "Overview of RDBMSs" in made.test_queries
    assert len(made.train) > 200
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["queries"]["train"]["title"] > 90


@pytest.mark.parametrize(
    "image", ["../../../secret.png", "/etc/hostname", "images/../../secret.png", "C:/x.png", "..\\secret.png"]
)
def test_a_page_outside_the_dataset_is_refused(tmp_path: Path, made: DocumentDataset, image: str) -> None:
    shutil.copytree(made.folder, tmp_path / "theirs")
    pages = made.tables["pages"]
    rows = [{**row, "image": image} if number == 3 else row for number, row in enumerate(pages)]
    tables = datasets.DatasetDict({**made.tables, "pages": datasets.Dataset.from_list(rows, features=pages.features)})
    shutil.rmtree(tmp_path / "theirs" / "tables")
    tables.save_to_disk(str(tmp_path / "theirs" / "tables"))
    Image.new("L", (9, 9)).save(tmp_path / "secret.png")
    with pytest.raises(DatasetError, match="expected names of files inside it, got .*, which leads out of it"):
        load(tmp_path / "theirs")
    for use in (lambda d: d.to_datasets(), lambda d: d.pages, lambda d: d.corpus, lambda d: d.pictures):
        with pytest.raises(DatasetError, match="leads out of it"):
            use(DocumentDataset(folder=tmp_path / "theirs", tables=tables, facts=made.facts))


def test_a_link_out_of_the_dataset_is_refused(tmp_path: Path, made: DocumentDataset) -> None:
    shutil.copytree(made.folder, tmp_path / "theirs")
    image = tmp_path / "theirs" / made.tables["pages"]["image"][0]
    image.unlink()
    Image.new("L", (9, 9)).save(tmp_path / "secret.png")
    image.symlink_to(tmp_path / "secret.png")
    with pytest.raises(DatasetError, match="leads out of it"):
        load(tmp_path / "theirs")


def test_a_destination_among_the_documents_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "in" / "deep" / "ds"):
        with pytest.raises(InputError, match="out: expected a folder outside the documents, got .* inside"):
            prepare(tmp_path / "in", out, **SMALL)
    assert not (tmp_path / "in" / "deep").exists()


def test_two_preparations_do_not_share_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "in")
    with locked(tmp_path / "out", task="preparing"), pytest.raises(ResourceError, match="process is preparing here"):
        prepare(tmp_path / "in", tmp_path / "out", **SMALL)


def test_names_that_are_no_utf8_or_hold_markup(tmp_path: Path) -> None:
    write_folder(tmp_path / "in")
    folder = os.fsencode(tmp_path / "in")
    os.rename(folder + b"/garden.pdf", folder + b"/caf\xe9 \x1b[31m<img src=x>.pdf")
    (tmp_path / "in" / "notes.odg").write_text("x")
    made = prepare(tmp_path / "in", tmp_path / "out", **SMALL)
    name = r"caf\xe9 \x1b[31m<img src=x>.pdf"
    assert name in made.tables["pages"]["document"]
    assert load(tmp_path / "out").texts[f"{name}#1"].startswith("Sowing tomatoes early")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "\x1b" not in card and "<img" not in card and r"caf\xe9 \x1b[31m&lt;img" in card
    assert "- .odg: 1" in card
    assert "not read: 1 .odg (" in made.summary()


def test_pages_that_cannot_be_read_are_in_the_facts_and_on_the_card(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["kitchen", "garden"])
    hostile_pdfs.texts(tmp_path / "in" / "holes.pdf", 4, kids=[3, 999, 7, 9])
    made = prepare(tmp_path / "in", tmp_path / "out", **SMALL)
    assert [(one["document"], one["number"]) for one in made.facts["lost"]] == [("holes.pdf", 2)]
    assert [page for page in made.page_ids if page.startswith("holes")] == ["holes.pdf#1", "holes.pdf#3", "holes.pdf#4"]
    assert "; 1 pages that cannot be read" in made.summary()
    assert "- `holes.pdf`: page 2 cannot be loaded" in (tmp_path / "out" / "README.md").read_text()


def test_damaged_facts_are_made_again(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", ["kitchen", "garden"])
    made = prepare(tmp_path / "in", tmp_path / "out", **SMALL)
    (tmp_path / "out" / "prepared.json").write_text('{"fing')
    again = prepare(tmp_path / "in", tmp_path / "out", **SMALL)
    assert again.facts["fingerprint"] == made.facts["fingerprint"]


def test_a_held_out_document_is_found_however_its_name_is_spelled() -> None:
    pages = [
        SplitPage(page_id=f"{name}#1", document=name, group=n, family=n, queries=1)
        for n, name in enumerate(("a.pdf", "Pru\u0308fung.pdf"))
    ]
    for given in ("Pr\u00fcfung", "Pr\u00fc*.pdf", "Pru\u0308fung.pdf"):
        assert split_pages(pages, by="documents", test=[given], validation=0.0, seed=0).pages("test") == [
            "Pru\u0308fung.pdf#1"
        ]
