"""What `params` may hold: all that real clients send, nothing that only the server may set, nothing out of range."""

import json
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given, settings
from hypothesis import strategies as st
from monailabel.endpoints.batch_infer import api_run

from lib.errors import BadInputError
from lib.inference import task as inference
from lib.inference.model import ModelSource
from lib.inference.task import LiverTumorInferTask
from lib.settings import Settings, TrainingSettings
from lib.training import task as training
from lib.training.task import LiverTumorTrainTask
from lib.transforms.postprocessing import PostprocessingSettings
from lib.volume_io import LABEL_SUFFIXES
from lib.web.guard.carried import FORBIDDEN, checked
from lib.web.guard.carried_params import (
    AllScoringParams,
    AllTrainParams,
    BatchParams,
    InferParams,
    NextSampleParams,
    Params,
    SaveLabelParams,
    ScoringParams,
    Segment,
    TrainParams,
)
from tests.loop.slicer_module import through_table

MODELS = (
    AllScoringParams, AllTrainParams, BatchParams, InferParams, NextSampleParams, Params, SaveLabelParams,
    ScoringParams, TrainParams,
)  # fmt: skip
NUMBERED = [
    (model, name)
    for model in (*MODELS, Segment)
    for name, field in model.model_fields.items()
    if any(isinstance(limit, Ge | Gt | Le | Lt) for limit in field.metadata)
]
# MONAI Label's names -> ours.
RECIPE = {
    "max_epochs": "max_epochs", "train_batch_size": "batch_size", "val_split": "validation_fraction",
    "early_stop_patience": "early_stop_patience",
}  # fmt: skip

FEW = settings(max_examples=15)  # of what is tried for each of many models or keys

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
_SWITCHES = st.builds(
    PostprocessingSettings, largest_liver=..., fill_holes=..., tumor_in_hull=..., drop_specks=...,
    hull_margin_mm=st.floats(0, 50), min_tumor_mm3=st.floats(0, 1e6),
)  # fmt: skip
_RECIPES = st.builds(
    TrainingSettings, max_epochs=st.integers(1, 10_000), batch_size=st.integers(1, 1024),
    validation_fraction=st.floats(0, 0.9), early_stop_patience=st.integers(0, 2**31 - 1),
)  # fmt: skip
_DEVICES = st.lists(st.sampled_from(["cpu", "NVIDIA H100 80GB HBM3", "Quadro RTX 6000/8000:1"]), min_size=1, max_size=3)


def refused(model, sent):
    with pytest.raises(BadInputError) as caught:
        checked(model, sent)
    return str(caught.value)


def from_slicer(config: dict[str, Any]) -> dict[str, Any]:
    """What 3D Slicer's module sends of a config whose options nobody changed."""
    config = json.loads(json.dumps(config))
    table = {key: through_table(value) for key, value in config.items()}
    return {key: value[0] if isinstance(value, list) else value for key, value in table.items()}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Makes what `/info/` tells of model and trainer of an app with these settings."""
    folder = tmp_path_factory.mktemp("app")

    def make(switches: PostprocessingSettings, recipe: TrainingSettings, devices: list[str]) -> tuple[dict, dict]:
        settings = Settings(postprocessing=switches, training=recipe)
        source = ModelSource.of_app(settings, folder)
        with pytest.MonkeyPatch.context() as patch:
            for module in (inference, training):
                patch.setattr(module, "device_list", lambda: devices)
            infers = LiverTumorInferTask(settings, source)
            trains = LiverTumorTrainTask(settings, source, folder / "model")
        return infers.config(), trains.config()

    return make


@settings(max_examples=50)
@given(_SWITCHES, _RECIPES, _DEVICES, st.data())
def test_what_info_tells_comes_back_from_3d_slicer(configs, switches, recipe, devices, data):
    infers, trains = configs(switches, recipe, devices)
    of_model, of_trainer = from_slicer(infers), from_slicer(trains)
    of_model |= {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz"}
    of_trainer["client_id"] = data.draw(st.none() | st.just("user-xyz"))
    assert checked(InferParams, of_model).sent() == of_model
    assert checked(BatchParams, of_model).sent() == of_model
    assert checked(TrainParams, of_trainer).sent() == of_trainer
    assert checked(AllTrainParams, {"liver_tumor": of_trainer}).sent() == {"liver_tumor": of_trainer}


@settings(max_examples=50)
@given(_SWITCHES, _RECIPES, _DEVICES)
def test_the_whole_of_it_comes_back_from_a_program(configs, switches, recipe, devices):
    infers, trains = configs(switches, recipe, devices)
    assert checked(InferParams, infers).sent() == infers
    assert checked(TrainParams, {**trains, "start": trains["start"][0]}).device == trains["device"]


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        # The viewer that comes with MONAI Label
        (
            InferParams,
            {
                "result_extension": ".nrrd",
                "result_dtype": "uint8",
                "result_compress": False,
                "restore_label_idx": False,
            },
        ),
        (InferParams, {"label_prompt": [1, 2], "restore_label_idx": False}),
        (AllTrainParams, {}),
        (AllTrainParams, {"liver_tumor": {"max_epochs": 3}}),
        (NextSampleParams, {}),
        # MONAI Label's client without a name, and with
        *((model, {"client_id": name}) for model in MODELS for name in (None, "", "user-xyz")),
        # 3D Slicer
        (
            SaveLabelParams,
            {"client_id": "user-xyz", "label_info": [{"name": "Liver", "idx": 1}, {"name": "Tumor", "idx": 4}]},
        ),
        # Examples of the documentation
        (SaveLabelParams, {"label_info": [{"name": "not looked at", "idx": 255}], "looked_at": [[41, 48], [90, 95]]}),
        (SaveLabelParams, {"label_info": []}),
        (SaveLabelParams, {"label_info": [{"name": "liver", "idx": 1, "color": [0.5, 0, 1.0]}]}),
        (TrainParams, {"resume": True}),
        (TrainParams, {"resume": "20250131_142500"}),
        (TrainParams, {"multi_gpu": True, "gpus": "0,1"}),
        (TrainParams, {"start": "scratch", "pretrained": False, "early_stop_patience": -1}),
        (TrainParams, {"start": "20250131-142500-000123"}),
        (InferParams, {"planes": "images", "result_write_to_file": False}),
        (BatchParams, {"again": True, "label_tag": "second"}),
        (NextSampleParams, {"skip": "arms down", "client_id": "ann"}),
        (ScoringParams, {"y": "final", "y_pred": "original", "device": "cpu"}),
        (AllScoringParams, {"dice": {"y": "second"}, "device": "cpu"}),
    ],
    ids=lambda value: None,
)
def test_what_clients_send_passes_as_it_is(model, sent):
    assert checked(model, sent).sent() == sent


def test_the_example_of_monai_labels_own_batch_passes():
    sent = json.loads(json.dumps(api_run.__defaults__[1]))
    assert set(sent) >= {"device", "multi_gpu", "gpus", "logging", "save_label", "label_tag", "max_workers"}
    assert checked(BatchParams, sent).sent() == sent


@pytest.mark.parametrize("model", MODELS)
@FEW
@given(key=st.sampled_from(sorted(FORBIDDEN)), value=_JSON, named=st.booleans())
def test_what_only_the_server_sets_is_refused(model, key, value, named):
    assert refused(model, {key: value, "client_id": "ann"}) == f"params must not hold {key}; {FORBIDDEN[key]}"
    if named and model.NAMES_ALLOWED:
        assert refused(model, {"liver": {key: value}}) == f"params.liver must not hold {key}; {FORBIDDEN[key]}"


@pytest.mark.parametrize("model", MODELS)
@FEW
@given(key=st.text(max_size=30), value=_JSON)
def test_nothing_that_a_model_does_not_name_passes(model, key, value):
    if key in model.model_fields or (model.NAMES_ALLOWED and isinstance(value, dict)):
        return
    assert refused(model, {key: value}).startswith("params must not hold ")


@pytest.mark.parametrize(("model", "name"), NUMBERED)
@FEW
@given(data=st.data())
def test_no_number_out_of_its_range_passes(model, name, data):
    field = model.model_fields[name]
    low = next(limit.ge for limit in field.metadata if isinstance(limit, Ge))
    high = next(getattr(limit, "le", None) or limit.lt - 1 for limit in field.metadata if isinstance(limit, Le | Lt))
    if field.annotation is int:
        wrong = st.integers(max_value=low - 1) | st.integers(min_value=high + 1)
        right = st.integers(low, high)
    else:
        wrong = (
            st.floats(max_value=low, exclude_max=True)
            | st.floats(min_value=high, exclude_min=True)
            | st.just(float("nan"))
        )
        right = st.floats(low, high)
    assert refused(model, {name: data.draw(wrong)}).startswith(f"params.{name} = ")
    value = data.draw(right)
    assert getattr(checked(model, {name: value}), name) == value


def test_there_are_numbers_to_try():
    assert {name for _, name in NUMBERED} >= {
        "max_epochs", "train_batch_size", "val_split", "early_stop_patience", "max_workers", "max_batch_size",
        "hull_margin_mm", "min_tumor_mm3",
    }  # fmt: skip


@given(st.fixed_dictionaries({}, optional={
    "max_epochs": st.integers(1, 10_000), "train_batch_size": st.integers(1, 1024), "val_split": st.floats(0, 0.9),
    "early_stop_patience": st.integers(0, 2**31 - 1),
}))  # fmt: skip
def test_what_passes_fits_the_recipe_too(sent):
    passed = checked(TrainParams, sent).sent()
    TrainingSettings.model_validate({RECIPE[key]: value for key, value in passed.items()})


def test_ranges_are_those_of_the_recipe():
    for theirs, ours in RECIPE.items():
        told = {str(limit) for limit in TrainingSettings.model_fields[ours].metadata}
        here = {str(limit) for limit in TrainParams.model_fields[theirs].metadata}
        assert theirs == "early_stop_patience" or told == here, theirs  # -1 is MONAI Label's way to say off


def test_every_format_of_results_can_be_asked_for():
    for suffix in LABEL_SUFFIXES:
        checked(InferParams, {"result_extension": suffix})


@pytest.mark.parametrize(
    ("model", "sent", "expected"),
    [
        (
            InferParams,
            {"result_extension": ".exe"},
            "params.result_extension = '.exe' can't be used; expected '.nrrd', '.nii.gz', '.nii', '.seg.nrrd' or ''",
        ),
        (
            InferParams,
            {"result_dtype": "float32"},
            "params.result_dtype = 'float32' can't be used; expected 'uint8' or ''",
        ),
        *(
            (
                model,
                {"save_label": True, "label_tag": "final"},
                "params.label_tag = 'final' can't be used; expected a tag such as 'original'; a final label is what a "
                "person submits, by PUT /datastore/label",
            )
            for model in (InferParams, BatchParams)
        ),
        (InferParams, {"planes": "all"}, "params.planes = 'all' can't be used; expected 'seg.nrrd', 'images' or ''"),
        (
            InferParams,
            {"logging": "LOUD"},
            "params.logging = 'LOUD' can't be used; expected a log level such as 'INFO'",
        ),
        (
            InferParams,
            {"device": 3},
            "params.device = 3 can't be used; expected a device's name such as 'cpu' or 'cuda'",
        ),
        (
            InferParams,
            {"skip_writer": True},
            "params must not hold skip_writer; result_write_to_file = false answers with the figures alone",
        ),
        (InferParams, {"label_prompt": [1, 256]}, "params.label_prompt.1 = 256 can't be used; expected at most 255"),
        (BatchParams, {"gpus": 5}, "params.gpus = 5 can't be used; expected text"),
        (BatchParams, {"gpus": "x"}, "params.gpus = 'x' can't be used; expected 'all' or numbers such as '0,1'"),
        (
            TrainParams,
            {"name": "../../x"},
            "params.name: run name '../../x' is not allowed; it must have 1 to 240 bytes, "
            "not begin with a dot and hold no slash, backslash or control character",
        ),
        (
            TrainParams,
            {"resume": 1},
            "params.resume = 1 can't be used; expected true, false or the name of an interrupted training",
        ),
        (
            TrainParams,
            {"start": "/etc/passwd"},
            "params.start = '/etc/passwd' can't be used; expected the id of a model version, 'published' or 'starter'",
        ),
        (
            AllTrainParams,
            {"liver": {"max_epochs": 0}},
            "params.liver.max_epochs = 0 can't be used; expected at least 1",
        ),
        (AllTrainParams, {"max_epoch": 3}, "params must not hold max_epoch; did you mean max_epochs?"),
        (
            AllTrainParams,
            {"a/b": {}},
            "params must not hold 'a/b'; it may hold client_id, name, max_epochs, train_batch_size, val_split, "
            "early_stop_patience, device, start, pretrained, resume, multi_gpu, gpus, logging",
        ),
        (
            SaveLabelParams,
            {"label_info": {"liver": 1}},
            "params.label_info = {'liver': 1} can't be used; expected a list "
            "of at most 256 objects such as {'name': 'liver', 'idx': 1}",
        ),
        (
            SaveLabelParams,
            {"label_info": [{"idx": 1}]},
            "params.label_info = [{'idx': 1}] can't be used; expected a list "
            "of at most 256 objects such as {'name': 'liver', 'idx': 1}",
        ),
        (
            SaveLabelParams,
            {"looked_at": [[1]]},
            "params.looked_at = [[1]] can't be used; expected ranges of axial slices "
            "such as [[41, 48], [90, 95]], the lower end first",
        ),
        (
            NextSampleParams,
            {"skip": 1},
            "params.skip can't be used; expected true, false or why, in at most 500 characters",
        ),
    ],
    ids=lambda value: None,
)
def test_a_refusal_says_what_is_expected(model, sent, expected):
    assert refused(model, sent) == expected
