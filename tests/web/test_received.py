"""What comes with a request is known by its content, whatever its name."""

import gzip
import io

import numpy as np
import pytest

from lib.errors import BadInputError
from lib.labels import DEFAULT_LABELS
from lib.volume import Volume
from lib.volume_io import LABEL_SUFFIXES, write_label
from lib.web.received import image_suffix, received_label

NEITHER = "x: neither NIfTI nor NRRD by its content"


def stored(folder, suffix):
    path = folder / f"a{suffix}"
    write_label(path, Volume(np.ones((4, 5, 6), np.uint8), np.eye(4)), DEFAULT_LABELS)
    return io.BytesIO(path.read_bytes())


@pytest.mark.parametrize("suffix", LABEL_SUFFIXES)
def test_images_and_labels_get_the_suffix_of_their_content(tmp_path, suffix):
    file = stored(tmp_path, suffix)
    assert image_suffix(file, "x") == {".seg.nrrd": ".nrrd"}.get(suffix, suffix)
    assert file.tell() == 0
    with received_label(file, "x") as path:
        assert path.name.endswith(suffix)
        assert suffix == ".seg.nrrd" or not path.name.endswith(".seg.nrrd")
        assert path.read_bytes() == file.getvalue()
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "x: the file is empty"),
        (
            b"PKxx",
            f"{NEITHER} (it begins with b'PKxx'); export it again",
        ),
        (
            bytes(128) + b"DICM",
            "x: a DICOM file; send the files of a series as a session, or the volume as NIfTI or NRRD",
        ),
        (gzip.compress(b"x" * 5000), f"{NEITHER} (it begins with b'\\x1f"),
    ],
)
def test_everything_else_is_refused(content, expected):
    with pytest.raises(BadInputError) as caught:
        image_suffix(io.BytesIO(content), "x")
    assert str(caught.value).startswith(expected)
    with pytest.raises(BadInputError, match="y: "), received_label(io.BytesIO(content), "y"):
        pass
