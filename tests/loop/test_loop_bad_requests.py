import http.client
import json

import pytest
from monailabel.client.client import MONAILabelClientException

from lib.settings import Settings
from tests.loop.running_server import MODEL
from tests.loop.studies import manifest

pytestmark = pytest.mark.server

_PATHS = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".hidden",
    "labels/final/case_20",
    "case_20/../case_20",
    "a\0b",
]


@pytest.fixture(autouse=True)
def untouched(server):
    """Whatever a test asks: the studies folder stays as it is and the server goes on."""
    before = manifest(server.studies)
    yield
    assert manifest(server.studies) == before
    assert server.children() == []
    assert server.infer("case_20", output="json").status == 200


@pytest.mark.parametrize("image", _PATHS)
def test_an_image_id_is_no_path(server, image):
    answer = server.infer(image)
    assert answer.status == 400
    assert answer.reason.startswith(f"image id {image[:80]!r} is not allowed")
    assert "passwd:" not in answer.reason


@pytest.mark.parametrize("encoded", ["..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "..%5c..%5cetc"])
def test_an_encoded_path_is_one_too(server, encoded):
    answer = server.ask("POST", f"/infer/{MODEL}?image={encoded}", data={"params": "{}"})
    assert answer.status == 400
    assert answer.reason.startswith("image id ")


@pytest.mark.parametrize("image", _PATHS)
def test_an_image_is_not_stored_outside_the_folder(server, tmp_path, image):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(b"")
    answer = server.ask("PUT", "/datastore/image", params={"image": image}, files={"file": ("x.nii.gz", b"")})
    assert answer.status == 400
    assert answer.reason.startswith("image id ")


@pytest.mark.parametrize("image", ["nobody", "case_2", "case_20.nii.gz", "lib", "tests", "~root", "%2e%2e%2fetc"])
def test_a_missing_image_is_named(server, image):
    assert server.infer(image) == (404, f"there is no image {image!r} in the studies folder")


def test_missing_images_and_labels_are_not_found_elsewhere_either(server):
    for method, path in (
        ("GET", "/datastore/image?image=nobody"),
        ("GET", "/datastore/image?image=../../etc/passwd"),
        ("GET", "/datastore/label?label=case_20&tag=nobody"),
        ("GET", "/datastore/label?label=../../etc/passwd&tag=final"),
        ("DELETE", "/datastore/image?id=nobody"),
        ("DELETE", "/datastore/label?id=case_20&tag=nobody"),
        ("GET", "/datastore/dataset"),
        ("GET", "/model/nobody"),
        ("GET", "/session/nobody"),
        ("DELETE", "/session/nobody"),
    ):
        answer = server.ask(method, path)
        assert answer.status == (400 if "image=.." in path else 404), (method, path)
        assert answer.reason


@pytest.mark.parametrize("key", ["image", "label", "model"])
def test_params_do_not_override_what_the_address_names(server, key):
    assert server.infer("case_20", {key: "/etc/passwd"}) == (
        400,
        f"params must not hold {key}; images, models, strategies and methods are named in the request's address",
    )


@pytest.mark.parametrize("key", ["session", "image_path", "bundle_path", "model_filename"])
def test_params_hold_nothing_that_the_server_sets(server, key):
    answer = server.infer("case_20", {key: "/etc/passwd"})
    assert answer.status == 400
    assert answer.reason.startswith(f"params must not hold {key}; ")


def test_no_request_body_overrides_it_either(server):
    reserved = {"image": "/etc/passwd", "bundle_path": "/tmp"}
    label = {"label": ("x.nii.gz", b"")}
    assert server.ask("POST", "/activelearning/random", json=reserved).status == 400
    for path in (f"/train/{MODEL}", "/train/", f"/batch/infer/{MODEL}", "/scoring/dice", "/scoring/"):
        assert server.ask("POST", path, json=reserved).status == 400, path
    for path in ("/train/", "/scoring/"):
        assert server.ask("POST", path, json={MODEL: reserved, "dice": reserved}).status == 400, path
    sent = server.ask("PUT", "/datastore/label?image=case_20", data={"params": json.dumps(reserved)}, files=label)
    assert sent.status == 400
    whole_slide = server.ask("POST", f"/infer/wsi/{MODEL}?image=x", json={"params": {"session": {"a": 1}, **reserved}})
    assert whole_slide == (404, "this server segments CT and takes no whole-slide images; use /infer/")


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ("{bad", "params is not valid JSON: "),
        ("[1]", "params must be a JSON object, not list"),
        ('"text"', "params must be a JSON object, not str"),
    ],
)
def test_params_that_are_no_json_object_are_refused(server, params, reason):
    for answer in (
        server.infer("case_20", params),
        server.ask(
            "PUT", "/datastore/label?image=case_20", data={"params": params}, files={"label": ("x.nii.gz", b"")}
        ),
        server.ask("PUT", "/datastore/image?image=x", data={"params": params}, files={"file": ("x.nii.gz", b"")}),
    ):
        assert answer.status == 400
        assert answer.reason.startswith(reason)
    info = server.ask("PUT", "/datastore/image/info?image=case_20", data={"info": params})
    assert info.status == 400
    assert info.reason.startswith(reason.replace("params", "info"))


@pytest.mark.parametrize(
    "path", [f"/train/{MODEL}", "/activelearning/random", f"/batch/infer/{MODEL}", "/scoring/dice"]
)
@pytest.mark.parametrize("body", ["{bad", "[1]"])
def test_bodies_that_are_no_json_object_are_refused(server, path, body):
    assert server.ask("POST", path, data=body, headers={"content-type": "application/json"}).status == 422


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"result_extension": ".exe"}, "params.result_extension = '.exe' can't be used; expected '.nrrd', '.nii.gz', "),
        ({"result_dtype": "float32"}, "params.result_dtype = 'float32' can't be used; expected 'uint8' or ''"),
        ({"planes": "all"}, "params.planes = 'all' can't be used; expected 'seg.nrrd', 'images' or ''"),
        ({"min_tumor_mm3": -3}, "params.min_tumor_mm3 = -3 can't be used; expected at least 0"),
        ({"largest_liver": "perhaps"}, "params.largest_liver = 'perhaps' can't be used; expected true or false"),
        ({"logging": "LOUD"}, "params.logging = 'LOUD' can't be used; expected a log level such as 'INFO'"),
        ({"device": 3}, "params.device = 3 can't be used; expected a device's name such as 'cpu' or 'cuda'"),
        ({"skip_writer": True}, "params must not hold skip_writer; result_write_to_file = false "),
        ({"result_ext": ".nii"}, "params must not hold result_ext; did you mean result_extension or "),
        ({"save_label": True, "label_tag": "../x"}, "params.label_tag: label tag '../x' is not allowed; "),
        (
            {"save_label": True, "label_tag": "final"},
            "params.label_tag = 'final' can't be used; expected a tag such as ",
        ),
    ],
)
def test_a_wrong_value_is_named_at_once(server, params, reason):
    for answer in (server.infer("case_20", params), server.ask("POST", f"/batch/infer/{MODEL}", json=params)):
        assert answer.status == 400
        assert answer.reason.startswith(reason)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"max_epochs": 0}, "max_epochs = 0 can't be used; expected at least 1"),
        ({"max_epochs": "many"}, "max_epochs = 'many' can't be used; expected a whole number"),
        ({"train_batch_size": -1}, "train_batch_size = -1 can't be used; "),
        ({"val_split": 1.5}, "val_split = 1.5 can't be used; expected at most 0.9"),
        ({"early_stop_patience": "never"}, "early_stop_patience = 'never' can't be used; "),
        ({"name": "../../x"}, "name: run name '../../x' is not allowed; "),
        ({"train_ds": "/etc/passwd"}, " must not hold train_ds; "),
        ({"val_ds": "/etc/passwd"}, " must not hold val_ds; "),
        ({"gpus": 5}, "gpus = 5 can't be used; "),
    ],
)
def test_a_wrong_training_is_refused_before_it_starts(server, client, params, reason):
    with pytest.raises(MONAILabelClientException) as refusal:
        client.train_start(MODEL, dict(params))
    assert refusal.value.msg.startswith("Status: 400; Response: ")
    told = json.loads(refusal.value.msg.partition("Response: ")[2])["detail"]
    assert told.removeprefix("params").removeprefix(".").startswith(reason)
    of_all = server.ask("POST", "/train/", json={MODEL: params})
    assert of_all.status == 400
    assert of_all.reason.removeprefix(f"params.{MODEL}").removeprefix(".").startswith(reason)


def test_a_training_of_models_that_are_not_there_is_refused(server):
    answer = server.ask("POST", "/train/", json={"spleen": {"max_epochs": 1}})
    assert answer == (404, f"there is no model to train 'spleen'; choose one of {MODEL}")
    answer = server.ask("POST", "/scoring/", json={"beauty": {}})
    assert answer == (404, "there is no scoring method 'beauty'; choose one of dice, scores")


def test_training_without_labels_is_refused_before_it_starts(server, client):
    with pytest.raises(MONAILabelClientException) as refusal:
        client.train_start(MODEL, {"max_epochs": 1})
    assert refusal.value.msg.startswith("Status: 400; Response: ")
    assert "no image is labelled yet; submit at least one corrected segmentation before training" in refusal.value.msg
    assert server.ask("GET", "/train/").status == 404  # none was ever started


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("POST", "/infer/spleen?image=case_20", f"there is no model 'spleen'; choose one of {MODEL}"),
        ("POST", "/batch/infer/spleen", f"there is no model 'spleen'; choose one of {MODEL}"),
        ("POST", "/train/spleen", f"there is no model to train 'spleen'; choose one of {MODEL}"),
        (
            "POST",
            "/activelearning/best",
            f"there is no strategy 'best'; choose one of {', '.join(Settings().active_learning.strategies)}",
        ),
        ("POST", "/scoring/beauty", "there is no scoring method 'beauty'; choose one of dice, scores"),
    ],
)
def test_an_unknown_name_is_told_with_the_known_ones(server, method, path, reason):
    assert server.ask(method, path) == (404, reason)


@pytest.mark.parametrize("strategy", [["random"], {"a": 1}, 5, "x" * 500, "random"])
def test_a_strategy_stands_in_the_address_alone(server, strategy):
    answer = server.ask("POST", "/activelearning/random", json={"strategy": strategy})
    assert answer.status == 400
    assert answer.reason.startswith("params must not hold strategy; ")


@pytest.mark.parametrize("session", ["nobody", "..", "../x", "/etc"])
def test_an_unknown_session_is_refused(server, session):
    reason = f"there is no session {session!r}; it may have expired, send the image again"
    assert server.infer(session_id=session) == (404, reason)


@pytest.mark.parametrize("path", ["/session/..", "/session/../../etc", "/session/..%2f.."])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_session_in_the_address_is_no_path(server, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port)  # other clients tidy the address up
    connection.request(method, path)
    assert connection.getresponse().status == 404
    assert (server.folder / "sessions").is_dir() or not list(server.folder.glob("sessions"))


def test_an_inference_needs_an_image(server):
    assert server.infer() == (400, "no image: give an image id, a session_id or a file")


def test_dicom_segmentations_need_a_pacs(server):
    answer = server.infer("case_20", output="dicom_seg")
    reason = "output=dicom_seg is not offered; with a PACS, a label that is submitted is stored there as DICOM SEG"
    assert answer == (400, reason)


def test_a_batch_of_images_that_are_no_kind_is_refused(server):
    assert server.ask("POST", f"/batch/infer/{MODEL}?images=some").status == 422
    answer = server.ask("POST", f"/batch/infer/{MODEL}", json={"max_batch_size": "few"})
    assert answer == (400, "params.max_batch_size = 'few' can't be used; expected a whole number")
    answer = server.ask("POST", f"/batch/infer/{MODEL}", json={"gpus": "first"})
    assert answer == (400, "params.gpus = 'first' can't be used; expected 'all' or numbers such as '0,1'")
