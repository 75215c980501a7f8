#!/usr/bin/env python3
"""See the model versions of an app, give annotators another one, take one elsewhere.

    scripts/models.py list
    scripts/models.py show published
    scripts/models.py compare starter published
    scripts/models.py publish 20261127-004346-000000 --reason "the new one misses small tumors"
    scripts/models.py quantize published --studies ~/livers
    scripts/models.py export published --onnx liver.onnx --bundle liver_bundle

A version is named by its id, or as "published" (the one that annotators get) or "starter" (the weights that came with
the app). All of it works while a server runs: the next request gets the published version. docs/models.md tells more.
Exit code: 0, or 2 for wrong input.
"""

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

import torch
from tqdm import tqdm

from lib.console import Parser, check_output_file, check_output_folder, run
from lib.errors import BadInputError, ModelError
from lib.files import writable_folder
from lib.inference.command_line import add_command_options, settings_from
from lib.inference.model import load_model
from lib.store.studies import named_studies
from lib.training.cases import find_cases, split_cases
from lib.training.export import EXPORTS
from lib.training.int8 import offer_int8
from lib.training.registry import Registry
from lib.training.sides import labelled_cases
from lib.training.version_tables import compare_text, list_text, show_text

Answer = tuple[Any, str]  # for --json, for people


def main() -> None:
    """Run one command and print its answer."""
    arguments = _arguments()
    registry = Registry(arguments.app, settings_from(arguments))
    values, text = arguments.command(registry, arguments)
    print(json.dumps(values, indent=2, ensure_ascii=False) if arguments.json else text)


def _list(registry: Registry, _: argparse.Namespace) -> Answer:
    versions = registry.list()
    return [version.as_dict() for version in versions], list_text(versions)


def _show(registry: Registry, arguments: argparse.Namespace) -> Answer:
    version = registry.get(arguments.version)
    return {**version.as_dict(), "manifest": version.manifest}, show_text(version)


def _compare(registry: Registry, arguments: argparse.Namespace) -> Answer:
    comparison = registry.compare(arguments.first, arguments.second)
    return comparison, compare_text(comparison)


def _publish(registry: Registry, arguments: argparse.Namespace) -> Answer:
    version = registry.publish(arguments.version, arguments.by, arguments.reason)
    return version.as_dict(), f"annotators get {version.id} from now on"


def _quantize(registry: Registry, arguments: argparse.Namespace) -> Answer:
    version, settings = registry.get(arguments.version), registry.settings
    registry.check(version)
    cases = find_cases(labelled_cases(arguments.studies, settings, arguments.app))
    training, validation = split_cases(cases, settings.training.validation_fraction)
    model = load_model(settings, version.weights, torch.device("cpu"))
    if model.folder is not None:
        writable_folder(model.folder)
    try:
        with tqdm(bar_format="{desc}", leave=False, disable=None) as line:  # on a terminal only
            verdict = offer_int8(model, training, validation, settings, line.set_description_str)
    except (ImportError, RuntimeError, OSError) as error:  # of NNCF and OpenVINO, or a full temporary folder
        reason = " ".join(str(error).split())[:300]
        msg = f"model {version.id} can't be quantized: {reason}; it runs without int8"
        raise ModelError(msg) from error
    return {"id": version.id, **verdict._asdict()}, f"{version.id} in int8 {verdict}"


def _export(registry: Registry, arguments: argparse.Namespace) -> Answer:
    written = {}
    for kind, (export, _) in EXPORTS.items():
        place = getattr(arguments, kind)
        if place:
            (check_output_folder if kind == "bundle" else check_output_file)(place)
            version = export(registry, arguments.version, place)
            written[kind] = str(place)
    if not written:
        msg = "say what to export to: --torchscript FILE, --onnx FILE, --bundle DIR or several of them"
        raise BadInputError(msg)
    text = "\n".join(f"{version.id} as {kind}: {place}" for kind, place in written.items())
    return {"id": version.id, **written}, text


def _arguments() -> argparse.Namespace:
    common = Parser(add_help=False)
    add_command_options(common, after_command=True)
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_command_options(parser, after_command=False)
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, command: Any, summary: str, *versions: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=[common]
        )
        added.set_defaults(command=command)
        for version in versions:
            added.add_argument(version, metavar=version.upper(), help='an id, "published" or "starter"')
        return added

    add("list", _list, "every version, the newest first; the star is what annotators get")
    add("show", _show, "what is known of a version", "version")
    add("compare", _compare, "two versions' figures side by side", "first", "second")
    publish = add("publish", _publish, "give a version to annotators; an older one to go back", "version")
    publish.add_argument("--reason", required=True, metavar="TEXT", help="why, for those who come after")
    publish.add_argument("--by", default=getpass.getuser(), metavar="NAME", help="who wants that (default: you)")
    quantize = add("quantize", _quantize, "make a version faster on CPUs, if its labels stay as good", "version")
    quantize.add_argument(
        "--studies", type=named_studies, required=True, metavar="DIR|URL", help="labelled images to judge it on"
    )
    export = add("export", _export, "write a version for use elsewhere", "version")
    export.add_argument("--torchscript", type=Path, metavar="FILE", help="one file that takes HU and gives logits")
    export.add_argument("--onnx", type=Path, metavar="FILE", help="the same as ONNX, for programs without PyTorch")
    export.add_argument("--bundle", type=Path, metavar="DIR", help="a MONAI bundle in a new folder")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
