"""HellaSwag against a plain loop over transformers' GPT-2, rows of either source, and a model that
can only guess.
"""

import json
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
from tests.support.tensors import shaken, with_large_logits

REAL = Path(os.environ.get("RLHF_DATA_DIR", "nowhere"))
TOKENIZER = load_tokenizer()
SCENES = {
    "A man is sitting on a roof. he": "sings.|is ripping tiles off the roof.|a|starts to pull",
    "The dog barks at the door. It": "opens it.|wags its tail and goes back to sleep.|is a cat|fly",
    "Then": "we went home|the end|it rained all day and all night|nothing",
}
ROWS = [
    {"ctx": scene, "label": label, "ind": i, "endings": endings.split("|")}
    for i, (label, (scene, endings)) in enumerate(zip(("3", 1, "0"), SCENES.items()))
]
QUESTIONS = [module.question(row) for row in ROWS]


def small(context: int = 64) -> GPT:
    return shaken(GPT(GPTConfig(TOKENIZER.vocab_size, context, 2, heads=2, channels=16)), 0.2)


@torch.no_grad()
def loop(theirs: GPT2LMHeadModel, item: Question) -> tuple[list[float], list[int]]:
    """Log-probability and tokens of each ending, one ending and one token at a time."""
    sums, lengths = [], []
    for ending in item.endings:
        read, total, ids = TOKENIZER.encode(item.context), 0.0, TOKENIZER.encode(" " + ending)
        for id_ in ids:
            total += theirs(torch.tensor([read])).logits[0, -1].log_softmax(-1)[id_].item()
            read = [*read, id_]
        sums.append(total)
        lengths.append(len(ids))
    return sums, lengths


def test_the_scores_are_those_of_a_loop_over_transformers_gpt2():
    sizes = {"vocab_size": TOKENIZER.vocab_size, "n_positions": 64, "n_embd": 16, "n_layer": 2}
    ids = {"bos_token_id": TOKENIZER.eos_id, "eos_token_id": TOKENIZER.eos_id}
    # weights so large that endings differ by more than length
    theirs = shaken(GPT2LMHeadModel(GPT2Config(**sizes, n_head=2, **ids)), 1.0).eval()
    config = GPTConfig(TOKENIZER.vocab_size, 64, 2, 2, 16)
    ours = from_transformers_state(config, theirs.state_dict())
    expected = [loop(theirs, item) for item in QUESTIONS]
    for batch_size in (1, 7, 64):
        sums, tokens, cut = ending_logprobs(ours, TOKENIZER, QUESTIONS, batch_size)
        assert sums.flatten().tolist() == pytest.approx(sum((s for s, _ in expected), []), rel=1e-4)
        assert tokens.tolist() == [lengths for _, lengths in expected] and cut == 0
    by_sum = [max(range(4), key=lambda i: sums[i]) for sums, _ in expected]
    by_mean = [max(range(4), key=lambda i: sums[i] / lengths[i]) for sums, lengths in expected]
    assert by_sum != by_mean, "or the two accuracies could be mixed up"
    for labels in (by_sum, by_mean, [0, 1, 2]):
        items = [Question(q.context, q.endings, label) for q, label in zip(QUESTIONS, labels)]
        score = hellaswag(ours, TOKENIZER, items)
        for share, best in ((score.accuracy, by_sum), (score.accuracy_norm, by_mean)):
            assert share == pytest.approx(sum(a == b for a, b in zip(best, labels)) / 3)


def test_a_score_and_its_standard_error():
    score = hellaswag(small(), TOKENIZER, QUESTIONS)
    variance = score.accuracy_norm * (1 - score.accuracy_norm)
    assert score.standard_error == pytest.approx((variance / 3) ** 0.5)
    assert (score.questions, score.cut) == (3, 0)
    assert "of 3 questions right (chance: 25%)" in str(score)
    with pytest.raises(ValueError, match="no questions"):
        hellaswag(small(), TOKENIZER, [])


@torch.no_grad()
def at_the_end_of_the_scene(model: GPT, item: Question) -> list[float]:
    """Log-probability of each ending's first 31 tokens after as many of the scene's last tokens as
    leave room, in a context of 32, for the longest ending.
    """
    endings, sums = [TOKENIZER.encode(" " + ending)[:31] for ending in item.endings], []
    read = TOKENIZER.encode(item.context)[max(map(len, endings)) - 32 :]
    for ids in endings:
        logprobs = model(torch.tensor([read + ids]))[0].log_softmax(-1)
        sums.append(sum(logprobs[len(read) - 1 + t, id_].item() for t, id_ in enumerate(ids)))
    return sums


def test_a_long_scene_loses_its_beginning():
    model, item = small(context=32), QUESTIONS[1]
    scene = "word " * 100 + item.context
    room = 32 - max(len(TOKENIZER.encode(" " + ending)) for ending in item.endings)
    end = TOKENIZER.decode(TOKENIZER.encode(scene)[-room:])
    cut, uncut = (
        hellaswag(model, TOKENIZER, [Question(context, item.endings, item.label)])
        for context in (scene, end)
    )
    assert (cut.cut, uncut.cut) == (1, 0) and cut.accuracy_norm == uncut.accuracy_norm
    endless = Question("First that. Then", ("so " * 40 + "and on " * 20, "a", "b", "c"), 0)
    for question in (Question(scene, item.endings, item.label), endless):
        assert ending_logprobs(model, TOKENIZER, [question])[0].tolist() == [
            pytest.approx(at_the_end_of_the_scene(model, question), rel=1e-4)
        ]


def test_rows_of_the_hub_and_of_a_folder(tmp_path, monkeypatch):
    changes = ({"label": ""}, {"ctx": " "}, {"endings": ["a", "b", "c", None]}, {"label": 4})
    bad = ["{", {"ctx": "a", "endings": ["b"], "label": 0}, *(ROWS[0] | one for one in changes)]
    write(tmp_path / "hellaswag" / "validation.jsonl.xz", [*bad, *ROWS])
    questions, report = load_hellaswag("local", data_dir=tmp_path)
    assert [item.label for item in questions] == [3, 1, 0] and report.records == 3
    assert report.left_out == {
        "line is not JSON": 1,
        "not 4 endings": 1,
        "no label from 0 to 3": 2,
        "empty ctx": 1,
        "no ending": 1,
    }
    calls = served(monkeypatch, {"validation": ROWS})
    assert load_hellaswag("hub")[0] == questions
    options = {"split": "validation", "revision": DATA.revision, "streaming": True}
    assert calls == [("Rowan/hellaswag", None, options)]
    assert load_hellaswag("hub", limit=2)[0] == questions[:2]


def test_rows_that_can_not_be_had(tmp_path):
    with pytest.raises(SourceError, match="does not go with source 'embedded'"):
        load_hellaswag("embedded")
    with pytest.raises(SourceError, match="has no file .*hellaswag/validation.jsonl"):
        load_hellaswag("local", data_dir=tmp_path)
    write(tmp_path / "hellaswag" / "validation.jsonl", [ROWS[0] | {"label": ""}])
    with pytest.raises(SourceError, match="no row can be used: .*no label from 0 to 3: 1"):
        load_hellaswag("local", data_dir=tmp_path)
    with pytest.raises(ValueError, match="limit must be 1 or more"):
        load_hellaswag("local", limit=0, data_dir=tmp_path)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    write(tmp_path / "hellaswag" / "validation.jsonl", ROWS)
    monkeypatch.setenv("RLHF_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("RLHF_SOURCE", raising=False)
    words = [str(tmp_path / "run"), "--limit", "2"]
    with pytest.raises(SystemExit, match="hellaswag: no checkpoint at .*run 0-Pretrain.ipynb"):
        main(words)
    model, facts = small(), {"stage": "pretrain", "track": "tldr", "config": {}, "metrics": {}}
    folder = tmp_path / "run/checkpoints/pretrain"
    save_stage(folder, model, TOKENIZER, **facts, parent=None, data_fingerprint="")
    main(words)
    expected = hellaswag(model, TOKENIZER, load_hellaswag("local", 2, tmp_path)[0])
    assert str(expected) in capsys.readouterr().out
    info = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps(info | {"files": 3}))
    with pytest.raises(SystemExit, match="hellaswag: .*stage.json is damaged: 'files' is 3"):
        main(words)


@pytest.mark.skipif(not (REAL / "hellaswag").is_dir(), reason="no hellaswag/ in RLHF_DATA_DIR")
def test_a_model_of_random_weights_only_guesses():
    """On the first 300 real questions: within two standard errors of 25%."""
    questions, report = load_hellaswag("local", limit=300, data_dir=REAL)
    assert len(questions) == 300 and not report.left_out
    score = hellaswag(small(context=256), TOKENIZER, questions)
    assert abs(score.accuracy_norm - 0.25) < 2 * score.standard_error
    assert 0.02 < score.standard_error < 0.03


def test_endings_have_float32_logits_under_autocast():
    model = with_large_logits(small())
    exact, tokens, _ = ending_logprobs(model, TOKENIZER, QUESTIONS)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            found, _, _ = ending_logprobs(model, TOKENIZER, QUESTIONS)
        assert ((found - exact) / tokens).abs().max() < 0.02  # nats per token
