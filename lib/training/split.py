"""Which cases are for validation: decided once for each patient, so that no case ever changes sides.

Nothing that was trained on may be used to compare models. The order in which patients come to a side is that of a
hash with a salt, so it follows neither from names nor from when a case was labelled.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

Side = Literal["training", "validation"]


def divide(
    patients: Iterable[str], fraction: float, salt: str = "", decided: Mapping[str, Side] | None = None
) -> dict[str, Side]:
    """The side of each patient.

    Those decided before keep theirs. Of the others, those whose hash lies below `fraction` go to validation, so that it
    gets that share in the long run. Where one side would be empty, the new patient nearest to the limit changes over; a
    single patient is trained on.

    Args:
        patients: all that have a labelled case now.
        fraction: the share of validation, in [0, 1). 0: nobody new goes to validation.
        salt: another one gives another division.
        decided: the sides so far, also of patients who are not among these.

    Returns:
        The side of every one of `patients`.
    """
    known = decided or {}
    everybody = set(patients)
    sides: dict[str, Side] = {patient: known[patient] for patient in everybody if patient in known}
    new = sorted((patient for patient in everybody if patient not in known), key=lambda one: position(one, salt))
    sides |= {patient: "validation" if position(patient, salt) < fraction else "training" for patient in new}
    if new and len(everybody) == 1:
        sides[new[0]] = "training"
    elif new and fraction > 0:
        if "validation" not in sides.values():
            sides[new[0]] = "validation"
        elif "training" not in sides.values():
            sides[new[-1]] = "training"
    return sides


def position(patient: str, salt: str) -> float:
    """A patient's fixed place in [0, 1)."""
    digest = hashlib.sha256(f"{salt}\n{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def left_out_in_turn(patients: Mapping[str, str], most: int) -> list[list[str]]:
    """Which cases each network of a cross-validation does not see: those of one patient, or of several where there are
    more patients than networks.

    Args:
        patients: whose each case is.
        most: how many networks at most.

    Returns:
        Names of cases, each exactly once; none where there are fewer than two patients, as nothing would be left.

    Example:
        >>> left_out_in_turn({"a1": "a", "a2": "a", "b": "b"}, 5)
        [['a1', 'a2'], ['b']]
    """
    everybody = sorted(set(patients.values()))
    if len(everybody) < 2:
        return []
    turn = {patient: number % most for number, patient in enumerate(everybody)}
    parts: list[list[str]] = [[] for _ in range(min(most, len(everybody)))]
    for case in sorted(patients):
        parts[turn[patients[case]]].append(case)
    return sorted(parts)
