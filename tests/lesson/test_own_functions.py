"""A learner's functions in the place of the library's: `course.use`, and training with them."""

import ast
import sys

import numpy as np
import pytest
import torch

from helpers.engine.loop import Loop
from helpers.lesson.checks import core, loops, ppo, pretrain, reward, sft
from helpers.losses import gae
from helpers.model import attend_explicit
from tests.support import runs
from tests.support.courses import course_in
from tests.support.notebook_code import cells_of, namespace_of, solution_of

CHECKS = {
    "pretrain": [*vars(pretrain).values(), loops.check_training_loop],
    "sft": [*vars(sft).values(), loops.check_masked_loop],
    "reward": [*vars(reward).values(), loops.check_pair_loop],
    "ppo": [*vars(ppo).values(), loops.check_ppo_loop],
}
PLACED = {
    stage: {
        check.name: check for check in checks if isinstance(check, core.Exercise) and check.place
    }
    for stage, checks in CHECKS.items()
}


def use_cell(stage: str) -> str:
    (cell,) = (code for code in cells_of(stage, "code") if "course.use(" in code)
    return cell


@pytest.fixture
def course(tmp_path):
    return course_in(tmp_path, "ppo")


def each(stages=PLACED):
    return [(stage, name) for stage in stages for name in PLACED[stage]]


def library_of(stage: str, name: str):
    """The library function that an exercise replaces, as the notebook names it."""
    names, cell = namespace_of(stage), ast.parse(use_cell(stage))
    calls = [node.value for node in cell.body if isinstance(node, ast.Assign)]
    (library,) = (call.args[1].id for call in calls if call.args[0].id == f"my_{name}")
    return names[library]


@pytest.mark.parametrize("stage", PLACED)
def test_every_placed_exercise_is_offered_before_the_training(stage):
    called = {
        node.args[0].id
        for node in ast.walk(ast.parse(use_cell(stage)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "course.use"
    }
    assert called == {f"my_{name}" for name in PLACED[stage]}


@pytest.mark.parametrize("stage, name", each())
def test_the_solution_takes_the_place(stage, name, course, capsys):
    library, check = library_of(stage, name), PLACED[stage][name]
    used = course.use(solution_of(name), library, check)
    assert used is not library and course.own_functions == [name]
    assert capsys.readouterr().out == f"✓ my_{name} takes the place of {library.__name__}\n"
    assert course.trained_with() == "1 of 1 functions are yours"


@pytest.mark.parametrize("stage, name", each())
def test_no_mistake_gets_in(stage, name, course, capsys):
    library, check = library_of(stage, name), PLACED[stage][name]
    for mistake in check.mistakes:
        for wrong in check.wrong_versions(mistake):
            course.use(solution_of(name), library, check)  # even after a right one
            capsys.readouterr()
            assert course.use(wrong, library, check) is library
            printed = capsys.readouterr().out
            assert (
                printed == f"✗ my_{name} does not take the place of {library.__name__}: {mistake}\n"
            )
    assert course.own_functions == []


@pytest.mark.parametrize("stage, name", each())
def test_an_untouched_stub_changes_nothing(stage, name, course, capsys):
    library, check = library_of(stage, name), PLACED[stage][name]

    def stub(*arguments):
        raise NotImplementedError

    assert course.use(stub, library, check) is library
    assert capsys.readouterr().out == "" and course.trained_with() == "0 of 1 functions are yours"


def test_right_numbers_without_a_gradient_are_refused(course, capsys):
    def my_policy_loss(logprobs, old, advantages, mask, clip_range):
        return solution_of("policy_loss")(logprobs.detach(), old, advantages, mask, clip_range)

    check, library = PLACED["ppo"]["policy_loss"], library_of("ppo", "policy_loss")
    assert check(my_policy_loss) is True
    assert course.use(my_policy_loss, library, check) is library
    assert "its gradient differs from the library's" in capsys.readouterr().out


def test_what_raises_in_training_is_refused(course, capsys):
    def my_whiten(x, mask):  # right on three rows, as in the check, and on no other number
        assert len(x) == 3 and not x.requires_grad
        return solution_of("whiten")(x, mask) if x[0, 0] != 3 * ppo.X[0, 0] + 2 else 1 / 0

    check, library = PLACED["ppo"]["whiten"], library_of("ppo", "whiten")
    assert course.use(my_whiten, library, check) is library
    assert "raises ZeroDivisionError" in capsys.readouterr().out


class Notebook:
    """A stage's module as a notebook defines it."""

    def __init__(self, names: dict, module):
        self.names, self.module = names, module

    def __getattr__(self, name: str):
        return self.names[name] if name in self.names else getattr(self.module, name)


RUN = {
    "pretrain": runs.run_pretrain,
    "sft": runs.run_sft,
    "reward": runs.run_pairs,
    "ppo": runs.run_ppo,
}


# where all are a learner's: attention masks by itself, and two loops write their own loss
NEVER_CALLED = {
    "pretrain": {"causal_mask"},
    "sft": {"token_mean"},
    "reward": {"bradley_terry"},
    "ppo": set(),
}


def history_of(stage: str) -> list[dict]:
    loop = Loop(stage)
    RUN[stage](loop, 0.01)
    return loop.history


@pytest.mark.parametrize("stage, own", [*each(), *((stage, "all") for stage in PLACED)])
def test_training_with_a_learners_functions_gives_the_librarys_run(stage, own, course, monkeypatch):
    names, called = namespace_of(stage), set()
    names["course"] = course

    def counted(name: str):
        solution = solution_of(name, names)

        def function(*arguments):
            called.add(name)
            return solution(*arguments)

        return function

    def stub(*arguments):
        raise NotImplementedError

    chosen = [*PLACED[stage]] if own == "all" else [own]
    for name in PLACED[stage]:
        names[f"my_{name}"] = counted(name) if name in chosen else stub
    exec(use_cell(stage), names)
    count = f"{len(chosen)} of {len(PLACED[stage])} functions are yours"
    assert course.trained_with() == count
    called.clear()  # by the check

    by_library = history_of(stage)
    monkeypatch.setattr(runs, stage, Notebook(names, getattr(runs, stage)))
    for name in {"GPT", "RewardModel"} & names.keys():
        monkeypatch.setattr(runs, name, names[name])
    for library, learner in zip(by_library, history_of(stage), strict=True):
        assert library == pytest.approx(learner, rel=1e-3, abs=1e-4)
    assert called == {*chosen} - (NEVER_CALLED[stage] if own == "all" else set())


def use(course, stage: str, name: str, mine):
    """What `course.use` gives, or None where it is the library's."""
    library = library_of(stage, name)
    used = course.use(mine, library, PLACED[stage][name])
    return None if used is library else used


CALLS_THE_LIBRARY = """
class Class:
    def __call__(self, *arguments):
        return gae(*arguments)[0]

def one(rewards, values, mask, gamma, lam):
    return gae(rewards, values, mask, gamma, lam)[0]

def by_another(*arguments):
    return one(*arguments)

def inside(*arguments):
    def inner():
        return one(*arguments)
    return inner()

plain, instance = one, Class()
"""


@pytest.mark.parametrize("name", ["plain", "by_another", "inside", "instance"])
def test_what_would_call_itself_in_training_is_refused(name, course, capsys):
    library = library_of("ppo", "gae")
    names = library.__globals__  # as in a notebook, where both are defined
    exec(CALLS_THE_LIBRARY, names)
    assert PLACED["ppo"]["gae"](names[name]) is True
    assert course.use(names[name], library, PLACED["ppo"]["gae"]) is library
    assert "it calls gae itself, which it is to replace" in capsys.readouterr().out
    assert names["gae"] is library


def whole_numbers(prompt_lengths, lengths, size):
    t = torch.arange(size)
    return ((t >= prompt_lengths[:, None]) & (t < lengths[:, None])).long()


def in_numpy(x, mask):
    x, real = x.numpy(), mask.numpy()
    return np.where(real, (x - x[real].mean()) / np.sqrt(x[real].var() + 1e-8), 0.0)


def by_hand(logits, ids):
    x = logits[:, :-1]
    logprobs = x - x.exp().sum(-1, keepdim=True).log()  # no number is left of exp(-200)
    return logprobs.gather(-1, ids[:, 1:, None])[..., 0]


def constant_clip(logprobs, old_logprobs, advantages, mask, clip_range):
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.detach().clamp(1 - clip_range, 1 + clip_range)  # half the gradient near 1
    return torch.maximum(-advantages * ratio, -advantages * clipped)[mask].mean()


def test_a_mask_of_zeros_and_ones_will_do(course):
    used = use(course, "sft", "completion_mask", whole_numbers)
    assert used(torch.tensor([[True, True, True]]), [1]).dtype == torch.bool


@pytest.mark.parametrize(
    "stage, name, mine, reason",
    [
        ("ppo", "policy_loss", constant_clip, "its gradient differs from the library's"),
        ("ppo", "whiten", in_numpy, "is a ndarray; training needs a tensor"),
        ("ppo", "token_logprobs", by_hand, "its result differs from the library's"),
    ],
)
def test_what_would_fail_in_training_is_refused(stage, name, mine, reason, course, capsys):
    assert PLACED[stage][name](mine) is True  # the numbers of its check are right
    assert use(course, stage, name, mine) is None
    assert reason in capsys.readouterr().out


def test_a_rate_is_a_number_of_python(course):
    right = solution_of("learning_rate")
    used = use(course, "pretrain", "learning_rate", lambda *x: np.float64(right(*x)))
    assert type(used(0, 40)) is float


def test_a_mask_that_is_no_tensor_is_accepted(course):
    used = use(course, "pretrain", "causal_mask", lambda size: np.tri(size, dtype=bool))
    assert torch.equal(used(3, 3), library_of("pretrain", "causal_mask")(3, 3))


def test_another_style_is_accepted(course):
    def my_attention(q, k, v):  # writes into a tensor of its own, which vmap does not allow
        out = torch.zeros(*q.shape)
        for t in range(len(q)):
            out[t] = (q[t] @ k[: t + 1].T / q.shape[1] ** 0.5).softmax(-1) @ v[: t + 1]
        return out

    used, library = use(course, "pretrain", "attention", my_attention), attend_explicit
    q, k, v = (torch.randn(3, 2, 6, 4) for _ in range(3))
    assert torch.allclose(used(q, k, v), library(q, k, v), atol=1e-5)


def test_a_replacement_has_the_librarys_names_and_defaults(course):
    def my_rewards(a, b, c, d, beta):
        return solution_of("token_rewards")(a, b, c, d, beta)

    used = use(course, "ppo", "token_rewards", my_rewards)
    arguments = PLACED["ppo"]["token_rewards"].place.cases[0]
    assert torch.equal(used(*arguments[:4], kl_coef=0.1), my_rewards(*arguments))
    advantages, _ = use(course, "ppo", "gae", solution_of("gae"))(ppo.X, ppo.Y, ppo.MASK)
    assert torch.allclose(advantages, gae(ppo.X, ppo.Y, ppo.MASK)[0], atol=1e-5)


def test_what_a_solution_does_to_pytorch_is_undone(course):
    def my_whiten(x, mask):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        return solution_of("whiten")(x, mask)

    before = torch.get_rng_state()
    assert PLACED["ppo"]["whiten"](my_whiten) is True
    use(course, "ppo", "whiten", my_whiten)(ppo.X, ppo.MASK)  # as in training
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert torch.equal(before, torch.get_rng_state())


def test_a_default_device_is_undone():
    def my_cooled_share(share, temperature):
        torch.set_default_device("meta")
        return solution_of("cooled_share")(share, temperature)

    try:
        assert sft.check_cooled_share(my_cooled_share) is True
        assert torch.get_default_device() == torch.device("cpu")
    finally:
        torch.set_default_device(None)


def test_exit_is_a_mistake_like_any_other(course, capsys):
    assert PLACED["ppo"]["whiten"](lambda x, mask: sys.exit(1)) is False
    assert "raises SystemExit" in capsys.readouterr().out


def test_the_stub_of_another_exercise_is_not_this_ones(capsys):
    def my_causal_mask(size):
        raise NotImplementedError

    def my_attention(q, k, v):
        return my_causal_mask(len(q))

    assert PLACED["pretrain"]["attention"](my_attention) is False
    assert "raises NotImplementedError" in capsys.readouterr().out


def test_a_new_course_has_the_librarys_own_function_again(course, tmp_path):
    used = use(course, "ppo", "gae", solution_of("gae"))

    def stub(*arguments):
        raise NotImplementedError

    again = course_in(tmp_path / "again", "ppo").use(stub, used, PLACED["ppo"]["gae"])
    assert again is used.replaces


def test_an_unfinished_training_starts_over_with_another_function(course, capsys):
    saved = course.snapshots_folder / "ppo"
    saved.mkdir(parents=True)
    for _ in range(2):  # the first time it may be a run of an earlier session
        use(course, "ppo", "gae", solution_of("gae"))
    assert saved.exists() and "starts over" not in capsys.readouterr().out
    use(course, "ppo", "gae", lambda *arguments: solution_of("gae")(*arguments))
    assert not saved.exists()
    assert "Another gae than before: the training starts over." in capsys.readouterr().out
