"""What the scripts that use a model ask for alike: which app, which settings, which device."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.errors import BadInputError, NotFoundError, SettingsError
from lib.settings import Settings, load_settings

if TYPE_CHECKING:
    import torch

DEFAULT_APP = Path(__file__).resolve().parents[2] / "apps" / "liver_tumor"


def add_app_arguments(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    """Add `--app`, `--conf` and, unless it is False, `--device`."""
    parser.add_argument(
        "--app",
        type=Path,
        default=DEFAULT_APP,
        metavar="DIR",
        help="app folder with app.yaml (default: apps/liver_tumor)",
    )
    parser.add_argument(
        "--conf",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="override one key of app.yaml, such as: --conf postprocessing.fill_holes false; may be repeated",
    )
    if device:
        parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: cuda where there is one)")


def add_command_options(parser: argparse.ArgumentParser, *, after_command: bool) -> None:
    """Add `--app`, `--conf` and `--json` to a script with commands; they may stand before a command or behind it.

    Args:
        parser: of the script, or of one of its commands.
        after_command: it is that of a command; what stood before it then counts where nothing stands behind it.
    """

    def add(*names: str, default: Any, **more: Any) -> None:
        parser.add_argument(*names, default=argparse.SUPPRESS if after_command else default, **more)

    add("--app", default=DEFAULT_APP, type=Path, metavar="DIR", help="app folder (default: apps/liver_tumor)")
    add(
        "--conf",
        default=[],
        nargs=2,
        action="append",
        metavar=("KEY", "VALUE"),
        help="override one key of app.yaml, such as: --conf ledger postgresql://user@host/database; may be repeated",
    )
    add("--json", default=False, action="store_true", help="print JSON instead of text")


def settings_from(arguments: argparse.Namespace, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of `--app` with `--conf`, and with `overrides` that come from options of their own.

    Raises:
        NotFoundError: there is no such app folder.
        SettingsError: an unknown key, a wrong value, or a key given twice.
    """
    if not (arguments.app / "app.yaml").is_file():
        msg = f"{arguments.app} is not an app folder: it has no app.yaml; give one such as apps/liver_tumor with --app"
        raise NotFoundError(msg)
    chosen = dict(overrides or {})
    for key, value in arguments.conf:
        if key in chosen:
            msg = f"--conf {key} is given twice, or once with an option of its own; keep one"
            raise SettingsError(msg)
        chosen[key] = value
    return load_settings(arguments.app / "app.yaml", chosen)


def device_from(arguments: argparse.Namespace) -> "torch.device":
    """The device of `--device`.

    Raises:
        BadInputError: this machine has no such device.
    """
    import torch  # seconds, for which scripts that work on a ledger need not wait

    from lib.inference.device import choose_device

    name = arguments.device
    if name is not None:
        kind, _, number = name.partition(":")
        count = torch.cuda.device_count() if kind == "cuda" else 1
        if kind not in {"cpu", "cuda"} or (number and not number.isdigit()) or int(number or 0) >= count:
            msg = f"--device {name}: this machine has cpu and {torch.cuda.device_count()} CUDA devices (cuda:N)"
            raise BadInputError(msg)
    return choose_device(name)
