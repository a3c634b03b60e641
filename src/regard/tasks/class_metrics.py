"""How good are classes, and how alike are two rankings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["measure_classes", "rank_correlation"]


def measure_classes(predicted: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Accuracy, and the mean over classes of F1, both from 0 to 1.

    F1 of a class is the harmonic mean of precision and recall, 2 right / (predicted + expected); the classes are those
    that occur, on either side.

    Example:
        >>> measure_classes(["a", "a", "b"], ["a", "b", "b"])
        {'accuracy': 0.6666666666666666, 'macro_f1': 0.6666666666666666}
    """
    if not expected:
        return {"accuracy": 0.0, "macro_f1": 0.0}
    pairs = list(zip(predicted, expected, strict=True))
    scores = []
    for label in sorted({*predicted, *expected}):
        right = sum(one == two == label for one, two in pairs)
        scores.append(
            2 * right / (sum(one == label for one, _ in pairs) + sum(two == label for _, two in pairs))
        )
    accuracy = sum(one == two for one, two in pairs) / len(pairs)
    return {"accuracy": accuracy, "macro_f1": sum(scores) / len(scores)}


def rank_correlation(one: Sequence[float], two: Sequence[float]) -> float:
    """Spearman's rank correlation, ties having their mean rank; 0 where one side is all alike.

    Example:
        >>> rank_correlation([1, 2, 3], [10, 20, 15])
        0.5
    """
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (one, two)]
    first, second = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return (ends - (count - 1) / 2)[place]
