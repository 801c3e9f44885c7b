"""Names that stand for nothing are answered in one sentence, with the near name that could be meant."""

from pathlib import Path

import pytest
from httpx import Request, Response
from huggingface_hub import errors

from omnitune import places
from omnitune.errors import CheckpointError, CheckpointNotFoundError, DatasetError, RecipeError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a run's model and dataset in it, and a cache of one repository."""
    for place in ("run/model", "run/dataset/tables", "hub/models--sentence-transformers--all-MiniLM-L6-v2"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "run/model/modules.json").write_text("[]")
    (tmp_path / "run/dataset/prepared.json").write_text("{}")
    (tmp_path / "own.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


MEANT = {
    "embeded": "'embedded'",
    "Embedded": "'embedded'",
    "run/modle": "'run/model'",
    "./run/modle": "'run/model'",
    "sentence-transformers/all-MiniLM-L6-v3": "'sentence-transformers/all-MiniLM-L6-v2'",
    "all-minilm-l6-v2": "'all-MiniLM-L6-v2'",
    "nothing-like-it": None,
    "./run/other": None,  # beside "run/model": a folder that two paths share makes them no more alike
}


@pytest.mark.parametrize("name", MEANT)
def test_a_misspelt_model_is_met_with_the_near_name(folder: Path, name: str) -> None:
    with pytest.raises(CheckpointNotFoundError) as found:
        places.local_model(name)
        raise places.no_repository(name, errors.LocalEntryNotFoundError("offline"))
    assert str(found.value).partition("did you mean ")[2] == ("" if MEANT[name] is None else f"{MEANT[name]}?")


def test_the_reason_is_said_in_words() -> None:
    answer = Response(404, request=Request("GET", "http://hub"))
    for failure, said in (
        (errors.RepositoryNotFoundError("x", response=answer), "the hub has none of this name"),
        (errors.GatedRepoError("x", response=answer), "accept its terms"),
        (errors.RevisionNotFoundError("x", response=answer), "without this revision"),
        (errors.HFValidationError("x"), "the hub has none of this name"),
        (errors.OfflineModeIsEnabled("x"), "the hub cannot be reached"),
        (ConnectionError("x"), "the hub cannot be reached"),
        (errors.HfHubHTTPError("busy", response=answer), "the hub does not give it (HfHubHTTPError: busy)"),
    ):
        assert said in str(places.no_repository("owner/name", failure))


def test_a_run_in_place_of_what_is_in_it_is_met_with_its_place(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"got neither; did you mean 'run/model'\?"):
        places.expect_model("run")
    with pytest.raises(DatasetError, match=r"no tables/; did you mean '.*run/dataset'\?"):
        places.dataset_folder("run")
    with pytest.raises(DatasetError, match=r"which is no folder; omnitune prepare DOCUMENTS --out DATASET makes one"):
        places.dataset_folder("nowhere")
    places.expect_model("run/model")
    assert places.dataset_folder("run/dataset") == folder / "run/dataset"
    for name, near in (("dmeo", "'demo'"), ("wn.yaml", "'own.yaml'")):
        with pytest.raises(RecipeError, match=rf"which is neither; did you mean {near}\?"):
            places.recipe_file(name)


def test_a_directory_called_embedded_goes_before_the_word(folder: Path) -> None:
    assert places.is_embedded("embedded")
    Path("embedded").mkdir()
    assert not places.is_embedded("embedded") and places.local_model("embedded") == Path("embedded")
