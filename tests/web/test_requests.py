"""Requests are refused before MONAI Label's handlers see them."""

import hashlib
import json
import tempfile
import threading
from ast import literal_eval
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from monailabel.endpoints import activelearning, datastore, infer, train
from monailabel.utils.async_tasks.utils import background_tasks

from lib.errors import BadInputError, StorageError
from lib.labels import NOT_LOOKED_AT
from lib.store import leases
from lib.volume import Volume
from lib.volume_io import read_label, write_label
from lib.web import requests
from lib.web.answers import install_answers
from lib.web.guard.carried_bodies import InferForm, InfoForm
from lib.web.guard.carried_params import AllTrainParams, TrainParams
from lib.web.requests import checked_form, checked_params, install_requests


def refused(function, *arguments):
    with pytest.raises(BadInputError) as caught:
        function(*arguments)
    return str(caught.value)


class FakeApp:
    """Knows one session and accepts every model."""

    ahead = ()

    def sessions(self):
        return self

    def get_session(self, name, update_ts):
        return SimpleNamespace(is_of=lambda _: True) if name == "known" else None

    def datastore(self):
        return None

    def check_inference(self, model, params):
        pass

    def prefetch(self, image_id, client):
        self.ahead = [*self.ahead, (image_id, client)]

    def info(self):
        return {"trainers": ["liver_tumor"]}

    def check_training(self, model, params):
        pass


@pytest.fixture
def client(monkeypatch):
    """A server with an endpoint of MONAI Label's kind and ours in front of it; calls that get through are recorded."""
    app = FastAPI()

    @app.post("/infer/{model}")
    async def theirs():
        return {"called": "theirs"}

    @app.head("/datastore/label")
    async def check():
        return Response(headers={"called": "theirs"})

    @app.get("/info/")
    async def info():
        return {}

    def recorder(name):
        return lambda *arguments: {
            "called": name,
            "arguments": [repr(part) for part in arguments],
            "thread": threading.get_ident(),
        }

    for module, name in (
        (infer, "run_inference"),
        (datastore, "save_label"),
        (datastore, "add_image"),
        (activelearning, "sample"),
        (train, "run"),
    ):
        monkeypatch.setattr(module, name, recorder(name))
    monkeypatch.setattr(requests, "_app", FakeApp)
    # The one handler that is really called asks for the app by itself.
    monkeypatch.setattr(datastore, "app_instance", lambda: requests._app())
    install_requests(app)
    install_answers(app)
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_an_empty_field_holds_nothing(text):
    assert checked_form(InferForm, "params", text) == checked_form(InfoForm, "info", text) == {}


def test_what_is_handed_on_is_what_was_sent():
    assert checked_form(InferForm, "params", '{"device": "cpu", "client_id": null}') == {
        "device": "cpu", "client_id": None,
    }  # fmt: skip
    assert checked_params(AllTrainParams, {"max_epochs": 2, "liver": {"val_split": 0}}) == {
        "max_epochs": 2, "liver": {"val_split": 0.0},
    }  # fmt: skip
    assert checked_params(TrainParams, None) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{bad", "info is not valid JSON: key must be a string at line 1 column 2"),
        ("[" * 100_000, "info is not valid JSON: recursion limit exceeded at line 1 column 202"),
        ("[1]", "info must be a JSON object, not list"),
        ("null", "info must be a JSON object, not NoneType"),
        ('"x"', "info must be a JSON object, not str"),
    ],
)
def test_what_is_no_json_object_is_refused(text, expected):
    assert refused(checked_form, InfoForm, "info", text) == expected


def test_what_a_model_does_not_name_is_refused():
    assert refused(checked_form, InferForm, "params", '{"bundle_path": "/tmp", "device": "cpu"}') == (
        "params must not hold bundle_path; that is set by the server itself"
    )
    assert refused(checked_params, TrainParams, [1]) == "params must be a JSON object, not list"


def test_our_endpoint_answers_first_and_off_the_event_loop(client):
    answer = client.post("/infer/m", params={"image": "case.1.2"}, data={"params": '{"device": "cpu"}'}).json()
    assert answer["called"] == "run_inference"
    assert answer["arguments"][1:4] == ["'m'", "'case.1.2'", "''"]
    assert answer["thread"] != threading.get_ident()
    assert client.get("/info/").status_code == 200


@pytest.mark.parametrize(
    ("query", "data", "status", "reason"),
    [
        ({}, {}, 400, "no image: give an image id, a session_id or a file"),
        ({"image": "../x"}, {}, 400, "image id '../x' is not allowed; "),
        ({"image": "/etc/passwd"}, {}, 400, "image id '/etc/passwd' is not allowed; "),
        ({"session_id": "../x"}, {}, 404, "there is no session '../x'; it may have expired, send the image again"),
        ({"session_id": "gone"}, {}, 404, "there is no session 'gone'; it may have expired, send the image again"),
        ({"image": "a"}, {"params": '{"image": "/etc/passwd"}'}, 400, "params must not hold image; "),
        ({"image": "a", "output": "dicom_seg"}, {}, 400, "output=dicom_seg is not offered; with a PACS"),
    ],
)
def test_inference_is_refused_with_a_reason(client, query, data, status, reason):
    answer = client.post("/infer/m", params=query, data=data)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(reason)


def test_a_known_session_passes(client):
    assert client.post("/infer/m", params={"session_id": "known"}).json()["called"] == "run_inference"


def test_the_name_that_3d_slicer_has_for_a_sessions_image_may_be_anything(client):
    answer = client.post("/infer/m", params={"session_id": "known", "image": "5: Abdomen/Pelvis"}).json()
    assert answer["called"] == "run_inference"
    assert answer["arguments"][2:4] == ["''", "'known'"]


def test_all_trainings_start_unless_one_runs_already(client, monkeypatch):
    assert client.post("/train/", json={"client_id": "me"}).json()["called"] == "run"
    monkeypatch.setitem(background_tasks, "train", [{"status": "RUNNING"}])
    answer = client.post("/train/", json={"client_id": "me"})
    assert (answer.status_code, answer.json()["detail"]) == (
        429,
        "a train task is running already; wait for its end or stop it",
    )


def test_a_label_is_refused_or_passed_on(client):
    files = {"label": ("label.nii.gz", b"x")}
    assert client.put("/datastore/label", params={"image": "a"}, files=files).json()["called"] == "save_label"
    for query in ({"image": "../a"}, {"image": "a", "tag": "../x"}):
        answer = client.put("/datastore/label", params=query, files=files)
        assert answer.status_code == 400
        assert "is not allowed" in answer.json()["detail"]
    assert client.put("/datastore/label", params={"image": "a"}).status_code == 422


@pytest.mark.parametrize(
    ("image", "file", "expected"),
    [
        ("case", "x.nii.gz", "case"),
        (None, "case.1.2.nii.gz", "case.1.2"),
        (None, "1.2.840.NRRD", "1.2.840"),
        (None, "C.nii", "C"),
    ],
)
def test_an_uploaded_image_is_named_by_its_id_or_else_its_file(client, image, file, expected):
    query = {"image": image} if image else {}
    for path in ("/datastore/image", "/datastore/"):
        answer = client.put(path, params=query, files={"file": (file, b"NRRD0004\n")}).json()
        assert answer["called"] == "add_image"
        assert answer["arguments"][1] == repr(expected)


def test_an_upload_without_a_usable_name_is_refused(client):
    answer = client.put("/datastore/image", files={"file": (".nii.gz", b"NRRD0004\n")})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("image id '' is not allowed")


def test_the_next_image_is_asked_for_with_checked_params(client):
    assert client.post("/activelearning/first", json={"client_id": "me"}).json()["called"] == "sample"
    assert client.post("/activelearning/first", json={"image": "x"}).status_code == 400
    assert client.post("/activelearning/first").json()["called"] == "sample"


def test_notes_must_be_json_objects(client):
    for path in ("/datastore/image/info?image=a", "/datastore/label/info?label=a&tag=final"):
        answer = client.put(path, data={"info": json.dumps([1])})
        assert (answer.status_code, answer.json()["detail"]) == (400, "info must be a JSON object, not list")


class FolderApp(FakeApp):
    """An app over a studies folder with the strategies of the tests' own choice."""

    def __init__(self, store):
        self.store = store

    def datastore(self):
        return SimpleNamespace(
            store=self.store,
            get_image_info=lambda image: {"name": "x", "id": "y", "checksum": "SHA256:1", "path": "/x", "more": 1},
            get_label_uri=lambda label, tag: str(self.store.layout.shown(label, tag)),
        )

    def on_save_label(self, image_id, label_id):
        """Nothing more to tell."""

    def next_sample(self, asked):
        """As our strategy tasks behind the app answer."""
        with self.store.ledger.writing() as connection:
            leases.expire(connection)
            for image in ("a", "b"):
                if leases.of_image(connection, image) is None:
                    why = {"strategy": asked["strategy"], "reason": "why", "score": 0.5}
                    lease = leases.acquire(connection, image, asked["client_id"], seconds=60, **why)
                    path = str(self.store.layout.image(image, ".nii.gz"))
                    return {"id": image, "path": path, "lease": lease.described(), **why}
        return {}


@pytest.fixture
def folder(client, store, monkeypatch):
    """The client of a server over the studies folder of `store`."""
    app = FolderApp(store)
    monkeypatch.setattr(requests, "_app", lambda: app)
    return client


def holder(store, image):
    with store.ledger.reading() as connection:
        return leases.of_image(connection, image)


def test_the_next_image_of_a_folder_comes_with_its_lease_and_checksum(folder, store):
    content = store.layout.image("a", ".nii.gz").read_bytes()
    answer = folder.post("/activelearning/first", json={"client_id": "anna"}).json()
    lease = answer.pop("lease")
    assert answer == {
        "id": "a", "path": str(store.layout.image("a", ".nii.gz")), "name": "a.nii.gz", "reason": "why", "score": 0.5,
        "strategy": "first", "checksum": f"SHA256:{hashlib.sha256(content).hexdigest()}", "more": 1,
    }  # fmt: skip
    assert (lease["client_id"], lease["strategy"]) == ("anna", "first")
    assert 0 < lease["seconds"] <= 60
    assert holder(store, "a").client_id == "anna"


def test_what_is_handed_out_is_segmented_ahead(folder, store, label_file):
    app = requests._app()
    for client in ("anna", "bob", "late"):
        folder.post("/activelearning/first", json={"client_id": client})
    assert app.ahead == [("a", "anna"), ("b", "bob")]  # for the last one nothing was left


def test_what_is_handed_out_for_review_is_not_segmented(folder, store, label_file):
    store.labels.save("a", label_file(10), "final", {}, author="anna")
    assert "label" in folder.post("/activelearning/review", json={"client_id": "bob"}).json()
    assert requests._app().ahead == ()


def test_who_gives_no_name_is_known_by_the_address(folder, store):
    assert folder.post("/activelearning/first").json()["lease"]["client_id"] == "anonymous@testclient"
    answer = folder.post("/activelearning/first", json={"client_id": 5})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "params.client_id = 5 can't be used; expected text"


def test_the_strategy_is_that_of_the_address(folder):
    answer = folder.post("/activelearning/first", json={"strategy": "review"})
    assert (answer.status_code, answer.json()["detail"]) == (
        400,
        "params must not hold strategy; images, models, strategies and methods are named in the request's address",
    )


def test_nothing_left_is_an_empty_answer(folder):
    assert [folder.post("/activelearning/first").json() != {} for _ in range(3)] == [True, True, False]


def test_a_review_offers_the_label_to_correct(folder, store, label_file):
    for voxels in (10, 20):
        store.labels.save("a", label_file(voxels), "final", {}, author="anna")
    answer = folder.post("/activelearning/review", json={"client_id": "bob"}).json()
    assert answer["label"] == {"tag": "final", "version": 2, "url": "/datastore/label?label=a&tag=final"}
    final = store.layout.shown("a", "final").read_bytes()
    assert folder.get(answer["label"]["url"]).content == final
    assert folder.get("/datastore/label?label=a&tag=original").content == final
    assert folder.get("/datastore/label?label=a&tag=other").status_code == 404
    with store.ledger.writing() as connection:
        leases.free(connection, "a", actor="bob", why="done")
    assert folder.get("/datastore/label?label=a&tag=original").status_code == 404


def test_a_review_offers_a_partial_label_so_that_3d_slicer_takes_it(folder, store, label_file, tmp_path, monkeypatch):
    label = read_label(label_file(60))  # liver in half of each slice
    limited = Volume(np.where(np.arange(4) < 3, label.array, np.uint8(NOT_LOOKED_AT)), label.affine)
    write_label(tmp_path / "partly.nii.gz", limited)
    files = {"label": ("label.nii.gz", (tmp_path / "partly.nii.gz").read_bytes())}
    answer = folder.put("/datastore/label", params={"image": "a"}, files=files).json()
    assert (answer["looked_at_slices"], answer["slices"]) == (3, 4)
    folder.post("/activelearning/review", json={"client_id": "bob"})
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    answer = folder.get("/datastore/label?label=a&tag=original")
    assert 'filename="a.nii.gz"' in answer.headers["content-disposition"]
    (tmp_path / "got.nii.gz").write_bytes(answer.content)
    expected = np.where(limited.array == NOT_LOOKED_AT, 3, limited.array)
    np.testing.assert_array_equal(read_label(tmp_path / "got.nii.gz").array, expected)
    kept = store.layout.shown("a", "final").read_bytes()
    assert folder.get("/datastore/label?label=a&tag=final").content == kept  # as it is, for who reads numbers
    monkeypatch.setattr(requests, "write_label", lambda path, label: (_ for _ in ()).throw(StorageError("full")))
    assert folder.get("/datastore/label?label=a&tag=original").status_code == 507
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        ([[1, 4]], "looked_at names the axial slices 1 to 4, but the image has those from 0, nearest the feet, to 3"),
        (
            "all",
            "params.looked_at = 'all' can't be used; expected ranges of axial slices such as [[41, 48], [90, 95]], the "
            "lower end first",
        ),
        (
            [[0, 1]],
            "something was painted in the axial slices 2 to 3 (0 is nearest the feet), outside the slices that ",
        ),
    ],
)
def test_what_was_looked_at_is_refused_in_plain_words(folder, label_file, ranges, reason):
    files = {"label": ("label.nii.gz", label_file(120).read_bytes())}
    params = {"params": json.dumps({"looked_at": ranges})}
    answer = folder.put("/datastore/label", params={"image": "a"}, data=params, files=files)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(reason)


def test_a_lease_for_labelling_offers_the_original_label(folder, store, label_file):
    store.labels.save("a", label_file(10), "original", {}, author="model")
    store.labels.save("a", label_file(20), "final", {}, author="anna")
    folder.post("/activelearning/first")
    original = store.layout.shown("a", "original").read_bytes()
    assert folder.get("/datastore/label?label=a&tag=original").content == original
    assert folder.head("/datastore/label?image=a&tag=original").headers["called"] == "theirs"


def end_of(store, image):
    return holder(store, image).expires_at


def test_who_works_on_an_image_keeps_it(folder, store, label_file):
    folder.post("/activelearning/first", json={"client_id": "anna"})
    files = {"label": ("label.nii.gz", label_file(5).read_bytes())}
    for work in (
        lambda data: folder.post("/infer/m", params={"image": "a"}, data=data),
        lambda data: folder.put("/datastore/label", params={"image": "a", "tag": "draft"}, data=data, files=files),
    ):
        before = end_of(store, "a")
        assert work({"params": '{"client_id": "bob"}'}).status_code == 200
        assert end_of(store, "a") == before
        assert work({"params": '{"client_id": "anna"}'}).status_code == 200
        assert end_of(store, "a") > before


def test_work_goes_on_where_the_ledger_can_not_be_written(folder, store, monkeypatch, caplog):
    folder.post("/activelearning/first", json={"client_id": "anna"})

    def renew(*arguments):
        raise StorageError("the disk is full")

    monkeypatch.setattr(leases, "renew", renew)
    answer = folder.post("/infer/m", params={"image": "a"}, data={"params": '{"client_id": "anna"}'})
    assert answer.status_code == 200
    assert "the lease of a is not renewed: the disk is full" in caplog.text


def test_a_saved_label_is_answered_with_what_was_kept(folder, store, label_file):
    for number in (1, 2):
        sent = label_file(number).read_bytes()
        files = {"label": ("label.nii.gz", sent)}
        answer = folder.put("/datastore/label", params={"image": "a"}, files=files).json()
        assert (answer["image"], answer["label"], answer["tag"], answer["version"]) == ("a", "a", "final", number)
        assert answer["sha256"] == hashlib.sha256(store.layout.shown("a", "final").read_bytes()).hexdigest()
    files = {"label": ("label", b"x")}  # a client may name its file as it likes
    refusal = folder.put("/datastore/label", params={"image": "a"}, files=files)
    assert refusal.status_code == 400
    assert refusal.json()["detail"] == (
        "label for image 'a': neither NIfTI nor NRRD by its content (it begins with b'x'); export it again"
    )


def test_who_it_was_is_passed_on(folder, store, label_file):
    files = {"label": ("label.nii.gz", label_file(5).read_bytes())}
    for given, expected in (("{}", "anonymous@testclient"), ('{"client_id": "anna"}', "anna")):
        sent = {"client_id": expected}
        answer = folder.post("/infer/m", params={"image": "a"}, data={"params": given}).json()
        assert json.loads(literal_eval(answer["arguments"][4])) == sent
        assert folder.put("/datastore/label", params={"image": "a"}, data={"params": given}, files=files).is_success
        assert store.labels.history("a")[0].author == expected
