import numpy as np
import pytest

from omnitune.errors import InputError, ShapeError
from omnitune.ops.significance import paired_bootstrap


def test_identical_systems_differ_by_nothing():
    scores = np.random.default_rng(0).random(50)
    same = paired_bootstrap(scores, scores)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert not same.measurable


def test_a_difference_on_every_query_is_measurable():
    baseline = np.random.default_rng(0).random(80)
    better = paired_bootstrap(baseline, baseline + 0.1, resamples=999)
    assert better.difference == pytest.approx(0.1)
    assert better.candidate - better.baseline == pytest.approx(0.1)
    assert better.measurable
    assert better.low == pytest.approx(0.1) and better.high == pytest.approx(0.1)
    assert better.p_value == pytest.approx(2 / 1000)
    worse = paired_bootstrap(baseline + 0.1, baseline, resamples=999)
    assert worse.measurable and worse.high < 0


def test_the_same_seed_gives_the_same_numbers():
    baseline, candidate = np.random.default_rng(1).random((2, 60))
    assert paired_bootstrap(baseline, candidate) == paired_bootstrap(baseline, candidate)
    assert paired_bootstrap(baseline, candidate) != paired_bootstrap(baseline, candidate, seed=1)


def test_two_queries_by_enumeration():
    # Differences 0 and 1: resampled means are 0, 0.5, 0.5, 1 with equal chances.
    result = paired_bootstrap([0, 0], [0, 1], resamples=20_000)
    assert result.difference == 0.5
    assert (result.low, result.high) == (0.0, 1.0)
    assert result.p_value == pytest.approx(2 * 0.25, abs=0.02)


def test_p_value_and_interval_agree():
    random = np.random.default_rng(5)
    for shift in (0.0, 0.02, 0.04, 0.06, 0.08, 0.1):
        baseline = random.random(60)
        candidate = baseline + random.normal(shift, 0.2, 60)
        result = paired_bootstrap(baseline, candidate)
        assert 0 < result.p_value <= 1
        if abs(result.p_value - 0.05) > 0.001:
            assert result.measurable == (result.p_value < 0.05)


def test_interval_covers_the_true_difference_at_its_rate():
    random = np.random.default_rng(2)
    covered = 0
    for seed in range(300):
        differences = random.normal(0.03, 0.2, 60)
        result = paired_bootstrap(np.zeros(60), differences, resamples=500, seed=seed)
        covered += result.low <= 0.03 <= result.high
    assert 0.90 <= covered / 300 <= 0.98


def clustered(random: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    documents = np.repeat(np.arange(20), 10)
    return random.normal(0, 0.2, 20)[documents] + random.normal(0, 0.05, 200), documents.tolist()


def test_interval_needs_clusters_where_queries_of_a_document_go_together():
    random = np.random.default_rng(3)
    covered = {"queries": 0, "documents": 0}
    for seed in range(200):
        differences, documents = clustered(random)
        plain = paired_bootstrap(np.zeros(200), differences, resamples=400, seed=seed)
        whole = paired_bootstrap(np.zeros(200), differences, clusters=documents, resamples=400, seed=seed)
        covered["queries"] += plain.low <= 0 <= plain.high
        covered["documents"] += whole.low <= 0 <= whole.high
    assert covered["queries"] / 200 < 0.6
    assert covered["documents"] / 200 > 0.85
    assert whole.clusters == 20 and plain.clusters == 200


def test_clusters_of_one_query_are_queries():
    baseline, candidate = np.random.default_rng(4).random((2, 40))
    one_each = paired_bootstrap(baseline, candidate, clusters=[f"d{i}" for i in range(40)])
    assert one_each == paired_bootstrap(baseline, candidate)


def test_wrong_arguments():
    with pytest.raises(ShapeError, match=r"candidate: expected one score per query as in baseline \(2,\), got \(3,\)"):
        paired_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(ShapeError, match="clusters: expected one document for each of 2 queries, got 1"):
        paired_bootstrap([1, 2], [1, 2], clusters=["a"])
    with pytest.raises(InputError, match="baseline: expected the score of at least one query"):
        paired_bootstrap([], [])
    with pytest.raises(InputError, match="resamples: expected at least 1, got 0"):
        paired_bootstrap([1], [1], resamples=0)
    with pytest.raises(InputError, match="confidence: expected a share between 0 and 1, got 95"):
        paired_bootstrap([1], [1], confidence=95)
