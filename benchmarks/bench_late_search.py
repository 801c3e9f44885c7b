"""Late-interaction search: two stages against exact, bytes a page of each codec, and ragged texts against ST.

    python benchmarks/bench_late_search.py            10,000 pages of 1,030 vectors, 10,000 texts
    python benchmarks/bench_late_search.py --quick    1,000 of each

Pages are synthetic: each has 24 of 2,000 subjects that all pages share, in its own variant, and its token vectors lie
around them; a query asks about four of one page's. Times are CPU seconds of one thread, so that other work on the
machine does not count; ratios are what matters.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnitune.retrieval.dense_index import DenseIndex
from omnitune.retrieval.late_index import CANDIDATES, POOLED, LateIndex
from omnitune.retrieval.lexical import LexicalIndex
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.token_codec import CODECS

DIM, PAGE, TEXT, QUERY = 128, 1030, 180, 20
AT_ONCE = 500


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def make_pages(count: int, tokens: Sequence[int], seed: int) -> Packed:
    """Pages whose tokens lie around 24 subjects, which follow one another down the page."""
    generator = np.random.default_rng(seed)
    shared = np.random.default_rng(99).normal(size=(2000, DIM)).astype(np.float32)
    pool = 0.7 * generator.normal(size=(60_000, DIM)).astype(np.float32)  # drawing all numbers anew takes minutes
    rows = []
    for length in tokens[:count]:
        subjects = shared[generator.integers(0, 2000, 24)]
        subjects = subjects + 0.5 * generator.normal(size=subjects.shape).astype(np.float32)
        place = np.sort(generator.integers(0, 24, length))
        begin = int(generator.integers(0, len(pool) - length))
        rows.append(unit(subjects[place] + pool[begin : begin + length]))
    return Packed.of(rows, "float32")


def ask(pages: Packed, rows: Sequence[int], seed: int) -> list[Any]:
    """Queries of 20 tokens about what a page says."""
    generator = np.random.default_rng(seed)
    made = []
    for row in rows:
        page = pages[row]
        about = generator.integers(0, len(page), 4)
        some = page[np.clip(about[:, None] + np.arange(QUERY // 4), 0, len(page) - 1).flatten()]
        made.append(unit(some + 0.9 * unit(generator.normal(size=some.shape))).astype(np.float32))
    return made


def timed(call: Callable[[], Any], rounds: int = 1) -> tuple[float, Any]:
    best, made = np.inf, None
    for _ in range(rounds):
        start = time.process_time()
        made = call()
        best = min(best, time.process_time() - start)
    return best, made


def two_stages(pages: int, queries: int, codec: Any, pooled: int, folder: Path) -> None:
    index = LateIndex(codec=codec, pooled=pooled)
    index.save(folder / "pages")
    asked: list[Any] = []
    for start in range(0, pages, AT_ONCE):
        count = min(AT_ONCE, pages - start)
        some = make_pages(count, [PAGE] * count, start)
        index.add([{"id": str(start + row)} for row in range(count)], some)
        if len(asked) < queries:
            asked += ask(some, range(0, count, max(1, count * 10 // queries)), start)
    asked = asked[:queries]
    size = sum(file.stat().st_size for file in (folder / "pages").glob("*.safetensors")) / pages / 1000
    print(
        f"\n{pages:,} pages of {PAGE:,} vectors in {codec} and {pooled} pooled, {size:.1f} kB a page, {len(asked)} "
        f"queries of {QUERY}, one at a time"
    )
    index.search(asked[:1])
    exact_time = timed(lambda: [index.search([one], exact=True) for one in asked[:4]])[0] / 4 * len(asked)
    exact = index.search(asked, exact=True)
    for candidates in (64, 128, CANDIDATES, 512):
        seconds, found = timed(lambda c=candidates: [index.search([q], candidates=c)[0] for q in asked])  # type: ignore[misc]
        shared = [len({h.row for h in a} & {h.row for h in b}) / len(a) for a, b in zip(exact, found, strict=True)]
        first = np.mean([a[0].row == b[0].row for a, b in zip(exact, found, strict=True)])
        print(
            f"  two stages, {candidates} candidates: {seconds / len(asked) * 1000:7.1f} ms a query, exact "
            f"{exact_time / len(asked) * 1000:7.1f} ms, ratio {exact_time / seconds:5.1f}, recall@10 "
            f"{np.mean(shared):.3f}, same first {first:.3f}"
        )


def codecs(pages: int, folder: Path) -> None:
    some = make_pages(pages, [PAGE] * pages, 7)
    asked = ask(some, range(0, pages, 10), 7)
    print(f"\nCodecs, {pages:,} pages of {PAGE:,} vectors of {DIM} dimensions, exact search")
    reference: list[Any] = []
    for codec in CODECS:
        index = LateIndex(codec=codec, pooled=0)
        build, _ = timed(lambda i=index: i.add([{"id": str(row)} for row in range(pages)], some))  # type: ignore[misc]
        place = folder / codec
        index.save(place)
        size = sum(file.stat().st_size for file in place.glob("*.safetensors")) / pages
        _, found = timed(lambda i=index: i.search(asked, exact=True))  # type: ignore[misc]
        alone = [timed(lambda i=index, q=query: i.search([q], exact=True))[0] for query in asked[:6]]  # type: ignore[misc]
        reference = reference or found
        shared = np.mean(
            [len({h.row for h in a} & {h.row for h in b}) / 10 for a, b in zip(reference, found, strict=True)]
        )
        right = np.mean([hits[0].row == row for hits, row in zip(found, range(0, pages, 10), strict=True)])
        print(
            f"  {codec:10s} {size / 1000:7.1f} kB a page, built in {build / pages * 1000:5.1f} ms a page, "
            f"one query p50 {np.median(alone) * 1000:6.1f} ms, recall@10 of float32 {shared:.3f}, right page "
            f"{right:.3f}"
        )


def ragged(texts: int, queries: int) -> None:
    from sentence_transformers.util import maxsim

    generator = np.random.default_rng(3)
    lengths = np.clip(generator.lognormal(np.log(90), 0.6, texts).astype(int), 8, 512)
    some = make_pages(texts, lengths.tolist(), 3)
    asked = ask(some, range(0, texts, texts // queries), 3)[:queries]
    index = LateIndex(codec="float32", pooled=0)
    index.add([{"id": str(row)} for row in range(texts)], some)
    allowed = index.segments.allowed(None)
    lists = [torch.from_numpy(np.asarray(some[row])) for row in range(texts)]
    theirs_queries = [torch.from_numpy(one) for one in asked]
    print(f"\n{texts:,} texts of {int(lengths.min())} to {int(lengths.max())} tokens, {queries} queries at once, exact")

    def theirs() -> Any:
        # Their evaluator's way: chunks of 5,000 documents.
        parts = [maxsim(theirs_queries, lists[start : start + 5000]) for start in range(0, texts, 5000)]
        return torch.cat(parts, dim=1).numpy()

    def ours() -> Any:
        return np.stack(list(index.scores(asked, allowed, exact=True)))

    ours()
    our_time, our_scores = timed(ours, 3)
    their_time, their_scores = timed(theirs, 2)
    difference = float(np.abs(our_scores - their_scores).max())
    ratio = their_time / our_time
    print(f"  ours {our_time:.2f} s, ST {their_time:.2f} s, ratio {ratio:.1f}, difference {difference:.1e}")
    assert difference < 1e-3


def mapped_query(pages: int, folder: Path) -> None:
    """p50 and p95 of one query to a late index that is mapped from the disk, and the memory that it takes."""
    generator = np.random.default_rng(0)
    late = LateIndex(codec="int8", pooled=4)
    late.save(folder / "mapped")
    first = make_pages(1000, [TEXT] * 1000, 0)
    asked = ask(first, range(0, 1000, 10), 1)
    for start in range(0, pages, 1000):
        # The same pages in other orthants: what is timed depends on sizes alone, and drawing anew takes minutes.
        values = first.values * generator.choice(np.array([-1, 1], np.float32), DIM) if start else first.values
        late.add([{"id": str(start + row)} for row in range(1000)], replace(first, values=values))
    size = sum(file.stat().st_size for file in (folder / "mapped").glob("*.safetensors"))
    del late, values
    before = memory()
    opened = LateIndex.open(folder / "mapped")
    opened.search(asked[:1])
    for candidates in (64, 256):
        taken = [timed(lambda q=query, c=candidates: opened.search([q], candidates=c))[0] * 1000 for query in asked]  # type: ignore[misc]
        p50, p95 = np.percentile(taken, [50, 95])
        own, of_file = (after - held for after, held in zip(memory(), before, strict=True))
        print(
            f"  {pages:7,} pages  late, mapped, {candidates} candidates: p50 {p50:7.1f} p95 {p95:7.1f} ms, "
            f"{size / pages / 1000:6.2f} kB a page, memory {own / 1e6:.0f} MB and {of_file / 1e6:.0f} MB of the file"
        )


def memory() -> tuple[int, int]:
    """Bytes of this process in memory: its own, and those of files that are mapped, which the system may drop."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, of_files = (int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return own, of_files


def one_query(pages: int, folder: Path) -> None:
    """p50 and p95 of one query, by kind of index, warm."""
    generator = np.random.default_rng(0)
    vocabulary = np.array([f"word{number}" for number in range(30_000)])
    lexical, dense = LexicalIndex(), DenseIndex(dtype="float16")
    late = LateIndex(codec="int8", pooled=4)
    late.save(folder / f"late-{pages}")
    asked: list[Any] = []
    for start in range(0, pages, 1000):
        count = min(1000, pages - start)
        entries = [{"id": str(start + row)} for row in range(count)]
        places = (generator.zipf(1.2, size=(count, 300)) - 1) % len(vocabulary)
        lexical.add(entries, [" ".join(row) for row in vocabulary[places]])
        dense.add(entries, generator.normal(size=(count, 384)).astype(np.float32))
        some = make_pages(count, [TEXT] * count, start)
        late.add(entries, some)
        asked = asked or ask(some, range(0, 100, 2), 1)
    words = [" ".join(vocabulary[generator.integers(0, 3000, 5)]) for _ in range(50)]
    vectors = generator.normal(size=(50, 384)).astype(np.float32)
    calls: dict[str, tuple[Any, Callable[[int], Any]]] = {
        "lexical": (lexical, lambda n: lexical.search([words[n]])),
        "dense": (dense, lambda n: dense.search(vectors[n : n + 1])),
        "late": (late, lambda n: late.search([asked[n]], candidates=256)),
    }
    for name, (index, call) in calls.items():
        call(0)
        taken = [timed(partial(call, number))[0] * 1000 for number in range(50)]
        p50, p95 = np.percentile(taken, [50, 95])
        size = sum(array.nbytes for part in index.segments.parts for array in part.arrays.values()) / pages
        print(f"  {pages:7,} pages  {name:8s} p50 {p50:7.1f} p95 {p95:7.1f} ms   {size / 1000:6.2f} kB a page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--only", choices=("stages", "codecs", "ragged", "scaling", "mapped"), help="one part")
    parser.add_argument("--queries", type=int, default=40, help="queries of the two stages")
    parser.add_argument("--codec", choices=CODECS, default="int8", help="of the pages of the two stages")
    parser.add_argument("--pooled", type=int, default=POOLED, help="pooled vectors of a page, for stage one")
    parser.add_argument("--folder", type=Path, help="where indexes are written; a temporary folder by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    share = 10 if arguments.quick else 1
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        folder = Path(made)
        if arguments.only in (None, "stages"):
            two_stages(10_000 // share, arguments.queries, arguments.codec, arguments.pooled, folder)
        if arguments.only in (None, "codecs"):
            codecs(1_000 // share, folder)
        if arguments.only in (None, "ragged"):
            ragged(10_000 // share, 20)
        if arguments.only in (None, "scaling"):
            print("\nOne query, warm")
            for pages in (1_000, 10_000):
                one_query(pages, folder)
        if arguments.only in (None, "mapped"):
            print("\nOne query, mapped from the disk")
            mapped_query(100_000 // share, folder)


if __name__ == "__main__":
    main()
