"""Conversations: both forms of content, prompts, and the arguments of processors."""

import pytest
from PIL import Image

from omnitune.errors import InputError, ModalityError
from omnitune.inputs.messages import count_parts, is_text_only, reads_structured, to_messages
from omnitune.inputs.processor import DEFAULTS, merged, template_takes

PAGE = Image.new("RGB", (8, 8))


def test_a_text_becomes_a_message_of_the_user_in_either_form():
    assert to_messages("hi", "text") == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert to_messages("hi", "text", structured=False) == [{"role": "user", "content": "hi"}]


def test_a_prompt_becomes_a_message_of_the_system_in_front():
    assert to_messages({"text": "hi"}, "text", prompt="find", structured=False) == [
        {"role": "system", "content": "find"},
        {"role": "user", "content": "hi"},
    ]
    assert to_messages(PAGE, "image", prompt="find")[0] == {
        "role": "system",
        "content": [{"type": "text", "text": "find"}],
    }


def test_parts_keep_the_order_of_the_dict_and_lists_are_several_parts():
    made = to_messages({"text": "both", "image": [PAGE, PAGE]}, ("image", "text"), structured=False)
    assert [part["type"] for part in made[0]["content"]] == ["text", "image", "image"]
    assert count_parts([made, to_messages("x", "text")], ("image", "video")) == {"image": [2, 0], "video": [0, 0]}


def test_conversations_stay_and_the_callers_list_is_not_changed():
    given = [{"role": "user", "content": "hi"}]
    assert to_messages(given, "message", prompt="find", structured=False)[1:] == given
    assert len(given) == 1
    assert to_messages(given[0], "message") == given
    with pytest.raises(ModalityError, match=r"expected messages with 'role' and 'content', got keys \['content'\]"):
        to_messages([{"content": "hi"}], "message")


def test_what_is_text_only():
    assert is_text_only([to_messages("x", "text"), to_messages("x", "text", structured=False)])
    assert not is_text_only([to_messages("x", "text"), to_messages(PAGE, "image")])


def test_the_form_is_read_off_the_template_unless_it_is_known():
    assert reads_structured("{% for part in message.content[0] %}")
    assert not reads_structured("{{ message['content'] }}")
    assert reads_structured(None)
    assert not reads_structured("item.type", known=False)


def test_later_buckets_win_entry_by_entry_and_defaults_stay_as_they_are():
    made = merged(DEFAULTS, {"text": {"max_length": 8, "padding": False}}, {"text": {"max_length": 4}})
    assert made["text"] == {"padding": False, "truncation": "longest_first", "max_length": 4}
    assert DEFAULTS["text"] == {"padding": True, "truncation": "longest_first"}
    with pytest.raises(InputError, match=r"processing_kwargs: expected keys among .*got \['max_pixels'\]"):
        merged({"max_pixels": {}})


def test_a_template_that_reads_the_task_is_told_it():
    class Processor:
        chat_template = "{% if task == 'query' %}?{% endif %}"

    class Named:
        chat_template = None
        tokenizer = type("Tokenizer", (), {"chat_template": {"default": "x", "retrieval": "{{ task }}"}})

    assert template_takes(Processor(), "task")
    assert template_takes(Named(), "task")
    assert not template_takes(Processor(), "subtask")
