"""The server scores images that wait for a label while nobody needs it, and then labelled ones of which no model has
told anything.

A thread takes one image after the other, of the first few of those that no model has scored yet, or whose scores are
the oldest, one at random, so that several servers on one ledger seldom take the same. It has the segmenter that serves
the annotators look at it, where it stops between slices as soon as somebody waits. Scores are in the ledger after each
image, so that nothing is lost when the server is stopped.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from lib.activelearning.score_keeper import ScoreKeeper
from lib.case_scores import NO_MODEL
from lib.errors import LiverLoopError, ModelError
from lib.inference.device import choose_device
from lib.inference.model import ModelSource
from lib.store import scores, trainings
from lib.store.ledger import Ledger
from lib.store.scores import Counts

logger = logging.getLogger(__name__)

_LOOK_S = 5.0  # after everything is scored, or with something in the way: new images and models come unannounced
_GIVE_WAY_S = 0.5  # while the server has other things to do, or after an image that can't be scored
_FIRST = 8  # images that wait, of which one is taken
_COUNTED_S = 10.0  # for `/info` and `/metrics`, which are asked for every few seconds


class IdleScoring:
    """Scores in the background, and tells how things stand.

    Args:
        keeper: of the store, of which only images that are at hand are scored; None: there is no ledger.
        ledger: of the store.
        source: the model in force.
        segment: segments a file in the background, watched by the keeper's watch.
        is_idle: whether the server has nothing else to do now.
        enabled: `active_learning.score_when_idle`.
        counted_s: how old the counts may be.
    """

    def __init__(
        self,
        keeper: ScoreKeeper | None,
        ledger: Ledger | None,
        source: ModelSource,
        *,
        segment: Callable[[str], object],
        is_idle: Callable[[], bool],
        enabled: bool,
        counted_s: float = _COUNTED_S,
    ) -> None:
        self._keeper, self._ledger, self._source = keeper, ledger, source
        self._segment, self._is_idle = segment, is_idle
        self.enabled = enabled and keeper is not None and ledger is not None
        self._over = threading.Event()
        self._state = "has not begun"
        self._obstacle: str | None = None
        self._lock = threading.Lock()
        self._counted_s = counted_s
        self._counted: tuple[float, str | None, Counts] | None = None

    def begin(self) -> None:
        """Score from now on, in a thread that ends with the process."""
        if self.enabled:
            threading.Thread(target=self._work, name="score-when-idle", daemon=True).start()

    def end(self) -> None:
        """Begin with no further image: the server is being stopped. What is at work ends with the segmenter."""
        self._over.set()

    def look(self) -> float:
        """`step`; what is in the way is logged and told by `info`."""
        try:
            pause = self.step()
        except Exception as error:
            self._hold_up(error)
            return _LOOK_S
        self._obstacle = None
        return pause

    def step(self) -> float:
        """Score the next image if there is one and the server has nothing else to do.

        Returns:
            After how many seconds to look again.

        Raises:
            LiverLoopError: the model can't be used, or disk or ledger refused.
        """
        keeper, ledger = self._keeper, self._ledger
        if keeper is None or ledger is None:
            return _LOOK_S
        if not self._is_idle():
            self._state = "gives way to other work"
            return _GIVE_WAY_S
        with ledger.reading() as connection:
            training = trainings.running(connection, time.time())  # also another server's, which may share the machine
        if training:
            self._state = "waits for the end of a training"
            return _LOOK_S
        version = self._version()
        found = keeper.waiting(version, limit=_FIRST, at_hand=True)
        found = found or keeper.never_seen(version, limit=_FIRST, at_hand=True)
        if not found:
            self._state = "every image that is at hand is scored"
            return _LOOK_S
        if version != NO_MODEL:
            self._source.get(choose_device())
            self._source.wait()  # its engines are timed in the background, where this would disturb
        self._state = "scoring" if version != NO_MODEL else "describes images, as there is no model"
        image_id, segment = random.choice(found), keeper.describe if version == NO_MODEL else self._segment
        problem = keeper.score(image_id, keeper.path(image_id), version, segment)
        return 0.0 if problem is None else _GIVE_WAY_S

    def info(self) -> dict[str, Any]:
        """How things stand, as JSON: `state` in words and, by the model that scored them last, how many images there
        are to be labelled.

        Raises:
            StorageError: the ledger can't be read.
        """
        state = f"can't go on: {self._obstacle}" if self._obstacle else self._state
        told: dict[str, Any] = {"when_idle": self.enabled, "state": state if self.enabled else "off"}
        counts = self.counts()
        if counts is not None:
            told |= {"current": counts.current, "earlier": counts.earlier, "waiting": counts.earlier + counts.none}
        return told

    def counts(self) -> Counts | None:
        """How many images to be labelled are scored, as it was at most some seconds ago; None without a ledger.

        Raises:
            StorageError: the ledger can't be read.
        """
        if self._ledger is None:
            return None
        try:
            version = self._version()
        except ModelError:
            version = None
        with self._lock:
            known = self._counted
            if known is None or known[1] != version or time.monotonic() - known[0] > self._counted_s:
                with self._ledger.reading() as connection:
                    found = scores.counts(connection, version)
                known = self._counted = (time.monotonic(), version, found)
        return known[2]

    def _version(self) -> str:
        return self._source.version if self._source.path_or_none else NO_MODEL

    def _work(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            pause = self.look()

    def _hold_up(self, error: Exception) -> None:
        """Log what is in the way once, not at each look."""
        if self._over.is_set():
            return
        before, self._obstacle = self._obstacle, " ".join(str(error).split()) or type(error).__name__
        if before != self._obstacle:
            unforeseen = not isinstance(error, LiverLoopError)
            logger.warning("no image is scored in the background now: %s", self._obstacle, exc_info=unforeseen)
