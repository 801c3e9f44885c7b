"""Search among sparse rows: the inverted index against SciPy's products and against splade-index, results compared.

    python benchmarks/bench_sparse_search.py                  100,000 rows, 200 queries
    python benchmarks/bench_sparse_search.py --quick          10,000 rows, 50 queries
    python benchmarks/bench_sparse_search.py --model FOLDER   and the sentences of the example documents, by that model

Synthetic rows have the statistics of SPLADE's: 30,522 terms whose postings fall off as a power of their rank, 150
terms a document, 30 a query, weights of a gamma distribution. splade-index is measured where it is installed, with
numba where that is. Times are CPU milliseconds of one thread, one query at a time; ratios are what matters.
"""

import argparse
import importlib.util
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from omnitune.retrieval.sparse_index import SparseIndex

VOCABULARY, DOCUMENT, QUERY, TOP = 30_522, 150, 30, 10


def draw(rows: int, terms: int, seed: int) -> sp.csr_matrix:
    """Rows of about `terms` terms each."""
    generator = np.random.default_rng(seed)
    common = 1 / (np.arange(VOCABULARY) + 30) ** 0.9
    lengths = np.clip(generator.lognormal(np.log(terms), 0.4, rows).astype(int), 3, 400)
    row = np.repeat(np.arange(rows), lengths)
    keys = np.unique(row * VOCABULARY + generator.choice(VOCABULARY, len(row), p=common / common.sum()))
    weights = generator.gamma(2, 0.4, len(keys)).astype(np.float32)
    return sp.csr_matrix((weights, (keys // VOCABULARY, keys % VOCABULARY)), shape=(rows, VOCABULARY))


def best(scores: Any) -> Any:
    """Rows of the ten best scores, best first, as SciPy's users pick them."""
    rows = np.argpartition(-scores, TOP)[:TOP]
    return rows[np.argsort(-scores[rows], kind="stable")]


def timed(call: Callable[[int], Any], queries: int) -> tuple[list[float], list[Any]]:
    """CPU milliseconds and answer of every query, warm."""
    call(0)
    taken, answers = [], []
    for number in range(queries):
        start = time.process_time()
        answers.append(call(number))
        taken.append((time.process_time() - start) * 1000)
    return taken, answers


def tensor(rows: sp.csr_matrix) -> torch.Tensor:
    coo = rows.tocoo()
    places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
    return torch.sparse_coo_tensor(places, torch.from_numpy(coo.data), coo.shape, is_coalesced=True)


def compare(documents: sp.csr_matrix, queries: sp.csr_matrix, folder: Path) -> None:
    count, asked = documents.shape[0], queries.shape[0]
    print(f"\n{count:,} rows of {documents.nnz / count:.0f} terms, {asked} queries of {queries.nnz / asked:.0f}")
    by_term = documents.T.tocsr()
    one = [queries[number] for number in range(asked)]
    reference_times, reference = timed(lambda n: (s := (one[n] @ by_term).toarray()[0], best(s)), asked)
    ways: dict[str, tuple[list[float], float, float]] = {
        "scipy, query @ terms": (reference_times, by_term.data.nbytes + by_term.indices.nbytes, 1.0)
    }
    dense = [queries[number].toarray()[0] for number in range(asked)]
    times, _ = timed(lambda n: best(documents @ dense[n]), asked)
    ways["scipy, rows @ query"] = times, documents.data.nbytes + documents.indices.nbytes, 1.0
    entries = [{"id": str(row)} for row in range(count)]
    for dtype, cut in (("float32", count), ("float16", count), ("uint8", count), ("uint8", 1024)):
        index = SparseIndex(dtype=dtype)  # type: ignore[arg-type]
        place = folder / f"{dtype}-{cut}-{count}"
        index.save(place)
        start = time.process_time()
        for first in range(0, count, cut):
            index.add(entries[first : first + cut], documents[first : first + cut])
        build = time.process_time() - start
        opened = SparseIndex.open(place)
        times, found = timed(lambda n, i=opened: i.search(one[n], top_k=TOP)[0], asked)  # type: ignore[misc]
        shared = []
        for hits, (scores, rows) in zip(found, reference, strict=True):
            shared.append(len({hit.row for hit in hits} & set(rows.tolist())) / TOP)
            if dtype == "float32":
                np.testing.assert_allclose([hit.score for hit in hits], scores[rows], rtol=1e-5)
        size = sum(
            part.arrays[name].nbytes
            for part in opened.segments.parts
            for name in ("rows", "weights", "terms", "terms_starts", "low", "step")
            if name in part.arrays
        )
        name = f"SparseIndex, {dtype}" + (f", {-(-count // cut)} segments" if cut != count else "")
        ways[name] = times, size, float(np.mean(shared))
        print(f"  {name}: built in {build / count * 1e6:.0f} us a row")
    if importlib.util.find_spec("splade_index"):
        ways |= rivals(documents, one, reference)
    base = np.percentile(ways["SparseIndex, float32"][0], 50)
    for name, (times, size, shared_) in ways.items():
        p50, p95 = np.percentile(times, [50, 95])
        print(
            f"  {name:34s} p50 {p50:7.2f} p95 {p95:7.2f} ms, {p50 / base:5.1f} times ours, {size / count:7.0f} bytes a "
            f"row, recall@{TOP} {shared_:.4f}"
        )


def rivals(
    documents: sp.csr_matrix, one: list[Any], reference: list[Any]
) -> dict[str, tuple[list[float], float, float]]:
    """splade-index over the same rows: its model is a stand-in that has them already."""
    from splade_index import SPLADE

    held = tensor(documents)
    asked = [tensor(row)[0].coalesce() for row in one]
    vocabulary = SimpleNamespace(get_vocab=lambda: {str(term): term for term in range(VOCABULARY)})
    model = SimpleNamespace(
        tokenizer=vocabulary,
        encode_document=lambda *_, **__: held,
        encode_query=lambda texts, **_: [asked[int(texts[0])]],
    )
    made = {}
    for backend in ("numpy", "numba") if importlib.util.find_spec("numba") else ("numpy",):
        index = SPLADE(backend=backend)
        index.index(model, ["" for _ in range(documents.shape[0])], show_progress=False, compile_numba_code=False)
        times, found = timed(
            lambda n, i=index: i.retrieve([str(n)], k=TOP, show_progress=False),  # type: ignore[misc]
            len(one),
        )
        shared = [
            len(set(np.asarray(answer.doc_ids[0]).tolist()) & set(rows.tolist())) / TOP
            for answer, (_, rows) in zip(found, reference, strict=True)
        ]
        size = sum(index.scores[name].nbytes for name in ("data", "indices", "indptr"))
        made[f"splade-index, {backend}"] = times, size, float(np.mean(shared))
    return made


def sentences(limit: int) -> list[str]:
    """Sentences of the example documents' text layers."""
    import pypdfium2

    found: list[str] = []
    for path in sorted((Path(__file__).parents[1] / "examples" / "documents").rglob("*.pdf")):
        document = pypdfium2.PdfDocument(path)
        for page in document:
            text = re.sub(r"\s+", " ", page.get_textpage().get_text_range())
            found += [one for one in re.split(r"(?<=[.!?]) ", text) if len(one.split()) > 5]
            if len(found) >= limit:
                return found[:limit]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 rows")
    parser.add_argument("--model", type=Path, help="folder of a SPLADE model, for real rows")
    parser.add_argument("--sentences", type=int, default=5000, help="real rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, queries = (10_000, 50) if arguments.quick else (100_000, 200)
    with tempfile.TemporaryDirectory() as folder:
        compare(draw(count, DOCUMENT, 0), draw(queries, QUERY, 1), Path(folder))
        if arguments.model is not None:
            from omnitune import SparseEncoder

            model = SparseEncoder(str(arguments.model), device="cpu")
            texts = sentences(arguments.sentences)
            rows = model.encode_document(texts, show_progress_bar=False).coalesce()
            matrix = sp.csr_matrix((rows.values().numpy(), rows.indices().numpy()), shape=tuple(rows.shape))
            print(f"\n{len(texts):,} sentences of the example documents")
            compare(matrix, matrix[:: max(1, len(texts) // 100)], Path(folder) / "real")


if __name__ == "__main__":
    main()
