"""The table of choices: what each stored form finds, takes and costs."""

import numpy as np
import pytest

from omnitune.finetune import choices
from omnitune.finetune.choices import measure_choices
from omnitune.finetune.measure import TestSet, cosine_search, score_search
from omnitune.finetune.recipe import Evaluation


@pytest.fixture(scope="module")
def embedded() -> tuple[np.ndarray, np.ndarray]:
    """Sixty pages, and a query near each of the first thirty."""
    random = np.random.default_rng(0)
    pages = random.standard_normal((60, 32)).astype(np.float32)
    return pages[:30] + 0.9 * random.standard_normal((30, 32)).astype(np.float32), pages


@pytest.fixture(scope="module")
def test_set() -> TestSet:
    queries = [str(n) for n in range(30)]
    return TestSet(queries=queries, relevant=[[n] for n in range(30)], rows=list(range(60)), clusters=list(range(30)))


def test_every_choice_is_measured(embedded, test_set) -> None:
    pytest.importorskip("usearch", reason="the extra `usearch` is not installed")
    found = measure_choices(embedded, test_set, [32, 8], ["float32", "int8", "binary"], Evaluation(resamples=200))
    by_name = {(one.dim, one.precision, one.index): one for one in found}
    assert len(found) == 2 * (2 + 2 + 1)  # exact and a graph, and of bits exact alone
    expected = score_search(cosine_search(embedded, test_set.rows), test_set).mean("ndcg@10")
    whole = by_name[32, "float32", "exact"]
    assert whole.ndcg.value == pytest.approx(expected)
    assert whole.ndcg.low < whole.ndcg.value < whole.ndcg.high
    assert by_name[32, "float32", "HNSW"].ndcg.value == pytest.approx(expected, abs=0.02)
    assert by_name[8, "binary", "exact"].ndcg.value < whole.ndcg.value
    assert [by_name[32, name, "exact"].bytes_per_page for name in ("float32", "int8", "binary")] == [128, 32, 4]
    assert by_name[32, "float32", "HNSW"].bytes_per_page > 128
    assert all(0 < one.p50_ms <= one.p95_ms for one in found)


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_what_is_timed_finds_what_is_scored(embedded, test_set, precision) -> None:
    queries, pages = (choices.unit(side) for side in embedded)
    answer = choices._exact(pages, precision)
    scored = cosine_search(embedded, test_set.rows, precision=precision)(slice(0, 30)).rows[:, :10].tolist()
    shared = [len(set(answer(query).tolist()) & set(rows)) / 10 for query, rows in zip(queries, scored, strict=True)]
    assert np.mean(shared) > 0.99
    assert sum(answer(query)[0] == rows[0] for query, rows in zip(queries, scored, strict=True)) >= 29
