"""What many campaigns show together: learning curves, labels needed, what was chosen. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lib.simulation.learning_curves import Estimate, area, estimate, mean_curve, needed, paired
from lib.simulation.plan import FULL
from lib.simulation.test_set import FALSE

BASELINE, DEFAULT = "foreground_random", "hybrid"
GOAL = 0.6  # of the labels that the baseline needs
OF_FULL = 0.95  # of what the whole pool gives
X_AXES = ("labels", "slices")

Rounds = Sequence[Mapping[str, Any]]
Campaigns = Mapping[str, Mapping[int, Rounds]]


def summarize(campaigns: Campaigns) -> dict[str, Any]:
    """All figures of a simulation, JSON-ready; campaigns that still run count as far as they are.

    Args:
        campaigns: by strategy and seed the rounds, as `lib.simulation.rounds.read_rounds` gives them; "full" among
            the strategies is what the whole pool gives.

    Returns:
        `seeds`; `full`: of each measure the mean over seeds at the end; `strategies`: of each `seeds`, `labels_of_all`
        (how far all seeds are), `curves` (of each measure a list of points with `round`, `labels`, `slices`, `mean`,
        `low`, `high`), `area` (mean height over the labels), `needed` (labels and slices for 95 % of `full`, and for
        what the baseline has at its end), `against_baseline` (paired differences of areas and of each round), `kinds`
        (how many of each were chosen in each round), `parts`, `published`; `goals`.
    """
    # The start weights, with which each campaign begins, say nothing of the pool.
    full = {seed: rounds[-1]["figures"] for seed, rounds in campaigns.get(FULL, {}).items() if len(rounds) > 1}
    names = sorted(strategy for strategy, seeds in campaigns.items() if strategy != FULL and any(seeds.values()))
    chosen = {name: {seed: rounds for seed, rounds in campaigns[name].items() if rounds} for name in names}
    measures = list(next(iter(next(iter(chosen.values())).values()))[0]["figures"]) if chosen else []
    reference = {
        measure: estimate([figures[measure] for figures in full.values()]) for measure in measures
    } if full else {}  # fmt: skip
    baseline = chosen.get(BASELINE, {})
    strategies = {
        name: _of_strategy(
            seeds, baseline if name != BASELINE else {}, measures, _targets(reference, baseline, measures)
        )
        for name, seeds in chosen.items()
    }
    return {
        "seeds": sorted({seed for seeds in chosen.values() for seed in seeds}),
        "measures": measures,
        "full": {measure: _told(found) for measure, found in reference.items()},
        "full_seeds": sorted(full),
        "strategies": strategies,
        "goals": _goals(strategies),
    }


def _targets(
    reference: Mapping[str, Estimate], baseline: Mapping[int, Rounds], measures: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What is to be reached, by its name and measure."""
    wanted = [measure for measure in measures if measure != FALSE]
    targets = {}
    if reference:
        targets["full"] = {measure: OF_FULL * reference[measure].mean for measure in wanted}
    if baseline:
        targets["baseline"] = {
            measure: float(mean_curve([_values(rounds, measure) for rounds in baseline.values()])[-1])
            for measure in wanted
        }
    return targets


def _of_strategy(
    seeds: Mapping[int, Rounds],
    baseline: Mapping[int, Rounds],
    measures: Sequence[str],
    targets: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    axes = {axis: mean_curve([_values(rounds, axis) for rounds in seeds.values()]) for axis in X_AXES}
    curves = {measure: mean_curve([_values(rounds, measure) for rounds in seeds.values()]) for measure in measures}
    shared = [seed for seed in seeds if seed in baseline]
    return {
        "seeds": sorted(seeds),
        "labels_of_all": float(axes["labels"][-1]),
        "rounds": {str(seed): len(rounds) - 1 for seed, rounds in sorted(seeds.items())},
        "curves": {measure: _curve(seeds, measure) for measure in measures},
        "area": {
            measure: _told(estimate(list(areas.values())))
            for measure in measures
            if (areas := _areas(seeds, measure, _end(seeds.values())))
        },
        "needed": {
            target: {
                axis: {measure: needed(axes[axis], curves[measure], value) for measure, value in values.items()}
                for axis in X_AXES
            }
            for target, values in targets.items()
        },
        "against_baseline": {
            measure: _against(seeds, baseline, measure) for measure in measures
        } if shared else None,
        "kinds": _counted(seeds, "kind"),
        "parts": _counted(seeds, "part"),
        "published": _published(seeds),
    }  # fmt: skip


def _curve(seeds: Mapping[int, Rounds], measure: str) -> list[dict[str, Any]]:
    """Of each round the mean over the seeds that have it."""
    points = []
    for number in range(max(len(rounds) for rounds in seeds.values())):
        there = [rounds[number] for rounds in seeds.values() if len(rounds) > number]
        points.append(
            {
                "round": number,
                **{axis: sum(one[axis] for one in there) / len(there) for axis in X_AXES},
                "seeds": len(there),
                **_told(estimate([one["figures"][measure] for one in there])),
            }
        )
    return points


def _against(seeds: Mapping[int, Rounds], baseline: Mapping[int, Rounds], measure: str) -> dict[str, Any]:
    """Paired differences to the baseline: of the areas over the labels that both have, and of each round."""
    pairs = [(seeds[seed], baseline[seed]) for seed in seeds if seed in baseline]
    end = _end(rounds for pair in pairs for rounds in pair)
    rounds = min(len(one) for pair in pairs for one in pair)
    by_round = [
        paired(
            {seed: one[number]["figures"][measure] for seed, one in seeds.items() if seed in baseline},
            {seed: one[number]["figures"][measure] for seed, one in baseline.items() if seed in seeds},
        )
        for number in range(rounds)
    ]
    areas = paired(_areas(seeds, measure, end), _areas(baseline, measure, end))
    return {"area": _told(areas), "rounds": [_told(one) for one in by_round]}


def _areas(seeds: Mapping[int, Rounds], measure: str, end: float) -> dict[int, float]:
    return {
        seed: area(_values(rounds, "labels"), _values(rounds, measure), end)
        for seed, rounds in seeds.items()
        if rounds[-1]["labels"] >= end > rounds[0]["labels"]
    }


def _end(campaigns: Any) -> float:
    """Labels up to which all of some campaigns are done."""
    return min(rounds[-1]["labels"] for rounds in campaigns)


def _values(rounds: Rounds, key: str) -> list[float]:
    return [float(one[key] if key in X_AXES else one["figures"][key]) for one in rounds]


def _counted(seeds: Mapping[int, Rounds], key: str) -> list[dict[str, int]]:
    """Of each round, how many choices of all seeds have which value, without the round before the first label."""
    most = max(len(rounds) for rounds in seeds.values())
    return [
        dict(Counter(one[key] for rounds in seeds.values() if len(rounds) > number for one in rounds[number]["chosen"]))
        for number in range(1, most)
    ]


def _published(seeds: Mapping[int, Rounds]) -> float | None:
    trained = [one["published"] for rounds in seeds.values() for one in rounds[1:]]
    return sum(trained) / len(trained) if trained else None


def _goals(strategies: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """How the default strategy does beside the baseline; None while one of them is missing."""
    if DEFAULT not in strategies or BASELINE not in strategies:
        return None
    ours, theirs = strategies[DEFAULT], strategies[BASELINE]
    result: dict[str, Any] = {}
    for target in ours["needed"]:
        for measure, labels in ours["needed"][target]["labels"].items():
            other = theirs["needed"][target]["labels"][measure]
            # Where the baseline does not come so far, it needs more than all that it was given, in every seed.
            least = theirs["labels_of_all"] if other is None else other
            result.setdefault(target, {})[measure] = {
                "ours": labels,
                "baseline": other,
                "ratio": labels / least if labels is not None and least else None,
                "is_bound": other is None,
            }
    against = ours["against_baseline"]
    first = {measure: found["rounds"][1] for measure, found in (against or {}).items() if len(found["rounds"]) > 1}
    return {"labels_needed": result, "first_round": first, "goal_ratio": GOAL}


def _told(found: Estimate | None) -> Any:
    return None if found is None else found._asdict()
