import json

import pytest

from lib.errors import BadInputError
from lib.simulation.drawings import draw_curves
from lib.simulation.page import as_markdown, as_text, pictures_of, tables, write_page
from lib.simulation.report import summarize
from lib.simulation.results import fill_in

PLAN = {
    "pool": "phantoms", "rounds": 2, "per_round": 5, "planned": 10, "annotator": "true", "start": "easy",
    "steps": 9,
    "validation": 10,
    "settings": {
        "training": {"validation_fraction": 0.2, "patch_size": 96, "batch_size": 8, "learning_rate": 0.001},
        "network": {"name": "MulticlassUNet", "arguments": {}},
    },
}  # fmt: skip


def rounds(*tumor, kind="ordinary"):
    """A campaign of 5 labels and 120 slices a round."""
    return [
        {
            "round": number, "labels": 5 * number, "slices": 120 * number, "published": number != 1,
            "figures": {"liver": 0.9, "tumor": dice, "lesion recall": dice / 2, "false lesions": 1.0},
            "chosen": [{"kind": kind, "part": "random"}] * (5 if number else 0),
        }
        for number, dice in enumerate(tumor)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def summary():
    return summarize(
        {
            "foreground_random": {0: rounds(0.2, 0.4, 0.6), 1: rounds(0.4, 0.6, 0.8)},
            "hybrid": {0: rounds(0.2, 0.7, 0.8, kind="rare"), 1: rounds(0.4, 0.7, 0.8, kind="rare")},
            "full": {0: rounds(0.2, 0.8), 1: rounds(0.4, 0.8), 2: rounds(0.1)},  # of seed 2 nothing is trained yet
            "entropy": {0: []},
        }
    )


def test_figures_of_known_curves(summary):
    assert json.loads(json.dumps(summary)) == summary
    assert summary["seeds"] == [0, 1]
    assert summary["full"]["tumor"]["mean"] == pytest.approx(0.8)
    assert list(summary["strategies"]) == ["foreground_random", "hybrid"]  # none has begun with entropy
    hybrid, baseline = summary["strategies"]["hybrid"], summary["strategies"]["foreground_random"]
    assert [point["mean"] for point in hybrid["curves"]["tumor"]] == pytest.approx([0.3, 0.7, 0.8])
    assert hybrid["area"]["tumor"]["mean"] == pytest.approx((0.5 + 0.75) / 2)
    assert baseline["area"]["tumor"]["mean"] == pytest.approx((0.4 + 0.6) / 2)
    # 95 % of 0.8 is 0.76, which lies at 6 tenths of the second round.
    assert hybrid["needed"]["full"]["labels"]["tumor"] == pytest.approx(8)
    assert hybrid["needed"]["full"]["slices"]["tumor"] == pytest.approx(192)
    assert baseline["needed"]["full"]["labels"]["tumor"] is None
    assert hybrid["needed"]["baseline"]["labels"]["tumor"] == pytest.approx(5)  # 0.7 at its end
    assert baseline["needed"]["baseline"]["labels"]["tumor"] == pytest.approx(10)


def test_differences_are_paired(summary):
    against = summary["strategies"]["hybrid"]["against_baseline"]["tumor"]
    assert [one["mean"] for one in against["rounds"]] == pytest.approx([0.0, 0.2, 0.1])
    # of the areas: (0.45 + 0.75) / 2 - 0.4 of seed 0, (0.55 + 0.75) / 2 - 0.6 of seed 1
    assert against["area"]["mean"] == pytest.approx((0.2 + 0.05) / 2)
    assert against["area"]["high"] - against["area"]["mean"] == pytest.approx(12.7062 * 0.15 / 2, rel=1e-4)


def test_goals_compare_the_default_with_the_baseline(summary):
    goals = summary["goals"]
    assert goals["labels_needed"]["baseline"]["tumor"]["ratio"] == pytest.approx(0.5)
    # The baseline ends below the target: it needs more than its 10 labels.
    bound = {"ours": pytest.approx(8), "baseline": None, "ratio": pytest.approx(0.8), "is_bound": True}
    assert goals["labels_needed"]["full"]["tumor"] == bound
    assert goals["first_round"]["tumor"]["mean"] == pytest.approx(0.2)
    assert summarize({"hybrid": {0: rounds(0.1, 0.2)}})["goals"] is None


def test_the_baseline_needs_more_than_what_all_of_its_seeds_have():
    ragged = {0: rounds(0.1, 0.2, 0.2, 0.2), 1: rounds(0.1, 0.2)}
    found = {"foreground_random": ragged, "hybrid": {0: rounds(0.1, 0.8)}, "full": {0: rounds(0.1, 0.8)}}
    goal = summarize(found)["goals"]["labels_needed"]["full"]["tumor"]
    assert goal["is_bound"]
    assert goal["ratio"] == pytest.approx(goal["ours"] / 5)


def test_what_was_chosen_is_counted(summary):
    assert summary["strategies"]["hybrid"]["kinds"] == [{"rare": 10}, {"rare": 10}]
    assert summary["strategies"]["hybrid"]["published"] == pytest.approx(0.5)


def test_a_campaign_that_has_just_begun_can_be_shown():
    summary = summarize({"random": {0: rounds(0.2)}, "foreground_random": {0: rounds(0.2, 0.4)}})
    assert summary["strategies"]["random"]["area"].get("tumor") is None
    assert draw_curves(summary).axes
    assert "–" in as_text(tables(summary)["area"])
    assert set(tables(summary)) == {"end", "area", "needed"}
    assert tables(summary)["needed"][1:] == [
        ["what foreground_random has at its end", "foreground_random", "1", "0", "5", "5", "0", "120", "120"],
        ["what foreground_random has at its end", "random", "1", "0", "–", "–", "0", "–", "–"],
    ]
    assert set(tables(summarize({"random": {0: rounds(0.2)}}))) == {"end", "area"}


@pytest.mark.parametrize("strategies", [("hybrid", "foreground_random"), ("hybrid",)])
def test_a_page_before_the_whole_pool_was_tried(strategies, tmp_path):
    summary = summarize({name: {0: rounds(0.2, 0.4)} for name in strategies})
    page = tmp_path / "report.html"
    result = {"date": "2000-01-01", "command": "me", "plan": PLAN, "summary": summary}
    write_page(page, result, pictures_of(summary, {"ordinary": 30}))
    text = page.read_text()
    assert "95 % of the whole pool&#39;s" not in text
    assert ("what foreground_random has at its end" in text) == (len(strategies) == 2)


def test_page_and_documentation(summary, tmp_path):
    pictures = pictures_of(summary, {"ordinary": 30, "rare": 4})
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    page = tmp_path / "report.html"
    write_page(page, {"date": "2000-01-01", "command": "<me>", "plan": PLAN, "summary": summary}, pictures)
    text = page.read_text()
    assert "&lt;me&gt;" in text
    assert "<script" not in text
    assert "<td>0.50</td>" in text
    assert "<td>below 0.80</td>" in text
    assert "95 % of the whole pool&#39;s" in text
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- simulation -->\nold\n<!-- end of simulation -->\nafter\n")
    fill_in(document, summary, "me", pictures["curves"])
    filled = document.read_text()
    assert filled.startswith("before\n<!-- simulation -->\n")
    assert filled.endswith("<!-- end of simulation -->\nafter\n")
    assert "old" not in filled
    assert all(as_markdown(rows) in filled for rows in tables(summary).values())
    assert "| 95 % of the whole pool's | tumor Dice | 8.0 | – | below 0.80 |" in filled
    assert (tmp_path / "images" / "simulation.png").read_bytes() == pictures["curves"]
    (tmp_path / "other.md").write_text("nothing")
    with pytest.raises(BadInputError, match="no <!-- simulation -->"):
        fill_in(tmp_path / "other.md", summary, "me", b"")
