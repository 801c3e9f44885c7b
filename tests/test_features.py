"""The table of features lists what passed, and says of the rest that nothing did."""

from pathlib import Path
from types import SimpleNamespace

from fixtures.features import FeatureTable


def ran(kind: str, *names: str, passed: bool = True) -> SimpleNamespace:
    return SimpleNamespace(when="call", passed=passed, user_properties=[("features", [kind, *names])])


def test_only_what_passed_is_counted(tmp_path: Path) -> None:
    table = FeatureTable(tmp_path / "features.md", {"Losses": ["ALoss", "BLoss", "CLoss"]})
    for report in (ran("parity", "ALoss"), ran("other", "ALoss", "BLoss"), ran("parity", "CLoss", passed=False)):
        table.pytest_runtest_logreport(report)
    table.pytest_sessionfinish(SimpleNamespace(config=SimpleNamespace()))
    text = (tmp_path / "features.md").read_text()
    assert "| `ALoss` | 1 | 1 |" in text
    assert "| `BLoss` |  | 1 |" in text
    assert "| `CLoss` | untested | untested |" in text


def test_a_test_speaks_of_the_names_in_its_source(request) -> None:
    table = FeatureTable(Path("unused"), {"Losses": ["FeatureTable", "Path", "Nothing"]})
    item = request.node
    before = list(item.user_properties)
    table.pytest_collection_modifyitems([item])
    assert item.user_properties[len(before) :] == [("features", ["other", "FeatureTable", "Nothing", "Path"])]
    item.user_properties[:] = before
