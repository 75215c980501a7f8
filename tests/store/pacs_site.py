"""A store beside an Orthanc whose CT series are its images, for tests of what goes to a PACS and comes from it."""

import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from lib.dicom import read_headers, read_series
from lib.dicom_seg.source import source_of
from lib.errors import NotFoundError
from lib.labels import NOT_LOOKED_AT, NOT_LOOKED_AT_NAME
from lib.settings import Settings
from lib.store import segs
from lib.store.seg_inbox import SegInbox
from lib.store.seg_outbox import SegOutbox
from lib.store.store import Store
from lib.volume import Volume
from lib.volume_io import read_label, write_image, write_label
from tests.dicom_seg.series import foreign_seg, segment
from tests.orthanc import ct_series

NAMES = [{"name": "liver", "idx": 1}, {"name": "tumor", "idx": 2}]
SHAPE = (24, 20, 5)


class FetchedSeries:
    """Images of a PACS in a studies folder, fetched when they are needed; see `lib.store.image_series`."""

    def __init__(self, pacs, studies):
        self.pacs, self.studies = pacs, studies
        self.studies_of, self.headers, self.fetches = {}, {}, 0

    def study_of(self, image_id):
        if image_id not in self.studies_of:
            self.studies_of |= {one.series_uid: one.study_uid for one in self.pacs.find_series("CT")}
        if image_id not in self.studies_of:
            raise NotFoundError(f"no series {image_id[:80]!r}")
        return self.studies_of[image_id]

    def studies_with_images(self, study_uids):
        return set(self.studies_of.values()) & set(study_uids)

    def is_here(self, image_id):
        return image_id in self.headers

    def source(self, image_id):
        if image_id not in self.headers:
            raise NotFoundError(f"the series {image_id} was never fetched")
        return source_of(self.headers[image_id])

    def path(self, image_id):
        self.fetches += 1
        path = self.studies / f"{image_id}.nii.gz"
        with tempfile.TemporaryDirectory() as folder:
            self.pacs.fetch(self.study_of(image_id), image_id, Path(folder))
            write_image(path, Volume(*read_series(folder)))
            self.headers[image_id] = list(read_headers(folder))
        return path


class Site:
    """A PACS with CT series, all of them images of a store."""

    def __init__(self, orthanc, folder, count=1, *, same_study=False, settings=None):
        self.orthanc, self.folder, self.pacs = orthanc, folder, orthanc.pacs(retries=0)
        self.series = [ct_series(seed, shape=SHAPE) for seed in range(1, count + 1)]
        if same_study:
            for dataset in (one for series in self.series for one in series):
                dataset.StudyInstanceUID = self.series[0][0].StudyInstanceUID
        self.ids = [series[0].SeriesInstanceUID for series in self.series]
        self.id = self.ids[0]
        orthanc.fill(*self.series)
        (folder / "studies").mkdir(parents=True)
        self.images = FetchedSeries(self.pacs, folder / "studies")
        for image_id in self.ids:
            self.images.path(image_id)
        self.settings = settings or Settings()
        self.store = self.open()
        self.versions = []  # that the inbox told of
        self.outbox, self.inbox = self.new_outbox(), self.new_inbox()

    def open(self):
        return Store(self.folder / "studies", self.settings)

    def new_outbox(self, **options):
        store = self.store
        return SegOutbox(store.ledger, store.layout, self.settings, self.pacs, self.images, **options)

    def new_inbox(self, store=None, **options):
        return SegInbox(
            store or self.store, self.pacs, self.images, self.versions.append, **{"every_s": 0, "quiet_s": 0, **options}
        )

    def label(self, seed=0, values=(0, 1, 2), image_id=None):
        """A label in which every voxel is drawn by chance, on the grid of an image."""
        grid = self.images.source(image_id or self.id).grid
        array = np.random.default_rng(seed).choice(np.array(values, np.uint8), grid.shape)
        return Volume(np.asfortranarray(array), grid.affine)

    def save(self, label, image_id=None, author="ann", tag="final", **options):
        path = self.folder / "sent.nii.gz"
        write_label(path, label)
        partly = [{"name": NOT_LOOKED_AT_NAME, "idx": NOT_LOOKED_AT}] if (label.array == NOT_LOOKED_AT).any() else []
        info = {"label_info": [*NAMES, *partly]}
        return self.store.save(image_id or self.id, path, tag, info, author=author, **options)

    def history(self, image_id=None, tag=None):
        """Versions, the oldest first."""
        return self.store.labels.history(image_id or self.id, tag)[::-1]

    def voxels(self, version):
        return read_label(self.store.labels.path(version)).array

    def in_pacs(self, image_id=None):
        """The SEGs of an image's study, by the time of their content."""
        study_uid, found = self.images.study_of(image_id or self.id), []
        for one in self.pacs.find_series("SEG", study_uid=study_uid):
            with tempfile.TemporaryDirectory() as folder:
                self.pacs.fetch(study_uid, one.series_uid, Path(folder))
                found += [pydicom.dcmread(path) for path in Path(folder).iterdir()]
        return sorted(found, key=lambda seg: (seg.ContentDate, seg.ContentTime, seg.get("SeriesDescription", "")))

    def put(self, seg, image_id=None):
        """Store a SEG of another program, with what ties it to the patient and study of an image."""
        header = self.images.source(image_id or self.id).header
        seg.PatientID, seg.PatientName = header.PatientID, header.PatientName
        seg.StudyInstanceUID = header.StudyInstanceUID
        seg.SeriesInstanceUID = seg.get("SeriesInstanceUID") or generate_uid()
        seg.Modality = "SEG"
        seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        self.pacs.store(seg)
        return seg

    def rows(self, *found):
        with self.store.ledger.reading() as connection:
            return segs.known(connection, [seg.SOPInstanceUID for seg in found])

    def row(self, seg):
        return self.rows(seg)[seg.SOPInstanceUID]

    def status(self):
        with self.store.ledger.reading() as connection:
            return segs.status(self.store.ledger, connection)


def two_classes(source, label, *, made="120000", kind="BINARY", by="MANUAL", **attributes):
    """A SEG of another program: the tumor is segment 1, the liver segment 5."""
    segments = [by_program(segment(1, "a", "tumor"), by), by_program(segment(5, "b", "liver"), by)]
    if kind == "LABELMAP":
        masks = {0: np.array([0, 5, 1], np.uint8)[label.array]}
    else:
        masks = {1: label.array == 2, 5: label.array == 1}
        masks = {number: mask * np.uint8(200 if kind == "FRACTIONAL" else 1) for number, mask in masks.items()}
    return foreign_seg(source, segments, masks, kind=kind, **content(made), **attributes)


def one_class(source, mask, item, *, made="120000", **attributes):
    """A SEG of another program with one segment."""
    return foreign_seg(source, [item], {item.SegmentNumber: mask.astype(np.uint8)}, **content(made), **attributes)


def by_program(item: Dataset, kind: str) -> Dataset:
    item.SegmentAlgorithmType = kind
    return item


def content(time):
    return {"ContentDate": "20240601", "ContentTime": time}


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
