"""Whose an image is: by DICOM where that says so, else by its name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from lib.store import splits
from lib.store.ledger import Ledger
from lib.store.schema import images

PATIENT_ID = images.c.info["PatientID"].as_string().label("patient_id")  # by DICOM, as it is noted about an image


def patient_of(case: str, pattern: str = "", patient_id: str | None = None) -> str:
    r"""Whose a case is.

    Args:
        case: its name.
        pattern: a regular expression that is searched in the name; its first group, else the whole match, names the
            patient. Empty, or not found in this name: every case is a patient of its own.
        patient_id: of DICOM, which comes before the pattern.

    Example:
        >>> patient_of("p007_arterial", r"^(p\d+)_")
        'p007'
    """
    if patient_id:
        return patient_id
    found = re.search(pattern, case) if pattern else None
    if found is None:
        return case
    return (found.group(1) if found.re.groups else found.group()) or case


@dataclass(frozen=True)
class Patients:
    """Tells which images are of one patient, without telling who that is.

    Args:
        pattern: `training.patient_pattern` of the settings.
        salt: of the ledger, see `lib.store.splits`.
    """

    pattern: str
    salt: str

    @classmethod
    def of(cls, ledger: Ledger, connection: Connection, pattern: str) -> "Patients":
        """Those of a ledger; needs a transaction."""
        return cls(pattern, splits.salt_of(ledger, connection))

    def key(self, image_id: str, patient_id: str | None) -> str:
        """What stands for the patient of an image; where nothing is known, for the image alone.

        Args:
            image_id: of the image.
            patient_id: of DICOM, if that is noted about the image.
        """
        return splits.key_of(patient_of(image_id, self.pattern, str(patient_id) if patient_id else None), self.salt)

    def keys(self, connection: Connection, image_ids: Sequence[str]) -> dict[str, str]:
        """`{image id: key}` of a few images that the ledger knows."""
        query = select(images.c.image_id, PATIENT_ID).where(images.c.image_id.in_(image_ids))
        return {row.image_id: self.key(row.image_id, row.patient_id) for row in connection.execute(query)}
