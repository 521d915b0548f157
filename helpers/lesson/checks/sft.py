"""Exercises of 1-SFT: template, completion mask, labels, the token mean, the entropy floor, the
stop rate.
"""

import math
from functools import partial

import torch
from torch import Tensor

from helpers.lesson.checks.core import Exercise, Prediction


def _template(
    subreddit: str, title: str, post: str, end: str = "", gap: str = "\n\n", prefix: str = "r/"
) -> str:
    fields = [f"SUBREDDIT: {prefix}{subreddit}", f"TITLE: {title}", f"POST: {post}", "TL;DR:"]
    return gap.join(fields) + end


TEMPLATE = Exercise(
    name="template",
    difficulty=1,
    minutes=3,
    signature="my_template(subreddit, title, post)",
    task="Return the prompt for one post: the four fields `SUBREDDIT: r/...`, `TITLE: ...`, "
    "`POST: ...` and "
    "`TL;DR:`, with an empty line between them. The completion will begin with a space.",
    hint="The tokenizer makes one token of ' My', space included. Which text should own that "
    "space?",
    solution="""
def my_template(subreddit, title, post):
    return f"SUBREDDIT: r/{subreddit}\\n\\nTITLE: {title}\\n\\nPOST: {post}\\n\\nTL;DR:"
""",
    oracle=_template,
    cases={
        "a short post": ("relationships", "My aunt and the boat", "She sold it. What now?"),
        "an empty title": ("jobs", "", "Two offers, one week."),
    },
    mistakes={
        "trailing space": (
            partial(_template, end=" "),
            "' My' is one token: after a trailing space the model would need 'My' without one, "
            "which it never saw.",
        ),
        "trailing newline": (
            partial(_template, end="\n"),
            "The prompt ends with the colon, without a newline.",
        ),
        "single newlines": (
            partial(_template, gap="\n"),
            "Leave an empty line between fields: two newlines.",
        ),
        "r/ forgotten": (partial(_template, prefix=""), "The subreddit is written r/NAME."),
    },
)


def _completion_mask(
    prompt_lengths: Tensor, lengths: Tensor, size: int, early=0, cut=0, pads=False, flip=False
) -> Tensor:
    rows = []
    for prompt, length in zip(prompt_lengths.tolist(), lengths.tolist(), strict=True):
        end = size if pads else length - cut
        rows.append([prompt - early <= t < end if not flip else t < prompt for t in range(size)])
    return torch.tensor(rows)


COMPLETION_MASK = Exercise(
    name="completion_mask",
    difficulty=2,
    minutes=6,
    signature="my_completion_mask(prompt_lengths, lengths, size)",
    task="Every row of a batch is prompt, completion (its last token is the EOS), pads. "
    "`prompt_lengths` and "
    "`lengths` are `(B,)`: tokens of the prompt, and of prompt and completion together. Return a "
    "boolean `(B, "
    "size)`, `True` on the completion's tokens, EOS included.",
    hint="Compare `torch.arange(size)` with both lengths; `lengths.unsqueeze(1)` makes that one "
    "row each.",
    solution="""
def my_completion_mask(prompt_lengths, lengths, size):
    t = torch.arange(size)  # (size,)
    return (t >= prompt_lengths.unsqueeze(1)) & (t < lengths.unsqueeze(1))  # (B, size)
""",
    oracle=_completion_mask,
    cases={
        "pads on the right": (torch.tensor([2, 3, 1]), torch.tensor([5, 4, 6]), 7),
        "no pads": (torch.tensor([1]), torch.tensor([4]), 4),
    },
    mistakes={
        "pads in the loss": (
            partial(_completion_mask, pads=True),
            "Stop at `lengths`: pads after the EOS teach nothing.",
        ),
        "off by one, prompt token in the loss": (
            partial(_completion_mask, early=1),
            "The completion starts at index prompt_length; the shift for the labels comes later.",
        ),
        "EOS forgotten": (
            partial(_completion_mask, cut=1),
            "Without the EOS in the loss the model never learns to stop.",
        ),
        "prompt and completion swapped": (
            partial(_completion_mask, flip=True),
            "True belongs on the completion.",
        ),
    },
)


def _labels(ids: Tensor, completion_mask: Tensor, shift=1, look=None) -> Tensor:
    look = shift if look is None else look
    labels = torch.full_like(ids, -100)
    for b, t in torch.cartesian_prod(
        torch.arange(ids.shape[0]), torch.arange(ids.shape[1])
    ).tolist():
        if (
            0 <= t + shift < ids.shape[1]
            and t + look < ids.shape[1]
            and completion_mask[b, t + look]
        ):
            labels[b, t] = ids[b, t + shift]
    return labels


LABELS = Exercise(
    name="labels",
    difficulty=2,
    minutes=8,
    signature="my_labels(ids, completion_mask)",
    task="Row `t` of the logits predicts token `t + 1`. Return labels `(B, T)` that line up "
    "with the logits: "
    "at `t` the id of token `t + 1` if *that* token belongs to the completion, else -100 (which "
    "`F.cross_entropy` skips). The last column has nothing to predict.",
    hint="Fill a tensor with -100, then write `ids[:, 1:]` where `completion_mask[:, 1:]` is True.",
    solution="""
def my_labels(ids, completion_mask):
    labels = torch.full_like(ids, -100)
    labels[:, :-1] = ids[:, 1:].masked_fill(~completion_mask[:, 1:], -100)
    return labels
""",
    oracle=_labels,
    cases={
        "two rows": (
            torch.tensor([[5, 6, 7, 8, 2, 0], [5, 9, 8, 7, 6, 2]]),
            torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool),
        )
    },
    mistakes={
        "not shifted": (
            partial(_labels, shift=0),
            "This asks each row for the token it has just read.",
        ),
        "shifted the wrong way": (
            partial(_labels, shift=-1, look=-1),
            "Row t predicts token t + 1, not t - 1.",
        ),
        "mask not shifted": (
            partial(_labels, look=0),
            "The first completion token gets no label: ask the mask at t + 1, where the predicted "
            "token stands.",
        ),
        "prompt tokens in the loss": (
            lambda ids, mask: _labels(ids, (mask.flip(1).cumsum(1) > 0).flip(1)),
            "Labels of prompt tokens must be -100.",
        ),
    },
)


def _token_mean(losses: Tensor, mask: Tensor, how: str = "token") -> Tensor:
    rows = [
        [losses[b, t] for t in range(losses.shape[1]) if mask[b, t]] for b in range(losses.shape[0])
    ]
    total, count = sum(map(sum, rows)), sum(map(len, rows))
    if how == "sequence":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return {
        "token": total / count,
        "sum": total,
        "all": total / losses.numel(),
        "row": total / len(rows),
    }[how]


TOKEN_MEAN = Exercise(
    name="token_mean",
    difficulty=1,
    minutes=4,
    signature="my_token_mean(losses, mask)",
    task="`losses` is `(B, T)`, the loss of every position; `mask` is `(B, T)`, True where it "
    "counts. Return the "
    "mean over all tokens that count: each token weighs the same, whichever completion it stands "
    "in.",
    hint="One sum over the whole batch, divided by one count.",
    solution="""
def my_token_mean(losses, mask):
    return losses[mask].mean()
""",
    oracle=_token_mean,
    cases={
        "rows of different length": (
            torch.tensor([[1.0, 2.5, 3.0, 4.0], [5.0, 0.5, 7.0, 8.0]]),
            torch.tensor([[0, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool),
        )
    },
    mistakes={
        "mask forgotten": (
            lambda losses, mask: losses.mean(),
            "Prompt and pads are in the mean: use the mask.",
        ),
        "pads in the denominator": (
            partial(_token_mean, how="all"),
            "Divide by mask.sum(), not by B x T.",
        ),
        "mean of row means": (
            partial(_token_mean, how="sequence"),
            "A token of a short completion would weigh more.",
        ),
        "divided by rows": (
            partial(_token_mean, how="row"),
            "Divide by the number of tokens, not of rows.",
        ),
        "sum instead of mean": (
            partial(_token_mean, how="sum"),
            "Divide by the number of tokens that count.",
        ),
    },
)


def _stop_rate(
    ids: Tensor, prompt_length: int, eos_id: int, start: int | None = None, how: str = "any"
) -> float:
    start = prompt_length if start is None else start
    rows = [[token == eos_id for token in row[start:]] for row in ids.tolist()]
    if how == "last":
        return sum(row[-1] for row in rows) / len(rows)
    return (
        sum(map(sum, rows)) / sum(map(len, rows))
        if how == "tokens"
        else sum(map(any, rows)) / len(rows)
    )


STOP_RATE = Exercise(
    name="stop_rate",
    difficulty=1,
    minutes=4,
    signature="my_stop_rate(ids, prompt_length, eos_id)",
    task="`ids` is `(B, P + R)`: a prompt of `prompt_length` tokens, then the response; after its "
    "first EOS come "
    "pads (another id). Return the share of responses that hold an EOS. A prompt may hold an EOS "
    "too; that does "
    "not count.",
    hint="`(ids == eos_id)` is a table of booleans; cut the prompt off, then ask `.any(dim=1)`.",
    solution="""
def my_stop_rate(ids, prompt_length, eos_id):
    stopped = (ids[:, prompt_length:] == eos_id).any(dim=1)  # (B,)
    return stopped.float().mean()
""",
    oracle=_stop_rate,
    cases={
        "EOS in a prompt": (
            torch.tensor([[1, 7, 5, 1, 0], [4, 7, 5, 6, 1], [1, 7, 5, 6, 8], [4, 7, 5, 6, 8]]),
            2,
            1,
        ),
        "early and late": (
            torch.tensor([[7, 1, 0, 0], [7, 5, 5, 1], [7, 5, 5, 5], [7, 5, 1, 0], [7, 1, 0, 0]]),
            1,
            1,
        ),
    },
    mistakes={
        "EOS of the prompt counted": (partial(_stop_rate, start=0), "Look at the response only."),
        "only the last token": (
            partial(_stop_rate, how="last"),
            "An early EOS is followed by pads: look at all tokens.",
        ),
        "tokens instead of responses": (
            partial(_stop_rate, how="tokens"),
            "First ask each row, then average rows.",
        ),
    },
)


def _entropy_floor(logprobs: Tensor, lengths: Tensor) -> float:
    return -sum(logprobs.tolist()) / sum(lengths.tolist())


ENTROPY_FLOOR = Exercise(
    name="entropy_floor",
    difficulty=2,
    minutes=5,
    signature="my_entropy_floor(logprobs, lengths)",
    task="The generator of our world knows the log-probability (nats) of every completion it "
    "wrote: `logprobs`, "
    "`(N,)`. `lengths`, `(N,)`, are their numbers of tokens. Return the loss per token of a model "
    "that knows "
    "the generator exactly: no model can do better on average.",
    hint="Such a model gives each completion exactly its log-probability. The loss is a token "
    "mean, so sum first.",
    solution="""
def my_entropy_floor(logprobs, lengths):
    return -logprobs.sum() / lengths.sum()
""",
    oracle=_entropy_floor,
    cases={"three completions": (torch.tensor([-2.0, -6.0, -10.0]), torch.tensor([10, 40, 25]))},
    mistakes={
        "sign": (
            lambda logprobs, lengths: logprobs.sum() / lengths.sum(),
            "A loss is minus a log-probability.",
        ),
        "mean of ratios": (
            lambda logprobs, lengths: -(logprobs / lengths).mean(),
            "Divide one sum by the other.",
        ),
        "per text, not per token": (
            lambda logprobs, lengths: -logprobs.mean(),
            "Divide by the number of tokens.",
        ),
    },
)

FIRST_LOSS_ROW = Prediction(
    name="first_loss_row",
    difficulty=1,
    minutes=2,
    task="A prompt of 5 tokens sits at positions 0 to 4, its completion at 5 to 9. Which is the "
    "first row of the "
    "logits that enters the completion loss?",
    hint="Who predicts the token at position 5?",
    solution="my_first_loss_row = 4",
    answer=4.0,
    why="Row 4, the last prompt token, predicts token 5, the first of the completion.",
    mistakes={
        "off by one": (
            5.0,
            "Row 5 has read the first completion token and predicts the second: the first is lost.",
        ),
        "that is the whole text": (
            0.0,
            "Rows 0 to 3 predict prompt tokens, which we do not train on.",
        ),
    },
)

COIN_FLOOR = Prediction(
    name="coin_floor",
    difficulty=2,
    minutes=3,
    task="A writer's summaries have 10 tokens. Nine follow from the post; one is a free choice, "
    "'Help' in 3 of 4 "
    "cases, else 'Advice'. What is the lowest loss per token that any model can reach, in nats?",
    hint="The free choice costs - 3/4 ln 3/4 - 1/4 ln 1/4 on average. The other nine cost nothing.",
    solution="my_coin_floor = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / 10",
    answer=-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / 10,
    why="That is the entropy floor; a lower loss on fresh text means a leak.",
    mistakes={
        "a coin has no certain side": (0.0, "No model can know which word the writer picks."),
        "per summary, not per token": (
            lambda answer: 10 * answer,
            "Ten tokens share the cost of one choice.",
        ),
        "that is in bits": (lambda answer: answer / math.log(2), "Nats use the natural logarithm."),
    },
)

EXERCISES = [
    TEMPLATE,
    COMPLETION_MASK,
    FIRST_LOSS_ROW,
    LABELS,
    TOKEN_MEAN,
    COIN_FLOOR,
    ENTROPY_FLOOR,
    STOP_RATE,
]

check_template = TEMPLATE.check
check_completion_mask = COMPLETION_MASK.check
check_first_loss_row = FIRST_LOSS_ROW.check
check_labels = LABELS.check
check_token_mean = TOKEN_MEAN.check
check_coin_floor = COIN_FLOOR.check
check_entropy_floor = ENTROPY_FLOOR.check
check_stop_rate = STOP_RATE.check
