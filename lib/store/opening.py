"""Open the store of a studies folder or of a PACS: one function for servers and scripts.

A PACS has a working folder on the server: a studies folder with labels, versions and ledger whose images come from the
PACS. `ledger/pacs` in it names that PACS.
"""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from lib.dicomweb.client import Pacs
from lib.dicomweb.settings import PacsSettings
from lib.errors import SettingsError, StorageError, UnavailableError
from lib.files import atomic_write, write_error
from lib.settings import Settings
from lib.store.layout import Layout
from lib.store.store import Store
from lib.store.studies import images_in, is_pacs

logger = logging.getLogger(__name__)

_PORTS = {"http": 80, "https": 443}


def open_store(
    studies: str | Path, settings: Settings, app_folder: str | Path | None = None, *, follow_classes: bool = True
) -> Store:
    """The store of a folder, or of the PACS at a DICOMweb address.

    Args:
        studies: the folder, made if it is missing; or the root of a DICOMweb service.
        settings: of the app.
        app_folder: of the app, in which a PACS without `pacs.folder` gets its working folder.
        follow_classes: see `Store`.

    Raises:
        SettingsError: see `Store` and `working_folder`; or address, login or certificates of the PACS can't be used.
        UnavailableError: a PACS that was never reached before can't be reached; or see `Store`.
        StorageError: folder or database can't be written.
    """
    if not is_pacs(studies):
        return Store(studies, settings, follow_classes=follow_classes)
    pacs, folder = reached_pacs(str(studies), settings, app_folder)
    _make(folder, pacs.settings.url)
    return Store(folder, settings, follow_classes=follow_classes, pacs=pacs)


def reached_pacs(url: str, settings: Settings, app_folder: str | Path | None = None) -> tuple[Pacs, Path]:
    """A PACS that lets us in, or did before, and its working folder, which may still have to be made.

    Raises:
        SettingsError: as `open_store`.
        UnavailableError: as `open_store`.
    """
    chosen = settings.pacs
    access = PacsSettings.from_environment(url)
    access = replace(access, connect_timeout_s=chosen.connect_seconds, read_timeout_s=chosen.read_seconds)
    pacs = Pacs(access)
    folder = working_folder(access.url, settings, app_folder)
    _check_owner(folder, access.url)
    try:
        Pacs(replace(access, retries=0)).check()
    except UnavailableError as error:
        if not Layout(folder).pacs.is_file():
            raise
        logger.warning("%s; images that were fetched before can be used, and it is asked again", error)
    return pacs, folder


def working_folder(url: str, settings: Settings, app_folder: str | Path | None = None) -> Path:
    """Where labels, ledger and fetched images of a PACS lie: `pacs.folder`, or a folder in the app's `pacs/`.

    Raises:
        SettingsError: there is neither.
    """
    if settings.pacs.folder:
        return Path(settings.pacs.folder).expanduser().resolve()
    if app_folder is None:
        msg = "pacs.folder is not set and no app folder is given; set it to the working folder of the PACS"
        raise SettingsError(msg)
    parts = urlsplit(url)
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    host = (parts.hostname or "").replace(":", "_")  # of an IPv6 address
    return Path(app_folder).resolve() / "pacs" / f"{host}-{parts.port or _PORTS[parts.scheme]}-{digest}"


def _check_owner(folder: Path, url: str) -> None:
    """Neither the images of a studies folder nor those of another PACS are to be taken for this one's."""
    layout = Layout(folder)
    try:
        owner = layout.pacs.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        if (layout.ledger / "id").exists() or images_in(folder):
            msg = f"{folder} holds studies of its own; let pacs.folder name an empty folder for those of {url}"
            raise SettingsError(msg) from None
        return
    except OSError as error:
        msg = f"can't read {layout.pacs} ({error.strerror}); change its permissions"
        raise StorageError(msg) from error
    if owner != url:
        msg = (
            f"{folder} is the working folder of the PACS at {owner}, not of {url}; let pacs.folder name another "
            f"one. If the PACS has moved, write its new address into {layout.pacs}"
        )
        raise SettingsError(msg)


def _make(folder: Path, url: str) -> None:
    """Make a working folder that only this user can read, as patients' images lie in it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    path = Layout(folder).pacs
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(f"{url}\n", encoding="utf-8")
