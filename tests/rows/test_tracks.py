"""Rows of public data sets as records: templates, spaces, cuts, pairs, and splits."""

import random
import re

import pytest

from helpers.records import Comparison, Demonstration, Document, Labelled, Prompt
from helpers.rows import common, instructions, sentiment, tldr
from helpers.rows.common import Limits, Unusable, split_of
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.rows.tracks import TRACKS
from helpers.sft import encode_demonstration

POST = "SUBREDDIT: r/pets\nTITLE: My cat\nPOST: It sings.\nAt night.\nTL;DR:"
PETS = "SUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: {}\n\nTL;DR:"
ANY = Limits()
TEXTS = [f"a {('dull', 'fine')[i % 2]} film that goes on for about {i} hours" for i in range(40)]
SENTENCES = [{"sentence": text, "label": i % 2} for i, text in enumerate(TEXTS)]


def words(limit: int, context: int = 10**6) -> Limits:
    """Limits where a token is a word."""
    return Limits(encode=lambda text: list(range(len(text.split()))), prompt=limit, context=context)


@pytest.mark.parametrize("track", TRACKS.values(), ids=TRACKS)
def test_a_track_is_complete_and_its_revisions_are_commits(track):
    assert {"documents", "demonstrations", "comparisons", "prompts"} <= set(track.roles)
    assert track.template == track.template.rstrip() and "{" in track.template
    for role in track.roles.values():
        assert re.fullmatch(r"[0-9a-f]{40}", role.data.revision)
        assert role.data.repository.count("/") == 1


def test_the_template_of_tldr_is_the_one_of_the_embedded_world():
    for row in load_rows("prompts", "heldout", limit=50):
        assert tldr.prompt({"prompt": row.prompt}, ANY) == Prompt(row.prompt)


# tldr


def test_posts_in_either_form_give_one_prompt():
    expected = Prompt(PETS.format("It sings.\nAt night."))
    bare, double = POST.removesuffix("\nTL;DR:"), POST.replace("\n", "\n\n", 2)
    for form in (POST, bare, POST + " ", double, POST.replace("r/", "")):
        assert tldr.prompt({"prompt": form}, ANY) == expected
        assert tldr.key({"prompt": form}) == expected.prompt


def test_a_post_keeps_the_cues_that_its_author_wrote():
    inner = "Long story.\nTL;DR: the cat sings.\nPOST: and TITLE: too.\nTL;DR: really"
    prompt = tldr.prompt({"prompt": POST.replace("It sings.\nAt night.", inner)}, ANY).prompt
    assert prompt == PETS.format(inner) and prompt.count("TL;DR:") == 3
    braces = tldr.prompt({"prompt": POST.replace("It sings.", "{post} {0} %s \\1")}, ANY).prompt
    assert "POST: {post} {0} %s \\1\n" in braces


def test_summaries_lose_a_repeated_cue_and_get_one_space():
    texts = "TL;DR: Cat sings. TL;DR: help", " TL;DR:tl;dr:\n Sing? <|endoftext|>"
    pair = tldr.preference(dict(zip(("prompt", "chosen", "rejected"), (POST, *texts))), ANY)
    assert (pair.chosen, pair.rejected) == (" Cat sings. TL;DR: help", " Sing?")
    record = tldr.demonstration({"prompt": POST, "label": "\tTLDR says it \n"}, ANY)
    assert record.completion == " TLDR says it"


def cut_step_by_step(parts: dict, limits: Limits) -> str:
    """The published way: the last line goes, or the last character where there is one line, until
    it fits.
    """
    post = parts["post"]
    while not limits.holds(tldr.TEMPLATE.format(**parts | {"post": post})):
        post = post[: post.rindex("\n")] if "\n" in post else post[:-1]
    return tldr.TEMPLATE.format(**parts | {"post": post})


@pytest.mark.parametrize("limit", [40, 47, 60, 90, 128])
def test_long_posts_are_cut_as_step_by_step(limit):
    tokenizer, rng = load_tokenizer(), random.Random(limit)
    pool = [
        "\n",
        "\n\n",
        "🙂",
        "naïve",
        "!?",
        "\nI",
        "zzz" * 9,
        *"My sister hides together pi".split(),
    ]
    for _ in range(15):
        middle = "".join(rng.choice(pool) + rng.choice(["", " "]) for _ in range(120))
        row = {"prompt": POST.replace("It sings.", f"Begin {middle} end")}
        limits = Limits(tokenizer.encode, limit)
        prompt = tldr.prompt(row, limits)
        assert prompt.prompt == cut_step_by_step(tldr.read_post(row), limits)
        assert len(tokenizer.encode(prompt.prompt)) <= limit and tldr.was_cut(row, prompt)


def test_a_post_of_5000_words_is_cut_in_a_moment():
    tokenizer = load_tokenizer()
    limits = Limits(tokenizer.encode, 200, 256)
    for gap in (" ", "\n", ""):
        post = POST.replace("It sings.\nAt night.", gap.join(["singing"] * 5000))
        record = tldr.demonstration({"prompt": post, "label": "Help"}, limits)
        ids, prompt_tokens = encode_demonstration(record, tokenizer, 256)
        assert 190 < prompt_tokens <= 200 and ids[-1] == tokenizer.eos_id
    assert not tldr.was_cut({"prompt": POST}, tldr.prompt({"prompt": POST}, limits))


def test_a_prompt_that_does_not_fit_even_when_cut():
    with pytest.raises(Unusable, match="prompt too long"):
        tldr.prompt({"prompt": POST}, words(3))


# sentiment


def test_a_sentence_begins_as_prompt_and_ends_as_completion():
    lengths = set()
    for row in SENTENCES:
        record = sentiment.demonstration(row, ANY)
        prompt, completion = record.prompt, record.completion
        assert prompt + completion == row["sentence"] and completion.startswith(" ")
        assert record == sentiment.demonstration({"sentence": row["sentence"] + "  "}, ANY)
        assert sentiment.labelled(row, ANY) == Labelled(prompt, completion, row["label"])
        assert sentiment.prompt(row, ANY) == Prompt(prompt)
        lengths.add(len(prompt.split()))
    assert lengths == set(range(2, 8))


def test_pairs_put_positive_before_negative_whatever_the_order():
    labelled = [sentiment.labelled(row, ANY) for row in SENTENCES]
    pairs, left_out = sentiment.pairs(labelled, ANY)
    assert len(pairs) == 20 and not left_out
    assert sentiment.pairs(labelled[::-1], ANY)[0] == pairs
    label_of = {item.completion: item.label for item in labelled}
    assert all(label_of[pair.chosen] == 1 and label_of[pair.rejected] == 0 for pair in pairs)
    sentences = {item.prompt + item.completion for item in labelled}
    fits = [[p.prompt + text in sentences for text in (p.chosen, p.rejected)] for p in pairs]
    assert all(chosen != rejected for chosen, rejected in fits)  # the prompt is one's own
    assert 5 <= sum(chosen for chosen, _ in fits) <= 15  # sometimes of the one, or of the other
    odd = sentiment.pairs(labelled[:7] + labelled[8:], ANY)[1]
    assert odd == {"no partner with the other label": 1}
    assert sentiment.pairs(labelled, words(9, context=9))[1] == {"too long for the context": 40}


# assistant and instruct


def test_alpaca_puts_an_input_under_its_instruction():
    row = {"instruction": "Add.", "input": "1, 2", "output": "3 "}
    expected = Demonstration("Human: Add.\n\n1, 2\n\nAssistant:", " 3")
    assert instructions.alpaca_demonstration(row, ANY) == expected
    for nothing in ("", "  ", "No input", "Noinput", "<noinput>", "no input."):
        prompt = instructions.alpaca_prompt(row | {"input": nothing}, ANY)
        assert prompt == Prompt("Human: Add.\n\nAssistant:")
    for text in ("no input device", "🤔", "+", ".-- -..", "no", "input"):
        assert instructions.alpaca_key(row | {"input": text}) == f"Add.\n\n{text}"


def test_of_a_dialogue_the_last_turn_remains():
    request = "Say Human: or Assistant: twice"
    dialogue = f"\n\nHuman: Hi 🙂\n\nAssistant: Hello.\n\nHuman: {request}\n\nAssistant:"
    row = {"prompt": dialogue, "chosen": " Human: ", "rejected": "no"}
    expected = Comparison(f"Human: {request}\n\nAssistant:", " Human:", " no")
    assert instructions.dialogue_comparison(row, ANY) == expected


def test_instruct_wraps_a_request_once():
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "So."}
    prompt = "### Instruction:\nWhy?\n\n### Response:"
    assert instructions.instruct_prompt(row, ANY) == Prompt(prompt)
    assert instructions.instruct_demonstration(row, ANY) == Demonstration(prompt, " Because.")
    assert instructions.instruct_comparison(row, ANY) == Comparison(prompt, " Because.", " So.")


# all of them


def test_splits_depend_on_the_prompt_alone():
    splits = [split_of(f"prompt {i}") for i in range(5000)]
    assert all(420 < splits.count(name) < 580 for name in ("heldout", "reserve"))
    assert all(split_of(f"Prompt {i} ") == split_of(f"prompt  {i}") for i in range(100))
    assert splits[:6] == ["train", "train", "train", "reserve", "train", "heldout"]


def test_emoji_and_halves_of_characters_are_texts():
    texts = {"👩‍👩‍👧 🇩🇪 sings\r\n": "👩‍👩‍👧 🇩🇪 sings", "half \ud83d of one": "half � of one"}
    for text, written in texts.items():
        assert common.document({"text": text}, ANY) == Document(written) and written.encode()
