"""What a run folder has to talk to: its policies, its reward model, its held-out prompts."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from helpers.engine.files import ROOT
from helpers.model import GPT, RewardModel
from helpers.records import Prompt
from helpers.rows import tldr
from helpers.rows.common import Limits, Unusable, field as text_of
from helpers.rows.load import load_track
from helpers.rows.tracks import TRACKS, SourceError
from helpers.rows.vocabulary import read_tokenizer
from helpers.run.checkpoints import CheckpointError, load_stage, read_info
from helpers.tokenizer import Tokenizer

POLICIES = ("base", "SFT", "PPO")
# Name: the stage that makes it. The SFT model first: the others must be of its track.
STAGES = {"SFT": "sft", "base": "pretrain", "reward model": "reward", "PPO": "ppo"}
SHOWN = 200  # held-out prompts to choose from
LONGEST = 50_000  # characters of a prompt


@dataclass(frozen=True)
class Models:
    """The models of one run, which are only read, so that many users may share them."""

    folder: Path
    track: str
    tokenizer: Tokenizer
    policies: dict[str, GPT]  # those there are, in the order of POLICIES
    reward: RewardModel | None
    config: dict  # what the stages record, together
    prompts: list[Prompt] = field(default_factory=list)  # held-out
    missing: list[str] = field(default_factory=list)  # a line for each, with what makes it

    @property
    def reference(self) -> GPT | None:
        """The SFT model, from which the KL is measured."""
        return self.policies.get("SFT")

    @property
    def context(self) -> int:
        """The longest prompt and response, in tokens, that all models can read."""
        models = [*self.policies.values(), *([self.reward.gpt] if self.reward else [])]
        return min(model.config.context for model in models)

    @property
    def response_tokens(self) -> int:
        """The longest response that the run was trained for."""
        return min(self.config.get("response_tokens", 64), self.context // 2)

    @cached_property
    def known(self) -> dict[str, Prompt]:
        """The held-out prompts by their text."""
        return {prompt.prompt: prompt for prompt in self.prompts}

    def read_prompt(self, text: str, tokens: int) -> Prompt:
        """A user's text as a prompt in the track's template, with its facts where they are known.

        tokens: kept free for the response. A post that is too long is cut at its end. Raises
        ValueError, one line, for a text that is empty or too long.
        """
        limits = Limits(self.tokenizer.encode, self.context - tokens, self.context)
        try:
            text = in_template(self.track, text_of({"text": text[:LONGEST]}, "text"))
            if self.track == "tldr":
                text = tldr.prompt({"prompt": text}, limits).prompt
            limits.check(text)
        except Unusable as reason:
            says = f"{reason}: with a response of {tokens} tokens, {limits.prompt} fit"
            raise ValueError(says if "long" in says else str(reason)) from None
        return self.known.get(text, Prompt(text))


def in_template(track: str, text: str) -> str:
    """A stripped text in the track's template, unless it is in it already."""
    if track != "tldr":
        start, end = TRACKS[track].template.split("{request}")
        return text if text.startswith(start) and text.endswith(end) else start + text + end
    try:
        return tldr.key({"prompt": text})
    except Unusable:  # no post with subreddit and title: the first line is the title
        title, _, post = text.partition("\n")
        fields = {"subreddit": "advice", "title": title[:80], "post": post.strip() or title}
        return tldr.TEMPLATE.format(**fields)


def open_run(
    folder: Path, device: torch.device | str = "cpu", data_dir: Path | None = None
) -> Models:
    """The models of a run folder. What is missing, damaged or of another run is left out, and named
    in `missing`. data_dir: the folder with the run's rows, if they are local.

    Raises CheckpointError, one line, where no policy is left.
    """
    place = folder / "checkpoints"
    name_of = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    stages = stages_of(folder)
    if not any((place / stage).exists() for stage in stages.values()):
        raise CheckpointError(
            f"no checkpoint in {name_of}: run `make course` first{others(folder)}"
        )
    models, config, shared, missing = {}, {}, {}, []
    for name, stage in stages.items():
        try:
            info = read_info(place / stage, stage)
            if not shared:  # by the track and the tokenizer of the first
                tokenizer = read_tokenizer(place / stage / "tokenizer.json")
                shared = {"track": info["track"], "tokenizer": tokenizer}
            model, _ = load_stage(place / stage, stage=stage, **shared, device=device)
        except (CheckpointError, OSError, ValueError) as error:
            there = (place / stage).exists()
            options = f"--track {shared['track']} {options_of(config)}" if config else ""
            command = f"python -m helpers {stage} {options}--out {name_of}"
            missing.append(f"{name} left out: {error}" if there else f"no {name}: `{command}`")
        else:
            models[name], config = model.eval().requires_grad_(False), info["config"] | config
    reward = models.pop("reward model", None)
    policies = {name: models[name] for name in POLICIES if name in models}
    if not policies:
        raise CheckpointError("; ".join(missing))
    run = Models(folder, **shared, policies=policies, reward=reward, config=config, missing=missing)
    run.prompts.extend(heldout(run, data_dir))
    return run


def stages_of(folder: Path) -> dict[str, str]:
    """{name: the folder of its checkpoint}. The base model may be external weights."""
    external = (folder / "checkpoints" / "base").exists()
    return STAGES | {"base": "base"} if external else STAGES


def options_of(config: dict) -> str:
    """The settings that a checkpoint records, as options of a stage's command."""
    names = [name for name in ("preset", "source", "seed") if name in config]
    return "".join(f"--{name} {config[name]} " for name in names)


def others(folder: Path) -> str:
    """The runs beside a folder, to choose from."""
    names = sorted(path.parent.name for path in folder.parent.glob("*/checkpoints"))
    return f", or name one of {', '.join(names)}" if names else ""


def heldout(run: Models, data_dir: Path | None) -> list[Prompt]:
    """Held-out prompts of the run's rows; where they can't be had none, and a line in `missing`."""
    room = run.context - run.response_tokens
    limits = Limits(run.tokenizer.encode, room, run.context)
    where = {"source": run.config.get("source", "embedded"), "data_dir": data_dir}
    try:
        return load_track(run.track, "prompts", "heldout", limits=limits, limit=SHOWN, **where)[0]
    except (SourceError, ImportError, OSError, ValueError) as error:
        reason = str(error).partition(". ")[0]  # what follows is for training
        run.missing.append(f"no held-out prompts to choose from: {reason}")
        return []
