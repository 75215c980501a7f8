import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from lib.inference.model import load_model, new_network
from lib.phantom import make_phantom
from lib.settings import load_settings
from lib.training.publish import describe, publish
from lib.training.registry import Registry
from lib.volume_io import write_image, write_label

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "models.py"
NETWORK = ("--conf", "network.arguments", "{filters: [4, 4, 4, 4, 4]}")


@pytest.fixture
def app(tmp_path):
    """An app with starter weights and the versions v1 and v2."""
    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copy(REPOSITORY / "apps" / "liver_tumor" / "app.yaml", folder)
    settings = load_settings(folder / "app.yaml", {NETWORK[1]: NETWORK[2]})
    publish(folder / "starter.pt", new_network(settings), describe(settings, "first-day"))
    registry = Registry(folder, settings)
    for number, liver in ((1, 0.75), (2, 0.5)):
        gate = {"classes": {"liver": {"candidate": liver, "published": 0.6}}}
        facts = {"created": f"2026-03-0{number}T00:00:00+00:00", "parent": "first-day", "reason": f"reason {number}"}
        registry.add(new_network(settings), describe(settings, f"v{number}", gate=gate, **facts))
    return folder


@pytest.fixture
def script(app, monkeypatch, capsys):
    """Runs the script in this process, as importing torch takes longer than its work."""

    def run(*arguments):
        options = ["--app", str(app), *NETWORK]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        output = capsys.readouterr()
        return exited.value.code, output.out, output.err

    return run


def test_list(script):
    code, output, _ = script("list")
    assert code == 0
    header, second, first, starter = output.splitlines()
    assert header.split()[:2] == ["version", "made"]
    assert second.split()[0] == "v2"
    assert "liver 0.500" in second
    assert "first-day" in first
    assert first.endswith("reason 1")
    assert starter.startswith("*  first-day (starter)")
    versions = json.loads(script("list", "--json")[1])
    assert [(version["id"], version["is_published"]) for version in versions] == [
        ("v2", False), ("v1", False), ("first-day", True),
    ]  # fmt: skip


def test_show(script):
    code, output, _ = script("show", "v1")
    assert code == 0
    told = dict(line.split(maxsplit=1) for line in output.splitlines() if not line.startswith("liver"))
    assert (told["id"], told["parent"], told["reason"]) == ("v1", "first-day", "reason 1")
    assert told["weights"].endswith("app/model/versions/v1/model.pt")
    assert "liver Dice    0.7500" in output
    assert json.loads(script("show", "v1", "--json")[1])["manifest"]["gate"]["classes"]["liver"]["candidate"] == 0.75


def test_compare(script):
    code, output, _ = script("compare", "v1", "v2")
    assert code == 0
    assert [line.split() for line in output.splitlines()[:2]] == [["v1", "v2"], ["liver", "Dice", "0.7500", "0.5000"]]
    assert "not on the same validation cases: the figures can't be compared with each other" in output
    assert json.loads(script("compare", "v1", "starter", "--json")[1])["different"]["parent"] == ["first-day", None]


def test_publish_and_go_back(script, app):
    settings = load_settings(app / "app.yaml", {NETWORK[1]: NETWORK[2]})
    code, output, _ = script("publish", "v1", "--reason", "better", "--by", "anna")
    assert (code, output) == (0, "annotators get v1 from now on\n")
    assert load_model(settings, app / "model" / "liver_tumor.pt", torch.device("cpu")).version == "v1"
    published = json.loads(script("show", "published", "--json")[1])
    assert (published["id"], published["published_by"], published["reason"]) == ("v1", "anna", "better")
    assert script("publish", "starter", "--reason", "not so")[1] == "annotators get first-day from now on\n"
    assert load_model(settings, app / "model" / "liver_tumor.pt", torch.device("cpu")).version == "first-day"


def test_export(script, tmp_path):
    code, output, _ = script("export", "v1", "--torchscript", tmp_path / "v1.ts", "--bundle", tmp_path / "bundle")
    assert code == 0
    assert output.splitlines() == [f"v1 as torchscript: {tmp_path}/v1.ts", f"v1 as bundle: {tmp_path}/bundle"]
    assert torch.jit.load(tmp_path / "v1.ts")(torch.zeros(1, 1, 20, 30)).shape == (1, 3, 20, 30)
    assert (tmp_path / "bundle" / "configs" / "metadata.json").is_file()


def test_quantize_with_too_few_cases(script, app, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.inference.choice.has_fast_int8", lambda: True)
    phantom = make_phantom(1, shape=(48, 48, 10), tumors=2)
    write_image(tmp_path / "studies" / "case.nii.gz", phantom.image)
    write_label(tmp_path / "studies" / "labels" / "final" / "case.nii.gz", phantom.label)
    code, output, _ = script("quantize", "v1", "--studies", tmp_path / "studies")
    assert (code, output) == (0, "v1 in int8 not used: too few validation cases (0) to judge it on, 3 are needed\n")
    assert not (app / "model" / "versions" / "v1" / "int8.json").exists()
    told = json.loads(script("quantize", "starter", "--studies", tmp_path / "studies", "--json")[1])
    assert (told["id"], told["accepted"]) == ("first-day", False)
    off = (*NETWORK, "--conf", "inference.int8", "false")
    code, _, error = script("quantize", "v1", "--studies", tmp_path / "studies", *off)
    assert (code, error) == (2, "error: there is no int8 to be had here: inference.int8 is false\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "v1"], "error: say what to export to: --torchscript FILE, --onnx FILE, --bundle DIR or "),
        (
            ["export", "v1", "--bundle", REPOSITORY / "lib"],
            f"error: {REPOSITORY / 'lib'} exists and is no empty folder",
        ),
        (["export", "v9", "--torchscript", "x.ts"], "error: there is no model version 'v9'; choose one of v2, v1"),
        (["quantize", "v1"], "error: the following arguments are required: --studies; see models.py quantize --help"),
        (["show", "v9"], "error: there is no model version 'v9'; choose one of v2, v1, starter"),
        (["publish", "v1"], "error: the following arguments are required: --reason; see models.py publish --help"),
        (["publish", "starter", "--reason", "x"], "error: the model version first-day is the published one already"),
        (["compare", "v1"], "error: the following arguments are required: SECOND; see models.py compare --help"),
        ([], "error: the following arguments are required: COMMAND; see models.py --help"),
        (["list", "--app", "nowhere"], "error: nowhere is not an app folder: it has no app.yaml; give one such as "),
    ],
)
def test_wrong_input_is_one_line(script, arguments, message):
    code, _, error = script(*arguments)
    assert code == 2
    assert error.startswith(message)
    assert len(error.strip().splitlines()) == 1


def test_help(script):
    code, output, _ = script("--help")
    assert code == 0
    assert all(command in output for command in ("list", "show", "compare", "publish", "quantize", "export"))
