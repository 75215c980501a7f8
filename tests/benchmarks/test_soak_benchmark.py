import argparse
import json

import pytest

from lib.benchmarks import soak
from lib.errors import BadInputError


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    soak.add_arguments(parser)
    return parser.parse_args([*map(str, arguments)])


@pytest.mark.server
def test_a_short_soak_keeps_its_promises(tmp_path):
    """Long enough for every kind of request; trainings take longer than that to begin."""
    result = soaked(tmp_path, minutes=0.2)
    if not all_worked(result):  # beside much other work
        result = soaked(tmp_path, minutes=1)
    assert json.loads(json.dumps(result)) == result
    assert result["broken"] == [], soak.as_text(result)
    assert all_worked(result), soak.as_text(result)
    requests = result["requests"]
    restored = requests.get("restore", {}).get("done", 0)
    assert result["labels"]["acknowledged"] == requests["save label"]["done"] + restored
    assert len(result["samples"]["memory_mb"]) > 10
    assert result["login"]
    assert requests["login"]["done"] == 4 + 2  # the administrator and the dashboard as well
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert "memory does not grow" in soak.as_text(result)


def soaked(folder, minutes):
    return soak.measure(
        parsed(
            "--minutes", minutes, "--clients", 4, "--images", 16, "--size", 64, "--slices", 8, "--pause", 0.02,
            "--picture", folder / "soak.png", "--folder", folder / f"soak-{minutes}",
            "--conf", "inference.engine", "pytorch",
        )
    )  # fmt: skip


def all_worked(result):
    """Whether there was time for every kind of request, and for everybody to save something."""
    kinds = {"next sample", "download image", "infer", "save label", "withdraw label", "info"}
    return (
        kinds <= result["requests"].keys()
        and all(result["saved"].values())
        and result["requests"]["save label"]["done"] > 10
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--minutes", 0), "--minutes must be above 0 and at most a week, not 0"),
        (("--minutes", "nan"), "--minutes must be above 0 and at most a week, not nan"),
        (("--pause", -1), "--pause must be from 0 to 3600 seconds, not -1"),
        (("--clients", 0), "--clients must be at least 1, not 0"),
        (("--images", 47), "--images 47 are too few for 16 clients; give at least three for each"),
    ],
)
def test_wrong_options(arguments, message):
    with pytest.raises(BadInputError) as refused:
        soak.measure(parsed(*arguments))
    assert str(refused.value) == message


def test_a_folder_with_something_in_it(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(BadInputError, match="is not empty; choose another"):
        soak.measure(parsed("--folder", tmp_path))
