"""An Orthanc of our own with DICOMweb on a loopback port, everything in a temporary folder, ended whatever happens."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client.web import DICOMwebClient
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from requests.auth import HTTPBasicAuth

from lib.dicomweb.client import Pacs
from lib.dicomweb.settings import PASSWORD, USER, PacsSettings
from lib.phantom import make_phantom
from lib.volume import Volume

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_PATIENCE_S = 30.0


def program() -> Path | None:
    """Orthanc, None unless it and its DICOMweb plugin are installed."""
    found = shutil.which("Orthanc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    return Path(found) if found and _PLUGIN.is_file() else None


@contextmanager
def orthanc_or_skip(users: Mapping[str, str] | None = None) -> Iterator["Orthanc"]:
    """A running, empty Orthanc; the test that asks for it is skipped where none is installed."""
    found = program()
    if found is None:
        pytest.skip("no Orthanc with DICOMweb is installed; Debian's packages are orthanc and orthanc-dicomweb")
    with Orthanc(found, users) as server:
        yield server


class Orthanc:
    """Use it as a context manager.

    Args:
        program: its executable.
        users: passwords by user, for basic authentication; None lets everybody in.
    """

    def __init__(self, program: Path, users: Mapping[str, str] | None = None) -> None:
        self._program = program
        self._users = dict(users or {})
        self.folder = Path(tempfile.mkdtemp(prefix="liverloop-orthanc-"))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Orthanc":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)  # at once, as nothing of it is needed any more
        shutil.rmtree(self.folder)

    @property
    def url(self) -> str:
        """Root of its DICOMweb service."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    @property
    def api(self) -> str:
        """Root of Orthanc's own interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def login(self) -> dict[str, str]:
        """Its first user as the variables that we know ourselves by there."""
        return dict(zip((USER, PASSWORD), next(iter(self._users.items())), strict=True))

    def pacs(self, **settings: object) -> Pacs:
        """A client of ours, logged in as its first user."""
        user, password = next(iter(self._users.items()), ("", ""))
        return Pacs(PacsSettings(self.url, **{"user": user, "password": password, **settings}))

    def start(self) -> None:
        """Start it, on what it stored before, and wait until it answers."""
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self._configuration()))
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program), str(configuration)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )
        end = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                log_text = (self.folder / "server.log").read_text(errors="replace")
                msg = f"Orthanc does not start:\n{log_text[-4000:]}"
                raise RuntimeError(msg)
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it; what it stored stays."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def fill(self, *series: Sequence[Dataset]) -> None:
        """Store series, all in one STOW request."""
        session = requests.Session()
        session.auth = self._login
        session.headers["Accept"] = "application/dicom+json"
        answer = DICOMwebClient(self.url, session).store_instances([dataset for one in series for dataset in one])
        assert not answer.get("FailedSOPSequence"), answer

    def empty(self) -> None:
        """Remove all that is stored."""
        for patient in self._ask("GET", "/patients").json():
            self._ask("DELETE", f"/patients/{patient}")

    def delete(self, uid: str) -> None:
        """Remove the study, series or instance with a DICOM UID."""
        (found,) = self._ask("POST", "/tools/lookup", data=uid).json()
        self._ask("DELETE", found["Path"])

    def objects(self, series_uid: str) -> list[Dataset]:
        """What is stored of a series."""
        (found,) = self._ask("POST", "/tools/lookup", data=series_uid).json()
        instances = self._ask("GET", f"{found['Path']}/instances").json()
        files = [self._ask("GET", f"/instances/{one['ID']}/file").content for one in instances]
        return [pydicom.dcmread(BytesIO(content)) for content in files]

    def _ask(self, method: str, path: str, data: str | None = None) -> requests.Response:
        response = requests.request(method, self.api + path, data=data, auth=self._login, timeout=_PATIENCE_S)
        response.raise_for_status()
        return response

    @property
    def _login(self) -> HTTPBasicAuth | None:
        user, password = next(iter(self._users.items()), ("", ""))
        return HTTPBasicAuth(user.encode(), password.encode()) if user else None

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.api}/system", timeout=_PATIENCE_S).status_code in (200, 401)
        except requests.ConnectionError:
            return False

    def _configuration(self) -> dict[str, object]:
        storage = str(self.folder / "storage")
        return {
            "Name": "LiverLoop's tests",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(self._users),
            "RegisteredUsers": self._users,
            "Plugins": [str(_PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }


def ct_series(
    seed: int = 1,
    *,
    shape: tuple[int, int, int] = (32, 32, 6),
    study_uid: str | None = None,
    study_date: str = "20240501",
    patient: str = "P1",
    description: str = "portal venous",
) -> list[Dataset]:
    """The slices of a phantom's CT as one series of a new study, or of a given one.

    Args:
        seed: of the phantom.
        shape: columns, rows and slices.
        study_uid: of the study; None for a new one.
        study_date: `YYYYMMDD`.
        patient: the Patient ID, and part of the name.
        description: Series Description.
    """
    volume = make_phantom(seed, shape=shape).image
    return slices_of(volume, study_uid or generate_uid(), study_date, patient, description)


def slices_of(volume: Volume, study_uid: str, study_date: str, patient: str, description: str) -> list[Dataset]:
    """One dataset for each axial slice of a volume, uncompressed, stored as HU + 1024."""
    axial, affine = volume.axial(), _axial_affine(volume)
    series_uid, frame_uid = generate_uid(), generate_uid()
    found = []
    for index, pixels in enumerate(axial):
        dataset = new_dataset(CTImageStorage, study_uid, series_uid, patient)
        dataset.Modality, dataset.StudyDate, dataset.SeriesDescription = "CT", study_date, description
        dataset.FrameOfReferenceUID, dataset.InstanceNumber = frame_uid, index + 1
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        columns = affine[:3, :3] / spacing
        dataset.ImageOrientationPatient = [round(float(v), 6) for v in (*columns[:, 0], *columns[:, 1])]
        dataset.ImagePositionPatient = [round(float(v), 4) for v in affine[:3, 3] + index * affine[:3, 2]]
        dataset.PixelSpacing = [round(float(spacing[axis]), 6) for axis in (1, 0)]
        dataset.SliceThickness = round(float(spacing[2]), 6)
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (pixels.astype(np.int32) + 1024).clip(0).astype(np.uint16).tobytes()
        found.append(dataset)
    return found


def new_dataset(kind: str, study_uid: str, series_uid: str, patient: str = "P1") -> Dataset:
    """An object of a SOP class with what every DICOM object has."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.preamble = bytes(128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    dataset.PatientID, dataset.PatientName = patient, f"Phantom^{patient}"
    return dataset


def _axial_affine(volume: Volume) -> NDArray[np.float64]:
    """From `(X, Y, Z)` of `volume.axial()` to mm in LPS."""
    to_ras = ornt_transform(io_orientation(volume.affine), axcodes2ornt("LPS"))
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine @ inv_ornt_aff(to_ras, volume.shape)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
