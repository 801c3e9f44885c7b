"""The table of features lists what passed, and says of the rest that nothing did."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fixtures.features import MARKS, FeatureTable


def ran(kind: str, *names: str, passed: bool = True) -> SimpleNamespace:
    return SimpleNamespace(when="call", passed=passed, user_properties=[("features", [kind, *names])])


@pytest.fixture
def table(tmp_path: Path) -> FeatureTable:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    table = FeatureTable(tmp_path, {"Losses": ["ALoss", "BLoss", "CLoss"]})
    for report in (ran("parity", "ALoss"), ran("other", "ALoss", "BLoss"), ran("parity", "CLoss", passed=False)):
        table.pytest_runtest_logreport(report)
    return table


def finish(table: FeatureTable, exitstatus: int) -> None:
    table.pytest_sessionfinish(SimpleNamespace(config=SimpleNamespace()), exitstatus)


def test_only_what_passed_is_listed_as_passed(table: FeatureTable) -> None:
    finish(table, 0)
    text = (table.root / "docs/features.md").read_text()
    assert "| `ALoss` | passed | passed |" in text
    assert "| `BLoss` |  | passed |" in text
    assert "| `CLoss` | untested | untested |" in text


def test_the_readme_keeps_what_is_around_the_summary(table: FeatureTable) -> None:
    finish(table, 0)
    text = (table.root / "README.md").read_text()
    assert text.startswith(f"before\n{MARKS[0]}\n") and text.endswith(f"{MARKS[1]}\nafter\n")
    assert "old" not in text
    assert "| Losses | 3 | 2 | 1 |" in text


def test_a_run_with_failures_writes_nothing(table: FeatureTable) -> None:
    finish(table, 1)
    assert not (table.root / "docs/features.md").exists()
    assert "old" in (table.root / "README.md").read_text()


def test_a_test_speaks_of_the_names_in_its_source(request) -> None:
    table = FeatureTable(Path("unused"), {"Losses": ["FeatureTable", "Path", "Nothing"]})
    function = test_a_test_speaks_of_the_names_in_its_source
    item = SimpleNamespace(
        path=Path("test_some.py"),
        nodeid="n",
        function=function,
        user_properties=[],
        get_closest_marker=request.node.get_closest_marker,
    )
    only_names = SimpleNamespace(**{**vars(item), "path": Path("test_signatures.py"), "user_properties": []})
    table.pytest_collection_modifyitems([item, only_names])
    assert item.user_properties == [("features", ["other", "FeatureTable", "Nothing", "Path"])]
    assert only_names.user_properties == []
