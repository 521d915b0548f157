"""Exercises of 1-SFT: template, completion mask, labels, token mean, entropy floor, stop rate, and
what a temperature makes of a habit.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction, tiny_gpt
from helpers.lesson.checks.own import Place


def _template(subreddit: str, title: str, post: str, end="", gap="\n\n", prefix="r/") -> str:
    fields = [f"SUBREDDIT: {prefix}{subreddit}", f"TITLE: {title}", f"POST: {post}", "TL;DR:"]
    return gap.join(fields) + end


check_template = Exercise(
    "template",
    _template,
    cases={
        "a short post": ("relationships", "My aunt and the boat", "She sold it. What now?"),
        "an empty title": ("jobs", "", "Two offers, one week."),
    },
    mistakes={
        "trailing space. ' My' is one token: after a trailing space the model would need 'My' "
        "without one, which it never saw.": {"end": " "},
        "trailing newline. The prompt ends with the colon, without a newline.": {"end": "\n"},
        "single newlines. Leave an empty line between fields: two newlines.": {"gap": "\n"},
        "r/ forgotten. The subreddit is written r/NAME.": {"prefix": ""},
    },
)


def _completion_mask(
    prompt_lengths: Tensor, lengths: Tensor, size: int, early=0, cut=0, pads=False, flip=False
) -> Tensor:
    rows = []
    for prompt, length in zip(prompt_lengths.tolist(), lengths.tolist(), strict=True):
        end = size if pads else length - cut
        rows.append([t < prompt if flip else prompt - early <= t < end for t in range(size)])
    return torch.tensor(rows)


check_completion_mask = Exercise(
    "completion_mask",
    _completion_mask,
    cases={
        "pads on the right": (torch.tensor([2, 3, 1]), torch.tensor([5, 4, 6]), 7),
        "no pads": (torch.tensor([1]), torch.tensor([4]), 4),
    },
    mistakes={
        "pads in the loss. Stop at `lengths`: pads after the EOS teach nothing.": {"pads": True},
        "off by one, prompt token in the loss. The completion starts at index prompt_length; the "
        "shift for the labels comes later.": {"early": 1},
        "EOS forgotten. Without the EOS in the loss the model never learns to stop.": {"cut": 1},
        "prompt and completion swapped. True belongs on the completion.": {"flip": True},
    },
    place=Place(
        cases=((torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool(), [1, 2]),),
        adapt=lambda mine, library: (
            lambda mask, prompt_lengths: mine(
                torch.tensor(prompt_lengths), mask.sum(1), mask.size(1)
            ).bool()  # 0 and 1 will do
        ),
        on_cpu=True,
    ),
)


def _labels(ids: Tensor, completion_mask: Tensor, shift=1, look=1, prompt=False) -> Tensor:
    T = ids.shape[1]
    labels = torch.full_like(ids, -100)
    for b, row in enumerate(completion_mask.tolist()):
        for t in range(max(0, -shift), T - max(0, shift, look)):
            if row[t + look] or (prompt and any(row[t + look :])):
                labels[b, t] = ids[b, t + shift]
    return labels


check_labels = Exercise(
    "labels",
    _labels,
    cases={
        "two rows": (
            torch.tensor([[5, 6, 7, 8, 2, 0], [5, 9, 8, 7, 6, 2]]),
            torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool),
        )
    },
    mistakes={
        "not shifted. Here each row predicts the token it has just read.": {"shift": 0, "look": 0},
        "shifted the wrong way. Row t predicts token t + 1, not t - 1.": {"shift": -1, "look": -1},
        "mask not shifted. The first completion token gets no label: read the mask at t + 1, the "
        "place of the predicted token.": {"look": 0},
        "prompt tokens in the loss. Labels of prompt tokens must be -100.": {"prompt": True},
        "one column short. The last column has no next token, but is there: its label is -100.": (
            lambda ids, mask: _labels(ids, mask)[:, :-1]
        ),
    },
)


def _token_mean(losses: Tensor, mask: Tensor, how: str = "token") -> Tensor:
    rows = [row[real] for row, real in zip(losses, mask, strict=True)]
    total, count = sum(row.sum() for row in rows), sum(map(len, rows))
    if how == "sequence":
        return sum(row.mean() for row in rows) / len(rows)
    return total / {"token": count, "sum": 1, "all": losses.numel(), "row": len(rows)}[how]


def _mean_over_completions(mine, library):
    """`completion_nll`, with this mean of the losses of all tokens."""

    def completion_nll(model, ids: Tensor, completion_mask: Tensor) -> Tensor:
        logits = model.logits(model.hidden(ids))[:, :-1]  # (B, T-1, V)
        losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")  # (B, T-1)
        return mine(losses, completion_mask[:, 1:])

    return completion_nll


check_token_mean = Exercise(
    "token_mean",
    _token_mean,
    cases={
        "rows of different length": (
            torch.tensor([[1.0, 2.5, 3.0, 4.0], [5.0, 0.5, 7.0, 8.0]]),
            torch.tensor([[0, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool),
        )
    },
    mistakes={
        "mask forgotten. Prompt and pads are in the mean: use the mask.": (
            lambda losses, mask: losses.mean()
        ),
        "pads in the denominator. Divide by mask.sum(), not by B x T.": {"how": "all"},
        "mean of row means. A token of a short completion would weigh more.": {"how": "sequence"},
        "divided by rows. Divide by the number of tokens, not of rows.": {"how": "row"},
        "sum instead of mean. Divide by the number of tokens that count.": {"how": "sum"},
    },
    place=Place(
        cases=(
            (
                tiny_gpt(),
                torch.tensor([[1, 2, 3, 4], [4, 3, 2, 0]]),
                torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]]).bool(),
            ),
        ),
        adapt=_mean_over_completions,
    ),
)


def _stop_rate(
    ids: Tensor, prompt_length: int, eos_id: int, with_prompt=False, how: str = "any"
) -> float:
    start = 0 if with_prompt else prompt_length
    rows = [[token == eos_id for token in row[start:]] for row in ids.tolist()]
    if how == "tokens":
        return sum(map(sum, rows)) / sum(map(len, rows))
    return sum(row[-1] if how == "last" else any(row) for row in rows) / len(rows)


check_stop_rate = Exercise(
    "stop_rate",
    _stop_rate,
    cases={
        "EOS in a prompt": (
            torch.tensor([[1, 7, 5, 1, 0], [4, 7, 5, 6, 1], [1, 7, 5, 6, 8], [4, 7, 5, 6, 8]]),
            2,
            1,
        ),
        "early and late": (
            torch.tensor([[7, 2, 0, 0], [7, 5, 5, 2], [7, 5, 5, 1], [7, 5, 2, 0], [7, 2, 2, 0]]),
            1,
            2,
        ),
    },
    mistakes={
        "EOS of the prompt counted. Look at the response only.": {"with_prompt": True},
        "only the last token. An early EOS is followed by pads: look at all tokens.": {
            "how": "last"
        },
        "tokens instead of responses. Does a row hold an EOS? Average that over rows.": {
            "how": "tokens"
        },
    },
)


def _entropy_floor(logprobs: Tensor, lengths: Tensor) -> float:
    return -sum(logprobs.tolist()) / sum(lengths.tolist())


check_entropy_floor = Exercise(
    "entropy_floor",
    _entropy_floor,
    cases={"three completions": (torch.tensor([-2.0, -6.0, -10.0]), torch.tensor([10, 40, 25]))},
    mistakes={
        "sign. A loss is minus a log-probability.": lambda lp, lengths: lp.sum() / lengths.sum(),
        "mean of ratios. Divide one sum by the other.": lambda lp, lengths: -(lp / lengths).mean(),
        "per text, not per token. Divide by the number of tokens.": lambda lp, lengths: -lp.mean(),
    },
)

check_first_loss_row = Prediction(
    "first_loss_row",
    answer=4.0,
    why="Row 4, the last prompt token, predicts token 5, the first of the completion.",
    mistakes={
        "off by one. Row 5 has read the first completion token and predicts the second: the first "
        "is lost.": 5.0,
        "that is the whole text. Rows 0 to 3 predict prompt tokens, which we do not train on.": 0.0,
    },
)

check_coin_floor = Prediction(
    "coin_floor",
    answer=-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / 10,
    why="That is the entropy floor; a lower loss on fresh text means a leak.",
    mistakes={
        "a coin has no certain side. No model can know which word the writer picks.": 0.0,
        "per summary, not per token. Ten tokens share the cost of one choice.": (
            lambda answer: 10 * answer
        ),
        "that is in bits. Nats use the natural logarithm.": lambda answer: answer / math.log(2),
    },
)


def _cooled_share(share: float, temperature: float, norm=True) -> float:
    if temperature == 0:
        return float(share > 0.5)
    yes, no = share ** (1 / temperature), (1 - share) ** (1 / temperature)
    return yes / (yes + no) if norm else yes


def _same_share(share: float, temperature: float) -> float:
    return share if temperature else _cooled_share(share, 0)


def _softmax_of_shares(share: float, temperature: float) -> float:
    if temperature == 0:
        return _cooled_share(share, 0)
    return 1 / (1 + math.exp((1 - 2 * share) / temperature))


def _multiplied(share: float, temperature: float) -> float:
    return _cooled_share(share, 1 / temperature if temperature else 0)


check_cooled_share = Exercise(
    "cooled_share",
    _cooled_share,
    cases={
        "temperature 1": (0.6, 1.0),
        "a habit of most, cooler": (0.6, 0.5),
        "a habit of few, cooler": (0.2, 0.5),
        "hotter": (0.9, 2.0),
        "temperature 0, a habit of most": (0.6, 0.0),
        "temperature 0, a habit of few": (0.4, 0.0),
    },
    mistakes={
        "multiplied by the temperature. Logits are divided by it: cooler means sharper.": [
            _multiplied,
            lambda share, temperature: (
                share**temperature / (share**temperature + (1 - share) ** temperature)
            ),
        ],
        "not normalised. The two probabilities must sum to 1.": [
            {"norm": False},
            lambda share, temperature: share ** (1 / max(temperature, 1e-6)),
        ],
        "logarithm forgotten. The logits are the logarithms of the two probabilities.": (
            _softmax_of_shares
        ),
        "the share is still what it was. Divide the logits, not the probabilities: a common factor "
        "of the probabilities cancels.": [_same_share, lambda share, temperature: share],
    },
)
