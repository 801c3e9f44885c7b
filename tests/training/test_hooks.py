"""Private names of upstream: each line that gives one its meaning is still there, and no other name is leant on."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version

import omnitune
from omnitune.training import hooks
from omnitune.training.hooks import ELSEWHERE, RELIANCES, Reliance

SOURCE = Path(omnitune.__file__).parent


def found(path: str) -> Any:
    module, _, name = path.partition(":")
    value: Any = importlib.import_module(module)
    for part in name.split("."):
        value = inspect.getattr_static(value, part)
    return value.fget if isinstance(value, property) else value


@pytest.mark.parametrize("one", [*RELIANCES, *ELSEWHERE], ids=lambda one: one.name)
def test_the_line_of_upstream_is_there(one: Reliance) -> None:
    if Version(transformers.__version__) < Version(one.since):
        pytest.skip(f"transformers has it from {one.since} on")
    assert one.line in inspect.getsource(found(one.upstream)), f"{one.name}: {one.upstream} has changed; {one.reason}"


def test_every_override_is_a_private_method_of_upstream() -> None:
    own = {name for name, _ in inspect.getmembers(hooks.HookedTrainer, inspect.isfunction)}
    private = {name for name in vars(hooks.HookedTrainer) if re.match(r"_[a-z]", name)} & own
    since = {one.name: Version(one.since) for one in RELIANCES}
    assert private <= since.keys()
    for name in private:
        if Version(transformers.__version__) < since[name]:
            continue
        theirs = getattr(hooks.Trainer, name)
        mine = getattr(hooks.HookedTrainer, name)
        assert list(inspect.signature(mine).parameters) == list(inspect.signature(theirs).parameters), name


def test_no_other_private_name_is_leant_on() -> None:
    """Private attributes of objects that are not ours, by the names that no class or function of ours defines."""
    used: dict[str, set[str]] = {}
    defined: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defined.add(node.target.id)
            elif isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
                if isinstance(node.value, ast.Name) and node.value.id == "os":
                    continue  # `os._exit` is documented
                if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                    if isinstance(node.ctx, ast.Store):
                        defined.add(node.attr)
                else:
                    used.setdefault(node.attr, set()).add(str(path.relative_to(SOURCE)))
    # torch's own, which are no part of transformers, accelerate or datasets.
    torch_names = {"_parameters", "_version", "_buffers", "_modules"}
    known = {one.name for one in (*RELIANCES, *ELSEWHERE)} | torch_names
    assert {name: sorted(where) for name, where in used.items() if name not in defined | known} == {}
