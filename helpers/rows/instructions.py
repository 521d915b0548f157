"""Requests and answers: the rows of tatsu-lab/alpaca, Dahoas/rm-static and
Dahoas/synthetic-instruct-gptj-pairwise.
"""

import re

from data.advice.templates import ASSISTANT, INSTRUCT
from helpers.records import Comparison, Demonstration, Prompt
from helpers.rows import common
from helpers.rows.common import Limits, Unusable, completion, field

# Alpaca's ways to say that a request needs no input, and that there is no answer.
NO_INPUT = re.compile(
    r"|\W*(?:no ?input(?: (?:required|needed|provided))?|n/a|none)\W*", re.IGNORECASE
)
NO_OUTPUT = re.compile(r"\W*(?:no ?(?:in|out)put|n/a)\W*|<\s*no ?(?:in|out)put\b.*", re.I | re.S)
HUMAN, ANSWER = re.compile(r"(?:^|\n\n) *Human:"), re.compile(r"\n\n *Assistant:$")


def alpaca_key(row: dict) -> str:
    """The request: the instruction, and below it the input if there is one."""
    instruction = field(row, "instruction")
    extra = "" if row.get("input") is None else field(row, "input", may_be_empty=True)
    return instruction if NO_INPUT.fullmatch(extra) else f"{instruction}\n\n{extra}"


def alpaca_prompt(row: dict, limits: Limits) -> Prompt:
    """A request in the assistant's template."""
    return common.prompt(ASSISTANT.format(request=alpaca_key(row)), limits)


def alpaca_demonstration(row: dict, limits: Limits) -> Demonstration:
    """A request and its answer."""
    prompt, answer = alpaca_prompt(row, limits).prompt, field(row, "output")
    if NO_OUTPUT.fullmatch(answer):
        raise Unusable("output is a placeholder")
    return common.demonstration(prompt, completion(answer), limits)


def last_turn(row: dict) -> str:
    """The last request of a dialogue "\\n\\nHuman: ...\\n\\nAssistant: ...\\n\\nAssistant:"."""
    _, *turns = HUMAN.split(field(row, "prompt"))
    answer = ANSWER.search(turns[-1]) if turns else None
    if answer is None:
        raise Unusable("prompt is no dialogue")
    request = turns[-1][: answer.start()].strip()
    if not request:
        raise Unusable("empty last turn")
    return request


def dialogue_comparison(row: dict, limits: Limits) -> Comparison:
    """The last request of a dialogue and two answers, in the template of Alpaca's requests."""
    return two_answers(ASSISTANT.format(request=last_turn(row)), row, limits)


def instruct_key(row: dict) -> str:
    """The request."""
    return field(row, "prompt")


def instruct_prompt(row: dict, limits: Limits) -> Prompt:
    """A request in the template of instructions."""
    return common.prompt(INSTRUCT.format(request=instruct_key(row)), limits)


def instruct_demonstration(row: dict, limits: Limits) -> Demonstration:
    """A request and the better of its two answers."""
    prompt = instruct_prompt(row, limits).prompt
    return common.demonstration(prompt, completion(field(row, "chosen")), limits)


def instruct_comparison(row: dict, limits: Limits) -> Comparison:
    """A request and its two answers."""
    return two_answers(INSTRUCT.format(request=instruct_key(row)), row, limits)


def two_answers(prompt: str, row: dict, limits: Limits) -> Comparison:
    """A prompt with the chosen and the rejected answer of a row."""
    chosen, rejected = (completion(field(row, name)) for name in ("chosen", "rejected"))
    return common.comparison(prompt, chosen, rejected, limits)
