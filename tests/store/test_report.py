from lib.store import report
from lib.store.archive import Exported
from lib.store.archive_import import Imported
from lib.store.scan import Changes


def test_columns_are_aligned_and_numbers_to_the_right():
    rows = [("a", 1, "0.5"), ("long name", 12, None), ("two\nlines", 3, "10.25")]
    assert report.table(["image", "n", "ml"], rows, "nothing").splitlines() == [
        "image       n     ml",
        "a           1    0.5",
        "long name  12",
        "two lines   3  10.25",
    ]
    assert report.table(["image"], [], "no image") == "no image"


def test_only_what_is_not_zero_is_said():
    assert report.changes_text(Changes()) == "nothing has changed"
    changes = Changes(images_added=2, labels_found=[("a", "final")])
    assert report.changes_text(changes) == "2 images that are new\n1 labels that were looked at"
    assert report.imported_text(Imported()) == "everything in the archive is here already"
    assert report.imported_text(Imported(versions=3, files=4)) == "added: 3 versions, 4 files"


def test_what_is_missing_in_an_archive_is_said(tmp_path):
    exported = Exported({"versions": 2}, 1, 2_500_000, ("versions/a/final/x.nii.gz",))
    assert report.exported_text(exported, tmp_path / "a.zip").splitlines() == [
        f"{tmp_path}/a.zip: 2 versions, 1 files, 2.5 MB",
        "lost or damaged, not in the archive: versions/a/final/x.nii.gz",
    ]
