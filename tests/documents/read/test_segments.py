"""Cutting is arithmetic on times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnitune.documents.read.segments import HOP, SHORTEST, at_pauses, clock, even, label, pauses, spaced, windows

durations = st.floats(0.05, 400)
longest = st.floats(1, 60)
cuts = st.lists(st.floats(0, 400), max_size=12)


def levels(*parts: tuple[float, float]) -> np.ndarray:
    """Loudness of parts of so many seconds and decibels each."""
    return np.concatenate([np.full(round(seconds / HOP), db, np.float32) for seconds, db in parts])


def lengths(boundaries: list[float]) -> np.ndarray:
    return np.diff(boundaries)


def test_windows() -> None:
    assert windows(45, 15) == [0, 15, 30, 45]
    assert windows(30.5, 15) == [0, 15, 30.5], "half a second stays with the window before it"
    assert windows(31.5, 15) == [0, 15, 30, 31.5]
    assert windows(0.2, 15) == [0, 0.2]


@given(durations, longest)
def test_windows_cover_everything(duration: float, seconds: float) -> None:
    boundaries = windows(duration, seconds)
    assert boundaries[0] == 0 and boundaries[-1] == duration
    assert (lengths(boundaries) > 0).all() and (lengths(boundaries) <= seconds + SHORTEST + 1e-6).all()


@given(cuts, durations, longest)
def test_even_parts_cover_everything(cuts: list[float], duration: float, seconds: float) -> None:
    boundaries = even(cuts, duration, seconds)
    assert boundaries[0] == 0 and boundaries[-1] == duration
    assert (lengths(boundaries) > 0).all() and (lengths(boundaries) <= seconds + 1e-6).all()
    assert set(spaced(cuts, duration)) <= set(boundaries)


def test_even_parts() -> None:
    assert even([4.0], 10, 100) == [0, 4, 10]
    assert even([4.0], 16, 6) == [0, 4, 10, 16], "the second shot in two"
    assert even([0.5, 9.8, 5, 5.4], 10, 100) == [0, 5, 10], "too near the start, the end, another cut"


def test_pauses_are_cut_in_their_middle() -> None:
    speech = levels((2, -20), (1, -70), (3, -22), (0.4, -70), (2, -20), (0.8, -60), (1, -20))
    assert pauses(speech) == pytest.approx([2.5, 8.8])
    assert at_pauses(speech, 10.2, 15) == pytest.approx([0, 2.5, 8.8, 10.2])


def test_quiet_at_the_start_and_at_the_end_is_no_pause() -> None:
    assert pauses(levels((2, -80), (3, -20), (2, -80))) == []


def test_a_noisy_recording_has_pauses_too() -> None:
    rng = np.random.default_rng(0)
    noisy = levels((3, -18), (1, -38), (3, -18), (1, -38), (3, -18))
    assert pauses(noisy + rng.normal(0, 1, len(noisy)).astype(np.float32)) == pytest.approx([3.5, 7.5], abs=0.1)


def test_one_loudness_throughout_has_none() -> None:
    rng = np.random.default_rng(0)
    assert pauses((-30 + rng.normal(0, 2, 1000)).astype(np.float32)) == []
    assert pauses(np.full(500, -100, np.float32)) == []
    assert pauses(np.zeros(0, np.float32)) == []


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    speech = levels((9, -20), (0.2, -50), (11, -20))
    boundaries = at_pauses(speech, 20.2, 12)
    assert len(boundaries) == 3 and 9 <= boundaries[1] <= 9.2


@given(st.lists(st.sampled_from([-80.0, -50.0, -20.0, -18.0]), min_size=1, max_size=80), longest)
def test_pauses_cover_everything(steps: list[float], seconds: float) -> None:
    found = levels(*((0.5, step) for step in steps))
    duration = len(found) * HOP
    boundaries = at_pauses(found, duration, seconds)
    assert boundaries[0] == 0 and boundaries[-1] == duration
    assert (lengths(boundaries) > 0).all() and (lengths(boundaries) <= max(seconds, SHORTEST) + SHORTEST).all()


def test_times_are_written_as_people_do() -> None:
    assert label(30, 45.4) == "0:30-0:45"
    assert [clock(second) for second in (0, 59.6, 600, 3723)] == ["0:00", "1:00", "10:00", "1:02:03"]
