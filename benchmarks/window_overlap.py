"""Measure the overlap of windows on documents outside the test: quality, windows and bytes a page.

    python benchmarks/window_overlap.py RUN --documents R-intro.pdf R-data.pdf --questions FILE

RUN is a folder of `omnitune finetune`, whose store of windows is used. Titles are those that its training documents
gave; the pages of the named documents are the corpus. Prints a row for each overlap and stage, with the interval of
the difference to the product's overlap (paired bootstrap over queries).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from omnitune.documents.dataset import load
from omnitune.finetune.candidates import measure, scored
from omnitune.finetune.choose import text_embedder
from omnitune.finetune.measure import METRIC, TestSet
from omnitune.finetune.questions import question_set, read_questions
from omnitune.finetune.windows import OVERLAP, cut_pages, encode_windows
from omnitune.ops.significance import paired_bootstrap
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import DenseStage, LateStage, LexicalStage, LineStage, ListingStage

STAGES = {
    "dense": {"dense": 1.0},
    "late": {"late": 1.0},
    "late, lexical, lines and listings": {"late": 1.0, "lexical": 0.1, "lines": 2.0, "listing": 2.0},
}


def main() -> None:
    """Measure every overlap and print one row a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--documents", nargs="+", required=True)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--overlaps", type=float, nargs="+", default=[OVERLAP, 0.0, 0.25])
    given = parser.parse_args()
    dataset = load(given.run / "dataset")
    pages = dataset.tables["pages"]
    rows = [row for row, page in enumerate(pages) if page["document"] in given.documents]
    assert not {pages[row]["side"] for row in rows} & {"test"}, "test documents decide nothing"
    place = {dataset.page_ids[row]: number for number, row in enumerate(rows)}
    texts = [dataset.page_texts[row] for row in rows]
    items = [
        {"id": name, "document": pages[row]["document"], "page": number, "text": text}
        for number, (row, name, text) in enumerate(zip(rows, place, texts, strict=True))
    ]
    pairs: dict[str, set[int]] = {}
    table = dataset.tables["train"]
    for query, page, origin in zip(table["query"], table["page_id"], table["origin"], strict=True):
        if origin == "title" and page in place:
            pairs.setdefault(query, set()).add(place[page])
    for name, query in dataset.validation.queries.items():
        found = {place[page] for page in dataset.validation.relevant[name] if page in place}
        if found:
            pairs.setdefault(query, set()).update(found)
    everywhere = list(range(len(rows)))
    tests = {
        "titles": TestSet(
            queries=list(pairs), relevant=[sorted(p) for p in pairs.values()], rows=everywhere,
            clusters=list(range(len(pairs))),
        )
    }  # fmt: skip
    if given.questions is not None:
        asked = question_set(dataset, read_questions(given.questions), rows)
        if asked is not None:
            moved = [[place[dataset.page_ids[page]] for page in some] for some in asked.relevant]
            tests["questions"] = TestSet(
                queries=asked.queries, relevant=moved, rows=everywhere, clusters=list(range(len(moved)))
            )
    model = text_embedder()
    model.max_seq_length = 256
    baseline: dict[tuple[str, str], np.ndarray] = {}
    for overlap in given.overlaps:
        started = time.perf_counter()
        cut = cut_pages(model, texts, overlap)
        made = encode_windows(model, cut, given.run / "embeddings" / "windows", batch_size=32)
        seconds = time.perf_counter() - started
        late = LateStage(model=model, codec="int8", pooled=4, candidates=32)
        all_stages = [LexicalStage(), LineStage(), ListingStage(), DenseStage(model=model), late]
        pool = Retriever.build(
            items, all_stages, encoded={"dense": made.dense, "late": made.tokens}, show_progress=False
        )
        for stage, weights in STAGES.items():
            some = pool.only(weights)
            for name, test in tests.items():
                found = measure(scored(some, test), weights, test).metrics[METRIC]
                first = baseline.setdefault((stage, name), found)
                contrast = paired_bootstrap(
                    first, found, clusters=test.clusters, resamples=10_000, confidence=0.95, seed=12
                )
                row = {
                    "overlap": overlap, "stage": stage, "queries": name, "n": len(test.queries),
                    "ndcg": round(float(found.mean()), 4), "difference": round(contrast.difference, 4),
                    "low": round(contrast.low, 4), "high": round(contrast.high, 4),
                    "windows": round(sum(map(len, cut)) / len(rows), 2),
                    "vectors": round(len(made.tokens.values) / len(rows), 1), "seconds": round(seconds, 1),
                }  # fmt: skip
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
