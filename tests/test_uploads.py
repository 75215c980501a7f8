"""Files are known by their first bytes."""

import gzip
import io
import tarfile
import zipfile

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from lib.uploads import HEAD_BYTES, Kind, kind_of, suffix_by_content

NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n" + bytes(16)
SEGMENTATION = NRRD.replace(b"encoding", b"Segment0_Name:=liver\nencoding")


def nifti(kind=nib.Nifti1Image, order="<"):
    return kind(np.zeros((2, 2, 2), np.int16), np.eye(4), kind.header_class(endianness=order)).to_bytes()


def dicom():
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    FileDataset(buffer, {}, file_meta=meta, preamble=bytes(128)).save_as(buffer, write_like_original=False)
    return buffer.getvalue()


def tar(form=tarfile.PAX_FORMAT, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
        archive.addfile(tarfile.TarInfo("a.dcm"), io.BytesIO())
    return buffer.getvalue()


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.dcm", b"x")
    return buffer.getvalue()


TAKEN = {
    "NIfTI-1": (nifti(), Kind.NIFTI, ".nii"),
    "NIfTI-1, big endian": (nifti(order=">"), Kind.NIFTI, ".nii"),
    "NIfTI-2": (nifti(nib.Nifti2Image), Kind.NIFTI, ".nii"),
    "NIfTI-2, big endian": (nifti(nib.Nifti2Image, ">"), Kind.NIFTI, ".nii"),
    "gzipped NIfTI": (gzip.compress(nifti()), Kind.NIFTI, ".nii.gz"),
    "NRRD": (NRRD, Kind.NRRD, ".nrrd"),
    "NRRD with carriage returns": (NRRD.replace(b"\n", b"\r\n"), Kind.NRRD, ".nrrd"),
    "segmentation": (SEGMENTATION, Kind.NRRD, ".seg.nrrd"),
    "DICOM": (dicom(), Kind.DICOM, ".dcm"),
    "zip": (zipped(), Kind.ARCHIVE, ".zip"),
    "tar, pax": (tar(), Kind.ARCHIVE, ".tar"),
    "tar, GNU": (tar(tarfile.GNU_FORMAT), Kind.ARCHIVE, ".tar"),
    "tar, ustar": (tar(tarfile.USTAR_FORMAT), Kind.ARCHIVE, ".tar"),
    "tar.gz": (tar(mode="w:gz"), Kind.ARCHIVE, ".tar.gz"),
}
REFUSED = {
    "nothing": b"",
    "text": b"import os\n",
    "header of a pair": nifti().replace(b"n+1\0", b"ni1\0", 1),
    "Analyze": nifti().replace(b"n+1\0", bytes(4), 1),
    "NRRD of another version": NRRD.replace(b"NRRD0004", b"NRRD0009"),
    "NRRD without a line's end": NRRD[:8],
    "DICOM without preamble": dicom()[128:],
    "gzipped NRRD": gzip.compress(NRRD),
    "gzipped DICOM": gzip.compress(dicom()),
    "gzipped gzip": gzip.compress(gzip.compress(nifti())),
    "gzipped zip": gzip.compress(zipped()),
    "damaged gzip": b"\x1f\x8b\x08" + bytes(20),
    "gzip of nothing": gzip.compress(b""),
    "cut-off gzip": gzip.compress(nifti())[:20],
    "tar with a wrong checksum": tar().replace(b"a.dcm", b"b.dcm", 1),
    "tar with no checksum": tar()[:148] + b"        " + tar()[156:],
    "tar with a checksum of letters": tar()[:148] + b"checksum" + tar()[156:],
    "tar by its magic alone": bytes(257) + b"ustar\x00",
    "executable": b"\x7fELF" + bytes(600),
    "pickle": b"\x80\x04\x95",
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_known_by_its_first_bytes(name):
    content, kind, suffix = TAKEN[name]
    assert (kind_of(content[:HEAD_BYTES]), suffix_by_content(content[:HEAD_BYTES])) == (kind, suffix)


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_has_no_kind(name):
    assert kind_of(REFUSED[name][:HEAD_BYTES]) is None


def test_a_gzip_bomb_is_not_unpacked_to_tell_its_kind():
    bomb = gzip.compress(nifti() + bytes(64 << 20), mtime=0)
    assert kind_of(bomb[:HEAD_BYTES]) is Kind.NIFTI


@given(st.sampled_from(list(TAKEN)), st.data())
def test_any_bytes_have_a_kind_or_none(name, data):
    content = bytearray(TAKEN[name][0][:HEAD_BYTES])
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for head in (bytes(content), bytes(content[:cut]), data.draw(st.binary())):
        assert kind_of(head) is None or suffix_by_content(head) is not None
