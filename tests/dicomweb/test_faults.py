"""What PACS and networks do wrong: a clear error that names the host, tells what to do, and holds no secret."""

import json
import multiprocessing

import pytest
from pydicom.uid import SegmentationStorage

from lib.errors import BadInputError, NotFoundError, UnavailableError
from tests.dicomweb.bad_pacs import (
    MULTIPART,
    SERIES,
    STUDY,
    BadPacs,
    hangs_up,
    instance,
    listed,
    multipart,
    says,
    waits,
)
from tests.dicomweb.certificates import self_signed
from tests.orthanc import new_dataset

LISTED = says(listed("SOPInstanceUID", "1.5", "1.6", "1.7"))
EMPTY = says([])


WHOLE = multipart(*map(instance, ("1.5", "1.6", "1.7")))


def series(*sop_uids, **more):
    return listed("SeriesInstanceUID", *sop_uids, StudyInstanceUID=STUDY, Modality="CT", **more)


def failure(ask, kind=UnavailableError):
    with pytest.raises(kind) as caught:
        ask()
    return str(caught.value)


def test_too_slow():
    with BadPacs(waits(1)) as server:
        message = failure(server.pacs(read_timeout_s=0.1).check)
        assert message == (
            f"the PACS at {server.name} does not answer within 0.1 s; see that it runs and that its address is right, "
            "try again"
        )
        assert len(server.requests) == 2  # a whole time-out is not spent over and over


def test_no_such_host():
    with BadPacs(EMPTY) as server:
        server.url = "http://no-such-host.invalid/dicom-web"
        assert "the PACS at no-such-host.invalid can't be reached (no such host); see" in failure(server.pacs().check)


def test_the_reason_of_a_failure_but_no_more():
    body = {"OrthancError": "Database is locked", "Details": "Doe^Jane", "Message": "Doe^Jane"}
    with BadPacs(says(body, 500)) as server:
        assert failure(server.pacs().check) == (
            f"the PACS at {server.name} fails (HTTP 500: Database is locked); try again, and look into its log if it "
            "stays so"
        )
        assert len(server.requests) == 1
    with BadPacs(says("Doe^Jane", 500, "text/html", reason="Out of luck")) as server:
        assert "(HTTP 500: Out of luck)" in failure(server.pacs().check)


def test_an_address_above_the_dicomweb_service():
    with BadPacs(says({"OrthancError": "Bad request"}, 400)) as server:
        assert failure(server.pacs().check) == (
            f"the PACS at {server.name} fails (HTTP 400: Bad request); see that the address is the root of its "
            "DICOMweb service, often .../dicom-web, and look into its log"
        )


def test_what_may_pass_is_tried_again():
    with BadPacs(says("", 503), hangs_up, says(series("1.1"))) as server:
        server.pacs().check()
        assert len(server.requests) == 3
    with BadPacs(says("", 503, reason="Busy")) as server:
        assert "fails (HTTP 503: Busy)" in failure(server.pacs().check)
        assert len(server.requests) == 3
    for broken in (hangs_up, says(series("1.1"), cut=5)):
        with BadPacs(broken) as server:
            assert "can't be reached or broke off the connection" in failure(server.pacs().check)


@pytest.mark.parametrize("status", [401, 403])
def test_refused(status):
    with BadPacs(says("", status)) as server:
        start = f"the PACS at {server.name} refuses us (HTTP {status}): it "
        assert failure(server.pacs().check) == (
            f"{start}wants a login; set LIVERLOOP_PACS_USER and LIVERLOOP_PACS_PASSWORD, or LIVERLOOP_PACS_TOKEN"
        )
        assert failure(server.pacs(token="t0ken").check) == (
            f"{start}does not accept the token in LIVERLOOP_PACS_TOKEN; renew it"
        )
        assert failure(server.pacs(user="ann", password="s3cret").check) == (
            f"{start}does not accept the login in LIVERLOOP_PACS_USER and LIVERLOOP_PACS_PASSWORD; correct them, or "
            "the user's rights there"
        )


def test_what_is_sent_to_log_in(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with BadPacs(EMPTY) as server:
        for settings in ({}, {"token": "t0ken"}, {"user": "ann", "password": "pä:ss"}):
            server.pacs(**settings).check()
        sent = [headers.get("Authorization") for _, _, headers in server.requests]
        assert sent == [None, "Bearer t0ken", "Basic YW5uOnDDpDpzcw=="]
        assert {headers["Host"] for _, _, headers in server.requests} == {server.name}


def test_a_forked_process_has_connections_of_its_own():
    with BadPacs(EMPTY) as server:
        pacs = server.pacs()
        pacs.check()
        child = multiprocessing.get_context("fork").Process(target=pacs.check)
        child.start()
        child.join()
        pacs.check()
        first, of_child, again = server.ports
        assert child.exitcode == 0
        assert first == again != of_child


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (says("<html>Log in", kind="text/html"), "no JSON"),
        (says("5"), "JSON that is no list"),
        (says(["a"]), "no DICOM JSON"),
        (says({"error": "no"}), "no StudyInstanceUID"),
        (says(b"\xff\xfe"), "no JSON"),
    ],
)
def test_answers_that_are_no_dicomweb(answer, what):
    with BadPacs(answer) as server:
        for ask in (server.pacs().check, lambda: server.pacs().series(STUDY, SERIES)):
            assert failure(ask) == (
                f"the PACS at {server.name} gives an answer that is no DICOMweb ({what}); give the root of its "
                "DICOMweb service, often .../dicom-web, and let no login page stand before it"
            )


def test_a_login_page_elsewhere_is_not_followed():
    with BadPacs(says("", 302, Location="https://login.example/start?for=s3cret")) as server:
        assert failure(server.pacs(token="t0ken").check) == (
            f"the PACS at {server.name} sends us on to https://login.example/start; give the address behind it, and "
            "let no login page stand before it"
        )
        assert len(server.requests) == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_series_without_usable_uid_are_left_out(caplog):
    with BadPacs(says(series("1.1") + series("../2") + series("1.3")), EMPTY) as server:
        assert [one.series_uid for one in server.pacs().find_series()] == ["1.1", "1.3"]
        assert f"the PACS at {server.name} lists a series whose UID is none; it is left out" in caplog.text


def test_fewer_results_than_asked_for_are_not_the_end():
    with BadPacs(says(series("1.1", "1.2")), says(series("1.3")), EMPTY) as server:
        assert [one.series_uid for one in server.pacs(page_size=50).find_series()] == ["1.1", "1.2", "1.3"]
        offsets = [path.partition("offset=")[2].partition("&")[0] for _, path, _ in server.requests]
        assert offsets == ["0", "2", "3"]


def test_pages_that_never_end():
    with BadPacs(says(series("1.1", "1.2"))) as server:
        assert failure(lambda: list(server.pacs(page_size=2).find_series())) == (
            f"the PACS at {server.name} gives its first 2 results for ever; it ignores QIDO's offset"
        )
        assert len(list(server.pacs(page_size=50).find_series())) == 2  # all that it has, whatever was asked for


def test_filters_that_are_ignored():
    with BadPacs(
        says(series("1.1") + listed("SeriesInstanceUID", "1.2", StudyInstanceUID=STUDY, Modality="MR")), EMPTY
    ) as server:
        assert [one.series_uid for one in server.pacs().find_series("CT")] == ["1.1"]


@pytest.mark.parametrize(
    "broken",
    [
        says(WHOLE, kind=MULTIPART, cut=300),
        says(WHOLE[:-300], kind=MULTIPART),  # its length is right, what it holds is not whole
        says(multipart(instance("1.5"), closed=False), kind=MULTIPART),
    ],
)
def test_a_series_that_breaks_off(broken, tmp_path):
    with BadPacs(LISTED, EMPTY, broken, broken, says(WHOLE, kind=MULTIPART)) as server:
        server.pacs().fetch(STUDY, SERIES, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"1.5.dcm", "1.6.dcm", "1.7.dcm"}
        accepted = {headers["Accept"] for _, path, headers in server.requests if path.endswith(SERIES)}
        assert accepted == {'multipart/related; type="application/dicom"; transfer-syntax=*'}
    (tmp_path / "again").mkdir()
    with BadPacs(LISTED, EMPTY, broken) as server:
        assert failure(lambda: server.pacs().fetch(STUDY, SERIES, tmp_path / "again")) == (
            f"the PACS at {server.name} broke off its answer several times; ask again later, and look into its log"
        )
        assert not list((tmp_path / "again").iterdir())


def test_half_a_series(tmp_path):
    half = says(multipart(instance("1.5"), instance("1.7")), kind=MULTIPART)
    with BadPacs(LISTED, EMPTY, half) as server:
        assert failure(lambda: server.pacs().fetch(STUDY, SERIES, tmp_path)) == (
            f"the PACS at {server.name} gave 2 of the 3 instances of series {SERIES}; ask again in a minute, and look "
            "into its log if it stays so"
        )
        assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (says("<html>", kind="text/html"), "text/html"),
        (says(b"", kind="multipart/related"), "multipart/related"),
        (says(b"no boundary here", kind=MULTIPART), "damaged multipart"),
        (says(WHOLE.replace(b"DICM", b"dicm"), kind=MULTIPART), "a part that is no DICOM file"),
        (says(multipart(instance("1.5", "1.9")), kind=MULTIPART), "a part that is not of the series"),
        (says(WHOLE.replace(b"1.5\0", b"../5"), kind=MULTIPART), "a part that is not of the series"),
    ],
)
def test_a_series_that_is_none(answer, what, tmp_path):
    with BadPacs(LISTED, EMPTY, answer) as server:
        message = failure(lambda: server.pacs().fetch(STUDY, SERIES, tmp_path))
        assert f"gives an answer that is no DICOMweb ({what}); give" in message
        assert not list(tmp_path.iterdir())


def test_a_single_object_without_multipart(tmp_path):
    (_, _, body) = multipart(instance("1.5")).partition(b"\r\n\r\n")
    one = says(body.partition(b"\r\n--")[0], kind="application/dicom")
    with BadPacs(says(listed("SOPInstanceUID", "1.5")), EMPTY, one) as server:
        server.pacs().fetch(STUDY, SERIES, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["1.5.dcm"]


def stored(code=None, sop_uid="1.5"):
    item = {"00081155": {"vr": "UI", "Value": [sop_uid]}}
    if code is None:
        return {"00081199": {"vr": "SQ", "Value": [item]}}
    return {"00081198": {"vr": "SQ", "Value": [{**item, "00081197": {"vr": "US", "Value": [code]}}]}}


@pytest.mark.parametrize("status", [200, 202, 409])
@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (0x0122, BadInputError, "it does not take objects of this kind (SOP class) (failure reason 0122)"),
        (0xA900, BadInputError, "the object lacks what its kind (SOP class) needs (failure reason A900)"),
        (0xA700, UnavailableError, "it has no room or is too busy (failure reason A700)"),
        (0x0001, BadInputError, "it gives no known reason (failure reason 0001)"),
    ],
)
def test_a_refused_object(status, code, kind, reason):
    with BadPacs(says(stored(code), status)) as server:
        message = failure(lambda: server.pacs().store(instance("1.5")), kind)
        assert message == f"the PACS at {server.name} did not store object 1.5: {reason}; look into its log"
        assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [says(""), says("{"), says("<ok/>", kind="application/dicom+xml"), says({})])
def test_a_pacs_of_few_words(answer):
    found = says(listed("SOPInstanceUID", "1.5"))
    with BadPacs(answer, found) as server:
        server.pacs().store(instance("1.5"))
        assert [method for method, _, _ in server.requests] == ["POST", "GET"]
    with BadPacs(answer, EMPTY) as server:
        assert failure(lambda: server.pacs().store(instance("1.5"))) == (
            f"the PACS at {server.name} says nothing against object 1.5 but does not have it; look into its log"
        )


def test_an_object_whose_answer_was_lost_is_not_sent_twice():
    with BadPacs(hangs_up, says(listed("SOPInstanceUID", "1.5"))) as server:
        server.pacs().store(instance("1.5"))
        assert [method for method, _, _ in server.requests] == ["POST", "GET"]


def test_an_object_that_was_lost_is_sent_again():
    with BadPacs(hangs_up, EMPTY, says(stored())) as server:
        server.pacs().store(instance("1.5"))
        assert [method for method, _, _ in server.requests] == ["POST", "GET", "POST"]
    with BadPacs(hangs_up, EMPTY, hangs_up, EMPTY) as server:
        message = failure(lambda: server.pacs().store(instance("1.5")))
        assert "can't be reached or broke off the connection" in message
        assert [method for method, _, _ in server.requests] == ["POST", "GET", "POST", "GET"]


@pytest.mark.parametrize("status", [500, 503])
def test_an_object_that_was_answered_is_not_sent_again(status):
    with BadPacs(says("", status)) as server:
        assert f"HTTP {status}" in failure(lambda: server.pacs().store(instance("1.5")))
        assert len(server.requests) == 1


def test_a_large_object_goes_in_one_piece():
    seg = new_dataset(SegmentationStorage, STUDY, SERIES)
    seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = "1.5"
    seg.add_new(0x00420011, "OB", bytes(3_000_000))
    with BadPacs(says(stored())) as server:
        server.pacs().store(seg)
        (_, _, headers) = server.requests[0]
        assert int(headers["Content-Length"]) > 3_000_000
        assert "Transfer-Encoding" not in headers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_certificates_are_checked(certificate, monkeypatch):
    authorities, context = certificate
    with BadPacs(EMPTY, context=context) as server:
        assert failure(server.pacs().check) == (
            f"the certificate of the PACS at {server.name} can't be verified; set LIVERLOOP_PACS_CA to a file with the "
            "certificate of the authority that made it"
        )
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
        server.pacs(certificates=authorities).check()


def test_a_missing_object_is_missing():
    with BadPacs(says("", 404)) as server:
        pacs = server.pacs()
        message = failure(lambda: pacs.instances(STUDY, SERIES), NotFoundError)
        assert message == (
            f"the PACS at {server.name} has no series {SERIES} in study {STUDY}; it may have been deleted (HTTP 404)"
        )
        assert pacs.series(STUDY, SERIES) is None
        assert not pacs.has_instance(STUDY, SERIES, "1.5")


def test_no_text_of_the_answer_in_any_message():
    body = json.dumps({"Message": "Doe^Jane"})
    with BadPacs(says(body, 400)) as server:
        assert "Doe" not in failure(server.pacs().check)
