"""A training learns: corrected cases unlike those of the starter weights raise the Dice on cases that it never saw."""

from pathlib import Path

import pytest
import torch

from lib.benchmarks.learning import learn
from lib.benchmarks.shifted_cases import cut_into_slabs, make_arterial_phantoms
from lib.settings import load_settings

APP = Path(__file__).resolve().parents[1] / "apps" / "liver_tumor"
STARTER = APP / "starter.pt"
CPU = torch.device("cpu")
# Half of the least gain in mean Dice that was measured with training seeds 0, 1 and 2. Phantoms: liver 0.917 before,
# gains of 0.014 to 0.019; tumor 0.082 before, gains of 0.110 to 0.358. Real CT: liver 0.922 before, 0.016 to 0.035;
# tumor 0.602 before, 0.166 to 0.190. With a learning rate of 1e-9 all gains were 0.000.
LEAST_GAIN_ON_PHANTOMS = {"liver": 0.007, "tumor": 0.055}
LEAST_GAIN_ON_A_REAL_CT = {"liver": 0.008, "tumor": 0.08}


def recipe(**training):
    return load_settings(APP / "app.yaml", {f"training.{key}": str(value) for key, value in training.items()})


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """12 corrected and 8 unseen patients in another phase and thicker slices than those of the starter weights."""
    folder = tmp_path_factory.mktemp("learned")
    cases = make_arterial_phantoms(folder / "studies", 12, 8, size=96, slices=20, slice_mm=10.0)
    settings = recipe(
        patch_size=96, batch_size=8, slices_per_case=16, max_epochs=5, learning_rate=0.001, validation_fraction=0.25
    )
    return learn(cases, settings, STARTER, folder, CPU)


def test_corrected_cases_raise_the_dice_on_unseen_patients(learned):
    assert (len(learned["training"]) + len(learned["validation"]), len(learned["unseen"])) == (12, 8)
    for name, least in LEAST_GAIN_ON_PHANTOMS.items():
        assert learned["classes"][name]["gain"] >= least, learned["classes"]


def test_the_gate_sees_it_on_the_validation_patients(learned):
    assert learned["published"], learned["reason"]
    assert len(learned["validation"]) == 3
    assert learned["reason"].startswith("tumor Dice 0.")
    assert learned["best_epoch"] > 0
    assert not {*learned["training"], *learned["validation"]} & {*learned["unseen"]}


def test_other_slices_of_one_real_ct_show_the_same_direction(real_samples, tmp_path):
    name = "lits_117_crop.nii.gz"
    cases = cut_into_slabs(real_samples / name, real_samples / "labels_reference" / name, tmp_path / "studies")
    settings = recipe(patch_size=128, slices_per_case=12, max_epochs=5, learning_rate=0.0005)
    learned = learn(cases, settings, STARTER, tmp_path, CPU)
    assert (len(learned["training"]) + len(learned["validation"]), len(learned["unseen"])) == (5, 3)
    for name, least in LEAST_GAIN_ON_A_REAL_CT.items():
        assert learned["classes"][name]["gain"] >= least, learned["classes"]
