"""A plain MONAI Label server and one of ours on the same images, each with folders around it to attack."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.loop.attacked import Site, prepare_outside
from tests.loop.attacked_server import AttackedServer
from tests.loop.preparation import Preparation
from tests.loop.running_server import MODEL, OURS, PLAIN, make_app
from tests.loop.stock_app import MODEL as TINY
from tests.loop.stock_app import write_app
from tests.loop.studies import write_studies

_ENVIRONMENT = {"MONAI_LABEL_TRACKING_ENABLED": "false", "OMP_NUM_THREADS": "1"}
QUIET = {"MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}  # or a plain server scores all images as soon as it runs


@contextmanager
def plain_site(
    warm: Preparation, root: Path, studies: str | None = None, environment: Mapping[str, str] = QUIET
) -> Iterator[Site]:
    """What `monailabel start_server` runs, with an app as MONAI Label's samples are.

    Args:
        warm: see `tests.loop.warm_parent`.
        root: gets all folders.
        studies: the address of a PACS in place of the folder.
        environment: variables of the server.
    """
    _write_folders(root)
    app, environment = write_app(root / "app"), _ENVIRONMENT | environment
    with AttackedServer(
        warm, studies or root / "studies", root / "run", app=app, command=PLAIN, environment=environment
    ) as server:
        yield Site(server, root, TINY, "sum")


@contextmanager
def our_site(
    warm: Preparation,
    root: Path,
    studies: str | None = None,
    environment: Mapping[str, str] | None = None,
    conf: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """What `scripts/serve` runs; arguments as above, `conf` overrides `app.yaml`."""
    server = our_server(warm, root, studies, environment, conf)
    with server:
        yield Site(server, root, MODEL, "dice")


def our_server(
    warm: Preparation,
    root: Path,
    studies: str | None = None,
    environment: Mapping[str, str] | None = None,
    conf: Mapping[str, str] | None = None,
) -> AttackedServer:
    """The same, not started yet."""
    _write_folders(root)
    return AttackedServer(
        warm,
        studies or root / "studies",
        root / "run",
        app=make_app(root / "app"),
        command=OURS,
        conf={"inference.engine": "pytorch", **(conf or {})},
        environment=_ENVIRONMENT | (environment or {}),
    )


def _write_folders(root: Path) -> None:
    """An image with a label, one without, and what is none of the server's business."""
    write_studies(root / "studies", range(60, 61), labelled=True)
    write_studies(root / "studies", range(61, 62))
    prepare_outside(root / "outside")
