import pytest
import torch

from omnitune.errors import ShapeError
from omnitune.ops.classification import best_accuracy, best_f1, binary_metrics, class_f1, matthews_correlation


def test_binary_metrics_by_hand():
    scores = torch.tensor([0.9, 0.8, 0.6, 0.6, 0.2])
    metrics = binary_metrics(scores, torch.tensor([1, 0, 1, 0, 0]))
    # Above 0.85 four of five are right; three more pairs for the second positive make F1 2 * (1/2) / (3/2) = 2/3.
    assert metrics["accuracy"] == 0.8
    assert metrics["accuracy_threshold"] == pytest.approx(0.85)
    assert (metrics["f1"], metrics["precision"], metrics["recall"]) == pytest.approx((2 / 3, 1, 0.5))
    assert metrics["f1_threshold"] == pytest.approx(0.85)
    assert metrics["ap"] == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    assert metrics["mcc"] == pytest.approx((1 * 3 - 0 * 1) / (1 * 2 * 3 * 4) ** 0.5)


def test_all_negative_is_a_prediction_too():
    accuracy, threshold = best_accuracy(torch.tensor([3.0, 1.0]), torch.tensor([False, False]))
    assert accuracy == 1.0
    assert 3.0 < threshold < 3.001
    assert best_f1(torch.tensor([3.0, 1.0]), torch.tensor([False, False])) == (0.0, 0.0, 0.0, 0.0)


def test_a_threshold_between_neighbouring_numbers_separates_them():
    low = torch.tensor(1.0)
    high = torch.nextafter(low, torch.tensor(2.0))
    _, threshold = best_accuracy(torch.stack([low, high]), torch.tensor([False, True]))
    assert threshold == float(high)


def test_correlation_of_a_constant_is_0():
    assert matthews_correlation(torch.tensor([True, True]), torch.tensor([True, False])) == 0.0
    assert matthews_correlation(torch.tensor([True, False]), torch.tensor([False, True])) == -1.0


def test_labels_must_be_as_many_as_scores():
    with pytest.raises(ShapeError, match=r"expected one for each of at least one score, got \(2,\) for \(3,\)"):
        binary_metrics(torch.rand(3), torch.tensor([0, 1]))


@pytest.mark.parity
@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("seed", range(8))
def test_numbers_equal_those_of_sentence_transformers(seed: int, decimals: int):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator as Theirs
    from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef

    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(40, generator=generator) < 0.4).long()
    scores = (torch.rand(40, generator=generator) * 0.7 + labels * 0.3).round(decimals=decimals)
    found = binary_metrics(scores, labels)
    accuracy, accuracy_threshold = Theirs.find_best_acc_and_threshold(scores.numpy(), labels.numpy(), True)
    f1, precision, recall, threshold = Theirs.find_best_f1_and_threshold(scores.numpy(), labels.numpy(), True)
    exact = (found[key] for key in ("accuracy", "accuracy_threshold", "f1", "precision", "recall", "f1_threshold"))
    assert [*exact] == [accuracy, accuracy_threshold, f1, precision, recall, threshold]
    assert found["ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found["mcc"] == pytest.approx(matthews_corrcoef(labels, scores >= threshold), abs=1e-12)

    classes, guesses = (torch.randint(0, 4, (30,), generator=generator) for _ in range(2))
    for average, value in class_f1(guesses, classes).items():
        assert value == pytest.approx(f1_score(classes, guesses, average=average, zero_division=0), abs=1e-12)
