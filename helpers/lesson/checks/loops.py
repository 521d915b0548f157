"""Training loops that learners write: run on a tiny model, and compared by what they yield and by
the models they leave behind.
"""

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig
from helpers.lesson.checks.core import Exercise, tiny_gpt
from helpers.lesson.checks.own import Function, Place
from helpers.lesson.checks.own_loops import (
    IDS,
    log_and_models,
    needs_the_library,
    numbers_of,
    outputs_of,
    reinforcement,
    supervised,
)
from helpers.model import RewardModel
from helpers.ppo import (
    Training,
    choose_prompts,
    iteration_metrics,
    minibatch_losses,
    minibatches,
    start_training,
)
from helpers.records import Prompt
from helpers.reward import Pair, PairBatch, pair_batch, score_pairs
from helpers.rollouts import Models, collect, with_advantages

PAD = 0
REAL = IDS != PAD
COMPLETION = REAL & (torch.arange(6) >= 3)  # prompts of three tokens
FORGOTTEN = (
    "zero_grad forgotten. Gradients add up: each step must begin with those of its own batch."
)
NO_STEP = (
    "the weights never change. Call optimizer.step() after backward, while the gradients are there."
)
NO_YIELD = (
    "it has no `yield`. Yield the numbers of each step when it is done, so that whoever runs the "
    "loop can log them."
)


@dataclass(frozen=True)
class LoopExercise(Exercise):
    """A training loop, called `my_<name>` in the notebook: a generator, which yields what it has
    measured after every step. It trains in place, so its result is what it yields and the models
    afterwards.
    """

    seconds: float = 60.0  # they train

    def unfit(self, course: Any) -> str:
        return needs_the_library(course)

    def result(self, function: Function, given: tuple) -> Any:
        yielded = function(*given)
        if not inspect.isgenerator(yielded):
            return None, yielded
        rows = [numbers_of(row) for row in yielded]
        return rows, *outputs_of(given)

    def diagnose(self, results: list) -> str:
        no_yield = any(rows is None for rows, *_ in results)
        return NO_YIELD if no_yield else super().diagnose(results)

    def changed(self, given: tuple, arguments: tuple) -> bool:
        return False  # training changes the models, and should

    def example(self, function: Function, results: list) -> str:
        return ""  # models and batches are too large to print


def plain_loop(
    model: nn.Module,
    batches: list,
    optimizer: torch.optim.Optimizer,
    loss_of: Function,
    order: str = "zbs",
) -> Iterator[Any]:
    """A loop over batches. loss_of(model, batch): [loss], or [loss, accuracy]. order: of
    zero_grad (z), backward (b) and step (s).
    """
    for batch in batches:
        loss, *others = loss_of(model, batch)
        actions = {"z": optimizer.zero_grad, "b": loss.backward, "s": optimizer.step}
        for letter in order:
            actions[letter]()
        yield [loss.item(), *(x.item() for x in others)] if others else loss.item()


def sgd_case(model: nn.Module, batches: list[tuple]) -> tuple:
    """(model, batches, optimizer), as a loop takes them."""
    return model, batches, torch.optim.SGD(model.parameters(), lr=0.5)


def oracle_and_mistakes(loss_of, wrong_losses: dict[str, Function | list]) -> dict[str, Any]:
    """The oracle of a loop with this loss, and its mistakes; wrong_losses: {mistake: a loss, or a
    list of them}.
    """
    mistakes: dict[str, Any] = {
        FORGOTTEN: partial(plain_loop, loss_of=loss_of, order="bs"),
        NO_STEP: [
            partial(plain_loop, loss_of=loss_of, order=order) for order in ("zb", "b", "zsb", "bzs")
        ],
        NO_YIELD: lambda *given: [*plain_loop(*given, loss_of=loss_of)],
    }
    for text, wrong in wrong_losses.items():
        versions = wrong if isinstance(wrong, list) else [wrong]
        mistakes[text] = [partial(plain_loop, loss_of=version) for version in versions]
    return {"oracle": partial(plain_loop, loss_of=loss_of), "mistakes": mistakes}


def place_of(config: Any, *case: Any) -> Place:
    """Where a loop trains: in the place of `train`. case: its arguments but for config and loop."""
    return Place(((*case, config),), adapt=supervised, outcome=log_and_models)


# ---------------------------------------------------------------- pretraining and SFT


def masked_loss(model, batch: tuple[Tensor, Tensor], look=1, shift=1, mean=True) -> list[Tensor]:
    """Cross-entropy of the tokens where the mask is True. look, shift: how far the mask and the
    targets are moved.
    """
    ids, mask = batch
    size = ids.size(1) - 1
    logits = model(ids)[:, :-1]  # (B, T-1, V)
    counts, targets = mask[:, look : look + size], ids[:, shift : shift + size]
    kind = "mean" if mean else "sum"
    return [F.cross_entropy(logits[counts], targets[counts], reduction=kind)]


def all_tokens(model, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    """The loss of someone who has forgotten the mask."""
    return masked_loss(model, (batch[0], torch.ones_like(batch[1])))


def same_place(model, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    """The loss of someone who lets each token predict itself."""
    ids, mask = batch
    return [F.cross_entropy(model(ids)[mask], ids[mask])]


DOCUMENTS = [(IDS, REAL), (IDS[:2], REAL[:2]), (IDS, REAL)]
check_training_loop = LoopExercise(
    "training_loop",
    cases={"three batches": sgd_case(tiny_gpt(), DOCUMENTS)},
    place=place_of(PretrainConfig(), tiny_gpt(), DOCUMENTS),
    **oracle_and_mistakes(masked_loss, {}),
)

COMPLETIONS = [(IDS, COMPLETION), (IDS[:2], COMPLETION[:2]), (IDS, COMPLETION)]
check_masked_loop = LoopExercise(
    "masked_loop",
    cases={"three batches": sgd_case(tiny_gpt(), COMPLETIONS)},
    place=place_of(SFTConfig(), tiny_gpt(), COMPLETIONS),
    **oracle_and_mistakes(
        masked_loss,
        {
            "mask forgotten. Prompt tokens are in the loss: only the completion should teach.": (
                all_tokens
            ),
            "sum of the losses. Take their mean: a sum grows with the number of tokens.": (
                partial(masked_loss, mean=False)
            ),
            "mask not shifted. Row t predicts token t + 1: read the mask there too, mask[:, 1:].": (
                partial(masked_loss, look=0)
            ),
            "labels not shifted. Row t has read token t; it predicts token t + 1.": [
                partial(masked_loss, look=0, shift=0),
                lambda model, batch: [
                    F.cross_entropy(model(batch[0])[batch[1]], batch[0][batch[1]])
                ],
            ],
        },
    ),
)

# ---------------------------------------------------------------- the reward model


def pair_loss(model, batch: PairBatch, score=F.logsigmoid, sign=1, of_gap=1) -> list[Tensor]:
    """Bradley-Terry on the scores of the chosen and the rejected texts, and the accuracy."""
    chosen, rejected = score_pairs(model, batch)
    loss = -sign * score(of_gap * (chosen - rejected)).mean()
    return [loss, (chosen > rejected).float().mean()]


def scorer() -> RewardModel:
    """A tiny reward model, always the same."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return RewardModel(tiny_gpt())


PAIRS = [Pair([1, 2], [3, 4, 1], [2, 1]), Pair([3], [4, 2], [3, 3, 1]), Pair([2, 4], [3], [1, 2])]
PAIR_BATCHES = [pair_batch(some, PAD) for some in (PAIRS, PAIRS[:1], PAIRS[1:])]
check_pair_loop = LoopExercise(
    "pair_loop",
    cases={"three batches": sgd_case(scorer(), PAIR_BATCHES)},
    place=place_of(RewardConfig(), scorer(), PAIR_BATCHES),
    **oracle_and_mistakes(
        pair_loss,
        {
            "chosen and rejected swapped. The chosen score should rise above the rejected.": (
                partial(pair_loss, of_gap=-1)
            ),
            "minus forgotten. A loss is minus the log-probability.": partial(pair_loss, sign=-1),
            "the accuracy is missing. Yield two numbers, the loss and the share of right pairs.": (
                lambda model, batch: pair_loss(model, batch)[:1]
            ),
            "logarithm forgotten. The loss is minus the log of the probability: F.logsigmoid.": (
                partial(pair_loss, score=torch.sigmoid)
            ),
        },
    ),
)

# ---------------------------------------------------------------- PPO


class Letters:
    """A tokenizer of four letters and an end of text."""

    eos_id, pad_id, vocab_size = 1, PAD, 5

    def encode(self, text: str) -> list[int]:
        return [2 + ord(letter) % 3 for letter in text]


def toy_models() -> Models:
    """Four tiny models as a run starts with them, and a reward model that can tell texts apart."""
    sft, reward = tiny_gpt(), scorer().requires_grad_(False)
    reward.score.weight *= 10
    value = copy.deepcopy(reward).requires_grad_(True)
    return Models(copy.deepcopy(sft), sft.requires_grad_(False), reward, value)


SIZES = {"iterations": 3, "rollout_size": 8, "minibatch_size": 4, "epochs": 2, "response_tokens": 4}
RATES = {"lr": 0.03, "muon_lr": 0.0, "value_lr": 0.03, "kl_coef": 0.5}
TOY = PPOConfig(**SIZES, **RATES)
PROMPTS = [Prompt(text) for text in ("one", "two", "six", "ten", "tea", "pea", "pie", "ear", "eat")]


def ppo_loop(
    models: Models,
    run: Training,
    prompts: list[Prompt],
    config: PPOConfig,
    tokenizer: Any,
    once=False,
    kl_coef: float | None = None,
    trains=("policy", "value"),
    first_only=False,
    late=False,
) -> Iterator[dict[str, float]]:
    """PPO's loop, and ways to get it wrong; yields the metrics of every iteration."""
    rollout, optimizers = None, {"policy": run.policy_optimizer, "value": run.value_optimizer}
    for _ in range(config.iterations):
        if rollout is None or not once:
            batch = choose_prompts(prompts, config.rollout_size, run.prompt_rng)
            rollout = collect(models, batch, config, tokenizer, run.token_rng)
            price = run.kl_controller.kl_coef if kl_coef is None else kl_coef
            rollout = with_advantages(rollout, price, config)
        updates = []
        for i, index in enumerate(minibatches(len(batch), config, run.prompt_rng)):
            if first_only and i:
                continue
            losses = minibatch_losses(models, rollout, index, config)
            for name in trains:
                optimizers[name].backward(losses[name])
                if not late:
                    optimizers[name].step()
            updates.append({name: loss.item() for name, loss in losses.items()})
        for name in trains if late else ():
            optimizers[name].step()
        yield iteration_metrics(rollout, updates, batch, run.kl_controller, tokenizer)


MODELS = toy_models()
check_ppo_loop = LoopExercise(
    "ppo_loop",
    ppo_loop,
    cases={"three iterations": (MODELS, start_training(MODELS, TOY), PROMPTS, TOY, Letters())},
    place=Place(((MODELS, PROMPTS, TOY, Letters()),), adapt=reinforcement, outcome=log_and_models),
    mistakes={
        "one rollout for all iterations. The policy changes, so collect anew in every one.": {
            "once": True
        },
        "no KL penalty. with_advantages takes the coefficient: run.kl_controller.kl_coef.": {
            "kl_coef": 0.0
        },
        "the value model never learns. Both losses need a backward and a step.": {
            "trains": ("policy",)
        },
        "the policy never learns. Both losses need a backward and a step.": {"trains": ("value",)},
        "one minibatch only. Go through all that `minibatches` gives.": {"first_only": True},
        "one step an iteration. Step after every minibatch, not after the last.": {"late": True},
        NO_YIELD: lambda *given: [*ppo_loop(*given)],
    },
)
