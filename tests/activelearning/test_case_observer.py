"""`lib.activelearning.scoring`; test_scoring.py is about MONAI Label's scoring methods."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib.activelearning import scoring
from lib.activelearning.image_features import densities
from lib.activelearning.scoring import CaseObserver, ScoringWatch
from lib.case_scores import Span
from lib.inference.model import Model, new_network
from lib.inference.observer import Seen
from lib.labels import Label
from lib.networks.unet import MulticlassUNet
from lib.settings import Settings
from lib.volume import Volume

ALL = slice(None)
LN3 = np.log(3)
SHAPE = (6, 32, 48)
SPACING = (4.0, 2.0, 1.0)


def settings(**changes):
    """Without dropout passes unless asked for."""
    made = Settings.model_validate({"network": {"arguments": {"filters": [4, 4, 8, 8, 8]}}})
    # Not checked: which strategies there are is not what is tested here.
    chosen = made.active_learning.model_copy(update={"strategies": ("random",), "slices_per_score": 8, **changes})
    return made.model_copy(update={"active_learning": chosen})


def image(shape=SHAPE, spacing=SPACING):
    """Axial `shape` as a file of another orientation: the slices from head to feet."""
    hu = np.random.default_rng(0).integers(-200, 300, shape).astype(np.int16)
    hu[..., : shape[2] // 3] = -1000
    z, y, x = spacing
    return Volume(np.asfortranarray(hu.transpose(2, 1, 0)[..., ::-1]), np.diag([-x, -y, -z, 1.0]))


def model(network=None):
    torch.manual_seed(0)
    return Model((network or new_network(settings())).eval(), "v1")


class Told(list):
    """An observer of an image, and what it notes."""

    def __init__(self, picture=None, of_model=None, **changes):
        self.observer = CaseObserver(
            picture or image(), of_model or model(), settings(**changes), lambda *noted: self.append(noted)
        )

    def saw(self, chances, found=None, first=0, rows=ALL, columns=ALL, features=None):
        """Tell slices that have the same probabilities everywhere, and what was found in them."""
        classes = cleaned()[:, rows, columns] if found is None else found
        probabilities = np.empty((len(classes), len(chances), *classes.shape[1:]), np.float32)
        probabilities[:] = np.array(chances, np.float32)[:, None, None]
        self.observer.saw(first, rows, columns, Seen(classes, probabilities, features))

    def finished(self, label=None, lesions=0, give_way=lambda: None):
        self.observer.finished(cleaned() if label is None else label, lesions, give_way)
        scores, seconds = self.pop()
        assert 0 <= seconds < 60
        return scores


def cleaned():
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 8:16, 16:32] = 1
    label[3, 10:12, 20:24] = 2
    return label


def test_exact_scores_of_known_probabilities():
    told = Told()
    told.saw([1 / 3] * 3)
    scores = told.finished(lesions=1)
    assert scores.entropy == pytest.approx(LN3, rel=1e-3)
    assert scores.classes == pytest.approx({"liver": LN3 / 3, "tumor": LN3 / 3}, rel=1e-3)
    assert scores.ml == pytest.approx({"liver": (2 * 8 * 16 - 8) * 0.008, "tumor": 8 * 0.008})
    assert (scores.lesions, scores.bald, scores.embedding) == (1, None, None)
    assert scores.first_slice == 1  # one slice of 4 mm is within 5 mm
    # 5 mm are two rows of 2 mm and five columns of 1 mm; at the corners the rows reach one and two columns less far.
    area = (12 * 26 - 4 * (2 + 1)) * 2.0
    assert len(scores.slices["tumor"]) == 4
    assert scores.slices["tumor"] == pytest.approx([area * LN3 / 3] * 4, rel=1e-3)
    assert scores.flags == ("small_liver",)
    assert scores.spans == (Span("liver", 1, 3, 0.75), Span("tumor", 1, 3, 0.75))


def test_where_nothing_is_predicted_all_that_was_looked_at_counts():
    told = Told()
    nothing = np.zeros((2, 16, 16), np.uint8)
    told.saw([0.5, 0.5, 0], nothing, 1, slice(0, 16), slice(32, 48))
    told.saw([0.5, 0, 0.5], nothing, 3, slice(0, 16), slice(32, 48))
    scores = told.finished(np.zeros(SHAPE, np.uint8))
    assert not scores.has_foreground
    assert scores.entropy == pytest.approx(np.log(2), rel=1e-5)
    assert scores.classes == pytest.approx({"liver": np.log(2) / 4, "tumor": np.log(2) / 4}, rel=1e-5)
    assert scores.first_slice == 1
    assert scores.slices["liver"] == pytest.approx([256 * np.log(2)] * 2 + [0, 0])
    assert scores.flags == ("no_liver",)


def test_a_case_of_which_nothing_was_told():
    scores = Told().finished(np.zeros(SHAPE, np.uint8))
    assert (scores.entropy, scores.classes, scores.spans) == (0, {"liver": 0, "tumor": 0}, ())


def test_what_is_told_again_counts_once():
    told = Told()
    told.saw([1 / 3] * 3)
    told.saw([0, 1, 0], cleaned()[:3], 0)
    again = told.finished()
    assert again.slices["liver"][:2] == (0, 0)
    assert again.slices["liver"][2] > 0
    told.observer.begin_again()
    told.saw([0, 1, 0])
    assert told.finished().entropy == 0


def test_the_embedding_is_the_mean_of_the_cells_with_foreground():
    features = np.zeros((6, 3, 2, 3), np.float32)
    features[:, 0] = 9  # cells without foreground
    features[:, :, 0, 1] = [0, 3, 4]  # rows 0 to 15, columns 16 to 31, which hold it
    told = Told()
    told.saw([0, 1, 0], features=features)
    embedding = told.finished().embedding
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1)
    assert embedding[:3] * np.sqrt(2) == pytest.approx([0, 0.6, 0.8])
    told.saw([0, 1, 0], features=features)
    everywhere = told.finished(np.zeros(SHAPE, np.uint8)).embedding
    assert everywhere[:3] * np.sqrt(2) == pytest.approx(np.array([45, 3, 4]) / np.linalg.norm([45, 3, 4]))


def test_beside_it_lie_the_densities_of_what_was_found():
    picture = image()
    told = Told(picture)
    for label, seen in ((cleaned(), cleaned() > 0), (np.zeros(SHAPE, np.uint8), np.ones(SHAPE, bool))):
        told.saw([0, 1, 0], features=np.ones((6, 3, 2, 3), np.float32))
        found = told.finished(label).embedding[3:] * np.sqrt(2)
        # Every second row and every third column of these spacings.
        assert found == pytest.approx(densities(picture.axial()[:, ::2, ::3][seen[:, ::2, ::3]]))


def test_the_densities_of_a_find_between_the_pixels_looked_at_are_those_beside_it():
    picture, small = image(), np.zeros(SHAPE, np.uint8)
    small[3, 13, 31:33] = 2  # row 12 is looked at, and columns 30 and 33
    told = Told(picture)
    told.saw([0, 1, 0], features=np.ones((6, 3, 2, 3), np.float32))
    assert told.finished(small).embedding[3:] * np.sqrt(2) == pytest.approx(densities(picture.axial()[3, 12, 30]))


def test_cells_of_a_part_that_is_padded_weigh_by_the_foreground_in_them():
    told = Told()
    classes = np.zeros((1, 20, 30), np.uint8)  # of padded 32 x 32: four cells
    classes[0, :16, 8:24] = 1  # half of either upper cell
    classes[0, 16:20, 24:28] = 1  # a sixteenth of the last
    features = np.zeros((1, 3, 2, 2), np.float32)
    features[0, 0, 0, 0] = features[0, 1, 0, 1] = features[0, 2, 1, 1] = 1
    told.saw([0, 1, 0], classes, 2, slice(0, 20), slice(10, 40), features)
    expected = np.array([0.5, 0.5, 1 / 16])
    assert told.finished().embedding[:3] * np.sqrt(2) == pytest.approx(expected / np.linalg.norm(expected))


def test_pieces_are_counted_before_cleaning_wherever_the_part_lies():
    found = np.zeros((40, 120, 120), np.uint8)
    found[5:35, 10:50, 10:50] = 1  # 1296 ml
    found[5:35, 70:100, 75:100] = 1  # 607 ml
    kept = np.zeros_like(found)
    kept[:, :60, :60] = found[:, :60, :60]
    for rows, columns in ((ALL, ALL), (slice(7, 110), slice(5, 119))):
        told = Told(image(found.shape, (3.0, 3.0, 3.0)))
        told.saw([0.1, 0.8, 0.1], found[:, rows, columns], 0, rows, columns)
        assert told.finished(kept).flags == ("several_livers",)
        told.saw([0.1, 0.8, 0.1], kept[:, rows, columns], 0, rows, columns)
        assert told.finished(kept).flags == ()


def test_flags_of_livers_are_not_for_other_organs():
    kidneys = settings().model_copy(update={"labels": {"kidney": Label(index=1)}})
    notes = []
    observer = CaseObserver(image(), model(), kidneys, lambda scores, _: notes.append(scores))
    observer.finished(np.zeros(SHAPE, np.uint8), 0, lambda: None)
    assert notes[0].flags == ()
    assert notes[0].classes == {"kidney": 0}


def test_an_image_that_is_no_ct_says_so_first():
    picture = image()
    told = Told(Volume(picture.array + np.int16(1024), picture.affine))
    told.saw([0, 1, 0])
    assert told.finished().flags == ("not_ct", "small_liver")


def test_dropout_passes_only_where_they_are_asked_for():
    told = Told(strategies=("random", "bald"), dropout_passes=3)
    told.saw([0, 1, 0])
    first = told.finished().bald
    assert first > 0
    assert told.finished().bald == first
    still = MulticlassUNet(filters=(4, 4, 8, 8, 8), dropout=[0] * 5, up_dropout=[0] * 4)
    told = Told(of_model=model(still), strategies=("bald",), dropout_passes=2)
    told.saw([0, 1, 0])
    assert told.finished().bald == pytest.approx(0, abs=1e-6)


class Seeing(nn.Module):
    """Remembers what it was given; foreground nowhere."""

    def __init__(self):
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.ones(1)), []

    def __deepcopy__(self, memo):
        return self

    def forward(self, inputs):
        self.calls.append(tuple(inputs.shape))
        return inputs * self.scale


def test_dropout_passes_see_some_slices_of_the_liver_and_with_none_of_the_volume():
    label = np.zeros((100, 32, 48), np.uint8)
    label[20:68, 8:16, 16:32] = 1
    # A quarter of the work of segmenting, where each takes that of three; at most 8, at least 2.
    for found, slices in ((label, 4), (label * 0, 8), (label * (np.arange(100) < 30)[:, None, None], 2)):
        seeing = Seeing()
        told = Told(image(label.shape, (1.0, 1.0, 1.0)), model(seeing), strategies=("bald",), dropout_passes=2)
        told.saw([0, 1, 0], found)
        assert told.finished(found).bald == pytest.approx(0, abs=1e-6)
        assert seeing.calls == [(2, 3, 32, 48)] * slices


def test_the_image_is_let_go_of():
    picture = image()
    gone = weakref.ref(picture.array)
    told = Told(picture, strategies=("bald",))
    del picture
    assert gone() is None
    assert told.finished().bald is not None


def test_waiting_for_others_is_not_counted(monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 0.001
        return now[0]

    def give_way():
        now[0] += 100

    monkeypatch.setattr(scoring, "time", SimpleNamespace(perf_counter=clock))
    told = Told(strategies=("bald",), dropout_passes=2)
    told.saw([0, 1, 0])
    told.observer.finished(cleaned(), 0, give_way)
    assert now[0] > 300
    assert 0.002 < told[0][1] < 1


def test_whoever_ends_the_work_is_obeyed():
    def stop():
        raise InterruptedError

    told = Told()
    with pytest.raises(InterruptedError):
        told.observer.finished(cleaned(), 0, stop)
    assert not told  # nothing is noted of it


def test_a_watch_scores_what_is_wanted():
    notes, asked = [], []

    def who_wants(path, version):
        asked.append((path, version))
        return (lambda *noted: notes.append(noted)) if path == "a.nii.gz" else None

    watch = ScoringWatch(settings(), who_wants)
    assert watch("b.nii.gz", image(), model()) is None
    observer = watch("a.nii.gz", image(), model())
    observer.finished(cleaned(), 2, lambda: None)
    assert asked == [("b.nii.gz", "v1"), ("a.nii.gz", "v1")]
    [(scores, seconds)] = notes
    assert scores.lesions == 2
    assert seconds > 0


def test_dropout_passes_that_fail_cost_no_other_score(monkeypatch, caplog):
    def full(*_, **__):
        raise torch.OutOfMemoryError("2 GiB are missing")

    monkeypatch.setattr(scoring, "bald", full)
    told = Told(strategies=("entropy", "bald"))
    told.saw([1 / 3] * 3)
    scores = told.finished()
    assert scores.bald is None
    assert scores.entropy > 0
    assert "no BALD of an image: its dropout passes failed" in caplog.text
    assert "2 GiB are missing" in caplog.text
