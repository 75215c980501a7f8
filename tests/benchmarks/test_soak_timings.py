from concurrent.futures import ThreadPoolExecutor

from lib.benchmarks.soak_timings import Asked, End, Timings, by_kind


def asked(kind, seconds, end=End.DONE, at=1.0):
    return Asked(kind, at, seconds, end)


def test_percentiles_are_of_those_done():
    rows = by_kind(
        [asked("infer", number / 100) for number in range(1, 101)]
        + [asked("infer", 50, End.ERROR), asked("infer", 60, End.DROPPED), asked("infer", 70, End.LATER)]
        + [asked("next sample", 1, End.LATE)]
    )
    assert rows["infer"] == {
        "done": 100, "later": 1, "late": 0, "dropped": 1, "error": 1, "p50_s": 0.5, "p95_s": 0.95, "max_s": 1.0,
    }  # fmt: skip
    assert rows["next sample"]["late"] == 1
    assert rows["next sample"]["p50_s"] is rows["next sample"]["max_s"] is None
    assert list(rows) == ["infer", "next sample"]
    assert by_kind([]) == {}


def test_errors_are_told_in_words_but_not_without_end():
    timings = Timings()
    timings.note(asked("infer", 1), "not told")
    for number in range(30):
        timings.note(asked("infer", 1, End.ERROR, at=number), f"500 {number}")
    assert timings.errors[0] == "infer at 0.0 s: 500 0"
    assert len(timings.errors) == 20
    assert len(timings.all()) == 31


def test_none_is_lost_between_threads():
    timings = Timings()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: timings.note(asked("infer", number, End.ERROR)), range(2000)))
    assert by_kind(timings.all())["infer"]["error"] == 2000
