"""Each hole of a plain MONAI Label server is shown to be there, and not to be in ours, by the same requests."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from monailabel.main import Main

from lib.dicomweb.settings import PASSWORD, USER
from lib.web.guard.callers import COOKIE
from tests.access.identity_provider import AUDIENCE, REALM, IdentityProvider, SigningKey
from tests.loop import attacks, web_attacks
from tests.loop.attacked import Site, a_volume, prepare_outside
from tests.loop.prepared_server import Preparation
from tests.loop.running_server import MODEL, make_app
from tests.loop.stock_app import MODEL as TINY
from tests.loop.stock_app import write_app
from tests.loop.studies import write_series, write_studies
from tests.loop.warm_server import OURS, PLAIN, PROGRAM, WarmServer
from tests.orthanc import orthanc_or_skip

pytestmark = [pytest.mark.server, pytest.mark.holes]

_STOCK = {"MONAI_LABEL_TRACKING_ENABLED": "false", "OMP_NUM_THREADS": "1"}
_QUIET = {**_STOCK, "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
_ROLES = ["monailabel-user", "liverloop-annotators"]  # of MONAI Label, and ours
_CONF = {"inference.engine": "pytorch"}
_HOLES = [
    attacks.code_by_bundle_path,
    attacks.code_in_an_image,
    attacks.file_by_image_id,
    attacks.file_by_tag,
    attacks.file_by_label_tag,
    attacks.read_by_planted_session,
    attacks.infer_by_planted_session,
    attacks.delete_by_session_id,
    attacks.archive_that_leaves_its_folder,
    attacks.infer_on_a_path,
    attacks.infer_by_params,
    attacks.train_into_a_path,
    attacks.train_on_paths,
    attacks.model_taken,
    attacks.model_replaced,
    attacks.model_removed,
    attacks.log_taken,
    attacks.stack_trace_told,
    attacks.disk_filled,
    web_attacks.page_reads,
    web_attacks.page_sends,
    web_attacks.name_that_leads_here,
]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preparation]:
    with Preparation(tmp_path_factory.mktemp("warm"), {"OMP_NUM_THREADS": "1"}, PROGRAM) as preparation:
        yield preparation


def folders(root: Path) -> Path:
    """What belongs to a site but its server: an image with a label, one without, and what is none of its business."""
    write_studies(root / "studies", range(60, 61), labelled=True)
    write_studies(root / "studies", range(61, 62))
    prepare_outside(root / "outside")
    return root


@pytest.fixture(scope="module")
def plain(warm: Preparation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A plain server with an app as MONAI Label's samples are."""
    root = folders(tmp_path_factory.mktemp("plain"))
    app = write_app(root / "app")
    with WarmServer(warm, root / "studies", root / "run", app=app, command=PLAIN, environment=_QUIET) as server:
        yield Site(server, root, TINY, "sum")


@pytest.fixture(scope="module")
def ours(warm: Preparation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Our server where nobody logs in, so that everybody may do what an admin may."""
    root = folders(tmp_path_factory.mktemp("ours"))
    app = make_app(root / "app")
    with WarmServer(
        warm, root / "studies", root / "run", app=app, command=OURS, conf=_CONF, environment=_STOCK
    ) as server:
        yield Site(server, root, MODEL, "dice")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    """An identity provider that both servers are told of."""
    with IdentityProvider(tmp_path_factory.mktemp("provider"), [SigningKey("1")]) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(warm: Preparation, provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Our server where people log in, and somebody who did not."""
    root = folders(tmp_path_factory.mktemp("guarded"))
    app = make_app(root / "app")
    conf = _CONF | {
        "access.oidc.issuer": provider.issuer,
        "access.oidc.audience": AUDIENCE,
        "access.oidc.roles": "{annotator: [liverloop-annotators]}",
        "access.oidc.certificates": str(provider.certificates),
    }
    with WarmServer(
        warm, root / "studies", root / "run", app=app, command=OURS, conf=conf, environment=_STOCK
    ) as server:
        yield Site(server, root, MODEL, "dice")


@pytest.fixture
def annotator(guarded: Site, provider: IdentityProvider) -> Site:
    """Somebody who logged in there and may only annotate."""
    return replace(guarded, token=provider.token(realm_access={"roles": _ROLES}), answers=[])


@pytest.mark.parametrize("hole", _HOLES, ids=lambda hole: hole.__name__)
def test_a_hole_of_monai_label_is_none_of_ours(hole, plain, ours, guarded, annotator):
    assert hole(plain), plain.answers[-8:]
    for site in (ours, guarded, annotator):
        check_closed(hole, site)


def check_closed(hole, site):
    """The attack is refused for a reason that is told, and leaves nothing behind."""
    before = site.state()
    site.answers.clear()
    assert not hole(site), site.answers
    assert [one for one in site.answers if one[1] >= 500] == []
    assert site.state() == before


def test_a_pickle_is_no_model(plain, ours):
    """PyTorch's own default keeps a plain server from unpacking it, which takes it for its model all the same."""
    assert not attacks.code_in_a_checkpoint(plain)
    assert attacks.model_replaced(plain)
    check_closed(attacks.code_in_a_checkpoint, ours)


def test_a_pacs_is_open_for_dicomweb_alone(warm, tmp_path):
    login = ("server", "correct horse")
    variables = zip(("MONAI_LABEL_DICOMWEB_USERNAME", "MONAI_LABEL_DICOMWEB_PASSWORD"), login, strict=True)
    with orthanc_or_skip(dict([login])) as pacs:
        root = folders(tmp_path / "plain")
        app = write_app(root / "app")
        environment = _QUIET | dict(variables)
        with WarmServer(warm, pacs.url, root / "run", app=app, command=PLAIN, environment=environment) as server:
            site = Site(server, root, TINY, "sum")
            assert web_attacks.pacs_beside_dicomweb(site)
        root = folders(tmp_path / "ours")
        app = make_app(root / "app")
        environment = _STOCK | dict(zip((USER, PASSWORD), login, strict=True))
        with WarmServer(
            warm, pacs.url, root / "run", app=app, command=OURS, conf=_CONF, environment=environment
        ) as server:
            site = Site(server, root, MODEL, "dice")
            assert not web_attacks.pacs_beside_dicomweb(site), site.answers
            assert site.ask("GET", "/proxy/dicom/studies").status_code == 200


def test_the_server_does_not_wait_for_itself(warm, ours, tmp_path):
    root = folders(tmp_path)
    app = write_app(root / "app")
    with WarmServer(warm, root / "studies", root / "run", app=app, command=PLAIN, environment=_STOCK) as server:
        assert attacks.server_stuck(Site(server, root, TINY, "sum", patience_s=4.0))
    check_closed(attacks.server_stuck, ours)


def test_a_token_of_the_identity_provider_lets_somebody_in(warm, provider, annotator, tmp_path):
    """MONAI Label tells PyJWT no algorithm, which has refused to read tokens so since its version 2."""
    key = provider.keys[0].private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    realm = {"public_key": base64.b64encode(key).decode()}
    provider.answers[REALM] = (200, {}, json.dumps(realm).encode())
    environment = _QUIET | {
        "MONAI_LABEL_AUTH_ENABLE": "true",
        "MONAI_LABEL_AUTH_REALM_URI": provider.issuer,
        "REQUESTS_CA_BUNDLE": str(provider.certificates),
    }
    root = folders(tmp_path)
    app = write_app(root / "app")
    with WarmServer(warm, root / "studies", root / "run", app=app, command=PLAIN, environment=environment) as server:
        assert web_attacks.nobody_gets_in(Site(server, root, TINY, "sum", token=annotator.token))
    assert provider.asked[REALM] == 1  # it has the key, and can't use it
    check_closed(web_attacks.nobody_gets_in, annotator)


def test_a_page_can_not_use_the_login_of_whoever_looks_at_it(plain, annotator):
    page = replace(annotator, token=None, cookie=f"{COOKIE}={annotator.token}", answers=[])
    assert page.ask("GET", "/datastore/").status_code == 200
    for attack in (web_attacks.page_reads, web_attacks.page_sends):
        assert attack(plain)
        check_closed(attack, page)


def test_a_token_in_an_address_counts_for_nothing(guarded, annotator):
    """It would be in logs, in the browser's history and in what is sent to other servers."""
    for name in ("access_token", "token", "jwt"):
        assert guarded.ask("GET", "/datastore/", params={name: annotator.token}).status_code == 401
    assert annotator.token not in guarded.server.log()
    assert annotator.token.rpartition(".")[2] not in guarded.server.log()


def test_what_people_do_is_answered(ours, annotator, tmp_path):
    """What the attacks ask for, asked for as it should be."""
    slices = [(path.name, path.read_bytes()) for path in write_series(tmp_path / "series", a_volume())]
    for site in (ours, annotator):
        image = (site.outside / "secret.nii.gz").read_bytes()
        archive = attacks.archive_of(*slices)
        answers = [
            site.ask("PUT", "/datastore/image?image=new", files={"file": ("x.nii.gz", image)}),
            site.ask("POST", f"/infer/{site.model}?image=case_60", data={"params": '{"label_tag": "original"}'}),
            site.ask("POST", "/activelearning/random"),
            site.ask("PUT", "/session/?uncompress=true", files=[("files", ("x.tar", archive))]),
            site.ask("PUT", "/session/", files=[("files", ("x.nii.gz", image))]),
        ]
        assert [answer.status_code for answer in answers] == [200] * len(answers), [one.text for one in answers]


def test_a_plain_server_listens_everywhere_and_ours_does_not(warm, tmp_path):
    assert Main().args_parser().parse_args(["start_server"]).host == "0.0.0.0"
    root = folders(tmp_path)
    app = make_app(root / "app")
    server = WarmServer(warm, root / "studies", root / "run", app=app, command=OURS, environment=_STOCK)
    code, told = server.run_to_end("--host", "0.0.0.0")
    assert code == 2
    assert "login" in told
