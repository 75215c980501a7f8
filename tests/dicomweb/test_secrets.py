"""Neither logins nor patients get into a log, whatever is logged and whatever goes wrong."""

import base64
import logging

import pytest

from lib.errors import LiverLoopError
from tests.dicomweb.bad_pacs import BadPacs, hangs_up, says
from tests.orthanc import ct_series

USER, PASSWORD, TOKEN, PATIENT = "annotator", "correct horse ü", "t0ken-of-ours", "Zyx987"
SECRETS = (PASSWORD, TOKEN, PATIENT, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())


def test_with_a_real_pacs(orthanc, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "dicomweb_client")
    series = ct_series(patient=PATIENT)
    uids = series[0].StudyInstanceUID, series[0].SeriesInstanceUID
    pacs = orthanc.pacs()
    for dataset in series:
        pacs.store(dataset)
    pacs.check()
    assert [found.patient_id for found in pacs.find_series()] == [PATIENT]
    pacs.metadata(*uids)
    pacs.references(*uids)
    pacs.fetch(*uids, tmp_path)
    for wrong in (orthanc.pacs(user="", password="", token=TOKEN), orthanc.pacs(password=PASSWORD + "!")):
        with pytest.raises(LiverLoopError) as caught:
            wrong.check()
        assert not [secret for secret in SECRETS if secret in str(caught.value)]
    assert "urllib3" in {record.name.split(".")[0] for record in caplog.records}
    assert "dicomweb_client" in {record.name.split(".")[0] for record in caplog.records}
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest.mark.parametrize(
    "answer",
    [
        hangs_up,
        says(f"<html>{PATIENT}", kind="text/html"),
        says({"Message": PATIENT, "Details": PATIENT}, 500),
        says(PATIENT, 409),
        says("", 503),
        says("", 401),
        says({"00100020": {"vr": "LO", "Value": [PATIENT]}}),
        says("", 302, Location=f"https://elsewhere.example/?{PATIENT}"),
    ],
)
@pytest.mark.parametrize("login", [{"token": TOKEN}, {"user": USER, "password": PASSWORD}])
def test_with_a_bad_one(answer, login, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    series = ct_series(shape=(16, 16, 1), patient=PATIENT)
    with BadPacs(answer) as server:
        pacs = server.pacs(**login)
        for ask in (
            pacs.check,
            lambda: pacs.metadata("1.2", "1.3"),
            lambda: pacs.fetch("1.2", "1.3", tmp_path, ["1.4"]),
            lambda: pacs.store(series[0]),
        ):
            try:
                ask()
            except LiverLoopError:
                logging.getLogger("test").exception("with its message and all that led to it")
    assert not [secret for secret in SECRETS if secret in caplog.text]
