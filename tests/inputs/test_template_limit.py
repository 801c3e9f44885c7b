"""A chat template is a program of a stranger: it is stopped when it does not end, and nothing else is."""

import threading
import time

import pytest
from transformers import PreTrainedTokenizerFast

from fixtures.words import wordpiece
from omnitune.errors import InputError
from omnitune.inputs import templates
from omnitune.inputs.processor import ChatTemplate, merged

SAID = [[{"role": "user", "content": "grease the bearing"}]]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"

ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "output": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "growing": "{% set n = namespace(x='ab') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "by content": "{% for m in messages %}{% for c in m.content * 90 %}{% for d in m.content * 900 %}"
    "{% for e in m.content * 900 %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
}


def rendered(template: str) -> int:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=wordpiece(), pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.chat_template = template
    features = ChatTemplate(tokenizer).features(SAID, merged({"common": {"return_tensors": "pt"}}), max_length=None)
    return int(features["input_ids"].shape[1])


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.3)


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_does_not_end_is_stopped(template: str) -> None:
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"chat_template: expected one that ends, got a template that was stopped"):
        rendered(template)
    assert time.monotonic() - begun < 20
    assert rendered(PLAIN) > 3  # and the thread renders on


def test_other_threads_are_stopped_alone() -> None:
    found: list[object] = []

    def work(template: str) -> None:
        try:
            found.append(rendered(template))
        except InputError as error:
            found.append(str(error)[:13])

    threads = [threading.Thread(target=work, args=(t,)) for t in (ENDLESS["loops"], PLAIN, PLAIN)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == sorted([*[str(rendered(PLAIN))] * 2, "chat_template"])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 10 ** 10 ** 10 }}", r"expected no power \(\*\*\) in a template, got one in line 1"),
        ("a\n{{ 'a' * 100_000_000_000 }}", r"expected numbers up to 100,000,000, got one of 15 digits in line 2"),
    ],
)
def test_what_one_operation_would_not_end(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rendered(template)


def test_text_with_stars_is_no_power() -> None:
    assert rendered("**bold** {{ messages[0].content }} {{ '**' }} {{ '-' * 3 }}") > 3
