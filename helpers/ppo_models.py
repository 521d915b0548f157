"""The four models of PPO, from the checkpoints of the stages before, and the number format that
they compute in.
"""

import copy
from dataclasses import dataclass, replace

import torch

from helpers.model import GPT, RewardModel
from helpers.run.checkpoints import load_stage
from helpers.run.setup import Course
from helpers.stages.adapters import policy_and_reference
from helpers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Models:
    """The four models of PPO. Policy and value are trained; reference and reward stay as they
    are.
    """

    policy: GPT  # starts as the SFT model
    reference: GPT  # the SFT model
    reward: RewardModel
    value: RewardModel  # starts as the reward model (Stiennon et al. 2020, appendix G.1)
    dtype: torch.dtype = (
        torch.float32
    )  # of the matrix products, when rollouts are scored and learned from

    def on_two(self, first: torch.device | str, second: torch.device | str) -> "Models":
        """The same models: those that learn moved to one device, those that only read to
        another.
        """
        learn = {"policy": self.policy.to(first), "value": self.value.to(first)}
        return replace(
            self, **learn, reference=self.reference.to(second), reward=self.reward.to(second)
        )


def rows_are_independent(dtype: torch.dtype) -> bool:
    """Whether this CPU's matrix products give a row the same bits whatever rows stand beside it."""
    generator = torch.Generator().manual_seed(
        0
    )  # its own: the run's random numbers stay as they are
    x, w = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((4096, 512), (512, 128))
    )
    whole = x @ w
    return all(torch.equal(whole[:rows], x[:rows] @ w) for rows in (1, 32, 700, 2048))


def products_dtype(course: Course) -> torch.dtype:
    """The number format of PPO's matrix products: 16 bits only where the ratio still starts at
    exactly 1.

    A minibatch has fewer rows than its rollout, so a row's bits must not depend on their number. On
    a GPU they do.
    """
    on_cpu = torch.device(course.device).type == "cpu"
    return course.dtype if on_cpu and rows_are_independent(course.dtype) else torch.float32


def load_models(course: Course, tokenizer: Tokenizer) -> Models:
    """Policy and reference from the SFT checkpoint, reward and value from the reward model's."""
    sft, reward = (
        load_stage(
            course.folder(stage),
            stage=stage,
            track=course.track,
            tokenizer=tokenizer,
            device=course.device,
        )[0]
        for stage in ("sft", "reward")
    )
    policy, reference = policy_and_reference(sft, course.config)
    value = copy.deepcopy(reward)
    return Models(policy, reference, reward.requires_grad_(False), value, products_dtype(course))
