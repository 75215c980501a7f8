"""One function for a folder and for a PACS: working folders, who they belong to, a PACS that is down."""

import os
import stat
from pathlib import Path

import pytest

from lib.errors import SettingsError, StorageError, UnavailableError
from lib.settings import Settings
from lib.store.opening import open_store, reached_pacs, working_folder
from lib.store.store import Store
from tests.dicomweb.bad_pacs import BadPacs, says

URL = "https://pacs.example/dicom-web"


def settings(**values):
    return Settings.model_validate({"pacs": {"connect_seconds": 2, "read_seconds": 2, **values}})


@pytest.fixture
def pacs():
    with BadPacs(says([])) as server:
        yield server


def test_a_folder_is_a_folder(tmp_path):
    store = open_store(tmp_path, Settings())
    assert store.layout.studies == tmp_path
    assert store.pacs_images is None
    store.close()


def test_a_pacs_gets_a_working_folder_of_its_own_in_the_app(pacs, tmp_path):
    store = open_store(f"{pacs.url}/", settings(), tmp_path / "app")
    folder = store.layout.studies
    assert folder.parent == tmp_path / "app" / "pacs"
    assert folder == working_folder(pacs.url, Settings(), tmp_path / "app")
    assert folder.name.startswith(f"{pacs.name.replace(':', '-')}-")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "ledger" / "pacs").read_text() == f"{pacs.url}\n"
    assert store.pacs_images.pacs.name == pacs.name
    store.close()


@pytest.mark.parametrize(
    ("url", "start"),
    [
        (URL, "pacs.example-443-"),
        ("http://pacs.example/dicom-web", "pacs.example-80-"),
        ("http://pacs.example:8042/other", "pacs.example-8042-"),
        ("http://[::1]:8042/dicom-web", "__1-8042-"),
    ],
)
def test_names_of_working_folders(url, start, tmp_path):
    assert working_folder(url, Settings(), tmp_path).name.startswith(start)
    assert working_folder(url, Settings(), tmp_path) != working_folder(f"{url}2", Settings(), tmp_path)


def test_a_site_may_name_the_folder(pacs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store(pacs.url, settings(folder="mine"))
    assert store.layout.studies == tmp_path / "mine"
    store.close()
    with pytest.raises(SettingsError, match=r"^pacs\.folder is not set and no app folder is given; set it"):
        open_store(pacs.url, settings())


def test_settings_reach_the_pacs(pacs, tmp_path, monkeypatch):
    monkeypatch.setenv("LIVERLOOP_PACS_TOKEN", "a-token")
    found, _ = reached_pacs(pacs.url, settings(connect_seconds=3, read_seconds=7), tmp_path)
    assert (found.settings.connect_timeout_s, found.settings.read_timeout_s) == (3, 7)
    assert pacs.requests[0][2]["Authorization"] == "Bearer a-token"


def test_a_pacs_that_was_never_reached_leaves_nothing(tmp_path):
    with BadPacs(says("", 503)) as pacs, pytest.raises(UnavailableError, match=r"fails \(HTTP 503"):
        open_store(pacs.url, settings(), tmp_path / "app")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [says("", 503), says("", 401), says("<html>", kind="text/html")])
def test_one_that_was_reached_before_may_be_down(pacs, tmp_path, caplog, answer):
    open_store(pacs.url, settings(), tmp_path).close()
    pacs.answers = [answer]
    store = open_store(pacs.url, settings(), tmp_path)
    assert "images that were fetched before can be used, and it is asked again" in caplog.text
    store.close()


@pytest.mark.parametrize("url", ["http://user:secret@pacs.example/dicom-web", "http://", "https://pacs.example/?a=1"])
def test_an_address_that_can_not_be_one(url, tmp_path):
    with pytest.raises(SettingsError) as caught:
        open_store(url, settings(), tmp_path)
    assert "secret" not in str(caught.value)


def test_the_images_of_a_studies_folder_are_safe(pacs, tmp_path):
    """A bounded folder would remove what nobody can fetch again."""
    (tmp_path / "case_1.nii.gz").write_bytes(b"")
    message = rf"^{tmp_path} holds studies of its own; let pacs\.folder name an empty folder for those of {pacs.url}$"
    with pytest.raises(SettingsError, match=message):
        open_store(pacs.url, settings(folder=str(tmp_path)))
    (tmp_path / "case_1.nii.gz").unlink()
    Store(tmp_path, Settings()).close()
    with pytest.raises(SettingsError, match=message):
        open_store(pacs.url, settings(folder=str(tmp_path)))


def test_a_working_folder_is_no_studies_folder(pacs, tmp_path):
    open_store(pacs.url, settings(folder=str(tmp_path))).close()
    message = rf"^{tmp_path} is the working folder of the PACS at {pacs.url}; let --studies name that$"
    with pytest.raises(SettingsError, match=message):
        open_store(tmp_path, Settings())


def test_a_working_folder_is_of_one_pacs_which_may_move(pacs, tmp_path):
    open_store(pacs.url, settings(folder=str(tmp_path))).close()
    with BadPacs(says([])) as other:
        with pytest.raises(SettingsError) as caught:
            open_store(other.url, settings(folder=str(tmp_path)))
        assert str(caught.value) == (
            f"{tmp_path} is the working folder of the PACS at {pacs.url}, not of {other.url}; let pacs.folder name "
            f"another one. If the PACS has moved, write its new address into {tmp_path}/ledger/pacs"
        )
        (tmp_path / "ledger" / "pacs").write_text(other.url)
        store = open_store(other.url, settings(folder=str(tmp_path)))
        assert store.pacs_images.pacs.name == other.name
        store.close()


def test_a_folder_that_can_not_be_made(pacs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        open_store(pacs.url, settings(folder=str(tmp_path / "file" / "work")))


def test_others_can_not_look_into_a_folder_whatever_the_umask_is(pacs, tmp_path):
    before = os.umask(0)
    try:
        open_store(pacs.url, settings(folder=str(tmp_path / "work"))).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(tmp_path / "work").stat().st_mode) == 0o700
