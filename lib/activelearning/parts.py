"""Strategies of several parts, which take turns."""

from collections.abc import Iterable, Mapping


def next_part(shares: Mapping[str, float], picked: Mapping[str, int]) -> str:
    """The part that is furthest behind its share of the choices.

    Args:
        shares: of all choices, by part, 1 in all; of equal ones the first.
        picked: how many choices each part made; other parts don't count.
    """
    total = 1 + sum(picked.get(part, 0) for part in shares)
    return max(shares, key=lambda part: shares[part] * total - picked.get(part, 0))


def class_shares(classes: Iterable[str]) -> dict[str, float]:
    """The parts of ClaSP PE: two thirds evenly over the foreground classes, one third plain entropy."""
    names = sorted(classes)
    shares = {class_part(name): 2 / 3 / len(names) for name in names}
    return {**shares, "entropy": 1 / 3 if names else 1.0}


def class_part(name: str) -> str:
    """The part of a class, as rankings are named."""
    return f"class:{name}"
