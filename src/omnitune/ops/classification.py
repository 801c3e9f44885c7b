"""Metrics of a score that separates two classes, and of predicted labels, without loops over pairs.

Sorted by score, everything that a threshold decides is a prefix, so one cumulative sum knows the counts of every
threshold. Equal scores are never separated.
"""

import math

import torch
from torch import Tensor

from omnitune.errors import ShapeError
from omnitune.ops.metrics import expect_numbers, ranking_metrics


def binary_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Quality of telling positive from negative pairs by a score: at the best thresholds, and over all of them.

    Args:
        scores: `(pairs,)` float, higher is more likely positive.
        labels: 1 for positive pairs, 0 for negative ones `(pairs,)`.

    Returns:
        `accuracy` and its `accuracy_threshold`; `f1`, its `f1_threshold`, `precision` and `recall` there; `ap`, the
        average precision; `mcc`, Matthews correlation at `f1_threshold`. A pair is predicted positive if its score is
        at least the threshold.

    Raises:
        ShapeError: `labels` does not hold one number per score, or there are none.
        InputError: A score is no number.

    Source:
        Agrees with `BinaryClassificationEvaluator` of Sentence Transformers 6.2.0.
    """
    if labels.shape != scores.shape or not scores.numel():
        raise ShapeError(
            f"labels: expected one for each of at least one score, got {tuple(labels.shape)} for {tuple(scores.shape)}"
        )
    expect_numbers(scores, "scores")
    positive = labels == 1
    accuracy, accuracy_threshold = best_accuracy(scores, positive)
    f1, precision, recall, f1_threshold = best_f1(scores, positive)
    return {
        "accuracy": accuracy,
        "accuracy_threshold": accuracy_threshold,
        "f1": f1,
        "f1_threshold": f1_threshold,
        "precision": precision,
        "recall": recall,
        "ap": float(ranking_metrics(scores, positive, torch.tensor([len(scores)]), len(scores))["map"]),
        "mcc": matthews_correlation(scores >= f1_threshold, positive),
    }


def best_accuracy(scores: Tensor, positive: Tensor) -> tuple[float, float]:
    """The highest accuracy that a threshold reaches, and the highest such threshold.

    Args:
        scores: `(pairs,)` float, higher is more likely positive; at least one.
        positive: `(pairs,)` bool.
    """
    cuts, found, taken = _cuts(scores, positive)
    negatives = len(scores) - int(found[-1])
    right = torch.cat([torch.tensor([negatives]), negatives + 2 * found - taken])
    best = int(right.argmax())
    none = torch.nextafter(cuts[0], torch.tensor(torch.inf, dtype=cuts.dtype))
    return int(right[best]) / len(scores), float(none if best == 0 else _threshold(cuts, best - 1))


def best_f1(scores: Tensor, positive: Tensor, known: int | None = None) -> tuple[float, float, float, float]:
    """The highest F1 that a threshold reaches, precision and recall there, and the highest such threshold.

    Args:
        scores: `(pairs,)` float, higher is more likely positive; at least one.
        positive: `(pairs,)` bool. Without any, all four numbers are 0.
        known: Positive pairs that there are, also beside these; by default these are all.
    """
    cuts, found, taken = _cuts(scores, positive)
    if not int(found[-1]):
        return 0.0, 0.0, 0.0, 0.0
    precision, recall = found.double() / taken, found.double() / (known or int(found[-1]))
    f1 = (2 * precision * recall / (precision + recall)).nan_to_num(0.0)
    best = int(f1.argmax())
    return float(f1[best]), float(precision[best]), float(recall[best]), _threshold(cuts, best)


def matthews_correlation(predicted: Tensor, positive: Tensor) -> float:
    """Correlation of two binary labellings `(pairs,)` bool, in [-1, 1]; 0 where one of them is constant."""
    both, all_predicted, all_positive = (int(t.sum()) for t in (predicted & positive, predicted, positive))
    pairs = len(positive)
    spread = all_predicted * (pairs - all_predicted) * all_positive * (pairs - all_positive)
    return (both * pairs - all_predicted * all_positive) / math.sqrt(spread) if spread else 0.0


def class_f1(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """F1 over classes: `macro`, their mean; `micro`, over all rows at once; `weighted` by their true rows.

    Args:
        predicted: Class of each row `(rows,)`, int64, at least 0.
        labels: True class of each row `(rows,)`, int64, at least 0. Classes that occur in neither do not count.
    """
    classes = int(torch.maximum(predicted.max(), labels.max())) + 1
    hits, guesses, truths = (
        torch.bincount(rows, minlength=classes).double() for rows in (labels[predicted == labels], predicted, labels)
    )
    occurs = guesses + truths > 0
    f1 = 2 * hits[occurs] / (guesses + truths)[occurs]
    weights = truths[occurs] / len(labels)
    return {"macro": float(f1.mean()), "micro": float(hits.sum()) / len(labels), "weighted": float(f1 @ weights)}


def _cuts(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores from the highest down, and of the pairs that have at least that: positive ones, all."""
    falling = scores.sort(descending=True)
    last = torch.cat([falling.values[1:] != falling.values[:-1], torch.tensor([True])]).nonzero().squeeze(1)
    return falling.values[last], positive[falling.indices].cumsum(0)[last], last + 1


def _threshold(cuts: Tensor, index: int) -> float:
    """Half way to the next score, or the score itself if there is no number between the two."""
    if index + 1 == len(cuts):
        return float(cuts[index])
    middle = (cuts[index] + cuts[index + 1]) / 2
    return float(cuts[index] if middle == cuts[index + 1] else middle)
