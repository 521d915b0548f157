"""Texts as the notebooks print them."""

import textwrap
from typing import Any

WIDTH = 100  # characters, as wide as code


def wrap(text: str) -> str:
    """A text with its long lines broken between words, so that no notebook breaks them inside."""
    return "\n".join(textwrap.fill(line, WIDTH) for line in text.split("\n"))


def rounded(value: Any) -> Any:
    """Numbers with three decimals, also those in lists and dictionaries."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value
