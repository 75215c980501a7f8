"""What clients sent and what the server answered for, and whether a ledger and its files agree with that."""

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lib.store.versions import Version

_DIGITS = 12  # of the hash of what was sent, in the name of a version's file
_SENT = re.compile(rf"-([0-9a-f]{{{_DIGITS}}})\.")


@dataclass(frozen=True)
class Submission:
    """A label that a client sends.

    Args:
        client: who sends it.
        image: what it is for.
        sha256: of the bytes sent.
    """

    client: str
    image: str
    sha256: str


class Acknowledged(NamedTuple):
    """A version that the server told a client of.

    Args:
        image: of which image.
        tag: of the label.
        number: of the version.
        sha256: of its file, as the server told it.
        client: who was told.
        source: `client` or `restored`.
    """

    image: str
    tag: str
    number: int
    sha256: str
    client: str
    source: str


class Journal:
    """Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: defaultdict[str, list[Submission]] = defaultdict(list)
        self._cut: dict[str, Submission] = {}
        self._answered: Counter[str] = Counter()
        self._acknowledged: list[Acknowledged] = []
        self._shown: dict[str, str] = {}

    @property
    def acknowledged(self) -> list[Acknowledged]:
        """All versions that clients were told of."""
        with self._lock:
            return list(self._acknowledged)

    def counts(self, clients: Iterable[str]) -> dict[str, int]:
        """How many labels each of some clients was told to be saved."""
        counted = Counter(one.client for one in self.acknowledged if one.source == "client")
        return {client: counted[client] for client in clients}

    def sends(self, submission: Submission) -> None:
        """A label is about to be sent as a whole; call it once for each time."""
        with self._lock:
            self._sent[submission.sha256[:_DIGITS]].append(submission)

    def cuts(self, submission: Submission) -> None:
        """Only a part of a label is about to be sent."""
        with self._lock:
            self._cut[submission.sha256[:_DIGITS]] = submission

    def saved(self, submission: Submission, answer: Mapping[str, Any]) -> None:
        """The server answered that a label is saved."""
        version = Acknowledged(
            submission.image, answer["tag"], answer["version"], answer["sha256"], submission.client, "client"
        )
        with self._lock:
            self._answered[submission.sha256[:_DIGITS]] += 1
            self._acknowledged.append(version)

    def restored(self, client: str, answer: Mapping[str, Any]) -> None:
        """The server answered that an old version is the newest again."""
        version = Acknowledged(answer["image"], answer["tag"], answer["number"], answer["sha256"], client, "restored")
        with self._lock:
            self._acknowledged.append(version)

    def shown(self, image: str, sha256: str) -> None:
        """A client was given a label with this content."""
        with self._lock:
            self._shown[sha256] = image

    def complaints(self, versions: Iterable[Version], content: Callable[[Version], str | None]) -> list[str]:
        """All in which a ledger and its files differ from what clients sent and were told.

        Args:
            versions: every version of the ledger.
            content: the hash of a version's file as it lies on the disk, None if it is gone.

        Returns:
            A sentence for each; none if every acknowledged label is there as it was, nothing is there twice and nothing
            that nobody sent as a whole.
        """
        with self._lock:
            kept = {(one.image_id, one.tag, one.number): one for one in versions}
            found = [*self._lost(kept), *self._numbers(kept)]
            for version in kept.values():
                if content(version) != version.sha256:
                    found.append(f"{_named(version)}: its file is missing or not what the ledger says")
            known = {version.sha256 for version in kept.values()}
            found += [
                f"{image}: a client was given a label ({sha256[:_DIGITS]}) that is no version"
                for sha256, image in self._shown.items()
                if sha256 not in known
            ]
            return [*found, *self._not_as_sent(kept.values())]

    def _lost(self, kept: Mapping[tuple[str, str, int], Version]) -> Iterable[str]:
        told: set[tuple[str, str, int]] = set()
        for one in self._acknowledged:
            key = (one.image, one.tag, one.number)
            name = f"{one.image}, {one.tag}, version {one.number}"
            version = kept.get(key)
            if key in told:
                yield f"{name}: two clients were told that it is theirs"
            told.add(key)
            if version is None:
                yield f"{name} of {one.client} is lost: the ledger has no such version"
            elif (version.sha256, version.author, version.source) != (one.sha256, one.client, one.source):
                yield f"{name} of {one.client} is another label now, or another's"

    @staticmethod
    def _numbers(kept: Mapping[tuple[str, str, int], Version]) -> Iterable[str]:
        numbers: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for image, tag, number in kept:
            numbers[image, tag].append(number)
        for (image, tag), found in numbers.items():
            if sorted(found) != list(range(1, len(found) + 1)):
                yield f"{image}, {tag}: versions are not numbered 1, 2, 3"

    def _not_as_sent(self, kept: Iterable[Version]) -> Iterable[str]:
        """Of each submission as many versions as were answered for; one more where a client went before the answer."""
        versions: defaultdict[str, list[Version]] = defaultdict(list)
        for version in kept:
            if version.source == "client":
                match = _SENT.search(version.file)
                versions[match[1] if match else ""].append(version)
        for digits, found in versions.items():
            sent = self._sent.get(digits, [])
            if digits in self._cut:
                yield f"{_named(found[0])}: only a part of it was sent"
            elif not sent:
                yield f"{_named(found[0])}: nobody sent it"
            elif len(found) > len(sent):
                yield f"{_named(found[-1])}: sent {len(sent)} times, kept {len(found)} times"
        for digits, answered in self._answered.items():
            if len(versions[digits]) < answered:
                yield f"{digits}: {answered} times answered for, kept {len(versions[digits])} times"


def _named(version: Version) -> str:
    return f"{version.image_id}, {version.tag}, version {version.number}"
