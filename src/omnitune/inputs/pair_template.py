"""Chat templates for pairs: one that does not know the roles "query" and "document" is given them.

A template that branches on "system", "user" and "assistant" alone renders a pair to nothing. What is put before it
turns the two messages into one of the user, `<Query>: ... <Document>: ...`. It is part of the template, so a checkpoint
that is saved with it is rendered alike by every reader of the format.
"""

from typing import Any

from jinja2.exceptions import TemplateError

from omnitune.inputs.messages import PAIR_ROLES, to_messages
from omnitune.inputs.template_limit import limit_templates

_STRUCTURED = """\
{%- set pair = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message.role in ['query', 'document'] -%}
{%- set start = [{'type': 'text', 'text': '<' ~ (message.role | capitalize) ~ '>: '}] -%}
{%- if message.role == 'document' and pair.messages and pair.messages[-1].role == 'user' -%}
{%- set before = pair.messages[-1].content + [{'type': 'text', 'text': '\\n'}] -%}
{%- set pair.messages = pair.messages[:-1] + [{'role': 'user', 'content': before + start + message.content}] -%}
{%- else -%}
{%- set pair.messages = pair.messages + [{'role': 'user', 'content': start + message.content}] -%}
{%- endif -%}
{%- else -%}
{%- set pair.messages = pair.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = pair.messages -%}
"""

_FLAT = """\
{%- set pair = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message.role in ['query', 'document'] -%}
{%- set said = '<' ~ (message.role | capitalize) ~ '>: ' ~ message.content -%}
{%- if message.role == 'document' and pair.messages and pair.messages[-1].role == 'user' -%}
{%- set said = pair.messages[-1].content ~ '\\n' ~ said -%}
{%- set pair.messages = pair.messages[:-1] + [{'role': 'user', 'content': said}] -%}
{%- else -%}
{%- set pair.messages = pair.messages + [{'role': 'user', 'content': said}] -%}
{%- endif -%}
{%- else -%}
{%- set pair.messages = pair.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = pair.messages -%}
"""


def carry_pairs(processor: Any, *, structured: bool, options: dict[str, Any]) -> bool:
    """Make a processor's chat template render pairs, if it does not.

    Args:
        processor: A processor or tokenizer with a chat template, which may be changed.
        structured: Which form of content the template reads.
        options: Arguments of the template that every call gets.

    Returns:
        Whether the template was extended.
    """
    if not isinstance(getattr(processor, "chat_template", None), str) or _renders(processor, structured, options):
        return False
    processor.chat_template = (_STRUCTURED if structured else _FLAT) + processor.chat_template
    return True


def _renders(processor: Any, structured: bool, options: dict[str, Any]) -> bool:
    """Tell whether both contents of a pair reach the text that the model is given."""
    limit_templates(processor)
    said = tuple(f"content-of-the-{role}" for role in PAIR_ROLES)
    try:
        text = processor.apply_chat_template(
            to_messages(said, "text", structured=structured), tokenize=False, **options
        )
    except TemplateError:  # templates raise it for roles that they do not know
        return False
    return all(content in text for content in said)
