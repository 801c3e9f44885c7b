"""Text layers made fit for comparing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnitune.documents.read.text import clean, normalize_key, script, sentences, words

messy = st.text(alphabet=st.one_of(st.sampled_from("ab -\r\n\t\u00ad\ufffe\u0002\ufb01\u200b."), st.characters()))


@given(messy)
def test_cleaning_twice_is_cleaning_once(raw: str) -> None:
    assert clean(clean(raw)) == clean(raw)


@given(messy)
def test_clean_text_has_no_control_characters_empty_lines_or_double_spaces(raw: str) -> None:
    text = clean(raw)
    assert not any(letter in text for letter in "\r\t\u00ad\ufffe\u0002\u200b\x00")
    assert "  " not in text
    assert "\n\n" not in text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("e\ufb03cient", "efficient"),
        ("Win\ufffedows", "Windows"),
        ("Win\u0002\r\ndows", "Windows"),
        ("exam-\r\nple", "example"),
        ("R-\nExts", "R-\nExts"),
        ("a  b\r\n\r\n c ", "a b\nc"),
    ],
)
def test_clean(raw: str, expected: str) -> None:
    assert clean(raw) == expected


def test_words_keep_what_belongs_to_them() -> None:
    assert words("Use read.table() or C++, e.g. x_1; 日本 don't.") == [
        "Use",
        "read.table",
        "or",
        "C",
        "e.g",
        "x_1",
        "日",
        "本",
        "don't",
    ]


def test_normalize_key_ignores_case_space_and_punctuation() -> None:
    assert normalize_key("The ﬁle\n NAME") == normalize_key("the file-name!") == "thefilename"


def test_sentences_end_where_they_end() -> None:
    assert sentences("See e.g. Fig. 3 here. It works! Does it? 'Yes.' Good.") == [
        "See e.g. Fig. 3 here.",
        "It works!",
        "Does it?",
        "'Yes.'",
        "Good.",
    ]
    assert sentences("これは文です。次の文です。") == ["これは文です。", "次の文です。"]


@pytest.mark.parametrize(("text", "expected"), [("Hello мир", "LATIN"), ("привет hi", "CYRILLIC"), ("12 !", "")])
def test_script(text: str, expected: str) -> None:
    assert script(text) == expected
