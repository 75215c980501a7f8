import json
import shutil
from dataclasses import replace

import pytest

from lib.errors import BadInputError, NotFoundError
from lib.inference.command_line import DEFAULT_APP
from lib.settings import load_settings
from lib.simulation.material import easy_cases, load, prepare, prepare_test_set
from lib.simulation.plan import FULL, SCRATCH, Plan, small
from lib.simulation.rounds import Campaign, read_rounds, rounds_done
from lib.volume_io import read_label


def settings_of(**chosen):
    return load_settings(DEFAULT_APP / "app.yaml", small(**chosen))


@pytest.fixture(scope="module")
def plan():
    chosen = small(patch=32, filters=(4, 4, 8, 8, 8), epochs=2)
    gate = {"training.gate.most_loss": 1, "training.gate.most_recall_loss": 1, "inference.precision": "float32"}
    settings = load_settings(DEFAULT_APP / "app.yaml", {**chosen, **gate, "training.learning_rate": 0.005})
    return Plan(
        pool="phantoms", test="", rounds=2, per_round=2, steps=30, start=SCRATCH, start_steps=1, annotator="true",
        planned=4, validation=6, patients=6, test_cases=6, size=64, slices=12, settings=settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulation")
    prepare_test_set(plan, folder)
    prepare(plan, 3, folder, DEFAULT_APP)
    return folder


def campaign(plan, folder, place, strategy="hybrid"):
    return Campaign(plan, strategy, 3, load(plan, 3, folder), place)


def without_times(rounds):
    return [{key: value for key, value in one.items() if key != "seconds"} for one in rounds]


@pytest.fixture(scope="module")
def uncut(plan, folder, tmp_path_factory):
    """Where a campaign lies, its rounds, and a copy of what lay there after its first training."""
    place, cut = (tmp_path_factory.mktemp(name) for name in ("uncut", "cut"))

    def copied(done):
        if done["round"] == 1:
            shutil.copytree(place, cut, dirs_exist_ok=True)

    return place, campaign(plan, folder, place).run(copied), cut


def test_a_campaign_labels_trains_and_judges(uncut, folder, plan):
    place, rounds, _ = uncut
    material = load(plan, 3, folder)
    assert [one["labels"] for one in rounds] == [0, 2, 4]
    assert json.loads(json.dumps(rounds)) == rounds == read_rounds(place)
    chosen = [one["image"] for done in rounds for one in done["chosen"]]
    assert len(set(chosen)) == 4
    for one in (one for done in rounds for one in done["chosen"]):
        case = material.pool[one["image"]]
        assert one["kind"] == case.kind
        assert one["reason"]
        given, truth = read_label(place / "labels" / f"{case.name}.nii.gz"), read_label(case.truth)
        assert (given.array == truth.array).all()
    assert rounds[-1]["slices"] == sum(len(read_label(material.pool[name].truth).axial()) for name in chosen)
    assert rounds[0]["cases"] == material.start_figures
    for done in rounds:
        assert set(done["cases"]) == {case.name for case in material.test}
        assert set(done["figures"]) == {"liver", "tumor", "lesion recall", "false lesions"}
    assert not set(chosen) & {case.name for case in material.test}


def test_cut_off_and_resumed_is_as_uncut(uncut, plan, folder):
    _, rounds, cut = uncut
    assert rounds_done(cut) == 2
    # What a round leaves that was cut off before it was written down counts for nothing.
    (cut / "work" / "app").mkdir(parents=True)
    (cut / "weights-02.pt").write_bytes(b"half")
    done_now = []
    resumed = campaign(plan, folder, cut).run(done_now.append)
    assert [one["round"] for one in done_now] == [2]
    assert without_times(resumed) == without_times(rounds)
    assert campaign(plan, folder, cut).run(done_now.append) == resumed
    assert len(done_now) == 1  # nothing is done twice


def test_strategies_of_a_seed_differ_only_in_what_they_choose(plan, folder, tmp_path):
    everything = replace(plan, rounds=1, per_round=100, steps=1, annotator="realistic")
    first, random = (campaign(everything, folder, tmp_path / name, name).run() for name in ("first", "random"))
    pool = load(plan, 3, folder).pool
    assert first[0] == random[0]
    chosen = [[one["image"] for one in rounds[1]["chosen"]] for rounds in (first, random)]
    assert chosen[0] != chosen[1]
    assert set(chosen[0]) == set(chosen[1]) == set(pool)
    # The same cases, whatever their order, have the same labels and give the same model.
    for key in ("labels", "slices", "published", "reason", "figures", "cases"):
        assert first[1][key] == random[1][key]


def test_what_was_published_last_is_in_force(uncut, plan, folder, tmp_path):
    for number, published in enumerate((True, True, False)):
        done = {**uncut[1][number], "published": published}
        (tmp_path / f"round-0{number}.json").write_text(json.dumps(done))
    state = campaign(plan, folder, tmp_path)._remembered()
    assert state.weights == tmp_path / "weights-01.pt"
    assert state.unpublished == 1
    assert len(state.labelled) == 4


def test_the_whole_pool_at_once(plan, folder, tmp_path):
    one_step = replace(plan, steps=1, full_rounds=1, validation=0)
    rounds = campaign(one_step, folder, tmp_path / "full", FULL).run()
    assert rounds[1]["labels"] == len(load(plan, 3, folder).pool)
    assert len(rounds) == 2


def test_only_suggested_slices(plan, folder, tmp_path):
    short = replace(plan, rounds=1, steps=1)
    rounds = campaign(short, folder, tmp_path / "partial", "hybrid+slices").run()
    material = load(plan, 3, folder)
    whole = campaign(short, folder, tmp_path / "whole").run()
    assert [one["image"] for one in rounds[1]["chosen"]] == [one["image"] for one in whole[1]["chosen"]]
    for one in rounds[1]["chosen"]:
        spans = material.start_scores[one["image"]].spans
        wanted = {z for span in spans for z in range(span.first, span.last + 1)}
        assert one["slices"] == (len(wanted) or plan.slices)


def test_another_plan_does_not_go_on(plan, tmp_path):
    plan.keep(tmp_path)
    plan.keep(tmp_path)
    with pytest.raises(
        BadInputError, match=r"begun with per_round 2, not 5; ask for the same, or choose another --folder"
    ):
        replace(plan, per_round=5).keep(tmp_path)
    with pytest.raises(BadInputError, match="begun with other settings of the app"):
        replace(plan, settings=settings_of(patch=48)).keep(tmp_path)
    replace(plan, rounds=5).keep(tmp_path)  # more rounds of the same are no other plan
    with pytest.raises(BadInputError, match="begun with planned 4, not 10"):
        replace(plan, rounds=5, planned=10).keep(tmp_path)


def test_a_test_set_of_the_same_patients_is_refused(plan, folder):
    same = str(folder / "seed-3" / "pool")
    with pytest.raises(BadInputError, match="holds patients of the pool, such as p"):
        load(replace(plan, pool=same, test=same), 3, folder)
    with pytest.raises(NotFoundError, match="holds no complete pool"):
        load(replace(plan, pool=str(folder), test=same), 3, folder)


def test_easy_cases_are_ordinary_and_no_test_patients(plan, folder):
    cases = easy_cases(3, plan.grid)
    assert len({case.patient for case in cases}) == len(cases) == 8
    assert all(case.kind == "ordinary" and case.lesions for case in cases)
    assert cases == easy_cases(3, plan.grid) != easy_cases(4, plan.grid)


def test_a_training_takes_about_the_same_steps_for_few_and_many_cases(plan):
    many = replace(plan, settings=settings_of(patch=32))
    for cases in (1, 4, 7, 30, 100):
        recipe = many.training(0, cases, 400).training
        steps = recipe.max_epochs * -(-cases * recipe.slices_per_case // recipe.batch_size)
        assert steps == pytest.approx(400, rel=0.1)
