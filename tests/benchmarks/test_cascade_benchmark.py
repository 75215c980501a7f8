import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from lib.benchmarks import cascade
from lib.errors import BadInputError, NotFoundError
from lib.volume import Volume
from lib.volume_io import write_image

STARTER = Path(__file__).resolve().parents[2] / "apps" / "liver_tumor" / "starter.pt"


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    cascade.add_arguments(parser)
    conf = ("--conf", "inference.engine", "pytorch", "--weights", STARTER, "--device", "cpu")
    return parser.parse_args([*map(str, (*arguments, *conf))])


def test_phantoms_and_an_image(tmp_path):
    ct = tmp_path / "water.nii.gz"
    write_image(ct, Volume(np.linspace(-200, 50, 32 * 32 * 4).astype(np.int16).reshape(32, 32, 4), np.eye(4)))
    result = cascade.measure(parsed("--phantoms", 1, "--first", 7003, "--size", 320, "--slices", 6, "--ct", ct))
    assert json.loads(json.dumps(result)) == result
    image, phantom = result["cases"]
    assert (image["name"], image["shape"]) == ("water.nii.gz", [32, 32, 4])
    assert (phantom["name"], sorted(phantom["shape"])) == ("phantom 7003", [6, 320, 320])
    assert image["seen"] > 1  # no liver: the coarse pass was in vain
    assert phantom["seen"] < 1
    assert phantom["dice"][0] > 0.99
    total = result["total"]
    assert total["lesions"] == sum(case["lesions"] for case in result["cases"])
    assert total["least_dice"][0] <= total["dice"][0]
    assert "true" not in image
    assert phantom["true"].keys() == total["true"].keys() == {"dice", "found", "lost"}
    table = cascade.as_text(result).splitlines()
    assert [line.split()[0] for line in table[4:8]] == ["water.nii.gz", "phantom", "all", "least"]
    assert table[-1].startswith(
        f"Of {total['true']['found']} lesions of the phantoms that whole slices find, the cascade loses "
    )


def test_lost_lesions_are_told_by_their_voxels():
    whole, fast = np.zeros((4, 8, 8), bool), np.zeros((4, 8, 8), bool)
    whole[0, 0, :3] = whole[1, 1, 3] = True  # one lesion over a corner
    whole[2, 5:7, 5:7] = whole[0, 7, 7] = True
    fast[1, 1, 3] = fast[3, 0, 0] = True
    assert cascade._lost(whole, fast) == (3, [1, 4])


def test_true_lesions_are_those_that_are_there():
    true, whole, fast = (np.zeros((2, 4, 20), bool) for _ in range(3))
    true[0, 1, [1, 5, 9]] = whole[0, 1, [1, 5]] = fast[0, 1, [5, 9]] = True
    whole[1, 3, 15] = True  # a false find
    assert cascade._true_lesions(true, whole, fast) == {"found": 2, "lost": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--phantoms", 0), BadInputError, "--phantoms must be at least 1, not 0"),
        (("--slices", 0), BadInputError, "--slices must be at least 1, not 0"),
        (("--ct", "/nowhere/ct.nii"), NotFoundError, "--ct /nowhere/ct.nii does not exist"),
    ],
)
def test_wrong_options(arguments, error, message):
    with pytest.raises(error, match=message):
        cascade.measure(parsed(*arguments))
