"""The figures of 3-PPO by name; they are drawn in `rollout`, `advantages`, `ppo_run`, `penalty`."""

from helpers.lesson.plots.advantages import (
    baseline_figure,
    clip_figure,
    estimators_figure,
    gae_figure,
    lambda_figure,
    negative_kl_figure,
)
from helpers.lesson.plots.penalty import penalty_figure
from helpers.lesson.plots.ppo_run import Dashboard, training_figure
from helpers.lesson.plots.rollout import batch_figure, loop_figure, response_figure

__all__ = [
    "Dashboard",
    "baseline_figure",
    "batch_figure",
    "clip_figure",
    "estimators_figure",
    "gae_figure",
    "lambda_figure",
    "loop_figure",
    "negative_kl_figure",
    "penalty_figure",
    "response_figure",
    "training_figure",
]
