"""What a simulation's folder holds, as one result for its report."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.errors import BadInputError, NotFoundError
from lib.files import atomic_write
from lib.simulation.material import read_cases, seed_folder
from lib.simulation.page import as_markdown, tables
from lib.simulation.plan import PHANTOMS, Plan
from lib.simulation.report import summarize
from lib.simulation.rounds import read_rounds

_PLACE = re.compile(r"(<!-- simulation -->\n).*?(<!-- end of simulation -->)", re.DOTALL)
_LEFT_OUT = ("cases", "chosen")  # of a round: they fill megabytes, and lie in the simulation's folder


def collect(plan: Plan, strategies: Sequence[str], seeds: Sequence[int], folder: Path, command: str) -> dict[str, Any]:
    """The result of what is done so far, JSON-ready.

    Returns:
        `date`, `command`, `plan`, `pool` (images of each kind, all seeds together), `summary` (see
        `lib.simulation.report.summarize`) and `campaigns`: by strategy and seed the rounds, without single cases.

    Raises:
        NotFoundError: no campaign has a round yet.
    """
    campaigns = {
        strategy: {seed: read_rounds(seed_folder(folder, seed) / strategy) for seed in seeds} for strategy in strategies
    }
    if not any(rounds for found in campaigns.values() for rounds in found.values()):
        msg = f"{folder} holds no round of these strategies and seeds yet"
        raise NotFoundError(msg)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "plan": plan.figures(),
        "pool": _kinds(plan, seeds, folder),
        "summary": summarize(campaigns),
        "campaigns": {
            strategy: {str(seed): [_short(one) for one in rounds] for seed, rounds in found.items() if rounds}
            for strategy, found in campaigns.items()
        },
    }


def fill_in(page: Path, summary: Mapping[str, Any], command: str, png: bytes) -> None:
    """Put table and picture of a simulation into a page of the documentation, between its two marks.

    The picture gets the page's name with `.png` beside it.

    Raises:
        BadInputError: the page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    picture = page.with_name("images") / "simulation.png"
    rows = tables(summary)
    parts = [
        f"Made by `{command}`, {len(summary['seeds'])} seeds. At the end; mean of the curves; labels needed:",
        *map(as_markdown, rows.values()),
        f"![Learning curves](images/{picture.name})",
    ]
    filled, count = _PLACE.subn(lambda found: found[1] + "\n\n".join(parts) + "\n" + found[2], text)
    if not count:
        msg = f"{page} has no <!-- simulation --> and <!-- end of simulation --> to write between"
        raise BadInputError(msg)
    with atomic_write(picture) as temporary:
        temporary.write_bytes(png)
    with atomic_write(page) as temporary:
        temporary.write_text(filled, encoding="utf-8")


def _kinds(plan: Plan, seeds: Sequence[int], folder: Path) -> dict[str, int]:
    phantoms = plan.pool == PHANTOMS
    places = [seed_folder(folder, seed) / "pool" for seed in seeds] if phantoms else [Path(plan.pool)]
    kinds = Counter(case.kind for place in places if place.is_dir() for case in read_cases(place).values())
    return dict(kinds.most_common())


def _short(done: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in done.items() if key not in _LEFT_OUT}
