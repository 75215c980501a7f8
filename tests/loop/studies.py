"""Images and labels for the loop: phantoms on disk in any geometry, DICOM series, and what is in a folder."""

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from lib.phantom import Phantom, make_phantom
from lib.volume import Volume
from lib.volume_io import write_image, write_label

SHAPE = (96, 96, 16)
# Written by whatever happens, refusals included; what they hold has tests of its own.
_BOOKKEEPING = ("ledger/ledger.sqlite", "ledger/presegmentations/", "labels/refused/")


def phantom(seed: int, shape: tuple[int, int, int] = SHAPE) -> Phantom:
    """A small trunk with two tumors, in LPS order."""
    return make_phantom(seed, shape=shape, tumors=2, orientation="LPS", tilt=0.0)


def write_studies(folder: Path, seeds: range, *, labelled: bool = False) -> dict[str, Phantom]:
    """Phantoms as `case_<seed>.nii.gz`, on request with their truth as final labels."""
    cases = {f"case_{seed}": phantom(seed) for seed in seeds}
    for name, case in cases.items():
        write_image(folder / f"{name}.nii.gz", case.image)
        if labelled:
            write_label(folder / "labels" / "final" / f"{name}.nii.gz", case.label)
    return cases


def oriented(volume: Volume, codes: str) -> Volume:
    """The same voxels stored in another axis order and direction, such as `"RAS"` or `"SAL"`."""
    turn = ornt_transform(io_orientation(volume.affine), axcodes2ornt(codes))
    array = nib.orientations.apply_orientation(volume.array, turn)
    return Volume(np.ascontiguousarray(array), volume.affine @ inv_ornt_aff(turn, volume.shape))


def oblique(volume: Volume, degrees: float = 17.0) -> Volume:
    """The same voxels in a patient who lies turned about two axes."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    about_z = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    turned = volume.affine.copy()
    turned[:3] = about_z @ about_x @ turned[:3]
    return Volume(volume.array, turned)


def write_series(folder: Path, volume: Volume) -> list[Path]:
    """An LPS-ordered volume as a CT series, one file per slice, in an order that is not the slices'."""
    folder.mkdir(parents=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    spacing = volume.spacing
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for index in range(volume.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{(index * 7) % volume.shape[2]:04d}.dcm"
        item = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        item.PatientName, item.PatientID, item.Modality = "Phantom", "phantom", "CT"
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
        item.InstanceNumber = index + 1
        item.Columns, item.Rows = volume.shape[0], volume.shape[1]
        item.PixelSpacing = [f"{spacing[1]:.8f}", f"{spacing[0]:.8f}"]
        item.SliceThickness = f"{spacing[2]:.8f}"
        directions = lps[:3, :3] / np.array(spacing)
        item.ImageOrientationPatient = [f"{value:.8f}" for value in (*directions[:, 0], *directions[:, 1])]
        item.ImagePositionPatient = [f"{value:.6f}" for value in lps[:3, 3] + index * lps[:3, 2]]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 0
        item.RescaleSlope, item.RescaleIntercept = 1, -1024
        item.PixelData = np.ascontiguousarray((volume.array[:, :, index].T + 1024).astype(np.uint16)).tobytes()
        pydicom.dcmwrite(path, item, write_like_original=False)
        paths.append(path)
    return paths


def nifti_geometry(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine as nibabel reads them."""
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Image)
    assert image.affine is not None
    return image.shape, image.affine


def manifest(folder: Path) -> dict[str, str]:
    """Every image, label, version and other file in a folder, hidden ones included, with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in path.as_posix() for part in _BOOKKEEPING)
    }
