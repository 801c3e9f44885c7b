"""Chat templates: a limit on their time and memory, and pairs for those that do not know the roles of one.

Templates are programs that come with checkpoints.

Jinja's sandbox keeps a template from the machine, not from running for ever: nested loops, a macro that calls itself
twice, a text that doubles in every round. A thread watches what runs long and stops it by an exception in the thread
that renders; a number so large that one operation would not end is found before anything runs.

A template that branches on "system", "user" and "assistant" alone renders a pair to nothing. What is put before it
turns the two messages into one of the user, `<Query>: ... <Document>: ...`. It is part of the template, so a checkpoint
that is saved with it is rendered alike by every reader of the format.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError
from jinja2.exceptions import TemplateError
from transformers.utils import chat_template_utils

from omnitune.errors import InputError
from omnitune.inputs.messages import PAIR_ROLES, to_messages

SECONDS = 10.0
"""Processor time of one rendering; a conversation takes a fraction of a millisecond."""

MEMORY = 512 << 20
"""Bytes by which the process may grow while one rendering is watched."""

WATCHED_AFTER = 0.1
"""Seconds of processor time from which on memory is looked at: what others allocate meanwhile is not a template's."""

LARGEST = 10**8
"""Largest whole number that a template may be written with."""

POLL = 0.02
IDLE = 1.0
"""Seconds between two looks, and without anything to watch until the thread ends."""


def limit_templates(processor: Any, named: Any = None) -> None:
    """Put a limit on every chat template of a processor; doing so again costs nothing.

    Args:
        processor: A processor or tokenizer.
        named: A template that is given beside the processor's, or the name of one.

    Raises:
        InputError: A template raises to a power, or is written with a number above `LARGEST`.
    """
    held = getattr(processor, "chat_template", None)
    for source in (*(held.values() if isinstance(held, dict) else [held]), named):
        if isinstance(source, str) and "{" in source:
            _check(source)
            compiled = chat_template_utils._compile_jinja_template(source)
            if not isinstance(compiled.root_render_func, _Limited):
                compiled.root_render_func = _Limited(compiled.root_render_func)


@lru_cache(maxsize=64)
def _check(source: str) -> None:
    """Refuse what one operation could compute for ever, and does so while the template is compiled."""
    try:
        tokens = list(Environment().lex(source))
    except TemplateSyntaxError:
        return  # upstream says so
    for line, kind, value in tokens:
        if kind == "operator" and value == "**":
            raise InputError(f"chat_template: expected no power (**) in a template, got one in line {line}; remove it")
        if kind == "integer" and len(value.replace("_", "").lstrip("0")) > len(str(LARGEST)):
            raise InputError(
                f"chat_template: expected numbers up to {LARGEST:,}, got one of {len(value)} digits in line {line}"
            )


@dataclass(slots=True)
class _Limited:
    """A compiled template's function, watched while it runs."""

    render: Callable[[Any], Iterator[str]]

    def __call__(self, context: Any) -> Iterator[str]:
        job = _Job()
        try:
            try:
                _watch(job)
                yield from self.render(context)
            finally:
                with _lock:
                    _jobs.discard(job)
                    if job.reason:  # what was not raised yet shall not be raised elsewhere
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(job.thread), None)
        except (_Stopped, MemoryError, RecursionError) as error:
            raise InputError(
                f"chat_template: expected one that ends, got a template that was stopped ({job.reason or error}); "
                "repair the template of the checkpoint, or set model.processor.chat_template"
            ) from None


class _Stopped(BaseException):
    """Raised in the thread that renders; no template can catch it."""


@dataclass(slots=True, eq=False)
class _Job:
    """One rendering."""

    thread: int = field(default_factory=threading.get_ident)
    begun: float = 0.0
    memory: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def clock(self) -> float:
        """Processor time of its thread; of machines that tell none, the time on the wall."""
        try:
            return time.clock_gettime(time.pthread_getcpuclockid(self.thread))
        except (AttributeError, OSError):
            return time.monotonic()

    def stop(self) -> None:
        """Raise in its thread, once, where it has taken too much."""
        taken = self.clock() - self.begun
        if self.reason or taken < WATCHED_AFTER:
            return
        now = _resident()
        self.memory = self.memory or now
        if taken > SECONDS:
            self.reason = f"after {SECONDS:g} seconds"
        elif now - self.memory > MEMORY:
            self.reason = f"after the process grew by {MEMORY >> 20} MB"
        if self.reason:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(_Stopped))


_lock = threading.Lock()
_jobs: set[_Job] = set()
_thread: threading.Thread | None = None


def _watch(job: _Job) -> None:
    global _thread
    with _lock:
        _jobs.add(job)
        if _thread is None:
            _thread = threading.Thread(target=_look, name="omnitune-templates", daemon=True)
            _thread.start()


def _look() -> None:
    global _thread
    seen = time.monotonic()
    while True:
        time.sleep(POLL)
        with _lock:
            if _jobs:
                seen = time.monotonic()
            elif time.monotonic() - seen > IDLE:
                _thread = None
                return
            for job in _jobs:
                job.stop()


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _after_fork() -> None:
    """Begin anew in a forked process, which has no threads but one."""
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    _jobs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
