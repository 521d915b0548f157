"""Tables of docs/results.md that a command writes: each stands between the marks <!-- NAME --> and
<!-- /NAME -->.
"""

import re
from pathlib import Path

from benchmarks.rounds import ROOT

PAGE = ROOT / "docs" / "results.md"


def write_table(name: str, table: str, page: Path = PAGE) -> None:
    """Put a table between the marks of its name. Raises ValueError for a page without them."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
    old = page.read_text(encoding="utf-8")
    new, count = marks.subn(lambda m: f"{m[1]}\n{table}\n\n{m[2]}", old)
    if not count:
        raise ValueError(f"{page} has no place for this table: add <!-- {name} --><!-- /{name} -->")
    if new != old:
        page.write_text(new, encoding="utf-8")
