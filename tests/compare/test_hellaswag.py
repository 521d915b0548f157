"""HellaSwag against a plain loop over transformers' GPT-2, rows of either source, and a model that
can only guess.
"""

import os
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from helpers.compare import hellaswag as module
from helpers.compare.hellaswag import DATA, Question, ending_logprobs, hellaswag, load_hellaswag
from helpers.model import GPT, GPTConfig
from helpers.rows.embedded import load_tokenizer
from helpers.rows.tracks import SourceError
from helpers.run.checkpoints import from_transformers_state, save_stage
from helpers.stages.hellaswag import main
from tests.support.folder_of_rows import write
from tests.support.local_hub import served
from tests.support.tensors import shaken

REAL = Path(os.environ.get("RLHF_DATA_DIR", "nowhere"))
TOKENIZER = load_tokenizer()
ROWS = [
    {
        "ctx": "A man is sitting on a roof. he",
        "label": "3",
        "ind": 0,
        "endings": ["sings.", "is ripping tiles off the roof.", "a", "starts to pull"],
    },
    {
        "ctx": "The dog barks at the door. It",
        "label": 1,
        "ind": 1,
        "endings": ["opens it.", "wags its tail and goes back to sleep.", "is a cat", "flies"],
    },
    {
        "ctx": "Then",
        "label": "0",
        "ind": 2,
        "endings": ["we went home", "the end", "it rained all day and all night", "nothing"],
    },
]


def small(context: int = 64) -> GPT:
    size = GPTConfig(TOKENIZER.vocab_size, context, layers=2, heads=2, channels=16)
    return shaken(GPT(size), 0.2)


@torch.no_grad()
def loop(theirs: GPT2LMHeadModel, asked: Question) -> tuple[list[float], list[int]]:
    """Log-probability and tokens of each ending, one ending and one token at a time."""
    sums, lengths = [], []
    for ending in asked.endings:
        read, total, ids = TOKENIZER.encode(asked.context), 0.0, TOKENIZER.encode(" " + ending)
        for id_ in ids:
            total += theirs(torch.tensor([read])).logits[0, -1].log_softmax(-1)[id_].item()
            read = [*read, id_]
        sums.append(total)
        lengths.append(len(ids))
    return sums, lengths


def test_the_scores_are_those_of_a_loop_over_transformers_gpt2():
    ids = {"bos_token_id": TOKENIZER.eos_id, "eos_token_id": TOKENIZER.eos_id}
    size = GPT2Config(
        vocab_size=TOKENIZER.vocab_size, n_positions=64, n_embd=16, n_layer=2, n_head=2, **ids
    )
    theirs = shaken(
        GPT2LMHeadModel(size), 1.0
    ).eval()  # weights so large that endings differ by more than length
    ours = from_transformers_state(
        GPTConfig(TOKENIZER.vocab_size, 64, 2, 2, 16), theirs.state_dict()
    )
    questions = [module.question(row) for row in ROWS]
    expected = [loop(theirs, asked) for asked in questions]
    for batch_size in (1, 7, 64):
        sums, tokens, cut = ending_logprobs(ours, TOKENIZER, questions, batch_size)
        assert sums.flatten().tolist() == pytest.approx(
            [value for row, _ in expected for value in row], rel=1e-4
        )
        assert tokens.tolist() == [lengths for _, lengths in expected] and cut == 0
    by_sum = [max(range(4), key=lambda i: sums[i]) for sums, _ in expected]
    by_mean = [max(range(4), key=lambda i: sums[i] / lengths[i]) for sums, lengths in expected]
    assert by_sum != by_mean, "or the two accuracies could be mixed up"
    for labels in (by_sum, by_mean, [0, 1, 2]):
        asked = [Question(q.context, q.endings, label) for q, label in zip(questions, labels)]
        score = hellaswag(ours, TOKENIZER, asked)
        assert score.accuracy == pytest.approx(sum(a == b for a, b in zip(by_sum, labels)) / 3)
        assert score.accuracy_norm == pytest.approx(
            sum(a == b for a, b in zip(by_mean, labels)) / 3
        )


def test_what_a_score_says():
    score = hellaswag(small(), TOKENIZER, [module.question(row) for row in ROWS])
    assert score.standard_error == pytest.approx(
        (score.accuracy_norm * (1 - score.accuracy_norm) / 3) ** 0.5
    )
    assert (score.questions, score.cut) == (3, 0)
    assert "of 3 questions right (chance: 25%)" in str(score)


def test_a_long_scene_loses_its_beginning():
    model, asked = small(context=32), module.question(ROWS[1])
    long = Question("word " * 100 + asked.context, asked.endings, asked.label)
    room = 32 - max(len(TOKENIZER.encode(" " + ending)) for ending in asked.endings)
    short = Question(
        TOKENIZER.decode(TOKENIZER.encode(long.context)[-room:]), asked.endings, asked.label
    )
    cut, whole = hellaswag(model, TOKENIZER, [long]), hellaswag(model, TOKENIZER, [short])
    assert (cut.cut, whole.cut) == (1, 0) and cut.accuracy_norm == whole.accuracy_norm
    endless = Question("Then", ("so " * 90, "a", "b", "c"), 0)
    assert hellaswag(model, TOKENIZER, [endless]).questions == 1


def test_rows_of_the_hub_and_of_a_folder(tmp_path, monkeypatch):
    bad = [
        "{",
        {"ctx": "a", "endings": ["b"], "label": 0},
        ROWS[0] | {"label": ""},
        ROWS[0] | {"ctx": " "},
        ROWS[0] | {"endings": ["a", "b", "c", None]},
        ROWS[0] | {"label": 4},
    ]
    write(tmp_path / "hellaswag" / "validation.jsonl.xz", [*bad, *ROWS])
    questions, report = load_hellaswag("local", data_dir=tmp_path)
    assert [asked.label for asked in questions] == [3, 1, 0] and report.kept == 3
    assert report.left_out == {
        "line is not JSON": 1,
        "not 4 endings": 1,
        "no label from 0 to 3": 2,
        "empty ctx": 1,
        "no ending": 1,
    }
    calls = served(monkeypatch, {"validation": ROWS})
    assert load_hellaswag("hub")[0] == questions
    assert calls == [
        (
            "Rowan/hellaswag",
            None,
            {"split": "validation", "revision": DATA.revision, "streaming": True},
        )
    ]
    assert load_hellaswag("hub", limit=2)[0] == questions[:2]


def test_rows_that_can_not_be_had(tmp_path):
    with pytest.raises(SourceError, match="does not go with source 'embedded'"):
        load_hellaswag("embedded")
    local = {"data_dir": tmp_path}
    with pytest.raises(SourceError, match="has no file .*hellaswag/validation.jsonl"):
        load_hellaswag("local", **local)
    write(tmp_path / "hellaswag" / "validation.jsonl", [ROWS[0] | {"label": ""}])
    with pytest.raises(SourceError, match="no row can be used: .*no label from 0 to 3: 1"):
        load_hellaswag("local", **local)
    with pytest.raises(ValueError, match="limit must be 1 or more"):
        load_hellaswag("local", limit=0, **local)
    with pytest.raises(ValueError, match="no questions"):
        hellaswag(small(), TOKENIZER, [])


def test_the_command_line(tmp_path, monkeypatch, capsys):
    write(tmp_path / "hellaswag" / "validation.jsonl", ROWS)
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("RLHF_SOURCE", raising=False)
    run = tmp_path / "run"
    words = [str(run), "--limit", "2"]
    with pytest.raises(
        SystemExit, match="hellaswag: no checkpoint at .*run 0-Pretrain.ipynb first"
    ):
        main(words)
    model, facts = small(), {"stage": "pretrain", "track": "tldr", "config": {}, "metrics": {}}
    folder = run / "checkpoints" / "pretrain"
    save_stage(folder, model, TOKENIZER, **facts, parent=None, data_fingerprint="")
    main(words)
    expected = hellaswag(model, TOKENIZER, load_hellaswag("local", 2, tmp_path)[0])
    assert str(expected) in capsys.readouterr().out


@pytest.mark.skipif(not (REAL / "hellaswag").is_dir(), reason="no hellaswag/ in RLHF_DATA_DIR")
def test_a_model_of_random_weights_only_guesses():
    """On the first 300 real questions: within two standard errors of 25%."""
    questions, report = load_hellaswag("local", limit=300, data_dir=REAL)
    assert len(questions) == 300 and not report.left_out
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 256, layers=2, heads=2, channels=32))
    score = hellaswag(model, TOKENIZER, questions)
    assert (
        abs(score.accuracy_norm - 0.25) < 2 * score.standard_error
        and 0.02 < score.standard_error < 0.03
    )
