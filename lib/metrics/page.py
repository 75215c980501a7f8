"""How HTML reports are made of templates: text is escaped, and a name that the template has wrong is an error."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def page_template(path: Path, filters: Mapping[str, Callable[..., Any]]) -> Template:
    """A template.

    Args:
        path: its file; what it includes lies beside it.
        filters: its own, by name.
    """
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(path.name)
