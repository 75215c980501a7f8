"""What random choices are set by in `app.yaml`: probabilities, and ranges from a lower to an upper limit."""

from typing import Annotated

from pydantic import Field

Probability = Annotated[float, Field(ge=0, le=1)]


def in_order(limits: tuple[float, float]) -> tuple[float, float]:
    """The limits of a range.

    Raises:
        ValueError: the lower one is above the upper one; pydantic makes a validation error of it.
    """
    if limits[0] > limits[1]:
        msg = f"the lower limit {limits[0]} is above the upper limit {limits[1]}"
        raise ValueError(msg)
    return limits
