"""`app.yaml`: what it takes, what it refuses, and that file, defaults and documentation agree."""

import math
import re
from datetime import time
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from lib.access.provider import Provider
from lib.access.roles import Role
from lib.errors import SettingsError
from lib.labels import DEFAULT_LABELS
from lib.settings import Settings, TrainingSettings, load_settings
from lib.transforms.windowing import HISTOGRAM, Window

REPOSITORY = Path(__file__).resolve().parents[1]
APP_YAML = REPOSITORY / "apps" / "liver_tumor" / "app.yaml"
CONFIGURATION = REPOSITORY / "docs" / "configuration.md"
ENDING = " (docs/configuration.md lists every key)"


def write(folder, text):
    path = folder / "app.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder, text, overrides=None):
    with pytest.raises(SettingsError) as caught:
        load_settings(write(folder, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def dotted_keys(model=Settings, prefix=""):
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from dotted_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def flat(content, prefix=""):
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# The app's own file


def test_the_file_of_the_app_says_what_the_defaults_say():
    """Who deletes a line of app.yaml must get what the line said."""
    written = dict(flat(yaml.safe_load(APP_YAML.read_text(encoding="utf-8"))))
    defaults = dict(flat(Settings().model_dump(mode="json")))
    assert {key: defaults.get(key) for key in written} == written
    assert load_settings(APP_YAML) == Settings()


def test_the_file_of_the_app_names_every_section():
    written = yaml.safe_load(APP_YAML.read_text(encoding="utf-8"))
    assert set(written) == set(Settings.model_fields)


@pytest.mark.parametrize("key", list(dotted_keys()))
def test_every_key_is_documented(key):
    assert f"`{key}`" in CONFIGURATION.read_text(encoding="utf-8"), f"describe `{key}` in docs/configuration.md"


def test_no_key_is_documented_that_does_not_exist():
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", CONFIGURATION.read_text(encoding="utf-8"), re.MULTILINE)
    known = {*dotted_keys(), *(f"labels.NAME.{key}" for key in ("index", "color", "aliases", "codes"))}
    known |= {"windows.NAME.width", "windows.NAME.level"}
    assert {key for key, _ in rows} <= known


def test_the_documented_defaults_are_the_defaults():
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", CONFIGURATION.read_text(encoding="utf-8"), re.MULTILINE)
    defaults = dict(flat(Settings().model_dump(mode="json")))
    compared = {key: yaml.safe_load(text) for key, text in rows if key in defaults and text.strip() not in {"", "..."}}
    assert len(compared) > 40
    assert {key: defaults[key] for key in compared} == compared


# Loading


def test_an_empty_file_and_empty_sections_give_the_defaults(tmp_path):
    assert load_settings(write(tmp_path, "")) == Settings()
    text = "augmentation:\n# elastic_probability: 0.1\ntraining:\nwindows:\nlabels:\n"
    assert load_settings(write(tmp_path, text)) == Settings()


def test_values_are_taken_and_the_rest_has_defaults(tmp_path):
    settings = load_settings(write(tmp_path, "name: Mine\ntraining: {max_epochs: 7, learning_rate: 1e-3}"))
    assert settings.name == "Mine"
    assert (settings.training.max_epochs, settings.training.learning_rate) == (7, 0.001)
    assert settings.training.batch_size == TrainingSettings().batch_size


@pytest.mark.parametrize("text", ["hours: 19:00-07:00", "hours: '19:00-07:00'", 'hours: ""', "hours:", "# hours: x"])
def test_hours(tmp_path, text):
    by_itself = load_settings(write(tmp_path, f"training:\n  by_itself:\n    {text}")).training.by_itself
    assert by_itself.opening() == ((time(19), time(7)) if "19" in text else None)


@pytest.mark.parametrize(
    ("hours", "reason"),
    [
        ("19-7", "from 00:00 to 23:59, in quotes"),
        ("24:00-07:00", "from 00:00 to 23:59, in quotes"),
        ("1140", "from 00:00 to 23:59, in quotes"),  # what YAML makes of an unquoted 19:00
        ("'07:00-07:00'", "which is no time at all"),
    ],
)
def test_hours_that_are_none(tmp_path, hours, reason):
    message = refused(tmp_path, f"training: {{by_itself: {{hours: {hours}}}}}")
    assert (
        f"expected two different times of day such as '19:00-07:00', {reason}; leave it empty for any time" in message
    )


def test_settings_can_be_saved_and_loaded(tmp_path):
    first = load_settings(APP_YAML, {"windows": "{narrow: {width: 100, level: 60}}", "channels": "[narrow, histogram]"})
    text = yaml.safe_dump(first.model_dump(mode="json"))
    assert load_settings(write(tmp_path, text)) == first


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1\n- 2", " must hold keys and values, not list"),
        ("just text", " must hold keys and values, not str"),
        ("a: [1\nb: 2", " is not valid YAML: while parsing a flow sequence"),
        ("\tname: x", " is not valid YAML: while scanning for the next token found character"),
    ],
)
def test_files_that_are_not_yaml(tmp_path, text, expected):
    assert refused(tmp_path, text).startswith(f"{tmp_path / 'app.yaml'}{expected}")


def test_a_file_in_another_encoding(tmp_path):
    (tmp_path / "app.yaml").write_bytes("name: Hígado".encode("latin-1"))
    with pytest.raises(SettingsError, match="is not valid YAML: 'utf-8' codec can't decode"):
        load_settings(tmp_path / "app.yaml")


def test_a_missing_file(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "app.yaml")
    assert str(caught.value) == f"can't read the settings {tmp_path / 'app.yaml'}: No such file or directory"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("color: red", "app.yaml: unknown key color"),
        ("training: {epochs: 5}", "app.yaml: unknown key training.epochs"),
        ("labels: {liver: {index: 1, colour: [1, 2, 3]}}", "app.yaml: unknown key labels.liver.colour"),
        ("postprocessing: {holes: true}", "app.yaml: unknown key postprocessing.holes"),
        ("1: 2", "app.yaml: 1 = 1: Keys should be strings"),
        (
            "training: {max_epochs: 0}",
            "app.yaml: training.max_epochs = 0: Input should be greater than or equal to 1",
        ),
        (
            "training: {max_epochs: many}",
            "app.yaml: training.max_epochs = 'many': Input should be a valid integer, unable to parse string as an "
            "integer",
        ),
        ("training: {max_epochs: yes}", "app.yaml: training.max_epochs = True: expected a number, not true or false"),
        ("training: {patch_size: 100}", "app.yaml: training.patch_size = 100: Input should be a multiple of 16"),
        (
            "training: {patch_size: 16}",
            "app.yaml: training.patch_size = 16: Input should be greater than or equal to 32",
        ),
        (
            "training: {patch_size: 4096}",
            "app.yaml: training.patch_size = 4096: Input should be less than or equal to 2048",
        ),
        ("training: {seed: -1}", "app.yaml: training.seed = -1: Input should be greater than or equal to 0"),
        ("training: {learning_rate: 0}", "app.yaml: training.learning_rate = 0: Input should be greater than 0"),
        (
            "training: {learning_rate: .nan}",
            "app.yaml: training.learning_rate = nan: Input should be less than or equal to 1",
        ),
        (
            "training: {loss: focal}",
            "app.yaml: training.loss = 'focal': Input should be 'cross_entropy' or 'dice_cross_entropy'",
        ),
        (
            "training: {tumor_fraction: 0.9}",
            "app.yaml: training: tumor_fraction 0.9 exceeds foreground_fraction 0.7",
        ),
        (
            "training: {learning_rate: 1e-7}",
            "app.yaml: training: minimum_learning_rate 1e-06 exceeds learning_rate 1e-07",
        ),
        (
            "active_learning: {scoring: [dice, uncertainty]}",
            "app.yaml: active_learning.scoring.1 = 'uncertainty': Input should be 'dice' or 'scores'",
        ),
        (
            "active_learning: {planned_labels: 0}",
            "app.yaml: active_learning.planned_labels = 0: Input should be greater than or equal to 1",
        ),
        (
            "active_learning: {strategies: []}",
            "app.yaml: active_learning.strategies = []: Tuple should have at least 1 item after validation, not 0",
        ),
        (
            "windows: {a: {width: 0, level: 4}}",
            "app.yaml: windows.a.width = 0: Input should be greater than or equal to 2",
        ),
        (
            "windows: {a: {width: 1, level: 4}}",
            "app.yaml: windows.a.width = 1: Input should be greater than or equal to 2",
        ),
        (
            "training: {class_weights: [1, 2]}",
            "app.yaml: training.class_weights must have 3 values (background first), not 2",
        ),
        (
            "training: {class_weights: [1, 0, 2]}",
            "app.yaml: training.class_weights.1 = 0: Input should be greater than 0",
        ),
        ("windows: {a: {width: 5}}", "app.yaml: windows.a.level is missing"),
        (
            "windows: {histogram: {width: 5, level: 1}}",
            "app.yaml: windows: 'histogram' is the channel of spread gray values and can't name a window",
        ),
        ("training: 5", "app.yaml: training = 5: Input should be a valid dictionary or instance of TrainingSettings"),
        ("model_name: ../x", "app.yaml: model_name = '../x': String should match pattern '^[A-Za-z0-9_\\-]+$'"),
        ("name: 5", "app.yaml: name = 5: Input should be a valid string"),
        (
            "limits: {affine_tolerance_mm: 0}",
            "app.yaml: limits.affine_tolerance_mm = 0: Input should be greater than 0",
        ),
        (
            "augmentation: {scale: [1.2, 0.9]}",
            "app.yaml: augmentation.scale = [1.2, 0.9]: the lower limit 1.2 is above the upper limit 0.9",
        ),
    ],
)
def test_wrong_keys_and_values_are_one_line(tmp_path, text, expected):
    assert refused(tmp_path, text) == expected + ENDING


def test_unknown_channels_are_named_with_the_known_ones(tmp_path):
    message = refused(tmp_path, "channels: [liver, bone]\nwindows: {narrow: {width: 9, level: 1}}")
    assert message.startswith("app.yaml: channels ['liver', 'bone'] must be one or more of ['abdomen_soft', ")
    assert "'histogram'" in message
    assert "'narrow'" in message
    assert "channels [] must be one or more of" in refused(tmp_path, "channels: []")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("{liver: {index: 2}}", "label indices must be 1..1 without gaps, not [2]"),
        ("{liver: {index: 1}, tumor: {index: 3}}", "label indices must be 1..2 without gaps, not [1, 3]"),
        ("{liver: {index: 1}, tumor: {index: 1}}", "label indices must be 1..2 without gaps, not [1, 1]"),
        ("{Background: {index: 1}}", "'background' means index 0 to clients and can't name the label 'Background'"),
        (
            "{Reviewed: {index: 1}}",
            "'reviewed' means slices that were looked at, or not, to clients and can't name the label 'Reviewed'",
        ),
        (
            "{liver: {index: 1}, tumor: {index: 2, aliases: [LIVER]}}",
            "the labels 'liver' and 'tumor' both go by 'liver'; give each name to one label",
        ),
        (
            "{a/b: {index: 1}}",
            "the label name 'a/b' must begin with a letter or digit and hold no / \\ : or control character",
        ),
    ],
)
def test_labels_that_could_be_mixed_up_are_refused(tmp_path, labels, expected):
    assert refused(tmp_path, f"labels: {labels}") == f"app.yaml: labels: {expected}{ENDING}"


def test_a_label_needs_an_index(tmp_path):
    assert (
        refused(tmp_path, "labels: {liver: {color: [1, 2, 3]}}") == f"app.yaml: labels.liver.index is missing{ENDING}"
    )


def test_several_problems_are_all_told(tmp_path):
    message = refused(tmp_path, "color: red\ntraining: {epochs: 5}")
    assert "app.yaml: unknown key color" in message
    assert "app.yaml: unknown key training.epochs" in message
    assert message.count(ENDING) == 1


def test_a_long_value_is_cut(tmp_path):
    assert len(refused(tmp_path, f"training: {{max_epochs: {'x' * 5000}}}")) < 400


# --conf


@pytest.mark.parametrize(
    ("key", "value", "read", "expected"),
    [
        ("training.max_epochs", "5", lambda s: s.training.max_epochs, 5),
        ("training.learning_rate", "1e-3", lambda s: s.training.learning_rate, 0.001),
        ("training.class_weights", "[1, 2, 4.5]", lambda s: s.training.class_weights, (1, 2, 4.5)),
        ("training.class_weights", "null", lambda s: s.training.class_weights, None),
        ("postprocessing.fill_holes", "false", lambda s: s.postprocessing.fill_holes, False),
        ("postprocessing.fill_holes", "off", lambda s: s.postprocessing.fill_holes, False),
        ("active_learning.strategies", "[first]", lambda s: s.active_learning.strategies, ("first",)),
        ("network.arguments.dropout", "0.2", lambda s: s.network.arguments, {"dropout": 0.2}),
        ("labels.liver.aliases", "[bauch]", lambda s: s.labels["liver"].aliases, ("bauch",)),
        ("channels", "[lungs, liver, histogram]", lambda s: s.channels, ("lungs", "liver", HISTOGRAM)),
        ("name", "Our site", lambda s: s.name, "Our site"),
    ],
)
def test_overrides_win_over_the_file(key, value, read, expected):
    assert read(load_settings(APP_YAML, {key: value})) == expected


def test_overrides_reach_into_empty_sections_and_leave_the_rest(tmp_path):
    path = write(tmp_path, "training:\nwindows: {}")
    settings = load_settings(path, {"training.seed": "4", "windows.a.width": "80", "windows.a.level": "40"})
    assert settings.training == TrainingSettings(seed=4)
    assert settings.windows["a"].width == 80


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"training.epochs": "5"}, "--conf: unknown key training.epochs" + ENDING),
        ({"bogus": "5"}, "--conf: unknown key bogus" + ENDING),
        (
            {"training.max_epochs": "0"},
            "--conf: training.max_epochs = 0: Input should be greater than or equal to 1" + ENDING,
        ),
        (
            {"training.tumor_fraction": "0.9"},
            "--conf: training: tumor_fraction 0.9 exceeds foreground_fraction 0.7" + ENDING,
        ),
        ({"": "5"}, "--conf '' is not a key such as training.max_epochs"),
        ({"training..seed": "5"}, "--conf 'training..seed' is not a key such as training.max_epochs"),
        ({"name.first": "x"}, "--conf name.first: name is a single value in app.yaml, not a section"),
        ({"channels": "[liver"}, "--conf channels: '[liver' is not a valid YAML value"),
    ],
)
def test_wrong_overrides_are_one_line(tmp_path, overrides, expected):
    assert refused(tmp_path, "name: x", overrides) == expected


def test_the_file_is_blamed_for_what_the_file_says(tmp_path):
    message = refused(tmp_path, "training: {max_epochs: 0}", {"training.seed": "1"})
    assert message.startswith("app.yaml: training.max_epochs = 0")


# What the rest of the app reads


def test_classes_and_indices():
    settings = Settings(labels={"b": {"index": 2}, "a": {"index": 1}, "c": {"index": 3}})
    assert settings.classes == 4
    assert list(settings.label_indices().items()) == [("a", 1), ("b", 2), ("c", 3)]
    assert Settings().labels == DEFAULT_LABELS


def test_site_windows_come_before_presets():
    settings = Settings(
        windows={"liver": {"width": 100, "level": 60}, "mine": {"width": 9, "level": 1}},
        channels=("liver", "mine", "custom", HISTOGRAM),
    )
    assert settings.blend_channels() == (Window(100, 60), Window(9, 1), "custom", HISTOGRAM)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().training.max_epochs = 3
    assert math.isclose(Settings().training.learning_rate, 1e-4)


# Access


def test_access_by_default():
    access = Settings().access
    assert (access.login, access.token_hours, access.oidc.provider()) == ("auto", 12, None)


@pytest.mark.parametrize(("written", "login"), [("off", "off"), ("'off'", "off"), ("required", "required")])
def test_off_is_a_word(tmp_path, written, login):
    """Which YAML takes for false."""
    assert load_settings(write(tmp_path, f"access: {{login: {written}}}")).access.login == login


@pytest.mark.parametrize("written", ["on", "yes", "never"])
def test_other_words_for_login(tmp_path, written):
    message = refused(tmp_path, f"access: {{login: {written}}}")
    assert message.startswith("app.yaml: access.login = ")
    assert "Input should be 'auto', 'required' or 'off'" in message


def test_an_identity_provider(tmp_path):
    text = """
access:
  oidc:
    issuer: https://sso.example.org/realms/hospital
    audience: liverloop
    roles: {annotator: [students, radiology], admin: [it]}
    certificates: ca.pem
"""
    assert load_settings(write(tmp_path, text)).access.oidc.provider() == Provider(
        "https://sso.example.org/realms/hospital",
        "liverloop",
        "realm_access.roles",
        {Role.ANNOTATOR: ("students", "radiology"), Role.ADMIN: ("it",)},
        certificates=Path("ca.pem"),
    )


@pytest.mark.parametrize(
    ("oidc", "message"),
    [
        (
            "{issuer: 'http://sso'}",
            "access.oidc: issuer = 'http://sso' is no https address; give it as the identity provider says it",
        ),
        (
            "{issuer: 'https://sso', audience: x}",
            "access.oidc: issuer is set and access.oidc.roles is empty; set it, or nobody could log in",
        ),
    ],
)
def test_half_an_identity_provider(tmp_path, oidc, message):
    assert refused(tmp_path, f"access: {{oidc: {oidc}}}") == f"app.yaml: {message}{ENDING}"


def test_a_role_that_does_not_exist(tmp_path):
    assert "access.oidc.roles.root" in refused(tmp_path, "access: {oidc: {roles: {root: [it]}}}")


@pytest.mark.parametrize("text", ["access:", "access: {oidc: }"])
def test_access_whose_keys_are_commented_out(tmp_path, text):
    assert load_settings(write(tmp_path, text)) == Settings()


def test_hosts_and_networks(tmp_path):
    text = "access: {hosts: [Labels.Example.org, labels], metrics_from: [10.1.0.0/16, 192.0.2.7, '::1']}"
    access = load_settings(write(tmp_path, text)).access
    assert access.hosts == ("labels.example.org", "labels")
    assert [str(one) for one in access.metrics_from] == ["10.1.0.0/16", "192.0.2.7/32", "::1/128"]
    assert [str(one) for one in Settings().access.metrics_from] == ["127.0.0.1/32", "::1/128"]


@pytest.mark.parametrize("host", ["http://labels", "labels:8000", "labels/", "", "a b", "*", "-a", "é"])
def test_hosts_that_are_no_names(tmp_path, host):
    assert refused(tmp_path, f"access: {{hosts: ['{host}']}}") == (
        f"app.yaml: access.hosts = ['{host}']: {host!r} is no name of a machine; give names such as "
        f"labels.example.org, without a port{ENDING}"
    )


@pytest.mark.parametrize("network", ["10.0.0.1/8", "labels", "10.0.0.0/33"])
def test_networks_that_are_none(tmp_path, network):
    message = refused(tmp_path, f"access: {{metrics_from: [{network}]}}")
    assert message.endswith(f"value is not a valid IPv4 or IPv6 network{ENDING}")


@pytest.mark.parametrize("network", ["true", "7"])
def test_networks_that_are_numbers(tmp_path, network):
    message = refused(tmp_path, f"access: {{metrics_from: [{network}]}}")
    assert message.endswith(f": give networks as texts such as '10.1.0.0/16'{ENDING}")


def test_hours_are_no_switch(tmp_path):
    message = refused(tmp_path, "access: {token_hours: yes}")
    assert message == f"app.yaml: access.token_hours = True: expected a number, not true or false{ENDING}"


def test_the_name_of_this_server_at_the_provider(tmp_path):
    oidc = "{issuer: 'https://sso', audience: x, roles: {admin: [it]}, client_id: labels}"
    assert load_settings(write(tmp_path, f"access: {{oidc: {oidc}}}")).access.oidc.provider().client_id == "labels"
