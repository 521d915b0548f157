"""DPO, IPO, GRPO and Dr. GRPO against TRL's own trainers, on one small GPT-2 with pads."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers import alternatives as alt
from helpers.alternatives import METHODS, Minibatch
from helpers.losses import token_logprobs

trl = pytest.importorskip("trl")
V, PAD, EOS = 16, 0, 1
PROMPTS = [[3, 4, 5], [6, 7]]
CHOSEN, REJECTED = [[8, 9, 10, EOS], [11, EOS]], [[12, EOS], [13, 14, 15, EOS]]


@pytest.fixture(scope="module")
def tokenizer():
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, V)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def tiny(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes = {"vocab_size": V, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(**sizes, **no_dropout, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def options(tmp_path) -> dict:
    plain = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    return plain | {"output_dir": str(tmp_path), "disable_tqdm": True, "save_strategy": "no"}


def right_padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    return ids, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


def response_logprobs(model, prompts, responses) -> torch.Tensor:
    """(b, R), one response at a time, without any padding."""
    width = max(map(len, responses))
    rows = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor([prompt + response])
        logprobs = token_logprobs(model(ids).logits[:, :-1], ids[:, 1:])[0, len(prompt) - 1 :]
        rows.append(torch.nn.functional.pad(logprobs, (0, width - len(response))))
    return torch.stack(rows)


def pairs(policy, reference, chosen=CHOSEN, rejected=REJECTED) -> tuple[torch.Tensor, Minibatch]:
    """Log-probs and the rest of a minibatch, chosen and rejected in turn."""
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    responses = [text for pair in zip(chosen, rejected, strict=True) for text in pair]
    new, ref = (response_logprobs(model, prompts, responses) for model in (policy, reference))
    _, mask = right_padded(responses)
    weights = alt.better_or_worse(torch.tensor([1.0, 0.0, 1.0, 0.0]))
    return new, Minibatch(ref.detach(), ref.detach(), weights, mask)


def gradient_of(loss: torch.Tensor, model) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


TEXTS = [{"prompt": "w3", "chosen": "w8", "rejected": "w9"}]  # to build a trainer with; not used


def trl_dpo(tokenizer, tmp_path, policy, reference, chosen, rejected, **settings) -> torch.Tensor:
    """The loss that TRL's trainer computes from its own collator's batch."""
    trainer = trl.DPOTrainer(
        policy,
        ref_model=reference,
        args=trl.DPOConfig(**options(tmp_path), **settings),
        train_dataset=Dataset.from_list(TEXTS),
        processing_class=tokenizer,
    )
    rows = zip(PROMPTS, chosen, rejected, strict=True)
    names = "prompt_ids", "chosen_ids", "rejected_ids"
    batch = trainer.data_collator([dict(zip(names, row, strict=True)) for row in rows])
    return trainer.compute_loss(policy, batch)


def test_dpo_is_trls(tokenizer, tmp_path):
    policy, reference = tiny(0), tiny(1)
    ours = alt.dpo_loss(*pairs(policy, reference), replace(METHODS["DPO"], beta=0.3))
    gradient = gradient_of(ours, policy)
    theirs = trl_dpo(tokenizer, tmp_path, policy, reference, CHOSEN, REJECTED, beta=0.3)
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-5)
    assert torch.allclose(gradient_of(theirs, policy), gradient, atol=1e-6)
    assert gradient.abs().max() > 1e-3


def test_ipo_is_trls_for_responses_of_one_length(tokenizer, tmp_path):
    """TRL's margin is of means over L tokens, ours of sums: the same loss times L^2, with beta / L
    for beta.
    """
    policy, reference = tiny(0), tiny(1)
    chosen, rejected = [[8, 9, EOS], [11, 12, EOS]], [[12, 8, EOS], [13, 14, EOS]]
    ours = alt.ipo_loss(
        *pairs(policy, reference, chosen, rejected), replace(METHODS["IPO"], beta=0.3 / 3)
    )
    theirs = trl_dpo(
        tokenizer, tmp_path, policy, reference, chosen, rejected, beta=0.3, loss_type="ipo"
    )
    assert theirs.item() * 3**2 == pytest.approx(ours.item(), rel=1e-5)


@pytest.mark.parametrize(("kind", "loss"), [("grpo", alt.grpo_loss), ("dr_grpo", alt.dr_grpo_loss)])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_grpo_is_trls(tokenizer, tmp_path, kind, loss, beta):
    policy, old, reference = tiny(0), tiny(2), tiny(1)
    policy.save_pretrained(tmp_path / "policy")  # the trainer reads a reference from its name
    policy.config._name_or_path = str(tmp_path / "policy")
    policy.name_or_path = str(tmp_path / "policy")
    prompts = [[3, 4]] * 2 + [[6, 7]] * 2  # of one length: TRL's GRPO counts pads as positions
    responses = [CHOSEN[0], REJECTED[0], CHOSEN[1], REJECTED[1]]
    ids, mask = right_padded(responses)
    new, before, ref = (response_logprobs(m, prompts, responses) for m in (policy, old, reference))
    weights = alt.group_normalised(torch.tensor([1.0, 0.2, -0.5, 2.0]), 2)
    minibatch = Minibatch(before.detach(), ref.detach(), weights, mask)
    ours = loss(new, minibatch, alt.Method(alt.group_normalised, loss, 2, beta=beta))
    gradient = gradient_of(ours, policy)

    settings = {"loss_type": kind, "beta": beta, "num_generations": 2, "epsilon": 0.2}
    settings |= {"use_bias_correction_kl": False}  # the paper has no ratio before its KL
    settings |= {"max_completion_length": ids.size(1), "per_device_train_batch_size": 4}
    trainer = trl.GRPOTrainer(
        policy,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl.GRPOConfig(**options(tmp_path), **settings),
        train_dataset=Dataset.from_list([{"prompt": "w3"}]),
        processing_class=tokenizer,
    )
    policy.eval()
    prompt_ids = torch.tensor(prompts)
    inputs = {"prompt_ids": prompt_ids, "completion_ids": ids, "advantages": weights}
    inputs |= {"prompt_mask": torch.ones_like(prompt_ids), "completion_mask": mask.long()}
    inputs |= {"old_per_token_logps": before.detach(), "ref_per_token_logps": ref.detach()}
    theirs = trainer._compute_loss(policy, inputs)
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-4, abs=1e-6)
    assert torch.allclose(gradient_of(theirs, policy), gradient, atol=1e-5)
    assert gradient.abs().max() > 1e-3
