"""A model version for use elsewhere: as TorchScript, as ONNX, or as a MONAI bundle."""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.errors import BadInputError
from lib.files import atomic_write
from lib.inference.engine import STRIDE
from lib.inference.model import load_model
from lib.networks.checkpoint import save_weights
from lib.networks.from_hu import script_from_hu
from lib.networks.to_onnx import write_onnx
from lib.settings import Settings
from lib.training.registry import ModelVersion, Registry

# Lists of cases, and words that may hold their names.
_IN_HOUSE = {"training_cases", "validation_cases", "cases", "left_out", "known_to_the_published_model", "reason"}


def export_torchscript(registry: Registry, version_id: str, path: Path) -> ModelVersion:
    """Write a version as one TorchScript file that takes HU and gives logits, with its manifest inside.

    See `lib.networks.from_hu.FromHounsfield` for what goes in and comes out. `torch.jit.load(path)` needs none of this
    code; the manifest is the extra file `manifest.json`.

    Raises:
        NotFoundError: there is no such version.
        BadInputError: it does not fit `app.yaml`.
        ModelError: its weights are damaged, or the network can't be written so.
        StorageError: the disk refused the write.
    """
    version, network = _load(registry, version_id)
    scripted = script_from_hu(network, registry.settings.blend_channels(), STRIDE)
    manifest = json.dumps(_manifest(version))
    with atomic_write(path) as temporary:
        torch.jit.save(scripted, str(temporary), _extra_files={"manifest.json": manifest})
    return version


def export_onnx(registry: Registry, version_id: str, path: Path) -> ModelVersion:
    """Write a version as one ONNX file that takes HU and gives logits, with its manifest inside.

    See `lib.networks.to_onnx.write_onnx` for what goes in and comes out, and how it is checked. ONNX Runtime gives the
    manifest as `session.get_modelmeta().custom_metadata_map["manifest.json"]`.

    Raises:
        NotFoundError: there is no such version.
        BadInputError: it does not fit `app.yaml`.
        ModelError: its weights are damaged, or the network can't be written so.
        StorageError: the disk refused the write.
    """
    version, network = _load(registry, version_id)
    metadata = {"manifest.json": json.dumps(_manifest(version))}
    write_onnx(path, network, registry.settings.blend_channels(), STRIDE, metadata)
    return version


def export_bundle(registry: Registry, version_id: str, folder: Path) -> ModelVersion:
    """Write a version as a MONAI bundle: `monai.bundle` runs it on CT files without this code.

    `models/model.ts` is what it runs, `models/model.pt` the weights as LiverLoop reads them.

    Args:
        registry: of the app.
        version_id: which version.
        folder: the bundle; must be new or empty.

    Raises:
        BadInputError: the folder holds something, or the version does not fit `app.yaml`.
        NotFoundError: there is no such version.
        ModelError: its weights are damaged, or the network can't be written so.
        StorageError: the disk refused the write.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} exists and is no empty folder; give the bundle a folder of its own"
        raise BadInputError(msg)
    version = export_torchscript(registry, version_id, folder / "models" / "model.ts")
    network = load_model(registry.settings, version.weights, torch.device("cpu")).network
    save_weights(folder / "models" / "model.pt", network, _manifest(version))
    contents = {
        "configs/inference.json": json.dumps(_inference(registry.settings), indent=4),
        "configs/metadata.json": json.dumps(_metadata(registry.settings, version), indent=4),
        "docs/README.md": _readme(registry.settings, version),
    }
    for name, text in contents.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return version


EXPORTS: dict[str, tuple[Callable[[Registry, str, Path], ModelVersion], str]] = {
    "torchscript": (export_torchscript, ".ts"),
    "onnx": (export_onnx, ".onnx"),
    "bundle": (export_bundle, ""),
}
"""What a version can be written as: by which function, and how the file's name ends; a bundle is a folder."""


def _load(registry: Registry, version_id: str) -> tuple[ModelVersion, nn.Module]:
    version = registry.get(version_id)
    registry.check(version)
    return version, load_model(registry.settings, version.weights, torch.device("cpu")).network


def _manifest(version: ModelVersion) -> dict[str, Any]:
    """What goes along: all but the names of images, which may be those of patients and stay in the house."""
    told = {key: value for key, value in version.manifest.items() if key not in _IN_HOUSE}
    for key in ("gate", "cross_validation"):
        if found := told.get(key):
            told[key] = {name: value for name, value in found.items() if name not in _IN_HOUSE}
    return {**told, "version": version.id}


def _inference(settings: Settings) -> dict[str, Any]:
    return {
        "imports": ["$import glob", "$import os", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "datalist": "$[{'image': path} for path in sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                # Rows to posterior, columns to left, slices upward: what the network was trained on.
                {"_target_": "Orientationd", "keys": "image", "axcodes": "PLS", "labels": None},
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        # Whole slices: the histogram channel depends on all of a slice.
        "inferer": {
            "_target_": "SliceInferer",
            "spatial_dim": 2,
            "roi_size": [-1, -1],
            "sw_batch_size": settings.inference.batch_slices,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": True,
                    "to_tensor": True,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "seg",
                    "output_dtype": "$torch.uint8",
                    "separate_folder": False,
                },
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _metadata(settings: Settings, version: ModelVersion) -> dict[str, Any]:
    classes = {"0": "background", **{str(index): name for name, index in settings.label_indices().items()}}
    shape = ["*", "*"]
    return {
        "version": version.id,
        "name": settings.name,
        "task": f"Segmentation of {' and '.join(settings.labels)} in CT",
        "description": settings.description,
        "authors": "",
        "copyright": "",
        "intended_use": "Research only, not for clinical use.",
        "monai_version": version_of("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version_of("numpy"),
        "required_packages_version": {name: version_of(name) for name in ("nibabel", "pytorch-ignite")},
        "changelog": {version.id: "exported from LiverLoop"},
        "manifest": _manifest(version),
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield",
                    "modality": "CT",
                    "num_channels": 1,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [-1024, 32767],
                    "is_patch_data": False,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": settings.classes,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": classes,
                }
            },
        },
    }


def _readme(settings: Settings, version: ModelVersion) -> str:
    named: Mapping[str, int] = settings.label_indices()
    labels = "\n".join(f"- {index}: {name}" for name, index in named.items())
    return f"""# {settings.name}, model version {version.id}

{settings.description}

Put CT volumes as NIfTI into `images/` and run, in this folder:

    python -m monai.bundle run --config_file configs/inference.json

Each label is written to `labels/<name>_seg.nii.gz` in the geometry of its image. `--dataset_dir` and `--output_dir`
name other folders, `--bundle_root` this one from elsewhere. The values are:

{labels}

`models/model.ts` is TorchScript: it takes axial slices `(N, 1, Y, X)` in HU, rows to posterior and columns to left, and
gives one logit per class and pixel; windows ({", ".join(settings.channels)}) are inside. `models/model.pt` holds the
same weights as LiverLoop reads them.

A label made here is the class with the highest logit. What annotators get from the server differs from it: there it is
post-processed (largest liver, holes, tumors outside the liver, specks), and on a GPU or a CPU with bfloat16 the network
runs in that precision, which moves single voxels at borders."""
