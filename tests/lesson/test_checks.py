"""The exercises: every solution passes its check, every named mistake is recognised by name,
nothing ever raises.
"""

import ast
import importlib

import pytest
import torch
import torch.nn.functional as F

from helpers.lesson.checks import core
from helpers.lesson.checks.core import Exercise, Prediction

NAMES = ("pretrain", "sft", "reward", "ppo", "lora")
MODULES = {name: importlib.import_module(f"helpers.lesson.checks.{name}") for name in NAMES}
TASKS = [(name, task) for name, module in MODULES.items() for task in module.EXERCISES]
EXERCISES = [task for _, task in TASKS if isinstance(task, Exercise)]
PREDICTIONS = [task for _, task in TASKS if isinstance(task, Prediction)]


def pairs(tasks: list) -> list:
    return [
        pytest.param(task, name, wrong, id=f"{task.name}: {name} {i}")
        for task in tasks
        for name in task.mistakes
        for i, wrong in enumerate(task.variants(name), 1)
    ]


def by_name(task) -> str:
    return task.name


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())
def test_a_notebook_has_enough_exercises_of_both_kinds_and_a_check_for_each(module):
    names = [task.name for task in module.EXERCISES]
    least = 2 if module.__name__.endswith("lora") else 5  # a section of 1-SFT
    assert sum(isinstance(task, Exercise) for task in module.EXERCISES) >= least
    assert any(isinstance(task, Prediction) for task in module.EXERCISES)
    assert len(set(names)) == len(names)
    for task in module.EXERCISES:
        assert getattr(module, f"check_{task.name}") == task.check


def test_no_two_notebooks_define_one_name():
    assert len({task.name for _, task in TASKS}) == len(TASKS)


@pytest.mark.parametrize("task", [task for _, task in TASKS], ids=by_name)
def test_texts_are_complete(task):
    assert task.difficulty in (1, 2, 3) and 1 <= task.minutes <= 20
    assert task.hint.strip() and f"my_{task.name}" in task.solution
    assert "\n" not in task.task and task.task.count("`") % 2 == 0 and task.task.count("$") % 2 == 0
    assert task.task in task.markdown() and f"Your turn: {task.kind}" in task.markdown()
    assert task.answers().count("<details>") == task.answers().count("</details>") == 2
    ast.parse(task.stub().rstrip(";"))
    for _, advice in task.mistakes.values():
        assert advice.endswith(".") and "\n" not in advice
    if isinstance(task, Exercise):
        assert (
            task.signature.startswith(f"my_{task.name}(")
            and f"def {task.signature}:" in task.solution
        )
        assert 2 <= len(task.mistakes) <= 6
    assert [kind for kind, _ in task.cells()] == ["markdown", "code", "markdown"]


@pytest.mark.parametrize("task", [task for _, task in TASKS], ids=by_name)
def test_the_solution_passes(task, capsys):
    assert task.check(task.solve()) is True
    assert capsys.readouterr().out.startswith(f"✓ my_{task.name}: ")


@pytest.mark.parametrize("task", EXERCISES, ids=by_name)
def test_the_oracle_passes_its_own_check(task):
    assert task.check(task.oracle) is True


@pytest.mark.parametrize("task", [task for _, task in TASKS], ids=by_name)
def test_the_untouched_stub_runs_and_moves_on(task, capsys):
    namespace = {f"check_{task.name}": task.check}
    exec(task.stub(), namespace)
    assert capsys.readouterr().out == f"○ my_{task.name}: not attempted yet - moving on\n"
    assert task.check(namespace[f"my_{task.name}"]) is None


@pytest.mark.parametrize("task, name, wrong", pairs(EXERCISES))
def test_a_named_mistake_is_named(task, name, wrong, capsys):
    assert task.check(wrong) is False
    assert capsys.readouterr().out == f"✗ my_{task.name}: {name}. {task.mistakes[name][1]}\n"


def learner_gae_without_mask(rewards, values, mask, gamma, lam):
    advantages, running = torch.zeros_like(values), 0
    for t in reversed(range(values.shape[1])):
        ahead = values[:, t + 1] if t + 1 < values.shape[1] else 0
        running = rewards[:, t] + gamma * ahead - values[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages


def learner_rewards_at_the_last_column(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    rewards[:, -1] += scores
    return rewards


# (module, exercise, what a learner would write, the mistake it should be called)
LEARNERS = [
    (
        "pretrain",
        "causal_mask",
        lambda n: torch.triu(torch.ones(n, n), 1) == 1,
        "True means blocked",
    ),
    (
        "pretrain",
        "attention",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        "causal mask forgotten",
    ),
    (
        "pretrain",
        "attention",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0),
        "scale forgotten",
    ),
    (
        "pretrain",
        "next_token_loss",
        lambda logits, ids: F.cross_entropy(logits, ids),
        "not shifted",
    ),
    (
        "pretrain",
        "position_ids",
        lambda mask: torch.arange(mask.shape[1]).expand(mask.shape),
        "pads are counted",
    ),
    ("pretrain", "position_ids", lambda mask: mask.cumsum(1) - 1, "negative at the pads"),
    (
        "sft",
        "completion_mask",
        lambda p, n, size: torch.arange(size) >= p[:, None],
        "pads in the loss",
    ),
    ("sft", "labels", lambda ids, mask: ids.masked_fill(~mask, -100), "not shifted"),
    ("sft", "token_mean", lambda x, mask: (x * mask).mean(), "pads in the denominator"),
    (
        "sft",
        "token_mean",
        lambda x, mask: ((x * mask).sum(1) / mask.sum(1)).mean(),
        "mean of row means",
    ),
    (
        "sft",
        "stop_rate",
        lambda ids, p, eos: (ids == eos).any(1).float().mean(),
        "EOS of the prompt counted",
    ),
    (
        "reward",
        "bradley_terry",
        lambda c, r: -F.logsigmoid(r - c).mean(),
        "chosen and rejected swapped",
    ),
    ("reward", "last_token", lambda mask: mask.sum(1) - 1, "left pads not counted"),
    ("reward", "normalise", lambda s, sft: (s - sft.mean()) / sft.std(), "divided by M - 1"),
    (
        "reward",
        "normalise",
        lambda s, sft: (s - s.mean()) / s.std(unbiased=False),
        "normalised by its own batch",
    ),
    ("ppo", "k3", lambda p, q: (p - q).exp() - 1 - (p - q), "KL sign"),
    ("ppo", "token_rewards", learner_rewards_at_the_last_column, "score at a pad"),
    ("ppo", "gae", learner_gae_without_mask, "mask forgotten"),
    ("ppo", "gae", lambda *x: learner_gae_without_mask(*x) * x[2], "mask forgotten"),
    ("ppo", "whiten", lambda x, mask: (x - x.mean()) / x.std(), "mask forgotten"),
    (
        "ppo",
        "whiten",
        lambda x, mask: (x - x[mask].mean()) / x[mask].std() * mask,
        "divided by n - 1",
    ),
    (
        "ppo",
        "policy_loss",
        lambda new, old, a, mask, c: (-a * (new - old).exp().clamp(1 - c, 1 + c))[mask].mean(),
        "always clipped",
    ),
    (
        "ppo",
        "policy_loss",
        lambda new, old, a, mask, c: (
            -torch.min(a * (x := (new - old).exp()), a * x.clamp(1 - c, 1 + c)).mean()
        ),
        "mask forgotten",
    ),
]


@pytest.mark.parametrize("module, exercise, function, name", LEARNERS)
def test_what_learners_write_is_recognised(module, exercise, function, name, capsys):
    """The wrong versions in the modules are loops; these are the lines of PyTorch that people
    write.
    """
    assert getattr(MODULES[module], f"check_{exercise}")(function) is False
    assert f": {name}. " in capsys.readouterr().out


@pytest.mark.parametrize("task, name, wrong", pairs(PREDICTIONS))
def test_a_named_wrong_guess_is_named(task, name, wrong, capsys):
    assert task.check(wrong(task.answer) if callable(wrong) else wrong) is False
    assert capsys.readouterr().out == f"✗ my_{task.name}: {name}. {task.mistakes[name][1]}\n"


@pytest.mark.parametrize("task", EXERCISES, ids=by_name)
@pytest.mark.parametrize(
    "function",
    [
        lambda *arguments: None,
        lambda *arguments: "words",
        lambda *arguments: torch.zeros(0),
        lambda *arguments: (1, 2, 3),
        lambda *arguments: object(),
        lambda *arguments: float("nan"),
        lambda *arguments: 1 / 0,
        lambda: 1,
        42,
    ],
    ids=[
        "none",
        "text",
        "empty",
        "tuple",
        "object",
        "nan",
        "raises",
        "no arguments",
        "no function",
    ],
)
def test_nonsense_is_one_line_and_never_raises(task, function, capsys):
    assert task.check(function) is False
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("task", PREDICTIONS, ids=by_name)
@pytest.mark.parametrize("guess", ["many", [1, 2], torch.ones(2), 10**400, float("nan"), 1e9, -1e9])
def test_a_nonsense_guess_is_one_line_and_never_raises(task, guess, capsys):
    assert task.check(guess) is False
    assert capsys.readouterr().out.count("\n") == 1


# ---------------- the mechanism, on an exercise made up here


def toy(**changes) -> Exercise:
    x = torch.tensor([1.0, -2.0, 3.0])
    fields = dict(
        name="double",
        difficulty=1,
        minutes=1,
        task="Double it.",
        hint="Add it to itself.",
        solution="def my_double(x):\n    return 2 * x",
        signature="my_double(x)",
        oracle=lambda x: 2 * x,
        cases={"a row": (x,), "its square": (x**2,)},
        mistakes={
            "squared": (lambda x: x**2, "Twice is not squared."),
            "same": (lambda x: x, "You forgot to."),
        },
    )
    return Exercise(**{**fields, **changes})


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: x, "same. You forgot to."),
        (lambda x: x * x, "squared. Twice is not squared."),
        (lambda x: -2 * x, "every number has the wrong sign."),
        (lambda x: 6 * x, "every number is 3 times the right one."),
        (lambda x: 2 * x + 1, "wrong on the case 'a row': got 3 at [0], expected 2."),
        (lambda x: 2 * x.abs(), "wrong on the case 'a row': got 4 at [1], expected -4."),
        (lambda x: (2 * x).sum(), "wrong on the case 'a row': the shape is (), expected (3,)."),
        (lambda x: x.mul_(2), "changes its input in place (case 'a row')"),
        (
            lambda x: None,
            "wrong on the case 'a row': it returns None, so a `return` may be missing.",
        ),
        (lambda x: x[7], "raises IndexError on the case 'a row': index 7"),
        (lambda x: 2 * x.numpy(), "right."),
        (lambda x: [2 * v for v in x.tolist()], "right."),
        (lambda x: (2 * x).requires_grad_(), "right."),
    ],
)
def test_what_the_line_says(function, message, capsys):
    toy().check(function)
    assert message in capsys.readouterr().out


def test_inputs_are_fresh_for_every_attempt():
    task = toy()
    task.check(lambda x: x.zero_())
    assert task.check(lambda x: 2 * x) is True


def test_pytorchs_own_not_implemented_error_is_a_mistake_and_a_message_in_the_stub_is_not(capsys):
    def missing_kernel(x):
        torch.empty(2, device="meta").cpu()  # NotImplementedError: Cannot copy out of meta tensor

    def stub_with_words(x):
        raise NotImplementedError("write me")

    assert toy().check(missing_kernel) is False
    assert "raises NotImplementedError on the case 'a row'" in capsys.readouterr().out
    assert toy().check(stub_with_words) is None


def test_a_mistake_must_explain_every_case():
    """Right on one case and like a mistake on the other is no named mistake."""
    task = toy(cases={"two": (torch.tensor([2.0, 2.0]),), "more": (torch.tensor([3.0, 1.0]),)})
    assert "squared" in task.diagnose([torch.tensor([4.0, 4.0]), torch.tensor([9.0, 1.0])])
    assert task.diagnose([torch.tensor([4.0, 4.0]), torch.tensor([9.0, 2.0])]).startswith(
        "wrong on the case 'more'"
    )


def test_prediction_says_near_or_far_and_takes_a_measured_answer(capsys):
    task = MODULES["pretrain"].INITIAL_LOSS
    assert task.check(10.8) is True
    assert task.check(12.0) is False and task.check(3.0) is False
    lines = capsys.readouterr().out.splitlines()
    assert "close, but 12 is too high" in lines[1] and "far off: 3 is too low" in lines[2]
    assert task.check(6.9, answer=torch.tensor(6.93)) is True
    assert task.check(10.0, answer=6.93) is False
    assert "that is in bits" in capsys.readouterr().out


def test_the_checks_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    for _, task in TASKS:
        task.check(task.solve())
    assert torch.equal(before, torch.get_rng_state())


def test_a_terminal_without_unicode_still_gets_its_line(monkeypatch):
    lines = []

    def old_code_page(line):
        lines.append(line.encode("ascii").decode())

    monkeypatch.setattr("builtins.print", old_code_page)
    assert toy().check(lambda x: 2 * x) is True
    assert lines == ["? my_double: right."]


def test_difference_and_constant_factor():
    assert core.difference((1.0, torch.ones(2)), (1.0, torch.ones(2))) == ""
    assert "2 things" in core.difference(1.0, (1.0, 2.0))
    assert core.difference(torch.tensor([True, False]), torch.tensor([True, False])) == ""
    assert core.difference(float("-inf"), float("-inf")) == ""
    assert core.constant_factor(
        [torch.tensor([2.0, 4.0])], [torch.tensor([1.0, 2.0])]
    ) == pytest.approx(2)
    assert core.constant_factor([torch.tensor([2.0, 5.0])], [torch.tensor([1.0, 2.0])]) is None
    assert core.constant_factor(["words"], ["other words"]) is None
