"""What a series of a PACS holds now, asked for no more often and no more patiently than needed."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lib.dicomweb.answers import Series
from lib.dicomweb.client import Pacs
from lib.errors import NotFoundError, UnavailableError

_FRESH_S = 2.0  # for so long after it was asked for, a series is taken for unchanged
_LISTED_S = 60.0  # and for so long after its objects were listed, while their number is the same: a list takes a second
_DOWN_S = 10.0  # for so long after it could not be reached, the PACS is not asked again
_BRIEF_S = 5.0  # to see whether a PACS that failed answers at all
_MOST = 1000  # series whose last answer is kept in memory


@dataclass(frozen=True)
class Objects:
    """The objects of a series: their SOP Instance UIDs, and a key that other objects would not have."""

    key: str
    sop_uids: tuple[str, ...]


@dataclass(frozen=True)
class _Answer:
    """What the PACS said of a series, at which times by the monotonic clock."""

    key: str
    count: int
    listed_at: float
    at: float


class PacsAsking:
    """Questions to a PACS about single series; may be used by several threads at once.

    Every method raises `UnavailableError` where the PACS can't be reached, or could not a moment ago.

    Args:
        pacs: which is asked.
        poll_s: between two looks for new studies; it is not left alone for longer after it could not be reached.
    """

    def __init__(self, pacs: Pacs, poll_s: float = _DOWN_S) -> None:
        self._pacs = pacs
        self._down_s = min(_DOWN_S, poll_s)
        self._impatient = Pacs(replace(pacs.settings, retries=0))
        brief_s = min(_BRIEF_S, pacs.settings.read_timeout_s)
        self._brief = Pacs(replace(self._impatient.settings, read_timeout_s=brief_s))
        self._answers: dict[str, _Answer] = {}
        self._down: tuple[float, UnavailableError] | None = None
        self._lock = threading.Lock()

    @property
    def was_down(self) -> bool:
        """Whether it could not be reached the last time."""
        return self._down is not None

    def can_be_asked(self) -> bool:
        """Whether the PACS answers and lets us in now, asked anew unless it could not be reached a moment ago."""
        if self._is_quiet():
            return False
        try:
            self._brief.check()
        except UnavailableError as error:
            self._down = (time.monotonic(), error)
            return False
        except NotFoundError:  # another service has taken its place
            return False
        return True

    def find(self, series_uid: str) -> Series | None:
        """A series of any study, None if there is none."""
        with self._asking():
            return self._pacs.find(series_uid)

    def objects(self, study_uid: str, series_uid: str, *, patient: bool = True) -> Objects:
        """The objects that a series has now.

        Args:
            study_uid: its study.
            series_uid: the series.
            patient: try several times before it counts as out of reach.

        Raises:
            NotFoundError: it is not there.
        """
        with self._asking():
            sop_uids = (self._pacs if patient else self._impatient).instances(study_uid, series_uid)
        return Objects(hashlib.sha256("\n".join(sop_uids).encode()).hexdigest()[:32], tuple(sop_uids))

    def seem_unchanged(self, study_uid: str, series_uid: str, key: str) -> bool:
        """Whether a series has as many objects as when they were listed a short time ago, with this key.

        Raises:
            NotFoundError: it is not there any more.
        """
        with self._lock:
            answer = self._answers.get(series_uid)
        now = time.monotonic()
        if answer is None or answer.key != key or now - answer.listed_at >= _LISTED_S:
            return False
        if now - answer.at < _FRESH_S:
            return True
        with self._asking():
            found = self._impatient.series(study_uid, series_uid)
        if found is None:
            msg = f"the PACS has no series {series_uid}"
            raise NotFoundError(msg)
        if found.instances != answer.count:
            return False
        self._keep(series_uid, replace(answer, at=now))
        return True

    def note(self, series_uid: str, found: Objects) -> None:
        """Take a series for unchanged from now on, as it was just looked at."""
        now = time.monotonic()
        self._keep(series_uid, _Answer(found.key, len(found.sop_uids), now, now))

    def _keep(self, series_uid: str, answer: _Answer) -> None:
        with self._lock:
            if len(self._answers) >= _MOST:
                self._answers.clear()
            self._answers[series_uid] = answer

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Nobody waits again and again for a PACS that did not answer a moment ago."""
        down = self._down
        if down is not None and self._is_quiet():
            raise UnavailableError(str(down[1]))
        try:
            yield
        except UnavailableError as error:
            if not self.can_be_asked():  # or it is about this series alone
                self._down = (time.monotonic(), error)
            raise
        self._down = None

    def _is_quiet(self) -> bool:
        return self._down is not None and time.monotonic() - self._down[0] < self._down_s
