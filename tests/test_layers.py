"""No module imports itself through others, counting imports for type checkers and imports inside functions."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import omnitune

ROOT = Path(omnitune.__file__).parent


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def imported(tree, packages=True):
    """Modules that are named in imports anywhere in a module; `from package import submodule` names the submodule."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_there_is_no_circle():
    lazy = {"omnitune"}  # its names are imported when first used; what it names for type checkers is no import
    graph = {name: {other for other in imported(tree) if other in MODULES} - {name} - lazy
             for name, tree in MODULES.items() if name not in lazy}  # fmt: skip
    assert circle(graph) is None


def test_a_circle_would_be_found():
    tree = ast.parse("def f():\n    from omnitune import io\n")
    assert list(imported(tree)) == ["omnitune.io"]
    assert circle({"a": {"b"}, "b": {"a"}}) is not None


def test_nothing_inside_imports_the_facade_of_names():
    users = [name for name, tree in MODULES.items() if "omnitune" in imported(tree) and ".cli." not in name]
    assert users == []


def body(function):
    """Lines of a function after its signature and docstring."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - statements[0].lineno + 1 if statements else 0


def test_a_module_and_a_function_can_be_read_at_one_go():
    """What a reader meets is capped (decision 005); how many modules there are is not."""
    lines = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in ROOT.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > 500} == {}
    functions = [
        (name, node) for name, tree in MODULES.items() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    ]
    assert {f"{name}.{node.name}": body(node) for name, node in functions if body(node) > 80} == {}
