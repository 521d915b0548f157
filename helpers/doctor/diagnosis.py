"""A diagnosis: what a PPO log shows, as findings and as text; `python -m helpers doctor LOG`."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from helpers.doctor.findings import Finding, without_consequences
from helpers.doctor.logs import Log, missing, read_log
from helpers.doctor.rules import RULES
from helpers.engine.parser import Parser


def diagnose(source: str | Path | Sequence[dict]) -> list[Finding]:
    """The ailments that a log shows, the surest first; none if nothing is suspicious.

    source: a .jsonl or .csv log, a `trainer_state.json`, what TRL or verl printed, or rows as
    `Loop.history` has them. Raises SettingsError for a log that can't be read.
    """
    return findings_of(read_log(source))


def findings_of(log: Log) -> list[Finding]:
    """What the rules find."""
    return without_consequences([finding for rule in RULES if (finding := rule(log))])


def report(log: Log, findings: list[Finding]) -> str:
    """A diagnosis as text."""
    theirs = {name: log.called(name) for name in log.names}
    known = [f"{name} ({called})" if name != called else name for name, called in theirs.items()]
    lines = [f"{log.rows:,} rows; columns read: {', '.join(known)}", *log.notes]
    if not findings:
        lines += ["", "nothing suspicious"]
    for i, finding in enumerate(findings, 1):
        lines += ["", f"{i}. {finding.ailment} ({finding.sure})"]
        lines += [f"   evidence   {finding.evidence}"]
        if finding.also:
            lines += [f"   or else    {', '.join(finding.also)}: this log can't tell them apart"]
        lines += [f"   try first  {finding.advice}", f"   read       {finding.section}"]
    if absent := missing(log):
        lines += ["", "not in the log, so not judged:", *(f"   {column}" for column in absent)]
    wrapped = [textwrap.fill(line, 100, subsequent_indent=" " * 14) for line in lines]
    return "\n".join(wrapped)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m helpers doctor LOG`: 0 if nothing is suspicious, else 1."""
    parser = Parser(
        prog="python -m helpers doctor",
        description="Say what is suspicious in the log of a PPO run, how sure that is, and what to "
        "try first.",
        epilog="exit status: 0 nothing is suspicious, 1 something is, 2 the log can't be read",
    )
    parser.add_argument(
        "log",
        type=Path,
        help="a log of PPO: .jsonl, .csv or trainer_state.json, of this course, TRL, OpenRLHF, "
        "verl or open-instruct, an export of wandb, or a text with what TRL or verl printed",
    )
    log = read_log(parser.parse_args(argv).log)
    findings = findings_of(log)
    print(report(log, findings))
    return 1 if findings else 0
