"""The committed files of the world of requests: rows as stated, both templates, what data/WORLDS.md
says.
"""

import json
import lzma
import math
import re

import pytest

from data.advice import answers, build, requests, vocabulary
from data.advice.gold import gold
from data.advice.kinds import KINDS
from data.advice.requests import Facts, draw_split_request
from data.annotators import preference
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.rows.tracks import TRACKS


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "data/WORLDS.md").read_text(encoding="utf-8")


def committed(name: str) -> bytes:
    return lzma.decompress((build.WORLD.folder / name).read_bytes())


@pytest.mark.parametrize("track", ["assistant", "instruct"])
def test_rows_are_loaded_in_the_template_of_the_track(track):
    template = TRACKS[track].template
    for kind in ("demonstrations", "comparisons", "prompts"):
        bare = [
            json.loads(line) for line in committed(f"{kind}.heldout.jsonl.xz").splitlines()[:20]
        ]
        loaded = load_rows(kind, "heldout", track, limit=20)
        assert [row.prompt for row in loaded] == [
            template.format(request=row["prompt"]) for row in bare
        ]
        others = [
            {k: v for k, v in vars(row).items() if k not in ("prompt", "world")} for row in loaded
        ]
        assert others == [{k: v for k, v in row.items() if k != "prompt"} for row in bare]
    texts = [
        json.loads(line)["text"]
        for line in committed("documents.heldout.jsonl.xz").splitlines()[:20]
    ]
    assert [row.text for row in load_rows("documents", "heldout", track, limit=20)] == texts


@pytest.mark.parametrize("track", ["assistant", "instruct"])
def test_prompt_and_answer_are_30_to_100_tokens_long(track):
    tokenizer = load_tokenizer(track)
    assert tokenizer.vocab_size == build.VOCAB_SIZE
    rows = load_rows("demonstrations", "train", track, limit=1000)
    lengths = [
        len(tokenizer.encode(row.prompt)) + len(tokenizer.encode(row.completion)) + 1
        for row in rows
    ]
    assert sum(30 <= length <= 100 for length in lengths) / len(lengths) > 0.95
    assert min(lengths) >= 30 and max(lengths) <= 128
    documents = load_rows("documents", "train", track, limit=1000)
    assert max(len(tokenizer.encode(row.text)) for row in documents) < 256


def test_the_sides_of_a_pair_differ_in_a_flaw():
    rows = load_rows("comparisons", "heldout", "assistant")
    for i, row in enumerate(rows[:400]):
        facts = draw_split_request(f"comparisons/heldout/{i}", held_out=True)[1].facts
        judged = [gold(facts, text) for text in (row.chosen, row.rejected)]
        assert row.probability == pytest.approx(
            preference(judged[0].reward, judged[1].reward), abs=1e-4
        )
        if row.kind != "mixed":
            assert sorted(any(side.flaws.values()) for side in judged) == [False, True]


def test_prompt_rows_carry_the_facts_of_their_request():
    for row in load_rows("prompts", "heldout", "instruct", limit=100):
        facts = Facts(**row.facts)
        assert facts.held_out()
        said = set(re.findall(r"[A-Za-z]+", row.prompt))
        assert said & vocabulary.SLOT_OF.keys() == set(facts.values.values())
        assert facts.number in said and ("number" in row.prompt) == (facts.form == "numbered")


def about(request: str) -> frozenset[str]:
    """The three facts of a request, read from its text."""
    words = set(re.findall(r"[A-Za-z]+", request))
    return frozenset(word for word in words if vocabulary.SLOT_OF.get(word, "name") != "name")


def test_training_and_heldout_facts_are_disjoint():
    of = {}
    for split in ("train", "heldout"):
        texts = [row.text.split("\n\n")[0] for row in load_rows("documents", split, "assistant")]
        for kind in ("demonstrations", "comparisons", "prompts"):
            texts += [row.prompt for row in load_rows(kind, split, "assistant")]
        of[split] = {about(text) for text in texts}
        assert {len(facts) for facts in of[split]} == {3}
    assert len(of["heldout"]) > 500 and len(of["train"]) > 5000
    assert not of["train"] & of["heldout"]


def bayes(*kinds: str) -> float:
    """The best accuracy on held-out pairs of these kinds."""
    rows = [row for row in load_rows("comparisons", "heldout", "assistant") if row.kind in kinds]
    return sum(max(row.probability, 1 - row.probability) for row in rows) / len(rows)


# ---------------------------------------------------------------- data/WORLDS.md


def test_the_page_states_the_bayes_accuracies(page):
    for kind, share in zip(build.PAIR_KINDS, build.PAIR_SHARES):
        assert f"| {kind} | {share:.0%} | {bayes(kind):.0%} |" in page
    assert f"| all | 100% | {bayes(*build.PAIR_KINDS):.1%} |" in page
    assert f"where Bayes is {bayes('inventing'):.0%}" in page


def test_the_page_states_the_world(page):
    for name, kind in KINDS.items():
        assert f"| {name} | {', '.join(kind.slots)} | {kind.noun} |" in page
    assert f"With probability {answers.FORM_SHARE:g} in the other form" in page
    assert f"With probability {answers.REPEAT_SHARE:g} one thing twice" in page
    assert f"1 to {answers.LONGEST}" in page


def test_there_are_as_many_requests_as_stated(page):
    """One derivation a request (test_advice_world.py), so distinct requests can be counted by their
    choices.
    """
    wording = (
        len(requests.CONTEXTS) * len(requests.FRAMES) * sum(map(len, requests.FORM_WISHES.values()))
    )
    number = sum(
        math.prod(len(vocabulary.VALUES[slot]) for slot in ("name", *kind.slots)) * len(kind.asks)
        for kind in KINDS.values()
    )
    number *= len(vocabulary.NUMBERS) * wording
    assert number >= 1e9 and f"{number / 1e9:.1f} billion requests" in page


def test_the_page_shows_a_real_request(page):
    example = load_rows("demonstrations", "heldout", "assistant", limit=1)[0]
    text = example.prompt + example.completion
    assert "".join(f"    {line}\n" if line else "\n" for line in text.split("\n")) in page
