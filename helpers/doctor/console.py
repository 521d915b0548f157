"""Rows of metrics in what a run has printed: the dicts of TRL and the lines of verl."""

import re
from collections.abc import Sequence

NUMBER = r"(-?(?:\d[\d.]*(?:[eE][+-]?\d+)?|inf|nan))"
IN_DICT = re.compile(rf"'([^']+)': '?{NUMBER}(?=['}},])")  # {'objective/kl': 1.5, 'lr': '1e-05'}
VERL = re.compile(r"\bstep:\d+ - .*")  # step:1 - actor/entropy:0.5 - critic/score/mean:0.1
IN_VERL = re.compile(rf"([^\s:]+):(?:np\.\w+\()?{NUMBER}\)?(?= - |\s*$)")


def printed_rows(lines: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, {name: number as text}) of each line with metrics. Progress bars and
    all other text are passed over.
    """
    rows = []
    for number, line in enumerate(lines, 1):
        found = VERL.search(line)
        pairs = IN_VERL.findall(found[0]) if found else IN_DICT.findall(line)
        if pairs:
            rows.append((number, dict(pairs)))
    return rows
