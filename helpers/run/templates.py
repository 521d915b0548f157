"""Texts with gaps, by Jinja2: the templates are the *.j2 files beside this one."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, escape: bool = False, **values: Any) -> str:
    """A template with these values in its gaps. escape: values that are texts in HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["as"] = format  # {{ 0.123 | as(".1%") }}
    return environment.get_template(template).render(values)
