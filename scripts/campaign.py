#!/usr/bin/env python3
"""See how a labelling campaign stands, and whether more labels are worth it.

    scripts/campaign.py status --studies ~/livers
    scripts/campaign.py status --studies ~/livers --png campaign.png
    scripts/campaign.py status --studies https://pacs/dicom-web --json

All of it works while a server runs on the folder; docs/active_learning.md explains the figures.
Exit code: 0, or 2 for wrong input.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from tqdm import tqdm

from lib.activelearning.annotators import pairs
from lib.activelearning.campaign import agreements_in, campaign_of
from lib.activelearning.campaign_picture import draw
from lib.activelearning.campaign_text import status_text
from lib.console import Parser, check_output_file, run
from lib.inference.command_line import settings_from
from lib.store.command_line import add_ledger_options, check_studies
from lib.store.opening import open_store
from lib.training.gate_history import gate_history
from lib.training.registry import Registry


def main() -> None:
    """Look at the campaign and print what there is."""
    arguments = _arguments()
    settings = settings_from(arguments)
    check_studies(arguments.studies, may_be_new=False)
    if arguments.png is not None:
        check_output_file(arguments.png)
    registry = Registry(arguments.app, settings)
    source = registry.source
    in_force = source.version if source.path_or_none else None
    store = open_store(arguments.studies, settings, arguments.app, follow_classes=False)
    try:
        campaign = campaign_of(store, gate_history(registry.list()), in_force)
        if not arguments.quick:
            total = len(pairs(campaign.saved))
            with tqdm(desc="comparing annotators", total=total, unit=" pair", leave=False, disable=not total) as bar:
                found = agreements_in(store, campaign.saved, lambda done: bar.update(done - bar.n))
            campaign = replace(campaign, agreements=found)
    finally:
        store.close()
    if arguments.png is not None:
        draw(arguments.png, campaign)
    values = campaign.as_dict()
    print(json.dumps(values, indent=2, ensure_ascii=False) if arguments.json else status_text(campaign))


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_ledger_options(parser, after_command=False)
    common = argparse.ArgumentParser(add_help=False)
    add_ledger_options(common, after_command=True)
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    summary = "labels, corrections, versions of the model, and what the next labels are expected to bring"
    status = commands.add_parser(
        "status", help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=[common]
    )
    status.add_argument("--png", type=Path, metavar="FILE", help="draw corrections and learning curve into this file")
    status.add_argument("--quick", action="store_true", help="do not read labels to compare annotators")
    arguments = parser.parse_args()
    if arguments.studies is None:
        parser.error("--studies DIR is required, the folder with the images or the address of a PACS")
    return arguments


if __name__ == "__main__":
    run(main)
