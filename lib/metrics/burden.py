"""Tumor burden: the part of the liver that is tumor, and how wrong a prediction has it over a set of cases."""

import math
from collections.abc import Sequence

# The LiTS scorer's stand-in for infinity, where a figure has no meaning.
LARGE = 9001.0


def tumor_burden(liver: int, tumor: int) -> float | None:
    """Tumor voxels over liver voxels, the tumor being part of the liver.

    Args:
        liver: voxels with label 1 or 2.
        tumor: voxels with label 2.

    Returns:
        Fraction of 0 to 1; None without a liver.
    """
    return tumor / liver if liver else None


def burden_difference(reference: float | None, prediction: float | None) -> float | None:
    """Reference minus prediction, positive when tumor was missed; None without a reference liver.

    A missing predicted liver counts as a burden of 9001, as in the LiTS scorer.
    """
    if reference is None:
        return None
    return reference - (LARGE if prediction is None else prediction)


def burden_errors(differences: Sequence[float | None]) -> dict[str, float | None]:
    """Errors over a set of cases under the challenge's names; None where no case has a reference liver.

    Returns:
        `RMSE_Tumorburden`, the root mean square; `MAXERROR_Tumorburden`, the largest of the *signed* differences, as
        the challenge has it; `MAXABSERROR_Tumorburden`, the largest absolute difference.
    """
    known = [difference for difference in differences if difference is not None]
    if not known:
        return dict.fromkeys(("RMSE_Tumorburden", "MAXERROR_Tumorburden", "MAXABSERROR_Tumorburden"))
    return {
        "RMSE_Tumorburden": math.sqrt(sum(difference**2 for difference in known) / len(known)),
        "MAXERROR_Tumorburden": max(known),
        "MAXABSERROR_Tumorburden": max(abs(difference) for difference in known),
    }
