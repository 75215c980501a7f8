import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.store.campaign_site import run_campaign

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "campaign.py"


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    run_campaign(folder / "studies", folder).close()
    return folder / "studies"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """An app without starter, with three versions; each was compared with the one before."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.yaml").write_text("{}")
    cases = ["x", "y"]
    for number in (1, 2, 3):
        dice = {"candidate": 0.8 + 0.02 * number, "published": 0.78 + 0.02 * number, "interval": [0.01, 0.03]}
        gate = {"published": f"m{number - 1}", "confidence": 0.95, "cases": cases, "classes": {"liver": dice}}
        facts = {"training_cases": ["c"] * 10 * number, "created": f"2026-03-0{number}T00:00:00+00:00"}
        place = folder / "model" / "versions" / f"m{number}"
        place.mkdir(parents=True)
        manifest = {"version": f"m{number}", "sha256": "0" * 64, "gate": gate, **facts}
        (place / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def script(app, monkeypatch, capsys):
    """Runs it in this process, which spares its start-up time."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--app", str(app), *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        output = capsys.readouterr()
        return exited.value.code, output.out, output.err

    return run


def test_text_and_picture(script, studies, tmp_path):
    code, output, _ = script("status", "--studies", studies, "--png", tmp_path / "campaign.png")
    assert code == 0
    rows = [line.split() for line in output.splitlines()]
    assert output.startswith("images         3 labelled, 2 left, 1 excluded\n")
    assert ["scored", "0", "of", "2", "left,", "by", "the", "model", "in", "force", "(none)"] in rows
    assert ["v2", "1", "0.800"] in rows
    assert ["m2", "20", "1", "0.840"] in rows
    assert ["a", "ann", "bob", "0.800", "0.667"] in rows
    assert "\ntoo early to say whether more labels are worth it\n" in output
    assert "  the next ten labels are expected to raise liver Dice by 0.0" in output
    assert "  what the next ten labels bring for tumor is not known: not enough versions yet: 0 of at least 3" in output
    assert "  annotators changed much of liver in the last 2 cases (Dice 0.733" in output
    assert (tmp_path / "campaign.png").read_bytes().startswith(b"\x89PNG")


def test_json(script, studies):
    told = json.loads(script("status", "--studies", studies, "--json")[1])
    assert told["images"] == {"labelled": 3, "left": 2, "excluded": 1, "scored": 0}
    assert told["cases_by_author"] == {"ann": 2, "bob": 2}
    assert told["seconds_per_case"]["cases"] == 2
    assert told["classes"]["liver"]["gain"]["interval"][0] < told["classes"]["liver"]["gain"]["dice"]
    assert told["classes"]["tumor"]["gain"] is None
    assert [one["authors"] for one in told["agreement"]] == [["ann", "bob"]]
    assert json.loads(script("status", "--studies", studies, "--json", "--quick")[1])["agreement"] is None


def test_wrong_input_is_one_line(script, studies, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["status"], "error: --studies DIR is required, the folder with the images or the address of a PACS"),
        (["status", "--studies", tmp_path / "none"], f"error: there is no studies folder {tmp_path / 'none'}"),
        (["status", "--studies", tmp_path / "empty"], f"error: {tmp_path / 'empty'} has no ledger yet; start a server"),
        (["status", "--studies", studies, "--png", tmp_path], f"error: can't write {tmp_path}: it is a folder"),
        ([], "error: the following arguments are required: COMMAND; see campaign.py --help"),
    ):
        code, output, error = script(*arguments)
        assert (code, output) == (2, "")
        assert error.startswith(message)
        assert error.count("\n") == 1
    assert not list((tmp_path / "empty").iterdir())
