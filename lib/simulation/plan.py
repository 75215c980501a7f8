"""What all campaigns of a simulation have in common, and where each keeps what it has done."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib.errors import BadInputError
from lib.files import atomic_write
from lib.settings import Settings
from lib.simulation.annotator import Hand
from lib.simulation.kinds import Grid

FULL = "full"  # in place of a strategy: the whole pool is labelled at once
SLICES_ONLY = "+slices"  # after a strategy: annotators look only at the slices that are suggested
PHANTOMS = "phantoms"
EASY, STARTER, SCRATCH = "easy", "starter", "scratch"
_DROPOUT = 0.05
_LEAST_SLICES = 12  # of a case in an epoch, of a volume of some tens of slices


@dataclass(frozen=True)
class Plan:
    """A simulation.

    Args:
        pool: a folder as `lib.simulation.pool.write_pool` makes it; "phantoms": rendered ones, others for each seed.
        test: another such folder, of the cases on which the models are judged; not used with phantoms.
        rounds: of each campaign.
        per_round: labels of a round.
        steps: optimisation steps of a round's training.
        start: what the first round starts from: "easy": a model trained on a few easy cases of another pool,
            "starter": the app's, "scratch": fresh weights.
        start_steps: of the training of an easy start.
        annotator: see `lib.simulation.annotator`.
        planned: labels that strategies are told to expect in the end; `rounds` may grow beyond them later.
        validation: phantoms outside of the pool that are labelled from the beginning, to judge trainings by; what is
            chosen is then all trained on. 0: of what is chosen, the app's split takes some for that.
        patients: phantoms of a pool; each has about 1.4 images.
        test_cases: phantoms on which the models are judged, the same for all seeds.
        size: columns and rows of a phantom.
        slices: axial slices of a phantom.
        settings: of the app, with the simulation's smaller network and recipe.
        full_rounds: trainings with the whole pool, unless they gain no more before; each takes three times `steps`.
    """

    pool: str
    test: str
    rounds: int
    per_round: int
    steps: int
    start: str
    start_steps: int
    annotator: Hand
    planned: int
    validation: int
    patients: int
    test_cases: int
    size: int
    slices: int
    settings: Settings = field(repr=False)
    full_rounds: int = 3

    @property
    def grid(self) -> Grid:
        """The voxels of a phantom, which cover the same patient whatever the size."""
        usual = Grid()
        return Grid(self.size, self.slices, usual.slice_mm * usual.slices / self.slices, usual.field_mm)

    def rounds_of(self, strategy: str) -> int:
        """How many rounds a campaign has at most, without the one before the first label."""
        return self.full_rounds if strategy == FULL else self.rounds

    def steps_of(self, strategy: str) -> int:
        """Optimisation steps of a round's training."""
        return 3 * self.steps if strategy == FULL else self.steps

    def training(self, seed: int, cases: int, steps: int) -> Settings:
        """The settings of one training, which takes about as many steps whatever the number of cases.

        Args:
            seed: of the training.
            cases: to train on.
            steps: in all epochs together; each case gives the same number of slices, so that the number is met up to
                half a slice of each case and epoch. The more cases, the fewer epochs: so many slices of each case are
                what it is validated with, too.
        """
        recipe = self.settings.training
        each = steps * recipe.batch_size / max(1, cases)
        epochs = max(1, min(recipe.max_epochs, round(each / _LEAST_SLICES)))
        changes = {"seed": seed, "max_epochs": epochs, "slices_per_case": max(1, round(each / epochs))}
        return self.settings.model_copy(update={"training": recipe.model_copy(update=changes)})

    def figures(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "settings": self.settings.model_dump(mode="json")}

    def keep(self, folder: Path) -> None:
        """Write the plan into a simulation's folder, or make sure that the folder's is the same but for `rounds`.

        Raises:
            BadInputError: the folder holds a simulation with another plan.
            StorageError: the disk refused.
        """
        path = folder / "plan.json"
        ours: Mapping[str, Any] = json.loads(json.dumps(self.figures()))
        if not path.exists():
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
            return
        theirs = json.loads(path.read_text(encoding="utf-8"))
        for key in ours:
            if key != "rounds" and ours[key] != theirs.get(key):
                begun = (
                    "other settings of the app" if key == "settings" else f"{key} {theirs.get(key)}, not {ours[key]}"
                )
                msg = f"{folder} holds a simulation begun with {begun}; ask for the same, or choose another --folder"
                raise BadInputError(msg)


def small(*, patch: int, filters: Sequence[int] = (), epochs: int = 8) -> dict[str, Any]:
    """What makes a training short enough to be repeated some hundred times, as overrides of `app.yaml`.

    The network is smaller and hardly drops anything out, augmentation is rarer, steps are larger: with two thousand
    steps, the app's own recipe would have learned next to nothing of tumors. The gate allows a larger share of lesions
    to be missed, as start weights of a few cases find many by inventing more.

    Args:
        patch: pixels of a side of a training patch.
        filters: of the network; none: that of the app, as its starter weights ask for.
        epochs: of a training, after each of which it looks at the validation cases.
    """
    levels = len(filters)
    network = {"filters": list(filters), "dropout": [_DROPOUT] * levels, "up_dropout": [_DROPOUT] * (levels - 1)}
    return {
        "training.max_epochs": epochs, "training.batch_size": 8, "training.learning_rate": 5e-4,
        "training.patch_size": patch, "training.threads": 1, "training.cross_validate_below": 0,
        "training.gate.most_recall_loss": 0.15,
        "training.tumor_fraction": 0.6, "training.foreground_fraction": 0.8, "inference.engine": "pytorch",
        "inference.int8": False,
        **{f"augmentation.{name}_probability": 0.2 for name in ("elastic", "grid", "affine", "hu", "noise")},
        **({"network.arguments": network} if filters else {}),
    }  # fmt: skip


def seed_of(*parts: object) -> int:
    """A number that follows from what it is for, for a generator of random numbers or a training."""
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:6], "big")
