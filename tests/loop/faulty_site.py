"""A real server on an Orthanc behind a proxy with faults, and what a real client is told there."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.client.client import MONAILabelClientException
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from lib.dicom.series import series_grid
from lib.dicom_seg.source import source_of
from lib.volume import Volume
from lib.volume_io import write_label
from tests.faulty_pacs import FaultyPacs
from tests.loop.preparation import Preparation
from tests.loop.prepared_server import PreparedServer
from tests.loop.running_server import RunningServer, make_app, wait_until
from tests.orthanc import Orthanc, ct_series
from tests.store.pacs_site import two_classes

NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
VOLUME = {"result_extension": ".nii.gz"}
CONF = {
    "inference.engine": "pytorch",
    "inference.prefetch": False,  # or it fetches what tests want to be fetched later
    "pacs.poll_seconds": 1,
    "pacs.connect_seconds": 1,
    "pacs.read_seconds": 1,
}


class FaultySite:
    """Some CTs in a PACS with faults, and a server's folders.

    Args:
        preparation: what servers are made from.
        orthanc: holds the CTs.
        pacs: before it.
        folder: for all that servers write.
        count: of CTs.
    """

    def __init__(
        self, preparation: Preparation, orthanc: Orthanc, pacs: FaultyPacs, folder: Path, count: int = 4
    ) -> None:
        self.preparation, self.orthanc, self.pacs, self.folder = preparation, orthanc, pacs, folder
        found = [ct_series(seed, shape=(32, 32, 6), patient=f"P{seed}") for seed in range(1, count + 1)]
        orthanc.fill(*found)
        self.series: dict[str, list[Dataset]] = {str(one[0].SeriesInstanceUID): one for one in found}
        self.working = folder / "working"
        self.app = make_app(folder / "app")
        self._runs = 0

    def server(self, **conf: Any) -> PreparedServer:
        """One that is not started yet; all have one working folder."""
        self._runs += 1
        conf = {**CONF, "pacs.folder": self.working, **{key.replace("__", "."): value for key, value in conf.items()}}
        run = self.folder / f"run{self._runs}"
        return PreparedServer(
            self.preparation, self.pacs.url, run, app=self.app, conf=conf, environment=self.orthanc.login
        )

    def label(self, image_id: str, key: str) -> Path:
        """A label for an image, another one for each key."""
        path = self.folder / f"{key}.nii.gz"
        write_label(path, self._drawn(image_id, key))
        return path

    def seg(self, image_id: str, key: str) -> Dataset:
        """The same as a SEG of another program."""
        slices = self.series[image_id]
        seg = two_classes(source_of(slices), self._drawn(image_id, key))
        seg.PatientID, seg.PatientName = slices[0].PatientID, slices[0].PatientName
        seg.StudyInstanceUID = slices[0].StudyInstanceUID
        seg.SeriesInstanceUID = generate_uid()
        seg.Modality, seg.preamble = "SEG", bytes(128)
        seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return seg

    def submit(self, server: RunningServer, image_id: str, key: str, client: str = "anna") -> None:
        """Send a label as an annotator does."""
        path = self.label(image_id, key)
        server.client(client).save_label(image_id, str(path), params={"label_info": NAMES})

    def in_pacs(self) -> list[tuple[str, str]]:
        """Series UID of the CT and description of each SEG that is in the PACS, by the time of its content."""
        found = []
        for one in self.orthanc.pacs().find_series("SEG"):
            for seg in self.orthanc.objects(one.series_uid):
                when = (str(seg.ContentDate), str(seg.ContentTime))
                of = str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
                found.append((when, of, str(seg.get("SeriesDescription", ""))))
        return [(of, description) for _, of, description in sorted(found)]

    def _drawn(self, image_id: str, key: str) -> Volume:
        grid = series_grid(self.series[image_id], image_id).grid
        array = np.random.default_rng(zlib.crc32(key.encode())).choice(np.array([0, 1, 2], np.uint8), grid.shape)
        return Volume(np.asfortranarray(array), grid.affine)


def listed(server: RunningServer, count: int) -> None:
    """Wait until the server knows so many images."""
    wait_until(lambda: server.client().info()["datastore"]["total"] == count, "the listing", pause_s=0.05)


def exchange(server: RunningServer) -> dict[str, Any]:
    """What the ledger tells of the PACS."""
    return dict(server.ask("GET", "/ledger/status").reason["pacs"])


def told(ask: Callable[[], object]) -> tuple[int, str]:
    """HTTP status and reason that a client which fails is given."""
    try:
        answer = ask()
    except MONAILabelClientException as error:
        status, _, answer = error.msg.removeprefix("Status: ").partition("; Response: ")
        return int(status), json.loads(answer)["detail"]
    msg = f"the client was not refused but got {answer!r}"
    raise AssertionError(msg)
