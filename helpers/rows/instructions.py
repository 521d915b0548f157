"""Requests and answers: the rows of tatsu-lab/alpaca, Dahoas/rm-static and
Dahoas/synthetic-instruct-gptj-pairwise.
"""

import re

from data.advice.templates import ASSISTANT, INSTRUCT
from helpers.records import Comparison, Demonstration, Prompt
from helpers.rows.common import Limits, Unusable, comparison, completion, field

NO_INPUT = re.compile(r"|\W*no ?input\W*", re.IGNORECASE)  # Alpaca's ways to say that there is none
HUMAN, ANSWER = re.compile(r"(?:^|\n\n) *Human:"), re.compile(r"\n\n *Assistant:$")


def alpaca_key(row: dict) -> str:
    """The request: the instruction, and under it the input where there is one."""
    instruction, given = field(row, "instruction"), field(row, "input", may_be_empty=True)
    return instruction if NO_INPUT.fullmatch(given) else f"{instruction}\n\n{given}"


def alpaca_prompt(row: dict, limits: Limits) -> Prompt:
    """A request."""
    text = ASSISTANT.format(request=alpaca_key(row))
    limits.check(text)
    return Prompt(text)


def alpaca_demonstration(row: dict, limits: Limits) -> Demonstration:
    """A request and its answer."""
    text, answer = alpaca_prompt(row, limits).prompt, completion(field(row, "output"))
    limits.check(text, answer)
    return Demonstration(text, answer)


def last_turn(row: dict) -> str:
    """What the human said last in a dialogue "\\n\\nHuman: ...\\n\\nAssistant: ...\\n\\nHuman:
    ...\\n\\nAssistant:".
    """
    _, *turns = HUMAN.split(field(row, "prompt"))
    answer = ANSWER.search(turns[-1]) if turns else None
    if answer is None:
        raise Unusable("prompt is no dialogue")
    request = turns[-1][: answer.start()].strip()
    if not request:
        raise Unusable("empty last turn")
    return request


def dialogue_comparison(row: dict, limits: Limits) -> Comparison:
    """The last request of a dialogue and two answers, in the same template as Alpaca's requests."""
    text = ASSISTANT.format(request=last_turn(row))
    return comparison(
        text, completion(field(row, "chosen")), completion(field(row, "rejected")), limits
    )


def instruct_key(row: dict) -> str:
    """The request."""
    return field(row, "prompt")


def instruct_prompt(row: dict, limits: Limits) -> Prompt:
    """A request."""
    text = INSTRUCT.format(request=field(row, "prompt"))
    limits.check(text)
    return Prompt(text)


def instruct_demonstration(row: dict, limits: Limits) -> Demonstration:
    """A request and the better of its two answers."""
    text, answer = instruct_prompt(row, limits).prompt, completion(field(row, "chosen"))
    limits.check(text, answer)
    return Demonstration(text, answer)


def instruct_comparison(row: dict, limits: Limits) -> Comparison:
    """A request and its two answers."""
    text = INSTRUCT.format(request=field(row, "prompt"))
    return comparison(
        text, completion(field(row, "chosen")), completion(field(row, "rejected")), limits
    )
