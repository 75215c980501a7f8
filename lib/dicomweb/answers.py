"""What a PACS answers in DICOM JSON (PS3.18 annex F), as plain values; and UIDs that are safe to use."""

import re
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from lib.dicomweb.faults import NoDicomwebError
from lib.errors import BadInputError

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64
_PATIENT_GROUP = "0010"

# Attributes to ask for, so that a PACS neither leaves them out nor sends all that it has.
SERIES_FIELDS = (
    "StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription", "SeriesNumber", "StudyDate",
    "StudyDescription", "PatientID", "NumberOfSeriesRelatedInstances",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A series as a PACS lists it. Its `repr` does not tell the patient.

    Args:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        modality: such as `CT`.
        instances: how many the PACS has now; None if it does not say.
        description: Series Description, often empty.
        study_date: `YYYYMMDD`, or empty.
        study_description: often empty.
        patient_id: or empty.
    """

    study_uid: str
    series_uid: str
    modality: str
    instances: int | None
    description: str
    study_date: str
    study_description: str
    patient_id: str = field(repr=False)


def is_uid(value: object) -> bool:
    """Whether a value is digits and single dots, at most 64, so that no path or URL can be led astray by it."""
    return isinstance(value, str) and len(value) <= _LONGEST_UID and _UID.fullmatch(value) is not None


def check_uids(*uids: str) -> None:
    """Refuse what is no UID.

    Raises:
        BadInputError: names the first that is none.
    """
    for uid in uids:
        if not is_uid(uid):
            msg = f"{str(uid)[:80]!r} is no DICOM UID; give at most 64 digits and dots, such as 1.2.840.10008.1"
            raise BadInputError(msg)


def value_of(item: dict[str, Any], keyword: str) -> Any:
    """The first value of an attribute, None if there is none.

    Raises:
        NoDicomwebError: the item is no DICOM JSON.
    """
    tag = tag_for_keyword(keyword)
    try:
        values = item.get(f"{tag:08X}", {}).get("Value") or [None]
        return values[0]
    except (AttributeError, TypeError, KeyError) as error:
        msg = "no DICOM JSON"
        raise NoDicomwebError(msg) from error


def text_of(item: dict[str, Any], keyword: str) -> str:
    """The first value of an attribute as text, empty if there is none."""
    value = value_of(item, keyword)
    return "" if value is None else str(value)


def uid_of(item: dict[str, Any], keyword: str) -> str | None:
    """A UID that must be there; None if it is none that could be used.

    Raises:
        NoDicomwebError: it is missing.
    """
    value = value_of(item, keyword)
    if value is None:
        msg = f"no {keyword}"
        raise NoDicomwebError(msg)
    return value if is_uid(value) else None


def series_of(item: dict[str, Any]) -> Series | None:
    """A listed series; None if its UIDs can't be used.

    Raises:
        NoDicomwebError: the item is no series.
    """
    study_uid, series_uid = uid_of(item, "StudyInstanceUID"), uid_of(item, "SeriesInstanceUID")
    if study_uid is None or series_uid is None:
        return None
    count = text_of(item, "NumberOfSeriesRelatedInstances")  # a number, but some PACS write it as text
    return Series(
        study_uid,
        series_uid,
        modality=text_of(item, "Modality"),
        instances=int(count) if count.isdecimal() else None,
        description=text_of(item, "SeriesDescription"),
        study_date=text_of(item, "StudyDate"),
        study_description=text_of(item, "StudyDescription"),
        patient_id=text_of(item, "PatientID"),
    )


def dataset_of(item: dict[str, Any]) -> Dataset:
    """Metadata without bulk data, and without anything about the patient, which nobody down here needs.

    Raises:
        NoDicomwebError: it is no DICOM JSON.
    """
    try:
        kept = {tag: element for tag, element in item.items() if not tag.startswith(_PATIENT_GROUP)}
        return Dataset.from_json(kept, bulk_data_uri_handler=lambda *_: None)
    except Exception as error:  # whatever pydicom stumbles on
        msg = "no DICOM JSON"
        raise NoDicomwebError(msg) from error
