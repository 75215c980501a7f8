"""A server with phantoms for 3D Slicer, over a studies folder or over a PACS, and where volumes lie."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from lib.dicomweb.settings import PASSWORD, USER
from lib.phantom import Phantom
from tests.loop.preparation import Preparation
from tests.loop.running_server import RunningServer, make_app, wait_until
from tests.loop.studies import phantom, write_studies
from tests.orthanc import Orthanc, orthanc_or_skip, slices_of

SEEDS = range(60, 65)
_LOGIN = {"annotator": "correct horse ü"}
_CONF = {
    "inference.engine": "pytorch",  # choosing another takes seconds of the CPU
    "training.max_epochs": 2,
    "training.patch_size": 64,
    "training.slices_per_case": 4,
    "training.threads": 1,
    "training.cross_validate_below": 0,
    "training.by_itself.niceness": 0,
}


@dataclass
class Site:
    """A server with phantoms.

    Args:
        kind: "folder" or "pacs".
        server: over a studies folder or a PACS.
        folder: where the server keeps labels and ledger.
        cases: phantoms by image id.
        pacs: where the images come from, None for a folder.
    """

    kind: str
    server: RunningServer
    folder: Path
    cases: dict[str, Phantom]
    pacs: Orthanc | None = None

    def free_all(self) -> None:
        """Nobody has an image."""
        for lease in self.server.ask("GET", "/ledger/leases").reason:
            assert self.server.ask("DELETE", f"/ledger/leases/{lease['image_id']}").status == 200

    def let_leases_end(self) -> None:
        """An hour goes by."""
        with closing(sqlite3.connect(self.folder / "ledger" / "ledger.sqlite", timeout=30)) as connection:
            connection.execute("UPDATE leases SET expires_at = expires_at - 3600")
            connection.commit()

    def versions(self, image_id: str) -> list[dict[str, Any]]:
        """The versions of an image's final label, the newest first."""
        return list(self.server.ask("GET", f"/ledger/images/{image_id}/versions?tag=final").reason)


@contextmanager
def folder_site(warm: Preparation, folder: Path) -> Iterator[Site]:
    """Phantoms in a folder."""
    cases = write_studies(folder / "studies", SEEDS)
    with RunningServer(warm, folder / "studies", folder / "run", app=make_app(folder / "app"), conf=_CONF) as server:
        yield Site("folder", server, folder / "studies", cases)


@contextmanager
def pacs_site(warm: Preparation, folder: Path) -> Iterator[Site]:
    """Phantoms in an Orthanc that wants a login."""
    with orthanc_or_skip(_LOGIN) as orthanc:
        cases = {}
        for seed in SEEDS:
            case = phantom(seed)
            series = slices_of(case.image, generate_uid(), "20240501", f"P{seed}", "portal venous")
            orthanc.fill(series)
            cases[str(series[0].SeriesInstanceUID)] = case
        ((user, password),) = _LOGIN.items()
        with RunningServer(
            warm,
            orthanc.url,
            folder / "run",
            app=make_app(folder / "app"),
            conf={**_CONF, "pacs.folder": folder / "working", "pacs.poll_seconds": 1},
            environment={USER: user, PASSWORD: password},
        ) as server:
            wait_until(lambda: server.ask("GET", "/info/").reason["datastore"]["total"] == len(cases), "the listing")
            yield Site("pacs", server, folder / "working", cases, orthanc)


SITES = {"folder": folder_site, "pacs": pacs_site}


def same_place(one: SimpleITK.Image, other: SimpleITK.Image) -> None:
    """Make sure that two images have the same grid in the patient."""
    assert one.GetSize() == other.GetSize()
    for get in (SimpleITK.Image.GetOrigin, SimpleITK.Image.GetSpacing, SimpleITK.Image.GetDirection):
        np.testing.assert_allclose(get(one), get(other), atol=1e-4)


def on_grid_of(volume: SimpleITK.Image, path: Path) -> NDArray[Any]:
    """Another volume's values at the voxels of this one, as an array `(Z, Y, X)`."""
    other = SimpleITK.ReadImage(str(path))
    assert np.prod(other.GetSize()) == np.prod(volume.GetSize())
    return SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(other, volume, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
    )
