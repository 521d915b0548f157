"""Lead-k and copies: k against trying others, and what is copied from prompts of each track."""

import pytest

from helpers.compare.baselines import STEP, best_k, copies, lead, source_text
from helpers.compare.text_metrics import rouge
from helpers.rows.instructions import ASSISTANT, INSTRUCT
from helpers.rows.tldr import TEMPLATE

POSTS = [
    "My flatmate borrows my bike. Every day! What now?\nI asked twice. She laughed about it and "
    "took the bike again.",
    "Short post.",
    "We moved in May and the heating has been broken since then, the landlord says he will come. "
    "He never does.",
]
PROMPTS = [
    TEMPLATE.format(subreddit="advice", title=f"Title {i}", post=post)
    for i, post in enumerate(POSTS)
]


def test_the_first_words():
    assert (
        lead(POSTS[0], 3) == " My flatmate borrows"
        and lead(POSTS[1], 50) == " Short post."
        and lead("", 5) == ""
    )


def test_no_other_k_has_a_better_rouge_l():
    texts = [" ".join(f"{c}{i}" for i in range(40)) for c in "abc"]  # no word twice
    assert best_k(texts, [lead(text, 16) for text in texts]) == 16
    assert (
        best_k(texts, [lead(text, 21) for text in texts]) == 24
    )  # 2 * 21 / (21 + 24) > 2 * 16 / (21 + 16)
    assert best_k(texts, ["x"] * 3) == STEP  # equally bad: the smallest
    k = best_k(POSTS, [POSTS[0][-50:], POSTS[1], POSTS[2][:60]])
    references = [POSTS[0][-50:], POSTS[1], POSTS[2][:60]]
    means = {
        k: rouge([lead(post, k) for post in POSTS], references)["ROUGE-L"].mean().item()
        for k in (8, 16, 24)
    }
    assert means[k] == max(means.values())


def test_what_a_prompt_is_about():
    assert [source_text(prompt, "tldr") for prompt in PROMPTS] == POSTS
    assert (
        source_text(ASSISTANT.format(request="Why is it?\n\nSo"), "assistant") == "Why is it?\n\nSo"
    )
    assert source_text(INSTRUCT.format(request="Add 2."), "instruct") == "Add 2."
    assert source_text("the film is", "sentiment") == "the film is"
    with pytest.raises(ValueError, match="form of assistant"):
        source_text("Why?", "assistant")
    with pytest.raises(ValueError, match="no track 'chess'"):
        source_text("Why?", "chess")


def test_copies_are_titles_for_posts_and_else_cut_to_the_reference():
    assert copies(PROMPTS, ["x"] * 3, "tldr") == [" Title 0", " Title 1", " Title 2"]
    assert copies([TEMPLATE.format(subreddit="a", title="", post="b")], ["x"], "tldr") == [""]
    requests = [
        ASSISTANT.format(request="Name three birds that swim"),
        ASSISTANT.format(request="Why?"),
    ]
    assert copies(requests, ["Ducks, swans", "Because it is."], "assistant") == [
        " Name three",
        " Why?",
    ]
    with pytest.raises(ValueError, match="2 prompts, but 1 references"):
        copies(requests, ["one"], "assistant")


def test_bad_input_to_best_k():
    with pytest.raises(ValueError, match="3 predictions, but 1 references"):
        best_k(POSTS, ["a"])
    with pytest.raises(ValueError, match="no predictions"):
        best_k([], [])
