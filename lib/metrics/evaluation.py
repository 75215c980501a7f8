"""Score pairs of label files, several at a time: read, check, measure, and draw the worst slices."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from lib.cores import available_cores
from lib.errors import BadInputError
from lib.looked_at import both_judged
from lib.metrics.folders import Pair, find_image
from lib.metrics.lits import CaseResult, check_values, evaluate_case
from lib.metrics.pictures import SlicePicture, draw_worst_slices
from lib.volume import Volume, corner_distance
from lib.volume_io import read_image, read_label

# Writers round affines differently; a tenth of a millimeter is far below any voxel.
TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Args:
        pictures: slices to draw per case, 0 for none.
        images: folder with the CTs to draw; None draws the labels alone.
        ignore_affine: compare voxel by voxel where the affines differ, as the LiTS challenge does.
    """

    pictures: int = 0
    images: Path | None = None
    ignore_affine: bool = False


@dataclass(frozen=True)
class Evaluated:
    """A pair with its scores and pictures."""

    pair: Pair
    result: CaseResult
    pictures: tuple[SlicePicture, ...]


def evaluate_pair(pair: Pair, options: Options) -> Evaluated:
    """Read and score one pair.

    Raises:
        NotFoundError: a file is missing.
        BadInputError: a file is unreadable, holds other values than 0, 1, 2 (the reference also `NOT_LOOKED_AT`, but
            not alone), or the geometries differ; the message names the file.
    """
    reference, prediction = read_label(pair.reference), read_label(pair.prediction)
    _check_geometry(pair, reference, prediction, options.ignore_affine)
    check_values(reference.array, str(pair.reference), or_not_looked_at=True)
    check_values(prediction.array, str(pair.prediction))
    result = evaluate_case(reference.array, prediction.array, reference.spacing, pair.name)
    pictures: list[SlicePicture] = []
    if options.pictures:
        image = _read_matching_image(pair, reference, options)
        truth, guess = (Volume(one, reference.affine) for one in both_judged(reference.array, prediction.array))
        pictures = draw_worst_slices(image, truth, guess, options.pictures)
    return Evaluated(pair, result, tuple(pictures))


def evaluate_pairs(pairs: Sequence[Pair], options: Options, workers: int | None = None) -> Iterator[Evaluated]:
    """Score many pairs in `workers` processes (default: one per core); yields each as it is done, in any order.

    Raises:
        BadInputError: as `evaluate_pair`; pairs not yet begun are then dropped.
    """
    workers = min(workers or available_cores(), len(pairs))
    # The largest first, so that no worker is left with a long one at the end.
    ordered = sorted(pairs, key=lambda pair: -(pair.reference.stat().st_size + pair.prediction.stat().st_size))
    if workers <= 1:
        for pair in ordered:
            yield evaluate_pair(pair, options)
        return
    with ProcessPoolExecutor(workers) as pool:
        futures: list[Future[Evaluated]] = [pool.submit(evaluate_pair, pair, options) for pair in ordered]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _check_geometry(pair: Pair, reference: Volume, prediction: Volume, ignore_affine: bool) -> None:
    if reference.shape != prediction.shape:
        msg = (
            f"{pair.prediction}: its shape {prediction.shape} differs from the shape {reference.shape} of the "
            f"reference {pair.reference}; predict on the grid of the reference's image"
        )
        raise BadInputError(msg)
    distance = corner_distance(reference, prediction)
    if distance > TOLERANCE_MM and not ignore_affine:
        msg = (
            f"{pair.prediction}: its affine puts voxels up to {distance:.2f} mm away from those of the reference "
            f"{pair.reference} (both have shape {reference.shape}); resample it, or use --ignore-affine to compare "
            "voxel by voxel"
        )
        raise BadInputError(msg)


def _read_matching_image(pair: Pair, reference: Volume, options: Options) -> Volume | None:
    path = find_image(options.images, pair) if options.images else None
    if path is None:
        return None
    image = read_image(path)
    if image.shape != reference.shape:
        msg = (
            f"{path}: the image's shape {image.shape} differs from the shape {reference.shape} of {pair.reference}; "
            "give the folder with the images that were labeled"
        )
        raise BadInputError(msg)
    return Volume(image.array, reference.affine)
