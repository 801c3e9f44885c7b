"""Documents are dealt out whole, and nothing that a held-out page resembles stays in training."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnitune.documents.splits import SplitPage, leaks, raise_leaks, split_pages
from omnitune.errors import DatasetError, LeakageError


def folder(
    *sizes: int,
    families: dict[int, int] | None = None,
    groups: dict[str, int] | None = None,
    asked: dict[int, int] | None = None,
) -> list[SplitPage]:
    """Pages of documents of these sizes; a question a page, or all of `asked` on a document's first."""
    made = []
    for document, size in enumerate(sizes):
        for number in range(size):
            page = f"d{document}.pdf#{number + 1}"
            group = (groups or {}).get(page, 1000 + len(made))
            family = (families or {}).get(document, document)
            queries = 1 if asked is None or document not in asked else asked[document] * (number == 0)
            made.append(
                SplitPage(page_id=page, document=f"d{document}.pdf", group=group, family=family, queries=queries)
            )
    return made


def held_out(pages: list[SplitPage], **settings: Any) -> set[str]:
    return {page.split(".")[0] for page in split_pages(pages, **settings).pages("test")}


sizes = st.lists(st.integers(1, 30), min_size=3, max_size=12)


@given(sizes=sizes, seed=st.integers(0, 5), test=st.floats(0.05, 0.6), validation=st.floats(0.05, 0.3))
def test_every_document_is_on_one_side_and_every_side_has_one(
    sizes: list[int], seed: int, test: float, validation: float
) -> None:
    pages = folder(*sizes)
    split = split_pages(pages, test=test, validation=validation, seed=seed)
    side_of: dict[str, set[str]] = {}
    for page in pages:
        side_of.setdefault(page.document, set()).add(split.side[page.page_id])
    assert all(len(sides) == 1 for sides in side_of.values())
    assert set().union(*side_of.values()) == {"train", "validation", "test"}


def test_a_share_is_met_as_documents_allow_and_the_seed_chooses() -> None:
    pages = folder(*[10] * 20)
    split = split_pages(pages, test=0.2, seed=1)
    assert len(split.pages("test")) == 40
    assert split == split_pages(pages, test=0.2, seed=1)
    assert split.side != split_pages(pages, test=0.2, seed=2).side


@pytest.mark.parametrize("seed", range(6))
def test_a_test_that_tells_nothing_takes_other_or_more_documents(seed: int) -> None:
    # Two manuals and a leaflet: the leaflet alone is nearest to a fifth, and its pages tell nothing.
    assert held_out(folder(74, 74, 6), seed=seed) in ({"d0"}, {"d1"})
    # A fifth of the pages is there, but nothing is asked about them.
    assert "d0" in held_out(folder(60, 30, 60, asked={1: 0, 2: 2}), seed=seed)
    # One after another until it is enough, never more than half.
    pages = folder(*[10] * 10)
    assert len(held_out(pages, seed=seed)) == 3
    assert len(held_out(folder(*[9] * 5), seed=seed)) == 2


@given(sizes=sizes, seed=st.integers(0, 3), asked=st.lists(st.integers(0, 40), min_size=12, max_size=12))
def test_a_test_by_share_leaves_half_of_the_pages_for_training(sizes: list[int], seed: int, asked: list[int]) -> None:
    split = split_pages(folder(*sizes, asked=dict(enumerate(asked))), seed=seed)
    assert 0 < len(split.pages("test")) <= len(split.pages("train"))


def test_what_a_share_deals_stays_where_it_tells_enough() -> None:
    assert held_out(folder(*range(30, 50)), seed=3) == {"d0", "d3", "d5", "d6", "d8"}  # as before there was a floor


def test_documents_are_held_out_by_name_stem_or_pattern() -> None:
    pages = folder(2, 2, 2, 2)
    for names in (["d1.pdf", "d2.pdf"], ["d1", "d2"], ["d[12].*"]):
        split = split_pages(pages, test=names)
        assert {page.split("#")[0] for page in split.pages("test")} == {"d1.pdf", "d2.pdf"}


def test_a_name_that_fits_nothing_is_an_error_with_the_names_there_are() -> None:
    with pytest.raises(DatasetError, match=r"test: expected names of documents, got 'x'; there are: d0.pdf, d1.pdf"):
        split_pages(folder(1, 1), test=["x"])


def test_holding_out_everything_is_an_error() -> None:
    with pytest.raises(DatasetError, match="expected documents for every side and some to train on, got 2 in all"):
        split_pages(folder(1, 1), test=["d0", "d1"])
    with pytest.raises(DatasetError, match="expected documents for every side and some to train on, got 3 in all"):
        split_pages(folder(1, 1, 1), test=["d0", "d1"], validation=0.1)


@pytest.mark.parametrize(("count", "validation", "needed"), [(1, 0.0, 2), (2, 0.1, 3)])
def test_too_few_documents_say_what_to_do(count: int, validation: float, needed: int) -> None:
    with pytest.raises(DatasetError, match=f"at least {needed} different documents.*split='pages'"):
        split_pages(folder(*[9] * count), validation=validation)


def test_versions_of_one_document_count_as_one_and_stay_together() -> None:
    with pytest.raises(DatasetError, match=r"got 1 \(2 files that share most of their text count as one\)"):
        split_pages(folder(5, 5, families={0: 0, 1: 0}))
    for seed in range(10):
        split = split_pages(folder(5, 5, 5, 5, families={1: 0, 0: 0}), test=0.25, seed=seed)
        assert split.side["d0.pdf#1"] == split.side["d1.pdf#1"]


def test_naming_one_version_holds_the_other_out_too(caplog: pytest.LogCaptureFixture) -> None:
    split = split_pages(folder(3, 3, 3, families={0: 0, 1: 0, 2: 2}), test=["d0"])
    assert {split.side[f"d{n}.pdf#1"] for n in (0, 1)} == {"test"}
    assert "d1.pdf shares most of its text with a held-out document" in caplog.text


def test_a_page_whose_near_duplicate_is_more_protected_is_left_out() -> None:
    groups = {"d0.pdf#1": 1, "d1.pdf#1": 1, "d2.pdf#1": 1, "d0.pdf#2": 2, "d1.pdf#2": 2}
    split = split_pages(folder(3, 3, 3, groups=groups), test=["d2"], validation=["d1"])
    assert split.left_out == {"d0.pdf#1": "d2.pdf#1", "d1.pdf#1": "d2.pdf#1", "d0.pdf#2": "d1.pdf#2"}
    assert split.pages("train") == ["d0.pdf#3"]
    assert split.pages("test") == ["d2.pdf#1", "d2.pdf#2", "d2.pdf#3"]


def test_page_ranges_are_cut_only_when_asked_for() -> None:
    split = split_pages(folder(10), by="pages", test=0.2, validation=0.1)
    assert list(split.side.values()) == ["train"] * 7 + ["validation"] + ["test"] * 2
    with pytest.raises(DatasetError, match="expected shares of the pages with split='pages'"):
        split_pages(folder(10), by="pages", test=["d0"])


def test_leaks_are_found_once_a_page_and_stop_the_run() -> None:
    groups = {"a": 1, "b": 2, "t": 1, "u": 3}
    found = leaks(groups, ["a", "b", "a", "u"], ["t", "u"])
    assert found == [("a", "t"), ("u", "u")]
    with pytest.raises(LeakageError, match=r"(?s)got 2:\n  a is, or nearly is, held-out page t\n  u is"):
        raise_leaks(found)
    raise_leaks([])
