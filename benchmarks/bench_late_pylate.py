"""Late-interaction indexes beside PyLate's (FastPlaid, 4 bits) on the same vectors: bytes, seconds to build, to search.

PyLate wants an older Sentence Transformers than ours compares with, so it runs from an environment of its own:

    python -m venv env && env/bin/pip install pylate
    python benchmarks/bench_late_pylate.py --python env/bin/python [--texts 2000]

Texts are those of `bench_late_search.py`, 180 tokens each; 50 queries of 20 tokens, one at a time, warm; one thread
each, seconds of the wall clock. Recall is of the ten that exact MaxSim of the whole vectors finds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TEXT, DIM, QUERIES = 180, 128, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="interpreter of an environment that has PyLate")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--worker", type=Path, help="folder of vectors; runs PyLate here")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(theirs(options.worker)))
        return
    from bench_late_search import ask, make_pages

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        texts = make_pages(options.texts, [TEXT] * options.texts, 5)
        queries = np.stack(ask(texts, range(0, options.texts, options.texts // QUERIES), 5)[:QUERIES])
        np.save(folder / "texts.npy", np.asarray(texts.values).reshape(-1, TEXT, DIM))
        np.save(folder / "queries.npy", queries)
        rows = ours(folder, texts, queries)
        if options.python:
            threads = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            done = subprocess.run(
                [options.python, __file__, "--worker", str(folder)], capture_output=True, text=True, check=False,
                env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **threads},
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            rows |= json.loads(done.stdout.strip().splitlines()[-1])
    exact = [set(found) for found in rows["exact, float32"]["found"]]
    for name, row in rows.items():
        shared = np.mean([len({*found} & best) / 10 for found, best in zip(row.pop("found"), exact, strict=True)])
        print(json.dumps({"index": name, "texts": options.texts, **row, "recall@10": round(float(shared), 3)}))


def measured(build: Any, search: Any, queries: Any, size: Any) -> dict[str, Any]:
    start = time.perf_counter()
    build()
    built = time.perf_counter() - start
    search(queries[0])
    taken, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append([int(row) for row in search(query)])
        taken.append((time.perf_counter() - start) * 1000)
    return {
        "build_seconds": round(built, 2),
        "query_ms_p50": round(float(np.percentile(taken, 50)), 2),
        "query_ms_p95": round(float(np.percentile(taken, 95)), 2),
        "kilobytes_a_text": round(size() / 1000, 2),
        "found": found,
    }


def ours(folder: Path, texts: Any, queries: Any) -> dict[str, Any]:
    import torch

    from omnitune.retrieval.late_index import LateIndex

    torch.set_num_threads(1)
    entries = [{"id": str(row)} for row in range(len(texts))]
    rows = {}
    for name, codec, exact in (
        ("exact, float32", "float32", True), ("two stages, int8", "int8", False),
        ("two stages, 4 bits", "residual4", False), ("two stages, 2 bits", "residual2", False),
    ):  # fmt: skip
        index, place = LateIndex(codec=codec, pooled=0 if exact else 16), folder / codec
        index.save(place)
        rows[name] = measured(
            lambda index=index: index.add(entries, texts),
            lambda query, index=index, exact=exact: [
                hit.row for hit in index.search([query], top_k=10, exact=exact)[0]
            ],
            queries,
            lambda place=place: sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) / len(texts),
        )
    return rows


def theirs(folder: Path) -> dict[str, Any]:
    import torch
    from pylate import indexes, retrieve

    torch.set_num_threads(1)
    texts, queries = np.load(folder / "texts.npy"), np.load(folder / "queries.npy")
    where = {"index_folder": str(folder / "pylate"), "index_name": "plaid", "override": True}
    index = indexes.PLAID(**where, nbits=4, use_fast=True, device="cpu", num_threads=1, show_progress=False)
    retriever = retrieve.ColBERT(index=index)
    found = measured(
        lambda: index.add_documents([str(row) for row in range(len(texts))], list(texts)),
        lambda query: [hit["id"] for hit in retriever.retrieve([query], k=10)[0]],
        queries,
        lambda: sum(f.stat().st_size for f in (folder / "pylate").rglob("*") if f.is_file()) / len(texts),
    )
    return {"PyLate 1.6.0, FastPlaid, 4 bits": found}


if __name__ == "__main__":
    sys.exit(main())
