"""The second judge: something that PPO never saw and that was trained apart from the reward model,
to measure with.

For `sentiment` a bag-of-words classifier, else a reward model of its own
(`helpers.stages.reward.train_judge`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from helpers.compare.classifier import fit_rows
from helpers.evaluation import Responses
from helpers.reward import score_responses
from helpers.run.checkpoints import load_stage
from helpers.run.course import Course


@dataclass(frozen=True)
class Judge:
    """Says how good each of N responses is, (N,)."""

    says: Callable[[Responses], Tensor]
    unit: str  # of what `in_units` gives
    standardised: bool = (
        False  # whether its numbers mean nothing before they are divided by a standard deviation
    )

    def in_units(self, said: Tensor, of_sft: Tensor) -> Tensor:
        """What was said (N,), in SFT standard deviations above SFT's mean where its own unit means
        nothing.
        """
        return (said - of_sft.mean()) / of_sft.std().clamp(min=1e-12) if self.standardised else said


def whole_texts(responses: Responses) -> list[str]:
    """Each prompt with its response."""
    return [
        prompt.prompt + text
        for prompt, text in zip(responses.prompts, responses.texts, strict=True)
    ]


def word_judge(course: Course) -> tuple[Judge, dict]:
    """For track sentiment: P(positive) by a bag-of-words classifier, fitted on the training labels,
    and its held-out accuracy.

    It learns from the reward model's rows, but not with its network: there are so few rows that a
    judge without shared rows would be wrong more often.
    """
    train, heldout = course.rows("labels", "train"), course.rows("labels", "heldout")
    classifier, measured = fit_rows(train, heldout, course.seed)
    judge = Judge(lambda responses: classifier.probability(whole_texts(responses)), "P(positive)")
    return judge, {
        **{f"judge_{name}": value for name, value in measured.items()},
        "judge_unit": judge.unit,
    }


def load_judge(course: Course) -> tuple[Judge | None, dict]:
    """The judge of a track and its held-out accuracy; None, with one line said, where stage
    `reward` made none.

    Raises CheckpointError when its checkpoint is damaged or of another run.
    """
    if course.track == "sentiment":
        return word_judge(course)
    folder, tokenizer = course.judge_folder, course.tokenizer
    if not folder.exists():
        print("No second judge: 2-RM-Training trains one when judge_share is above 0.")
        return None, {}
    model, info = load_stage(
        folder, stage="reward", track=course.track, tokenizer=tokenizer, device=course.device
    )
    judge = Judge(
        lambda responses: score_responses(model, tokenizer, responses),
        "SFT standard deviations",
        True,
    )
    return judge, {**info["metrics"], "judge_unit": judge.unit}
