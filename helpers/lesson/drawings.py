"""The drawings in docs/drawings/ as the output of a cell. (An image that a Markdown cell names by
its path is not found on Colab and Kaggle.)
"""

from dataclasses import dataclass
from xml.etree import ElementTree

from helpers.engine.files import ROOT

FOLDER = ROOT / "docs" / "drawings"


@dataclass(frozen=True)
class Drawing:
    """An SVG file, and its title and description in words."""

    svg: str
    words: str

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        return {"image/svg+xml": self.svg, "text/plain": self.words}


def draw(name: str) -> Drawing:
    """The drawing of this name, to end a cell with. Raises ValueError for an unknown name."""
    names = sorted(path.stem for path in FOLDER.glob("*.svg"))
    if name not in names:
        raise ValueError(f"there is no drawing {name!r}: take one of {', '.join(names)}")
    svg = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    parts = (ElementTree.fromstring(svg).findtext(f"{{*}}{part}") for part in ("title", "desc"))
    return Drawing(svg, ". ".join(" ".join(part.split()) for part in parts))
