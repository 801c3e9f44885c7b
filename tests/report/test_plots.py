"""Plots: valid SVG that carries no colour or font of its own, the same for the same numbers."""

from xml.etree import ElementTree

import matplotlib
import pytest

from omnitune.report.parts import Contrast, Interval
from omnitune.report.plots import dimensions_plot, loss_plot, sizes_plot, systems_plot
from omnitune.report.results import LossPoint, SizePoint, System


def contrast(dim: int, base: float, tuned: float) -> Contrast:
    return Contrast(
        label="x",
        base=Interval(base, base - 0.02, base + 0.02),
        finetuned=Interval(tuned, tuned - 0.02, tuned + 0.02),
        difference=Interval(tuned - base, 0.0, 0.1),
        p_value=0.5,
        queries=3,
        pages=4,
        dim=dim,
    )


DRAWINGS = {
    "dimensions": lambda: dimensions_plot([contrast(64, 0.4, 0.5), contrast(32, 0.3, 0.45)], "NDCG@10"),
    "systems": lambda: systems_plot(
        [
            System(
                name='<b> & "x"', reads="", ndcg=Interval(0.5, 0.4, 0.6), all_pages=Interval(0.5, 0.4, 0.6), metrics={}
            )
        ],
        "NDCG@10",
    ),
    "sizes": lambda: sizes_plot(
        [SizePoint(dim=64, precision="int8", bytes_per_page=64, base=0.4, finetuned=0.5)], "NDCG@10"
    ),
    "loss": lambda: loss_plot([LossPoint(step=s, epoch=s / 5, loss=5.0 - s) for s in range(1, 5)]),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawing_is_one_svg_element_in_the_pages_colours(name):
    svg = DRAWINGS[name]()
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and root.attrib["role"] == "img" and root.attrib["aria-label"]
    assert "var(--ink)" in svg and "var(--font)" in svg
    assert "<style" not in svg and "DejaVu" not in svg
    assert not any(stand_in in svg for stand_in in ("#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"))


@pytest.mark.parametrize("name", DRAWINGS)
def test_same_numbers_same_drawing(name):
    assert DRAWINGS[name]() == DRAWINGS[name]()


def test_names_are_text():
    root = ElementTree.fromstring(DRAWINGS["systems"]())
    assert '<b> & "x"' in root.attrib["aria-label"]
    assert '<b> & "x"' in "".join(root.itertext())


def test_global_style_is_left_alone():
    before = dict(matplotlib.rcParams)
    DRAWINGS["loss"]()
    assert dict(matplotlib.rcParams) == before


def test_description_states_the_numbers():
    root = ElementTree.fromstring(DRAWINGS["dimensions"]())
    assert "At 64 dimensions the base model scores 0.400 and the finetuned one 0.500" in root.attrib["aria-label"]


def test_an_interval_that_misses_its_value_by_rounding_is_drawn():
    off = contrast(64, 0.4, 0.5)
    off = Contrast(**{f: getattr(off, f) for f in off.__slots__} | {"base": Interval(0.4, 0.4 + 1e-12, 0.5)})
    assert dimensions_plot([off], "NDCG@10")
