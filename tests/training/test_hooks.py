"""Private names of upstream: each line that gives one its meaning is still there, and no other name is leant on."""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

import omnitune
from omnitune.training import hooks
from omnitune.training.hooks import ELSEWHERE, RELIANCES, UNDOCUMENTED, Reliance

SOURCE = Path(omnitune.__file__).parent
UPSTREAM = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "peft", "huggingface_hub", "safetensors")


def found(path: str) -> Any:
    module, _, name = path.partition(":")
    value: Any = importlib.import_module(module)
    for part in name.split("."):
        value = inspect.getattr_static(value, part)
    return value.fget if isinstance(value, property) else value


@pytest.mark.parametrize("one", [*RELIANCES, *ELSEWHERE, *UNDOCUMENTED], ids=lambda one: one.name)
def test_the_line_of_upstream_is_there(one: Reliance) -> None:
    if Version(transformers.__version__) < Version(one.since):
        pytest.skip(f"transformers has it from {one.since} on")
    try:
        source = inspect.getsource(found(one.upstream))
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{one.name}: upstream has moved {one.upstream} ({error}); needed because {one.reason}")
    assert one.line in source, f"{one.name}: {one.upstream} has changed; needed because {one.reason}"


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


TREES = {str(path.relative_to(SOURCE)): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
KNOWN = {one.name for one in (*RELIANCES, *ELSEWHERE, *UNDOCUMENTED)}
THEIRS = {*dir(transformers.PreTrainedModel), *dir(transformers.Trainer), *dir(transformers.PreTrainedConfig)}


def asked_for(node: ast.AST) -> list[str]:
    """Names that a node takes from an object or a package that may not be ours."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UPSTREAM:
        return [each.name for each in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
        return [node.args[1].value] if isinstance(node.args[1], ast.Constant) else []
    if isinstance(node, ast.ClassDef):  # overrides what upstream reads from a class
        targets = [target for each in node.body if isinstance(each, ast.Assign) for target in each.targets]
        return [target.id for target in targets if isinstance(target, ast.Name) and target.id in THEIRS]
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "os"):
        return [node.attr]  # `os._exit` is documented
    return []


def test_no_other_private_name_is_leant_on() -> None:
    """Names that no class or function of ours defines: attributes, imports, arguments of `getattr`, overrides."""
    nodes = [(place, node) for place, tree in TREES.items() for node in ast.walk(tree)]
    defined = {node.name for _, node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {n.target.id for _, n in nodes if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    defined |= {
        node.attr
        for _, node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    used = {(name, place) for place, node in nodes for name in asked_for(node) if re.match(r"_[a-z]", name)}
    assert sorted((name, place) for name, place in used if name not in defined | KNOWN) == []


def test_no_other_inner_module_is_leant_on() -> None:
    documented = (
        r"torch\..+|(transformers|datasets|huggingface_hub|safetensors|tokenizers)\.(errors\.|torch\.|normalizers\.)?\w+"
        r"|transformers\.(utils|trainer_utils|training_args|feature_extraction_utils|video_utils)\.\w+"
        r"|huggingface_hub\.utils\.enable_progress_bars"
        r"|transformers\.integrations\.(PeftAdapterMixin|sdpa_attention)"  # the second is part of a name that is listed
    )
    used = set()
    for place, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UPSTREAM:
                used |= {(f"{node.module}.{each.name}", place) for each in node.names}
            elif isinstance(node, ast.Attribute) and re.fullmatch(r"transformers(\.[a-z]\w*)+\.\w+", ast.unparse(node)):
                used.add((ast.unparse(node), place))
    assert (
        sorted(
            (name, place)
            for name, place in used
            if not re.fullmatch(documented, name) and name.rpartition(".")[2] not in KNOWN
        )
        == []
    )


def test_a_tensor_counts_its_changes_in_place() -> None:
    weight = torch.zeros(2)
    before = weight._version
    weight.add_(1)
    assert weight._version > before
