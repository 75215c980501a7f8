import json
import logging
import re

import pytest
import torch

from lib.errors import BadInputError, ModelError, NotFoundError, StorageError
from lib.inference.model import ModelSource, load_model, new_network
from lib.store import events, models
from lib.store.ledger import Ledger
from lib.training.publish import describe, publish
from lib.training.registry import Registry, figures_of

CPU = torch.device("cpu")
GATE = {
    "classes": {"liver": {"candidate": 0.9, "published": 0.8}, "tumor": {"candidate": 0.5, "published": 0.4}},
    "lesions": {"candidate": {"reference": 3, "found": 2}, "published": {"reference": 3, "found": 1}},
}


@pytest.fixture
def settings(tiny):
    return tiny()


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield ledger
    ledger.close()


@pytest.fixture
def app(tmp_path, settings):
    """An app folder with starter weights of the version "first-day"."""
    folder = tmp_path / "app"
    publish(folder / "starter.pt", new_network(settings), describe(settings, "first-day"))
    return folder


@pytest.fixture
def registry(app, settings):
    return Registry(app, settings)


def make(registry, version, **facts):
    settings = registry.settings
    manifest = describe(settings, version, **({"reason": f"why {version}", "created": created(version)} | facts))
    return registry.add(new_network(settings), manifest)


def created(version):
    """v1, v2, ... are made day by day."""
    return f"2026-01-0{version[-1]}T12:00:00+00:00" if version[-1].isdecimal() else "2026-01-01T00:00:00+00:00"


def in_force(registry):
    return load_model(registry.settings, registry.source.path, CPU).version


def indexed(ledger):
    with ledger.reading() as connection:
        return {model.id: model for model in models.list_all(connection)}


def happened(ledger):
    with ledger.reading() as connection:
        return [(event.kind, event.actor, event.detail["version"]) for event in reversed(events.history(connection))]


# Keeping


def test_the_starter_is_a_version_under_its_own_name(registry):
    (starter,) = registry.list()
    assert (starter.id, starter.is_starter, starter.is_published, starter.publication) == (
        "first-day", True, True, None,
    )  # fmt: skip
    assert registry.get("starter") == registry.get("first-day") == registry.get("published") == starter


def test_an_app_without_any_weights(tmp_path, settings):
    registry = Registry(tmp_path, settings)
    assert list(registry.list()) == []
    with pytest.raises(NotFoundError, match=r"^there is no model version 'starter'; there is none yet$"):
        registry.get("starter")
    with pytest.raises(ModelError, match=r"^no weights: neither "):
        registry.start_weights("published")
    assert make(registry, "v1") == "v1"
    assert not registry.get("v1").is_published


def test_a_version_keeps_weights_and_manifest(registry, tmp_path):
    network = new_network(registry.settings)
    manifest = describe(registry.settings, "v1", training_cases=["a"], parent="first-day", reason="worse")
    assert registry.add(network, manifest) == "v1"
    version = registry.get("v1")
    assert version.weights == registry.folder / "v1" / "model.pt"
    assert json.loads((registry.folder / "v1" / "manifest.json").read_text()) == {**manifest, "sha256": version.sha256}
    loaded = load_model(registry.settings, version.weights, CPU)
    assert loaded.version == "v1"
    assert all(torch.equal(tensor, loaded.network.state_dict()[name]) for name, tensor in network.state_dict().items())
    told = version.as_dict()
    assert (told["id"], told["parent"], told["reason"]) == ("v1", "first-day", "worse")
    assert (told["is_published"], told["published_at"]) == (False, None)
    assert str(tmp_path) not in json.dumps(told)
    assert in_force(registry) == "first-day"


def test_a_file_is_kept_byte_by_byte(registry, tmp_path):
    manifest = describe(registry.settings, "v1")
    publish(tmp_path / "run" / "model.pt", new_network(registry.settings), manifest)
    registry.add(tmp_path / "run" / "model.pt", manifest)
    assert registry.get("v1").weights.read_bytes() == (tmp_path / "run" / "model.pt").read_bytes()


def test_the_page_of_its_training_is_kept_with_a_version(registry, tmp_path):
    make(registry, "v1")
    version = registry.get("v1")
    assert version.report is None
    page = tmp_path / "report.html"
    page.write_text("how it went")
    registry.keep_report("v1", page)
    kept = registry.get("v1").report
    assert (kept, kept.read_text()) == (version.weights.with_name("report.html"), "how it went")
    assert registry.get("v1").as_dict()["has_report"]
    assert not registry.get("starter").as_dict()["has_report"]


def test_a_page_that_can_not_be_kept_stops_nothing(registry, tmp_path, caplog):
    make(registry, "v1")
    registry.keep_report("v1", tmp_path / "gone.html")
    assert registry.get("v1").report is None
    assert caplog.messages[-1].startswith("the model version v1 has no report: ")


def test_the_newest_is_listed_first_and_the_starter_last(registry):
    for version in ("v2", "v3", "v1"):
        make(registry, version)
    assert [version.id for version in registry.list()] == ["v3", "v2", "v1", "first-day"]


@pytest.mark.parametrize("version", ["", None, ".", "..", "../x", "a/b", "x" * 101, "a b", "starter", "scratch",
                                     "published", "compare"])  # fmt: skip
def test_names_that_can_not_be_used(registry, version):
    with pytest.raises(BadInputError, match="can't name a model version; use letters"):
        registry.add(new_network(registry.settings), {"version": version})
    assert not registry.folder.exists()


def test_a_version_is_never_overwritten(registry):
    make(registry, "v1")
    before = registry.get("v1").weights.read_bytes()
    with pytest.raises(BadInputError, match=r"^there is a model version 'v1' already; give the new one another name$"):
        make(registry, "v1")
    assert registry.get("v1").weights.read_bytes() == before


def test_an_interrupted_or_damaged_version_hides_no_other(registry, caplog):
    make(registry, "v1")
    (registry.folder / "interrupted").mkdir()
    (registry.folder / "interrupted" / "model.pt").write_bytes(b"half")
    (registry.folder / "damaged").mkdir()
    (registry.folder / "damaged" / "manifest.json").write_text("{")
    assert [version.id for version in registry.list()] == ["v1", "first-day"]
    assert "damaged/manifest.json can't be read and its version is left out" in caplog.text


def test_an_unknown_version_is_refused_with_those_that_are_known(registry):
    make(registry, "v1")
    for unknown in ("v9", "../v1", "", None):
        expected = re.escape(f"there is no model version {str(unknown)!r}; choose one of v1, starter")
        with pytest.raises(NotFoundError, match=f"^{expected}$"):
            registry.get(unknown)


def test_many_versions_are_not_all_named(registry):
    for number in range(12):
        make(registry, f"m{number:02}", created=created("m"))
    with pytest.raises(NotFoundError, match=r"m11, m10, .*, m02, \.\.\., starter$"):
        registry.get("x")


# Publishing


def test_publishing_and_going_back(registry):
    source = ModelSource(registry.settings, registry.source.published, registry.source.starter)
    make(registry, "v1")
    make(registry, "v2")
    for version in ("v2", "v1", "starter", "v2"):
        published = registry.publish(version, "anna", f"because of {version}")
        assert published.is_published
        assert [one.id for one in registry.list() if one.is_published] == [published.id]
        assert registry.get("published").id == published.id
        assert (published.publication.by, published.reason) == ("anna", f"because of {version}")
        assert source.get(CPU).version == published.id
        assert source.path.read_bytes() == published.weights.read_bytes()
        beside = json.loads(source.published.with_suffix(".json").read_text())
        assert (beside["version"], beside["published"]["by"]) == (published.id, "anna")
    assert registry.get("v1").as_dict()["published_by"] == "anna"
    lines = (registry.folder / "publications.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["v2", "v1", "first-day", "v2"]


def test_the_published_version_is_not_published_again(registry):
    with pytest.raises(BadInputError, match=r"^the model version first-day is the published one already$"):
        registry.publish("starter", "anna", "why")


def test_damaged_weights_are_not_published(registry):
    make(registry, "v1")
    content = bytearray(registry.get("v1").weights.read_bytes())
    content[len(content) // 2] ^= 1
    registry.get("v1").weights.write_bytes(content)
    expected = "^the weights of the model version v1 are damaged or missing; choose another version$"
    with pytest.raises(ModelError, match=expected):
        registry.publish("v1", "anna", "why")
    registry.get("v1").weights.unlink()
    with pytest.raises(ModelError, match=expected):
        registry.publish("v1", "anna", "why")
    assert in_force(registry) == "first-day"


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"labels": {"liver": {"index": 1}, "cyst": {"index": 2}}}, "were made for labels {'liver': 1, 'tumor': 2}"),
        ({"channels": ["liver", "custom", "lungs"]}, "were made for channels ['liver', 'custom', 'histogram'], but"),
        ({"windows": {"liver": {"width": 99, "level": 0}}}, "were made for windows {}, but app.yaml says {'liver'"),
        ({"channels": ["liver"]}, "does not fit app.yaml: the weights in model.pt do not fit MulticlassUNet: "),
        ({"network": {"name": "BasicUNet"}}, "the model version v1 was made for the network {'name': 'MulticlassUNet'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_settings_is_not_published(registry, app, tiny, tmp_path, others, message):
    make(registry, "v1")
    changed = Registry(app, tiny(others))
    for refused in (lambda: changed.publish("v1", "anna", "why"), lambda: changed.start_weights("v1")):
        with pytest.raises(BadInputError, match=re.escape(message)) as refusal:
            refused()
        assert str(tmp_path) not in str(refusal.value)
    assert not registry.source.published.exists()


def test_dropout_may_change_as_it_is_nothing_but_training(registry, app, tiny):
    make(registry, "v1")
    arguments = registry.settings.network.arguments | {"dropout": [0.5] * 5}
    assert Registry(app, tiny({"network": {"arguments": arguments}})).publish("v1", "a", "b").is_published


def test_weights_published_by_other_means_are_kept_before_they_are_replaced(registry):
    settings, path = registry.settings, registry.source.published
    publish(path, new_network(settings), describe(settings, "by-hand", training_cases=["a", "b"]))
    brought = path.read_bytes()
    make(registry, "v1")
    assert registry.get("published").id == "by-hand"
    registry.publish("v1", "anna", "why")
    assert registry.get("by-hand").weights.read_bytes() == brought
    assert registry.publish("by-hand", "anna", "back").is_published
    torch.save({"model": new_network(settings).state_dict()}, path)  # without a version of its own
    registry.refresh()
    name = in_force(registry)
    assert name.startswith("sha256:")
    assert registry.get(name).is_published
    registry.publish("v1", "anna", "why")
    assert registry.publish(name, "anna", "why").id == in_force(registry)


# Comparing


def test_figures_side_by_side(registry):
    recipe = {"learning_rate": 0.1}
    make(registry, "v1", gate=GATE, validation_cases=["x"], training_cases=["a", "b"], recipe=recipe, best_epoch=0)
    make(registry, "v2", gate=None, validation_cases=["x"], validation_dice=0.7, recipe={"learning_rate": 0.2})
    comparison = registry.compare("v1", "v2")
    assert comparison == {
        "first": "v1",
        "second": "v2",
        "figures": {
            "training cases": [2, None], "validation cases": [1, 1], "best epoch": [0, None], "liver Dice": [0.9, None],
            "tumor Dice": [0.5, None], "lesions found": [2, None], "lesions labelled": [3, None],
            "validation Dice": [None, 0.7],
        },
        "same_validation_cases": True,
        "different": {"recipe": [recipe, {"learning_rate": 0.2}]},
    }  # fmt: skip
    assert registry.compare("v1", "starter")["same_validation_cases"] is False
    with pytest.raises(NotFoundError):
        registry.compare("v1", "v3")


def test_a_manifest_without_figures():
    assert figures_of({}) == {}
    assert figures_of({"gate": {"classes": {}, "lesions": None}}) == {}
    crossed = {"classes": {"liver": {"mean": 0.5, "lowest": 0.4, "highest": 0.6}}}
    assert figures_of({"gate": None, "cross_validation": crossed}) == {"liver Dice": 0.5}
    compared = {"classes": {"liver": {"candidate": 0.7}}}
    assert figures_of({"gate": compared, "cross_validation": crossed}) == {"liver Dice": 0.7}


# Where a training starts


def test_what_a_training_may_start_from(registry):
    make(registry, "v1")
    assert registry.start_weights("scratch") is None
    assert registry.start_weights("published") == registry.source.starter
    registry.publish("v1", "anna", "why")
    assert registry.start_weights("published") == registry.source.published
    assert registry.start_weights("starter") == registry.start_weights("first-day") == registry.source.starter
    assert registry.start_weights("v1") == registry.folder / "v1" / "model.pt"
    with pytest.raises(NotFoundError, match="there is no model version 'v7'"):
        registry.start_weights("v7")


# The ledger's index


def test_the_ledger_follows(app, settings, ledger):
    registry = Registry(app, settings, ledger)
    make(registry, "v1", parent="first-day", gate=GATE)
    registry.publish("v1", "anna", "better")
    registry.publish("starter", "bob", "back")
    registry.refresh()
    registry.refresh()
    index = indexed(ledger)
    assert set(index) == {"v1", "first-day"}
    row = index["v1"]
    assert (row.parent, row.published_by, row.reason, row.sha256) == (
        "first-day", "anna", "better", registry.get("v1").sha256,
    )  # fmt: skip
    assert row.metrics == figures_of({"gate": GATE})
    assert row.published_at < index["first-day"].published_at
    assert happened(ledger) == [
        ("model added", "server", "v1"), ("model added", "server", "first-day"),
        ("model published", "anna", "v1"), ("model published", "bob", "first-day"),
    ]  # fmt: skip


def test_what_happened_without_the_ledger_is_caught_up_with(registry, app, settings, ledger):
    make(registry, "v1")
    make(registry, "v2")
    registry.publish("v2", "anna", "x")
    registry.publish("v1", "anna", "y")
    assert indexed(ledger) == {}
    Registry(app, settings, ledger).refresh()
    assert set(indexed(ledger)) == {"v1", "v2", "first-day"}
    assert [entry for entry in happened(ledger) if entry[0] == "model published"] == [
        ("model published", "anna", "v2"), ("model published", "anna", "v1"),
    ]  # fmt: skip


def test_a_ledger_that_is_gone_keeps_no_model_back(app, settings, ledger, monkeypatch, caplog):
    def refuse(*_):
        raise StorageError("the disk is full")

    registry = Registry(app, settings, ledger)
    monkeypatch.setattr("lib.store.models.follow", refuse)
    with caplog.at_level(logging.WARNING):
        make(registry, "v1")
        assert registry.publish("v1", "anna", "why").is_published
    assert "the ledger does not know yet of the newest model versions: the disk is full" in caplog.text
    with pytest.raises(StorageError):
        registry.refresh()
