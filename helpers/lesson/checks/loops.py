"""Training loops that learners write: run on a tiny model, and compared by what they return and by
the weights they leave behind.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.config import PPOConfig
from helpers.lesson.checks.core import Exercise, tiny_gpt
from helpers.lesson.checks.own import Function
from helpers.model import RewardModel
from helpers.ppo import choose_prompts, minibatch_losses, minibatches, start_training
from helpers.records import Prompt
from helpers.rollouts import Models, collect, with_advantages

PAD = 0
IDS = torch.tensor([[1, 2, 3, 4, 2, 1], [4, 3, 1, 2, 2, PAD], [2, 2, 1, 3, PAD, PAD]])  # (B, T)
REAL = IDS != PAD
COMPLETION = REAL & (torch.arange(6) >= 3)  # prompts of three tokens
FORGOTTEN = (
    "zero_grad forgotten. Gradients add up: each step must begin with those of its own batch."
)
NO_STEP = (
    "the weights never change. Call optimizer.step() after backward, while the gradients are there."
)


@dataclass(frozen=True)
class LoopExercise(Exercise):
    """A training loop, called `my_<name>` in the notebook. It trains in place, so its result is
    what it returns and all weights afterwards.
    """

    seconds: float = 60.0  # they train

    def result(self, function: Function, given: tuple) -> Any:
        returned = function(*given)
        weights = [nn.utils.parameters_to_vector(m.parameters()) for m in models_in(given)]
        return returned, *weights

    def changed(self, given: tuple, arguments: tuple) -> bool:
        return False  # training changes the models, and should

    def example(self, function: Function, results: list) -> str:
        return ""  # models and batches are too large to print


def models_in(arguments: tuple) -> Iterator[nn.Module]:
    """The models among the arguments of a loop."""
    for argument in arguments:
        if isinstance(argument, nn.Module):
            yield argument
        if isinstance(argument, Models):
            yield from (argument.policy, argument.value, argument.reference, argument.reward)


def supervised(
    model: nn.Module, batches: list, optimizer: torch.optim.Optimizer, loss_of, order="zbs"
) -> list[float]:
    """A loop over batches. order: of zero_grad (z), backward (b) and step (s)."""
    losses = []
    for batch in batches:
        loss = loss_of(model, *batch)
        actions = {"z": optimizer.zero_grad, "b": loss.backward, "s": optimizer.step}
        for letter in order:
            actions[letter]()
        losses.append(loss.item())
    return losses


def sgd_case(model: nn.Module, batches: list[tuple]) -> tuple:
    """(model, batches, optimizer), as a loop takes them."""
    return model, batches, torch.optim.SGD(model.parameters(), lr=0.5)


def oracle_and_mistakes(loss_of, wrong_losses: dict[str, Function]) -> dict[str, Any]:
    """The oracle of a loop with this loss, and its mistakes."""
    mistakes: dict[str, Any] = {
        FORGOTTEN: partial(supervised, loss_of=loss_of, order="bs"),
        NO_STEP: [
            partial(supervised, loss_of=loss_of, order=order) for order in ("zb", "b", "zsb", "bzs")
        ],
    }
    mistakes |= {text: partial(supervised, loss_of=wrong) for text, wrong in wrong_losses.items()}
    return {"oracle": partial(supervised, loss_of=loss_of), "mistakes": mistakes}


# ---------------------------------------------------------------- pretraining and SFT


def masked_loss(model, ids: Tensor, mask: Tensor, look=1, shift=1) -> Tensor:
    """Cross-entropy of the tokens where the mask is True. look, shift: how far the mask and the
    targets are moved.
    """
    size = ids.size(1) - 1
    logits = model(ids)[:, :-1]  # (B, T-1, V)
    counts, targets = mask[:, look : look + size], ids[:, shift : shift + size]
    return F.cross_entropy(logits[counts], targets[counts])


check_training_loop = LoopExercise(
    "training_loop",
    cases={"three batches": sgd_case(tiny_gpt(), [(IDS, REAL), (IDS[:2], REAL[:2]), (IDS, REAL)])},
    **oracle_and_mistakes(masked_loss, {}),
)

check_masked_loop = LoopExercise(
    "masked_loop",
    cases={
        "three batches": sgd_case(
            tiny_gpt(), [(IDS, COMPLETION), (IDS[:2], COMPLETION[:2]), (IDS, COMPLETION)]
        )
    },
    **oracle_and_mistakes(
        masked_loss,
        {
            "mask forgotten. Prompt tokens are in the loss: only the completion should teach.": (
                lambda model, ids, mask: masked_loss(model, ids, torch.ones_like(mask))
            ),
            "sum of the losses. Take their mean: a sum grows with the number of tokens.": (
                lambda model, ids, mask: mask[:, 1:].sum() * masked_loss(model, ids, mask)
            ),
            "mask not shifted. Row t predicts token t + 1: read the mask there too, mask[:, 1:].": (
                partial(masked_loss, look=0)
            ),
            "labels not shifted. Row t has read token t; it predicts token t + 1.": (
                partial(masked_loss, look=0, shift=0)
            ),
        },
    ),
)

# ---------------------------------------------------------------- the reward model


def pair_loss(model, ids: Tensor, mask: Tensor, others: Tensor, others_mask: Tensor, sign=1):
    """Bradley-Terry on the scores of the chosen and the rejected texts."""
    gap = model(ids, mask) - model(others, others_mask)
    return -F.logsigmoid(sign * gap).mean()


class Scorer(nn.Module):
    """A reward model with a scalar head alone, called with ids and their mask."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.model = RewardModel(tiny_gpt(), surprise_weight=0.0)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(ids, mask, mask)


CHOSEN, REJECTED = (IDS, REAL), (IDS.flip(0), REAL.flip(0))
check_pair_loop = LoopExercise(
    "pair_loop",
    cases={
        "two batches": sgd_case(
            Scorer(), [(*CHOSEN, *REJECTED), (*(x[:1] for x in (*CHOSEN, *REJECTED)),)]
        )
    },
    **oracle_and_mistakes(
        pair_loss,
        {
            "chosen and rejected swapped. The chosen score should rise above the rejected.": (
                partial(pair_loss, sign=-1)
            ),
            "minus forgotten. A loss is minus the log-probability.": (
                lambda *batch: -pair_loss(*batch)
            ),
            "logarithm forgotten. The loss is minus the log of the probability: F.logsigmoid.": (
                lambda model, a, am, b, bm: -torch.sigmoid(model(a, am) - model(b, bm)).mean()
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
    sft, reward = tiny_gpt(), Scorer().model.requires_grad_(False)
    reward.score.weight *= 10
    value = copy.deepcopy(reward).requires_grad_(True)
    return Models(copy.deepcopy(sft), sft.requires_grad_(False), reward, value)


SIZES = {"iterations": 3, "rollout_size": 8, "minibatch_size": 4, "epochs": 2, "response_tokens": 4}
RATES = {"lr": 0.03, "muon_lr": 0.0, "value_lr": 0.03, "kl_coef": 0.5}
TOY = PPOConfig(**SIZES, **RATES)
PROMPTS = [Prompt(text) for text in ("one", "two", "six", "ten", "tea", "pea", "pie", "ear", "eat")]


def ppo_loop(
    models: Models,
    prompts: list[Prompt],
    config: PPOConfig,
    tokenizer: Any,
    once=False,
    kl_coef: float | None = None,
    trains=("policy", "value"),
    first_only=False,
    late=False,
) -> list[float]:
    """PPO's loop, and ways to get it wrong; returns the mean score of each rollout."""
    run, scores, rollout = start_training(models, config), [], None
    optimizers = {"policy": run.policy_optimizer, "value": run.value_optimizer}
    for _ in range(config.iterations):
        if rollout is None or not once:
            batch = choose_prompts(prompts, config.rollout_size, run.prompt_rng)
            rollout = collect(models, batch, config, tokenizer, run.token_rng)
            price = config.kl_coef if kl_coef is None else kl_coef
            rollout = with_advantages(rollout, price, config)
        for i, index in enumerate(minibatches(len(batch), config, run.prompt_rng)):
            if first_only and i:
                continue
            losses = minibatch_losses(models, rollout, index, config)
            for name in trains:
                optimizers[name].backward(losses[name])
                if not late:
                    optimizers[name].step()
        for name in trains if late else ():
            optimizers[name].step()
        scores.append(rollout.scores.mean().item())
    return scores


check_ppo_loop = LoopExercise(
    "ppo_loop",
    ppo_loop,
    cases={"three iterations": (toy_models(), PROMPTS, TOY, Letters())},
    mistakes={
        "one rollout for all iterations. The policy changes, so collect anew in every one.": {
            "once": True
        },
        "no KL penalty. with_advantages takes the coefficient: config.kl_coef.": {"kl_coef": 0.0},
        "the value model never learns. Both losses need a backward and a step.": {
            "trains": ("policy",)
        },
        "the policy never learns. Both losses need a backward and a step.": {"trains": ("value",)},
        "one minibatch only. Go through all that `minibatches` gives.": {"first_only": True},
        "one step an iteration. Step after every minibatch, not after the last.": {"late": True},
    },
)
