"""Scores on their way between those who segment images and the ledger: which are wanted, and where they go."""

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from lib.activelearning.scoring import ScoringWatch
from lib.case_scores import CaseScores
from lib.errors import BadInputError, LiverLoopError, ModelError, StorageError
from lib.settings import Settings
from lib.store import images, scores
from lib.store.store import Store
from lib.volume_io import stem_of

logger = logging.getLogger(__name__)

_OF_THE_IMAGE = (LiverLoopError, OSError, MemoryError, RuntimeError)  # as in `lib.inference.overlapped`
_NOT_OF_THE_IMAGE = (ModelError, StorageError)
_MOST_FETCHED = 1000  # images of a PACS, of which some were removed again


class ScoreKeeper:
    """Has images of a store scored once by each model version while they wait for a label.

    Args:
        store: of the folder or the PACS.
        settings: of the app.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self.watch = ScoringWatch(settings, self._note, self._is_wanted)

    def waiting(self, model_version: str, limit: int = 64, *, at_hand: bool = False) -> list[str]:
        """Ids of images that a model has still to score, those first that none has scored yet.

        Args:
            model_version: of the model.
            limit: at most so many.
            at_hand: only those whose file is here, as far as it is among many that were fetched once.

        Raises:
            StorageError: the ledger can't be read.
        """
        fetched = at_hand and not self._store.images.in_folder
        with self._store.ledger.reading() as connection:
            if not fetched:
                return scores.waiting(connection, model_version, limit)
            found = scores.waiting(connection, model_version, max(limit, _MOST_FETCHED), fetched=True)
        return list(islice(filter(self._store.images.is_at_hand, found), limit))

    def path(self, image_id: str) -> Path:
        """The file of an image as it is here, of which a PACS is not asked whether it has another one.

        Raises:
            NotFoundError: the image is gone.
            StorageError: the ledger can't be read.
        """
        with self._store.ledger.reading() as connection:
            image = images.get(connection, image_id)
        return self._store.layout.image(image_id, image.file.suffix)

    def score(self, image_id: str, path: Path, model_version: str, segment: Callable[[str], object]) -> str | None:
        """Have an image scored by the model in force.

        Args:
            image_id: of the image.
            path: its file.
            model_version: of that model.
            segment: segments a file, watched by `watch`.

        Returns:
            Why it can't be; that is kept, so that this model does not try again. None if it was, or has no need any
            more.

        Raises:
            ModelError: the model can't be used.
            StorageError: disk or ledger refused, or the segmenter is being stopped.
        """
        before = self._last(image_id)
        try:
            segment(str(path))
            if self._last(image_id) != before or not self._is_wanted(str(path), model_version):
                return None
            problem = "no scores came of its segmentation; the log says why"
        except _NOT_OF_THE_IMAGE:
            raise
        except _OF_THE_IMAGE as error:
            problem = str(error) if isinstance(error, LiverLoopError) else f"{type(error).__name__}: {error}"
            if isinstance(error, BadInputError):
                self._store.images.note_if_unreadable(image_id)
        with self._store.ledger.writing() as connection:
            scores.note_problem(connection, image_id, model_version, problem)
        logger.warning("not scored: %s: %s", image_id, problem)
        return problem

    def _is_wanted(self, path: str, model_version: str) -> bool:
        """Whether a file is an image of the store that waits for a label and that this model has not tried to score."""
        if Path(path).parent != self._store.layout.studies:  # sent along with a request
            return False
        image_id = stem_of(path)
        try:
            with self._store.ledger.reading() as connection:
                image = images.find(connection, image_id)
                known = scores.of_images(connection, [image_id], profile=False).get(image_id)
        except StorageError as error:  # no reason not to segment it
            logger.warning("%s is not scored while it is segmented: %s", image_id, error)
            return False
        if image is None or image.labelled or image.problem is not None or image.excluded is not None:
            return False
        return known is None or known.model_version != model_version

    def _last(self, image_id: str) -> tuple[str, float] | None:
        """By which model an image was scored last, and when."""
        with self._store.ledger.reading() as connection:
            known = scores.of_images(connection, [image_id], profile=False).get(image_id)
        return None if known is None else (known.model_version, known.scored_at)

    def _note(self, path: str, model_version: str, found: CaseScores, seconds: float) -> None:
        image_id = stem_of(path)
        try:
            with self._store.ledger.writing() as connection:
                scores.note(connection, image_id, model_version, found, seconds)
        except LiverLoopError as error:
            logger.warning("the scores of %s are not kept: %s", image_id, error)
