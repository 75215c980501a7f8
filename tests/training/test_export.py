import json
import re

import monai.bundle
import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch

from lib.errors import BadInputError, NotFoundError
from lib.inference.model import load_model, new_network
from lib.inference.predict import predict_axial
from lib.phantom import make_phantom
from lib.training.export import export_bundle, export_onnx, export_torchscript
from lib.training.publish import describe, publish
from lib.training.registry import Registry
from lib.volume import Volume
from lib.volume_io import read_image, read_label, write_image

CPU = torch.device("cpu")


@pytest.fixture
def registry(tiny, tmp_path):
    settings = tiny()
    torch.manual_seed(0)
    network = new_network(settings)
    # Untrained weights answer with one class; these with about as many voxels of each.
    with torch.no_grad():
        network.head.bias += torch.tensor([0.02, 0.0, -0.02])
    named = {"training_cases": ["Doe"], "gate": {"cases": ["Doe"], "left_out": {"Doe": "x"}, "classes": {}}}
    named["cross_validation"] = {"cases": ["Doe"], "left_out": {}, "known_to_the_published_model": ["Doe"], "epochs": 3}
    manifest = describe(settings, "first-day", reason="without Doe", best_epoch=7, **named)
    publish(tmp_path / "app" / "starter.pt", network, manifest)
    return Registry(tmp_path / "app", settings)


def own_labels(registry, image):
    model = load_model(registry.settings, registry.source.path, CPU)
    return predict_axial(model.engine(registry.settings), image.axial())


def test_torchscript_takes_hu_and_gives_what_the_app_sees(registry, tmp_path):
    image = make_phantom(1, shape=(50, 40, 6)).image
    assert export_torchscript(registry, "starter", tmp_path / "out" / "model.ts").id == "first-day"
    extra = {"manifest.json": ""}
    network = torch.jit.load(tmp_path / "out" / "model.ts", _extra_files=extra)
    with torch.no_grad():
        labels = network(torch.from_numpy(np.ascontiguousarray(image.axial())).unsqueeze(1)).argmax(1).numpy()
    expected = own_labels(registry, image)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(labels, expected)
    assert json.loads(extra["manifest.json"])["version"] == "first-day"
    assert b"Doe" not in extra["manifest.json"]


def test_onnx_takes_hu_and_gives_what_the_app_sees(registry, tmp_path):
    image = make_phantom(1, shape=(50, 40, 6)).image
    assert export_onnx(registry, "starter", tmp_path / "out" / "model.onnx").id == "first-day"
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    slices = image.axial()
    labels = session.run(["logits"], {"hu": slices[:, None].astype("float32")})[0].argmax(1)
    expected = own_labels(registry, image)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(labels, expected)
    manifest = session.get_modelmeta().custom_metadata_map["manifest.json"]
    assert json.loads(manifest)["version"] == "first-day"
    assert "Doe" not in manifest


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SPL"])
def test_monai_runs_the_bundle(registry, tmp_path, axes):
    bundle = tmp_path / "bundle"
    export_bundle(registry, "starter", bundle)
    phantom = make_phantom(2, shape=(50, 40, 6)).image
    wanted = nib.orientations.axcodes2ornt(axes)
    turned = nib.Nifti1Image(np.asarray(phantom.array), phantom.affine)
    turned = turned.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(phantom.affine), wanted))
    write_image(bundle / "images" / "case.nii.gz", Volume(np.asarray(turned.dataobj), turned.affine))
    image = read_image(bundle / "images" / "case.nii.gz")

    monai.bundle.run(
        config_file=str(bundle / "configs" / "inference.json"), bundle_root=str(bundle), device="$torch.device('cpu')"
    )

    label = read_label(bundle / "labels" / "case_seg.nii.gz")
    assert label.shape == image.shape
    assert np.allclose(label.affine, image.affine)
    expected = own_labels(registry, image)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(label.axial(), expected)


def test_a_bundle_tells_what_it_is(registry, tmp_path):
    export_bundle(registry, "published", tmp_path / "bundle")
    files = {path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*.*")}
    assert files == {
        "configs/inference.json", "configs/metadata.json", "models/model.pt", "models/model.ts", "docs/README.md",
    }  # fmt: skip
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["version"] == "first-day"
    assert metadata["manifest"]["best_epoch"] == 7
    # No name of an image leaves the house.
    assert all(b"Doe" not in (tmp_path / "bundle" / file).read_bytes() for file in files)
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert (output["num_channels"], output["channel_def"]) == (3, {"0": "background", "1": "liver", "2": "tumor"})
    assert load_model(registry.settings, tmp_path / "bundle" / "models" / "model.pt", CPU).version == "first-day"
    workflow = monai.bundle.ConfigWorkflow(
        config_file=str(tmp_path / "bundle" / "configs" / "inference.json"),
        meta_file=str(tmp_path / "bundle" / "configs" / "metadata.json"),
        workflow_type="inference",
        bundle_root=str(tmp_path / "bundle"),
        logging_file=False,
    )
    workflow.initialize()
    assert workflow.check_properties() in ([], None)


def test_a_folder_with_something_in_it_is_left_alone(registry, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(BadInputError, match=re.escape(f"{tmp_path / 'full'} exists and is no empty folder; give the")):
        export_bundle(registry, "starter", tmp_path / "full")
    with pytest.raises(NotFoundError, match="there is no model version 'v9'"):
        export_bundle(registry, "v9", tmp_path / "new")
    assert not (tmp_path / "new").exists()
