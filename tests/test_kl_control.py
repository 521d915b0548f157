"""The KL controller against the numbers of lm-human-preferences' rule, and in a loop whose end is
known exactly.
"""

import pytest
import torch

from helpers.ppo import KLController


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (9.0, 0.15 * (1 + 0.2 * 512 / 10_000)),  # half too much: counted as a fifth
        (6.6, 0.15 * (1 + 0.1 * 512 / 10_000)),
        (6.0, 0.15),
        (5.4, 0.15 * (1 - 0.1 * 512 / 10_000)),
        (-1.0, 0.15 * (1 - 0.2 * 512 / 10_000)),
    ],
)
def test_one_update_by_hand(kl, expected):
    control = KLController(0.15, target=6.0, horizon=10_000)
    control.update(kl, responses=512)
    assert control.kl_coef == pytest.approx(expected, rel=1e-12)


def test_without_a_target_the_coefficient_stays():
    control = KLController(0.3)
    for kl in (0.0, 100.0):
        control.update(kl, responses=10_000)
    assert control.kl_coef == 0.3


@pytest.mark.parametrize("start", [0.05, 5.0])
def test_the_loop_ends_at_the_coefficient_whose_best_policy_has_the_target_kl(start):
    """Were PPO perfect, each rollout would come from pi*(y) = ref(y) exp(score(y) / kl_coef) /
    Z.
    """
    ref = torch.randn(50, dtype=torch.double).log_softmax(0)
    scores = torch.randn(50, dtype=torch.double)

    def best_kl(kl_coef: float) -> float:
        best = (ref + scores / kl_coef).log_softmax(0)
        return (best.exp() * (best - ref)).sum().item()

    control = KLController(start, target=best_kl(0.7), horizon=640)
    for _ in range(1000):
        control.update(best_kl(control.kl_coef), responses=64)
    assert control.kl_coef == pytest.approx(0.7, rel=1e-3)


@pytest.mark.parametrize(
    "settings", [(0.3, -1.0, 640), (0.0, 6.0, 640), (0.3, 6.0, 0), (0.3, float("nan"), 640)]
)
def test_settings_that_cannot_steer_are_refused(settings):
    with pytest.raises(
        ValueError, match="kl_target takes a target, a kl_coef and a kl_horizon above 0"
    ):
        KLController(*settings)
