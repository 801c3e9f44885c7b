"""The list of oldest releases agrees with the lower bounds of pyproject.toml."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_every_lower_bound_is_in_the_list_and_the_list_has_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: dict[str, Version] = {}
    for line in [*project["dependencies"], *project["optional-dependencies"]["lora"]]:
        asked = Requirement(line)
        lowest = [each.version for each in asked.specifier if each.operator == ">="]
        assert lowest or asked.name in wanted, f"{line}: has no lower bound"
        if lowest:
            wanted[asked.name] = Version(lowest[0])
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    listed = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {name: Version(version) for name, version in listed.items()} == wanted
