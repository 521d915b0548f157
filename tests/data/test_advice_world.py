"""The world of requests and answers: exact probabilities, clean English, facts that are held
out.
"""

import math
import re
from collections import Counter

import pytest

from data.advice import answers, build, requests, threads, vocabulary
from data.advice.answers import WRITERS, draw_answer
from data.advice.kinds import KINDS
from data.advice.requests import Facts, draw_facts, draw_request, draw_split_request, listed
from data.advice.threads import FOLLOWERS, draw_document
from data.draws import Draws
from tests.support.enumeration import (
    articles_that_do_not_fit,
    check_frequencies,
    exact_texts,
    words_in,
)

GIFT = Facts("gift", "Anna", "three", "plain", who="uncle", event="wedding", hobby="chess")
PET = Facts("pet", "Boris", "two", "numbered", trait="shy", color="gray", animal="parrot")


# ---------------------------------------------------------------- small sub-grammars


def few(monkeypatch, module, number: int, *names: str) -> None:
    """Cut these sequences of a module down to their first `number` members."""
    for name in names:
        monkeypatch.setattr(module, name, getattr(module, name)[:number])


def few_values(monkeypatch, number: int) -> None:
    """Cut every slot down to what is true of GIFT and PET and `number` values more."""
    true = {*GIFT.values.values(), *PET.values.values()}
    values = {
        slot: (*sorted(true & set(words)), *[word for word in words if word not in true][:number])
        for slot, words in vocabulary.VALUES.items()
    }
    monkeypatch.setattr(requests, "VALUES", values)
    monkeypatch.setattr(threads, "VALUES", values)


def few_items(monkeypatch, number: int) -> None:
    monkeypatch.setattr(
        requests, "ITEMS", {kind: items[:number] for kind, items in vocabulary.ITEMS.items()}
    )


def request_text(draws: Draws) -> str:
    return draw_request(draws, draw_facts(draws)).text


def check_logprobs(found: dict[str, float]) -> None:
    """What a drawn request carries as its log-probability is its exact one."""
    for seed in range(50):
        draws = Draws(seed)
        request = draw_request(draws, draw_facts(draws))
        assert math.exp(request.logprob) == pytest.approx(found[request.text])


def test_requests_of_all_kinds_and_wordings_have_one_derivation(monkeypatch):
    values = {slot: words[:1] for slot, words in vocabulary.VALUES.items()}
    monkeypatch.setattr(requests, "VALUES", values)
    found = exact_texts(request_text)
    # number, form, ask, context, wish, frame
    assert len(found) == len(KINDS) * 3 * 2 * 3 * 3 * 2 * 6
    check_logprobs(found)


@pytest.mark.parametrize("kind", KINDS)
def test_requests_with_several_values_a_slot_have_one_derivation(monkeypatch, kind):
    monkeypatch.setattr(
        requests, "VALUES", {slot: words[:3] for slot, words in vocabulary.VALUES.items()}
    )
    monkeypatch.setattr(requests, "KINDS", {kind: KINDS[kind]})
    few(monkeypatch, requests, 2, "FRAMES")
    few(monkeypatch, requests, 1, "CONTEXTS")
    found = exact_texts(request_text)
    assert len(found) == 3**4 * 3 * 2 * 3 * 2 * 2  # slots, number, form, ask, wish, frame
    check_logprobs(found)


@pytest.mark.parametrize("facts", [GIFT, PET])
@pytest.mark.parametrize("writer", [*WRITERS, "all"])
def test_every_answer_has_one_derivation_and_the_probabilities_sum_to_1(monkeypatch, writer, facts):
    few(monkeypatch, answers, 2, "GREETINGS", "HEADS", "CLOSINGS")
    few(monkeypatch, answers, 3, "FILLERS")
    few_values(monkeypatch, 2)
    few_items(monkeypatch, 4)
    monkeypatch.setattr(answers, "LONGEST", 4)
    if writer != "all":
        monkeypatch.setattr(answers, "WRITERS", (writer,))
        monkeypatch.setattr(answers, "WRITER_SHARES", (1.0,))
    found = exact_texts(lambda draws: draw_answer(draws, facts)[0])
    for seed in range(50):
        draws = Draws(seed)
        row = build.demonstration(draws, draw_request(draws, facts))
        assert row["logprob"] == pytest.approx(math.log(found[row["completion"]]), abs=1e-4)


@pytest.mark.parametrize(("numbers", "wording"), [((1,), 9), ((1, 2), 1)])
@pytest.mark.parametrize("facts", [GIFT, PET])
def test_every_document_has_one_derivation_and_the_probabilities_sum_to_1(
    monkeypatch, facts, numbers, wording
):
    request = draw_request(Draws(0), facts)
    monkeypatch.setattr(threads, "NUMBERS_OF_FOLLOWERS", numbers)
    few_values(monkeypatch, 2)
    few_items(monkeypatch, 4 if wording > 1 else 3)
    cut = {
        label: (share, your, templates[:wording])
        for label, (share, your, templates) in FOLLOWERS.items()
    }
    monkeypatch.setattr(threads, "FOLLOWERS", cut)
    found = exact_texts(lambda draws: draw_document(draws, request))
    assert all(text.startswith(f"REQUEST: {request.text}" + "\n\n") for text in found)
    for seed in range(50):
        row = build.document(Draws(seed), request)
        assert row["logprob"] == pytest.approx(math.log(found[row["text"]]), abs=1e-4)


def test_answers_come_as_often_as_they_should(monkeypatch):
    few(monkeypatch, answers, 1, "GREETINGS", "HEADS", "CLOSINGS")
    few(monkeypatch, answers, 2, "FILLERS")
    few_values(monkeypatch, 1)
    few_items(monkeypatch, 3)
    monkeypatch.setattr(answers, "LONGEST", 3)

    def program(draws):
        return draw_answer(draws, PET)[0]

    check_frequencies(program, exact_texts(program), 10_000)


# ---------------------------------------------------------------- English


def template_words() -> set[str]:
    """Every word that stands in a template, a filler, or a phrase beside its key word."""
    texts = [requests.FRAMES, requests.CONTEXTS, requests.FORM_WISHES, FOLLOWERS]
    texts += [answers.GREETINGS, answers.HEADS, answers.REFUSED_HEAD, answers.CLOSINGS]
    texts += [answers.FILLERS, tuple(vocabulary.NUMBERS)]
    texts += [(kind.noun, kind.asks, kind.said) for kind in KINDS.values()]
    for phrases in vocabulary.ITEMS.values():
        texts += [phrase.rpartition(" ")[0] for phrase in phrases]
    for sentences in (answers.RUDE, answers.EVASIVE):
        texts += [sentence.replace(key, "") for key, sentence in sentences.items()]
    return words_in(texts)


def test_key_words_are_unique_everywhere():
    keys = [value for values in vocabulary.VALUES.values() for value in values]
    keys += [phrase.split()[-1] for phrases in vocabulary.ITEMS.values() for phrase in phrases]
    keys += [*answers.RUDE, *answers.EVASIVE]
    lower = Counter(key.lower() for key in keys)
    assert [key for key, count in lower.items() if count > 1] == []
    words = template_words()
    assert {"Hello", "gifts", "the", "REPLY"} <= words and "forever" not in words
    assert sorted(word for word in words if word.lower() in lower) == []
    # gold() finds words of letters only
    assert all(re.fullmatch(r"[A-Za-z]+", key) for key in keys)
    for sentences in (answers.RUDE, answers.EVASIVE):
        assert all(key in re.findall(r"\w+", sentence) for key, sentence in sentences.items())


@pytest.fixture(scope="module")
def samples() -> list[tuple[str, str]]:
    """Documents and answers, as a reader would meet them."""
    found = []
    for i in range(2000):
        draws, request = draw_split_request(f"English/{i}", held_out=i % 10 == 0)
        found.append((draw_document(draws, request), draw_answer(draws, request.facts)[0]))
    return found


def test_every_article_fits_its_noun(samples):
    assert articles_that_do_not_fit(part for pair in samples for part in pair) == []


def test_sentences_are_whole_and_clean(samples):
    for document, answer in samples:
        for text in (document, answer.strip()):
            assert not re.search(
                r"[{}]|  |\.\.|,,| [.,?!:]|\bthe the\b|\ba a\b|\bmy my\b|None|:\.", text
            ), text
        assert re.match(r" [A-Z]", answer) and answer[-1] in ".!"
        parts = document.split("\n\n")
        for label in (part.partition(":")[0] for part in parts[1:]):
            assert re.fullmatch("REPLY|LETTER|TIPS|DIARY OF [A-Z][a-z]+", label)
        for text in (*(re.sub(r"^[A-Z]{4}.*?: ", "", part) for part in parts), answer.strip()):
            for sentence in re.split(r"(?<=[.?!]) (?<!\d\. )", text):
                assert re.match(r"[A-Z]", sentence), text


def test_a_document_says_the_facts_again_in_each_part():
    for i in range(300):
        draws, request = draw_split_request(f"again/{i}", held_out=False)
        for part in draw_document(draws, request).split("\n\n"):
            said = set(re.findall(r"[A-Za-z]+", part))
            assert set(request.facts.values.values()) | {request.facts.number} <= said


def test_there_are_500_words_and_a_billion_requests(samples, root):
    said = " ".join(text for pair in samples for text in pair)
    assert len(set(re.findall(r"[a-z]+", said.lower()))) >= 500
    # one derivation a request (tested above), so requests can be counted by their choices
    wishes = sum(map(len, requests.FORM_WISHES.values()))
    number = len(requests.CONTEXTS) * len(requests.FRAMES) * wishes * len(vocabulary.NUMBERS)
    number *= sum(
        math.prod(len(vocabulary.VALUES[slot]) for slot in ("name", *kind.slots)) * len(kind.asks)
        for kind in KINDS.values()
    )
    page = (root / "data/WORLDS.md").read_text(encoding="utf-8")
    assert number >= 1e9 and f"{number / 1e9:.1f} billion requests" in page


@pytest.mark.parametrize(
    ("items", "plain", "numbered"),
    [
        (["a hat"], "a hat", "1. a hat"),
        (["a hat", "soup"], "a hat and soup", "1. a hat 2. soup"),
        (["a", "b", "c"], "a, b and c", "1. a 2. b 3. c"),
    ],
)
def test_lists_by_hand(items, plain, numbered):
    assert (listed(items, "plain"), listed(items, "numbered")) == (plain, numbered)


# ---------------------------------------------------------------- facts


def test_wrong_facts_are_wrong_in_one_slot_only():
    for seed in range(300):
        draws = Draws(seed)
        facts = draw_facts(draws)
        slot = draws.pick(facts.slots)
        changed = facts.wrong(slot, draws)
        differs = {name for name, value in vars(changed).items() if value != getattr(facts, name)}
        assert differs == {slot} and getattr(changed, slot) in vocabulary.VALUES[slot]


def test_facts_are_read_back_from_a_row():
    for seed in range(50):
        facts = draw_facts(Draws(seed))
        assert Facts(**facts.row()) == facts and len(facts.row()) == 7
