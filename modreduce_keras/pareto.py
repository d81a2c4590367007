"""Pareto: which of several points no other one beats."""

from collections.abc import Sequence


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Returns the indices of the points than which no other is better in one value and no worse.

    Args:
        points: Each as many values, of which less is better. Of equal points, all are returned.
    """

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [
        index for index, one in enumerate(points) if not any(beats(other, one) for other in points)
    ]
