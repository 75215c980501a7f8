"""The strategies, each a file of this folder, found by itself; `lib/activelearning/README.md` shows how to add one."""

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from lib.activelearning.strategy import Strategy


def find(folders: Iterable[str], package: str) -> Mapping[str, Strategy]:
    """Import all modules of a package and take the `STRATEGY` of each.

    Args:
        folders: where the modules lie, `__path__` of the package.
        package: its name.

    Returns:
        The strategies by their names, sorted.

    Raises:
        ImportError: a module has no strategy, or two have one of the same name.
    """
    found: dict[str, Strategy] = {}
    places: dict[str, str] = {}
    for module in sorted(each.name for each in pkgutil.iter_modules(list(folders))):
        place = f"{package}.{module}"
        strategy = getattr(importlib.import_module(place), "STRATEGY", None)
        if not isinstance(strategy, Strategy):
            msg = (
                f"{place} has no STRATEGY, a lib.activelearning.strategy.Strategy; helpers belong in lib.activelearning"
            )
            raise ImportError(msg)
        if strategy.name in found:
            msg = f"the strategies of {places[strategy.name]} and {place} are both named {strategy.name}; rename one"
            raise ImportError(msg)
        found[strategy.name], places[strategy.name] = strategy, place
    return MappingProxyType(dict(sorted(found.items())))


STRATEGIES: Mapping[str, Strategy] = find(__path__, __name__)
