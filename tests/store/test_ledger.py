"""Two databases with one behavior: one writer at a time, nothing committed lost, errors that say what to do."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, text

from lib.errors import BadInputError, LiverLoopError, SettingsError, StorageError, UnavailableError
from lib.store.ledger import Ledger, checked_url
from lib.store.schema import SCHEMA_VERSION, events, facts, images
from tests.store.postgresql import PASSWORD
from tests.store.small_disk import SmallDisk

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "Jane Doe"
COUNT = "counted"


def count(ledger):
    """Read, then write what follows from it: two at once would lose one."""
    with ledger.writing() as connection:
        before = int(ledger.fact(connection, COUNT) or 0)
        ledger.set_fact(connection, COUNT, str(before + 1))


def counted(ledger):
    with ledger.reading() as connection:
        return int(ledger.fact(connection, COUNT) or 0)


def note(connection, kind="noted", detail=None):
    values = {"at": 1.0, "kind": kind, "actor": "test", "detail": detail or {}}
    connection.execute(insert(events).values(values))


def kinds(ledger):
    with ledger.reading() as connection:
        return list(connection.scalars(select(events.c.kind).order_by(events.c.id)))


def started(program, url):
    """Another process with the ledger open as `ledger`."""
    head = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from lib.store.ledger import Ledger
from tests.store.test_ledger import count, note
ledger = Ledger({url!r})
"""
    return subprocess.Popen([sys.executable, "-c", head + program], stdout=subprocess.PIPE, text=True)


def test_what_was_committed_is_there_after_reopening(ledger, ledger_url):
    count(ledger)
    ledger.close()
    again = Ledger(ledger_url)
    assert counted(again) == 1
    again.close()


def test_an_exception_undoes_the_whole_block(ledger):
    count(ledger)

    def fail_after_writing():
        with ledger.writing() as connection:
            ledger.set_fact(connection, COUNT, "99")
            note(connection)
            raise KeyError("unrelated")

    with pytest.raises(KeyError, match="unrelated"):
        fail_after_writing()
    assert counted(ledger) == 1
    assert kinds(ledger) == []
    count(ledger)  # and nothing is locked
    assert counted(ledger) == 2


def test_a_fact_has_its_last_value(ledger):
    with ledger.writing() as connection:
        assert ledger.fact(connection, "color") is None
        ledger.set_fact(connection, "color", "red")
        ledger.set_fact(connection, "color", "blue")
        assert ledger.fact(connection, "color") == "blue"


def test_threads_count_without_losing_one(ledger):
    with ThreadPoolExecutor(12) as pool:
        for outcome in [pool.submit(count, ledger) for _ in range(120)]:
            outcome.result()
    assert counted(ledger) == 120


def test_processes_count_without_losing_one(ledger, ledger_url):
    processes = [started("for _ in range(100): count(ledger)", ledger_url) for _ in range(2)]
    for _ in range(50):
        count(ledger)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert counted(ledger) == 250


def test_many_open_a_new_ledger_at_once(ledger_url):
    start = threading.Barrier(8)

    def open_it():
        start.wait()
        return Ledger(ledger_url, belongs_to="these studies")

    with ThreadPoolExecutor(8) as pool:
        opened = [outcome.result() for outcome in [pool.submit(open_it) for _ in range(8)]]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, opened))
    assert counted(opened[0]) == 8
    for each in opened:
        each.close()


def test_a_new_ledger_waits_for_who_is_making_it(tmp_path):
    """SQLite itself refuses the switch to WAL at once here, whatever its busy_timeout."""
    path = tmp_path / "ledger.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE others (x)")
    leaving = threading.Timer(0.3, other.execute, ["COMMIT"])
    leaving.start()
    ledger = Ledger(f"sqlite:///{path}")
    leaving.join()
    count(ledger)
    with ledger.reading() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
    ledger.close()
    other.close()


def test_readers_do_not_wait_for_a_writer_and_see_what_was_before(ledger):
    count(ledger)
    with ledger.writing() as connection:
        ledger.set_fact(connection, COUNT, "2")
        assert counted(ledger) == 1
    assert counted(ledger) == 2


def test_a_reader_sees_one_state(ledger):
    count(ledger)
    with ledger.reading() as connection:
        assert ledger.fact(connection, COUNT) == "1"
        count(ledger)
        note_too = connection.scalar(select(facts.c.value).where(facts.c.key == COUNT))
        assert note_too == "1"
    assert counted(ledger) == 2


def test_a_writer_waits_for_the_one_before_and_sees_what_it_did(ledger):
    with ledger.writing() as connection:
        second = threading.Thread(target=count, args=(ledger,))
        second.start()
        ledger.set_fact(connection, COUNT, "10")
        second.join(0.2)
        assert second.is_alive()
    second.join()
    assert counted(ledger) == 11


@pytest.mark.timeout(60)
def test_a_program_that_keeps_it_locked_is_told(ledger_url, monkeypatch):
    monkeypatch.setattr("lib.store.ledger._WAIT_MS", 30)
    ledger, other = Ledger(ledger_url), Ledger(ledger_url)
    with other.writing():
        with pytest.raises(UnavailableError, match="another program keeps it locked; end that one or try again"):
            count(ledger)
        assert counted(ledger) == 0
    count(ledger)
    assert counted(ledger) == 1
    ledger.close()
    other.close()


def test_a_commit_survives_the_end_of_the_process(ledger, ledger_url):
    process = started(
        """
with ledger.writing() as connection:
    note(connection, "committed")
print("committed", flush=True)
with ledger.writing() as connection:
    note(connection, "not committed")
    os.kill(os.getpid(), signal.SIGKILL)
""",
        ledger_url,
    )
    output, _ = process.communicate()
    assert (output, process.returncode) == ("committed\n", -signal.SIGKILL)
    with ledger.writing() as connection:  # the lock of the dead is gone
        note(connection, "later")
    assert kinds(ledger) == ["committed", "later"]


def test_a_ledger_belongs_to_one_folder(ledger_url):
    Ledger(ledger_url, belongs_to="mine").close()
    Ledger(ledger_url, belongs_to="mine").close()
    Ledger(ledger_url).close()
    with pytest.raises(SettingsError, match=r"belongs to other studies \(mine\), not to these \(yours\); give each"):
        Ledger(ledger_url, belongs_to="yours")
    Ledger(ledger_url, belongs_to="mine").close()


def test_a_ledger_without_an_owner_takes_the_first(ledger_url):
    Ledger(ledger_url).close()
    Ledger(ledger_url, belongs_to="mine").close()
    with pytest.raises(SettingsError, match="other studies"):
        Ledger(ledger_url, belongs_to="yours")


def test_a_newer_ledger_is_refused(ledger, ledger_url):
    with ledger.writing() as connection:
        ledger.set_fact(connection, "schema", str(SCHEMA_VERSION + 1))
    with pytest.raises(SettingsError, match=rf"newer LiverLoop \(schema {SCHEMA_VERSION + 1}\); update this one"):
        Ledger(ledger_url)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_json_is_refused(ledger, number):
    with (
        pytest.raises(BadInputError, match="a value can't be stored: Out of range") as refused,
        ledger.writing() as open_,
    ):
        note(open_, detail={SECRET: number})
    assert SECRET not in str(refused.value)
    assert kinds(ledger) == []


@pytest.mark.parametrize("word", ["Leber \N{GRINNING FACE}", "'; DROP TABLE events; --", "100 %s", "\\", ""])
def test_any_text_comes_back_as_it_was(ledger, word):
    with ledger.writing() as connection:
        note(connection, word, {word: [word, 1.5, None, True]})
    with ledger.reading() as connection:
        row = connection.execute(select(events.c.kind, events.c.detail)).one()
    assert tuple(row) == (word, {word: [word, 1.5, None, True]})


@pytest.mark.parametrize("odd", ["\x00", "\ud800"], ids=["a zero", "half a character"])
def test_text_is_kept_whole_or_refused(ledger, odd):
    word = f"{SECRET} {odd}"
    try:
        with ledger.writing() as connection:
            note(connection, word)
    except BadInputError as error:
        told = str(error)
        kept = []
    else:
        told, kept = "a value can't be stored", [word]
    assert "a value can't be stored" in told
    assert SECRET not in told
    assert kinds(ledger) == kept


def test_values_are_not_in_messages(ledger):
    with ledger.writing() as connection:
        ledger.set_fact(connection, SECRET, SECRET)
    with pytest.raises(LiverLoopError) as refused, ledger.writing() as connection:
        connection.execute(insert(facts).values(key=SECRET, value="different"))
    assert SECRET not in str(refused.value)
    assert "INSERT" not in str(refused.value)
    assert ledger.name in str(refused.value)


def test_names_are_ordered_by_code_point(ledger):
    names = ["a", "B", "_", "é", "z", "Z", "10", "9", "a b", "a_b", "ab"]
    row = {"suffix": ".nii", "size": 1, "modified_ns": 1, "shuffle": 0.5, "info": {}, "added_at": 1.0}
    with ledger.writing() as connection:
        connection.execute(insert(images), [row | {"image_id": name} for name in names])
        found = list(connection.scalars(select(images.c.image_id).order_by(images.c.image_id)))
        after = set(connection.scalars(select(images.c.image_id).where(images.c.image_id > "_")))
    assert found == sorted(names)
    assert after == {name for name in names if name > "_"}


# ---- PostgreSQL alone


def test_an_unreachable_server_is_told(postgresql):
    with pytest.raises(
        UnavailableError, match=r"can't reach or use the ledger 127.0.0.1/anything: .*refused"
    ) as refused:
        Ledger("postgresql://Jane@127.0.0.1:1/anything")
    assert "Jane" not in str(refused.value)
    with pytest.raises(UnavailableError, match='"nothing" does not exist'):
        Ledger(postgresql.url("nothing"))


def test_a_server_that_ends_and_comes_back(postgresql):
    url = postgresql.new_database()
    ledger = Ledger(url)
    count(ledger)
    try:
        postgresql.stop()
        for use in (count, counted):
            with pytest.raises(UnavailableError, match="can't reach or use the ledger"):
                use(ledger)
    finally:
        postgresql.start()
    count(ledger)
    assert counted(ledger) == 2
    ledger.close()
    postgresql.drop_database(url)


def test_a_server_that_ends_within_a_transaction(postgresql):
    url = postgresql.new_database()
    ledger = Ledger(url)
    count(ledger)

    def stop_within():
        with ledger.writing() as connection:
            ledger.set_fact(connection, COUNT, "2")
            postgresql.stop()
            ledger.set_fact(connection, COUNT, "3")

    try:
        with pytest.raises(UnavailableError, match="can't reach or use the ledger"):
            stop_within()
    finally:
        postgresql.start()
    assert counted(ledger) == 1
    ledger.close()
    postgresql.drop_database(url)


def test_the_password_comes_from_the_environment(postgresql, monkeypatch):
    url = postgresql.new_database()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    ledger = Ledger(postgresql.guarded(url))
    count(ledger)
    ledger.close()
    monkeypatch.setenv("PGPASSWORD", SECRET)
    with pytest.raises(UnavailableError, match="password authentication failed") as refused:
        Ledger(postgresql.guarded(url))
    assert SECRET not in str(refused.value)
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    with pytest.raises(UnavailableError, match="no password supplied"):
        Ledger(postgresql.guarded(url))
    postgresql.drop_database(url)


# ---- SQLite alone


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def disk(tmp_path):
    with SmallDisk(tmp_path / "disk", 4) as mounted:
        yield mounted


def url_of(path):
    return f"sqlite:///{path}"


def test_a_file_that_is_no_database(file):
    file.write_text("Dear colleagues, " * 100)
    before = file.read_bytes()
    with pytest.raises(StorageError, match=rf"^can't use the ledger {file}: it is not a ledger; move it away or name"):
        Ledger(url_of(file))
    assert file.read_bytes() == before


def test_a_damaged_database_is_told(file):
    ledger = Ledger(url_of(file))
    with ledger.writing() as connection:
        for number in range(2000):
            note(connection, f"kind {number}")
    ledger.close()
    content = bytearray(file.read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)
    file.write_bytes(content)
    with pytest.raises(StorageError, match=r"it is damaged; move it away and run scripts/ledger.py import"):
        kinds(Ledger(url_of(file)))


def test_a_truncated_database_is_told(file):
    ledger = Ledger(url_of(file))
    with ledger.writing() as connection:
        for number in range(2000):
            note(connection, f"kind {number}")
    ledger.close()
    os.truncate(file, 16384)
    with pytest.raises(StorageError, match="it is damaged; move it away and run"):
        kinds(Ledger(url_of(file)))


def test_a_folder_in_its_place(file):
    file.mkdir()
    with pytest.raises(UnavailableError, match=rf"can't use the ledger {file}: it can't be opened; check the folder"):
        Ledger(url_of(file))


def test_a_file_in_place_of_its_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"can't make the folder of the ledger .*taken/l.sqlite: "):
        Ledger(url_of(tmp_path / "taken" / "l.sqlite"))


def test_its_folder_is_made(tmp_path):
    ledger = Ledger(url_of(tmp_path / "a" / "b" / "l.sqlite"))
    count(ledger)
    ledger.close()
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["l.sqlite"]


def fill_up(ledger):
    """Write until the disk refuses."""
    while True:
        with ledger.writing() as connection:
            note(connection, "big", {"text": "x" * 50_000})
        count(ledger)


def test_a_full_disk(disk):
    ledger = Ledger(url_of(disk.folder / "l.sqlite"))
    count(ledger)
    disk.fill(leave=300_000)
    with pytest.raises(StorageError, match=r"the disk is full; free space, nothing was changed") as refused:
        fill_up(ledger)
    assert not isinstance(refused.value, UnavailableError)
    written = counted(ledger)
    assert written == len(kinds(ledger)) + 1
    disk.fill()
    assert counted(ledger) == written  # readers go on
    with pytest.raises(StorageError, match="full"):
        fill_up(ledger)
    disk.make_room()
    count(ledger)
    assert counted(ledger) >= written + 1
    with ledger.reading() as connection:
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    ledger.close()


def test_a_ledger_on_a_full_disk_can_be_opened_and_read(disk):
    ledger = Ledger(url_of(disk.folder / "l.sqlite"))
    count(ledger)
    ledger.close()
    disk.fill()
    with pytest.raises(StorageError, match="the disk is full; free space"):
        count(Ledger(url_of(disk.folder / "l.sqlite")))
    disk.make_room()
    again = Ledger(url_of(disk.folder / "l.sqlite"))
    assert counted(again) == 1
    again.close()


def test_a_read_only_disk(disk):
    path = disk.folder / "l.sqlite"
    Ledger(url_of(path)).close()
    disk.protect()
    with pytest.raises(UnavailableError, match=r"read-only|can't be opened; check the folder's permissions"):
        count(Ledger(url_of(path)))
    with pytest.raises(UnavailableError, match=r"read-only|Read-only"):
        Ledger(url_of(disk.folder / "new" / "l.sqlite"))
    disk.unprotect()
    ledger = Ledger(url_of(path))
    count(ledger)
    assert counted(ledger) == 1
    ledger.close()


# ---- URLs


def test_urls_name_their_driver():
    assert str(checked_url("postgresql://user@host/db")) == "postgresql+psycopg://user@host/db"
    assert str(checked_url("postgres://user@host/db")) == "postgresql+psycopg://user@host/db"
    assert str(checked_url("sqlite:////a/b")) == "sqlite+pysqlite:////a/b"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "is not a database's URL; use postgresql://user@host/database"),
        ("/srv/ledger.sqlite", "is not a database's URL"),
        ("postgresql://user@host:port/db", "is not a database's URL"),
        ("oracle+unheard://host/db", "is of the kind 'oracle'; use sqlite or postgresql"),
        ("sqlite://", "names no file; use sqlite:////path/to/ledger.sqlite"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://user@host", "names no database"),
        ("mysql://user@host/db", "is of the kind 'mysql'; use sqlite or postgresql"),
    ],
)
def test_other_urls_are_refused(url, reason):
    with pytest.raises(SettingsError) as refused:
        checked_url(url)
    assert reason in str(refused.value)


_SHAPES = (
    "postgresql://user:{}@host/db",
    "postgresql://:{}@host/db",
    "postgresql://user@host/db?password={}",
    "postgresql://user@host/db?sslpassword={}",
    "mysql://user:{}@host/db",
    "sqlite://user:{}@host/db",
    "oracle+unheard://user:{}@host/db",
    "postgresql:/user:{}@host/db",
    "user:{}@host/db",
    "//user:{}@host:5432/db",
    "postgresql://user:{}@host:port/db",
)


@given(shape=st.sampled_from(_SHAPES), password=st.text("aB3:/@?#[]%&= ", min_size=0, max_size=8))
def test_a_password_is_refused_and_never_shown(shape, password):
    password = f"s3{password}cret"
    with pytest.raises(SettingsError) as refused:
        checked_url(shape.format(password))
    error = refused.value
    while error is not None:
        assert password not in str(error)
        assert "cret" not in str(error)
        error = error.__cause__


def test_a_name_shows_no_user(tmp_path):
    assert Ledger(url_of(tmp_path / "l.sqlite")).name == f"{tmp_path}/l.sqlite"
