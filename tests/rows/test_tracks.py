"""Rows of public data sets as records: templates, spaces, cuts, and a reason for every row that
can't be used.
"""

import random
import re

import pytest

from helpers.records import Comparison, Demonstration, Document, Labelled, Prompt
from helpers.reward import encode_comparison
from helpers.rows import common, instructions, sentiment, tldr
from helpers.rows.common import Limits, Unusable, split_of
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.rows.tracks import TRACKS
from helpers.sft import encode_demonstration

POST = "SUBREDDIT: r/pets\nTITLE: My cat\nPOST: It sings.\nAt night.\nTL;DR:"
PETS = "SUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: {}\n\nTL;DR:"
ANY = Limits()
SENTENCES = [
    {
        "sentence": f"{'a fine' if i % 2 else 'a dull'} film that goes on and on for about {i} "
        "hours",
        "label": i % 2,
    }
    for i in range(40)
]


def words(limit: int, context: int = 10**6) -> Limits:
    """Limits where a token is a word."""
    return Limits(encode=lambda text: list(range(len(text.split()))), prompt=limit, context=context)


def refused(function, row: dict, limits: Limits | None = ANY) -> str:
    with pytest.raises(Unusable) as error:
        function(row, limits) if limits else function(row)
    return str(error.value)


@pytest.mark.parametrize("track", TRACKS.values(), ids=TRACKS)
def test_a_track_is_complete_and_its_revisions_are_commits(track):
    assert {"documents", "demonstrations", "comparisons", "prompts"} <= set(track.roles)
    assert track.template == track.template.rstrip() and "{" in track.template
    for role in track.roles.values():
        assert (
            re.fullmatch(r"[0-9a-f]{40}", role.data.revision)
            and role.data.repository.count("/") == 1
        )


def test_the_template_of_tldr_is_the_one_of_the_embedded_world():
    for row in load_rows("prompts", "heldout", limit=50):
        assert tldr.prompt({"prompt": row.prompt}, ANY) == Prompt(row.prompt)


# tldr


def test_posts_in_either_form_give_one_prompt():
    assert tldr.prompt({"prompt": POST}, ANY) == Prompt(PETS.format("It sings.\nAt night."))
    for form in (
        POST.removesuffix("\nTL;DR:"),
        POST + " ",
        POST.replace("\n", "\n\n", 2),
        POST.replace("r/", ""),
    ):
        assert tldr.prompt({"prompt": form}, ANY) == tldr.prompt({"prompt": POST}, ANY)
        assert tldr.key({"prompt": form}) == tldr.key({"prompt": POST})


def test_a_post_keeps_the_marks_that_its_author_wrote():
    inner = "Long story.\nTL;DR: the cat sings.\nPOST: and TITLE: too.\nTL;DR: really"
    prompt = tldr.prompt({"prompt": POST.replace("It sings.\nAt night.", inner)}, ANY).prompt
    assert prompt == PETS.format(inner) and prompt.count("TL;DR:") == 3
    braces = tldr.prompt({"prompt": POST.replace("It sings.", "{post} {0} %s \\1")}, ANY).prompt
    assert "POST: {post} {0} %s \\1\n" in braces


def test_summaries_lose_a_repeated_mark_and_get_one_space():
    row = {
        "prompt": POST,
        "chosen": "TL;DR: Cat sings. TL;DR: help",
        "rejected": " TL;DR:tl;dr:\n Sing? <|endoftext|>",
    }
    found = tldr.preference(row, ANY)
    assert (found.chosen, found.rejected) == (" Cat sings. TL;DR: help", " Sing?")
    assert (
        tldr.demonstration({"prompt": POST, "label": "\tTLDR says it \n"}, ANY).completion
        == " TLDR says it"
    )
    assert refused(tldr.demonstration, {"prompt": POST, "label": "TL;DR: "}) == "empty completion"


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
    tokenizer, generator = load_tokenizer(), random.Random(limit)
    pool = [
        "My",
        "sister",
        "hides",
        "together",
        "pi",
        "\n",
        "\n\n",
        "🙂",
        "naïve",
        "!?",
        "\nI",
        "zzz" * 9,
    ]
    for _ in range(15):
        text = (
            "Begin "
            + "".join(generator.choice(pool) + generator.choice(["", " "]) for _ in range(120))
            + " end"
        )
        row, limits = {"prompt": POST.replace("It sings.", text)}, Limits(tokenizer.encode, limit)
        prompt = tldr.prompt(row, limits)
        assert prompt.prompt == cut_step_by_step(tldr.read_post(row), limits)
        assert len(tokenizer.encode(prompt.prompt)) <= limit and tldr.was_cut(row, prompt)


def test_a_post_of_5000_words_is_cut_in_a_moment():
    tokenizer = load_tokenizer()
    for gap in (" ", "\n", ""):
        row = {
            "prompt": POST.replace("It sings.\nAt night.", gap.join(["singing"] * 5000)),
            "label": "Help",
        }
        found = tldr.demonstration(row, Limits(tokenizer.encode, 200, 256))
        ids, prompt_tokens = encode_demonstration(found, tokenizer, 256)
        assert 190 < prompt_tokens <= 200 and ids[-1] == tokenizer.eos_id
    assert not tldr.was_cut(
        {"prompt": POST}, tldr.prompt({"prompt": POST}, Limits(tokenizer.encode, 200))
    )


def test_what_does_not_fit_even_when_cut():
    assert refused(tldr.prompt, {"prompt": POST}, words(3)) == "prompt too long"
    long = {"prompt": POST, "label": "word " * 30}
    assert refused(tldr.demonstration, long, words(20, context=30)) == "too long for the context"
    pair = {"prompt": POST, "chosen": "yes", "rejected": "no " * 30}
    assert refused(tldr.preference, pair, words(20, context=30)) == "too long for the context"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": None}, "no prompt"),
        ({"prompt": 7}, "prompt is no text"),
        ({"prompt": " \n"}, "empty prompt"),
        ({"prompt": "Just a question"}, "prompt is no Reddit post"),
        ({"prompt": "SUBREDDIT: r/a\nTITLE: t\nPOST: \nTL;DR:"}, "empty post"),
        ({"chosen": ["x"]}, "chosen is no text"),
        ({"rejected": ""}, "empty rejected"),
        ({"chosen": "TL;DR: same", "rejected": " same\n"}, "chosen equals rejected"),
    ],
)
def test_each_bad_row_has_its_reason(change, says):
    assert (
        refused(tldr.preference, {"prompt": POST, "chosen": "a", "rejected": "b"} | change) == says
    )


# sentiment


def test_a_sentence_begins_as_prompt_and_ends_as_completion():
    firsts = set()
    for row in SENTENCES:
        found = sentiment.demonstration(row, ANY)
        assert found.prompt + found.completion == row["sentence"] and found.completion.startswith(
            " "
        )
        assert found == sentiment.demonstration({"sentence": row["sentence"] + "  "}, ANY)
        assert sentiment.labelled(row, ANY) == Labelled(
            found.prompt, found.completion, row["label"]
        )
        assert sentiment.prompt(row, ANY) == Prompt(found.prompt)
        firsts.add(len(found.prompt.split()))
    assert firsts == set(range(2, 8))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": -1}, "label is not 0 or 1"),
        ({"label": 2}, "label is not 0 or 1"),
        ({"label": None}, "no label"),
        ({"label": True}, "label is not 0 or 1"),
        ({"label": "positive"}, "label is not 0 or 1"),
        ({"sentence": "far too short"}, "sentence too short"),
        ({"sentence": ""}, "empty sentence"),
    ],
)
def test_labels_out_of_range_and_short_sentences(change, says):
    assert refused(sentiment.labelled, SENTENCES[0] | change) == says
    assert sentiment.labelled(SENTENCES[1] | {"label": " 1"}, ANY).label == 1


def test_pairs_put_positive_before_negative_whatever_the_order():
    labelled = [sentiment.labelled(row, ANY) for row in SENTENCES]
    pairs, left_out = sentiment.pairs(labelled, ANY)
    assert len(pairs) == 20 and not left_out
    assert sentiment.pairs(labelled[::-1], ANY)[0] == pairs
    label_of = {item.completion: item.label for item in labelled}
    owners = {item.prompt + item.completion for item in labelled}
    assert all(label_of[pair.chosen] == 1 and label_of[pair.rejected] == 0 for pair in pairs)
    own = sum(pair.prompt + pair.chosen in owners for pair in pairs)
    assert 5 <= own <= 15  # sometimes the chosen one fits the prompt, sometimes the rejected one
    assert all((p.prompt + p.chosen in owners) != (p.prompt + p.rejected in owners) for p in pairs)
    assert sentiment.pairs(labelled[:7] + labelled[8:], ANY)[1] == {
        "no partner with the other label": 1
    }
    assert sentiment.pairs(labelled, words(9, context=9))[1] == {"too long for the context": 40}


# assistant and instruct


def test_alpaca_puts_an_input_under_its_instruction():
    row = {"instruction": "Add.", "input": "1, 2", "output": "3 "}
    assert instructions.alpaca_demonstration(row, ANY) == Demonstration(
        "Human: Add.\n\n1, 2\n\nAssistant:", " 3"
    )
    for nothing in ("", "  ", "No input", "Noinput", "<noinput>", "no input."):
        assert instructions.alpaca_prompt(row | {"input": nothing}, ANY) == Prompt(
            "Human: Add.\n\nAssistant:"
        )
    for given in ("no input device", "🤔", "+", ".-- -..", "no", "input"):
        assert instructions.alpaca_key(row | {"input": given}) == f"Add.\n\n{given}"
    assert refused(instructions.alpaca_demonstration, row | {"output": ""}) == "empty output"
    assert (
        refused(instructions.alpaca_demonstration, {"instruction": "Add.", "output": "3"})
        == "no input"
    )


def test_of_a_dialogue_the_last_turn_remains():
    dialogue = (
        "\n\nHuman: Hi 🙂\n\nAssistant: Hello.\n\nHuman: Say Human: or Assistant: "
        "twice\n\nAssistant:"
    )
    row = {"prompt": dialogue, "chosen": " Human: ", "rejected": "no"}
    expected = Comparison("Human: Say Human: or Assistant: twice\n\nAssistant:", " Human:", " no")
    assert instructions.dialogue_comparison(row, ANY) == expected
    assert refused(instructions.last_turn, {"prompt": "Tell me"}, None) == "prompt is no dialogue"
    assert (
        refused(instructions.last_turn, {"prompt": "Human: hi\n\nAssistant: yes"}, None)
        == "prompt is no dialogue"
    )
    assert (
        refused(instructions.last_turn, {"prompt": "\n\nHuman:\n\nAssistant:"}, None)
        == "empty last turn"
    )


def test_instruct_wraps_a_request_once():
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "So."}
    asked = "### Instruction:\nWhy?\n\n### Response:"
    assert instructions.instruct_prompt(row, ANY) == Prompt(asked)
    assert instructions.instruct_demonstration(row, ANY) == Demonstration(asked, " Because.")
    assert instructions.instruct_comparison(row, ANY) == Comparison(asked, " Because.", " So.")
    assert refused(instructions.instruct_prompt, row, words(2)) == "prompt too long"


# all of them


def test_splits_depend_on_the_prompt_alone():
    counts = {name: 0 for name in ("train", "reserve", "heldout")}
    for i in range(5000):
        counts[split_of(f"prompt {i}")] += 1
    assert 420 < counts["heldout"] < 580 and 420 < counts["reserve"] < 580
    assert all(split_of(f"Prompt {i} ") == split_of(f"prompt  {i}") for i in range(100))
    assert [split_of(f"prompt {i}") for i in range(6)] == [
        "train",
        "train",
        "train",
        "reserve",
        "train",
        "heldout",
    ]


def test_emoji_and_halves_of_characters_are_texts():
    for text, written in (
        ("👩‍👩‍👧 🇩🇪 sings\r\n", "👩‍👩‍👧 🇩🇪 sings"),
        ("half \ud83d of one", "half � of one"),
    ):
        assert common.document({"text": text}, ANY) == Document(written) and written.encode()


def test_records_are_encoded_by_the_stages():
    tokenizer = load_tokenizer()
    row = {"prompt": POST, "label": "Cat sings.", "chosen": "TL;DR: Cat 🙂", "rejected": "No"}
    limits = Limits(tokenizer.encode, 200, 256)
    ids, length = encode_demonstration(tldr.demonstration(row, limits), tokenizer, 256)
    assert tokenizer.decode(ids[length:]) == " Cat sings.<|endoftext|>"
    pair = encode_comparison(tldr.preference(row, limits), tokenizer, 256)
    assert tokenizer.decode(pair.chosen) == " Cat 🙂<|endoftext|>" and pair.prompt == ids[:length]
