"""The next image for an annotator: what they have already, or one that a strategy chooses among those nobody has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, select, update

from lib.activelearning.history import History
from lib.activelearning.strategies import STRATEGIES
from lib.errors import BusyError, StorageError, UnavailableError
from lib.store import leases, pool
from lib.store.events import SERVER
from lib.store.leases import REVIEW, Lease
from lib.store.pool import Candidate, Order
from lib.store.schema import images as images_table
from lib.store.store import Store

# Where to look for candidates; further ones where the first has none.
_ORDERS: dict[str, tuple[Order, ...]] = {
    "random": ("turn",),
    "first": ("name",),
    "uncertainty": ("score", "turn"),
    "review": ("review",),
}
_MOST_TRIES = 32  # images that turn out unfit when they are to be handed out
_MOST_FAILURES = 2  # series in a row that a PACS which answers fails to give; each may take half a minute
_MOST_AT_HAND = 1000  # images that were fetched once, to find among them some that still are here
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
        model_version: the model in force; only its scores count.
        skip: put back what the client has by this strategy, and give another; a text says why and is noted.
        rng: for random choices.

    Returns:
        The lease, which says why; None if nothing is left to label, or to review.

    Raises:
        BusyError: all images that are left are in other hands.
        UnavailableError: many images in a row turned out unfit; or the PACS can't be reached or fails to give several
            in a row, and no image that was fetched is free.
        StorageError: the ledger can't be written, or the disk is full.
    """
    seconds = store.settings.store.lease_minutes * 60
    problem, failures = None, 0
    down: UnavailableError | None = None
    for _ in range(_MOST_TRIES):
        at_hand = None if down is None else store.images.is_at_hand
        with store.ledger.writing() as connection:
            held = _kept(connection, strategy, client_id, skip, seconds)
            given = held or _chosen(connection, strategy, client_id, model_version, seconds, rng, at_hand)
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


def _put_back(store: Store, given: _Given, why: str, *, in_its_place: bool = False) -> None:
    """Take an image back that could not be handed out; unless it is to keep its place, it comes last now."""
    image_id = given.lease.image_id
    with store.ledger.writing() as connection:
        leases.free(connection, image_id, actor=SERVER, why=why)
        if in_its_place and given.place:
            connection.execute(update(images_table).where(images_table.c.image_id == image_id).values(given.place))


def _labelled_in_the_pacs(store: Store, lease: Lease) -> str | None:
    """Take in what others stored for a leased image; why it is no longer to be handed out, None if it is."""
    store.take_in_from_pacs(lease.image_id)
    with store.ledger.reading() as connection:
        return None if pool.can_keep(connection, lease) else "somebody has labelled it in the PACS"


def _kept(connection: Connection, strategy: str, client_id: str, skip: bool | str, seconds: float) -> _Given | None:
    """What the client has by this strategy, renewed; unless it is to be skipped or no longer waits for a label."""
    for lease in leases.held_by(connection, client_id, strategy):
        if skip:
            why = skip if isinstance(skip, str) else "asked for another"
            leases.free(connection, lease.image_id, actor=client_id, why=why, kind="image skipped")
        elif not pool.can_keep(connection, lease):
            leases.free(connection, lease.image_id, actor=SERVER, why="no longer to be labelled")
        else:
            return _renewed(connection, lease, seconds)
    return None


def _renewed(connection: Connection, lease: Lease, seconds: float) -> _Given:
    leases.renew(connection, lease.image_id, lease.client_id, seconds)
    return _Given(leases.of_image(connection, lease.image_id) or lease)


def _chosen(
    connection: Connection,
    strategy: str,
    client_id: str,
    model_version: str | None,
    seconds: float,
    rng: np.random.Generator,
    at_hand: Callable[[str], bool] | None,
) -> _Given | None:
    """A lease of a free image; of one that is `at_hand` where that is given."""
    leases.expire(connection)
    candidates = _candidates(connection, strategy, model_version, rng, at_hand)
    if not candidates:
        return _last_resort(connection, strategy, client_id, seconds, at_hand)
    choice = STRATEGIES[strategy].rank(candidates, History(model_version), rng)[0]
    columns = (images_table.c.served_at, images_table.c.to_review)
    place = connection.execute(select(*columns).where(images_table.c.image_id == choice.image_id)).mappings().one()
    lease = leases.acquire(
        connection,
        choice.image_id,
        client_id,
        strategy=strategy,
        reason=choice.reason,
        score=choice.score,
        seconds=seconds,
    )
    return _Given(lease, dict(place))


def _candidates(
    connection: Connection,
    strategy: str,
    model_version: str | None,
    rng: np.random.Generator,
    at_hand: Callable[[str], bool] | None,
) -> list[Candidate]:
    for order in _ORDERS[strategy]:
        start = float(rng.random())
        found = pool.candidates(
            connection, order, model_version=model_version, start=start, fetched=at_hand is not None,
            limit=pool.ENOUGH if at_hand is None else _MOST_AT_HAND,
        )  # fmt: skip
        if at_hand is not None:
            found = [one for one in found if at_hand(one.image_id)][: pool.ENOUGH]
        if found:
            return found
    return []


def _last_resort(
    connection: Connection,
    strategy: str,
    client_id: str,
    seconds: float,
    at_hand: Callable[[str], bool] | None,
) -> _Given | None:
    """Where no image is free: what the client has by another strategy; None if nobody has any either."""
    held = pool.in_hands(connection, for_review=strategy == REVIEW)
    for lease in held:
        if lease.client_id == client_id:
            return _renewed(connection, lease, seconds)
    if held and at_hand is None:
        raise BusyError(_who_has(held))
    return None


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
