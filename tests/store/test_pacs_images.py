"""Series of a real PACS as images: fetched once, as the PACS has them now, within bounds, whatever goes wrong."""

import logging
import multiprocessing
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import select

from lib.activelearning.next_image import next_sample
from lib.case_scores import CaseScores
from lib.dicomweb.client import Pacs
from lib.errors import BadInputError, NotFoundError, StorageError, UnavailableError
from lib.inference.results import content_of
from lib.store import audit, images, inspection, leases, pacs_asking, pacs_listing, report, scores, trainings, versions
from lib.store.archive import export_archive
from lib.store.archive_import import import_archive
from lib.store.layout import FINAL
from lib.store.schema import images as images_table
from lib.volume import Volume
from lib.volume_io import read_image, write_label
from tests.dicomweb.bad_pacs import says
from tests.orthanc import ct_series
from tests.store.pacs_store import BigPacs, pacs_store
from tests.store.small_disk import SmallDisk

SHAPE = (24, 24, 6)


class Counted(Pacs):
    """Writes down each fetch in a file."""

    def __init__(self, settings, log):
        super().__init__(settings)
        self.log = log

    def fetch(self, *arguments):
        with self.log.open("a") as file:
            file.write("fetch\n")
        super().fetch(*arguments)

    @property
    def fetches(self):
        return self.log.read_text().count("fetch") if self.log.exists() else 0


@pytest.fixture
def pacs(orthanc, tmp_path):
    return Counted(orthanc.pacs(retries=1, backoff_s=0.01).settings, tmp_path / "fetches")


@pytest.fixture
def store(pacs, tmp_path, monkeypatch):
    monkeypatch.setattr(pacs_asking, "_FRESH_S", 0)  # each look asks the PACS
    monkeypatch.setattr(pacs_asking, "_DOWN_S", 0.2)
    with pacs_store(tmp_path / "work", pacs, in_use_s=0) as opened:
        yield opened


def uid(series):
    return str(series[0].SeriesInstanceUID)


def image(store, series):
    with store.ledger.reading() as connection:
        return images.find(connection, uid(series))


def files(store):
    """Names in the working folder and in that of the headers, but for locks."""
    found = [*store.layout.studies.iterdir(), *store.layout.series.iterdir()]
    return sorted(path.name for path in found if path.is_file() and path.suffix != ".lock")


def save(store, series, author="anna"):
    grid = store.images.grid(uid(series))
    path = store.layout.studies.parent / "sent.nii.gz"
    array = np.zeros(grid.shape, np.uint8)
    array[2:4, 2:4, 1] = 1
    write_label(path, Volume(array, grid.affine))
    return store.save(uid(series), path, FINAL, {"label_info": [{"name": "liver", "idx": 1}]}, author=author)


def train(store):
    """As a training that has begun."""
    with store.ledger.writing() as connection:
        return trainings.begin(connection)


def test_a_series_becomes_a_volume_once(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    path = store.images.path(uid(series))
    volume = read_image(path)
    assert volume.shape == SHAPE
    by_height = sorted(series, key=lambda slice_: slice_.ImagePositionPatient[2])
    hu = np.stack([one.pixel_array.T.astype(int) - 1024 for one in by_height], axis=-1)
    np.testing.assert_array_equal(volume.array, hu.clip(-1024))
    assert store.images.path(uid(series)) == path
    assert store.images.grid(uid(series)).shape == SHAPE
    assert image(store, series).info["PatientID"] == "P1"
    assert pacs.fetches == 1
    assert files(store) == sorted([f"{uid(series)}.nii.gz", f"{uid(series)}.json.gz"])


def test_the_source_of_a_seg_is_on_the_disk(orthanc, pacs, store):
    series = ct_series(shape=SHAPE, patient="P7")
    orthanc.fill(series)
    study = series[0].StudyInstanceUID
    assert store.images.study_of(uid(series)) == study
    assert store.images.studies_with_images([study, "1.2.3"]) == {study}
    assert not store.images.is_here(uid(series))
    assert pacs.fetches == 0
    source = store.images.source(uid(series))
    assert pacs.fetches == 1
    orthanc.empty()
    assert store.images.is_here(uid(series))
    assert not store.images.is_here("../../etc")
    source = store.images.source(uid(series))
    assert source.series_uid == uid(series)
    assert (source.header.PatientID, str(source.header.PatientName)) == ("P7", "Phantom^P7")
    assert "PixelData" not in source.header
    grid = store.images.grid(uid(series))
    np.testing.assert_allclose(source.grid.affine, grid.affine)
    by_height = sorted(series, key=lambda slice_: slice_.ImagePositionPatient[2])
    assert [one.sop_instance_uid for one in source.slices] == [one.SOPInstanceUID for one in by_height]
    with pytest.raises(NotFoundError, match=r"no longer has the series .*; it was deleted or moved"):
        store.images.path(uid(series))


def test_headers_that_are_damaged_are_said_to_be(orthanc, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    store.images.path(uid(series))
    headers = store.layout.series / f"{uid(series)}.json.gz"
    headers.write_bytes(b"damaged")
    with pytest.raises(BadInputError, match=r"\.json\.gz is damaged; remove it, and the series is fetched again"):
        store.images.source(uid(series))
    headers.unlink()
    assert store.images.source(uid(series)).series_uid == uid(series)


def test_on_either_database(orthanc, pacs, tmp_path, ledger_url):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    with pacs_store(tmp_path / "work", pacs, ledger=ledger_url) as store:
        pacs_listing.walk(store.ledger, pacs)
        lease = next_sample(store, "random", "anna", model_version=None, rng=np.random.default_rng(0))
        assert lease.image_id == uid(series)
        assert save(store, series).number == 1
        assert len(store.datalist()) == 1
        store.images.trim()


def test_a_removed_volume_is_nothing_to_repair(orthanc, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    path = store.images.path(uid(series))
    save(store, series)
    (store.layout.studies / "other.nii.gz").write_bytes(path.read_bytes())
    path.write_bytes(b"changed")
    assert audit.check(store) == []
    path.unlink()
    assert audit.check(store) == []


def test_a_series_that_grew_is_fetched_anew_and_labels_of_before_do_not_count(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series[:4])
    assert read_image(store.images.path(uid(series))).shape == (24, 24, 4)
    save(store, series)
    assert len(store.datalist()) == 1
    orthanc.fill(series[4:])
    assert store.datalist() == []  # found out while it is fetched for the training
    assert pacs.fetches == 2
    assert store.images.grid(uid(series)).shape == SHAPE
    save(store, series)
    ((image_path, label_path),) = [pair.values() for pair in store.datalist()]
    assert read_image(image_path).shape == SHAPE
    assert label_path.endswith(f"labels/final/{uid(series)}.nii.gz")


def test_objects_that_come_while_a_series_is_fetched_are_of_the_next_volume(orthanc, pacs, store, monkeypatch):
    """Or labels on the first one would be said to be of another image, which it is not."""
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    by_height = sorted(series, key=lambda slice_: slice_.ImagePositionPatient[2])
    first = sorted(str(one.SOPInstanceUID) for one in by_height[:4])
    with monkeypatch.context() as earlier:
        earlier.setattr(pacs, "instances", lambda *_: first)
        assert read_image(store.images.path(uid(series))).shape == (24, 24, 4)
    assert read_image(store.images.path(uid(series))).shape == SHAPE
    assert pacs.fetches == 2


def test_objects_that_were_replaced_are_noticed_by_their_list(orthanc, pacs, store, monkeypatch):
    series, other = ct_series(1, shape=SHAPE), ct_series(2, shape=SHAPE)
    orthanc.fill(series)
    path = store.images.path(uid(series))
    before = read_image(path)
    for old, new in zip(series, other, strict=True):
        orthanc.delete(str(old.SOPInstanceUID))
        new.SeriesInstanceUID, new.StudyInstanceUID = old.SeriesInstanceUID, old.StudyInstanceUID
        new.PatientID = old.PatientID
    orthanc.fill(other)
    asked = []
    monkeypatch.setattr(store.images._asking._impatient, "instances", lambda *uids: asked.append(uids))
    store.images.path(uid(series))  # as many as before, and listed a moment ago
    assert asked == []
    monkeypatch.undo()
    monkeypatch.setattr(pacs_asking, "_LISTED_S", 0)
    store.images.path(uid(series))
    assert pacs.fetches == 2
    assert not np.array_equal(read_image(path).array, before.array)


def replace_objects(orthanc, series, seed):
    """As many others in the place of a series' objects."""
    other = ct_series(seed, shape=SHAPE)
    for old, new in zip(series, other, strict=True):
        orthanc.delete(str(old.SOPInstanceUID))
        new.SeriesInstanceUID, new.StudyInstanceUID = old.SeriesInstanceUID, old.StudyInstanceUID
        new.PatientID = old.PatientID
    orthanc.fill(other)


def lose_headers(store, series):
    store.images._cache.headers(uid(series)).unlink()
    store.images.source(uid(series))


def lose_volume(store, series):
    path = store.layout.image(uid(series), ".nii.gz")
    path.write_bytes(path.read_bytes()[:100])
    store.images.note_if_unreadable(uid(series))


@pytest.mark.parametrize("lose", [lose_headers, lose_volume])
def test_labels_of_other_objects_do_not_count_also_where_the_volume_had_to_be_fetched_again(
    orthanc, pacs, store, monkeypatch, lose
):
    monkeypatch.setattr(pacs_asking, "_LISTED_S", 0)
    series = ct_series(1, shape=SHAPE)
    orthanc.fill(series)
    store.images.path(uid(series))
    save(store, series)
    assert len(store.datalist()) == 1
    replace_objects(orthanc, series, 2)
    lose(store, series)
    assert store.datalist() == []
    assert pacs.fetches == 2


def test_what_is_asked_for_is_not_removed_meanwhile(orthanc, store, monkeypatch):
    """The PACS may take its time to say that a series is unchanged, and others fetch theirs."""
    series, other = ct_series(1, shape=SHAPE), ct_series(2, shape=SHAPE)
    orthanc.fill(series, other)
    store.images.path(uid(series))
    store.images.path(uid(other))
    store.images._cache._in_use_s, store.images._cache._most_bytes = 60, 0
    for path in store.layout.series.glob("*.lock"):
        os.utime(path, (time.time() - 600, time.time() - 600))
    answer = store.images._asking.seem_unchanged

    def slow(*arguments):
        store.images.trim()
        return answer(*arguments)

    monkeypatch.setattr(store.images._asking, "seem_unchanged", slow)
    assert store.images.path(uid(series)).exists()
    assert not store.layout.image(uid(other), ".nii.gz").exists()


def test_a_deleted_series_is_not_given(orthanc, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    store.images.path(uid(series))
    save(store, series)
    orthanc.delete(uid(series))
    message = rf"the PACS at 127\.0\.0\.1:\d+ no longer has the series {uid(series)}; it was deleted or moved"
    for _ in range(2):  # when it is noticed, and later
        assert re.fullmatch(message, store.images.ensure_fit(uid(series)))
    assert image(store, series) is None
    assert store.datalist() == []
    with store.ledger.reading() as connection:
        assert len(versions.history(connection, uid(series))) == 1  # what a person made stays
    orthanc.fill(series)
    assert store.images.ensure_fit(uid(series)) is None
    assert len(store.datalist()) == 1


def lose_one(series):
    series.pop(2)


def make_localizer(series):
    for one in series:
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def make_map(series):
    for one in series:
        one.RescaleType = "MGML"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lose_one, "slices are missing|slice is missing"),
        (make_localizer, "no CT slices found among 6 DICOM objects"),
        (make_map, "the pixels are in MGML, not in Hounsfield units"),
    ],
)
def test_what_makes_no_volume_is_out_of_the_pool_with_the_reason(orthanc, pacs, store, spoil, reason):
    series, good = ct_series(1, shape=SHAPE), ct_series(2, shape=SHAPE)
    spoil(series)
    orthanc.fill(series, good)
    pacs_listing.walk(store.ledger, pacs)
    for _ in range(2):
        with pytest.raises(BadInputError, match=reason) as caught:
            store.images.path(uid(series))
        assert str(store.layout.studies) not in str(caught.value)
    assert pacs.fetches == 1
    assert image(store, series).problem == str(caught.value)
    lease = next_sample(store, "first", "anna", model_version=None, rng=np.random.default_rng(0))
    assert lease.image_id == uid(good)
    assert f"{uid(series)}.nii.gz" not in files(store)


def test_what_was_half_is_used_once_it_is_whole(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill([*series[:2], *series[3:]])
    assert "missing" in store.images.ensure_fit(uid(series))
    orthanc.fill(series[2:3])
    pacs_listing.walk(store.ledger, pacs)
    assert store.images.ensure_fit(uid(series)) is None
    assert store.images.grid(uid(series)).shape == SHAPE


def test_the_same_images_as_another_series_are_offered_once(orthanc, pacs, store):
    first, copy = ct_series(1, shape=SHAPE), ct_series(1, shape=SHAPE)
    orthanc.fill(first, copy)
    pacs_listing.walk(store.ledger, pacs)
    store.images.path(uid(first)).unlink()
    time.sleep(1.1)  # not because they were fetched in the same second
    assert "has the same content as image" in (store.images.ensure_fit(uid(copy)) or image(store, first).problem)
    assert store.images.path(uid(copy)).exists()  # whoever asks for it gets it


@pytest.mark.parametrize("unknown", ["1.2.3.4", "../etc/passwd", "no uid", "", "1" * 70])
def test_what_is_not_there(orthanc, store, unknown):
    with pytest.raises(NotFoundError, match="there is no CT series"):
        store.images.path(unknown)


def test_other_modalities_are_no_images(orthanc, store):
    series = ct_series(shape=SHAPE)
    for one in series:
        one.Modality = "MR"
    orthanc.fill(series)
    with pytest.raises(NotFoundError, match="there is no CT series"):
        store.images.path(uid(series))


def test_while_the_pacs_is_down(orthanc, store, caplog):
    fetched, other = ct_series(1, shape=SHAPE), ct_series(2, shape=SHAPE)
    orthanc.fill(fetched, other)
    path = store.images.path(uid(fetched))
    store.images.study_of(uid(other))
    save(store, fetched)
    orthanc.stop()
    try:
        assert store.images.path(uid(fetched)) == path
        assert "is given as it was fetched: the PACS at 127.0.0.1" in caplog.text
        assert len(store.datalist()) == 1
        assert save(store, fetched).number == 2
        for ask in (store.images.path, store.images.ensure_fit, store.images.grid):
            with pytest.raises(UnavailableError, match=r"can't be reached \(connection refused\)"):
                ask(uid(other))
        with pytest.raises(UnavailableError, match="can't be reached"):
            store.images.path("1.2.3")
        with pytest.raises(UnavailableError, match="can't be reached"):
            next_sample(store, "random", "anna", model_version=None, rng=np.random.default_rng(0))
        with store.ledger.reading() as connection:
            assert leases.list_all(connection) == []
    finally:
        orthanc.start()
    time.sleep(0.2)
    assert store.images.ensure_fit(uid(other)) is None


@pytest.mark.parametrize("strategy", ["first", "random", "entropy"])
def test_while_the_pacs_is_down_what_was_fetched_is_handed_out(orthanc, pacs, store, strategy):
    def ask(client):
        return next_sample(store, strategy, client, model_version="v1", rng=np.random.default_rng(0)).image_id

    def places():
        with store.ledger.reading() as connection:
            columns = images_table.c.image_id, images_table.c.served_at
            return dict(connection.execute(select(*columns)).tuples().all())

    every = [ct_series(seed, shape=SHAPE) for seed in range(4)]
    orthanc.fill(*every)
    store.images.walk()
    *away, trimmed, here = sorted(uid(one) for one in every)
    for image_id in (trimmed, here):
        store.images.path(image_id)
    store.layout.image(trimmed, ".nii.gz").unlink()
    with store.ledger.writing() as connection:
        for image_id in (*away, trimmed, here):
            scores.note(connection, image_id, "v1", CaseScores(0.9 if image_id == away[0] else 0.1, {}))
    orthanc.stop()
    try:
        assert ask("anna") == here
        assert ask("anna") == here
        with pytest.raises(UnavailableError, match="can't be reached"):
            ask("ben")
        assert [image_id for image_id, at in places().items() if at] == [here]
    finally:
        orthanc.start()
    time.sleep(0.2)
    store.images._asking._down = None
    assert ask("ben") in {*away, trimmed}
    assert strategy == "random" or ask("ben") == away[0]


def test_a_series_that_the_pacs_fails_to_give_keeps_no_other_from_being_given(tmp_path):
    with BigPacs(3) as big:
        pacs = big.pacs()
        with pacs_store(tmp_path, pacs) as store:
            pacs_listing.walk(store.ledger, pacs)

            def answer(request):
                if "/series/1.2.1.1/instances" in request.path:
                    request.send_error(500)
                else:
                    big._answer(request)

            big.answers = [answer]
            with pytest.raises(UnavailableError, match="fails"):
                store.images.path("1.2.1.1")
            big.asked.clear()
            with pytest.raises(UnavailableError, match="fails"):
                store.images.path("1.2.2.1")
            assert "fetch" in big.asked  # which this PACS never can


def test_nobody_waits_again_for_a_pacs_that_does_not_answer(tmp_path):
    with BigPacs(5) as big:
        pacs = big.pacs()
        with pacs_store(tmp_path, pacs) as store:
            pacs_listing.walk(store.ledger, pacs)
            big.answers = [says("", 500)]
            with pytest.raises(UnavailableError, match="fails"):
                store.images.path("1.2.1.1")
            assert big.requests
            big.requests.clear()
            for number in range(2, 6):
                with pytest.raises(UnavailableError, match="fails"):
                    store.images.path(f"1.2.{number}.1")
            assert not big.requests


def test_threads_fetch_a_series_once(orthanc, pacs, store):
    series, other = ct_series(1, shape=SHAPE), ct_series(2, shape=SHAPE)
    orthanc.fill(series, other)
    with ThreadPoolExecutor(6) as pool:
        paths = set(pool.map(store.images.path, [uid(series), uid(other)] * 3))
    assert len(paths) == 2
    assert pacs.fetches == 2


def test_processes_fetch_a_series_once(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    store.images.study_of(uid(series))

    def fetch():
        with pacs_store(store.layout.studies, pacs) as own:
            assert own.images.path(uid(series)).exists()

    forked = multiprocessing.get_context("fork")
    both = [forked.Process(target=fetch) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert pacs.fetches == 1


def test_a_crash_before_the_last_note_fetches_again(orthanc, pacs, store, monkeypatch):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    with monkeypatch.context() as crash:
        crash.setattr(inspection, "note_found", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.images.path(uid(series))
    assert store.images.path(uid(series)).exists()
    assert pacs.fetches == 2
    assert image(store, series).problem is None


@pytest.mark.parametrize("noted", [False, True])
def test_a_label_saved_after_a_crash_counts_for_the_objects_of_now(orthanc, pacs, store, monkeypatch, noted):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series[:4])
    store.images.path(uid(series))
    save(store, series)
    orthanc.fill(series[4:])
    note = inspection.note_found

    def killed(*arguments):
        if noted:
            note(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as crash:
        crash.setattr(inspection, "note_found", killed)
        with pytest.raises(KeyboardInterrupt):
            store.images.path(uid(series))
    save(store, series)
    ((image_path, _),) = [pair.values() for pair in store.datalist()]
    assert read_image(image_path).shape == SHAPE


def test_a_volume_that_somebody_removed_or_changed_is_fetched_again(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    path = store.images.path(uid(series))
    content = path.read_bytes()
    path.unlink()
    assert store.images.path(uid(series)).read_bytes() == content
    path.write_bytes(b"changed")
    assert store.images.path(uid(series)).read_bytes() == content
    assert pacs.fetches == 3
    with store.ledger.reading() as connection:
        assert len(versions.labelled_pairs(connection, FINAL)) == 0


def test_a_volume_that_the_disk_has_damaged_is_fetched_again(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    path = store.images.path(uid(series))
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:100] + bytes(len(content) - 100))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    store.images.path(uid(series))
    assert pacs.fetches == 1
    assert store.images.note_if_unreadable(uid(series)) is None
    assert store.images.path(uid(series)).read_bytes() == content
    assert store.images.note_if_unreadable("nothing") is None
    assert pacs.fetches == 2


class TestBound:
    @pytest.fixture
    def filled(self, orthanc, store):
        """Four series, of which two fit."""
        every = [ct_series(seed, shape=SHAPE) for seed in range(4)]
        orthanc.fill(*every)
        size = max(store.images.path(uid(one)).stat().st_size for one in every)
        for path in store.layout.studies.glob("*.nii.gz"):
            path.unlink()
        store.images._cache._most_bytes = int(2.5 * size)
        return every

    def there(self, store, every):
        names = files(store)
        return [number for number, one in enumerate(every) if f"{uid(one)}.nii.gz" in names]

    def get(self, store, every, *numbers):
        for number in numbers:
            store.images.path(uid(every[number]))
            time.sleep(0.01)

    def test_the_longest_unused_goes_first(self, store, filled):
        self.get(store, filled, 0, 1, 0, 2)
        assert self.there(store, filled) == [0, 2]
        self.get(store, filled, 1)
        assert self.there(store, filled) == [1, 2]

    def test_what_somebody_has_in_hand_stays(self, store, filled, caplog):
        with store.ledger.writing() as connection:
            for number in (0, 1):
                leases.acquire(
                    connection, uid(filled[number]), f"c{number}", strategy="first", reason="", score=None, seconds=60
                )
        self.get(store, filled, 0, 1, 2)
        assert self.there(store, filled) == [0, 1, 2]
        assert "more than pacs.cache_gb, as all are in use; raise it" in caplog.text
        self.get(store, filled, 3)
        assert self.there(store, filled) == [0, 1, 3]

    def test_labelled_ones_stay_while_a_training_runs(self, store, filled):
        self.get(store, filled, 0, 1)
        save(store, filled[0])
        number = train(store)
        self.get(store, filled, 2, 3)
        assert self.there(store, filled) == [0, 3]
        with store.ledger.writing() as connection:
            trainings.end(connection, number, "done", succeeded=True)
        self.get(store, filled, 1)
        assert self.there(store, filled) == [1, 3]
        assert len(store.datalist()) == 1  # fetched for the next one

    def test_what_a_command_trains_on_is_all_there(self, store, filled):
        """`scripts/train.py` is no training of the ledger; fetching the last may take longer than the first is kept."""
        for one in filled:
            save(store, one)
        for path in store.layout.studies.glob("*.nii.gz"):
            path.unlink()
        pairs = store.datalist()
        assert len(pairs) == 4
        assert [os.path.exists(pair["image"]) for pair in pairs] == [True] * 4

    def test_what_was_given_a_moment_ago_stays(self, store, filled):
        store.images._cache._in_use_s = 60
        self.get(store, filled, 0, 1, 2, 3)
        assert self.there(store, filled) == [0, 1, 2, 3]

    def test_a_fetch_that_a_crash_left_is_removed(self, store, filled):
        left = store.layout.series / ".fetching-1.2.3"
        left.mkdir()
        (left / "part-0").write_text("half")
        mine = store.layout.series / ".fetching-1.2.4"
        mine.mkdir()
        with store.images._cache.locked("1.2.4"):  # of a fetch that goes on
            store.images.trim()
            assert not left.exists()
            assert mine.exists()
        store.images.trim()
        assert not mine.exists()

    def test_half_a_volume_that_a_crash_left_is_removed(self, store, filled):
        left, writing = (store.layout.studies / f".writing-{name}-1.2.3.nii.gz" for name in ("old", "now"))
        for path in (left, writing):
            path.write_bytes(b"half")
        os.utime(left, (0, time.time() - 4000))
        store.images.trim()
        assert not left.exists()
        assert writing.exists()

    def test_the_grid_of_a_removed_volume_is_known(self, store, filled):
        self.get(store, filled, 0, 1, 2)
        assert 0 not in self.there(store, filled)
        assert store.images.grid(uid(filled[0])).shape == SHAPE
        assert save(store, filled[0]).number == 1
        assert store.images.source(uid(filled[0])).grid.shape == SHAPE

    def test_using_a_volume_leaves_the_file_as_it_is(self, store, filled):
        """Or what was segmented ahead would be taken for another image's."""
        self.get(store, filled, 0)
        path = store.layout.studies / f"{uid(filled[0])}.nii.gz"
        before = content_of(path)
        self.get(store, filled, 0)
        assert content_of(path) == before
        assert before is not None


def test_a_full_disk(orthanc, pacs, tmp_path):
    series = ct_series(shape=(64, 64, 40))
    orthanc.fill(series)
    with SmallDisk(tmp_path / "disk", mebibytes=4) as disk, pacs_store(disk.folder / "work", pacs) as store:
        store.images.study_of(uid(series))
        disk.fill(leave=200_000)
        message = f"can't write into {store.layout.studies}: the disk is full; free space or choose another folder"
        with pytest.raises(StorageError, match=re.escape(message)):
            store.images.path(uid(series))
        assert files(store) == []
        assert [path for path in store.layout.series.iterdir() if path.is_dir()] == []
        disk.make_room()
        assert store.images.path(uid(series)).exists()


def test_images_are_left_out_of_a_training_if_they_can_not_be_had(orthanc, pacs, store, caplog):
    every = [ct_series(seed, shape=SHAPE) for seed in range(3)]
    orthanc.fill(*every)
    for one in every:
        save(store, one)
    for path in store.layout.studies.glob("*.nii.gz"):
        path.unlink()
    orthanc.delete(uid(every[1]))
    caplog.set_level(logging.WARNING)
    found = store.datalist()
    expected = sorted(uid(every[number]) for number in (0, 2))
    assert [os.path.basename(pair["image"]) for pair in found] == [f"{one}.nii.gz" for one in expected]
    assert f"the image {uid(every[1])} is left out: the PACS at" in caplog.text
    assert len(store.datalist(limit=1)) == 1


def test_labels_in_the_working_folder_are_taken_in_and_volumes_are_no_new_images(orthanc, pacs, store):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    grid = store.images.grid(uid(series))
    other = store.layout.studies / "not_of_the_pacs.nii.gz"
    other.write_bytes(store.images.path(uid(series)).read_bytes())
    write_label(store.layout.shown(uid(series), FINAL), Volume(np.ones(grid.shape, np.uint8), grid.affine))
    store.rescan()
    with store.ledger.reading() as connection:
        assert images.names(connection) == [uid(series)]
        assert versions.current(connection, uid(series), FINAL).source == "found"


def test_labels_of_an_archive_are_known_in_the_pacs_before_it_was_listed(orthanc, pacs, store, tmp_path):
    series = ct_series(shape=SHAPE)
    orthanc.fill(series)
    save(store, series)
    assert store.segs.outbox.push() == 1
    export_archive(store, tmp_path / "labels.zip")
    with pacs_store(tmp_path / "other", pacs) as other:
        import_archive(other, tmp_path / "labels.zip")
        assert other.segs.outbox.push() == 1
        assert report.status(other)["pacs"]["last_error"] is None
        assert len(list(pacs.find_series("SEG"))) == 1  # it was there and is not sent again
        assert pacs.fetches == 1
