"""Steps of a run: done once, redone when what they depend on changes, or when what they made is gone."""

import os
import random
import time

import numpy as np
import pytest
import torch

from omnitune.finetune.choose import listing
from omnitune.finetune.steps import Steps
from omnitune.io import digest


def test_a_step_is_done_once(tmp_path):
    calls = []

    def work(key):
        calls.append(key)
        return {"n": len(calls)}

    first = Steps(tmp_path).run("a", {"x": 1}, work)
    second = Steps(tmp_path).run("a", {"x": 1}, work)
    assert len(calls) == 1
    assert first.fresh and not second.fresh
    assert second.result == {"n": 1} and second.seconds == first.seconds


def test_changed_inputs_redo_it(tmp_path):
    calls = []
    for value in (1, 2, 2, 1):
        Steps(tmp_path).run("a", {"x": value}, lambda key: calls.append(key))
    assert len(calls) == 3


def test_a_missing_result_redoes_it(tmp_path):
    made = tmp_path / "made"
    steps = Steps(tmp_path)
    steps.run("a", {}, lambda _: made.write_text("1"), makes=[made])
    made.unlink()
    assert not steps.holds("a", {})
    assert steps.run("a", {}, lambda _: made.write_text("2"), makes=[made]).fresh
    assert steps.holds("a", {}) and not steps.holds("a", {"x": 1}) and not steps.holds("b", {})


def make_model(folder, weights="w" * 100):
    folder.mkdir(exist_ok=True)
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_text(weights)
    (folder / "README.md").write_text("card")


def test_a_result_that_was_cut_redoes_it_and_an_edited_card_does_not(tmp_path):
    made = tmp_path / "model"
    assert Steps(tmp_path).run("train", {}, lambda _: make_model(made), makes=[made]).fresh
    (made / "README.md").write_text("a longer card of my own")
    (made / "notes.txt").write_text("mine")
    assert not Steps(tmp_path).run("train", {}, lambda _: make_model(made), makes=[made]).fresh
    (made / "model.safetensors").write_text("w" * 40)
    assert Steps(tmp_path).run("train", {}, lambda _: make_model(made), makes=[made]).fresh


def test_a_result_that_was_never_made_is_not_missed(tmp_path):
    place = tmp_path / "text"
    assert Steps(tmp_path).run("text", {}, lambda _: "no text layer", makes=[place]).fresh
    assert not Steps(tmp_path).run("text", {}, lambda _: "no text layer", makes=[place]).fresh


@pytest.mark.parametrize("left", ["", '{"key": ', "[]", '{"key": "x"}', "\x00" * 50])
def test_a_torn_marker_is_absent(tmp_path, left):
    steps = Steps(tmp_path)
    steps.run("a", {}, lambda _: None)
    (tmp_path / ".steps" / "a.json").write_text(left)
    assert steps.run("a", {}, lambda _: None).fresh


def test_a_step_that_fails_leaves_no_marker(tmp_path):
    steps = Steps(tmp_path)
    steps.run("a", {"x": 1}, lambda _: None)
    with pytest.raises(RuntimeError, match="killed"):
        steps.run("a", {"x": 2}, _killed)
    assert not steps.holds("a", {"x": 2}) and not steps.holds("a", {"x": 1})


def test_the_time_of_a_killed_try_counts(tmp_path):
    def killed(_key):
        time.sleep(0.3)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        Steps(tmp_path).run("a", {"x": 1}, killed)
    assert 0.3 <= Steps(tmp_path).run("a", {"x": 1}, lambda _: None).seconds < 5
    assert Steps(tmp_path).run("a", {"x": 1}, lambda _: None).seconds >= 0.3
    with pytest.raises(RuntimeError):
        Steps(tmp_path).run("b", {"x": 1}, killed)
    assert Steps(tmp_path).run("b", {"x": 2}, lambda _: None).seconds < 0.3  # another step, whatever its name


def test_a_step_draws_the_same_numbers_whatever_was_done_before(tmp_path):
    def drawn(folder):
        return Steps(folder).run("a", {}, lambda _: [torch.rand(1).item(), float(np.random.rand()), random.random()])

    first = drawn(tmp_path / "one").result
    torch.rand(3), np.random.rand(3), random.random()
    assert drawn(tmp_path / "two").result == first


def _killed(_key):
    raise RuntimeError("killed")


def test_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_listing_changes_with_a_file(tmp_path):
    (tmp_path / "a.pdf").write_text("one")
    before = listing(tmp_path)
    assert listing(tmp_path / "a.pdf")[0][1:] == before[0][1:]
    for other in ("three", "two"):  # the second with the size and the time of the first
        (tmp_path / "a.pdf").write_text(other)
        os.utime(tmp_path / "a.pdf", (1, 1))
        assert listing(tmp_path) != before
    assert [row[0] for row in before] == ["a.pdf"]
