"""TRL's side, in an environment of its own: steps of SFTTrainer, RewardTrainer and PPOTrainer on
random rows.

As TRL sets itself up, but for what makes the work equal: the same model sizes, rows, lengths,
minibatches and epochs, no gradient checkpointing (on by default, it would only cost time), no
logging, no saving, no sample generations. dtype "auto" leaves TRL's own choice (bfloat16 autocast
in SFT and reward training).
"""

import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from benchmarks.shapes import BATCH, CONTEXT, EOS, PAD, SIZES, VOCABULARY, left_padded, random_rows

MANY = 1000  # turns that nobody will ask for


class OneTurnAStep(TrainerCallback):
    """Makes a trainer wait at the end of each step until the next one is asked for."""

    def __init__(self, turns):
        self.turns = turns

    def on_train_begin(self, args, state, control, **_):
        self.turns.start()

    def on_step_end(self, args, state, control, **_):
        self.turns.finish()
        self.turns.start()


def tokenizer() -> PreTrainedTokenizerFast:
    """One word for each token; nothing is encoded with it, but trainers ask for pad and end of
    text.
    """
    words = {"<eos>": EOS, "<pad>": PAD} | {f"w{i}": i for i in range(2, VOCABULARY)}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def model(size: str, score: bool = False):
    """A random GPT-2 of a size, without dropout; with a score head it is a reward or value
    model.
    """
    torch.manual_seed(0)
    layers, heads, channels = SIZES[size]
    sizes = dict(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_layer=layers, n_head=heads, n_embd=channels
    )
    ends = dict(bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD, num_labels=1)
    config = GPT2Config(**sizes, **ends, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return GPT2ForSequenceClassification(config) if score else GPT2LMHeadModel(config)


def quiet(dtype: str, rows: int) -> dict:
    """The arguments that all three trainers share."""
    chosen = {} if dtype == "auto" else {"bf16": dtype == "bfloat16"}
    return chosen | dict(
        output_dir=tempfile.mkdtemp(),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        gradient_checkpointing=False,
        per_device_train_batch_size=rows,
        dataloader_pin_memory=False,
    )


def sft(turns, size: str, completion: int, dtype: str = "auto") -> None:
    """Steps on rows that end in a completion of so many tokens."""
    from trl import SFTConfig, SFTTrainer

    ids = random_rows(BATCH, CONTEXT).tolist()
    mask = [[0] * (CONTEXT - completion) + [1] * completion] * BATCH
    rows = Dataset.from_dict({"input_ids": ids, "completion_mask": mask})
    settings = SFTConfig(
        **quiet(dtype, BATCH), max_steps=MANY, max_length=CONTEXT, completion_only_loss=True
    )
    trainer = SFTTrainer(model(size), settings, train_dataset=rows, processing_class=tokenizer())
    trainer.add_callback(OneTurnAStep(turns))
    trainer.train()


def reward(turns, size: str, prompt: int, completion: int, dtype: str = "auto") -> None:
    """Steps on pairs; prompt and completion stand in one row, twice."""
    from trl import RewardConfig, RewardTrainer

    tokens = random_rows(BATCH, prompt + 2 * completion)
    chosen, rejected = (
        tokens[:, : prompt + completion],
        torch.cat([tokens[:, :prompt], tokens[:, -completion:]], 1),
    )
    rows = Dataset.from_dict({"chosen_ids": chosen.tolist(), "rejected_ids": rejected.tolist()})
    settings = RewardConfig(**quiet(dtype, BATCH), max_steps=MANY, max_length=CONTEXT)
    trainer = RewardTrainer(
        model(size, score=True), settings, train_dataset=rows, processing_class=tokenizer()
    )
    trainer.add_callback(OneTurnAStep(turns))
    trainer.train()


def ppo(
    turns,
    size: str,
    rows: int,
    prompt: int,
    new: int,
    minibatch: int,
    epochs: int,
    dtype: str = "auto",
) -> None:
    """Iterations of PPO: four models, responses of `new` tokens each (no stop token)."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    ids, mask = left_padded(rows, prompt, prompt // 2)
    prompts = Dataset.from_dict(
        {"input_ids": [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]}
    )
    settings = PPOConfig(
        **quiet(dtype, rows),
        num_mini_batches=rows // minibatch,
        num_ppo_epochs=epochs,
        response_length=new,
        total_episodes=MANY * rows,
        temperature=1.0,
        num_sample_generations=0,
        stop_token=None,
    )
    trainer = PPOTrainer(
        args=settings,
        processing_class=tokenizer(),
        model=model(size),
        ref_model=model(size),
        train_dataset=prompts,
        reward_model=model(size, score=True),
        value_model=model(size, score=True),
        callbacks=[OneTurnAStep(turns)],
    )
    trainer.train()
