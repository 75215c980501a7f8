"""What goes wrong between the proxy and the PACS: a few clear words, the right status, and no secret."""

import http.client

import pytest

from tests.dicomweb.bad_pacs import BadPacs, hangs_up, says, waits
from tests.dicomweb.certificates import self_signed
from tests.web.proxied import MULTIPART, STUDY, detail, quick, server_for
from tests.web.serving import ask

LOGIN_PAGE = says("<html>t0ken-of-ours Zyx987", 401, kind="text/html", WWW_Authenticate="Basic")


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (LOGIN_PAGE, 502, "refuses us (HTTP 401): it does not accept the token in LIVERLOOP_PACS_TOKEN; renew it"),
        (says("", 403), 502, "refuses us (HTTP 403): it does not accept the token in LIVERLOOP_PACS_TOKEN; renew it"),
        (says("Zyx987", 500), 502, "fails (HTTP 500); try again, and look into its log if it stays so"),
        (says("", 503), 502, "fails (HTTP 503); try again, and look into its log if it stays so"),
        (says("", 302, Location="https://login.example/?Zyx987"), 502,
         "sends us on elsewhere (HTTP 302); give the address behind it"),
        (says("Zyx987", 404), 404, "does not have what was asked for (HTTP 404)"),
        (says("Zyx987", 400), 400, "does not take the request (HTTP 400)"),
        (says("Zyx987", 406), 406, "does not take the request (HTTP 406)"),
        (hangs_up, 503, "broke off the connection; see that it runs, and try again"),
        (waits(1), 504, "does not answer within 0.2 s; see that it runs, and try again"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_goes_wrong_in_the_pacs_is_told_in_a_few_words(answer, status, reason, method, caplog):
    patience_s = 0.2 if status == 504 else 60  # an answer that comes is waited for, whatever else runs here
    with BadPacs(answer) as pacs, server_for(quick(pacs, read_timeout_s=patience_s, token="t0ken-of-ours")) as port:
        body = b"--b--" if method == "POST" else None
        path = "/proxy/dicom/studies" if method == "POST" else STUDY
        reply = ask(port, method, path, body, Content_Type=MULTIPART)
    assert (reply.status, detail(reply)) == (status, f"the PACS at {pacs.name} {reason}")
    assert "www-authenticate" not in reply.headers  # or the browser would ask its user for the PACS's login
    told = caplog.text + reply.body.decode() + str(reply.headers)
    assert not [secret for secret in ("t0ken-of-ours", "Zyx987") if secret in told]


def test_no_pacs_answers():
    with BadPacs(says([])) as pacs:
        settings = quick(pacs)
    with server_for(settings) as port:
        reply = ask(port, "GET", STUDY)
        assert (reply.status, detail(reply)) == (
            503, f"the PACS at {pacs.name} can't be reached; see that it runs, and try again",
        )  # fmt: skip


def test_certificates_are_checked(tmp_path):
    authorities, context = self_signed(tmp_path)
    with BadPacs(says([]), context=context) as pacs:
        with server_for(quick(pacs)) as port:
            reply = ask(port, "GET", STUDY)
            assert (reply.status, detail(reply)) == (
                502, f"the PACS at {pacs.name} has a certificate that can't be verified; set LIVERLOOP_PACS_CA to a "
                "file with that of its authority",
            )  # fmt: skip
        with server_for(quick(pacs, certificates=authorities)) as port:
            assert ask(port, "GET", STUDY).status == 200


def test_a_connection_that_the_pacs_has_closed_meanwhile_is_made_anew():
    with BadPacs(says([]), hangs_up, says([])) as pacs, server_for(quick(pacs)) as port:
        assert [ask(port, "GET", STUDY).status for _ in range(2)] == [200, 200]
        assert len(pacs.requests) == 3


def test_an_answer_that_breaks_off_does_not_seem_whole(caplog):
    whole = says(b"x" * 1000, kind="application/octet-stream", cut=10)
    with BadPacs(whole) as pacs, server_for(quick(pacs)) as port:
        with pytest.raises(http.client.IncompleteRead):
            ask(port, "GET", STUDY)
        pacs.answers = [says(b"[" + b" " * 1000 + b"]", cut=10)]
        with pytest.raises(http.client.IncompleteRead):  # in chunks, as links in it are changed
            ask(port, "GET", STUDY)
    assert caplog.text.count(f"the PACS at {pacs.name} broke off its answer") == 2
    assert "Traceback" not in caplog.text
