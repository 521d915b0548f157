"""What tests of the lesson's widgets share: the controls of an explorer, and what it shows."""

from ipywidgets import HTML, Image

from helpers.lesson.widgets.core import inside


def controls(widget) -> dict:
    """{description: control}."""
    named = {getattr(x, "description", ""): x for x in inside(widget)}
    return {name: control for name, control in named.items() if name}


def shown(widget) -> list:
    """What an explorer shows, in order: its texts, and its pictures as bytes."""
    values = [x.value for x in inside(widget) if isinstance(x, (HTML, Image))]
    return [value if isinstance(value, str) else bytes(value) for value in values]
