import json
from dataclasses import replace

import pytest

from lib.activelearning.annotators import Agreement
from lib.activelearning.campaign import GO_ON, LOOK, STOP, UNKNOWN, Campaign, outlook_of
from lib.activelearning.campaign_picture import draw
from lib.activelearning.campaign_text import status_text
from lib.activelearning.corrections import last_of_each
from lib.activelearning.gain import GateHistory, Judged
from lib.store.campaign import Progress, SavedLabel

DAY = 86400


def rising(labels):
    return 0.9 - 0.9 * labels**-0.5


def flat(_labels):
    return 0.8


def campaign(curve=rising, versions=5, corrected=(0.5,) * 12, share=0.8):
    """Versions after 8, 16, ... labels of which 4 of 5 were trained on, and one correction after the other."""
    judged = tuple(
        Judged(
            f"v{number + 1}", f"v{number}", 8.0 * (number + 1), 8.0 * number if number else None, number,
            {"tumor": (curve(8 * (number + 1)), curve(8 * max(number, 0.5)))}, {"tumor": 0.003},
        )
        for number in range(versions)
    )  # fmt: skip
    saved = tuple(
        SavedLabel(
            f"c{at:02d}", 1, "ann" if at % 3 else "bob", DAY * 20000.5 + DAY * (at // 5), 60.0 * at, f"v{at // 10}",
            {"tumor": dice},
        )
        for at, dice in enumerate(corrected)
    )  # fmt: skip
    outlook = outlook_of("tumor", GateHistory(judged, share), last_of_each(saved), 10 * versions)
    return Campaign(Progress(10 * versions, 900, 3), f"v{versions}", 41, saved, (outlook,))


@pytest.mark.parametrize(
    ("how", "advice"),
    [
        ({}, GO_ON),
        ({"corrected": [0.97] * 12}, GO_ON),  # what is drawn draws along
        ({"curve": flat, "corrected": [0.97] * 12}, STOP),
        ({"curve": flat}, LOOK),
        ({"curve": flat, "corrected": [0.5] * 3}, LOOK),
        ({"curve": flat, "corrected": []}, STOP),
        ({"versions": 2, "corrected": [0.97] * 12}, STOP),
        ({"versions": 2}, GO_ON),
        ({"versions": 2, "corrected": [0.97] * 9}, UNKNOWN),
        ({"versions": 0, "corrected": []}, UNKNOWN),
    ],
    ids=[
        "rising and much changed", "rising, little changed", "flat and little changed", "flat, much changed",
        "flat, much changed in few", "flat", "little changed", "much changed", "too few changed", "nothing",
    ],
)  # fmt: skip
def test_advice(how, advice):
    assert campaign(**how).advice == advice


def test_a_class_of_which_nothing_is_known_forbids_to_stop():
    one = campaign(curve=flat, corrected=[0.97] * 12)
    unknown = campaign(versions=0, corrected=[]).outlooks[0]
    assert replace(one, outlooks=(*one.outlooks, replace(unknown, label="liver"))).advice == UNKNOWN


def test_verdict_in_words():
    first, gain, corrections = campaign(corrected=[0.5] * 10 + [0.96, 0.98] * 5).verdict
    assert first == "go on: there is still something to gain"
    start, _, end = gain.partition(" (90 % interval ")
    assert start.startswith("the next ten labels are expected to raise tumor Dice by 0.01")
    low, _, high = end.removesuffix(")").partition(" to ")
    assert 0 < float(low) < rising(48) - rising(40) < float(high)
    assert corrections.startswith("annotators changed little of tumor in the last 10 cases (Dice 0.970, 90 % interval ")
    first, gain, corrections = campaign(versions=2, corrected=[0.3]).verdict
    assert first == "too early to say whether more labels are worth it"
    assert gain == "what the next ten labels bring for tumor is not known: not enough versions yet: 2 of at least 3"
    assert corrections == "annotators changed much of tumor in the last case (Dice 0.300)"
    assert (
        campaign(curve=lambda labels: 0.8 - 0.003 * labels)
        .verdict[1]
        .startswith("the next ten labels are expected to change tumor Dice by -0.0")
    )


def test_of_ten_labels_those_for_validation_bring_nothing():
    # 50 images are labelled, and the newest version has learned from 40 of them.
    curves = [campaign(share=share).outlooks[0].curve for share in (0.5, 0.8, 1)]
    assert [(curve.now, curve.more) for curve in curves] == [(40, 5), (40, 8), (50, 10)]


def test_figures_can_be_written_as_json():
    one = replace(campaign(), agreements=(Agreement("c01", ("ann", "bob"), {"tumor": 0.75}),))
    told = json.loads(json.dumps(one.as_dict(), allow_nan=False))
    assert told["images"] == {"labelled": 50, "left": 900, "excluded": 3, "scored": 41}
    assert told["classes"]["tumor"]["gain"]["labels"] == 10
    assert told["classes"]["tumor"]["corrections"]["cases"] == 10
    assert list(told["labels_by_day"].values()) == [5, 5, 2]
    assert told["cases_by_author"] == {"ann": 8, "bob": 4}
    assert told["seconds_per_case"] == {"cases": 12, "quartiles": [165, 330, 495]}
    assert [(one["version"], one["cases"], one["dice"]) for one in told["corrections_by_version"]] == [
        ("v0", 10, {"tumor": 0.5}), ("v1", 2, {"tumor": 0.5}),
    ]  # fmt: skip
    assert told["agreement"] == [{"image_id": "c01", "authors": ["ann", "bob"], "dice": {"tumor": 0.75}}]
    assert len(told["learning_curves"]["tumor"]) == 10
    # Of the people who work there clients are told nothing.
    assert not {"corrections", "cases_by_author", "agreement"} & set(one.short())


def test_text():
    lines = status_text(campaign()).splitlines()
    assert lines[0] == "images         50 labelled, 900 left, 3 excluded"
    assert lines[1] == "scored         41 of 900 left, by the model in force (v5)"
    assert "annotators     ann 8, bob 4" in lines
    assert "time per case  median 6 min, half of the cases between 3 min and 8 min (12 cases)" in lines
    assert ["v0", "10", "0.500"] in [line.split() for line in lines]
    assert ["v2", "16", "2", "0.675"] in [line.split() for line in lines]
    assert lines[-3] == "go on: there is still something to gain"
    assert status_text(campaign(corrected=[0.5] * 200)).count("before") == 1  # the days of long ago in one line


def test_text_of_nothing():
    text = status_text(campaign(versions=0, corrected=[]))
    assert "time per case  not known, as nobody has saved a label of a case that the server handed out" in text
    assert "no label is known to begin with a pre-segmentation" in text
    assert text.endswith("nothing is known of corrections of tumor")


def test_picture(tmp_path):
    draw(tmp_path / "campaign.png", campaign())
    assert (tmp_path / "campaign.png").read_bytes().startswith(b"\x89PNG")
