"""Texts as the notebooks print them."""

import textwrap

WIDTH = 100  # characters, as wide as code


def wrap(text: str) -> str:
    """A text with its long lines broken between words, so that no notebook breaks them inside."""
    return "\n".join(textwrap.fill(line, WIDTH) for line in text.split("\n"))
