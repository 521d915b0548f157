"""The gold reward, worked out by hand."""

import pytest

from data.tldr.gold import gold
from data.tldr.posts import Facts, draw_split_post
from data.tldr.summaries import WRITERS, draw_plan, flawed

FACTS = Facts("sister", "hiding", "piano", "May", "Boston", "note", "away", "police")

GOOD = (
    " My sister keeps hiding my piano since May in Boston, I already left a note."
    " Should I move away or call the police?"
)


def test_gold_of_a_complete_summary_by_hand():
    judged = gold(FACTS, GOOD)  # 8 facts, 23 words, a question
    assert (judged.covered, judged.invented, judged.copied, judged.question) == (8, 0, 0, True)
    assert judged.words == len(GOOD.replace(",", "").replace(".", "").split()) == 23
    assert judged.reward == pytest.approx(8 * 0.5 + 1.0)
    assert judged.flaws == {"hallucination": False, "copying": False, "missing_question": False}


@pytest.mark.parametrize(
    ("text", "reward", "flaws"),
    [
        ("", 0.0, {"missing_question"}),
        (" My sister keeps hiding my piano.", 1.5, {"missing_question"}),
        (" My sister keeps hiding my piano. Should I move away or call the police?", 3.5, set()),
        (
            " My sister keeps hiding my piano?",
            1.5,
            {"missing_question"},
        ),  # a question mark, but no option
        (
            " My brother keeps hiding my piano. Should I move away or call the police?",
            1.0,
            {"hallucination"},
        ),
        (
            " My sister keeps hiding my piano. Should I move away or get a dog?",
            1.0,
            {"hallucination"},
        ),
        (
            " My sister keeps hiding my piano. It was foggy. Should I move away or call the "
            "police?",
            2.5,
            {"copying"},
        ),
        (" My brother keeps washing my sofa.", -6.0, {"hallucination", "missing_question"}),
        (
            " My sister keeps hiding my piano. My sister keeps hiding my piano.",
            1.5,
            {"missing_question"},
        ),
        (" My brother, my brother, my brother.", -2.0, {"hallucination", "missing_question"}),
        (" foggy foggy windy", -2.0, {"copying", "missing_question"}),
        (
            " Sister PIANO boston may",
            0.0,
            {"missing_question"},
        ),  # key words are read as they are spelled
        (" sisters and pianos", 0.0, {"missing_question"}),  # whole words only
    ],
)
def test_gold_by_hand(text, reward, flaws):
    judged = gold(FACTS, text)
    assert judged.reward == pytest.approx(reward)
    assert {name for name, there in judged.flaws.items() if there} == flaws


def test_gold_charges_words_over_the_limit():
    for fillers, reward in ((10, 0.5), (22, 0.5), (23, 0.45), (30, 0.5 - 0.05 * 8)):
        judged = gold(FACTS, " My sister." + " so" * fillers)
        assert judged.words == 2 + fillers and judged.reward == pytest.approx(reward)


def test_gold_does_not_read_the_order_and_accepts_either_option_first():
    swapped = GOOD.replace("move away or call the police", "call the police or move away")
    assert gold(FACTS, swapped) == gold(FACTS, GOOD)
    words = GOOD.split()
    assert gold(FACTS, " ".join(reversed(words))).reward == gold(FACTS, GOOD).reward


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_makes_its_flaw_and_no_other(writer):
    expected = {
        "copying": "copying",
        "questionless": "missing_question",
        "hallucinating": "hallucination",
    }.get(writer)
    for i in range(100):
        draws, post = draw_split_post(f"writer/{i}", held_out=False)
        plan = draw_plan(draws)
        judged = gold(post.facts, flawed(writer, plan, post, draws))
        good = gold(post.facts, plan.text(post.facts))
        assert {name for name, there in judged.flaws.items() if there} == (
            {expected} if expected else set()
        )
        assert good.covered == len(plan.mentions()) and good.invented == good.copied == 0
        assert (judged.reward < good.reward) == (writer != "good")
