"""Scores on their way between those who segment images and the ledger: which are wanted, and where they go."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection

from lib.activelearning.image_features import image_embedding
from lib.activelearning.scoring import Note, ScoringWatch
from lib.case_scores import NO_MODEL, CaseScores
from lib.errors import BadInputError, LiverLoopError, ModelError, NotFoundError, StorageError
from lib.settings import Settings
from lib.store import images, scores
from lib.store.images import FileState
from lib.store.store import Store
from lib.volume_io import read_image, stem_of

logger = logging.getLogger(__name__)

_OF_THE_IMAGE = (LiverLoopError, OSError, MemoryError, RuntimeError)  # as in `lib.inference.overlapped`
_NOT_OF_THE_IMAGE = (ModelError, StorageError)
_MOST_FETCHED = 1000  # images of a PACS, of which some were removed again


@dataclass(frozen=True)
class _State:
    """Of an image, by which it is told whether scores are still those of its content, and needed.

    Args:
        file: as the ledger has it.
        scored: by which model it was scored last, and when; None: never.
        seen: whether that was a model, and not in vain.
    """

    file: FileState
    scored: tuple[str, float] | None
    seen: bool


class ScoreKeeper:
    """Has images of a store scored once by each model version while they wait for a label, and labelled ones by one.

    Args:
        store: of the folder or the PACS.
        settings: of the app.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._watched: dict[str, str] = {}  # by image the model, until its scores have come
        self._not_kept: dict[str, str] = {}  # by image why
        self.watch = ScoringWatch(settings, self._who_wants)

    def waiting(self, model_version: str, limit: int = 64, *, at_hand: bool = False) -> list[str]:
        """Ids of images that a model has still to score, those first that none has scored yet.

        Args:
            model_version: of the model.
            limit: at most so many.
            at_hand: only those whose file is here, as far as it is among many that were fetched once.

        Raises:
            StorageError: the ledger can't be read.
        """
        return self._found(partial(scores.waiting, model_version=model_version), limit, at_hand)

    def never_seen(self, model_version: str, limit: int = 64, *, at_hand: bool = False) -> list[str]:
        """Ids of labelled images of which no model has told anything, so that no other can be compared with them; as
        `waiting`.

        Raises:
            StorageError: the ledger can't be read.
        """
        return self._found(partial(scores.never_seen, model_version=model_version), limit, at_hand)

    def _found(self, find: Callable[..., list[str]], limit: int, at_hand: bool) -> list[str]:
        fetched = at_hand and not self._store.images.in_folder
        with self._store.ledger.reading() as connection:
            found = find(connection, limit=max(limit, _MOST_FETCHED) if fetched else limit, fetched=fetched)
        return list(islice(filter(self._store.images.is_at_hand, found), limit)) if fetched else found

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
            segment: segments a file, watched by `watch`; without a model `describe`.

        Returns:
            Why it can't be; that is kept, so that this model does not try again, unless the file or the ledger was only
            out of reach. None if it was, or has no need any more, or is another image now.

        Raises:
            ModelError: the model can't be used.
            StorageError: disk or ledger refused, or the segmenter is being stopped.
        """
        before = self._wanted(str(path), model_version)
        if before is None:
            return None
        self._not_kept.pop(image_id, None)
        try:
            segment(str(path))
            problem = self._not_kept.pop(image_id, None)
            if problem is not None or self._watched.pop(image_id, None) != model_version:
                return problem
            problem = "no scores came of its segmentation; the log says why"
        except _NOT_OF_THE_IMAGE:
            raise
        except NotFoundError as error:  # moved, or removed as a PACS's volume may be; that is noticed elsewhere
            return str(error)
        except _OF_THE_IMAGE as error:
            problem = str(error) if isinstance(error, LiverLoopError) else f"{type(error).__name__}: {error}"
            if isinstance(error, BadInputError):
                self._store.images.note_if_unreadable(image_id)
        with self._store.ledger.writing() as connection:
            if _state(connection, image_id) != before:
                return None
            scores.note_problem(connection, image_id, model_version, problem)
        logger.warning("not scored: %s: %s", image_id, problem)
        return problem

    def describe(self, path: str) -> None:
        """Keep what can be told of an image without a model, by which strategies tell images apart.

        Raises:
            LiverLoopError: the image can't be read.
        """
        note = self._who_wants(path, NO_MODEL)
        if note is None:
            return
        began, image = time.perf_counter(), read_image(path)
        embedding = image_embedding(image.axial(), image.axial_spacing)
        note(CaseScores(None, {}, embedding=embedding), time.perf_counter() - began)

    def _wanted(self, path: str, model_version: str) -> _State | None:
        """The state of an image of the store that this model has not tried to score, and that waits for a label, or has
        one and none has told anything of it; None of other files.

        Raises:
            StorageError: the ledger can't be read.
        """
        if Path(path).parent != self._store.layout.studies:  # sent along with a request
            return None
        image_id = stem_of(path)
        with self._store.ledger.reading() as connection:
            image = images.find(connection, image_id)
            if image is None or image.problem is not None or image.excluded is not None:
                return None
            state = _state(connection, image_id)
        if state and state.scored and (state.scored[0] == model_version or (image.labelled and state.seen)):
            return None
        return state

    def _who_wants(self, path: str, model_version: str) -> Note | None:
        image_id = stem_of(path)
        try:
            state = self._wanted(path, model_version)
        except StorageError as error:  # no reason not to segment it
            self._keep_not(image_id, f"the ledger can't be read: {error}")
            return None
        if state is None:
            return None
        self._watched[image_id] = model_version
        return partial(self._note, image_id, model_version, state)

    def _note(self, image_id: str, model_version: str, before: _State, found: CaseScores, seconds: float) -> None:
        """Keep scores, unless the image is another one by now, or was scored by somebody else meanwhile."""
        try:
            with self._store.ledger.writing() as connection:
                if _state(connection, image_id) == before:
                    scores.note(connection, image_id, model_version, found, seconds)
        except StorageError as error:
            self._keep_not(image_id, str(error))
        except LiverLoopError as error:
            logger.warning("the scores of %s are not kept: %s", image_id, error)
            return
        self._watched.pop(image_id, None)

    def _keep_not(self, image_id: str, problem: str) -> None:
        logger.warning("the scores of %s are not kept: %s", image_id, problem)
        self._not_kept[image_id] = problem


def _state(connection: Connection, image_id: str) -> _State | None:
    image = images.find(connection, image_id)
    known = scores.of_images(connection, [image_id], profile=False).get(image_id)
    scored = None if known is None else (known.model_version, known.scored_at)
    seen = known is not None and known.model_version != NO_MODEL and known.problem is None
    return None if image is None else _State(image.file, scored, seen)
