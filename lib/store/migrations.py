"""From the tables of an earlier LiverLoop to those of `lib.store.schema`, in one transaction."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Column, Connection, inspect
from sqlalchemy.schema import CreateColumn

from lib.store.schema import SCHEMA_VERSION, images, leases


def migrate(connection: Connection, schema: int) -> None:
    """Change the tables of a ledger, whose rows stay, until they are those of today.

    Args:
        connection: a transaction, in which the tables that are new have been made.
        schema: which it has now, at most `SCHEMA_VERSION`.
    """
    for version in range(schema, SCHEMA_VERSION):
        _STEPS[version](connection)


def row_of_today(table: str, row: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """A row of an archive as it would be in one of today.

    Args:
        table: its table.
        row: its columns.
        schema: which the ledger had that the archive was made of.
    """
    row = dict(row)
    if schema < 2 and table == "images":
        row = {key: value for key, value in row.items() if key not in _SCORES_OF_1}
    if schema < 2 and table == "leases":
        row.setdefault("part", "")
    return row


_SCORES_OF_1 = ("score", "score_version")


def _from_1(connection: Connection) -> None:
    """Scores have tables of their own. Those so far are dropped: each was one number of another kind."""
    for name in ("pool_by_score", "pool_by_turn"):
        connection.exec_driver_sql(f"DROP INDEX {name}")
    for column in _SCORES_OF_1:
        connection.exec_driver_sql(f"ALTER TABLE images DROP COLUMN {column}")
    for new in (images.c.scored, leases.c.part, leases.c.slices):
        _add(connection, new)
    made = {index["name"] for index in inspect(connection).get_indexes(images.name)}
    for index in sorted(images.indexes, key=lambda one: str(one.name)):
        if index.name not in made:
            index.create(connection)


def _add(connection: Connection, column: Column[Any]) -> None:
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")


_STEPS: Mapping[int, Callable[[Connection], None]] = {1: _from_1}
