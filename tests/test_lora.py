"""LoRA: a fresh adapter changes nothing, only A and B learn, merging keeps the numbers; peft is the
oracle.
"""

import copy

import pytest
import torch

from helpers import lora
from helpers.lora import LoRALinear, add_lora, linear_layers, merge_lora
from helpers.model import RewardModel
from helpers.run.checkpoints import to_transformers_state
from helpers.training import Optimizers
from tests.support.adapted import ALL, IDS, adapted, logits, tiny
from tests.support.tiny_models import transformers_twin

# ---------------------------------------------------------------- one layer


def test_the_layer_by_hand():
    base = torch.nn.Linear(3, 2)
    layer = LoRALinear(base, rank=1, alpha=2.0)
    with torch.no_grad():
        layer.lora_A.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
        layer.lora_B.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.tensor([[1.0, 0.0, 1.0]])  # A x = 4, times alpha / r = 2: 8
    torch.testing.assert_close(layer(x), base(x) + torch.tensor([[8.0, -8.0]]))


def test_a_starts_like_a_linear_layer_and_b_at_0():
    layer = LoRALinear(torch.nn.Linear(400, 300), rank=50, alpha=1.0)
    assert layer.lora_A.shape == (50, 400) and layer.lora_B.shape == (300, 50)
    assert not layer.lora_B.any()
    assert 0.98 / 20 < layer.lora_A.abs().max() <= 1 / 20  # uniform within 1 / sqrt(in)
    assert layer.lora_A.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)


@pytest.mark.parametrize("bias", [True, False])
def test_merge_gives_the_same_numbers_and_unmerge_the_same_bits(bias):
    layer = LoRALinear(torch.nn.Linear(12, 8, bias=bias), rank=2, alpha=3.0)
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(5, 12)
    before = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), before, atol=1e-6, rtol=1e-5)
    merged = layer.base.weight + 1.5 * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer.merged.weight, merged)
    layer.unmerge()
    assert torch.equal(layer(x), before)


RANK = "rank must be a whole number from 1 to 8"
ALPHA = "alpha must be a number above 0"


@pytest.mark.parametrize(
    ("rank", "alpha", "says"),
    [(rank, 1.0, RANK) for rank in (0, -1, 9, 1.5, "4", True)]
    + [(4, alpha, ALPHA) for alpha in (0, -1.0, float("nan"), float("inf"), "8")],
)
def test_a_rank_or_alpha_that_makes_no_sense_is_refused(rank, alpha, says):
    with pytest.raises(ValueError, match=says):
        LoRALinear(torch.nn.Linear(12, 8), rank, alpha)


# ---------------------------------------------------------------- a whole model


def test_a_fresh_adapter_changes_no_bit():
    base = tiny()
    model = copy.deepcopy(base)
    add_lora(model, 4, 8.0, ALL)
    assert torch.equal(logits(model), logits(base))


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (("c_attn",), {"attn.c_attn"}),
        (["c_proj"], {"attn.c_proj", "mlp.c_proj"}),
        (("mlp.c_proj", "c_fc"), {"mlp.c_proj", "mlp.c_fc"}),
    ],
)
def test_targets_count_and_who_learns(targets, names):
    model = tiny()
    wanted = {f"h.{layer}.{name}" for layer in range(2) for name in names}
    layers = linear_layers(model, targets).values()
    features = sum(layer.in_features + layer.out_features for layer in layers)
    number = add_lora(model, 3, 8.0, targets)
    learns = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert learns.keys() == {f"{name}.{part}" for name in wanted for part in ("lora_A", "lora_B")}
    assert number == 3 * features == sum(p.numel() for p in learns.values())


def test_gradients_reach_a_and_b_and_a_step_moves_nothing_else():
    model = adapted(tiny())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapters = {name for name in before if ".lora_" in name}
    optimizers = Optimizers(model, lr=1e-2)
    (model(IDS) ** 2).mean().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    optimizers.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert reached == moved == adapters


def test_a_reward_model_can_have_adapters():
    model = RewardModel(tiny())
    assert add_lora(model, 2, 4.0) == 2 * 2 * (16 + 48)
    assert not model.score.weight.requires_grad
    assert set(lora.lora_layers(model)) == {f"gpt.h.{layer}.attn.c_attn" for layer in (0, 1)}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("c_attn", "q_proj"), "called 'q_proj'; there are attn.c_attn, attn.c_proj, mlp.c_fc, "),
        (("wte",), "called 'wte'"),
        (("attn",), "called 'attn'"),
        ("c_attn", "must be a list of layer names"),
        ((), "must be a list of layer names"),
    ],
)
def test_a_target_that_is_no_layer_is_refused_and_nothing_changes(targets, message):
    model = tiny()
    with pytest.raises(ValueError, match=message) as caught:
        add_lora(model, 4, 8.0, targets)
    assert "\n" not in str(caught.value)
    assert not lora.lora_layers(model) and all(p.requires_grad for p in model.parameters())


def test_adapters_are_not_put_on_adapters():
    model = adapted(tiny())
    with pytest.raises(ValueError, match="has adapters already: merge_lora first"):
        add_lora(model, 4, 8.0)


def test_a_shared_copy_uses_the_same_memory_and_gets_adapters_of_its_own():
    base = tiny()
    twin = lora.shared_copy(base)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in base.parameters()}
    assert all(a is not b for a, b in zip(base.modules(), twin.modules(), strict=True))
    before = logits(base)
    add_lora(twin, 4, 8.0, ALL)
    for layer in lora.lora_layers(twin).values():
        torch.nn.init.normal_(layer.lora_B, std=0.1)
    assert not lora.lora_layers(base) and torch.equal(logits(base), before)
    assert not torch.allclose(logits(twin), before, atol=1e-2)
    merge_lora(twin)
    assert torch.equal(logits(base), before)


# ---------------------------------------------------------------- peft


@pytest.mark.parametrize("targets", [("c_attn",), ALL])
def test_forward_and_merge_equal_peft(targets):
    peft = pytest.importorskip("peft")
    base = tiny()
    model = adapted(base, rank=4, alpha=6.0, targets=targets)
    options = dict(target_modules=list(targets), fan_in_fan_out=True, lora_dropout=0.0)
    adapters = peft.LoraConfig(r=4, lora_alpha=6, **options)
    theirs = peft.get_peft_model(transformers_twin(base), adapters)
    modules = dict(theirs.named_modules())
    with torch.no_grad():
        for name, layer in lora.lora_layers(model).items():
            twin = modules[f"base_model.model.transformer.{name}"]
            twin.lora_A["default"].weight.copy_(layer.lora_A)
            twin.lora_B["default"].weight.copy_(layer.lora_B)
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-5, rtol=1e-5)
    # there is something to compare
    assert not torch.allclose(logits(model), logits(base), atol=1e-2)
    merged = theirs.merge_and_unload().state_dict()
    merge_lora(model)
    for name, weight in to_transformers_state(model).items():
        torch.testing.assert_close(weight, merged[name], atol=1e-6, rtol=0)
