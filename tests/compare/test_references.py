"""Held-out references: each prompt once, k from training rows, gains over the lead are paired."""

from dataclasses import fields
from pathlib import Path

import pytest

from helpers.compare.references import References, heldout_prompts, heldout_references
from helpers.compare.text_metrics import rouge
from helpers.config import PPOConfig
from helpers.evaluation import bootstrap_ci95
from helpers.records import Demonstration, Prompt
from helpers.rows.embedded import load_tokenizer
from helpers.rows.instructions import INSTRUCT
from helpers.run.course import Course
from tests.support.courses import course_in

WORDS = [[f"w{i}x{j}" for j in range(30)] for i in range(9)]
TRAIN = [
    Demonstration(INSTRUCT.format(request=" ".join(words)), " " + " ".join(words[:16]))
    for words in WORDS
]
HELDOUT = [
    Demonstration(INSTRUCT.format(request=request), completion)
    for request, completion in (
        ("name a bird that swims", " a duck"),
        ("name a bird that swims", " a swan, I think"),
        ("say hello", " hello to you"),
        ("count to two", " one two"),
    )
]


class Rows(Course):
    """A course whose rows are those above."""

    def rows(self, kind, split, limit=None, room=0):
        if kind == "prompts":
            return [Prompt("p")]
        return (TRAIN if split == "train" else HELDOUT)[:limit]


def course(track: str = "instruct", source: str = "local", eval_prompts: int = 2) -> Rows:
    config = PPOConfig(eval_prompts=eval_prompts)
    made = course_in(Path("unused"), track=track, source=source, config=config)
    return Rows(**{field.name: getattr(made, field.name) for field in fields(made)})


def test_each_prompt_comes_once_with_its_first_answer():
    references = heldout_references(course())
    prompts = [prompt.prompt for prompt in references.prompts]
    assert prompts == [HELDOUT[0].prompt, HELDOUT[2].prompt]
    assert references.texts == [" a duck", " hello to you"]
    assert references.k == 16  # on training rows; no held-out text is that long
    assert references.leads == [" name a bird that swims", " say hello"]
    assert references.copies == [" name a", " say hello"]
    assert heldout_prompts(course(), references) == references.prompts


def test_no_references_where_something_better_is_known():
    for one in (course("sentiment"), course("tldr", "embedded")):
        assert heldout_references(one) is None and heldout_prompts(one, None) == [Prompt("p")]


def test_the_gain_over_the_lead_is_paired():
    references = heldout_references(course(eval_prompts=3))
    texts = [" a duck swims", " hello", " one"]
    ours, leads = (rouge(x, references.texts)["ROUGE-L"] for x in (texts, references.leads))
    row = references.metrics(texts)
    assert row["ROUGE-L_over_lead"] == pytest.approx((ours - leads).mean().item())
    assert row["ROUGE-L_over_lead_ci95"] == bootstrap_ci95(ours - leads)
    rows = references.baselines()
    assert list(rows) == ["lead-16", "copy"] and rows["lead-16"]["ROUGE-L_over_lead"] == 0
    assert rows["copy"]["words"] == 2


def test_references_as_responses_end():
    tokenizer = load_tokenizer("instruct")
    responses = References([Prompt("p")], [" one two"], [""], [""], 1).responses(tokenizer)
    assert responses.ids == [[*tokenizer.encode(" one two"), tokenizer.eos_id]]
    assert responses.stop_rate == 1
