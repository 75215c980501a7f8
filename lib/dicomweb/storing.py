"""What goes to a PACS to be stored, and what it says to that (PS3.18 10.5, PS3.4 annex CC.2.3)."""

from io import BytesIO

import pydicom
import requests
from pydicom import Dataset

from lib.dicomweb.answers import check_uids
from lib.errors import BadInputError, LiverLoopError, UnavailableError

_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# Failure reasons; those of which only the first digits count come last.
_REASONS = {
    0x0110: "it could not process the object",
    0x0111: "it holds another object with this UID",
    0x0117: "the object's UID is invalid",
    0x0122: "it does not take objects of this kind (SOP class)",
    0x0124: "the user has no right to store",
    0xC122: "it does not take this transfer syntax",
}
_REASON_RANGES = (
    (0xA700, 0xA7FF, "it has no room or is too busy"),
    (0xA900, 0xA9FF, "the object lacks what its kind (SOP class) needs"),
    (0xC000, 0xCFFF, "it can't understand the object"),
)
_MAY_PASS = (0x0110, *range(0xA700, 0xA800))


def as_file(dataset: Dataset) -> Dataset:
    """The dataset as a DICOM Part 10 file would give it back, with preamble and complete file meta information.

    Raises:
        BadInputError: it can't be written as one.
    """
    missing = [name for name in _NEEDED if not dataset.get(name)]
    if missing or not hasattr(dataset, "file_meta"):
        msg = f"the object can't be stored: it lacks {', '.join(missing) or 'its file meta information'}"
        raise BadInputError(msg)
    check_uids(*(str(dataset[name].value) for name in _NEEDED))
    buffer = BytesIO()
    try:
        pydicom.dcmwrite(buffer, dataset, write_like_original=False)
    except (ValueError, AttributeError, TypeError, NotImplementedError) as error:
        msg = f"object {dataset.SOPInstanceUID} can't be stored: it can't be written as a DICOM file"
        raise BadInputError(msg) from error
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def answer_of(response: requests.Response) -> Dataset | None:
    """What a PACS says to a refused object; None if its answer is none to a store request."""
    try:
        answer = Dataset.from_json(response.json())
    except Exception:  # whatever the body is
        return None
    return answer if answer.get("FailedSOPSequence") else None


def check_answer(answer: Dataset, sop_uid: str, name: str) -> bool:
    """Whether the PACS says that it stored an object; False if it says neither that nor the contrary.

    Args:
        answer: its answer.
        sop_uid: of the object.
        name: how messages call the PACS.

    Raises:
        BadInputError: it refused the object.
        UnavailableError: it could not store it now.
    """
    for item in answer.get("FailedSOPSequence") or ():
        if item.get("ReferencedSOPInstanceUID") in (sop_uid, None):
            raise _refusal(int(item.get("FailureReason") or 0), sop_uid, name)
    return any(item.get("ReferencedSOPInstanceUID") == sop_uid for item in answer.get("ReferencedSOPSequence") or ())


def _refusal(code: int, sop_uid: str, name: str) -> LiverLoopError:
    ranges = (text for first, last, text in _REASON_RANGES if first <= code <= last)
    reason = _REASONS.get(code) or next(ranges, "it gives no known reason")
    msg = f"the PACS at {name} did not store object {sop_uid}: {reason} (failure reason {code:04X}); look into its log"
    return (UnavailableError if code in _MAY_PASS else BadInputError)(msg)
