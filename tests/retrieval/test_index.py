import json

import numpy as np
import pytest

from omnitune.errors import InputError, ResourceError
from omnitune.search import build_index, is_index, keep_index, open_index

ANGLES = [0, 90, 10, 180, 90]
ENTRIES = [{"id": f"page {angle}", "row": row} for row, angle in enumerate(ANGLES)]


def test_an_index_finds_what_it_was_given(compass, tmp_path):
    index = build_index(compass, ANGLES, ENTRIES, tmp_path / "index", key="v1", chunk_size=2)
    assert compass.chunks == [2, 2, 1]
    east, north = index.search(compass, [1, 95], top_k=3)
    assert [found.entry["id"] for found in east] == ["page 0", "page 10", "page 90"]
    assert [(found.rank, found.row) for found in north][:2] == [(1, 1), (2, 4)]
    assert east[0].score == pytest.approx(np.cos(np.radians(1)))
    assert len(index) == 5


@pytest.mark.parametrize("query", ["", " \n", {"text": "\t"}])
def test_a_query_that_says_nothing_finds_nothing(compass, tmp_path, query):
    index = build_index(compass, ANGLES, ENTRIES, tmp_path)
    with pytest.raises(InputError, match=r"queries: expected text to look for, got '.*' as number 1"):
        index.search(compass, [90, query])


def test_an_index_survives_the_disk(compass, tmp_path):
    made = build_index(compass, ANGLES, ENTRIES, tmp_path, key="v1")
    opened = open_index(tmp_path)
    np.testing.assert_allclose(opened.embeddings, compass.encode(ANGLES), atol=1e-7)
    assert isinstance(opened.embeddings, np.memmap)
    assert (opened.entries, opened.similarity, opened.key) == (ENTRIES, "cosine", "v1")
    assert opened.search(compass, [50]) == made.search(compass, [50])
    assert is_index(tmp_path, "v1") and not is_index(tmp_path, "v2") and not is_index(tmp_path / "none", "v1")


def test_embeddings_that_are_there_become_the_same_index(compass, tmp_path):
    made = build_index(compass, ANGLES, ENTRIES, tmp_path / "made", key="v1")
    kept = keep_index(compass.encode(ANGLES), ENTRIES, tmp_path / "kept", similarity="cosine", key="v1")
    assert is_index(tmp_path / "kept", "v1") and kept.search(compass, [50]) == made.search(compass, [50])
    with pytest.raises(InputError, match="entries: expected one for each of at least one item, got 5 for 4 items"):
        keep_index(compass.encode(ANGLES[:4]), ENTRIES, tmp_path / "kept", similarity="cosine")


def test_an_interrupted_index_is_none(compass, make_compass, tmp_path):
    class Stops(make_compass):
        def encode_document(self, inputs, **options):
            if 180 in inputs:
                raise KeyboardInterrupt
            return self.encode(inputs, **options)

    build_index(compass, ANGLES, ENTRIES, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build_index(Stops(), ANGLES, ENTRIES, tmp_path, chunk_size=2)
    assert not is_index(tmp_path)
    with pytest.raises(InputError, match=r"folder: expected an index, got .* without a whole index.json"):
        open_index(tmp_path)
    assert build_index(compass, ANGLES, ENTRIES, tmp_path, chunk_size=2).entries == ENTRIES
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_files_of_others_stay_and_those_of_a_stopped_making_go(compass, make_compass, tmp_path):
    class Stops(make_compass):
        def encode_document(self, inputs, **options):
            if 180 in inputs:
                raise KeyboardInterrupt
            return self.encode(inputs, **options)

    (tmp_path / "model.safetensors").write_text("weights of a model")
    with pytest.raises(KeyboardInterrupt):
        build_index(Stops(), ANGLES, ENTRIES, tmp_path, chunk_size=2)
    build_index(compass, ANGLES, ENTRIES, tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "weights of a model"
    assert len([*tmp_path.glob("*.safetensors")]) == 2


def test_two_makings_do_not_mix(compass, make_compass, tmp_path):
    class Meets(make_compass):
        def encode_document(self, inputs, **options):
            with pytest.raises(ResourceError, match="another process is changing the index here"):
                build_index(compass, [270], [{"id": "of another"}], tmp_path)
            return self.encode(inputs, **options)

    assert build_index(Meets(), ANGLES, ENTRIES, tmp_path, chunk_size=2).entries == ENTRIES


def test_another_model_is_told(compass, make_compass, tmp_path):
    index = build_index(compass, ANGLES, ENTRIES, tmp_path)
    with pytest.raises(InputError, match="expected embeddings of 2 dimensions as in the index, got 3"):
        index.search(make_compass(3), [1])


def test_entries_need_no_id_and_may_be_equal(compass, tmp_path):
    index = build_index(compass, ANGLES, [{"page": 1}] * 5, tmp_path, chunk_size=2)
    assert [(hit.row, hit.entry) for hit in index.search(compass, [91], top_k=2)[0]] == [
        (1, {"page": 1}),
        (4, {"page": 1}),
    ]
    assert len(index) == 5 and len(index.embeddings) == 5


def test_another_format_is_told(compass, tmp_path):
    build_index(compass, ANGLES, ENTRIES, tmp_path)
    about = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(InputError, match="expected an index of format 2, got 99"):
        open_index(tmp_path)
    assert not is_index(tmp_path)


def test_one_entry_for_each_item(compass, tmp_path):
    with pytest.raises(InputError, match="entries: expected one for each of at least one item, got 1 for 5 items"):
        build_index(compass, ANGLES, ENTRIES[:1], tmp_path)
    with pytest.raises(InputError, match="got 0 for 0 items"):
        build_index(compass, [], [], tmp_path)
