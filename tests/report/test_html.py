"""The report: what it claims, what it escapes, what it holds."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image, ImageDraw

from omnitune.report.html import duration, p_value, render_report, render_sheet, write_report
from omnitune.report.ladder import Asked, Failure, Ladder, Rung, Trial
from omnitune.report.parts import Contrast, Interval, Page, Words
from omnitune.report.results import Case, Data, Document, LossPoint, Report, Run, SizePoint, Skipped, System
from omnitune.report.run_card import write_run_cards


def thumbnail(text: str) -> bytes:
    page = Image.new("RGB", (480, 620), "white")
    draw = ImageDraw.Draw(page)
    draw.text((40, 40), text, fill="black")
    for line in range(24):
        draw.rectangle((40, 90 + line * 20, 40 + 280 + (line * 37) % 120, 98 + line * 20), fill="#bbb")
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def interval(value: float, half: float = 0.045) -> Interval:
    return Interval(value, value - half, value + half)


def contrast(base: float, tuned: float, half: float, dim: int = 384, label: str = "held-out documents") -> Contrast:
    return Contrast(
        label=label,
        base=interval(base),
        finetuned=interval(tuned),
        difference=interval(tuned - base, half),
        p_value=0.0002 if abs(tuned - base) > half else 0.31,
        queries=258,
        pages=162,
        dim=dim,
    )


def case(query: str, base_rank: int, tuned_rank: int) -> Case:
    right = Page(id="a", document="R-lang.pdf", number=12, image=thumbnail(query))
    wrong = Page(id="b", document="R-data.pdf", number=3, image=thumbnail("another page"))
    return Case(
        query=query,
        expected=right,
        base_rank=base_rank,
        finetuned_rank=tuned_rank,
        base_score=1 / base_rank,
        finetuned_score=1 / tuned_rank,
        base_first=right if base_rank == 1 else wrong,
        finetuned_first=right if tuned_rank == 1 else wrong,
    )


@pytest.fixture
def report() -> Report:
    table = [(384, 0.498, 0.568), (256, 0.481, 0.559), (128, 0.442, 0.537), (64, 0.361, 0.494)]
    return Report(
        title="Page retrieval on documents",
        created="2026-01-31T12:00:00+00:00",
        metric="NDCG@10",
        confidence=0.95,
        headline=contrast(0.498, 0.568, 0.025),
        all_pages=contrast(0.401, 0.459, 0.021, label="all pages"),
        dimensions=[contrast(b, t, 0.025, d) for d, b, t in table],
        systems=[
            System(
                name=name,
                reads=reads,
                ndcg=interval(n),
                all_pages=interval(n - 0.1),
                metrics={"recall@10": n + 0.2, "MRR@10": n - 0.04},
            )
            for name, reads, n in [
                ("finetuned", "page image", 0.568),
                ("base", "page image", 0.498),
                ("MiniLM on the text layer", "text layer", 0.502),
                ("BM25", "text layer", 0.541),
            ]
        ],
        sizes=[
            SizePoint(dim=d, precision=p, bytes_per_page=int(d * w), base=b - loss, finetuned=t - loss)
            for p, w, loss in [("float32", 4, 0.0), ("int8", 1, 0.004), ("binary", 1 / 8, 0.05)]
            for d, b, t in table
        ],
        losses=[LossPoint(step=s, epoch=s / 48, loss=6.5 - 0.06 * s + 0.2 * (s % 3)) for s in range(1, 49)],
        improved=[case("Importing from binary files", 14, 1), case("Lexical scoping", 4, 1)],
        worst=[case("Exception handling <script>alert('x')</script>", 2, 60)],
        data=Data(
            source="examples/documents",
            documents=[
                Document(name="R-lang.pdf", split="test", pages=61, queries=120),
                Document(name="reportlab-userguide.pdf", split="train", pages=140, queries=611),
            ],
            train_pairs=3008,
            test_queries=258,
            test_pages=162,
            all_pages=995,
            skipped=[Skipped(name="<b>broken</b>.pdf", reason="encrypted")],
            notes=["Test queries are outline titles and captions, written by the documents' authors."],
        ),
        run=Run(
            command="omnitune finetune examples/documents --out runs/demo",
            model="MiniLM over a page reader",
            why="No GPU was found.",
            recipe="demo",
            settings={"training": {"learning_rate": 3e-5, "num_train_epochs": 1}, "lora": None},
            facts={"loss": "MatryoshkaLoss(CachedMultipleNegativesRankingLoss)", "negatives a query": "63"},
            versions={"omnitune": "0.1.0", "torch": "2.14.1"},
            hardware={"processor": "2 cores"},
            seconds={"prepare": 21.4, "train": 185.0},
        ),
    )


class Outline(HTMLParser):
    """Tags with attributes, and text outside style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def test_headline_states_numbers_interval_and_p_value(report):
    text = Outline(render_report(report)).text
    assert "Better" in text
    assert "0.498" in text and "0.568" in text
    assert "+0.070" in text
    assert "+0.045 to +0.095" in text
    assert "p < 0.001" in text


def test_interval_over_zero_claims_nothing(report):
    text = Outline(render_report(replace(report, headline=contrast(0.498, 0.508, 0.03)))).text
    assert "No measurable difference" in text
    assert "does not show that finetuning helped" in text
    assert "Better" not in text


def test_interval_touching_zero_claims_nothing():
    assert contrast(0.5, 0.53, 0.03).difference.low == pytest.approx(0)
    touching = replace(contrast(0.5, 0.53, 0.03), difference=Interval(0.03, 0.0, 0.06))
    assert touching.verdict == "no measurable difference"


def test_worse_is_said(report):
    text = Outline(render_report(replace(report, headline=contrast(0.568, 0.498, 0.03)))).text
    assert "Worse" in text and "finds the right page worse" in text
    assert "\u22120.070" in text


def test_untrusted_names_are_text(report):
    html = render_report(report)
    outline = Outline(html)
    assert "script" not in {tag for tag, _ in outline.tags}
    assert "b" in {tag for tag, _ in outline.tags}  # the template's own
    assert "<b>broken</b>.pdf" in outline.text
    assert "<script>" not in html


def test_nothing_is_loaded_from_elsewhere(report):
    html = render_report(report)
    sources = [
        a.get("src") or a.get("href") or "" for t, a in Outline(html).tags if t in ("img", "link", "a", "script")
    ]
    assert sources and all(source.startswith("data:") for source in sources)
    assert "url(http" not in html and "@import" not in html


def test_every_image_has_a_description(report):
    tags = Outline(render_report(report)).tags
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    drawings = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(drawings) == 4
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)


def test_ids_are_unique(report):
    ids = [attributes["id"] for _, attributes in Outline(render_report(report)).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_run_without_cases_losses_and_sizes_still_reports(report):
    bare = replace(report, improved=[], worst=[], losses=[], sizes=[], dimensions=report.dimensions[:1])
    text = Outline(render_report(bare)).text
    assert "No query improved." in text and "Every query has its right page at rank 1." in text


def test_json_holds_the_numbers_and_no_image(report, tmp_path):
    html, data = write_report(report, tmp_path)
    loaded = json.loads(data.read_text())
    assert loaded["verdict"] == "better"
    assert loaded["headline"]["difference"] == {
        "value": pytest.approx(0.07),
        "low": pytest.approx(0.045),
        "high": pytest.approx(0.095),
    }
    assert "image" not in loaded["improved"][0]["expected"]
    assert loaded["worst"][0]["query"].startswith("Exception handling")
    assert html.read_text().lstrip().startswith("<!doctype html>")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_contact_sheet_escapes_the_query():
    page = Page(id="a", document="x<y.pdf", number=1, image=thumbnail("a"))
    html = render_sheet(query="<script>1</script>", model="m", pages=[(page, 0.5)])
    assert "<script>" not in html and "x&lt;y.pdf" in html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.14, "3.1 s"), (41.0, "41 s"), (59.7, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_p_value_is_never_zero():
    assert p_value(0.0) == "p < 0.001"
    assert p_value(0.0421) == "p = 0.042"


def test_a_sheet_of_segments_gives_their_times():
    page = Page(id="a.mp3#2", document="a.mp3", number=2, times="0:30-0:45")
    html = render_sheet(query="q", model="m", pages=[(page, 0.5)], words=Words(document="recording", page="segment"))
    assert "1 segments found by m" in html and "a.mp3, 0:30-0:45" in html and "page 2" not in html


def test_the_report_says_segment_where_pages_are_segments(report):
    words = Words(document="recording", page="segment", sees="sound", text="transcript")
    shown = Page(id="a.mp3#2", document="a.mp3", number=2, times="0:30-0:45", read="what was <heard>")
    case = replace(report.worst[0], expected=shown)
    html = render_report(replace(report, words=words, worst=[case]))
    assert "a.mp3, 0:30-0:45" in html and "what was &lt;heard&gt;" in html
    assert "segments of held-out recordings" in html and "Split by recording" in html and "bytes a segment" in html


def test_a_ladder_takes_the_headline(report, tmp_path):
    def asked(value: float, difference: float | None) -> Asked:
        return Asked(
            ndcg=interval(value),
            difference=None if difference is None else interval(difference, 0.02),
            p_value=None if difference is None else 0.0002,
            all_pages=interval(value - 0.03),
        )

    def rung(name: str, value: float, difference: float | None, *, chosen: bool = False) -> Rung:
        return Rung(name=name, weights="late 1, lines 2" if chosen else "", chosen=chosen, validation=value,
                    titles=asked(value, difference), questions=asked(value - 0.1, difference), bytes_per_page=1702,
                    milliseconds=None if name == "dense" else 12.4)  # fmt: skip

    ladder = Ladder(
        rungs=[rung("lexical", 0.752, None), rung("dense", 0.603, -0.149), rung("late", 0.953, 0.201, chosen=True)],
        headline=contrast(0.752, 0.953, 0.03, label="late"),
        name="late",
        why="It was the best on validation.",
        queries=257,
        questions=120,
        validation="200 titles of training documents",
        dense=[contrast(0.69, 0.953, 0.03, label="titles, dense")],
        scans=[contrast(0.953, 0.948, 0.01, label="late, titles")],
        trained=[Trial(name="late, finetuned", value=0.9, difference=Interval(-0.02, -0.03, -0.01))],
        failures=[Failure(query="how <much>", expected=report.worst[0].expected, rank=7, lexical_rank=3,
                          first=report.worst[0].finetuned_first, why="Words do not tell them apart.")],
        wall=(21.4, 30.2),
    )  # fmt: skip
    html = render_report(replace(report, ladder=ladder))
    assert "on one document that no choice and no training saw, the chosen retriever is better on 258 titles" in html
    assert "(NDCG@10 0.953 against 0.752, " in html and "): deploy late." in html
    for said in (
        "how &lt;much&gt;",
        "Ranked first instead",
        "as scans",
        "late, finetuned",
        "in 21 ms, 95% of them in 30",
    ):
        assert said in html
    written = replace(report, ladder=ladder).to_json()
    assert (written["verdict"], written["finetuning_verdict"]) == ("better", report.headline.verdict)
    assert written["sentence"] in html.replace("&#39;", "'")
    assert (
        "120 questions that people ask" in html
        and "late 1, lines 2" in html
        and "0.498 &rarr; 0.568 by finetuning" in html
    )
    small = replace(ladder, headline=replace(contrast(0.75, 0.76, 0.03), difference=Interval(0.01, -0.01, 0.03)))
    assert "late, which validation chose, was not shown to be worth its cost" in render_report(
        replace(report, ladder=small)
    )
    worse = replace(ladder, asked=contrast(0.75, 0.6, 0.03))
    assert "worse on 258 questions that people ask" in replace(report, ladder=worse).sentence
    assert "look at the queries below" in replace(report, ladder=worse).sentence
    for name in ("model", "retriever"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text("# Card\n")
    write_run_cards(replace(report, ladder=ladder), tmp_path)
    card = (tmp_path / "retriever" / "README.md").read_text()
    assert card.startswith("# Card\n\n<!--") and "deploy late.\n\n- **Command:**" in card
    assert "| NDCG@10 | lexical search | this retriever | difference, 95% interval | |" in card
    assert "| titles (258 queries) | 0.752 | 0.953 | +0.201 (+0.171 to +0.231) | better |" in card
    assert "The run chose late as its retriever" in (tmp_path / "model" / "README.md").read_text()
    few = replace(ladder, headline=replace(small.headline, queries=7, difference=Interval(0, 0, 0)), asked=None)
    assert "retriever is not measurably different on 7 titles" in replace(report, ladder=few).sentence
    assert "7 queries are too few to tell" in replace(report, ladder=few).sentence
    rungs = [replace(rung, chosen=rung.titles.difference is None) for rung in ladder.rungs]
    same = replace(ladder, why="Nothing beat it.", rungs=rungs)
    html = render_report(replace(report, ladder=same))
    assert "Lexical search is enough for these documents: Nothing beat it." in html
    # It is not compared with itself: one number, no arrow from it to itself, no p-value.
    headline = html[html.index('class="card headline"') : html.index("</section>")]
    assert headline.count("<small>") == 1 and "&rarr;" not in headline.split("the model alone")[0]
    assert "p-value" not in headline


def test_cards_of_a_run_have_its_numbers_and_keep_what_people_wrote(report, tmp_path):
    for name, text in {"model": "# Mine\n\n## Training\n\nrows\n", "retriever": "# Found\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(text)
    (tmp_path / "reranker").mkdir()
    (tmp_path / "reranker" / "README.md").write_bytes(b"# Gr\xfc\xdfe\n")  # no UTF-8
    write_run_cards(report, tmp_path)
    assert (tmp_path / "reranker" / "README.md").read_bytes().startswith(b"# Gr\xfc\xdfe\n\n<!--")
    model = (tmp_path / "model" / "README.md").read_text()
    assert model.startswith("# Mine\n\n<!--") and model.endswith("-->\n\n## Training\n\nrows\n")
    for said in (
        "- **Command:** `omnitune finetune examples/documents --out runs/demo`",
        "- **Report of:** 2026-01-31 12:00 UTC",
        "- **Documents:** 2, of which 1 test: `R-lang.pdf`",
        "- **Pages:** 995, of which 162 are in those",
        "- **Queries:** 3,008 training pairs, 258 test queries",
        "| held-out documents (258 queries) | 0.498 | 0.568 | +0.070 (+0.045 to +0.095) | better |",
    ):
        assert said in model
    assert (tmp_path / "retriever" / "README.md").read_text() == "# Found\n"  # this run made none
    (tmp_path / "model" / "README.md").write_text(model.replace("# Mine", "# Ours") + "a last word")
    again = replace(report, headline=contrast(0.4, 0.41, 0.05))
    write_run_cards(again, tmp_path)
    text = (tmp_path / "model" / "README.md").read_text()
    assert text.startswith("# Ours") and text.endswith("rows\na last word") and text.count("## Run") == 1
    assert "| 0.400 | 0.410 | +0.010 (-0.040 to +0.060) | no measurable difference |" in text and "0.498" not in text
