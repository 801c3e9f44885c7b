"""What is taken from documents as queries, and what is refused."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnitune.documents.queries.extract import (
    acceptable,
    captions,
    copies,
    is_listing,
    keeps_language,
    key_sentences,
    keywords,
    points_at_page,
    written_queries,
)
from omnitune.documents.read.headings import headings
from omnitune.documents.read.pages import Line, OutlineEntry, Page
from omnitune.documents.read.text import words
from omnitune.documents.stored import Document, StoredPage

PROSE = " ".join(f"filler{n}" for n in range(60))


def stored(number: int, text: str, *marks: str) -> StoredPage:
    return StoredPage(number=number, label="", image=f"{number}.png", fingerprint="0f", text=text, headings=marks)


def document(
    pages: list[StoredPage], *outline: tuple[str, int, int | None], title: str = "A Manual of Bees"
) -> Document:
    entries = tuple(OutlineEntry(title=text, level=level, page=page) for text, level, page in outline)
    return Document(name="bees.pdf", key="k", title=title, outline=entries, pages=tuple(pages))


def found(made: Document) -> list[tuple[str, str, int]]:
    return [(query.origin, query.text, query.page) for query in written_queries(made)]


# --- titles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("3.2 Feeding in winter", "Feeding in winter"),
        ("3.2.Feeding in winter", "Feeding in winter"),
        ("Chapter 4: Feeding in winter", "Feeding in winter"),
        ("Appendix B Feeding in winter", "Feeding in winter"),
        ("IV. Feeding in winter", "Feeding in winter"),
        ("A.3 Feeding in winter", "Feeding in winter"),
        ("64-bit types of hives", "64-bit types of hives"),
        ("3D models of hives", "3D models of hives"),
        ("A quiet hive", "A quiet hive"),
    ],
)
def test_numbering_is_removed_from_titles_and_nothing_else(written: str, asked: str) -> None:
    assert found(document([stored(1, f"x\n{asked.upper()}\n{PROSE}")], (written, 0, 1))) == [("title", asked, 1)]


def test_a_letter_is_numbering_where_appendices_follow_numbered_chapters_in_order() -> None:
    pages = [stored(1, f"Keeping bees\nA sample hive\nTools of trade\nC colonies\n{PROSE}")]
    made = document(pages, ("1 Keeping bees", 0, 1), ("A A sample hive", 0, 1), ("B Tools of trade", 0, 1))
    assert [text for _, text, _ in found(made)] == ["Keeping bees", "A sample hive", "Tools of trade"]


def test_titles_that_say_little_get_their_parent() -> None:
    pages = [stored(1, f"Introduction\nQueens\nOverview\nRearing young queens\nExamples\n{PROSE}")]
    made = document(
        pages,
        ("1 Introduction", 0, 1),
        ("2 Queens", 0, 1),
        ("2.1 Overview", 1, 1),
        ("2.2 Rearing young queens", 1, 1),
        ("Examples", 2, 1),
    )
    assert [text for _, text, _ in found(made)] == [
        "A Manual of Bees: Introduction",
        "A Manual of Bees: Queens",
        "Queens: Overview",
        "Rearing young queens",
        "Rearing young queens: Examples",
    ]


def test_a_title_belongs_to_the_page_where_it_stands() -> None:
    pages = [stored(1, f"The end\n{PROSE}"), stored(2, f"feeding  in\nWINTER\n{PROSE}"), stored(3, PROSE)]
    made = document(pages, ("Feeding in winter", 0, 1), ("Feeding in summer", 0, 2), ("Lost title", 0, None))
    assert found(made) == [("title", "Feeding in winter", 2)]


def test_without_a_text_layer_the_outline_is_believed() -> None:
    assert found(document([stored(1, "")], ("Feeding in winter", 0, 1))) == [("title", "Feeding in winter", 1)]


def test_contents_and_indices_are_neither_asked_nor_answers() -> None:
    listing = "Contents\nFeeding in winter . . . . 3\nQueens and drones ..... 4\nHoney harvest . . . 5\nWax . . . . 6"
    index = "Concept index\nbees, 3, 4\ndrones, 17\nhoney, 2\nwax, 11"
    pages = [stored(1, listing), stored(2, f"Feeding in winter\n{PROSE}"), stored(3, index)]
    made = document(pages, ("Contents", 0, 1), ("Feeding in winter", 0, 1), ("Concept index", 0, 3))
    assert is_listing(listing)
    assert is_listing(index)
    assert found(made) == [("title", "Feeding in winter", 2)]


def test_numbers_in_prose_make_no_listing() -> None:
    assert not is_listing(
        "The year was 1984\nand it was cold.\nBees died.\nWe had 12 hives\nleft in spring.\nThat is all."
    )


# --- captions and headings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        ("Figure 3: A hive seen from above", ["A hive seen from above"]),
        ("Table 2-1. Honey by month. In kilograms.", ["Honey by month"]),
        ("Fig. 4a A hive in winter", ["A hive in winter"]),
        ("Abbildung 7: Ein Bienenstock im Winter", ["Ein Bienenstock im Winter"]),
        ("Figure 3 shows a hive from above", []),
        ("as in Figure 3: a hive", []),
        (
            "Figure 9: A long way of a worker bee between the hive and the\nnearest field of clover. Second sentence.",
            ["A long way of a worker bee between the hive and the nearest field of clover"],
        ),
    ],
)
def test_captions(lines: str, asked: list[str]) -> None:
    assert list(captions(stored(1, lines))) == asked


def test_headings_that_the_outline_lacks_are_taken_once() -> None:
    pages = [
        stored(1, f"Feeding in winter {PROSE}", "1 Feeding in winter", "How to boil sugar", "Notes", "Figure 1: Sugar"),
        stored(2, f"How to boil sugar {PROSE}", "How to boil sugar"),
        stored(3, "few words here", "A Manual of Drones"),
    ]
    made = document(pages, ("1 Feeding in winter", 0, 1))
    assert found(made) == [("title", "Feeding in winter", 1), ("heading", "How to boil sugar", 1)]


def lined(number: int, *lines: tuple[str, float, bool], label: str = "") -> Page:
    return Page(
        number=number,
        label=label,
        image="",
        width=1,
        height=1,
        fingerprint="",
        lines=tuple(Line(text=text, size=size, bold=bold) for text, size, bold in lines),
    )


BODY = ("words of the body of this text " * 3, 10.0, False)


def test_headings_are_larger_or_bold_and_wrapped_ones_are_whole() -> None:
    page = lined(
        1,
        ("Feeding bees in", 14.0, False),
        ("a long winter", 14.0, False),
        BODY,
        ("Sugar water", 10.0, True),
        BODY,
        ("Only bold because it is a sentence.", 10.0, True),
        BODY,
    )
    assert headings([page]) == [["Feeding bees in a long winter", "Sugar water"]]


def test_running_heads_are_no_headings() -> None:
    pages = [
        lined(n, (f"Chapter {n}: Bees", 14.0, False), (f"Heading number {chr(96 + n) * 4}", 14.5, True), BODY, BODY)
        for n in range(1, 7)
    ]
    assert [len(marks) for marks in headings(pages)] == [1] * 6
    numbered = lined(2, ("Feeding bees 17", 14.0, False), BODY, ("18 Drones are idle", 14.0, False), BODY, label="17")
    assert headings([numbered]) == [["18 Drones are idle"]]


# --- sentences --------------------------------------------------------------------------------------------------------

PAGES = [
    stored(
        1,
        "Varroa mites are the most dangerous enemies of honey bees in Europe.\n"
        "This is why they matter.\nAs shown in the figure above, varroa mites multiply in sealed brood of drones.\n"
        "Formic acid kills varroa mites even under the cappings of sealed brood.\n",
    ),
    stored(2, "Clover gives the bees of this region a lot of nectar during the whole month of June.\n"),
    stored(3, "Nothing here is about the bees or the honey of this region at all, which is a pity.\n"),
    stored(4, "if (x > 3) { return bees[17]; } /* 99 */\nprintf(%d, 12345);\n"),
]


def test_queries_of_sentences_are_words_of_one_sentence_in_order() -> None:
    made = key_sentences(PAGES, 2)
    assert len(made[0]) == 2
    assert made[3] == []
    for page, queries in zip(PAGES, made, strict=True):
        for query in queries:
            tokens = iter(words(page.text))
            assert all(word in tokens for word in words(query)), query
            assert not copies(query, page.text)
            assert 3 <= len(words(query)) <= 6


def test_sentences_that_point_elsewhere_are_not_used() -> None:
    (query, other) = key_sentences(PAGES, 2)[0]
    assert "drones" not in query + other
    assert "matter" not in query + other


@given(
    st.lists(
        st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]),
        min_size=1,
        max_size=30,
    )
)
def test_keywords_never_quote_six_words(tokens: list[str]) -> None:
    sentence = " ".join(tokens)
    weights = {word: random.Random(word).random() + 0.1 for word in tokens}
    query = keywords(sentence, f"before {sentence} after", weights, most=10)
    assert not copies(query, f"before {sentence} after")
    assert len(set(words(query))) == len(words(query))


def test_copies_counts_words_in_a_row() -> None:
    assert copies("one Two three, four five six", "zero one two three four five six seven")
    assert not copies("one two three four five seven", "one two three four five six seven")
    assert not copies("ne two three four five six", "one two three four five six")


# --- filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "What the figure above shows",
        "in this section",
        "who speaks in this recording",
        "what the following clip shows",
        "the following example",
        "see below",
        "as described in Section 3.2",
        "see Section 4.1 [Bees], page 12",
        "Table 3 of hives",
        "continued from previous page",
        "auf dieser Seite",
    ],
)
def test_pointing_at_the_page_is_refused(text: str) -> None:
    assert points_at_page(text)
    assert not acceptable(text)


@pytest.mark.parametrize(
    "text", ["The section of a hive", "Following a swarm", "Page layout of reports", "Table grapes"]
)
def test_the_same_words_in_other_senses_are_not(text: str) -> None:
    assert acceptable(text)


@pytest.mark.parametrize("text", ["", "1.2.3", "a b", "x = [1, 2, 3];", "word " * 25, "Hello World Hello World"])
def test_what_no_one_asks_is_refused(text: str) -> None:
    assert not acceptable(text)


def test_a_query_keeps_the_script_of_its_page() -> None:
    assert keeps_language("bees", "honey bees")
    assert not keeps_language("bees", "пчёлы и мёд")
    assert keeps_language("bees", "")
