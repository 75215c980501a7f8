"""The next image for an annotator: what they have already, or one that a strategy chooses among those nobody has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from lib.activelearning.ranking import Ranking, rank_pool
from lib.activelearning.strategies import STRATEGIES
from lib.activelearning.strategy import Strategy
from lib.activelearning.words import sentences
from lib.errors import BusyError, StorageError, UnavailableError
from lib.store import leases, pool
from lib.store.events import SERVER
from lib.store.leases import REVIEW, Lease
from lib.store.store import Store

_MOST_TRIES = 32  # images that turn out unfit when they are to be handed out
_MOST_RANKINGS = 8  # of which others are given all while one is made
_MOST_FAILURES = 2  # series in a row that a PACS which answers fails to give; each may take half a minute
_MOST_NAMES = 3


@dataclass(frozen=True)
class _Given:
    """An image in a client's hands, and what its row said of its place among those that wait, if it was free."""

    lease: Lease
    place: Mapping[str, Any] | None = None


def next_sample(
    store: Store,
    strategy: str,
    client_id: str,
    *,
    model_version: str | None,
    skip: bool | str = False,
    rng: np.random.Generator,
) -> Lease | None:
    """Give a client an image that nobody else has.

    A client that asks again gets the same image by the same strategy, even after its time is over if nobody else asked
    meanwhile. A choice is committed before this returns, so that no two callers in any process get the same. While the
    PACS can't be reached, the choice is among the images that were fetched, and the others keep their places.

    Args:
        store: the studies folder.
        strategy: one of `lib.activelearning.strategies.STRATEGIES`.
        client_id: who asks.
        model_version: the model in force; its scores count before those of others.
        skip: put back what the client has by this strategy, and give another; a text says why and is noted.
        rng: for random choices; of one thread.

    Returns:
        The lease, which says why and which slices are worth looking at; None if nothing is left to label, or to review.

    Raises:
        BusyError: all images that are left are in other hands.
        UnavailableError: many images in a row turned out unfit; or the PACS can't be reached or fails to give several
            in a row, and no image that was fetched is free.
        StorageError: the ledger can't be written, or the disk is full.
    """
    asked = _Asked(store, STRATEGIES[strategy], client_id, model_version, rng)
    problem, failures = None, 0
    down: UnavailableError | None = None
    for _ in range(_MOST_TRIES):
        given = asked.kept(skip) or asked.chosen(None if down is None else store.images.is_at_hand)
        skip = False
        if given is None:
            if down is not None:
                raise down
            return None
        lease = given.lease
        # Outside the transaction, as it may read the file; meanwhile nobody else tries the same one.
        try:
            problem = store.images.ensure_fit(lease.image_id)
        except StorageError as error:  # of the PACS or the disk, not of this image
            answers = isinstance(error, UnavailableError) and store.images.can_be_asked()
            _put_back(store, given, f"it can't be fetched: {error}", in_its_place=not answers)
            if not isinstance(error, UnavailableError) or down is not None:
                raise
            failures += 1
            if not answers or failures == _MOST_FAILURES:
                down = error
            continue
        if problem is None and store.segs is not None:
            problem = _labelled_in_the_pacs(store, lease)
        if problem is None:
            return lease
        _put_back(store, given, f"it can't be used: {problem}")
    msg = f"{_MOST_TRIES} images in a row can't be used (the last: {problem}); check the studies folder, or ask again"
    raise UnavailableError(msg)


@dataclass(frozen=True)
class _Asked:
    """Who asks, and how an image is chosen for them; see `next_sample`."""

    store: Store
    strategy: Strategy
    client_id: str
    model_version: str | None
    rng: np.random.Generator

    def kept(self, skip: bool | str) -> _Given | None:
        """What the client has by this strategy already, unless it is to be skipped; leases that are over are freed."""
        with self.store.ledger.reading() as connection:
            mine = leases.held_by(connection, self.client_id, self.strategy.name)
            if not (mine or leases.has_expired(connection)):
                return None
        with self.store.ledger.writing() as connection:
            held = self._held(connection, skip)
            if held is None:
                leases.expire(connection)
            return held

    def chosen(self, at_hand: Callable[[str], bool] | None) -> _Given | None:
        """A free image, of those that are `at_hand` where that is given; None if there is none in anybody's hands.

        Ranking takes longer than handing out, so that it is done before; who is given an image meanwhile has it, and
        the next of the ranking is taken here.
        """
        for _ in range(_MOST_RANKINGS):
            ranking = rank_pool(
                self.store, self.strategy, model_version=self.model_version, at_hand=at_hand, rng=self.rng
            )
            with self.store.ledger.writing() as connection:
                given = self._held(connection, skip=False)  # asked for twice at once
                given = given or self._claimed(connection, ranking)
                if given is None and not ranking.choices:
                    return self._last_resort(connection, at_hand)
            if given is not None:
                return given
        msg = "others were given all images that were chosen among, several times in a row; ask again"
        raise BusyError(msg)

    def _held(self, connection: Connection, skip: bool | str) -> _Given | None:
        """What the client has, renewed; unless it is to be skipped or no longer waits for a label."""
        for lease in leases.held_by(connection, self.client_id, self.strategy.name):
            if skip:
                why = skip if isinstance(skip, str) else "asked for another"
                leases.free(connection, lease.image_id, actor=self.client_id, why=why, kind="image skipped")
            elif not pool.can_keep(connection, lease):
                leases.free(connection, lease.image_id, actor=SERVER, why="no longer to be labelled")
            else:
                return self._renewed(connection, lease)
        return None

    def _claimed(self, connection: Connection, ranking: Ranking) -> _Given | None:
        """A lease of the first of a ranking that is free still."""
        for choice in ranking.choices:
            place = pool.free_place(connection, choice.image_id, for_review=self.strategy.name == REVIEW)
            if place is None:
                continue
            known = ranking.candidates[choice.image_id].scores
            why = (choice.reason, *(sentences(replace(known, flags=())) if known else ()))
            lease = leases.acquire(
                connection, choice.image_id, self.client_id, strategy=self.strategy.name,
                reason="; ".join(why), score=choice.score, part=choice.part,
                slices=known.spans if known else (), seconds=self._seconds,
            )  # fmt: skip
            return _Given(lease, place)
        return None

    def _last_resort(self, connection: Connection, at_hand: Callable[[str], bool] | None) -> _Given | None:
        """Where no image is free: what the client has by another strategy; None if nobody has any either."""
        held = pool.in_hands(connection, for_review=self.strategy.name == REVIEW)
        for lease in held:
            if lease.client_id == self.client_id:
                return self._renewed(connection, lease)
        if held and at_hand is None:
            raise BusyError(_who_has(held))
        return None

    def _renewed(self, connection: Connection, lease: Lease) -> _Given:
        leases.renew(connection, lease.image_id, lease.client_id, self._seconds)
        return _Given(leases.of_image(connection, lease.image_id) or lease)

    @property
    def _seconds(self) -> float:
        return self.store.settings.store.lease_minutes * 60


def _put_back(store: Store, given: _Given, why: str, *, in_its_place: bool = False) -> None:
    """Take an image back that could not be handed out; unless it is to keep its place, it comes last now.

    What somebody has labelled meanwhile has no lease any more and stays where that has put it.
    """
    image_id = given.lease.image_id
    with store.ledger.writing() as connection:
        freed = leases.free(connection, image_id, actor=SERVER, why=why, uncounted=True)
        if freed and in_its_place and given.place:
            pool.put_back(connection, image_id, given.place)


def _labelled_in_the_pacs(store: Store, lease: Lease) -> str | None:
    """Take in what others stored for a leased image; why it is no longer to be handed out, None if it is."""
    store.take_in_from_pacs(lease.image_id)
    with store.ledger.reading() as connection:
        return None if pool.can_keep(connection, lease) else "somebody has labelled it in the PACS"


def _who_has(held: Sequence[Lease]) -> str:
    """Who has the images that are left, and until when, in a sentence."""
    until: dict[str, float] = {}
    for lease in held:
        until.setdefault(lease.client_id, lease.expires_at)
    shown = [f"{client} (until {_clock(at)} UTC)" for client, at in list(until.items())[:_MOST_NAMES]]
    more = len(until) - len(shown)
    others = ", ".join(shown) + (f" and {more} more" if more else "")
    left = "the last image that is left is" if len(held) == 1 else f"all {len(held)} images that are left are"
    return f"{left} with {len(until)} other annotator{'s' * (len(until) > 1)}: {others}; ask again later"


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M}"
