"""A template rendered once a shape: what it gives for every text, or nothing where it looks at one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils.chat_template_utils import render_jinja_template

from omnitune import SentenceTransformer
from omnitune.inputs.processor import DEFAULTS, ChatTemplate, merged
from omnitune.inputs.template import SHAPES, Shapes, images_of

TEXTS = [
    "plain",
    "",
    "  spaces around \n",
    "UPPER lower",
    "</think>",
    "{{ 1 + 1 }}{% raw %}",
    "\ue0000\ue001",
    "7",
    "<image>",
]
"""Texts that templates are known to treat in another way, or that look like what a splice leaves."""


def talk(text: str, *more: str) -> Any:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": object()}, {"type": "text", "text": text}]},
        *({"role": "assistant", "content": other} for other in more),
    ]


def made(template: str, talks: list[Any], **options: Any) -> tuple[list[str] | None, list[str], Shapes]:
    """By shape, as it is, and what made the first."""

    def render(conversation: Any) -> str:
        return str(render_jinja_template(conversations=[conversation], chat_template=template, **options)[0][0])

    shapes = Shapes(template)
    return shapes.texts(talks, options, render), [render(one) for one in talks], shapes


SHOW = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
)
REST = "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
SHOWING = {
    "plain": SHOW + "{% if p.type == 'image' or 'image' in p %}<i>{% else %}{{ p.text }}{% endif %}" + REST,
    "joined": SHOW + "{% if 'text' in p %}{{ '<' + p.text + '>' + m.role }}{% endif %}" + REST,
    "counted": SHOW
    + "{% if p.type == 'text' and loop.index0 % 2 == 1 %}{{ p['text'] }}{{ loop.length }}{% endif %}"
    + REST,
    "twice": SHOW + "{% if 'text' in p %}{{ p.text }}{{ p.text }}{% endif %}" + REST,
    "never": SHOW + REST,
    "kept": "{% set ns = namespace(last='') %}{% for m in messages %}{% if m.content is string %}"
    "{% set ns.last = m.content %}{% endif %}{% endfor %}{{ ns.last }}{{ messages | length }}",
    "macro": "{% macro show(m) %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{{ p.text }}{% endfor %}{% endif %}{% endmacro %}{% for m in messages %}{{ show(m) + '\\n' }}{% endfor %}",
    "chosen": "{% for m in messages | selectattr('role', 'equalto', 'assistant') | list %}{{ m.content }}{% endfor %}",
    "tools": "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[-1].content | default('') }}",
}


@pytest.mark.parametrize("name", SHOWING)
def test_texts_that_are_shown_are_put_in_their_places(name: str) -> None:
    talks = [talk(text, other) for text in TEXTS for other in TEXTS]
    found, expected, shapes = made(SHOWING[name], talks, add_generation_prompt=True)
    assert found == expected and shapes.renders == 1


LOOKING = {
    "trims": "{{ t | trim }}",
    "strips": "{{ t.strip() }}",
    "strips later": "{% set x = '-' + t %}{{ x.strip() }}",
    "raises its case": "{{ t | upper }}",
    "loops": "{% for letter in t %}{{ letter }}.{% endfor %}",
    "asks whether": "{% if t %}{{ t }}{% endif %}",
    "chooses": "{{ t or 'nothing' }}",
    "searches": "{% if '</think>' in t %}{{ t.split('</think>')[-1] }}{% else %}{{ t }}{% endif %}",
    "is searched for": "{% if t in ['plain', '7'] %}yes{% else %}{{ t }}{% endif %}",
    "compares": "{% if t == 'plain' %}yes{% else %}{{ t }}{% endif %}",
    "measures": "{{ t }}{{ t | length }}",
    "cuts": "{{ t[:3] }}",
    "escapes": "{{ t | tojson }}",
    "shows all": "{{ messages }}",
    "replaces": "{{ t | replace('a', 'b') }}",
    "formats": "{{ '%s!' % t }}",
    "formats a list": "{{ '%s!' % (t,) }}",
    "formats by filter": "{{ '%s!' | format(t) }}",
    "formats by method": "{{ '{}!'.format(t) }}",
    "joins": "{{ [t, t] | join('-') }}",
    "joins by method": "{{ '-'.join([t, t]) }}",
    "joins a map": "{{ messages | selectattr('role', 'equalto', 'assistant') | map(attribute='content') | join }}",
    "appends": "{% set x = 'a' ~ t %}{{ x | upper }}",
    "captures": "{% set x %}{{ t }}{% endset %}{{ x.strip() }}",
    "filters a block": "{% filter upper %}{{ t }}{% endfilter %}",
    "trims a macro": "{% macro show(x) %}{{ x }}{% endmacro %}{{ show(t).strip() }}",
    "repeats": "{{ t * 2 }}",
    "sorts": "{{ [t, 'm'] | sort | first }}",
    "looks up": "{{ {'plain': 'yes'}[t] }}",
    "asks for digits": "{% if t is in ['7'] %}yes{% endif %}",
    "is less": "{% if t < 'm' %}yes{% endif %}",
}


@pytest.mark.parametrize("name", LOOKING)
def test_a_template_that_looks_at_a_text_is_rendered_as_it_is(name: str) -> None:
    template = "{% set t = messages[-1].content %}" + LOOKING[name]
    assert made(template, [talk("a", "plain")])[0] is None


def test_what_the_template_refuses_it_refuses_itself() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    assert Shapes(template).texts([talk("a")], {}, lambda _: "") is None


def test_a_shape_whose_first_rendering_differs_is_not_used() -> None:
    assert Shapes(SHOWING["plain"]).texts([talk("a")], {}, lambda _: "something else") is None


def test_other_shapes_prompts_and_options_are_rendered_anew() -> None:
    other = [{"role": "system", "content": "Be long."}, *talk("c")[1:]]
    talks = [talk("a"), talk("b"), talk("a", "b"), other]
    found, expected, shapes = made(SHOWING["plain"], talks)
    assert found == expected and shapes.renders == 3
    for number in range(2 * SHAPES):
        shapes.texts([talk("a")], {"option": number}, lambda _: "")
    assert len(shapes._known) <= SHAPES
    assert shapes.texts([[{"role": "user", "content": "a", "name": "b"}]], {}, lambda _: "") is None


@pytest.mark.parametrize(
    "name", ["tiny_qwen3_vl", "tiny_qwen2_5_omni", "tiny_smolvlm", "tiny_qwen2_5_vl", "tiny_qwen3_5"]
)
@pytest.mark.parametrize("prompt", [None, "Find: "])
def test_models_get_the_same_features(
    name: str, prompt: str | None, request: pytest.FixtureRequest, page_images: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = SentenceTransformer(str(request.getfixturevalue(name)), device="cpu")
    texts = [text for text in TEXTS if text != "<image>"]
    batches: list[list[Any]] = [
        texts,
        page_images[:4],
        [{"image": page, "text": text} for page, text in zip(page_images, texts, strict=False)],
        [{"image": page_images[:2], "text": "two"}, {"image": page_images[2:4], "text": "others"}],
        [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in texts if text],
    ]
    kinds = ["text", "image", ("image", "text"), ("image", "text"), "message"]
    calls = list(zip(batches, kinds, strict=True))
    found = [model[0].preprocess(batch, prompt, modality=kind) for batch, kind in calls]
    shapes = model[0]._template._shapes
    # SmolVLM's template looks at the first letter of a text that is a message's whole content.
    looked_at = [shape is None for shape in shapes._known.values()]
    assert shapes.renders == 5 and looked_at == [False] * 4 + [name == "tiny_smolvlm"]
    monkeypatch.setattr(ChatTemplate, "_texts", lambda *_: None)
    for features, (batch, kind) in zip(found, calls, strict=True):
        expected = model[0].preprocess(batch, prompt, modality=kind)
        assert features.keys() == expected.keys()
        for key, value in expected.items():
            same = torch.equal(features[key], value) if isinstance(value, torch.Tensor) else features[key] == value
            assert same, (kind, key)


def test_a_model_whose_template_trims_gets_what_it_renders(tiny_qwen3_vl: Path) -> None:
    model = SentenceTransformer(str(tiny_qwen3_vl), device="cpu")
    parts = "{% for p in m.content %}{{ p.text | trim | upper }}{% endfor %}"
    model.processor.chat_template = "{% for m in messages %}{{ m.role }}:" + parts + "{% endfor %}"
    decode = model.tokenizer.decode
    rows = model.preprocess(["  a b ", "c"])["input_ids"]
    assert [decode(row, skip_special_tokens=True) for row in rows] == ["user:A B", "user:C"]
    assert [*model[0]._template._shapes._known.values()] == [None]


def test_a_tokenizer_with_a_template_gets_the_same(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = SentenceTransformer(str(tiny_qwen3), device="cpu").tokenizer
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    talks = [[{"role": "user", "content": text}] for text in TEXTS]
    buckets = merged(DEFAULTS, {"text": {"max_length": 12}})
    template = ChatTemplate(tokenizer)
    found = template.features(talks, buckets, max_length=12)
    assert template._shapes.renders >= 1 and None not in template._shapes._known.values()
    monkeypatch.setattr(ChatTemplate, "_texts", lambda *_: None)
    expected = ChatTemplate(tokenizer).features(talks, buckets, max_length=12)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_conversations_with_other_media_are_handed_to_the_processor() -> None:
    image = {"type": "image", "image": "loaded"}
    assert images_of([talk("a")[:1], [{"role": "user", "content": [image, {"type": "text", "text": "b"}, image]}]]) == [
        [],
        ["loaded", "loaded"],
    ]
    for part in ({"type": "video", "video": []}, {"type": "image", "url": "page.png"}, {**image, "detail": "high"}):
        assert images_of([[{"role": "user", "content": [part]}]]) is None
