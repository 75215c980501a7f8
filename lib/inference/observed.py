"""An observer whose errors cost its case the scores, and nobody a segmentation."""

import logging

import numpy as np
from numpy.typing import NDArray

from lib.errors import LiverLoopError
from lib.inference.model import Model
from lib.inference.observer import Observer, Seen, Watch
from lib.inference.queue import GiveWay
from lib.volume import Volume

logger = logging.getLogger(__name__)


class Observed:
    """Passes on to an observer until that fails, which is told in the log, once.

    Args:
        observer: of the case.
        path: of the case.
    """

    def __init__(self, observer: Observer, path: str) -> None:
        self._observer: Observer | None = observer
        self._path = path

    def saw(self, first: int, rows: slice, columns: slice, seen: Seen) -> None:
        """See `Observer`."""
        try:
            if self._observer:
                self._observer.saw(first, rows, columns, seen)
        except Exception as error:  # of whatever kind: the segmentation goes on
            self.fail(error)

    def begin_again(self) -> None:
        """See `Observer`."""
        try:
            if self._observer:
                self._observer.begin_again()
        except Exception as error:
            self.fail(error)

    def finished(self, cleaned: NDArray[np.uint8], lesions: int, give_way: GiveWay) -> None:
        """See `Observer`; raises only what `give_way` raises."""
        try:
            if self._observer:
                self._observer.finished(cleaned, lesions, give_way)
        except Exception as error:
            give_way()  # where the work is to end this raises, and nothing has failed
            self.fail(error)
        self._observer = None

    def fail(self, error: Exception) -> None:
        """Watch no longer."""
        self._observer = None
        warn(self._path, error)


def watched(watch: Watch | None, path: str, image: Volume, model: Model) -> Observed | None:
    """An observer for a case that is read, if it is to be watched."""
    try:
        observer = watch(path, image, model) if watch else None
    except Exception as error:  # of whatever kind: the segmentation goes on
        warn(path, error)
        return None
    return None if observer is None else Observed(observer, path)


def warn(path: str, error: Exception) -> None:
    """Tell that a case has no scores, and why."""
    known = isinstance(error, LiverLoopError)
    logger.warning("%s: segmented, but not scored: %s", path, error, exc_info=None if known else error)
