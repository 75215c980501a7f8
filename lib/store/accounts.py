"""Users of the embedded login: who they are, what they may do, who is logged in. The ledger notes every change.

No password, hash or token is ever in an event, a log or an error.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from lib.access import tokens as token_form
from lib.access.names import name_key, user_name
from lib.access.passwords import check_password, hashed, is_outdated, is_right
from lib.access.roles import Role, role_named
from lib.access.throttle import Throttle
from lib.errors import BadInputError, LoginError, NotFoundError, StorageError, TooManyLoginsError
from lib.store.account_events import note, plain
from lib.store.events import SERVER
from lib.store.ledger import Ledger
from lib.store.schema import tokens, users

logger = logging.getLogger(__name__)

CONSOLE = "console"  # the address of who works on the server's machine

_USED_EVERY_S = 600.0  # so seldom is it noted that a token was used
_KEPT_S = 7 * 86_400.0  # so long is a token remembered that counts no more
_LONGEST_GUESS = 256  # characters of a name that are looked at; the longest name has fewer
WRONG = "wrong user name or password"


@dataclass(frozen=True)
class User:
    """Somebody who may log in.

    Args:
        name: as it is shown, also as the author of labels.
        role: what the user may do.
        created_at: seconds since the epoch, as the others.
        password_changed_at: when the password was last set.
        disabled_at: since when the user may not log in; None: may.
        logins: tokens that count now.
    """

    name: str
    role: Role
    created_at: float
    password_changed_at: float
    disabled_at: float | None
    logins: int = 0


@dataclass(frozen=True)
class LoggedIn:
    """A user with a token that counts.

    Args:
        name: of the user.
        role: of the user, at this moment.
        expires_at: when the token ends, seconds since the epoch.
        token: what the client must send along; empty where it came from the client.
    """

    name: str
    role: Role
    expires_at: float
    token: str = field(default="", repr=False)


class Accounts:
    """The users of a ledger. Safe for many threads and processes; each process throttles logins by itself.

    Args:
        ledger: where users are.
        token_hours: how long a token counts.
        throttle: pauses between failed logins; None: the usual ones. Also of use for logins elsewhere, which are to
            count together with these.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        ledger: Ledger,
        token_hours: float = 12.0,
        throttle: Throttle | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._token_s = token_hours * 3600
        self.throttle = throttle or Throttle()
        self._clock = clock

    def is_empty(self) -> bool:
        """Whether nobody was ever added."""
        with self._ledger.reading() as connection:
            return connection.scalar(select(users.c.key).limit(1)) is None

    def listed(self) -> list[User]:
        """All users by name, also the disabled ones."""
        counts = (
            select(tokens.c.user_key, func.count().label("logins"))
            .where(tokens.c.revoked_at.is_(None), tokens.c.expires_at > self._clock())
            .group_by(tokens.c.user_key)
            .subquery()
        )
        query = (
            select(users, func.coalesce(counts.c.logins, 0).label("logins"))
            .outerjoin(counts, counts.c.user_key == users.c.key)
            .order_by(users.c.key)
        )
        with self._ledger.reading() as connection:
            return [_user(row) for row in connection.execute(query)]

    def is_known(self, name: str) -> bool:
        """Whether there is a user of this name in any spelling, also a disabled one."""
        with self._ledger.reading() as connection:
            return _find(connection, name[:_LONGEST_GUESS]) is not None

    def check_user(self, name: str) -> None:
        """Make sure that there is such a user, before somebody is asked for more.

        Raises:
            NotFoundError: there is none.
        """
        with self._ledger.reading() as connection:
            _get(connection, name)

    def check_new(self, name: str) -> None:
        """Make sure that a user of this name can be added, before somebody is asked for more.

        Raises:
            BadInputError: the name can't be used, or there is such a user.
        """
        name = user_name(name)
        with self._ledger.reading() as connection:
            if (known := _find(connection, name)) is not None:
                raise _known_already(known.name)

    def add(self, name: str, password: str, role: Role, *, by: str, address: str = CONSOLE) -> User:
        """Add a user.

        Args:
            name: see `lib.access.names`; another spelling of one that there is already is refused.
            password: see `lib.access.passwords`.
            role: what the user may do.
            by: who does that, as in all that follow.
            address: from where.

        Raises:
            BadInputError: the name or the password can't be used, or there is such a user.
        """
        name = user_name(name)
        check_password(password, name)
        kept, now = hashed(password), self._clock()
        with self._ledger.writing() as connection:
            if (known := _find(connection, name)) is not None:
                raise _known_already(known.name)
            row = {
                "key": name_key(name),
                "name": name,
                "role": role.value,
                "password_hash": kept,
                "created_at": now,
                "password_changed_at": now,
            }
            connection.execute(insert(users).values(row))
            note(connection, "user added", name, by, address, {"role": role.value})
        return User(name, role, now, now, None)

    def set_role(self, name: str, role: Role, *, by: str, address: str = CONSOLE) -> None:
        """Give a user another role, which counts from the next request.

        Raises:
            NotFoundError: there is no such user.
        """
        with self._ledger.writing() as connection:
            row = _get(connection, name)
            if row.role == role.value:
                return
            _change(connection, row, role=role.value)
            note(connection, "role changed", row.name, by, address, {"role": role.value, "before": row.role})

    def set_password(self, name: str, password: str, *, by: str, address: str = CONSOLE) -> int:
        """Give a user another password; all tokens of theirs end.

        Returns:
            How many tokens ended.

        Raises:
            NotFoundError: there is no such user.
            BadInputError: the password can't be used.
        """
        with self._ledger.reading() as connection:
            row = _get(connection, name)
        check_password(password, row.name)
        kept, now = hashed(password), self._clock()
        with self._ledger.writing() as connection:
            _change(connection, row, password_hash=kept, password_changed_at=now)
            ended = _revoke(connection, now, tokens.c.user_key == row.key)
            note(connection, "password changed", row.name, by, address, {"tokens_revoked": ended})
        return ended

    def disable(self, name: str, *, by: str, address: str = CONSOLE) -> int:
        """Keep a user out from now on; all tokens of theirs end.

        Returns:
            How many tokens ended.

        Raises:
            NotFoundError: there is no such user.
        """
        now = self._clock()
        with self._ledger.writing() as connection:
            row = _get(connection, name)
            ended = _revoke(connection, now, tokens.c.user_key == row.key)
            if row.disabled_at is None:
                _change(connection, row, disabled_at=now)
                note(connection, "user disabled", row.name, by, address, {"tokens_revoked": ended})
        return ended

    def enable(self, name: str, *, by: str, address: str = CONSOLE) -> None:
        """Let a disabled user log in again.

        Raises:
            NotFoundError: there is no such user.
        """
        with self._ledger.writing() as connection:
            row = _get(connection, name)
            if row.disabled_at is not None:
                _change(connection, row, disabled_at=None)
                note(connection, "user enabled", row.name, by, address)

    def login(self, name: str, password: str, address: str) -> LoggedIn:
        """Give a token to who knows the password.

        It takes as long and says the same whether the name, the password or both are wrong, or the user is disabled.

        Args:
            name: in any spelling.
            password: what somebody typed.
            address: where it comes from; failures of one address count together.

        Raises:
            LoginError: wrong, or disabled.
            TooManyLoginsError: after too many failures, or too many at once; how many seconds to wait.
            StorageError: the ledger can't be read or written; the try doesn't count as failed.
        """
        key = name_key(name[:_LONGEST_GUESS])
        address = plain(address)
        pause_s = self.throttle.begin(key, address)
        try:
            logged_in = self._login(name, password, address, pause_s)
        except (StorageError, TooManyLoginsError):
            self.throttle.undecided(key, address)
            raise
        self.throttle.succeeded(key, address)
        return logged_in

    def who(self, token: str) -> LoggedIn | None:
        """The user who got this token, None where it does not count (any more)."""
        if not token_form.is_token(token):
            return None
        now, sha256 = self._clock(), token_form.digest(token)
        query = (
            select(tokens.c.expires_at, tokens.c.revoked_at, tokens.c.last_used_at, users)
            .join(users, users.c.key == tokens.c.user_key)
            .where(tokens.c.sha256 == sha256)
        )
        with self._ledger.reading() as connection:
            row = connection.execute(query).first()
        if row is None or row.disabled_at is not None or not token_form.is_valid(now, row.expires_at, row.revoked_at):
            return None
        if row.last_used_at is None or now - row.last_used_at >= _USED_EVERY_S:
            self._note_use(sha256, now)
        return LoggedIn(row.name, role_named(row.role), row.expires_at)

    def revoke(self, token: str, *, address: str) -> bool:
        """End one token, as its user logs out; False where it did not count any more."""
        if not token_form.is_token(token):
            return False
        now = self._clock()
        with self._ledger.writing() as connection:
            here = tokens.c.sha256 == token_form.digest(token)
            name = connection.scalar(select(users.c.name).join(tokens, tokens.c.user_key == users.c.key).where(here))
            if not _revoke(connection, now, here):
                return False
            note(connection, "logged out", str(name), str(name), address)
        return True

    def revoke_all(self, name: str, *, by: str, address: str = CONSOLE) -> int:
        """End all tokens of a user, who may log in again.

        Returns:
            How many ended.

        Raises:
            NotFoundError: there is no such user.
        """
        with self._ledger.writing() as connection:
            row = _get(connection, name)
            ended = _revoke(connection, self._clock(), tokens.c.user_key == row.key)
            if ended:
                note(connection, "tokens revoked", row.name, by, address, {"tokens_revoked": ended})
        return ended

    def note_foreign(self, kind: str, name: str | None, address: str, more: Mapping[str, Any]) -> None:
        """Note what an identity provider's user did; None: somebody whose name nobody knows.

        Args:
            kind: such as `"logged in"`.
            name: of the user.
            address: from where.
            more: what else is known.
        """
        with self._ledger.writing() as connection:
            note(connection, kind, name, name or SERVER, address, more)

    def _login(self, name: str, password: str, address: str, pause_s: float) -> LoggedIn:
        with self._ledger.reading() as connection:
            row = _find(connection, name[:_LONGEST_GUESS])
        right = is_right(password, None if row is None else row.password_hash)
        if row is None or not right or row.disabled_at is not None:
            raise self._refused(row, address, pause_s)
        renewed = hashed(password) if is_outdated(row.password_hash) else row.password_hash
        issued = self._issue(row, renewed, address)
        if issued is None:
            raise self._refused(row, address, pause_s)
        return issued

    def _issue(self, row: Row[Any], password_hash: str, address: str) -> LoggedIn | None:
        """A token for a user whose password was right; None where another process changed or disabled them since."""
        token, now = token_form.new_token(), self._clock()
        expires_at = now + self._token_s
        unchanged = (
            users.c.key == row.key,
            users.c.password_changed_at == row.password_changed_at,
            users.c.disabled_at.is_(None),
        )
        with self._ledger.writing() as connection:
            if not connection.execute(update(users).where(*unchanged).values(password_hash=password_hash)).rowcount:
                return None
            connection.execute(delete(tokens).where(tokens.c.expires_at < now - _KEPT_S))
            values = {
                "sha256": token_form.digest(token),
                "user_key": row.key,
                "issued_at": now,
                "expires_at": expires_at,
                "address": address,
            }
            connection.execute(insert(tokens).values(values))
            role = connection.execute(select(users.c.role).where(users.c.key == row.key)).scalar_one()
            note(connection, "logged in", row.name, row.name, address)
        return LoggedIn(row.name, role_named(role), expires_at, token)

    def _refused(self, row: Row[Any] | None, address: str, pause_s: float) -> LoginError:
        """Note a failed login; a name that nobody has is not noted, as it may be a password."""
        detail: dict[str, Any] = {"pause_s": pause_s} if pause_s else {}
        if row is not None and row.disabled_at is not None:
            detail["disabled"] = True
        with self._ledger.writing() as connection:
            note(connection, "login failed", None if row is None else row.name, SERVER, address, detail)
        return LoginError(WRONG)

    def _note_use(self, sha256: str, now: float) -> None:
        try:
            with self._ledger.writing() as connection:
                connection.execute(update(tokens).where(tokens.c.sha256 == sha256).values(last_used_at=now))
        except StorageError as error:
            logger.warning("can't note that a token was used: %s", error)  # what was asked for can be done all the same


def _user(row: Row[Any]) -> User:
    return User(
        row.name, role_named(row.role), row.created_at, row.password_changed_at, row.disabled_at, int(row.logins)
    )


def _find(connection: Connection, name: str) -> Row[Any] | None:
    try:
        key = name_key(user_name(name))
    except BadInputError:
        return None  # nobody can have it, and not every database could be asked for it
    return connection.execute(select(users).where(users.c.key == key)).first()


def _get(connection: Connection, name: str) -> Row[Any]:
    row = _find(connection, name)
    if row is None:
        msg = f"there is no user {name!r}; scripts/users.py list names all"
        raise NotFoundError(msg)
    return row


def _known_already(name: str) -> BadInputError:
    return BadInputError(f"there is a user {name!r} already; choose another name, or enable that one")


def _change(connection: Connection, row: Row[Any], **values: Any) -> None:
    connection.execute(update(users).where(users.c.key == row.key).values(values))


def _revoke(connection: Connection, now: float, which: ColumnElement[bool]) -> int:
    counting = (which, tokens.c.revoked_at.is_(None), tokens.c.expires_at > now)
    return connection.execute(update(tokens).where(*counting).values(revoked_at=now)).rowcount
