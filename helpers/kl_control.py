"""The price of KL in PPO: a fixed coefficient, or one that steers towards a target (taught in
3-PPO).
"""


class KLController:
    """kl_coef, kept as it is without a target, else moved after each rollout so that the KL comes
    near the target.

    kl_coef <- kl_coef * (1 + e * responses / horizon), with e = clip(KL / target - 1, -0.2, 0.2).
    `target`: nats per response. `horizon`: the number of responses in which it could grow by a
    fifth. Raises ValueError for a negative target, a horizon that is not above 0, or a target for a
    coefficient of 0, which no factor can move.
    Source: Ziegler et al. 2019, section 2.2 (their K = 0.1 is responses / horizon).
    """

    def __init__(self, kl_coef: float, target: float = 0.0, horizon: int = 640):
        if target and not (target > 0 and kl_coef > 0 and horizon > 0):
            raise ValueError(
                "kl_target takes a target, a kl_coef and a kl_horizon above 0 (a target of 0 "
                "keeps kl_coef fixed), "
                f"not kl_target {target}, kl_coef {kl_coef} and kl_horizon {horizon}"
            )
        self.kl_coef, self.target, self.horizon = kl_coef, target, horizon

    def update(self, kl: float, responses: int) -> None:
        """Take in the mean KL (nats per response) of a rollout with so many responses."""
        if self.target:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + error * responses / self.horizon

    def state_dict(self) -> dict:
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict) -> None:
        self.kl_coef = state["kl_coef"]
