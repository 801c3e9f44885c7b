"""From embeddings and text layers to the report: every number in it is made here or in `measure`."""

import io
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image

from omnitune import runtime
from omnitune.finetune.baselines import bm25_scorer
from omnitune.finetune.encoded import Matrix
from omnitune.finetune.measure import Judged, Resampling, Scorer, Test, cosine_scorer, judge, stored_bytes
from omnitune.finetune.recipe import Precision
from omnitune.report.results import Case, Contrast, Page, SizePoint, System

METRIC = "ndcg@10"
METRIC_SHOWN = "NDCG@10"
OTHERS = {"recall@1": "recall@1", "recall@10": "recall@10", "mrr@10": "MRR@10"}
THUMBNAIL = 480
"""Width of a page image in the report, in pixels."""

PACKAGES = (
    "omnitune", "torch", "transformers", "datasets", "tokenizers", "numpy", "pypdfium2", "peft", "tesserocr", "av",
    "pocketsphinx",
)  # fmt: skip

Embedded = tuple[Matrix, Matrix]
"""Embeddings of the queries and of all pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A retriever on the held-out documents and, unless it was not asked there, among all pages."""

    name: str
    reads: str
    held_out: Judged
    all_pages: Judged | None


def measure_embedded(name: str, reads: str, embedded: Embedded, test: Test, everything: Test) -> Measured:
    """A dense retriever, by its embeddings."""
    queries, pages = embedded
    return Measured(
        name=name,
        reads=reads,
        held_out=judge(cosine_scorer(queries, pages[list(test.rows)]), test),
        all_pages=judge(cosine_scorer(queries, pages[list(everything.rows)]), everything),
    )


def measure_bm25(texts: Sequence[str], reads: str, test: Test, everything: Test) -> Measured:
    """BM25 on the text layer, called `reads`; its statistics are taken from the pages that are searched."""

    def scorer(among: Test) -> Scorer:
        return bm25_scorer(among.queries, [texts[row] for row in among.rows])

    return Measured(
        name="BM25",
        reads=reads,
        held_out=judge(scorer(test), test),
        all_pages=judge(scorer(everything), everything),
    )


def systems(measured: Sequence[Measured], test: Test, everything: Test, resampling: Resampling) -> list[System]:
    """Rows of the table of retrievers, best first."""
    rows = [
        System(
            name=one.name,
            reads=one.reads,
            ndcg=resampling.interval(one.held_out.metrics[METRIC], test),
            all_pages=resampling.interval(one.all_pages.metrics[METRIC], everything) if one.all_pages else None,
            metrics={shown: one.held_out.mean(metric) for metric, shown in OTHERS.items()},
        )
        for one in measured
    ]
    return sorted(rows, key=lambda row: -row.ndcg.value)


def by_dimension(
    base: Embedded, finetuned: Embedded, test: Test, dims: Sequence[int], resampling: Resampling
) -> list[Contrast]:
    """Both models at every dimension, over the held-out documents."""
    return [
        resampling.contrast(
            _at(base, test, dim),
            _at(finetuned, test, dim),
            test,
            label=f"{dim} dimensions",
            dim=dim,
            metric=METRIC,
        )
        for dim in dims
    ]


def by_size(
    base: Embedded, finetuned: Embedded, test: Test, dims: Sequence[int], precisions: Sequence[Precision]
) -> list[SizePoint]:
    """Both models at every dimension and number format."""
    return [
        SizePoint(
            dim=dim,
            precision=precision,
            bytes_per_page=stored_bytes(dim, precision),
            base=_at(base, test, dim, precision).mean(METRIC),
            finetuned=_at(finetuned, test, dim, precision).mean(METRIC),
        )
        for precision in precisions
        for dim in dims
    ]


def _at(embedded: Embedded, test: Test, dim: int, precision: Precision = "float32") -> Judged:
    queries, pages = embedded
    return judge(cosine_scorer(queries, pages[list(test.rows)], dim=dim, precision=precision), test)


def improved(base: Judged, finetuned: Judged, count: int) -> list[int]:
    """Queries that gained most, best first."""
    gain = finetuned.metrics[METRIC] - base.metrics[METRIC]
    order = np.lexsort((finetuned.rank - base.rank, -gain))
    return [int(query) for query in order if gain[query] > 0][:count]


def worst(base: Judged, finetuned: Judged, count: int) -> list[int]:
    """Queries that the finetuned model answers worst, those that lost most first among equals."""
    gain = finetuned.metrics[METRIC] - base.metrics[METRIC]
    order = np.lexsort((-finetuned.rank, gain, finetuned.metrics[METRIC]))
    return [int(query) for query in order if finetuned.rank[query] > 1][:count]


def cases(
    chosen: Sequence[int], base: Judged, finetuned: Judged, test: Test, page: Callable[[int], Page]
) -> list[Case]:
    """What the report shows of some queries; `page` makes a page of the report from its row."""
    return [
        Case(
            query=test.queries[query],
            expected=page(int(finetuned.best[query])),
            base_rank=int(base.rank[query]),
            finetuned_rank=int(finetuned.rank[query]),
            base_score=float(base.metrics[METRIC][query]),
            finetuned_score=float(finetuned.metrics[METRIC][query]),
            base_first=page(int(base.first[query])),
            finetuned_first=page(int(finetuned.first[query])),
        )
        for query in chosen
    ]


def thumbnail(image: Image.Image) -> bytes:
    """A page as JPEG bytes, at most `THUMBNAIL` pixels wide."""
    scale = min(1.0, THUMBNAIL / image.width)
    small = image.convert("RGB").resize(
        (round(image.width * scale), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=70, optimize=True)
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where they are installed."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """The machine: system, cores, memory, and the GPU where there is one."""
    facts = {"system": f"{platform.system()} {platform.machine()}", "processor cores": str(runtime.cores())}
    facts["free memory"] = f"{runtime.available_memory() / 1e9:.0f} GB"
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name(0)
    return facts


def plain_numbers(contrast: Contrast) -> Mapping[str, Any]:
    """The headline as plain numbers, for a step's marker and for the last line of a run."""
    return {
        "base": contrast.base.value,
        "finetuned": contrast.finetuned.value,
        "low": contrast.difference.low,
        "high": contrast.difference.high,
        "p_value": contrast.p_value,
        "verdict": contrast.verdict,
    }
