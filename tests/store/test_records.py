from sqlalchemy import insert

from lib.store import leases, schema
from lib.store.records import ids_after, of_images, pages

VERSION = {
    "size": 1, "sha256": "0" * 64, "author": "ann", "source": "client", "saved_at": 1.0, "info": {},
}  # fmt: skip


def add_version(connection, image_id, tag, number):
    file = f"{image_id}/{tag}/{number}.nii.gz"
    values = {**VERSION, "image_id": image_id, "tag": tag, "number": number, "file": file}
    return connection.execute(insert(schema.versions).values(values)).inserted_primary_key[0]


def fill(connection):
    for image_id in ("B", "a", "a.1", "ä"):
        values = {"suffix": ".nii", "size": 1, "modified_ns": 1, "shuffle": 0.5, "info": {}, "added_at": 1.0}
        connection.execute(insert(schema.images).values(image_id=image_id, **values))
    for number in (2, 1):
        for tag in ("o", "Final"):
            key = add_version(connection, "only versions", tag, number)
    connection.execute(
        insert(schema.labels).values(image_id="only versions", tag="o", suffix=".nii.gz", version_id=key)
    )
    leases.acquire(connection, "only a lease", "ann", strategy="first", reason="", score=None, seconds=1.0)


ALL = ["B", "a", "a.1", "only a lease", "only versions", "ä"]  # by code point on every database


def test_every_image_that_any_table_holds_comes_once(ledger):
    with ledger.writing() as connection:
        fill(connection)
        for size in (1, 2, 500):
            found = [[records.image_id for records in page] for page in pages(connection, size)]
            assert [image_id for page in found for image_id in page] == ALL
            assert all(len(page) <= size for page in found)
        assert ids_after(connection, "a", 2) == ["a.1", "only a lease"]


def test_the_rows_of_an_image(ledger):
    with ledger.writing() as connection:
        fill(connection)
        leased, nobody, labelled, image = of_images(connection, ["only a lease", "nobody", "only versions", "a"])
    assert leased.lease["client_id"] == "ann"
    assert leased.is_known
    assert not nobody.is_known
    assert [(version.tag, version.number) for version in labelled.versions] == [
        ("Final", 1), ("Final", 2), ("o", 1), ("o", 2),
    ]  # fmt: skip
    assert [version.number for version in labelled.of_tag("o")] == [1, 2]
    assert labelled.shown("o").suffix == ".nii.gz"
    assert labelled.shown("Final") is None
    assert image.image["size"] == 1
