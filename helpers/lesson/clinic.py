"""The clinic: short PPO runs, each with one of the classic mistakes.

    history = run_clinic(course, "dropout")

What their logs show is the business of `helpers/doctor`.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from helpers import ppo
from helpers.engine.loop import Loop
from helpers.lesson import ailments as make
from helpers.lesson.ailments import Patient, swapped
from helpers.model import GPT
from helpers.rollouts import Models
from helpers.run.base_model import load_base
from helpers.run.checkpoints import load_stage
from helpers.run.course import Course


@dataclass(frozen=True)
class Ailment:
    """A mistake. infect(patient): the patient with the mistake, as long as the context lasts."""

    name: str
    mistake: str  # one sentence
    infect: Callable[[Patient], AbstractContextManager[Patient]]


# ---------------------------------------------------------------- all of them

AILMENTS = {
    ailment.name: ailment
    for ailment in (
        Ailment("dropout", "The policy's dropout is on.", make.dropout),
        Ailment(
            "positions count the pads",
            "Left-padded texts are scored without position ids.",
            partial(make.other_logits, read=make.without_positions),
        ),
        Ailment("pads attended", "The policy attends to left pads.", make.attended_pads),
        Ailment("temperature", "Sampled at 0.7, scored at 1.", make.sampling(temperature=0.7)),
        Ailment("top-k", "Sampled from the 2 likeliest tokens.", make.sampling(top_k=2)),
        Ailment("top-p", "Sampled from the likeliest 90%.", make.sampling(top_p=0.9)),
        Ailment("greedy rollouts", "The likeliest token, always.", make.sampling(temperature=0.0)),
        Ailment(
            "repetition penalty",
            "Sampled with a penalty on repeated tokens, scored without.",
            make.processed(make.repetition_penalty),
        ),
        Ailment(
            "minimum length",
            "No end of text is sampled among the first 32 tokens.",
            make.processed(make.minimum_length),
        ),
        Ailment(
            "tokens after the EOS",
            "What is sampled after the end of text counts.",
            partial(make.other_sampler, sampler=make.never_truncated),
        ),
        Ailment(
            "pad is EOS",
            "The pad token is the end of text, so the mask drops it.",
            partial(make.other_sampler, sampler=make.without_eos),
        ),
        Ailment(
            "one update per rollout", "The minibatch is the whole rollout.", make.one_minibatch
        ),
        Ailment("too many epochs", "Eight passes over each rollout.", make.setting(epochs=8)),
        Ailment(
            "returns after whitening",
            "Returns are computed from whitened advantages.",
            make.returns_after_whitening,
        ),
        Ailment("mean added back", "Whitening keeps the advantages' mean.", make.mean_added_back),
        Ailment("KL made positive", "The absolute value of the KL per token.", make.positive_kl),
        Ailment(
            "reward read at a pad", "The head is read at the last column.", make.read_at_the_end
        ),
        Ailment(
            "scores z-scored by batch", "Normalised in every 8 responses.", make.scores_by_batch
        ),
        Ailment("reference is not SFT", "The base model is the reference.", make.base_as_reference),
        Ailment("no KL penalty", "The KL coefficient is 0.", make.setting(kl_coef=0.0)),
        Ailment(
            "scores not normalised", "Ten times as large as they should be.", make.scaled_scores
        ),
        Ailment("value rate too high", "A hundred times too large.", make.setting(value_lr=0.3)),
        Ailment("value model never learns", "Its learning rate is 0.", make.setting(value_lr=0.0)),
        Ailment("log-softmax in 16 bits", "In training, not in rollouts.", make.rounded_softmax),
        Ailment("clipped while scaled", "Clipping before unscaling.", make.clipped_while_scaled),
        Ailment("micro-batches averaged", "Means of unequal parts.", make.averaged_parts),
    )
}


def ailment_of(name: str) -> Ailment:
    """The ailment with this name. Raises ValueError for one that the clinic does not have."""
    if name not in AILMENTS:
        raise ValueError(f"no ailment {name!r}: choose from {', '.join(AILMENTS)}")
    return AILMENTS[name]


# ---------------------------------------------------------------- the clinic


def admit(course: Course, iterations: int = 8, rollout_size: int = 64) -> Patient:
    """A patient for a short run, from the SFT and reward models of a course."""
    same = {"track": course.track, "tokenizer": course.tokenizer, "device": course.device}
    sft, reward = (load_stage(course.folder(s), stage=s, **same)[0] for s in ("sft", "reward"))
    value = copy.deepcopy(reward).requires_grad_(True)
    value.surprise_weight.requires_grad_(False)  # only the head's values are read
    policy = copy.deepcopy(sft).requires_grad_(True)
    models = Models(policy, sft.requires_grad_(False), reward.requires_grad_(False), value)
    config = replace(course.config, iterations=iterations, rollout_size=rollout_size)
    config = replace(config, minibatch_size=min(config.minibatch_size, rollout_size // 2))
    prompts = course.rows("prompts", "train")
    base = load_base(course)[0].requires_grad_(False)
    return Patient(models, prompts, config, course.tokenizer, base)


def train_patient(patient: Patient, ailment: Ailment | None = None) -> tuple[list[dict], GPT]:
    """The history and the policy of a PPO run with an ailment; of a healthy one without. It trains
    copies, so the same patient can be taken again.

    A run whose numbers overflow ends early. What stops an ailing run at once, the check of the
    first minibatch, is off: its numbers are logged.
    """
    policy, value = copy.deepcopy(patient.models.policy), copy.deepcopy(patient.models.value)
    patient = replace(patient, models=replace(patient.models, policy=policy, value=value))
    infect = ailment.infect if ailment else nullcontext
    loop = Loop(ailment.name if ailment else "healthy", lines=0)
    torch.manual_seed(patient.config.seed)  # of dropout
    with swapped(ppo, check_first_minibatch=lambda *numbers: None), infect(patient) as ill:
        with suppress(FloatingPointError):
            ppo.train(ill.models, ill.prompts, ill.config, ill.tokenizer, loop)
    return loop.history, policy


def run_clinic(
    course: Course, ailment: str = "", iterations: int = 8, rollout_size: int = 64
) -> list[dict]:
    """A short PPO run from a course's SFT and reward models, with an ailment of `AILMENTS`, or
    healthy; returns its history. It takes about half a minute of one CPU core.

    Raises ValueError for an unknown ailment, CheckpointError for a course without its models.
    """
    patient = admit(course, iterations, rollout_size)
    return train_patient(patient, ailment_of(ailment) if ailment else None)[0]
