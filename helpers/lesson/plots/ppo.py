"""The figures of 3-PPO by name; they are drawn in `rollout`, `advantages` and `ppo_run`."""

from helpers.lesson.plots.advantages import (
    clip_figure,
    estimators_figure,
    gae_figure,
    lambda_figure,
    negative_kl_figure,
)
from helpers.lesson.plots.ppo_run import Dashboard, overoptimisation_figure, training_figure
from helpers.lesson.plots.rollout import batch_figure, loop_figure, response_figure

__all__ = [
    "Dashboard",
    "batch_figure",
    "clip_figure",
    "estimators_figure",
    "gae_figure",
    "lambda_figure",
    "loop_figure",
    "negative_kl_figure",
    "overoptimisation_figure",
    "response_figure",
    "training_figure",
]
