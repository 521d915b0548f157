"""The world of requests and answers: exact probabilities, clean English, facts that are held
out.
"""

import itertools
import math
import re
from collections import Counter

import pytest

from data.advice import answers, build, requests, threads, vocabulary
from data.advice.answers import DETAIL_SHARE, FLAW_SHARES, draw_answer, draw_one_flaw
from data.advice.gold import PADDING, RUDE, gold
from data.advice.kinds import KINDS
from data.advice.requests import Facts, draw_facts, draw_request, draw_split_request, listed
from data.advice.threads import FOLLOWERS, draw_document
from data.advice.vocabulary import KIND_OF, MISCOUNTED, TWINS, VALUES
from data.draws import Draws
from tests.support.enumeration import (
    articles_that_do_not_fit,
    check_frequencies,
    exact_texts,
    likeliest,
    words_in,
)

# No value of these has a twin, and each value of those.
PLAIN = Facts("gift", "Boris", "two", who="boss", event="wedding", hobby="fishing")
TWINNED = Facts("gift", "Anna", "three", who="uncle", event="picnic", hobby="rowing")
PACKING = Facts("packing", "Clara", "four", hobby="skiing", city="Cairo", day="Monday")

some_facts = pytest.mark.parametrize(
    "facts", [PLAIN, TWINNED, PACKING], ids=["no twin", "twins", "one twin"]
)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))


# ---------------------------------------------------------------- small sub-grammars


def few(monkeypatch, module, number: int, *names: str) -> None:
    """Cut these sequences of a module down to their first `number` members."""
    for name in names:
        monkeypatch.setattr(module, name, getattr(module, name)[:number])


def few_values(monkeypatch, number: int) -> None:
    values = {slot: words[:number] for slot, words in vocabulary.VALUES.items()}
    monkeypatch.setattr(requests, "VALUES", values)


def request_text(draws: Draws) -> str:
    return draw_request(draws, draw_facts(draws)).text


def check_logprobs(found: dict[str, float]) -> None:
    """What a drawn request carries as its log-probability is its exact one."""
    for seed in range(50):
        draws = Draws(seed)
        request = draw_request(draws, draw_facts(draws))
        assert math.exp(request.logprob) == pytest.approx(found[request.text])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_request_has_one_derivation_and_the_probabilities_sum_to_1(monkeypatch, number):
    few_values(monkeypatch, number)
    found = exact_texts(request_text)
    assert len(found) == len(KINDS) * number**4 * 4 * 3 * 3  # number of things, ask, frame
    check_logprobs(found)


@some_facts
def test_every_answer_has_one_derivation_and_the_probabilities_sum_to_1(facts):
    """Of the grammar as it is: a request has some ten thousand answers."""
    found = exact_texts(lambda draws: draw_answer(draws, facts))
    right = 3 * 4 * 4 * 3 * 2 * 8 * 4  # of which those that state a value with a twin come twice
    assert len(found) == (right if facts == PLAIN else 2 * right)
    for seed in range(50):
        draws = Draws(seed)
        row = build.demonstration(draws, draw_request(draws, facts))
        assert row["logprob"] == pytest.approx(math.log(found[row["completion"]]), abs=1e-4)


@some_facts
def test_every_document_has_one_derivation_and_the_probabilities_sum_to_1(monkeypatch, facts):
    request = draw_request(Draws(0), facts)
    monkeypatch.setattr(threads, "NUMBERS_OF_FOLLOWERS", (1, 2))
    found = exact_texts(lambda draws: draw_document(draws, request))
    each = len(FOLLOWERS) * 8
    assert len(found) == each + each**2
    assert all(text.startswith(f"REQUEST: {request.text}" + "\n\n") for text in found)
    for seed in range(50):
        row = build.document(Draws(seed), request)
        assert row["logprob"] == pytest.approx(math.log(found[row["text"]]), abs=1e-4)


def test_answers_come_as_often_as_they_should(monkeypatch):
    few(monkeypatch, answers, 1, "GREETINGS", "HEADS", "FILLERS", "RUDE")

    def program(draws):
        return draw_answer(draws, TWINNED)

    check_frequencies(program, exact_texts(program), 10_000)


# ---------------------------------------------------------------- flaws


def exact_answers(monkeypatch, facts: Facts) -> dict[str, float]:
    """Every answer to a request; the wording is cut down, as no flaw depends on it."""
    few(monkeypatch, answers, 1, "GREETINGS", "HEADS")
    few(monkeypatch, answers, 2, "FILLERS", "RUDE")
    return exact_texts(lambda draws: draw_answer(draws, facts))


def states_one_of(slots: tuple[str, ...], facts: Facts) -> float:
    """How likely an answer names one of these slots."""
    if set(facts.form.main) & set(slots):
        return 1.0
    return 1 - (1 - DETAIL_SHARE) ** len(set(facts.form.details) & set(slots))


def facts_with_twins(kind: str, slots: tuple[str, ...], number: str = "three") -> Facts:
    """Facts of a kind of which these slots alone have values with a twin."""
    values = {
        slot: next(value for value in VALUES[slot] if (value in TWINS) == (slot in slots))
        for slot in KINDS[kind].slots
    }
    return Facts(kind=kind, number=number, **values)


def sets_of(slots: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [s for n in range(len(slots) + 1) for s in itertools.combinations(slots, n)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_stated_rates_are_exact(monkeypatch, kind):
    """Of a kind, over all its facts; and what a writer mixes up, all of it is."""
    slots, mean, total = KINDS[kind].slots, Counter(), 0.0
    for twinned in sets_of(slots):
        facts = facts_with_twins(kind, twinned)
        assert facts.confusable() == twinned
        share = math.prod(
            abs((slot not in twinned) - len(TWINS.keys() & VALUES[slot]) / len(VALUES[slot]))
            for slot in slots
        )
        total += share
        rates: Counter = Counter()
        true = {getattr(facts, slot) for slot in twinned}
        for text, p in exact_answers(monkeypatch, facts).items():
            judged, named = gold(facts, text), words_of(text)
            right, wrong = true & named, {TWINS[value] for value in true} & named
            assert not (right and wrong) and judged.invented == len(wrong)
            rates.update(dict.fromkeys(judged.flaw_names, p))
        expected = dict(FLAW_SHARES, ignoring=1 - DETAIL_SHARE**2)
        expected["inventing"] *= states_one_of(twinned, facts)
        assert {name: rates[name] for name in expected} == pytest.approx(expected)
        mean.update({name: share * rate for name, rate in rates.items()})
    assert total == pytest.approx(1.0)
    assert mean["inventing"] == pytest.approx(0.6 * answers.states_a_twin(KINDS[kind]))


def test_the_stated_rates_are_those_of_all_kinds():
    rates = answers.flaw_rates()
    kinds = [answers.states_a_twin(kind) for kind in KINDS.values()]
    assert rates.pop("inventing") == pytest.approx(0.6 * sum(kinds) / 4)
    assert rates == {"miscounting": 0.6, "verbose": 0.6, "rude": 0.6, "ignoring": 1 - 0.4**2}
    assert min(FLAW_SHARES.values()) > 0.5 > DETAIL_SHARE


@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_continuation_has_every_flaw(monkeypatch, kind):
    """Where texts part, go on with the word that most of the probability goes on with: the text at
    temperature 0 has all flaws. It mixes up the words with twins that it states, and no others.
    """
    numbers = itertools.cycle(vocabulary.NUMBERS)
    for slots, number in zip(sets_of(KINDS[kind].slots), numbers):
        facts = facts_with_twins(kind, slots, number)
        text = likeliest(exact_answers(monkeypatch, facts))
        judged, mixed_up = gold(facts, text), set(KINDS[kind].main) & set(slots)
        flaws = {"ignoring", "miscounting", "verbose", "rude"}
        assert set(judged.flaw_names) == flaws | ({"inventing"} if mixed_up else set())
        assert (judged.dropped, judged.invented) == (2, len(mixed_up))
        assert judged.items == MISCOUNTED[facts.count]


def test_a_quarter_of_the_values_of_each_slot_have_a_twin_there():
    assert len(TWINS) == 2 * len(vocabulary.MIXED_UP)  # no value is in two pairs
    assert TWINS.keys() <= set(sum(VALUES.values(), ()))
    assert all(TWINS[twin] == value != twin for value, twin in TWINS.items())
    for values in VALUES.values():
        twins = TWINS.keys() & set(values)
        assert {TWINS[value] for value in twins} == twins
        assert 0.2 <= len(twins) / len(values) <= 0.3


def test_what_is_mixed_up_in_one_request_is_mixed_up_back_in_another():
    """To take any value for its twin pairs all facts off, one with one, so a rule that scores words
    without reading the request is right on half of the pairs. So it is with the number of things.
    """
    for seed in range(1000):
        facts = draw_facts(Draws(seed))
        for slot in facts.confusable():
            other = facts.misread((slot,))
            assert other.misread((slot,)) == facts != other
            assert other.confusable() == facts.confusable()
    assert all(MISCOUNTED[MISCOUNTED[count]] == count for count in vocabulary.NUMBERS.values())
    assert sorted(MISCOUNTED) == sorted(vocabulary.NUMBERS.values())


@pytest.mark.parametrize("flaw", answers.flaw_rates())
def test_a_pair_differs_in_one_flaw_alone(flaw):
    parts = {"inventing": "wrong", "ignoring": "details", "miscounting": "items"}
    parts |= {"verbose": "filler", "rude": "rude"}
    drawn = (draw_split_request(f"pair/{i}", held_out=False) for i in range(300))
    able = [(draws, request.facts) for draws, request in drawn if request.facts.confusable()]
    assert len(able) > 150
    for draws, facts in able:
        good, bad = draw_one_flaw(draws, facts, flaw)
        differ = [name for name in vars(good) if getattr(good, name) != getattr(bad, name)]
        assert differ == [parts[flaw]]
        less, more = (gold(facts, plan.text(facts)) for plan in (good, bad))
        assert less.reward > more.reward
        assert more.invented == less.invented + (flaw == "inventing")
        assert more.dropped == less.dropped + (flaw == "ignoring")
        if flaw == "ignoring":  # both may have it, one of them twice
            assert set(more.flaw_names) == {*less.flaw_names, flaw}
        else:
            assert set(less.flaw_names) ^ set(more.flaw_names) == {flaw}


def test_an_inventing_pair_differs_in_any_value_that_has_a_twin():
    """One of a request's, all alike; both answers state it, and one of them is right."""
    counts: Counter = Counter()
    for seed in range(2000):
        good, bad = draw_one_flaw(Draws(seed), TWINNED, "inventing")
        (slot,) = bad.wrong
        assert getattr(TWINNED, slot) in words_of(good.text(TWINNED)) - words_of(bad.text(TWINNED))
        counts[slot] += 1
    assert counts.keys() == set(TWINNED.form.slots)
    assert all(abs(count - 500) < 4 * math.sqrt(2000 * 3 / 16) for count in counts.values())


@some_facts
def test_a_pair_of_a_request_with_nothing_to_mix_up_is_mixed(facts):
    kinds = Counter(build.draw_pair(Draws(seed), facts)[2] for seed in range(2000))
    shares = dict(zip(build.PAIR_KINDS, build.PAIR_SHARES))
    if facts == PLAIN:
        shares["mixed"] += shares.pop("inventing")
    assert kinds.keys() == shares.keys()
    for kind, share in shares.items():
        assert abs(kinds[kind] - 2000 * share) < 4 * math.sqrt(2000 * share * (1 - share))


# ---------------------------------------------------------------- English


def template_words() -> set[str]:
    """Every word that stands in a template or a filler."""
    texts = [requests.FRAMES, *(text for _, text in FOLLOWERS), "my", tuple(vocabulary.NUMBERS)]
    texts += [answers.GREETINGS, answers.HEADS, answers.FILLERS, answers.RUDE]
    return words_in([*texts, *((kind.asks, kind.about, kind.when) for kind in KINDS.values())])


def test_key_words_are_unique_everywhere():
    keys = [value for values in VALUES.values() for value in values] + list(KIND_OF)
    lower = Counter(key.lower() for key in keys)
    assert [key for key, count in lower.items() if count > 1] == []
    words = template_words()
    assert {"Hello", "gifts", "the", "REPLY"} <= words and "forever" not in words
    assert sorted(word for word in words if word.lower() in lower) == []
    # gold() finds words of letters only
    assert all(re.fullmatch(r"[A-Za-z]+", key) for key in keys)


def test_rudeness_and_padding_have_a_word_of_their_own():
    tables = {name: value for name, value in vars(answers).items() if name.isupper()}
    for name, word in (("RUDE", RUDE), ("FILLERS", PADDING)):
        elsewhere = [value for key, value in tables.items() if key != name]
        texts = [*elsewhere, requests.FRAMES, [text for _, text in FOLLOWERS]]
        texts += [(kind.asks, kind.about, kind.when) for kind in KINDS.values()]
        assert word in words_in(tables[name])
        assert word not in words_in(texts) | set(KIND_OF) | set(sum(VALUES.values(), ()))


@pytest.fixture(scope="module")
def samples() -> list[tuple[str, str]]:
    """Documents and answers, as a reader would meet them."""
    found = []
    for i in range(2000):
        draws, request = draw_split_request(f"English/{i}", held_out=i % 10 == 0)
        found.append((draw_document(draws, request), draw_answer(draws, request.facts)))
    return found


def test_every_article_fits_its_noun(samples):
    assert articles_that_do_not_fit(part for pair in samples for part in pair) == []


def test_sentences_are_whole_and_clean(samples):
    for document, answer in samples:
        for text in (document, answer.strip()):
            assert not re.search(
                r"[{}]|  |\.\.|,,| [.,?!:]|\bthe the\b|\ba a\b|\bmy my\b|None|:\.", text
            ), text
        assert re.match(r" [A-Z]", answer) and answer[-1] == "."
        parts = document.split("\n\n")
        for label in (part.partition(":")[0] for part in parts[1:]):
            assert re.fullmatch("REPLY|TIPS|DIARY OF [A-Z][a-z]+", label)
        for text in (*(re.sub(r"^[A-Z]{4}.*?: ", "", part) for part in parts), answer.strip()):
            for sentence in re.split(r"(?<=[.?!]) ", text):
                assert re.match(r"[A-Z]", sentence), text


def test_a_document_says_the_facts_again_in_each_part():
    for i in range(300):
        draws, request = draw_split_request(f"again/{i}", held_out=False)
        first, *rest = draw_document(draws, request).split("\n\n")
        facts = request.facts
        assert set(facts.values.values()) | {facts.number} <= words_of(first)
        for part in rest:
            judged = gold(facts, part)
            assert (judged.covered, judged.invented, judged.number) == (4, 0, True)


def test_there_are_200_words_and_many_requests(samples, root):
    said = " ".join(text for pair in samples for text in pair)
    assert len(set(re.findall(r"[a-z]+", said.lower()))) >= 200
    # one derivation a request (tested above), so requests can be counted by their choices
    number = len(requests.FRAMES) * len(vocabulary.NUMBERS)
    number *= sum(
        math.prod(len(VALUES[slot]) for slot in kind.slots) * len(kind.asks)
        for kind in KINDS.values()
    )
    page = (root / "data/WORLDS.md").read_text(encoding="utf-8")
    assert f"{number / 1e6:.1f} million requests" in page


@pytest.mark.parametrize(
    ("items", "text"),
    [(["soup"], "soup"), (["stew", "soup"], "stew and soup"), (["a", "b", "c"], "a, b and c")],
)
def test_lists_by_hand(items, text):
    assert listed(items) == text


# ---------------------------------------------------------------- facts


def test_facts_are_read_back_from_a_row():
    for seed in range(50):
        facts = draw_facts(Draws(seed))
        assert Facts(**facts.row()) == facts and len(facts.row()) == 6
