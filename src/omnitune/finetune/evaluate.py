"""One model on the held-out queries of a prepared dataset, at every useful dimension."""

import logging
import tempfile
from pathlib import Path
from typing import Any

from omnitune.documents.dataset import load
from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.finetune import findings
from omnitune.finetune.choose import Choice, load_model, loading
from omnitune.finetune.encoded import Say, announce, encode_test, load_test
from omnitune.finetune.fit import default_dims, measured_dims, width_of
from omnitune.finetune.measure import Resampling, Test, cosine_scorer, judge
from omnitune.finetune.results import tests_of
from omnitune.io import writable_folder, write_json
from omnitune.model.dense import SentenceTransformer
from omnitune.ops.significance import paired_bootstrap

logger = logging.getLogger(__name__)


def evaluate_model(
    model: str, dataset: str | Path, out: str | Path, *, batch_size: int = 32, say: Say = logger.info
) -> dict[str, Any]:
    """Measure a model and write the results as JSON.

    Args:
        model: A directory, a repository or `"embedded"`.
        dataset: Folder that `prepare` made.
        out: The JSON file.
        batch_size: Items encoded at once.
        say: Told what it will cost.

    Returns:
        What the file holds: `{"model", "dataset", "queries", "results": [{"dim", "searched", "pages", "metrics",
        "interval"}]}`, the interval being that of NDCG@10.
    """
    opened = load(dataset)
    writable_folder(Path(out).parent)
    test, everything = tests_of(opened)
    encoder = load_model({"model_name_or_path": model}, opened.kind)
    announce(
        f"Encoding {len(opened.pages):,} {opened.kind.words.page}s",
        opened.pages,
        lambda few: encoder.encode_document(few, batch_size=batch_size, show_progress_bar=False),
        say,
    )
    with tempfile.TemporaryDirectory() as folder:
        encode_test(encoder, test.queries, opened.pages, Path(folder), batch_size=batch_size, label="Encoding")
        embedded = load_test(Path(folder))
    results = [
        _measured(embedded, among, dim, searched)
        for searched, among in (("of held-out documents", test), ("in all", everything))
        for dim in default_dims(embedded[1].shape[1])
    ]
    found = {"model": model, "dataset": str(dataset), "queries": len(test.queries), "results": results}
    write_json(out, found)
    return found


def compare_on(evaluator: InformationRetrievalEvaluator, chosen: Choice, finetuned: Path) -> dict[str, Any]:
    """Base against finetuned model on an evaluator's queries, at every dimension that was trained.

    Returns:
        `{"metric", "queries", "pages", "dimensions": [{"dim", "base", "finetuned", "low", "high", "p_value"}]}`.
    """
    settings = chosen.recipe.evaluation
    base = chosen.load()
    dims = measured_dims(width_of(base), chosen.recipe)
    before = evaluator.rank_dims(base, dims)
    after = evaluator.rank_dims(SentenceTransformer(str(finetuned), **loading(chosen.recipe)), dims)
    rows = []
    for dim in dims:
        found = paired_bootstrap(
            before[dim].per_query[findings.METRIC],
            after[dim].per_query[findings.METRIC],
            resamples=settings.resamples,
            confidence=settings.confidence,
            seed=settings.seed,
        )
        rows.append(
            {
                "dim": dim,
                "base": found.baseline,
                "finetuned": found.candidate,
                "low": found.low,
                "high": found.high,
                "p_value": found.p_value,
            }
        )
    return {
        "metric": findings.METRIC_SHOWN,
        "queries": len(evaluator.queries),
        "pages": len(evaluator.corpus_ids),
        "confidence": settings.confidence,
        "dimensions": rows,
    }


def _measured(embedded: findings.Embedded, test: Test, dim: int, searched: str) -> dict[str, Any]:
    queries, pages = embedded
    judged = judge(cosine_scorer(queries, pages[list(test.rows)], dim=dim), test)
    interval = Resampling().interval(judged.metrics[findings.METRIC], test)
    shown = {findings.METRIC: findings.METRIC_SHOWN, **findings.OTHERS}
    return {
        "dim": dim,
        "searched": searched,
        "pages": len(test.rows),
        "metrics": {name: judged.mean(metric) for metric, name in shown.items()},
        "interval": [interval.low, interval.high],
    }
