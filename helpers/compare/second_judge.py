"""The second judge: it measures, was trained apart from the reward model, and PPO never saw it.

For `sentiment` a bag-of-words classifier, else a second reward model
(`helpers.stages.judge.train_judge`).
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
    """Scores N responses, (N,)."""

    score: Callable[[Responses], Tensor]
    unit: str  # of what `standardise` gives
    relative: bool = False  # whether a score means nothing without a mean and standard deviation

    def standardise(self, scores: Tensor, sft: Tensor) -> Tensor:
        """Relative scores (N,) in SFT standard deviations above SFT's mean; others unchanged."""
        return (scores - sft.mean()) / sft.std().clamp(min=1e-12) if self.relative else scores


def whole_texts(responses: Responses) -> list[str]:
    """Each prompt with its response."""
    pairs = zip(responses.prompts, responses.texts, strict=True)
    return [prompt.prompt + text for prompt, text in pairs]


def word_judge(course: Course) -> tuple[Judge, dict]:
    """For sentiment: P(positive) by a bag-of-words classifier, and its held-out accuracy.

    It is fitted on the reward model's training labels, because there are too few rows to share out,
    but it has nothing of that model's network.
    """
    train, heldout = course.rows("labels", "train"), course.rows("labels", "heldout")
    classifier, metrics = fit_rows(train, heldout, course.seed)
    judge = Judge(lambda responses: classifier.probability(whole_texts(responses)), "P(positive)")
    accuracy = {f"judge_{name}": value for name, value in metrics.items()}
    return judge, accuracy | {"judge_unit": judge.unit}


def load_judge(course: Course) -> tuple[Judge | None, dict]:
    """The judge of a track and its held-out accuracy; None, with a printed line, where stage
    `reward` made none. Raises CheckpointError when its checkpoint is damaged or of another run.
    """
    if course.track == "sentiment":
        return word_judge(course)
    if not course.judge_folder.exists():
        print("No second judge: 2-RM-Training trains one when judge_share is above 0.")
        return None, {}
    tokenizer, device = course.tokenizer, course.device
    expected = {"stage": "reward", "track": course.track, "tokenizer": tokenizer, "device": device}
    model, info = load_stage(course.judge_folder, **expected)
    unit = "SFT standard deviations"
    judge = Judge(lambda responses: score_responses(model, tokenizer, responses), unit, True)
    return judge, {**info["metrics"], "judge_unit": unit}
