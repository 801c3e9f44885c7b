"""Near-duplicate pages and documents, found without comparing all with all."""

import random
import time

import numpy as np
import pytest

from omnitune.documents.duplicates import families, groups, members, minhash, shingles

VOCABULARY = [f"word{n}" for n in range(4000)]


def page(seed: int, length: int = 300) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=length))


def edited(text: str, changes: int) -> str:
    tokens = text.split()
    for place in random.Random(1).sample(range(len(tokens)), changes):
        tokens[place] = "changed"
    return " ".join(tokens)


def test_a_page_with_some_words_changed_is_grouped_and_others_are_not() -> None:
    texts = [page(1), page(2), edited(page(1), 5), page(3), page(2).upper().replace(" ", "\n")]
    assert groups(texts, [""] * 5) == [0, 1, 0, 3, 1]


def test_similarity_decides() -> None:
    texts = [page(1), edited(page(1), 30)]
    assert groups(texts, ["", ""], similarity=0.8) == [0, 1]
    assert groups(texts, ["", ""], similarity=0.4) == [0, 0]


def test_blank_pages_are_one_group_and_few_words_are_compared_by_look_and_letter() -> None:
    fingerprints = ["", "", "f" * 64, "f" * 63 + "e", "f" * 64, "0f" * 32]
    texts = ["", "", "Chapter One", "CHAPTER one", "Chapter Two", ""]
    assert groups(texts, fingerprints) == [0, 0, 2, 2, 4, 5]


def test_looks_differ_by_bits_and_almost_empty_ones_by_fewer() -> None:
    def bits(*places: int) -> str:
        return f"{sum(1 << place for place in places):064x}"

    full = bits(*range(0, 256, 3))
    twelve_off = f"{int(full, 16) ^ int(bits(*range(0, 240, 20)), 16):064x}"
    thirteen_off = f"{int(full, 16) ^ int(bits(*range(0, 260, 20)), 16):064x}"
    assert groups(["", ""], [full, twelve_off]) == [0, 0]
    assert groups(["", ""], [full, thirteen_off]) == [0, 1]
    assert groups(["", ""], [bits(1, 9), bits(1, 9, 12)]) == [0, 1]


def test_looks_of_several_parts_must_be_alike_in_each() -> None:
    picture, sound = "0f" * 32, "3c" * 32
    near = "0e" + "0f" * 31
    fingerprints = [picture + sound, near + sound, picture + "f0" * 32, picture + "0" * 64, near + "0" * 64]
    assert groups([""] * 5, fingerprints) == [0, 0, 2, 3, 3]


def test_minhash_estimates_jaccard_similarity() -> None:
    shared, one, two = (np.arange(start, start + 3000, dtype=np.uint64) for start in (0, 10_000, 20_000))
    first, second = minhash([np.concatenate([shared, one]), np.concatenate([shared, two])])
    assert (first == second).mean() == pytest.approx(1 / 3, abs=0.15)


def test_shingles_do_not_depend_on_case_and_spacing_and_need_some_words() -> None:
    text = "One two three four five six seven eight nine ten eleven twelve"
    assert shingles(text).tolist() == shingles(text.lower().replace(" ", "  \n")).tolist()
    assert len(shingles(text)) == 10
    assert len(shingles("one two three")) == 0


def test_two_versions_of_a_manual_are_one_family_even_where_page_breaks_moved() -> None:
    tokens = " ".join(page(n) for n in range(10)).split()
    old = [" ".join(tokens[start : start + 300]) for start in range(0, 3000, 300)]
    new = [" ".join(tokens[start : start + 300]) for start in range(150, 3000, 300)]
    other = [page(n) for n in range(20, 30)]
    assert len(set(groups([*old, *new], [""] * 20))) == 20
    assert families([old, other, new]) == [0, 1, 0]


def test_short_documents_of_one_template_are_no_family() -> None:
    letters = [[" ".join([page(1), page(n, 20)])] for n in range(2, 5)]
    assert families(letters) == [0, 1, 2]


def test_members_lists_groups_of_two_and_more() -> None:
    assert list(members([0, 1, 0, 3, 1, 1])) == [[0, 2], [1, 4, 5]]


def test_time_grows_with_the_number_of_pages_not_with_its_square() -> None:
    texts = [page(n, 60) for n in range(3000)]

    def seconds(count: int) -> float:
        started = time.process_time()
        groups(texts[:count], [""] * count)
        return time.process_time() - started

    # The faster of two: other work on the machine slows one. Its square would be 16.
    few, many = (min(seconds(count), seconds(count)) for count in (750, 3000))
    assert many < 10 * few
