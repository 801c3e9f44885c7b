import json
import logging

import pytest

from omnitune import io
from omnitune.report.records import append_csv


def test_csv_gets_one_header_and_a_row_a_call(tmp_path):
    path = tmp_path / "deep" / "log.csv"
    append_csv(path, {"epoch": 1, "name": "a,b"})
    append_csv(path, {"epoch": 2, "name": "ü"})
    assert path.read_text(encoding="utf-8") == 'epoch,name\n1,"a,b"\n2,ü\n'


def test_csv_rows_of_another_shape_begin_a_new_file(tmp_path, caplog):
    path = tmp_path / "log.csv"
    for row in ({"a": 1}, {"b": 2}, {"c": 3}):
        with caplog.at_level(logging.WARNING):
            append_csv(path, row)
    assert path.read_text() == "c\n3\n"
    assert (tmp_path / "log.1.csv").read_text() == "a\n1\n"
    assert (tmp_path / "log.2.csv").read_text() == "b\n2\n"
    assert "had other columns; its rows are kept in log.1.csv" in caplog.text


def test_json_lines_round_trip(tmp_path):
    rows = [{"id": 1, "text": "Größe\nzwei"}, {"id": 2, "nested": [1.5, None]}]
    io.write_jsonl(tmp_path / "x.jsonl", rows)
    assert list(io.read_jsonl(tmp_path / "x.jsonl")) == rows


def test_an_interrupted_file_leaves_nothing_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "x.jsonl"
    io.write_jsonl(path, [{"old": 1}])

    def rows():
        yield {"new": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        io.write_jsonl(path, rows())
    assert list(io.read_jsonl(path)) == [{"old": 1}]
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_json_round_trip(tmp_path):
    io.write_json(tmp_path / "x.json", {"a": "ü", "b": [1]})
    assert io.read_json(tmp_path / "x.json") == {"a": "ü", "b": [1]}
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["a"] == "ü"
