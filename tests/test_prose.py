"""Docstrings name a thing or say what is done; they ask no question and point at nothing."""

import ast
from pathlib import Path

import omnitune

ROOT = Path(omnitune.__file__).parent
ODD = {"What", "Whether", "Who", "Those", "How", "Where", "Which"}


def openings(source):
    """First word and line of every docstring of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            words = (ast.get_docstring(node) or "").split(None, 1)
            if words:
                yield words[0], getattr(node, "lineno", 1)


def test_docstrings_open_with_a_verb_or_a_name():
    assert {word for word, _ in openings('def f():\n    """Whether it is so."""\n')} <= ODD  # the check can fail
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word} ..."
        for path in sorted(ROOT.rglob("*.py"))
        for word, line in openings(path.read_text(encoding="utf-8"))
        if word in ODD
    ]
    assert not found, "start these with a verb or with the name of the thing:\n" + "\n".join(found)
