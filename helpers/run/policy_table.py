"""The table of policies as text, with every interval, in a few blocks: what
`helpers.compare.policies.evaluate_policies` measured.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One number of a policy: its key in the metrics, its title, and the decimals to show."""

    key: str
    title: str
    digits: int = 2

    def text(self, row: "Mapping[str, Cell]") -> str:
        """The number of a row with its interval, or a dash."""
        return number_text(*row.get(self.key, (None, None)), f".{self.digits}f")


# Blocks of the table and panels of the figure. A column without a number in any row is left out.
BLOCKS: dict[str, list[Column]] = {
    "judged": [
        Column("score", "score (SFT sd)"),
        Column("kl", "KL (nats)", 1),
        Column("judge", "second judge"),
        Column("win_rate", "wins over SFT"),
        Column("win_rate_controlled", "at equal length"),
        Column("win_rate_people", "wins over people"),
    ],
    "text": [
        Column("stop_rate", "stop rate", 3),
        Column("words", "words", 1),
        Column("distinct-1", "distinct-1", 3),
        Column("distinct-2", "distinct-2", 3),
        Column("distinct-3", "distinct-3", 3),
        Column("perplexity", "perplexity", 1),
    ],
    "against references": [
        Column("ROUGE-1", "ROUGE-1", 3),
        Column("ROUGE-2", "ROUGE-2", 3),
        Column("ROUGE-L", "ROUGE-L", 3),
        Column("BLEU", "BLEU", 1),
        Column("ROUGE-L_over_lead", "ROUGE-L over lead", 3),
    ],
    "against references, greedy": [
        Column("greedy/ROUGE-1", "ROUGE-1", 3),
        Column("greedy/ROUGE-2", "ROUGE-2", 3),
        Column("greedy/ROUGE-L", "ROUGE-L", 3),
        Column("greedy/BLEU", "BLEU", 1),
        Column("greedy/ROUGE-L_over_lead", "ROUGE-L over lead", 3),
        Column("greedy/stop_rate", "stop rate", 3),
    ],
}
Cell = tuple[float, list[float] | None]  # a number, and its 95% interval where there is one


def all_rows(metrics: Mapping) -> dict[str, dict[str, Cell]]:
    """{policy: {column's key: cell}} of the policies, then of what people wrote and the
    baselines.
    """
    people = {"people": metrics["people"]} if "people" in metrics else {}
    rows = {}
    for name, row in {**metrics["table"], **people, **metrics.get("baselines", {})}.items():
        greedy = {f"greedy/{key}": value for key, value in row.get("greedy", {}).items()}
        rows[name] = dict(
            cells_of({**row, **greedy, **wins_of(metrics.get("win_rates", {}), name)})
        )
    return rows


def wins_of(win_rates: Mapping[str, Mapping], name: str) -> dict:
    """The win rates of a policy over SFT and people, as further numbers of its row."""
    found = {}
    if rate := win_rates.get(f"{name} over SFT"):
        found |= {"win_rate": rate["rate"], "win_rate_ci95": rate["ci95"]}
        found |= {
            "win_rate_controlled": rate["controlled"],
            "win_rate_controlled_ci95": rate["controlled_ci95"],
        }
    if rate := win_rates.get(f"{name} over people"):
        found |= {"win_rate_people": rate["rate"], "win_rate_people_ci95": rate["ci95"]}
    return found


def cells_of(row: Mapping) -> Iterator[tuple[str, Cell]]:
    """(key, cell) of each number of a row."""
    for key, value in row.items():
        if isinstance(value, (int, float)):
            yield key, (value, row.get(f"{key}_ci95"))


def number_text(
    value: float | None, interval: Sequence[float] | None = None, form: str = ".3f"
) -> str:
    """A number with its 95% interval, such as "0.80 [0.77, 0.83]"; a dash where there is neither.

    form: as in an f-string, such as "+.2f" or ".1%".
    """
    known = value is not None and math.isfinite(value)
    parts = [f"{value:{form}}"] if known else []
    if interval is not None:
        parts.append(f"[{', '.join(f'{bound:{form}}' for bound in interval)}]")
    return " ".join(parts) or "-"


def used(columns: list[Column], rows: Mapping[str, Mapping[str, Cell]]) -> list[Column]:
    """The columns with a number in at least one row."""
    return [column for column in columns if any(column.key in row for row in rows.values())]


def block(title: str, columns: list[Column], rows: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """The lines of one block; rows without any of its numbers are left out."""
    kept = {name: row for name, row in rows.items() if any(column.key in row for column in columns)}
    lines = [[title, *(column.title for column in columns)]]
    lines += [[name, *(column.text(row) for column in columns)] for name, row in kept.items()]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]


def table_text(metrics: Mapping) -> str:
    """The whole table, 95% intervals in brackets, and what must be known to read it."""
    rows = all_rows(metrics)
    lines: list[str] = []
    for title, columns in BLOCKS.items():
        if there := used(columns, rows):
            lines += [*block(title, there, rows), ""]
    return "\n".join(lines + notes(metrics))


def notes(metrics: Mapping) -> list[str]:
    """How good the judges are, and what PPO gained by them."""
    found = [
        f"{metrics['table']['PPO']['responses']} held-out prompts; 95% intervals by bootstrap "
        "over prompts (distinct-n: jackknife). KL of best of n is its upper bound."
    ]
    if "judge_accuracy" in metrics:
        low, high = metrics["judge_accuracy_ci95"]
        weak = " It may be no better than chance: its columns say little." if low <= 0.5 else ""
        accuracy = number_text(metrics["judge_accuracy"], (low, high))
        gain = number_text(metrics["judge_gain"], metrics["judge_gain_ci95"])
        found.append(
            f"Second judge ({metrics['judge_unit']}): accuracy {accuracy} on held-out rows."
            f"{weak} PPO over SFT by it: {gain}."
        )
    for pair, rate in metrics.get("asked", {}).items():
        found.append(
            f"Judge behind the endpoint, {pair}: {number_text(rate['rate'], rate['ci95'], '.2f')} "
            f"of {rate['pairs']} pairs, {rate['unanswered']} unanswered; in {rate['flipped']:.0%} "
            "the order decided."
        )
    if "baselines" in metrics:
        found.append(
            "ROUGE: F-measure of stemmed words. BLEU: sacrebleu's default (13a, mixed case, exp "
            "smoothing)."
        )
    return found
