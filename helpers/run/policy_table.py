"""The table of policies on real rows (`helpers.compare.policies`) as text, with every interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


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
}
BLOCKS["against references, greedy"] = [
    replace(column, key=f"greedy/{column.key}")
    for column in [*BLOCKS["against references"], Column("stop_rate", "stop rate", 3)]
]
Cell = tuple[float, list[float] | None]  # a number, and its 95% interval where there is one
Table = tuple[list[str], list[list[str]]]  # header and rows, as text


def all_rows(metrics: Mapping) -> dict[str, dict[str, Cell]]:
    """{row: {column's key: cell}} of the policies, of what people wrote, and of the baselines."""
    people = {"people": metrics["people"]} if "people" in metrics else {}
    rows = {}
    for name, row in {**metrics["table"], **people, **metrics.get("baselines", {})}.items():
        greedy = {f"greedy/{key}": value for key, value in row.get("greedy", {}).items()}
        numbers = {**row, **greedy, **wins_of(metrics.get("win_rates", {}), name)}
        rows[name] = {
            key: (value, numbers.get(f"{key}_ci95"))
            for key, value in numbers.items()
            if isinstance(value, (int, float))
        }
    return rows


def wins_of(win_rates: Mapping[str, Mapping], name: str) -> dict:
    """The win rates of a policy over SFT and people, as further numbers of its row."""
    numbers = {}
    for opponent, key in (("SFT", "win_rate"), ("people", "win_rate_people")):
        if rate := win_rates.get(f"{name} over {opponent}"):
            numbers |= {key: rate["rate"], f"{key}_ci95": rate["ci95"]}
            numbers |= {f"{key}_controlled": rate["controlled"]}
            numbers |= {f"{key}_controlled_ci95": rate["controlled_ci95"]}
    return numbers


def number_text(
    value: float | None, interval: Sequence[float] | None = None, form: str = ".3f"
) -> str:
    """A number with its 95% interval, such as "0.80 [0.77, 0.83]"; a dash where there is neither.
    Bounds of NaN, or None in a record, are too few rows for an interval: it is left out.

    form: as in an f-string, such as "+.2f" or ".1%".
    """
    known = value is not None and math.isfinite(value)
    parts = [f"{value:{form}}"] if known else []
    if interval is not None and all(b is not None and math.isfinite(b) for b in interval):
        parts.append(f"[{', '.join(f'{bound:{form}}' for bound in interval)}]")
    return " ".join(parts) or "-"


def tables(metrics: Mapping) -> list[Table]:
    """The blocks as tables of text, each with the columns and rows that have a number in it."""
    rows, blocks = all_rows(metrics), []
    for title, columns in BLOCKS.items():
        columns = [column for column in columns if any(column.key in row for row in rows.values())]
        body = [
            [name, *(column.text(row) for column in columns)]
            for name, row in rows.items()
            if any(column.key in row for column in columns)
        ]
        if body:
            blocks.append(([title, *(column.title for column in columns)], body))
    return blocks


def aligned(header: list[str], body: list[list[str]]) -> str:
    """A table as lines of text: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(header, *body)]
    rows = [header, ["-" * width for width in widths], *body]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(line) for line in lines)


def table_text(metrics: Mapping) -> str:
    """The whole table, 95% intervals in brackets, and what must be known to read it."""
    return "\n\n".join([*(aligned(*table) for table in tables(metrics)), notes(metrics)])


def notes(metrics: Mapping) -> str:
    """How good the judges are, and what PPO gained by them."""
    prompts = metrics["table"]["PPO"]["responses"]
    how = f"{prompts} held-out prompts; 95% intervals by bootstrap over prompts"
    how += " (distinct-n: jackknife)"
    if prompts < 2:
        how = f"{prompts} held-out prompt: too few for an interval, or to tell what is better"
    lines = [f"{how}. KL of best of n is its upper bound."]
    if "judge_accuracy" in metrics:
        interval = metrics["judge_accuracy_ci95"]
        weak = " It may be no better than chance: its columns say little."
        weak = "" if (interval[0] or 0.0) > 0.5 else weak
        accuracy = number_text(metrics["judge_accuracy"], interval)
        gain = number_text(metrics["judge_gain"], metrics["judge_gain_ci95"])
        lines.append(
            f"Second judge ({metrics['judge_unit']}): accuracy {accuracy} on held-out rows."
            f"{weak} PPO over SFT by it: {gain}."
        )
    for pair, rate in metrics.get("asked", {}).items():
        lines.append(
            f"Judge behind the endpoint, {pair}: {number_text(rate['rate'], rate['ci95'], '.2f')} "
            f"of {rate['pairs']} pairs, {rate['unanswered']} unanswered; in {rate['flipped']:.0%} "
            "the order decided."
        )
    if "baselines" in metrics:
        lines.append(
            "ROUGE: F-measure of stemmed words. BLEU: sacrebleu's default (13a, mixed case, exp "
            "smoothing)."
        )
    return "\n".join(lines)
