"""The exercises: solutions pass, each named mistake is recognised, nonsense never raises. Tasks,
stubs and solutions are read from the notebooks.
"""

import ast
import re

import pytest
import torch
import torch.nn.functional as F

from helpers.lesson.checks import (
    alternatives,
    clinic,
    core,
    loops,
    lora,
    ppo,
    pretrain,
    reward,
    sft,
)
from helpers.lesson.checks.core import Exercise, Prediction, randn, tiny_gpt
from helpers.model import attend_explicit
from helpers.run import answers
from helpers.run.folders import BONUS, NOTEBOOKS
from tests.support import notebook_code
from tests.support.notebook_code import solution_of

MODULES = {
    "pretrain": [pretrain, loops.check_training_loop],
    "sft": [sft, loops.check_masked_loop],
    "reward": [reward, loops.check_pair_loop],
    "ppo": [ppo, loops.check_ppo_loop],
    "1b-Adapters": [lora],
    "4-Alternatives": [alternatives],
    "5-Clinic": [clinic],
}


def checks_of(lesson: str) -> dict:
    """{name: check} of a notebook."""
    found = {}
    for source in MODULES[lesson]:
        checks = [source] if isinstance(source, Exercise) else vars(source).values()
        found |= {
            check.name: check for check in checks if isinstance(check, (Exercise, Prediction))
        }
    return found


CHECKS = {name: check for lesson in MODULES for name, check in checks_of(lesson).items()}
EXERCISES = [check for check in CHECKS.values() if isinstance(check, Exercise)]
PREDICTIONS = [check for check in CHECKS.values() if isinstance(check, Prediction)]


def by_name(check) -> str:
    return check.name


TEXTS = {
    name: texts
    for exercises in notebook_code.EXERCISES.values()
    for name, texts in exercises.items()
}


@pytest.mark.parametrize("lesson", notebook_code.LESSONS)
def test_a_notebook_has_enough_exercises_of_both_kinds_each_with_its_check(lesson):
    assert {*notebook_code.EXERCISES[lesson]} == {*checks_of(lesson)}
    checks = checks_of(lesson).values()
    enough = 2 if lesson in BONUS else 5
    assert sum(isinstance(check, Exercise) for check in checks) >= enough
    assert any(isinstance(check, Prediction) for check in checks)


@pytest.mark.parametrize("lesson", notebook_code.LESSONS)
def test_the_exercises_are_listed_in_the_order_of_their_notebook(lesson):
    name = NOTEBOOKS.get(lesson, lesson)  # of a stage, or of a bonus notebook
    assert answers.EXERCISES[name] == [*notebook_code.EXERCISES[lesson]]


def test_a_right_answer_says_how_many_are_solved(monkeypatch, capsys):
    """No exercise counts twice, none after it is wrong again, none of another notebook."""
    monkeypatch.setattr(answers, "SOLVED", {"gae"})
    attempts = [
        ("perplexity", solution_of("perplexity"), 1),
        ("merge", solution_of("merge"), 2),
        ("merge", solution_of("merge"), 2),
        ("perplexity", 4.0, None),
        ("causal_mask", solution_of("causal_mask"), 2),
        ("merge", None, None),
        ("perplexity", None, None),
        ("initial_loss", solution_of("initial_loss"), 2),
    ]
    for name, attempt, solved in attempts:
        CHECKS[name](attempt)
        line = capsys.readouterr().out.splitlines()[0]
        assert solved is None or line.endswith(f" ({solved} of 13 exercises solved)")
        assert ("solved" in line) == (solved is not None)


def test_the_block_and_the_cached_step_are_the_models():
    block, x = tiny_gpt().h[0], randn(2, 5, 8, seed=1)
    parts = block.attn, block.mlp, block.ln_1, block.ln_2
    assert torch.allclose(solution_of("block")(x, *parts), block(x))
    q, k, v = torch.randn(3, 5, 4)
    out, keys, values = solution_of("cached_step")(q[-1:], k[-1:], v[-1:], k[:-1], v[:-1])
    (together,) = attend_explicit(*(x[None, None] for x in (q, k, v)))[0]
    assert torch.allclose(out, together[-1:], atol=1e-6)
    assert torch.equal(keys, k) and torch.equal(values, v)


@pytest.mark.parametrize("name", CHECKS)
def test_texts_are_complete(name):
    check, (task, stub, answers) = CHECKS[name], TEXTS[name]
    kind = "implement" if isinstance(check, Exercise) else "predict"
    assert re.match(rf"\*\*Your turn: {kind}\*\* [●○]{{3}} \d+ minutes?\n\n[^\n]+$", task)
    assert task.count("`") % 2 == 0 and task.count("$") % 2 == 0
    assert re.match(
        r"<details><summary>Hint</summary>\n\n\S.*\n\n</details>\n"
        r"<details><summary>Solution</summary>\n\n```python\n.*```.*</details>$",
        answers,
        re.DOTALL,
    )
    assert all(mistake.endswith(".") and "\n" not in mistake for mistake in check.mistakes)
    if isinstance(check, Exercise):
        (function,) = (node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef))
        assert f"def {function.name}({ast.unparse(function.args)}):" in answers
        assert 2 <= len(check.mistakes) <= 8
    else:
        assert check.why in answers


@pytest.mark.parametrize("name", CHECKS)
def test_the_solution_passes(name, capsys):
    assert CHECKS[name](solution_of(name)) is True
    assert capsys.readouterr().out.startswith(f"✓ my_{name}: ")


@pytest.mark.parametrize("check", EXERCISES, ids=by_name)
def test_the_oracle_passes_its_check(check):
    assert check(check.oracle) is True


@pytest.mark.parametrize("name", CHECKS)
def test_the_untouched_stub_runs_and_moves_on(name, capsys):
    namespace = {f"check_{name}": CHECKS[name]}
    exec(TEXTS[name][1], namespace)
    assert capsys.readouterr().out == f"○ my_{name}: not attempted yet - moving on\n"
    assert CHECKS[name](namespace[f"my_{name}"]) is None


NUMBERS = [
    pytest.param(check, i, value, id=f"{check.name} {i}")
    for check in EXERCISES
    for i, value in enumerate(next(iter(check.cases.values())))
    if isinstance(value, (int, float))
]


@pytest.mark.parametrize("check, i, value", NUMBERS)
def test_a_constant_in_place_of_an_argument_is_noticed(check, i, value):
    def constant(*arguments):
        return check.oracle(*arguments[:i], value, *arguments[i + 1 :])

    assert check(constant) is False


WRONG = [
    pytest.param(check, mistake, wrong, id=f"{check.name}: {mistake} {i}")
    for check in EXERCISES
    for mistake in check.mistakes
    for i, wrong in enumerate(check.wrong_versions(mistake), 1)
] + [
    pytest.param(check, mistake, wrong(check.answer) if callable(wrong) else wrong)
    for check in PREDICTIONS
    for mistake, wrong in check.mistakes.items()
]


@pytest.mark.parametrize("check, mistake, wrong", WRONG)
def test_a_mistake_is_named(check, mistake, wrong, capsys):
    assert check(wrong) is False
    assert capsys.readouterr().out == f"✗ my_{check.name}: {mistake}\n"


def gae_without_mask(rewards, values, mask, gamma, lam):
    advantages, running = torch.zeros_like(values), 0
    for t in reversed(range(values.shape[1])):
        ahead = values[:, t + 1] if t + 1 < values.shape[1] else 0
        running = rewards[:, t] + gamma * ahead - values[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages


def rewards_at_the_last_column(scores, logprobs, ref_logprobs, mask, kl_coef):
    rewards = -kl_coef * (logprobs - ref_logprobs) * mask
    rewards[:, -1] += scores
    return rewards


def clipped_without_mask(new, old, a, mask, c):
    ratio = (new - old).exp()
    return -torch.min(a * ratio, a * ratio.clamp(1 - c, 1 + c)).mean()


def always_clipped(new, old, a, mask, c):
    return (-a * (new - old).exp().clamp(1 - c, 1 + c))[mask].mean()


sdpa = F.scaled_dot_product_attention
# {exercise: [(what a learner would write, the mistake it should be called)]}
LEARNERS = {
    "causal_mask": [(lambda n: torch.triu(torch.ones(n, n), 1) == 1, "True means blocked")],
    "attention": [
        (lambda q, k, v: sdpa(q, k, v), "causal mask forgotten"),
        (lambda q, k, v: sdpa(q, k, v, is_causal=True, scale=1.0), "scale forgotten"),
    ],
    "next_token_loss": [(lambda logits, ids: F.cross_entropy(logits, ids), "not shifted")],
    "position_ids": [
        (lambda mask: torch.arange(mask.shape[1]).expand(mask.shape), "pads are counted"),
        (lambda mask: mask.cumsum(1) - 1, "negative at the pads"),
    ],
    "completion_mask": [(lambda p, n, size: torch.arange(size) >= p[:, None], "pads in the loss")],
    "labels": [(lambda ids, mask: ids.masked_fill(~mask, -100), "not shifted")],
    "token_mean": [
        (lambda x, mask: (x * mask).mean(), "pads in the denominator"),
        (lambda x, mask: ((x * mask).sum(1) / mask.sum(1)).mean(), "mean of row means"),
    ],
    "stop_rate": [
        (lambda ids, p, eos: (ids == eos).any(1).float().mean(), "EOS of the prompt counted")
    ],
    "bradley_terry": [(lambda c, r: -F.logsigmoid(r - c).mean(), "chosen and rejected swapped")],
    "last_token": [(lambda mask: mask.sum(1) - 1, "left pads not counted")],
    "normalise": [
        (lambda s, sft: (s - sft.mean()) / sft.std(), "divided by M - 1"),
        (lambda s, sft: (s - s.mean()) / s.std(unbiased=False), "normalised by its own batch"),
    ],
    "k3": [(lambda p, q: (p - q).exp() - 1 - (p - q), "KL sign")],
    "token_rewards": [(rewards_at_the_last_column, "score at a pad")],
    "gae": [
        (lambda *x: gae_without_mask(x[0] * x[2], x[1] * x[2], x[2], 1.0, x[4]), "gamma forgotten"),
        (gae_without_mask, "mask forgotten"),
        (lambda *x: gae_without_mask(*x) * x[2], "mask forgotten"),
    ],
    "whiten": [
        (lambda x, mask: (x - x.mean()) / x.std(), "mask forgotten"),
        (lambda x, mask: (x - x[mask].mean()) / x[mask].std() * mask, "divided by n - 1"),
    ],
    "policy_loss": [(always_clipped, "always clipped"), (clipped_without_mask, "mask forgotten")],
}


@pytest.mark.parametrize(
    "name, function, mistake", [(name, *row) for name, rows in LEARNERS.items() for row in rows]
)
def test_what_learners_write_is_recognised(name, function, mistake, capsys):
    """The wrong versions in the modules are loops; these are the lines of PyTorch that people
    write.
    """
    assert CHECKS[name](function) is False
    assert f": {mistake}. " in capsys.readouterr().out


ENDLESS: list = []
ENDLESS.append(ENDLESS)
NONSENSE = {
    "sparse": lambda *arguments: torch.eye(3).to_sparse(),
    "endless": lambda *arguments: ENDLESS,
    "none": lambda *arguments: None,
    "text": lambda *arguments: "words",
    "empty": lambda *arguments: torch.zeros(0),
    "tuple": lambda *arguments: (1, 2, 3),
    "object": lambda *arguments: object(),
    "nan": lambda *arguments: float("nan"),
    "raises": lambda *arguments: 1 / 0,
    "no arguments": lambda: 1,
    "no function": 42,
}
GUESSES = ["many", [1, 2], torch.ones(2), 10**400, float("nan"), 1e9, -1e9]


@pytest.mark.parametrize(
    "check, nonsense",
    [(check, NONSENSE) for check in EXERCISES]
    + [(check, dict(enumerate(GUESSES))) for check in PREDICTIONS],
    ids=lambda value: getattr(value, "name", ""),
)
def test_nonsense_is_a_line_or_an_example_and_never_raises(check, nonsense, capsys):
    for kind, attempt in nonsense.items():
        assert check(attempt) is False, kind
        line, *example = capsys.readouterr().out.splitlines()
        assert line.startswith(f"✗ my_{check.name}: "), kind
        assert all(row.startswith("    ") and len(row) < 600 for row in example), kind


def test_a_learner_reads_no_warnings_of_ours(recwarn):
    torch.set_warn_always(True)
    try:
        assert CHECKS["training_loop"](lambda model, batches, optimizer: 1.0) is False
    finally:
        torch.set_warn_always(False)
    assert not recwarn.list


def test_the_checks_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    for name, check in CHECKS.items():
        check(solution_of(name))
    assert torch.equal(before, torch.get_rng_state())


# ---------------- the mechanism, on an exercise made up here


def toy(**cases) -> Exercise:
    x = torch.tensor([1.0, -2.0, 3.0])
    return Exercise(
        "double",
        lambda x, times=2: times * x,
        cases or {"a row": (x,), "its square": (x**2,)},
        mistakes={
            "squared. Twice is not squared.": lambda x: x**2,
            "same. You forgot to.": {"times": 1},
        },
    )


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda x: x, "same. You forgot to."),
        (lambda x: x * x, "squared. Twice is not squared."),
        (lambda x: -2 * x, "every number has the wrong sign."),
        (lambda x: 6 * x, "every number is 3 times the right one."),
        (lambda x: 2 * x + 1, "wrong on the case 'a row': got 3 at [0], expected 2."),
        (lambda x: 2 * x.abs(), "wrong on the case 'a row': got 4 at [1], expected -4."),
        (
            lambda x: (2 * x).sum(),
            "wrong on the case 'a row': the shape is () (one number), expected (3,).",
        ),
        (lambda x: x.mul_(2), "changes its input x in place (case 'a row')" + core.COPY),
        (
            lambda x: None,
            "wrong on the case 'a row': it returns None, so a `return` may be missing.",
        ),
        (lambda x: x[7], "raises IndexError on the case 'a row': index 7"),
        (3, "pass the function itself, as in check_double(my_double), not its result."),
        (lambda x: 2 * x.numpy(), "correct"),
        (lambda x: [2 * v for v in x.tolist()], "correct"),
        (lambda x: (2 * x).requires_grad_(), "correct"),
    ],
)
def test_what_the_line_says(function, message, capsys):
    toy()(function)
    assert f" my_double: {message}" in capsys.readouterr().out


def test_a_right_result_of_the_wrong_shape_is_no_right_one(capsys):
    check = CHECKS["next_token_loss"]
    assert check(lambda logits, ids: F.cross_entropy(logits[:-1], ids[1:])[None]) is False
    assert "the shape is (1,), expected () (one number)." in capsys.readouterr().out


def test_a_huge_result_is_not_read(capsys):
    check = CHECKS["cooled_share"]
    assert check(lambda share, temperature: torch.zeros(1).expand(10**9)) is False
    assert "the shape is (1000000000,), which is far too large" in capsys.readouterr().out


def test_an_unknown_mistake_is_shown_on_an_example(capsys):
    def my_double(x):
        return 2 * x + 1

    toy()(my_double)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "    given    x [1.0, -2.0, 3.0]",
        "    expected [2.0, -4.0, 6.0]",
        "    got      [3.0, -3.0, 7.0]",
    ]


def test_an_error_is_shown_with_the_learners_own_line(capsys):
    def my_double(x):
        y = 2 * x
        return y.view(2, 2)

    toy()(my_double)
    line, where, shapes = capsys.readouterr().out.splitlines()
    assert "raises RuntimeError on the case 'a row': shape '[2, 2]' is invalid" in line
    assert where == "    in line 3 of it: return y.view(2, 2)"
    assert shapes == "    shapes   x (3,)"


def test_inputs_are_fresh_for_every_attempt():
    check = toy()
    check(lambda x: x.zero_())
    assert check(lambda x: 2 * x) is True


def test_pytorchs_not_implemented_error_is_a_mistake_and_a_message_in_the_stub_is_not(capsys):
    def missing_kernel(x):
        torch.empty(2, device="meta").cpu()  # NotImplementedError: Cannot copy out of meta tensor

    def stub_with_words(x):
        raise NotImplementedError("write me")

    assert toy()(missing_kernel) is False
    assert "raises NotImplementedError on the case 'a row'" in capsys.readouterr().out
    assert toy()(stub_with_words) is None


def test_a_mistake_must_explain_every_case():
    """Right on one case and like a mistake on the other is no named mistake."""
    check = toy(two=(torch.tensor([2.0, 2.0]),), more=(torch.tensor([3.0, 1.0]),))
    squares = [torch.tensor([4.0, 4.0]), torch.tensor([9.0, 1.0])]
    assert check.diagnose(squares) == "squared. Twice is not squared."
    squares[1][1] = 2.0
    assert check.diagnose(squares).startswith("wrong on the case 'more'")


def test_a_prediction_says_near_or_far(capsys):
    assert [pretrain.check_initial_loss(guess) for guess in (10.8, 12.0, 3.0)] == [
        True,
        False,
        False,
    ]
    right, near, far = capsys.readouterr().out.splitlines()
    assert "10.8 is right (10.82). It is ln V." in right
    assert "close, but 12 is too high. The hint may help." in near
    assert "far off: 3 is too low. The hint may help." in far
    pretrain.check_initial_loss(float("nan"))
    assert "the guess is nan, which is not a number." in capsys.readouterr().out


def test_a_terminal_without_unicode_still_gets_its_line(monkeypatch):
    lines = []

    def old_code_page(line):
        lines.append(line.encode("ascii").decode())

    monkeypatch.setattr("builtins.print", old_code_page)
    assert toy()(lambda x: 2 * x) is True
    assert lines == ["? my_double: correct (1 of 1 exercises solved)"]


def test_difference_and_constant_factor():
    two, mask = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    assert core.difference((1.0, torch.ones(2)), (1.0, torch.ones(2))) == ""
    assert "2 things" in core.difference(1.0, (1.0, 2.0))
    assert core.difference(mask, mask) == ""
    assert core.difference(float("-inf"), float("-inf")) == ""
    assert core.constant_factor([2 * two], [two]) == pytest.approx(2)
    assert core.constant_factor([torch.tensor([2.0, 5.0])], [two]) is None
    assert core.constant_factor(["words"], ["other words"]) is None


@pytest.mark.parametrize(
    "wrong, named",
    [
        (lambda share, t: share ** (1 / max(t, 1e-6)), "not normalised."),
        (lambda share, t: share, "the share is still what it was."),
        (lambda share, t: torch.sigmoid(torch.tensor((2 * share - 1) / max(t, 1e-6))), "logarithm"),
    ],
)
def test_mistakes_without_a_case_for_temperature_0_are_named(wrong, named, capsys):
    assert sft.check_cooled_share(wrong) is False
    assert f"my_cooled_share: {named}" in capsys.readouterr().out
