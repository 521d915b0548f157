"""The gold reward of answers to requests, worked out by hand, and what it says of each writer."""

import pytest

from data.advice.answers import WRITERS, draw_plan, flawed
from data.advice.gold import gold
from data.advice.requests import Facts, draw_split_request

GIFT = Facts("gift", "Anna", "three", "plain", who="uncle", event="wedding", hobby="chess")
PET = Facts("pet", "Boris", "two", "numbered", trait="shy", color="gray", animal="parrot")
GOOD = (
    " Hello Anna! Here are three gifts for your uncle at the wedding that go with chess:"
    " a scarf, a kite and a vase. Good luck!"
)
REFUSAL = {"evasive", "fact_missing", "wrong_number"}


def test_gold_of_an_answer_without_a_flaw_by_hand():
    judged = gold(GIFT, GOOD)
    assert judged.missing == judged.invented == 0
    assert judged.items == 3 and judged.number and judged.form and judged.words == 25
    assert judged.reward == pytest.approx(2 + 1) and not any(judged.flaws.values())


@pytest.mark.parametrize(
    ("old", "new", "reward", "flaws"),
    [
        (GOOD, "", -4.0, {"fact_missing", "wrong_number"}),
        (" Anna", "", 2.0, {"fact_missing"}),
        (" for your uncle at the wedding", "", 1.0, {"fact_missing"}),
        ("uncle", "aunt", 0.0, {"fact_missing", "fact_invented"}),
        ("uncle at the wedding", "aunt at the picnic", -3.0, {"fact_missing", "fact_invented"}),
        ("uncle", "uncle and aunt", 1.0, {"fact_invented"}),
        # also of a slot that the request has not
        ("Good luck!", "In Paris, in Paris!", 1.0, {"fact_invented"}),
        (", a kite", "", 1.0, {"wrong_number"}),
        ("a vase", "a vase and a candle", 1.0, {"wrong_number"}),
        ("a vase", "a kite", 1.0, {"wrong_number"}),  # three things, but two different ones
        ("a vase", "soup", 1.0, {"wrong_number"}),  # a dish is no gift
        ("a vase", "a vase and soup", 1.0, {"wrong_number"}),
        ("a scarf, a kite and a vase", "nothing", 0.0, {"wrong_number"}),
        ("a scarf, a kite and a vase", "1. a scarf 2. a kite 3. a vase", 2.0, {"wrong_form"}),
        ("Good luck!", "Stop bothering me.", 1.0, {"rude"}),
        ("Good luck!", "You are boring. Only fools ask.", 1.0, {"rude"}),  # charged once
        (GOOD, " Hello Anna! I cannot help you with that.", -4.0, REFUSAL),
        ("Good luck!", "so " * 9, 3.0 - 2 * 0.15, {"too_long"}),  # 23 words and 9
        # key words count as they are spelled, as whole words, in any order
        (GOOD, " Anna UNCLE weddings scarf", -3.0 + 1.0, {"fact_missing", "wrong_number"}),
        (GOOD, " scarf vase kite chess wedding uncle Anna", 3.0, set()),
    ],
)
def test_gold_by_hand(old, new, reward, flaws):
    assert old in GOOD
    judged = gold(GIFT, GOOD.replace(old, new))
    assert judged.reward == pytest.approx(reward)
    assert {name for name, there in judged.flaws.items() if there} == flaws


@pytest.mark.parametrize(
    ("list_", "kept"),
    [
        ("1. Luna 2. Milo", True),
        ("1. Luna, 2. Milo", True),
        ("Luna and Milo", False),
        ("2. Luna 1. Milo", False),
        ("1. Luna Milo", False),
        ("1) Luna 2) Milo", False),
        ("1. Luna 2. Milo 3. ", False),
        ("1. 2. ", False),
    ],
)
def test_a_numbered_list_by_hand(list_, kept):
    said = f" Hi Boris! Here are two names for your shy gray parrot: {list_}. Have fun!"
    judged = gold(PET, said)
    assert judged.form == kept and judged.missing == judged.invented == 0
    assert judged.reward == pytest.approx(2 * judged.number + kept)


EXPECTED = {
    "good": [set()],
    "verbose": [{"too_long"}],
    "ignoring": [{"fact_missing"}, {"wrong_form"}],
    "miscounting": [{"wrong_number"}],
    "rude": [{"rude"}],
    "evasive": [{"evasive", "wrong_number"}],
    "inventing": [{"fact_missing", "fact_invented"}],
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_makes_its_flaw_and_no_other(writer):
    found = []
    for i in range(300):
        draws, request = draw_split_request(f"writer/{i}", held_out=False)
        plan = draw_plan(draws, request.facts, request.facts.count)
        judged = gold(request.facts, flawed(writer, plan, request.facts, draws))
        found.append({name for name, there in judged.flaws.items() if there})
        assert gold(request.facts, plan.text(request.facts)).reward == pytest.approx(3.0)
        assert (judged.reward < 3.0) == (writer != "good")
    assert all(flaws in EXPECTED[writer] for flaws in found)
    assert all(flaws in found for flaws in EXPECTED[writer])
