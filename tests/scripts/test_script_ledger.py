import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from lib.store import audit, images, leases
from tests.store.filled import add_image, age, fill, label_file, open_store

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ledger.py"


@pytest.fixture
def studies(tmp_path):
    for seed, name in enumerate("aox"):
        add_image(tmp_path / "studies", name, seed)
    store = open_store(tmp_path / "studies")
    fill(store, tmp_path / "scratch", ["a"], ["o"])
    store.close()
    return tmp_path / "studies"


@pytest.fixture
def ledger(studies, monkeypatch, capsys):
    """The script in this process, which spares its start-up time."""
    monkeypatch.setattr(audit, "_PAUSE_S", 0.0)

    def call(*arguments, folder=studies):
        given = [str(SCRIPT), *map(str, arguments), *(["--studies", str(folder)] if folder else [])]
        monkeypatch.setattr(sys, "argv", given)
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        output = capsys.readouterr()
        return exited.value.code, output.out, output.err

    return call


def answer(result):
    code, output, _ = result
    assert code == 0, result
    return json.loads(output)


def error_of(result):
    code, output, errors = result
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    return errors.rpartition("\r")[2].strip()


def test_status(ledger, studies):
    code, output, _ = ledger("status")
    assert code == 0
    assert (
        "images          3: 1 labelled, 2 to be labelled, 0 excluded, 0 unfit; 0 more are known and not in the folder\n"
        in output
    )
    assert "labels          final 1, original 1\n" in output
    figures = answer(ledger("status", "--json"))
    assert (figures["versions"], figures["leases"], figures["studies"]) == (3, 1, str(studies))


def test_options_before_the_command(ledger, studies):
    assert answer(ledger("--json", "--studies", studies, "--conf", "model_name", "m", "excluded", folder=None)) == {}
    message = (
        "error: --studies DIR is required, the folder with the images or the address of a PACS; see ledger.py --help"
    )
    assert error_of(ledger("status", folder=None)) == message


def test_history_diff_and_restore(ledger):
    code, output, _ = ledger("history", "a", "--tag", "final")
    lines = output.splitlines()
    assert (code, len(lines)) == (0, 3)
    figures = ["ml", "Dice", "model", "Dice", "before"]
    headers = ["tag", "version", "saved", "by", "source", "model", "liver", *figures, "tumor", *figures]
    assert lines[0].split() == headers
    assert re.match(
        r"final +2  shown  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  bob  client +(unknown)? +0\.1 +0\.\d{3}", lines[1]
    )
    assert lines[2].split()[:2] == ["final", "1"]
    assert [version["tag"] for version in answer(ledger("history", "a", "--json"))] == ["final", "final", "original"]

    code, output, _ = ledger("diff", "a", 1, 2)
    assert output.splitlines()[0].split() == ["class", "Dice", "changed", "ml", "ml", "in", "1", "ml", "in", "2"]
    assert re.match(r"liver  0\.\d{3} +\d\.\d +\d\.\d +\d\.\d$", output.splitlines()[1])
    classes = answer(ledger("diff", "a", 1, 1, "--json"))["classes"]
    assert classes["tumor"]["dice"] == 1.0

    code, output, _ = ledger("restore", "a", 1, "--by", "eve")
    assert (code, output) == (0, "version 3 of the label final of a repeats version 1\n")
    newest = answer(ledger("history", "a", "--json"))[0]
    assert (newest["author"], newest["source"], newest["restored_from"], newest["current"]) == (
        "eve",
        "restored",
        1,
        True,
    )


def test_leases(ledger):
    code, output, _ = ledger("leases")
    assert code == 0
    assert output.splitlines()[1].split()[:3] == ["o", "ann", "first"]
    assert answer(ledger("leases", "--json"))[0]["client_id"] == "ann"
    assert ledger("release", "o", "--by", "eve")[1] == "took o back from ann\n"
    assert ledger("leases")[1] == "nobody has an image\n"
    assert error_of(ledger("release", "o")) == "error: nobody has the image 'o'"


def test_exclusions(ledger, studies):
    assert ledger("excluded")[1] == "no image is excluded\n"
    assert ledger("unfit")[1] == "every image can be used\n"
    assert (
        ledger("exclude", "o", "--reason", "metal  artifacts", "--by", "eve")[1] == "o is left out: metal  artifacts\n"
    )
    assert ledger("excluded")[1].splitlines() == ["image  reason", "o      metal artifacts"]
    assert answer(ledger("excluded", "--json")) == {"o": "metal  artifacts"}
    store = open_store(studies)
    with store.ledger.reading() as connection:
        assert leases.list_all(connection) == []
        assert images.names(connection, open_only=True) == ["x"]
    store.close()
    assert ledger("include", "o", "--reason", "usable")[1] == "o is no longer left out\n"
    assert ledger("excluded")[1] == "no image is excluded\n"
    happened = [(event["kind"], event["actor"]) for event in answer(ledger("events", "--image", "o", "--json"))]
    assert ("image excluded", "eve") in happened


def test_refused_and_events(ledger):
    code, output, _ = ledger("refused")
    assert code == 0
    assert "not a readable .nii.gz file" in output
    assert "labels/refused/o/" in output
    assert ledger("refused", "--image", "a")[1] == "nothing was refused\n"
    code, output, _ = ledger("events", "--limit", 1)
    assert len(output.splitlines()) == 2
    assert "label refused" in output


def test_a_running_server_and_a_rescan(ledger, studies):
    server = open_store(studies)  # another connection, as a server's
    label_file(server.layout.shown("x", "final"), 5)
    code, output, errors = ledger("rescan")
    assert (code, output) == (0, "1 labels that were looked at\n")
    assert "looking" in errors
    assert [version.source for version in server.labels.history("x")] == ["found"]
    assert ledger("rescan")[1] == "nothing has changed\n"
    server.close()


def test_export_and_import(ledger, tmp_path):
    code, output, errors = ledger("export", tmp_path / "a.zip")
    assert code == 0
    assert re.fullmatch(r".*a\.zip: 3 versions, \d+ files, \d\.\d MB\n", output)
    assert "exporting" in errors
    code, output, _ = ledger("import", tmp_path / "a.zip", folder=tmp_path / "other")
    assert (code, output.split(", ")[:2]) == (0, ["added: 3 images", "3 versions"])
    again = ledger("import", tmp_path / "a.zip", folder=tmp_path / "other")
    assert again[:2] == (0, "everything in the archive is here already\n")
    assert [row["number"] for row in answer(ledger("history", "a", "--json", folder=tmp_path / "other"))] == [2, 1, 1]
    assert "there is already" in error_of(ledger("export", tmp_path / "a.zip"))


def test_check_and_repair(ledger, studies):
    assert ledger("check")[:2] == (0, "files and ledger agree\n")
    assert ledger("repair")[:2] == (0, "files and ledger agree\n")
    (studies / "labels" / "final" / "a.nii.gz").unlink()
    oldest = sorted((studies / "ledger" / "versions" / "a" / "final").glob("*Z-????????????.nii.gz"))[0]
    content = oldest.read_bytes()
    oldest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, output, _ = ledger("check", "--quick")
    assert code == 1
    assert output.splitlines() == [
        "labels/final/a.nii.gz: label missing: the label shows version 2 and is missing in labels/final/",
        "    repair would: show version 2",
        "1 disagreement; scripts/ledger.py repair can do something about 1",
    ]
    code, output, _ = ledger("check", "--json")
    assert code == 1
    assert [finding["kind"] for finding in json.loads(output)] == ["version damaged", "label missing"]
    code, output, errors = ledger("repair")
    assert code == 1
    assert "labels/final/a.nii.gz: shown again\n" in output
    assert "remains for a person" in output
    assert "repairing" in errors
    oldest.write_bytes(content)
    age(oldest)
    assert ledger("check")[0] == 0


def test_a_mistyped_folder_gets_no_ledger(ledger, tmp_path):
    assert (
        error_of(ledger("status", folder=tmp_path / "nope")) == f"error: there is no studies folder {tmp_path / 'nope'}"
    )
    (tmp_path / "empty").mkdir()
    message = f"error: {tmp_path / 'empty'} has no ledger yet; start a server on it, or use scripts/ledger.py rescan"
    assert error_of(ledger("check", folder=tmp_path / "empty")) == message
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["history", "nobody"], "error: there is no image 'nobody' in the studies folder"),
        (["diff", "a", "1", "9"], "error: there is no version 9 of the label 'final' of image 'a'"),
        (["events", "--limit", "0"], "error: --limit must be at least 1, not 0; see "),
        (["status", "--conf", "ledger", "mysql://x/y"], "error: ledger = 'mysql://x/y' is"),
        (["exclude", "a"], "error: the following arguments are required: --reason"),
        (["vacuum"], "error: argument COMMAND: invalid choice: 'vacuum'"),
        (["import", "nothing.zip"], "error: there is no archive nothing.zip"),
    ],
)
def test_wrong_input_is_one_line(ledger, arguments, message):
    assert error_of(ledger(*arguments)).startswith(message)


def test_as_a_program(studies):
    command = [sys.executable, str(SCRIPT), "status", "--studies", str(studies), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, json.loads(result.stdout)["versions"]) == (0, 3), result.stderr
