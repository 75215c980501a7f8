"""Each hole of a plain MONAI Label server is shown to be there, and not to be in ours, by the same requests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loop import attacks, web_attacks
from tests.loop.attacked import Site, prepare_outside
from tests.loop.prepared_server import Preparation
from tests.loop.running_server import MODEL, make_app
from tests.loop.stock_app import MODEL as TINY
from tests.loop.stock_app import write_app
from tests.loop.studies import write_studies
from tests.loop.warm_server import OURS, PLAIN, PROGRAM, WarmServer
from tests.orthanc import Orthanc, orthanc_or_skip

pytestmark = [pytest.mark.server, pytest.mark.holes]

_STOCK = {"MONAI_LABEL_TRACKING_ENABLED": "false", "OMP_NUM_THREADS": "1"}
_QUIET = {**_STOCK, "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
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
    """What belongs to a site but its server: two labelled images, and what is none of its business."""
    write_studies(root / "studies", range(60, 62), labelled=True)
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


@pytest.mark.parametrize("hole", _HOLES, ids=lambda hole: hole.__name__)
def test_a_hole_of_monai_label_is_none_of_ours(hole, plain, ours):
    assert hole(plain), plain.answers[-8:]
    before = ours.state()
    ours.answers.clear()
    assert not hole(ours), ours.answers
    assert [one for one in ours.answers if one[1] >= 500] == []
    assert ours.state() == before
