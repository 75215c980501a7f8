"""What must be true of a studies folder after any number of saves and crashes, looked at without the server."""

import hashlib
from pathlib import Path

from lib.store import versions
from lib.store.layout import FINAL, Layout
from lib.store.ledger import Ledger
from lib.store.versions import Version
from lib.volume_io import read_label
from tests.loop.savers import Cases, Journal

TEMPORARY = ".writing-"  # how files begin that were not finished


class KeptLabels:
    """Compares folder and ledger with what clients sent; what was found good once is not read again.

    Args:
        cases: the images and their labels.
        ledger_url: the ledger's database.
    """

    def __init__(self, cases: Cases, ledger_url: str) -> None:
        self._cases = cases
        self.layout = Layout(cases.studies)
        self._ledger = Ledger(ledger_url)
        self._good: set[Path] = set()

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def pending(self) -> list[tuple[str, str]]:
        """Labels that the server has still to show."""
        with self._ledger.reading() as connection:
            return versions.pending(connection)

    def history(self, image: str) -> list[Version]:
        """The versions of an image's final label, the oldest first."""
        with self._ledger.reading() as connection:
            return versions.history(connection, image, FINAL)[::-1]

    def check(self, journal: Journal, *, shown: bool = True) -> None:
        """Every acknowledged label is there as it was sent, nothing is there twice, half or that nobody sent.

        Args:
            journal: what was sent and answered.
            shown: the newest of each image is shown; False: an older one may still be.
        """
        found: dict[str, Version] = {}
        for image in self._cases.names:
            kept = self.history(image)
            assert [version.number for version in kept] == list(range(1, len(kept) + 1)), image
            for version in kept:
                assert version.sha256 not in found, f"{version} is there twice"
                found[version.sha256] = version
                sent = journal.sent[version.sha256]
                assert (version.image_id, version.author, version.source) == (sent.image, sent.client, "client")
                self._read(self.layout.versions / version.file, version.sha256)
            path = self.layout.shown(image, FINAL)
            assert path.exists() == bool(kept)
            if kept:
                right = kept[-1:] if shown else kept
                assert _sha256(path) in {version.sha256 for version in right}, image
        lost = [saved for saved in journal.acknowledged if saved.sha256 not in found]
        assert not lost
        self._check_files(journal)

    def check_order(self, journal: Journal) -> None:
        """Versions are numbered in the order of their saving, and each client's in the order in which it saved."""
        answered = {saved.sha256 for saved in journal.acknowledged}
        for image in self._cases.names:
            kept = self.history(image)
            times = [version.saved_at for version in kept]
            assert times == sorted(times)
            numbers: dict[str, list[int]] = {}
            for version in kept:
                if version.sha256 in answered:
                    sent = journal.sent[version.sha256]
                    numbers.setdefault(sent.client, []).append(sent.number)
            assert all(of_client == sorted(of_client) for of_client in numbers.values())

    def _check_files(self, journal: Journal) -> None:
        """No file in sight is half-written, whether the ledger knows it or not."""
        for path in self.layout.versions.rglob("*"):
            if path.is_file() and not path.name.startswith(TEMPORARY) and path not in self._good:
                sha256 = _sha256(path)
                assert sha256 in journal.sent, f"{path} is of no version and nobody sent it"
                self._read(path, sha256)
        for path in self.layout.labels.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                assert path in {self.layout.shown(image, FINAL) for image in self._cases.names}
                read_label(path)

    def _read(self, path: Path, sha256: str) -> None:
        if path in self._good:
            return
        assert _sha256(path) == sha256, path
        assert read_label(path).array.any(), path
        if self.layout.versions in path.parents:  # others are replaced
            self._good.add(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
