"""No name, id or birth date of a patient is in a log, an answer about jobs or the ledger's events, whatever happens.

Each flow marks what may name a patient: headers, names of files that are sent, queries, and values of requests.
"""

import gzip
import json
import stat

import nibabel as nib
import numpy as np
import pydicom
import pytest
import requests

from lib.volume_io import write_label
from lib.web.log import write_log_configuration
from tests.faulty_pacs import FaultyPacs
from tests.loop.faulty_site import CONF, NAMES, VOLUME, FaultySite, listed
from tests.loop.prepared_server import PreparedServer
from tests.loop.running_server import MODEL, make_app, open_session, wait_until
from tests.loop.studies import phantom, write_series
from tests.orthanc import slices_of

pytestmark = pytest.mark.server

_MARK = "ZZPHI"
_BORN = "19330917"
_SMALL = (32, 32, 6)
_TRAINING = {
    "training.max_epochs": 1,
    "training.patch_size": 32,
    "training.slices_per_case": 2,
    "training.threads": 1,
    "training.cross_validate_below": 0,
}


class Watched(PreparedServer):
    """A server with the log of scripts/serve, and with or without the guard, which lets less through to be logged."""

    def __init__(self, preparation, studies, folder, *, app, conf, guarded, environment=None):
        super().__init__(preparation, studies, folder, app=app, conf=conf, environment=environment)
        self._command += ["--log_config", str(write_log_configuration(app)), "--verbose", "INFO"]
        self._command += ["--uvicorn_app", "lib.web.guarded:app"] if guarded else []

    def told(self):
        """Whatever somebody can read who may not see patients, by where it stands."""
        jobs = [self.ask("GET", f"{path}?all=true").reason for path in ("/train/", "/scoring/", "/batch/infer")]
        events = self.ask("GET", "/ledger/events?limit=1000").reason
        return {
            "console": self.log(),
            **{path.name: path.read_text() for path in (self.app / "logs").glob("app.log*")},
            "jobs": json.dumps(jobs),
            "events": json.dumps(events),
            "metrics": str(self.ask("GET", "/metrics").reason),
        }


def assert_private(server, *, lines):
    """The marks are nowhere; the lines, which prove that there was something to tell, are in the log."""
    told = server.told()
    for where, text in told.items():
        for line in text.splitlines():
            assert _MARK.lower() not in line.lower(), f"{where}: {line}"
            assert _BORN not in line, f"{where}: {line}"
            assert "Traceback" not in line, f"{where}: {line}"
    for line in lines:
        assert line in told["app.log"], told["app.log"][-4000:]


def marked_nifti(path, volume):
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.header["descrip"], image.header["db_name"], image.header["aux_file"] = (f"{_MARK} {_BORN}", _MARK, _MARK)
    nib.save(image, path)
    return path


def marked_nrrd(path, fields=""):
    text = (
        f"NRRD0004\n# {_MARK}\ncontent: {_MARK}\ntype: short\ndimension: 3\nsizes: 4 4 2\nencoding: raw\n"
        f"endian: little\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nspace: {_MARK}\n"
        f"{fields}patient:={_MARK}\n\n"
    )
    path.write_bytes(text.encode() + b"\0" * 64)
    return path


def test_a_folder(preparation, tmp_path):
    image = phantom(29, _SMALL)
    studies = tmp_path / "studies"
    studies.mkdir()
    for seed in range(3):
        marked_nifti(studies / f"case_{seed}.nii.gz", phantom(20 + seed, _SMALL).image)
    marked_nrrd(studies / "bad_space.nrrd")
    (studies / "bad_text.nii.gz").write_bytes(gzip.compress(f"{_MARK} {_BORN}".encode() * 40))
    (studies / "bad_raw.nii").write_bytes(f"{_MARK} {_BORN}".encode() * 40)
    conf = {"inference.engine": "pytorch", **_TRAINING}
    app = make_app(tmp_path / "app")
    with Watched(preparation, studies, tmp_path / "run", app=app, conf=conf, guarded=False) as server:
        wait_until(lambda: server.ask("GET", "/info/").reason["datastore"]["total"] >= 3, "the listing", 0.05)
        statuses = []

        def ask(method, path, **options):
            answer = server.ask(method, path, **options)
            statuses.append(answer.status)
            return answer

        def send(method, path, file, field="file", name=None, **data):
            with file.open("rb") as content:
                files = {field: (name or f"zzphi^marker{''.join(file.suffixes)}", content)}
                return ask(method, path, files=files, data={key: json.dumps(value) for key, value in data.items()})

        sent = marked_nifti(tmp_path / "zzphi-marker.nii.gz", image.image)
        bad = {
            "text": studies / "bad_text.nii.gz", "raw": studies / "bad_raw.nii", "space": studies / "bad_space.nrrd",
            "field": marked_nrrd(tmp_path / "field.nrrd", f"{_MARK}: {_MARK}\n"),
            "line": marked_nrrd(tmp_path / "line.nrrd", f"{_MARK} {_MARK}\n"),
            "sizes": marked_nrrd(tmp_path / "sizes.nrrd", f"sizes: {_MARK}\n"),
        }  # fmt: skip
        # What is well.
        assert send("POST", f"/infer/{MODEL}", sent).status == 200
        assert send("POST", f"/infer/{MODEL}?session_id={open_session(server, [sent])}", sent).status == 200
        assert send("PUT", "/datastore/image?image=added", sent).status == 200
        assert ask("POST", "/activelearning/first", json={}).status == 200
        label = tmp_path / "zzphi-label.nii.gz"
        for number in range(3):
            write_label(label, phantom(20 + number, _SMALL).label)
            sent_label = {"label_info": NAMES}
            path = f"/datastore/label?image=case_{number}"
            assert send("PUT", path, label, "label", params=sent_label).status == 200
        # What is refused, or fails.
        for name in ("bad_space", "bad_text", "bad_raw", _MARK):
            ask("POST", f"/infer/{MODEL}?image={name}&patient={_MARK}")
        for name, file in bad.items():
            send("POST", f"/infer/{MODEL}", file)
            send("PUT", f"/datastore/image?image=sent_{name}", file)
            send("PUT", "/datastore/image", file)
            send("PUT", "/datastore/label?image=case_0", file, "label")
            opened = send("PUT", "/session/", file, "files")
            assert (opened.status == 400) or name not in {"text", "raw"}  # of no kind that is known
            if opened.status == 200:
                send("POST", f"/infer/{MODEL}?session_id={opened.reason['session_id']}", sent)
        series = write_series(tmp_path / "series", image.image)
        for path in series:
            item = pydicom.dcmread(path)
            item.PatientName, item.PatientID, item.PatientBirthDate = f"{_MARK}^MARKER", _MARK, _BORN
            item.OtherPatientNames = _MARK * 20  # longer than allowed
            item.save_as(path)
        assert ask("POST", f"/infer/{MODEL}?session_id={open_session(server, series)}").status == 200
        ask("POST", f"/infer/{MODEL}?session_id={open_session(server, series[:1] + series[2:])}")
        with series[0].open("r+b") as file:
            file.truncate(700)
        ask("POST", f"/infer/{MODEL}?session_id={open_session(server, series)}")
        sent_label = {"label_info": [{"name": "what an annotator typed", "idx": 1}]}
        send("PUT", "/datastore/label?image=case_0", label, "label", params=sent_label)
        send("PUT", f"/datastore/label?image={_MARK}", label, "label")
        send("PUT", f"/datastore/label?image=case_0&tag=a/{_MARK}", label, "label")
        for params in (f'{{"{_MARK}"', json.dumps([_MARK]), json.dumps({"device": _MARK}), json.dumps({_MARK: _MARK})):
            ask("POST", f"/infer/{MODEL}?image=case_0", data={"params": params})
        for path in (
            f"/info/?name={_MARK}", f"/{_MARK}", f"/datastore/image?image={_MARK}", f"/session/{_MARK}",
            f"/datastore/label?label={_MARK}&tag=final", f"/ledger/events?image={_MARK}^", f"/ohif/{_MARK}",
            f"/ledger/images/{_MARK}/versions", f"/proxy/dicom/studies?PatientName={_MARK}*",
        ):  # fmt: skip
            ask("GET", path)
        for path in (f"/activelearning/{_MARK}", f"/train/{_MARK}", f"/scoring/{_MARK}", f"/batch/infer/{_MARK}"):
            ask("POST", path, json={})
            ask("POST", path, data=_MARK)
        for method in ("PUT", "DELETE"):
            ask(method, f"/datastore/image/info?image={_MARK}", data={"info": json.dumps({_MARK: _MARK})})
        assert {200, 400, 404, 422} <= set(statuses)
        assert not [status for status in statuses if status >= 500], statuses
        client = server.client()
        client.train_start(MODEL, {"max_epochs": 1, "val_split": 0.34})
        assert server.finished("/train/")["status"] == "DONE"
        assert_private(server, lines=["POST /infer/{model} refused: BadInputError", "epoch 1/1"])


def test_a_pacs(preparation, orthanc, pacs: FaultyPacs, tmp_path):
    site = FaultySite(preparation, orthanc, pacs, tmp_path, count=0)
    for seed in range(2):
        slices = slices_of(phantom(30 + seed, _SMALL).image, f"1.2.3.{seed}", "20240501", _MARK, f"{_MARK} CT")
        for one in slices:
            one.PatientName, one.PatientBirthDate = f"{_MARK}^MARKER{seed}", _BORN
            one.OtherPatientIDs, one.InstitutionName = _MARK, _MARK * 30
        orthanc.fill(slices)
        site.series[str(slices[0].SeriesInstanceUID)] = slices
    one, other = site.series
    bad = [pydicom.dcmread(path) for path in write_series(tmp_path / "bad", phantom(40, _SMALL).image)]
    for item in bad:
        item.PatientName, item.PatientID, item.PixelSpacing = f"{_MARK}^BAD", _MARK, [0, 0]
    orthanc.fill(bad)
    conf = {**CONF, **_TRAINING, "pacs.folder": site.working}
    run = tmp_path / "run"
    with Watched(
        preparation, pacs.url, run, app=site.app, conf=conf, guarded=True, environment=orthanc.login
    ) as server:
        listed(server, 3)
        assert server.infer(one, VOLUME).status == 200
        site.submit(server, one, "label")
        assert server.ask("POST", "/activelearning/random", json={}).status == 200
        assert server.infer(bad[0].SeriesInstanceUID).status == 400
        wait_until(lambda: site.in_pacs(), "the label in the PACS", 0.05)
        dicom = {"Accept": "application/dicom+json"}
        found = server.ask("GET", f"/proxy/dicom/studies?PatientName={_MARK}*&fuzzymatching=true", headers=dicom)
        assert (found.status, _MARK in str(found.reason)) == (200, True)
        for path in (f"studies/{_MARK}", f"patients?PatientName={_MARK}", "studies/1.2.3/series?PatientID=" + _MARK):
            server.ask("GET", f"/proxy/dicom/{path}", headers=dicom)
        for body in (_MARK.encode() * 9, *_segs(site, one, other)):
            assert _stow(server, body) in {200, 202, 400, 409, 415}
        pacs.fails(500)
        server.ask("GET", f"/proxy/dicom/studies?PatientName={_MARK}", headers=dicom)
        pacs.works()
        wait_until(lambda: server.ask("GET", "/ledger/status").reason["pacs"]["not_taken_in"] > 0, "the bad SEG", 0.1)
        assert server.ask("POST", f"/batch/infer/{MODEL}", json={}).status == 200
        asked = requests.get(f"{server.url}/info/?patient={_MARK}", headers={"X-Request-ID": "edge-7.1"}, timeout=60)
        assert asked.headers["X-Request-ID"] == "edge-7.1"
        server.finished("/batch/infer")
        lines = ["is not taken in", "is stored in the PACS", "could not be segmented", "[edge-7.1] GET /info/ 4"]
        assert_private(server, lines=[*lines, "GET /proxy/dicom/{path:path} 200 "])
        assert stat.S_IMODE((server.app / "logs" / "app.log").stat().st_mode) == 0o600


def _segs(site, one, other):
    """SEGs that can't be used: damaged, of other segments, of a series elsewhere."""
    for key, change in {
        "kind": lambda seg: setattr(seg, "SegmentationType", _MARK),
        "frames": lambda seg: setattr(seg, "NumberOfFrames", 99),
        "segments": lambda seg: [setattr(item, "SegmentDescription", _MARK) for item in seg.SegmentSequence],
        "codes": lambda seg: [
            setattr(item.SegmentedPropertyTypeCodeSequence[0], "CodeValue", "1") for item in seg.SegmentSequence
        ],
        "references": lambda seg: setattr(seg.ReferencedSeriesSequence[0], "SeriesInstanceUID", f"1.2.{len(other)}"),
    }.items():
        seg = site.seg(one, key)
        seg.SeriesDescription, seg.ContentDescription = _MARK, _MARK
        change(seg)
        with pydicom.filebase.DicomBytesIO() as file:
            pydicom.dcmwrite(file, seg, write_like_original=False)
            yield file.getvalue()


def _stow(server, content):
    body = b"--mark\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--mark--\r\n"
    kind = 'multipart/related; type="application/dicom"; boundary=mark'
    return server.ask("POST", "/proxy/dicom/studies", data=body, headers={"Content-Type": kind}).status


def test_the_marks_would_be_found(tmp_path):
    path = marked_nifti(tmp_path / "image.nii.gz", phantom(20, _SMALL).image)
    assert np.asarray(nib.load(path).header["descrip"]).item().decode() == f"{_MARK} {_BORN}"
