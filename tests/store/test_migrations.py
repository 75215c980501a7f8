"""Ledgers of an earlier LiverLoop go on."""

import pytest
from sqlalchemy import Column, Double, Index, MetaData, Table, Text, create_engine, insert, inspect, select, true

from lib.case_scores import CaseScores
from lib.store import images, leases, pool, schema, scores
from lib.store.ledger import Ledger, checked_url
from lib.store.migrations import row_of_today

NEW_TABLES = {"scores", "rankings", "picks"}
NEW_COLUMNS = {"images": {"scored"}, "leases": {"part", "slices"}}


def tables_of_schema_1():
    old = MetaData()
    for table in schema.metadata.sorted_tables:
        if table.name not in NEW_TABLES:
            new = NEW_COLUMNS.get(table.name, set())
            columns = [column._copy() for column in table.columns if column.name not in new]
            Table(table.name, old, *columns)
    old_images = old.tables["images"]
    old_images.append_column(Column("score", Double))
    old_images.append_column(Column("score_version", Text))
    columns = old_images.c
    order = {
        "pool_by_name": (columns.served_at, columns.image_id),
        "pool_by_turn": (
            columns.served_at, columns.shuffle, columns.image_id, columns.score_version, columns.score, columns.open
        ),
        "pool_by_score": (columns.score_version, columns.served_at, columns.score.desc()),
    }  # fmt: skip
    for index in schema.leases.indexes:
        Index(index.name, *(old.tables["leases"].c[column.name] for column in index.columns))
    for name, parts in order.items():
        Index(name, *parts, sqlite_where=columns.open == true(), postgresql_where=columns.open == true())
    return old


@pytest.fixture
def old_url(ledger_url):
    """A ledger as it was made before there were tables of scores, with an image scored and one in hands."""
    old = tables_of_schema_1()
    engine = create_engine(checked_url(ledger_url))
    row = {
        "suffix": ".nii.gz", "size": 1, "modified_ns": 1, "present": True, "labelled": False, "open": True,
        "shuffle": 0.5, "served_at": 0.0, "score": 0.5, "score_version": "v0", "info": {"a": 1}, "added_at": 1.0,
    }  # fmt: skip
    lease = {
        "image_id": "b", "client_id": "anna", "strategy": "random", "reason": "why", "score": 0.5,
        "acquired_at": 1.0, "renewed_at": 1.0, "expires_at": 4e9,
    }  # fmt: skip
    with engine.begin() as connection:
        old.create_all(connection)
        connection.execute(insert(old.tables["facts"]).values(key="schema", value="1"))
        connection.execute(insert(old.tables["images"]), [row | {"image_id": name} for name in "abc"])
        connection.execute(insert(old.tables["leases"]).values(lease))
    engine.dispose()
    return ledger_url


def layout(engine):
    """Columns and indexes of the tables that changed."""
    found = inspect(engine)
    return {
        name: (
            {(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(name)},
            {(index["name"], tuple(index["column_names"])) for index in found.get_indexes(name)},
        )
        for name in (*NEW_COLUMNS, *NEW_TABLES)
    }


def test_a_ledger_of_schema_1_gets_the_tables_of_today(old_url, tmp_path, caplog):
    for _ in range(2):
        Ledger(old_url).close()
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.endswith(
        f"is brought from schema 1 to {schema.SCHEMA_VERSION}; a LiverLoop of before can't use it any more"
    )
    ledger = Ledger(old_url)
    new = create_engine(f"sqlite:///{tmp_path}/new.sqlite") if old_url.startswith("sqlite") else None
    if new is not None:
        schema.metadata.create_all(new)
        assert layout(ledger.engine) == layout(new)
        new.dispose()
    else:
        columns, indexes = layout(ledger.engine)["images"]
        assert {name for name, *_ in columns} == set(schema.images.c.keys())
        made = {index.name for index in schema.images.indexes}
        assert {name for name, _ in indexes} == made
    with ledger.writing() as connection:
        assert ledger.fact(connection, "schema") == str(schema.SCHEMA_VERSION)
        assert images.names(connection) == ["a", "b", "c"]
        assert images.get(connection, "a").info == {"a": 1}
        (lease,) = leases.list_all(connection)
        assert (lease.image_id, lease.part, lease.slices) == ("b", "", ())
        assert scores.waiting(connection, "v1") == ["a", "b", "c"]
        scores.note(connection, "c", "v1", CaseScores(0.5, {}))
        assert [one.image_id for one in pool.candidates(connection, ["highest:entropy"], model_version="v1")] == ["c"]
        assert [one.image_id for one in pool.candidates(connection, ["name"])] == ["a", "c"]
    ledger.close()


def test_what_fails_on_the_way_leaves_the_ledger_as_it_was(old_url, monkeypatch):
    monkeypatch.setattr(schema.leases.c.part, "name", "score")  # which there is already
    with pytest.raises(Exception, match="score"):
        Ledger(old_url)
    monkeypatch.undo()
    engine = create_engine(checked_url(old_url))
    found = inspect(engine)
    assert {"score", "score_version"} <= {column["name"] for column in found.get_columns("images")}
    assert not found.has_table("rankings")
    with engine.connect() as connection:
        assert connection.scalar(select(schema.facts.c.value).where(schema.facts.c.key == "schema")) == "1"
    engine.dispose()
    Ledger(old_url).close()


def test_rows_of_archives():
    image = {"image_id": "a", "score": 0.5, "score_version": "v1"}
    assert row_of_today("images", image, 1) == {"image_id": "a"}
    assert row_of_today("images", image, 2) == image
    assert row_of_today("leases", {"score": 0.5}, 1) == {"score": 0.5, "part": ""}
    assert row_of_today("versions", {"score": 0.5}, 1) == {"score": 0.5}
