"""Line matches and listings, against numbers worked out by hand."""

from math import log
from pathlib import Path

import numpy as np
import pytest

from omnitune import Retriever
from omnitune.errors import InputError
from omnitune.retrieval.lines import LineIndex, ListingIndex, leader_share, listing_share
from omnitune.retrieval.stages import Fusion, LexicalStage, LineStage, ListingStage

CONTENTS = "Contents\nGreasing the bearing . . . . . 12\nChanging the oil ....... 14\nIndex · · · · 16"
ANSWER = "Greasing the bearing\nIt takes an hour."
APART = "The oil of the pump.\nA bearing needs it.\nGreasing is weekly."


def idf(pages: int, total: int) -> float:
    return log(1 + (total - pages + 0.5) / (pages + 0.5))


def test_a_line_by_hand() -> None:
    """Two pages; "a" is on both, "b" and "c" on one, "z" on none."""
    index = LineIndex()
    index.add([{"id": "1"}, {"id": "2"}], ["a b\n\nc", "a"])
    everywhere, once, never = idf(2, 2), idf(1, 2), idf(0, 2)
    found = {hit.entry["id"]: hit.score for hit in index.search(["b a z"])[0]}
    shared, asked = everywhere + once, everywhere + once + never
    assert found["1"] == pytest.approx((1.5 * shared / (asked + 0.5 * (everywhere + once))) ** 2, rel=1e-5)
    assert found["2"] == pytest.approx((1.5 * everywhere / (asked + 0.5 * everywhere)) ** 2, rel=1e-5)
    pair = {hit.entry["id"]: hit.score for hit in index.search(["c b a"])[0]}
    assert pair["1"] == pytest.approx(1.0)  # two lines together
    assert {hit.score for hit in index.search(["unheard of"])[0]} == {0.0}


def test_rarity_counts_the_rows_that_are_there() -> None:
    index, fresh = LineIndex(), LineIndex()
    index.add([{"id": "1"}, {"id": "3"}], ["a b", "a d"])
    index.add([{"id": "2"}, {"id": "4"}], ["b c", ""])
    index.remove(["3"])
    fresh.add([{"id": "1"}, {"id": "2"}, {"id": "4"}], ["a b", "b c", ""])
    for query in ("a", "b a", "c z", "d"):
        held, expected = ({hit.entry["id"]: hit.score for hit in one.search([query])[0]} for one in (index, fresh))
        assert held == pytest.approx(expected)


def test_candidates_alone_are_compared() -> None:
    index = LineIndex()
    index.add([{"id": str(n)} for n in range(3)], ["a", "a b", "b"])
    (scores,) = index.scores(["a"], np.array([True, True, False]), rows=[np.array([1, 2])])
    assert scores[0] == scores[2] == -np.inf and 0 < scores[1] < 1


def test_a_share_of_leaders_by_hand() -> None:
    assert leader_share(CONTENTS) == 0.75
    assert leader_share("Wait... and see.\nMore.") == leader_share("") == 0.0
    index = ListingIndex()
    index.add([{"id": "a"}, {"id": "b"}], [CONTENTS, ANSWER])
    assert [hit.score for hit in index.search(["anything"])[0]] == [0.0, -0.75]


def test_a_recognised_table_of_contents_lists_though_its_leaders_are_gone() -> None:
    recognised = "5.4 Mixed vectors\n\n5.5 Product of two array\n5.6 Transpose\n5.7 Matrix facilities\n33\n6 Lists"
    assert listing_share(recognised) == 1.0 and leader_share(recognised) == 0.0
    assert listing_share(recognised + "\nA line of a sentence says what is done with these words.") == 0.0
    assert listing_share("轴承每周需要润滑一次并且必须检查温度以及振动情况。\n油\n水\n火\n土") == 0.0
    assert listing_share("Figure 3\nGreasing") == 0.0, "too little to judge"
    assert listing_share(CONTENTS) == leader_share(CONTENTS)


def test_they_refine_a_ranking_and_are_saved(tmp_path: Path) -> None:
    texts = {"contents": CONTENTS, "answer": ANSWER, "apart": APART}
    pages = [{"id": f"{name}#1", "text": text} for name, text in texts.items()]
    query = "greasing the bearing"
    stages = [LexicalStage(), LineStage(), ListingStage()]
    made = Retriever.build(pages, stages, fusion=Fusion(weights={"lexical": 1, "lines": 2, "listing": 4}))
    hits = made.search(query, explain=True)
    assert [hit.id for hit in hits] == ["answer#1", "apart#1", "contents#1"]
    assert hits[0].stages["lines"] == pytest.approx(1.0) and hits[2].stages["listing"] == -0.75
    lexical = np.array([hit.stages["lexical"] for hit in hits])
    z = (lexical - lexical.mean()) / lexical.std()
    for hit, value in zip(hits, z, strict=True):
        assert hit.score == pytest.approx(value + 2 * hit.stages["lines"] + 4 * hit.stages["listing"], abs=1e-4)
    made.save(tmp_path)
    opened = Retriever.open(tmp_path)
    assert [(hit.id, hit.score) for hit in opened.search(query)] == [(hit.id, hit.score) for hit in hits]
    assert "table" in (tmp_path / "README.md").read_text()
    opened.remove("contents#1")
    assert [hit.id for hit in opened.search(query)] == ["answer#1", "apart#1"]


def test_some_of_the_stages_over_the_same_pages(tmp_path: Path) -> None:
    pages = [{"id": "contents#1", "text": CONTENTS}, {"id": "answer#1", "text": ANSWER}]
    made = Retriever.build(pages, [LexicalStage(), LineStage(), ListingStage()])
    some = made.only({"lexical": 1.0, "lines": 0.5})
    assert some.fusion is not None and dict(some.fusion.weights) == {"lexical": 1.0, "lines": 0.5}
    some.save(tmp_path)
    opened = Retriever.open(tmp_path)
    hits = opened.search("changing the oil", explain=True)
    assert set(hits[0].stages) == {"lexical", "lines", "fusion"} and len(opened) == 2
    held = {name.split(".")[0] for part in opened.segments.parts for name in part.arrays}
    assert "listing" not in held and {"lexical", "lines"} <= held
    opened.add([{"id": "new#1", "text": "Oil again"}])
    assert len(opened) == 3 and len(made) == 2


def test_what_only_refines_cannot_stand_alone() -> None:
    with pytest.raises(InputError, match=r"stages: expected one that proposes pages, got \['lines'\]"):
        Retriever([LineStage()])
    with pytest.raises(InputError, match="method: expected 'z' with weights of"):
        Fusion(weights={"lexical": 1, "lines": 1}, method="rrf")
