"""Boundaries at which a recording or clip is cut into segments: arithmetic on times alone.

Marks are the seconds at which segments begin, and the end: n + 1 numbers for n segments, ascending from 0.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHORTEST = 1.0
"""Seconds below which a piece stays with its neighbour."""

HOP = 0.02
"""Seconds of one level."""

PAUSE = 0.7
"""Seconds of quiet that end a segment: longer than the pauses between the words of one sentence."""

DEEP, LEAST = 35.0, 10.0
"""Decibels under the loud parts below which it is quiet in a clean recording, and at least in any."""

SILENT = -100.0
"""Level of digital silence in decibels of full scale."""


def windows(duration: float, seconds: float) -> list[float]:
    """Marks every `seconds`; a rest shorter than `SHORTEST` stays with the window before it."""
    count = max(1, math.ceil((duration - SHORTEST) / seconds))
    return [*(number * seconds for number in range(count)), duration]


def even(cuts: Sequence[float], duration: float, seconds: float) -> list[float]:
    """Marks at `cuts`; what is longer than `seconds` is cut into equal parts."""
    boundaries = spaced(cuts, duration)
    found: list[float] = []
    for start, end in zip(boundaries, boundaries[1:], strict=False):
        parts = max(1, math.ceil((end - start) / seconds - 1e-9))
        found += [start + (end - start) * part / parts for part in range(parts)]
    return [*found, duration]


def at_pauses(levels: NDArray[np.float32], duration: float, seconds: float) -> list[float]:
    """Marks in the middle of every pause; what is longer than `seconds` is cut where it is quietest.

    Args:
        levels: Loudness of every `HOP` in decibels of full scale `(hops,)`.
        duration: Seconds in all.
        seconds: Longest segment.
    """
    boundaries = spaced(pauses(levels), duration)
    found: list[float] = []
    for start, end in zip(boundaries, boundaries[1:], strict=False):
        found.append(start)
        while end - found[-1] > seconds + 1e-9:
            found.append(_quietest(levels, found[-1] + seconds / 2, min(found[-1] + seconds, end - SHORTEST)))
    return [*found, duration]


def pauses(levels: NDArray[np.float32]) -> list[float]:
    """Seconds of the middles of all pauses but those at the start and at the end."""
    if not len(levels):
        return []
    floor, loud = np.percentile(levels, [10, 95])
    threshold = min(max(loud - DEEP, floor + (loud - floor) / 4), loud - LEAST)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], levels < threshold, [False]]).astype(np.int8)))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    inside = [(start, stop) for start, stop in runs if start > 0 and stop < len(levels)]
    return [(start + stop) / 2 * HOP for start, stop in inside if (stop - start) * HOP >= PAUSE - 1e-9]


def spaced(cuts: Sequence[float], duration: float) -> list[float]:
    """0, the cuts that leave `SHORTEST` on both sides, and the end."""
    boundaries = [0.0]
    for cut in sorted(cuts):
        if cut - boundaries[-1] >= SHORTEST and duration - cut >= SHORTEST:
            boundaries.append(cut)
    return [*boundaries, duration]


def label(start: float, end: float) -> str:
    """Times as people write them: `"0:30-0:45"`, `"1:02:03-1:02:18"`."""
    return f"{clock(start)}-{clock(end)}"


def clock(seconds: float) -> str:
    """A time in hours, minutes and whole seconds: `"0:05"`, `"1:02:03"`."""
    whole = math.floor(seconds + 0.5)
    minutes = f"{whole // 60 % 60}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes.zfill(5)}" if whole >= 3600 else minutes


def _quietest(levels: NDArray[np.float32], low: float, high: float) -> float:
    """The quietest time between two, of equals the last."""
    first, last = round(low / HOP), max(round(low / HOP) + 1, round(high / HOP))
    some = levels[first:last]
    if not len(some):
        return high
    return (first + len(some) - 1 - int(np.argmin(some[::-1]))) * HOP
