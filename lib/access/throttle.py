"""Pauses between failed logins, for each user and for each address, that grow with every failure.

One process's memory: a restart forgets, and each of several servers counts for itself.
"""

import hashlib
import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lib.errors import TooManyLoginsError


@dataclass(frozen=True)
class Pauses:
    """How failures are answered.

    Args:
        free: so many failures have no consequence.
        first_s: the pause after one more; each further failure doubles it.
        longest_s: up to this.
        forgotten_s: after so long without a failure all are forgotten.
        most: keys that are remembered; of more, the one that has been quiet for the longest is forgotten.
    """

    free: int
    first_s: float = 1.0
    longest_s: float = 900.0
    forgotten_s: float = 3600.0
    most: int = 10_000


# Whoever knows a name can keep its user out, so that this pause stays short; 1,440 guesses a day find no 12 characters.
OF_USERS = Pauses(free=5, longest_s=60.0)
# A hospital may come from one address.
OF_ADDRESSES = Pauses(free=50)


class Throttle:
    """Counts failed logins and refuses more until a pause is over. Safe for many threads.

    Args:
        of_users: for one name from anywhere.
        of_addresses: for one address with any name.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        of_users: Pauses = OF_USERS,
        of_addresses: Pauses = OF_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users, self._addresses = _Counter(of_users), _Counter(of_addresses)
        self._clock = clock
        self._lock = threading.Lock()

    def begin(self, user: str, address: str) -> float:
        """Before a password is compared: counts the try as failed until it is known to be another.

        Otherwise a thousand tries at once would all be the first.

        Args:
            user: what two spellings of a name have in common.
            address: where it comes from.

        Returns:
            Seconds that user or address must wait from now on, should the try fail.

        Raises:
            TooManyLoginsError: a pause is not over; the try doesn't count.
        """
        with self._lock:
            now = self._clock()
            keys = ((self._users, _user_key(user)), (self._addresses, _address_key(address)))
            left = max(counter.left(key, now) for counter, key in keys)
            if left > 0:
                seconds = math.ceil(left)
                msg = f"too many failed logins; try again in {seconds} s"
                raise TooManyLoginsError(msg, seconds)
            return max(counter.add(key, now) for counter, key in keys)

    def succeeded(self, user: str, address: str) -> None:
        """It was the right password: the user's failures are forgotten; of the address's only this try.

        An address with one valid login could otherwise go on guessing others' for ever.
        """
        with self._lock:
            self._users.forget(_user_key(user))
            self._addresses.take_back(_address_key(address))

    def undecided(self, user: str, address: str) -> None:
        """Nobody could tell whether it was the right password: the try doesn't count."""
        with self._lock:
            self._users.take_back(_user_key(user))
            self._addresses.take_back(_address_key(address))


class _Counter:
    """Failures by key, the longest quiet first."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self._failures: OrderedDict[bytes, tuple[int, float]] = OrderedDict()  # how many, when the last

    def left(self, key: bytes, now: float) -> float:
        count, last = self._failures.get(key, (0, now))
        return last + self._pause(count) - now

    def add(self, key: bytes, now: float) -> float:
        count, last = self._failures.pop(key, (0, now))
        count = 1 if now - last >= self._pauses.forgotten_s else count + 1
        self._failures[key] = (count, now)
        if len(self._failures) > self._pauses.most:
            self._failures.popitem(last=False)
        return self._pause(count)

    def take_back(self, key: bytes) -> None:
        count, last = self._failures.get(key, (0, 0.0))
        if count > 1:
            self._failures[key] = (count - 1, last)
        else:
            self.forget(key)

    def forget(self, key: bytes) -> None:
        self._failures.pop(key, None)

    def _pause(self, count: int) -> float:
        beyond = count - self._pauses.free
        if beyond <= 0:
            return 0.0
        return min(self._pauses.longest_s, self._pauses.first_s * 2.0 ** min(beyond - 1, 60))


def _user_key(user: str) -> bytes:
    """Of one size, whatever somebody sent."""
    return hashlib.blake2b(user.encode(errors="surrogatepass"), digest_size=16).digest()


def _address_key(address: str) -> bytes:
    """IPv6 addresses by their /64, which is what one customer has; an IPv4 address in IPv6 is that IPv4 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return _user_key(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return parsed.ipv4_mapped.packed
        return parsed.packed[:8]
    return parsed.packed
