"""Clients that save labels as fast as they can, each label another one, and remember what the server answered."""

import gzip
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
from numpy.typing import NDArray

from lib.phantom import Phantom
from lib.volume_io import read_grid, write_image
from tests.loop.studies import phantom

SHAPE = (24, 24, 8)
_NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
_BITS = 64


@dataclass(frozen=True)
class Saved:
    """One label sent.

    Args:
        client: who sent it.
        number: counts up for each client.
        image: what it was sent for.
        sha256: of the bytes sent.
    """

    client: str
    number: int
    image: str
    sha256: str


@dataclass
class Journal:
    """What all clients sent, and what of it the server answered for; ordered for each client."""

    sent: dict[str, Saved] = field(default_factory=dict)
    acknowledged: list[Saved] = field(default_factory=list)
    refused: list[tuple[Saved, int, str]] = field(default_factory=list)
    broken_off: list[Saved] = field(default_factory=list)


class Cases:
    """Small phantoms in a studies folder and any number of different labels for each."""

    def __init__(self, studies: Path, count: int) -> None:
        self.studies = studies
        self.names = [f"case_{number}" for number in range(count)]
        cases: list[Phantom] = [phantom(number, SHAPE) for number in range(count)]
        self._labels: dict[str, NDArray[np.uint8]] = {}
        for name, case in zip(self.names, cases, strict=True):
            write_image(studies / f"{name}.nii.gz", case.image)
            self._labels[name] = case.label.array
        self._affines = {name: read_grid(studies / f"{name}.nii.gz").affine for name in self.names}

    def array(self, image: str, key: int) -> NDArray[np.uint8]:
        """The image's label with the bits of a number written across it."""
        array = self._labels[image].copy()
        array.reshape(-1)[:_BITS] = [1 + (key >> bit) % 2 for bit in range(_BITS)]
        return array

    def content(self, image: str, key: int) -> bytes:
        """The same as a `.nii.gz` file."""
        volume = nib.Nifti1Image(self.array(image, key), self._affines[image])
        return gzip.compress(volume.to_bytes(), compresslevel=1, mtime=0)


class Client(threading.Thread):
    """Saves one label after the other until it is told to stop or the server is gone.

    Args:
        url: of the server.
        name: sent as `client_id`.
        cases: what to send.
        images: which images in turn.
        journal: where to write down what was sent and answered.
    """

    def __init__(self, url: str, name: str, cases: Cases, images: Sequence[str], journal: Journal) -> None:
        super().__init__(name=name, daemon=True)
        self._url, self._cases, self._images, self._journal = url, cases, images, journal
        self._number = 0
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) << 32
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """Ask it to end after what it sends now."""
        self._stop_asked.set()

    def run(self) -> None:
        """Save."""
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop_asked.is_set():
                image = self._images[self._number % len(self._images)]
                self._number += 1
                key = self._key + self._number
                if save(session, self._url, image, self._cases, self.name, key, self._journal) is None:
                    return


def save(
    session: requests.Session, url: str, image: str, cases: Cases, client: str, key: int, journal: Journal
) -> requests.Response | None:
    """Save a label as MONAI Label's own client does; None where the server broke off."""
    content = cases.content(image, key)
    saved = Saved(client, key, image, hashlib.sha256(content).hexdigest())
    journal.sent[saved.sha256] = saved  # before the server can know of it
    try:
        answer = session.put(
            f"{url}/datastore/label",
            params={"image": image, "tag": "final"},
            data={"params": json.dumps({"client_id": client, "label_info": _NAMES})},
            files={"label": (f"{image}.nii.gz", content)},
            timeout=120,
        )
    except requests.RequestException:
        journal.broken_off.append(saved)
        return None
    if answer.status_code == 200:
        journal.acknowledged.append(saved)
    else:
        journal.refused.append((saved, answer.status_code, answer.text))
    return answer
