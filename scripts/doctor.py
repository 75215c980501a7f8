#!/usr/bin/env python3
"""Show versions, device and disk, and whether each part of this installation works."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib.venv import enter_environment

enter_environment()

from lib.console import Parser, run
from lib.doctor import REPOSITORY, Finding, Place, examine, facts, parts
from lib.store.studies import named_studies
from lib.web.environment import apply_environment, server_environment


def main() -> int:
    """Examine, print as text or JSON, and give exit code 1 if any part failed."""
    arguments = _parse()
    apply_environment(server_environment(os.environ))  # as scripts/serve would run it
    logging.disable(logging.WARNING)
    place = Place(arguments.app, arguments.studies, arguments.host, arguments.port)
    show = _Printer(quiet=arguments.json)
    # What libraries print while they are imported must not get into the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        known = facts(place)
        show.facts(known)
        findings = [show.finding(finding) for finding in examine(parts(place))]
    failed = [finding.name for finding in findings if not finding.ok]
    if arguments.json:
        content = {"ok": not failed, "facts": known, "checks": [dataclasses.asdict(finding) for finding in findings]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    elif failed:
        print(f"\n{len(failed)} of {len(findings)} parts failed: {', '.join(failed)}")
    else:
        print(f"\nall {len(findings)} parts work")
    return 1 if failed else 0


class _Printer:
    """Prints as text while the work goes on."""

    def __init__(self, quiet: bool) -> None:
        self._output = None if quiet else sys.stdout

    def facts(self, known: dict[str, str]) -> None:
        for name, value in known.items():
            self._line(f"{name:<16} {value}")
        self._line("")

    def finding(self, finding: Finding) -> Finding:
        self._line(
            f"{'ok' if finding.ok else 'FAILED':<7} {finding.name:<16} {finding.detail} ({finding.seconds:.1f} s)"
        )
        return finding

    def _line(self, text: str) -> None:
        if self._output:
            print(text, file=self._output, flush=True)


def _parse() -> argparse.Namespace:
    parser = Parser(
        description="Show versions, device and disk, and try each part. Exit code 0: all work, 1: some failed.",
        epilog="example: .venv/bin/python scripts/doctor.py --studies ~/livers",
    )
    app, studies = REPOSITORY / "apps" / "liver_tumor", REPOSITORY / "sample-data"
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--studies", type=named_studies, default=studies, metavar="DIR|URL", help="default: sample-data"
    )
    parser.add_argument("--app", type=Path, default=app, metavar="DIR", help="default: apps/liver_tumor")
    parser.add_argument("--host", default="127.0.0.1", help="address of the server (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port of the server (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
