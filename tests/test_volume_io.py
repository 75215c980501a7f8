"""Files in and out: geometry, scaling, formats, and what damaged or strange files get."""

import bz2
import gzip
import itertools
import tracemalloc

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from scipy.spatial.transform import Rotation

from lib import nrrd_file, volume_io
from lib.errors import BadInputError, NotFoundError, StorageError
from lib.labels import DEFAULT_LABELS, Label
from lib.volume import Volume, same_geometry
from lib.volume_io import (
    is_packed,
    read_image,
    read_label,
    read_segments,
    stem_of,
    suffix_of,
    write_image,
    write_label,
    write_planes,
)

SHAPE = (4, 5, 6)
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".seg.nrrd")
TILT = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix()
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(matrix=None, spacing=(0.7, 0.8, 2.5), origin=(-10.0, 20.0, -300.5)):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if matrix is None else matrix) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def sheared():
    affine = affine_of()
    affine[1, 2] = 0.6
    return affine


def every_orientation():
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        yield affine_of(np.eye(3)[:, list(order)] * signs)


def hounsfield(shape=SHAPE, seed=0):
    array = np.random.default_rng(seed).integers(-900, 1200, shape).astype(np.int16)
    array.flat[0] = -1000
    return array


def classes(shape=SHAPE, highest=2):
    return np.random.default_rng(1).integers(0, highest + 1, shape).astype(np.uint8)


def save_nifti(path, array, affine=None, kind=nib.Nifti1Image, slope=None, intercept=None):
    image = kind(array, affine_of() if affine is None else affine, dtype=array.dtype)
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    return path


def save_nrrd(path, array, **fields):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([0.7, 0.8, 2.5]),
        "space origin": [1, 2, 3],
    }
    header |= fields
    nrrd.write(str(path), array, {key: value for key, value in header.items() if value is not None}, index_order="F")
    return path


def message(function, path):
    with pytest.raises(BadInputError) as caught:
        function(path)
    return str(caught.value)


# Names


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("case_1.nii.gz", ".nii.gz", "case_1"),
        ("case.1.2.nii", ".nii", "case.1.2"),
        ("Case 1.NII.GZ", ".nii.gz", "Case 1"),
        ("case.seg.nrrd", ".seg.nrrd", "case"),
        ("case.Seg.NRRD", ".seg.nrrd", "case"),
        ("case.nrrd", ".nrrd", "case"),
        ("/studies/case.nii.gz.nii.gz", ".nii.gz", "case.nii.gz"),
    ],
)
def test_suffix_and_stem(name, suffix, stem):
    assert suffix_of(name) == suffix
    assert stem_of(name) == stem


def test_an_unknown_suffix_is_named_with_the_known_ones():
    expected = "scan.mha: unknown kind of file; use one of .seg.nrrd, .nii.gz, .nii, .nrrd"
    assert message(suffix_of, "/tmp/scan.mha") == expected
    assert stem_of("1.2.840") == "1.2.840"


# Round trips


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_keep_shape_and_affine_in_every_orientation(tmp_path, suffix):
    path = tmp_path / f"label{suffix}"
    for affine in every_orientation():
        label = Volume(classes(), affine.astype(np.float32))  # what NIfTI can hold exactly
        write_label(path, label, DEFAULT_LABELS)
        back = read_label(path)
        np.testing.assert_array_equal(back.array, label.array)
        np.testing.assert_array_equal(back.affine, label.affine)
        assert back.array.dtype == np.uint8


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("affine", [affine_of(TILT), sheared(), affine_of(spacing=(0.5, 0.5, 10))])
@pytest.mark.parametrize("shape", [SHAPE, (4, 5, 1), (1, 1, 1)])
def test_oblique_sheared_and_single_slices_come_back(tmp_path, suffix, affine, shape):
    path = tmp_path / f"label{suffix}"
    write_label(path, Volume(classes(shape), affine), DEFAULT_LABELS)
    back = read_label(path)
    np.testing.assert_array_equal(back.array, classes(shape))
    assert back.shape == shape
    # NIfTI stores float32, NRRD every digit.
    np.testing.assert_allclose(back.affine, affine, atol=1e-5 if "nii" in suffix else 0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_images_come_back_and_from_another_memory_layout_too(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    for array in (hounsfield(), np.asfortranarray(hounsfield()), hounsfield((6, 5, 4)).transpose(2, 1, 0)[::-1]):
        write_image(path, Volume(array, affine_of(TILT)))
        back = read_image(path)
        np.testing.assert_array_equal(back.array, array)
        assert back.array.dtype == np.int16
        assert same_geometry(back, Volume(array, affine_of(TILT)))


def itk_corner(path, index):
    """Value and RAS position of a voxel, as ITK-based programs see them."""
    image = sitk.ReadImage(str(path))
    return image[index], np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_itk_finds_every_voxel_where_we_put_it(tmp_path, suffix):
    path = tmp_path / f"label{suffix}"
    for affine in [affine_of(TILT), *every_orientation()]:
        label = Volume(classes(), affine)
        write_label(path, label, DEFAULT_LABELS)
        for index in [(0, 0, 0), (3, 4, 5), (1, 4, 2)]:
            value, position = itk_corner(path, index)
            assert value == label.array[index]
            np.testing.assert_allclose(position, (affine @ [*index, 1])[:3], atol=1e-4)


def test_itk_reads_sheared_nrrd_in_place(tmp_path):
    write_label(tmp_path / "label.nrrd", Volume(classes(), sheared()))
    _, position = itk_corner(tmp_path / "label.nrrd", (3, 4, 5))
    np.testing.assert_allclose(position, (sheared() @ [3, 4, 5, 1])[:3], atol=1e-9)


def test_what_itk_writes_is_read_in_place(tmp_path):
    image = sitk.GetImageFromArray(hounsfield().T)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetDirection(TILT.ravel().tolist())
    image.SetOrigin((10, -20, 30))
    for name in ("image.nii.gz", "image.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        volume = read_image(tmp_path / name)
        np.testing.assert_array_equal(volume.array, hounsfield())
        expected = np.array(image.TransformIndexToPhysicalPoint((3, 4, 5))) * (-1, -1, 1)
        np.testing.assert_allclose((volume.affine @ [3, 4, 5, 1])[:3], expected, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_headers_suit_readers_of_quaternions(tmp_path, suffix):
    path = tmp_path / f"label{suffix}"
    for affine in [affine_of(TILT), *every_orientation()]:
        write_label(path, Volume(classes(), affine))
        header = nib.load(path).header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
        np.testing.assert_allclose(header.get_qform(), affine, atol=1e-4)
        np.testing.assert_allclose(header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)
        assert header.get_xyzt_units()[0] == "mm"


def test_a_sheared_nifti_has_no_quaternion(tmp_path):
    write_label(tmp_path / "label.nii", Volume(classes(), sheared()))
    header = nib.load(tmp_path / "label.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(header.get_sform(), sheared(), atol=1e-5)


# Segmentations of 3D Slicer


def test_seg_nrrd_has_names_colors_and_values(tmp_path):
    write_label(tmp_path / "a.seg.nrrd", Volume(classes(), affine_of()), DEFAULT_LABELS)
    array, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(array, classes())
    assert header["encoding"] == "gzip"
    assert [header[f"Segment{k}_Name"] for k in range(2)] == ["liver", "tumor"]
    assert [header[f"Segment{k}_LabelValue"] for k in range(2)] == ["1", "2"]
    assert "Segment2_Name" not in header
    np.testing.assert_allclose(header["space directions"], np.diag([-0.7, -0.8, 2.5]))


def test_seg_nrrd_needs_names(tmp_path):
    with pytest.raises(BadInputError, match=r"^a\.seg\.nrrd: a \.seg\.nrrd needs the label names$"):
        write_label(tmp_path / "a.seg.nrrd", Volume(classes(), affine_of()))
    assert not list(tmp_path.iterdir())


def test_planes_are_one_layer_per_class_for_every_reader(tmp_path):
    path, label = tmp_path / "a.seg.nrrd", Volume(classes(), affine_of(TILT))
    write_planes(path, label, dict(reversed(DEFAULT_LABELS.items())))
    array, header = nrrd.read(str(path), index_order="F")
    for layer, index in ((0, 1), (1, 2)):
        np.testing.assert_array_equal(array[layer], label.array == index)
    assert header["kinds"] == ["list", "domain", "domain", "domain"]
    assert [header[f"Segment{k}_{field}"] for k in range(2) for field in ("Name", "Layer", "LabelValue")] == [
        *("liver", "0", "1"),
        *("tumor", "1", "1"),
    ]
    image = sitk.ReadImage(str(path))
    assert (image.GetSize(), image.GetNumberOfComponentsPerPixel()) == (SHAPE, 2)
    position = np.array(image.TransformIndexToPhysicalPoint((3, 4, 5))) * (-1, -1, 1)
    np.testing.assert_allclose(position, (label.affine @ [3, 4, 5, 1])[:3])
    back = read_label(path)
    np.testing.assert_array_equal(back.array, label.array)
    np.testing.assert_array_equal(back.affine, label.affine)


@pytest.mark.parametrize("write", [write_label, write_planes])
def test_segments_come_back_by_name(tmp_path, write):
    write(tmp_path / "a.seg.nrrd", Volume(classes(), affine_of()), DEFAULT_LABELS)
    segments = read_segments(tmp_path / "a.seg.nrrd")
    assert [name for name, _ in segments] == ["liver", "tumor"]
    for index, (_, mask) in enumerate(segments, start=1):
        assert mask.array.dtype == np.uint8
        np.testing.assert_array_equal(mask.array, classes() == index)


def test_overlapping_segments_of_slicer_are_both_kept(tmp_path):
    liver, tumor = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    liver[1:4, 1:4, 1:5], tumor[2, 2, 2:4] = 1, 1
    nrrd.write(
        str(tmp_path / "a.seg.nrrd"),
        np.stack([tumor, liver]),
        {
            "space": "left-posterior-superior",
            "space directions": np.vstack([np.full(3, np.nan), np.eye(3)]),
            "kinds": ["list", "domain", "domain", "domain"],
            **{f"Segment0_{key}": value for key, value in (("Name", "Tumor"), ("Layer", "0"), ("LabelValue", "1"))},
            **{f"Segment1_{key}": value for key, value in (("Name", "Liver"), ("Layer", "1"), ("LabelValue", "1"))},
        },
        index_order="F",
    )
    (first, mask), (second, other) = read_segments(tmp_path / "a.seg.nrrd")
    assert (first, second) == ("Tumor", "Liver")
    np.testing.assert_array_equal(mask.array, tumor)
    np.testing.assert_array_equal(other.array, liver)
    np.testing.assert_array_equal(read_label(tmp_path / "a.seg.nrrd").array, liver * 2)


def test_a_segment_in_a_layer_that_is_not_there_is_refused(tmp_path):
    path = save_nrrd(tmp_path / "a.seg.nrrd", classes(), Segment0_Name="Liver", Segment0_Layer="3")
    assert "a segment lies in a layer beyond the file's 1" in message(read_label, path)


# Voxel types of CT files


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_voxel_types(tmp_path, dtype, suffix):
    path = tmp_path / f"image{suffix}"
    (save_nrrd if suffix == ".nrrd" else save_nifti)(path, hounsfield().astype(dtype))
    image = read_image(path)
    np.testing.assert_array_equal(image.array, hounsfield())
    assert image.array.dtype == np.int16


def test_signed_bytes_are_widened(tmp_path):
    array = np.random.default_rng(0).integers(-120, 120, SHAPE).astype(np.int8)
    np.testing.assert_array_equal(read_image(save_nifti(tmp_path / "a.nii", array)).array, array)


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2, -1024), (0.5, -1000), (1, 0)])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_slope_and_intercept_are_applied(tmp_path, slope, intercept, dtype):
    stored = np.random.default_rng(0).integers(0, 1500, SHAPE).astype(dtype)
    stored.flat[:2] = 0, 1499
    path = tmp_path / "a.nii.gz"
    image = nib.Nifti1Image(stored, affine_of())
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    expected = np.rint(stored.astype(float) * slope + intercept)
    if expected.min() >= 0:
        assert "which is not a CT" in message(read_image, path)
    else:
        np.testing.assert_array_equal(read_image(path).array, np.clip(expected, -1024, None))


def test_a_slope_on_labels_is_applied(tmp_path):
    path = save_nifti(tmp_path / "a.nii", classes().astype(np.int16), slope=2, intercept=0)
    np.testing.assert_array_equal(read_label(path).array, np.asarray(nib.load(path).dataobj))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_byte_orders_and_nifti_2(tmp_path, kind, order, suffix):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(order))
    image = kind(hounsfield(), affine_of(TILT), header)
    content = image.to_bytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(content) if "gz" in suffix.lower() else content)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array, hounsfield())
    assert volume.array.dtype.isnative
    np.testing.assert_allclose(volume.affine, affine_of(TILT), atol=1e-5)


def test_a_nifti_with_a_quaternion_only(tmp_path):
    image = nib.Nifti1Image(hounsfield(), None)
    image.set_qform(affine_of(TILT), code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").affine, affine_of(TILT), atol=1e-5)


@pytest.mark.parametrize(
    ("space", "to_ras"),
    [
        ("left-posterior-superior", LPS),
        ("LPS", LPS),
        (None, LPS),
        ("right-anterior-superior", np.eye(4)),
        ("RAS", np.eye(4)),
        ("left-anterior-superior", np.diag([-1, 1, 1, 1])),
    ],
)
def test_nrrd_spaces(tmp_path, space, to_ras):
    path = save_nrrd(tmp_path / "a.nrrd", hounsfield(), **({"space": space} if space else {}))
    if space is None:
        path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior\n", b"space dimension: 3\n"))
    expected = to_ras @ np.array([[0.7, 0, 0, 1], [0, 0.8, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]])
    np.testing.assert_allclose(read_image(path).affine, expected)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", ">f8"])
def test_nrrd_encodings_and_byte_orders(tmp_path, encoding, dtype):
    path = save_nrrd(tmp_path / "a.nrrd", hounsfield().astype(dtype), encoding=encoding)
    np.testing.assert_array_equal(read_image(path).array, hounsfield())


def test_nrrd_with_spacings_only(tmp_path):
    fields = {"space": None, "space directions": None, "space origin": None, "spacings": [0.7, 0.8, 2.5]}
    path = save_nrrd(tmp_path / "a.nrrd", hounsfield(), **fields)
    np.testing.assert_allclose(read_image(path).affine, np.diag([-0.7, -0.8, 2.5, 1]))


def test_padding_outside_the_field_of_view_becomes_air(tmp_path):
    array = hounsfield()
    array[0], array[1, 0, 0] = -3024, -1025
    image = read_image(save_nifti(tmp_path / "a.nii", array))
    assert (image.array[0] == -1024).all()
    assert image.array[1, 0, 0] == -1024
    np.testing.assert_array_equal(image.array[2:], array[2:])


def test_values_beyond_16_bits_are_clipped_not_wrapped(tmp_path):
    array = hounsfield().astype(np.float64)
    array[0, 0, 0], array[0, 0, 1] = 1e6, 40000.4
    image = read_image(save_nifti(tmp_path / "a.nii", array))
    assert image.array[0, 0, 0] == image.array[0, 0, 1] == 32767


def test_fractions_are_rounded(tmp_path):
    array = hounsfield().astype(np.float32)
    array[0, 0, 0], array[0, 0, 1] = -999.6, 40.5
    image = read_image(save_nifti(tmp_path / "a.nii", array))
    assert (image.array[0, 0, 0], image.array[0, 0, 1]) == (-1000, 40)


def test_trailing_axes_of_length_one_and_single_slices_are_volumes(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", hounsfield()[..., np.newaxis, np.newaxis])
    np.testing.assert_array_equal(read_image(path).array, hounsfield())
    path = save_nifti(tmp_path / "b.nii.gz", hounsfield()[:, :, 0])
    np.testing.assert_array_equal(read_image(path).array, hounsfield()[:, :, :1])


# Labels


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_labels_of_any_type_become_uint8(tmp_path, dtype):
    label = read_label(save_nifti(tmp_path / "a.nii.gz", classes().astype(dtype)))
    np.testing.assert_array_equal(label.array, classes())
    assert label.array.dtype == np.uint8


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1, "a.nii: label values run from -1 to 2; expected whole numbers from 0 to 255"),
        (256, "a.nii: label values run from 0 to 256; expected whole numbers from 0 to 255"),
        (np.nan, "a.nii: label values run from nan to nan; expected whole numbers from 0 to 255"),
        (1.5, "a.nii: label values are not whole numbers; save the label without interpolation"),
    ],
)
def test_label_values_that_are_no_classes(tmp_path, value, expected):
    array = classes().astype(np.float32)
    array[0, 0, 0], array[0, 0, 1] = value, 0
    assert message(read_label, save_nifti(tmp_path / "a.nii", array)) == expected


# What is not a CT


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0, 1, "0 to 1"), (-1, 1, "-1 to 1"), (0, 255, "0 to 255"), (-5, 5, "-5 to 5"), (0, 2000, "0 to 2000")],
)
def test_values_that_are_not_hounsfield_units(tmp_path, low, high, shown):
    array = np.linspace(low, high, 120, dtype=np.float32).reshape(SHAPE)
    assert message(read_image, save_nifti(tmp_path / "a.nii", array)) == (
        f"a.nii: values run from {shown}, which is not a CT in Hounsfield units (air -1000, water 0); save it without "
        "rescaling"
    )


def test_nan_and_infinity_are_counted(tmp_path):
    array = hounsfield().astype(np.float32)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    expected = "a.nii: 3 voxels are NaN or infinite; a CT holds Hounsfield units"
    assert message(read_image, save_nifti(tmp_path / "a.nii", array)) == expected


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "RGB"), (np.complex64, "complex")]
)
def test_colors_and_complex_numbers(tmp_path, dtype, kind):
    path = save_nifti(tmp_path / "a.nii", np.zeros(SHAPE, dtype))
    assert message(read_image, path).endswith("voxels (RGB or complex); expected one gray value per voxel")


@pytest.mark.parametrize("save", [save_nifti, save_nrrd])
def test_four_dimensions(tmp_path, save):
    path = tmp_path / ("a.nrrd" if save is save_nrrd else "a.nii")
    if save is save_nrrd:
        save(path, np.zeros((3, *SHAPE), np.int16), **{"space": None, "space directions": None, "space origin": None})
    else:
        save(path, np.zeros((*SHAPE, 3), np.int16))
    assert f"{path.name}: has 4 axes" in message(read_image, path)
    assert message(read_image, path).endswith("; expected one 3D volume")


def test_no_slices(tmp_path):
    path = save_nifti(tmp_path / "a.nii", hounsfield())
    content = bytearray(path.read_bytes())
    content[46:48] = (0).to_bytes(2, "little")  # dim[3]
    path.write_bytes(content)
    assert message(read_image, path) == "a.nii: has no slices (shape (4, 5, 0))"


@pytest.mark.parametrize("shape", [(30000, 30000, 4), (512, 512, 30000), (2048, 2048, 2000), (4, 5000, 5000)])
def test_absurd_sizes_are_refused_by_the_header(tmp_path, shape):
    expected = f"shape {shape} is larger than any CT we take (in plane 2048, 4096 slices, 1,200,000,000 voxels)"
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4))
    assert message(read_image, tmp_path / "a.nii") == f"a.nii: {expected}"
    sizes = " ".join(map(str, shape))
    text = f"NRRD0004\ntype: int16\ndimension: 3\nsizes: {sizes}\nencoding: gzip\nendian: little\n\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode())
    assert message(read_image, tmp_path / "a.nrrd") == f"a.nrrd: {expected}"


def test_no_more_is_unpacked_than_the_header_announces(tmp_path, monkeypatch):
    asked, opener = [], bz2.open

    def watched(file, mode):
        packed = opener(file, mode)
        readinto = packed.readinto
        packed.readinto = lambda memory: asked.append(len(memory)) or readinto(memory)
        return packed

    monkeypatch.setattr(nrrd_file.bz2, "open", watched)
    small = hounsfield()
    text = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 4 5 6\nencoding: bzip2\nendian: little\n\n"
    content = bz2.compress(small.tobytes(order="F") + bytes(10_000_000))
    (tmp_path / "a.nrrd").write_bytes(text.encode() + content)
    np.testing.assert_array_equal(read_image(tmp_path / "a.nrrd").array, small)
    assert asked
    assert 0 < max(asked) <= small.nbytes


# Damaged and strange files


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.seg.nrrd"])
def test_missing_and_empty_files(tmp_path, name):
    for read in (read_image, read_label):
        with pytest.raises(NotFoundError) as caught:
            read(tmp_path / name)
        assert str(caught.value) == f"{name}: there is no such file"
    (tmp_path / name).write_bytes(b"")
    assert message(read_label, tmp_path / name) == f"{name}: the file is empty"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.97])
def test_truncated_files(tmp_path, suffix, part):
    path = tmp_path / f"a{suffix}"
    write_image(path, Volume(hounsfield((16, 16, 8)), affine_of()))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    text = message(read_image, path)
    assert text.startswith(f"a{suffix}: not a readable {suffix} file (")
    assert text.endswith("; copy or export it again")
    if part > 0.5:
        assert "(truncated or damaged)" in text


def test_the_wrong_kind_of_content_is_told(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"<html>not found</html>" * 40)
    assert message(read_image, tmp_path / "a.nii") == (
        "a.nii: not a NIfTI file (it begins with b'<htm'); export it again"
    )
    (tmp_path / "a.nii.gz").write_bytes(b"<html>not found</html>")
    assert "not a readable .nii.gz file (Not a gzipped file (b'<h'))" in message(read_image, tmp_path / "a.nii.gz")
    (tmp_path / "a.nrrd").write_bytes(b"<html>not found</html>")
    assert "not a readable .nrrd file (it does not begin with NRRD)" in message(read_image, tmp_path / "a.nrrd")
    assert "a.png: unknown kind of file" in message(
        read_image, save_nrrd(tmp_path / "a.nrrd", classes()).rename(tmp_path / "a.png")
    )


def test_a_pair_of_header_and_image_file_is_no_nifti_volume(tmp_path):
    nib.save(nib.Nifti1Pair(hounsfield(), affine_of()), tmp_path / "a.img")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    expected = "a.nii: holds a header only, its voxels are in an .img file; export it as one .nii"
    assert message(read_image, tmp_path / "a.nii") == expected


@pytest.mark.parametrize("key", ["data file", "datafile"])
def test_a_detached_nrrd_is_refused_and_its_file_not_opened(tmp_path, key):
    text = f"NRRD0004\ntype: int16\ndimension: 3\nsizes: 4 5 6\nencoding: raw\nendian: little\n{key}: /etc/passwd\n\n"
    (tmp_path / "a.nrrd").write_text(text)
    expected = "a.nrrd: keeps its voxels in another file; save it as one attached .nrrd"
    assert message(read_image, tmp_path / "a.nrrd") == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"space": "scanner-xyz"}, "a.nrrd: the NRRD space 'scanner-xyz' is not supported"),
        ({"space directions": np.diag([0.7, 0.8, 0])}, "a.nrrd: the affine must be an invertible, finite 4x4 matrix"),
    ],
)
def test_nrrd_geometry_that_places_nothing(tmp_path, fields, expected):
    assert message(read_image, save_nrrd(tmp_path / "a.nrrd", hounsfield(), **fields)).startswith(expected)


def test_a_nifti_affine_that_places_nothing(tmp_path):
    path = save_nifti(tmp_path / "a.nii", hounsfield())
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()  # the first number of the sform
    path.write_bytes(content)
    assert message(read_image, path).startswith(
        "a.nii: the affine must be an invertible, finite 4x4 matrix, not [[nan,"
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_a_volume_or_a_bad_input(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".seg.nrrd":
        write_label(path, Volume(classes(), affine_of()), DEFAULT_LABELS)
    else:
        write_image(path, Volume(hounsfield(), affine_of()))
    content, rng = path.read_bytes(), np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for position in rng.integers(0, min(len(content), 400), 3):
            match rng.integers(3):
                case 0:
                    damaged[position] = rng.integers(256)
                case 1:
                    del damaged[position : position + rng.integers(1, 20)]
                case _:
                    damaged[position:position] = rng.bytes(3)
        path.write_bytes(damaged)
        try:
            (read_label if suffix == ".seg.nrrd" else read_image)(path)
        except BadInputError as error:
            refused += str(error).startswith(path.name) and "\n" not in str(error)
    assert refused > 20


# Writing


def test_writing_refuses_other_formats(tmp_path):
    image, label = Volume(hounsfield(), affine_of()), Volume(classes(), affine_of())
    assert "unknown kind of file" in message(lambda path: write_label(path, label), tmp_path / "a.mha")
    assert "use one of .seg.nrrd" in message(
        lambda path: write_planes(path, label, DEFAULT_LABELS), tmp_path / "a.nrrd"
    )
    assert "use one of .nii.gz, .nii, .nrrd" in message(lambda path: write_image(path, image), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_leaves_no_half_file(tmp_path, suffix, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(volume_io, "_write", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_label(tmp_path / f"a{suffix}", Volume(classes(), affine_of()), DEFAULT_LABELS)
    assert not list(tmp_path.iterdir())


def test_nrrd_labels_are_compressed_unless_they_shall_be_raw(tmp_path):
    label = Volume(np.zeros((64, 64, 8), np.uint8), affine_of())
    write_label(tmp_path / "raw.nrrd", label, compress=False)
    write_label(tmp_path / "packed.nrrd", label)
    assert nrrd.read_header(str(tmp_path / "raw.nrrd"))["encoding"] == "raw"
    assert nrrd.read_header(str(tmp_path / "packed.nrrd"))["encoding"] == "gzip"
    assert (tmp_path / "packed.nrrd").stat().st_size < 2000
    np.testing.assert_array_equal(read_label(tmp_path / "packed.nrrd").array, label.array)


def test_what_is_packed_is_told_by_name_or_header(tmp_path):
    label = Volume(np.zeros((8, 8, 8), np.uint8), affine_of())
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.seg.nrrd"):
        write_label(tmp_path / name, label, DEFAULT_LABELS)
        assert is_packed(tmp_path / name) == (name != "a.nii")
    write_label(tmp_path / "raw.nrrd", label, compress=False)
    assert not is_packed(tmp_path / "raw.nrrd")
    (tmp_path / "no.nrrd").write_bytes(b"NO")
    assert message(is_packed, tmp_path / "no.nrrd").startswith("no.nrrd: not a readable .nrrd file")


def test_label_names_with_spaces_and_accents_survive(tmp_path):
    labels = {"hígado 1": Label(index=1), "x": Label(index=2)}
    write_label(tmp_path / "a.seg.nrrd", Volume(classes(), affine_of()), labels)
    assert [name for name, _ in read_segments(tmp_path / "a.seg.nrrd")] == ["hígado 1", "x"]


@pytest.mark.parametrize(("slope", "most"), [(None, 1.3), (2, 4.3)])
def test_reading_takes_little_more_memory_than_the_volume(tmp_path, slope, most):
    path = save_nifti(tmp_path / "a.nii", hounsfield((64, 64, 64)) // 2, slope=slope, intercept=slope and 0)
    tracemalloc.start()
    try:
        array = read_image(path).array
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * array.nbytes


@pytest.mark.parametrize(("read", "stored"), [(read_image, hounsfield()), (read_label, classes())])
def test_a_volume_does_not_change_with_its_file(tmp_path, read, stored):
    path = save_nifti(tmp_path / "a.nii", stored)
    array = read(path).array
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    np.testing.assert_array_equal(array, stored)
