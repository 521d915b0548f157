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
    leads = [lead(POSTS[0], 3), lead(POSTS[1], 50), lead("", 5)]
    assert leads == [" My flatmate borrows", " Short post.", ""]


def test_no_other_k_has_a_better_rouge_l():
    texts = [" ".join(f"{c}{i}" for i in range(40)) for c in "abc"]  # no word twice
    assert best_k(texts, [lead(text, 16) for text in texts]) == 16
    # 2 * 21 / (21 + 24) > 2 * 16 / (21 + 16)
    assert best_k(texts, [lead(text, 21) for text in texts]) == 24
    assert best_k(texts, ["x"] * 3) == STEP  # equally bad: the smallest
    references = [POSTS[0][-50:], POSTS[1], POSTS[2][:60]]

    def mean(k: int) -> float:
        return rouge([lead(post, k) for post in POSTS], references)["ROUGE-L"].mean().item()

    assert mean(best_k(POSTS, references)) == max(map(mean, (8, 16, 24)))


def test_the_source_text_of_a_prompt():
    assert [source_text(prompt, "tldr") for prompt in PROMPTS] == POSTS
    for track, template, text in (
        ("assistant", ASSISTANT, "Why is it?\n\nSo"),
        ("instruct", INSTRUCT, "Add 2."),
        ("sentiment", "{request}", "the film is"),
    ):
        assert source_text(template.format(request=text), track) == text
    for track, line in (("assistant", "form of assistant"), ("chess", "no track 'chess'")):
        with pytest.raises(ValueError, match=line):
            source_text("Why?", track)


def test_copies_are_titles_for_posts_and_else_cut_to_the_reference():
    assert copies(PROMPTS, ["x"] * 3, "tldr") == [" Title 0", " Title 1", " Title 2"]
    assert copies([TEMPLATE.format(subreddit="a", title="", post="b")], ["x"], "tldr") == [""]
    requests = ["Name three birds that swim", "Why?"]
    prompts = [ASSISTANT.format(request=request) for request in requests]
    texts = copies(prompts, ["Ducks, swans", "Because it is."], "assistant")
    assert texts == [" Name three", " Why?"]
    with pytest.raises(ValueError, match="2 prompts, but 1 references"):
        copies(prompts, ["one"], "assistant")


def test_bad_input_to_best_k():
    with pytest.raises(ValueError, match="3 predictions, but 1 references"):
        best_k(POSTS, ["a"])
    with pytest.raises(ValueError, match="no predictions"):
        best_k([], [])
