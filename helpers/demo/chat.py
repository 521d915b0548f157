"""`python -m helpers chat RUN`: ask the models of a run in a terminal."""

import random
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from helpers.demo.answers import MOST, Sampling, answer, remarks
from helpers.demo.models import Models, open_run
from helpers.engine.hardware import choose_device, choose_threads
from helpers.engine.parser import Parser, user_path
from helpers.run.checkpoints import CheckpointError
from helpers.run.options import add_settings
from helpers.run.session import find_platform, quiet_libraries
from helpers.run.settings import data_folder, read_settings
from helpers.run.setup import make_course

SETTINGS = ("data_dir", "device", "threads")
HELP = """Type a prompt on one line, the number of a held-out one, or Enter for any. Ctrl-D ends.
These models have read one kind of text only; to anything unlike the held-out prompts, and about
what a prompt leaves out, they make things up."""


def parser_of(command: str, description: str) -> Parser:
    """The options that the commands of this folder share."""
    parser = Parser(prog=f"python -m helpers {command}", description=description)
    text = "a run folder, such as runs/NAME (default: that of `make course`)"
    parser.add_argument("run", nargs="?", type=user_path, help=text)
    add_settings(parser, SETTINGS)
    return parser


def open_models(args: Namespace) -> Models:
    """The models that the options name. Raises CheckpointError, SettingsError, ValueError."""
    settings = read_settings({name: getattr(args, name) for name in SETTINGS})
    quiet_libraries()
    device = choose_device(settings.device)
    torch.set_num_threads(choose_threads(settings.threads, device))
    folder = args.run or make_course("3-PPO", settings, find_platform()).out
    return open_run(folder, device, data_folder(settings))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = parser_of("chat", "Ask the models of a run in the terminal.")
    for name, most in MOST.items():
        default = getattr(Sampling, name)
        text = f"at most {most} (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=text)
    args = parser.parse_args(argv)
    chosen = {name: getattr(args, name) for name in MOST if getattr(args, name) is not None}
    try:
        models = open_models(args)
        chat(models, Sampling(**{"tokens": models.response_tokens, **chosen}))
    except (CheckpointError, ValueError) as error:
        sys.exit(f"chat: {error}")


def chat(models: Models, sampling: Sampling) -> None:
    """Answer one prompt after another, until the input ends."""
    print(f"{models.folder.name}, track {models.track}: {', '.join(models.policies)}")
    print(*models.missing, HELP, sep="\n")
    for turn, line in enumerate(lines()):
        try:
            text = chosen_text(models, line.strip())
            prompt = models.read_prompt(text, sampling.tokens)
        except ValueError as error:
            print(f"({error})")
            continue
        print(f"\n{printable(prompt.prompt)}")
        *_, answers = answer(models, prompt, replace(sampling, seed=sampling.seed + turn))
        for one in answers.values():
            print(f"\n{one.policy}: {printable(one.text)}")
            print("   ", ", ".join(f"{name} {value}" for name, value in remarks(one).items()))


def lines() -> Iterator[str]:
    """What the user types, until Ctrl-D or Ctrl-C."""
    while True:
        try:
            yield input("\n> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def chosen_text(models: Models, line: str) -> str:
    """A prompt of one's own, or a held-out one by its number from 1, or any for an empty line."""
    if line and not line.isdecimal():
        return line
    count = len(models.prompts)
    if not count:
        raise ValueError("there are no held-out prompts: type one")
    number = int(line[:9]) if line else random.randint(1, count)
    if not 1 <= number <= count:
        raise ValueError(f"no prompt {number}: choose 1 to {count}")
    return models.prompts[number - 1].prompt


def printable(text: str) -> str:
    """A text that gives no orders to the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
