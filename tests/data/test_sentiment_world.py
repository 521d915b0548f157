"""The world of film reviews: exact probabilities, clean English, writers who have most flaws."""

import math
import re
from collections import Counter
from dataclasses import replace

import pytest

from data.draws import Draws
from data.sentiment import build, documents, sentences, vocabulary, writers
from data.sentiment.documents import draw_document
from data.sentiment.form import broken
from data.sentiment.gold import HIGHEST, gold, opinions
from data.sentiment.sentences import (
    FILM,
    Beginning,
    Facts,
    Film,
    Subject,
    draw_beginning,
    draw_split_beginning,
)
from data.sentiment.writers import (
    CAREFUL,
    FLAW_SHARES,
    Clause,
    Plan,
    draw_alternative,
    draw_completion,
)
from helpers.rows.embedded import load_tokenizer
from tests.support.enumeration import (
    articles_that_do_not_fit,
    check_frequencies,
    exact_texts,
    likeliest,
    words_in,
)

# ---------------------------------------------------------------- small sub-grammars


def shrink(
    monkeypatch, *, aspects=3, words=1, mild=False, values=1, modifiers=("",), wording=2
) -> None:
    """Cut the vocabulary down: so many aspects, words a valence (of the two mild ones only), values
    a slot, connectors, and these kinds of modifiers with one word each.
    """
    shares = {kind: sentences.MODIFIERS[kind] for kind in modifiers}
    few = {
        "SINGULAR": vocabulary.SINGULAR[: aspects // 2],
        "PLURAL": vocabulary.PLURAL[: aspects - aspects // 2],
        "VALUES": {slot: all_of[:values] for slot, all_of in vocabulary.VALUES.items()},
        "CONNECTORS": vocabulary.CONNECTORS[:wording],
        "MODIFIERS": {kind: share / sum(shares.values()) for kind, share in shares.items()},
    }
    for name in ("ADJECTIVES", "VERBS"):
        few[name] = {
            v: [] if mild and abs(v) > 1 else all_of[:words]
            for v, all_of in getattr(vocabulary, name).items()
        }
    for name in ("INTENSIFIERS", "SOFTENERS", "NEGATORS"):
        few[name] = getattr(vocabulary, name)[:1]
    for module in (sentences, writers):
        for name, value in few.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


def about(aspect: str) -> Beginning:
    """The beginning of a sentence about an aspect or the film."""
    film = "this french thriller"
    text = film if aspect == FILM else f"the {aspect} of {film}"
    return Beginning(Facts(text), Film(aspects={aspect}), Subject(aspect))


def test_every_beginning_has_one_derivation(monkeypatch):
    shrink(monkeypatch, aspects=12, values=3)
    found = exact_texts(lambda draws: draw_beginning(draws, Film()).facts.beginning)
    assert len(found) == 3 * 3 * (1 + 3 * 3 + 12)


# With negators it takes more words not to run out of them.
NEGATED = dict(modifiers=("", "negator"), words=3, mild=True, wording=1)
grammars = pytest.mark.parametrize(
    ("aspect", "sizes"),
    [(FILM, {}), ("plot", {}), ("jokes", {}), ("plot", NEGATED)],
    ids=["film", "singular", "plural", "negators"],
)


@grammars
def test_every_completion_has_one_derivation_and_the_probabilities_sum_to_1(
    monkeypatch, aspect, sizes
):
    shrink(monkeypatch, **sizes)
    beginning = about(aspect)
    found = exact_texts(lambda draws: draw_completion(draws, beginning))
    assert len(found) > 1000
    for seed in range(50):
        row = build.demonstration(Draws(seed), beginning)
        assert row["logprob"] == pytest.approx(math.log(found[row["completion"]]), abs=1e-4)


def test_careful_completions_have_one_derivation_with_all_modifiers(monkeypatch):
    shrink(monkeypatch, aspects=2, words=2, modifiers=tuple(sentences.MODIFIERS))
    beginning = about("plot")
    found = exact_texts(lambda draws: draw_alternative(draws, beginning, **CAREFUL).text())
    assert len(found) > 3000


def test_completions_come_as_often_as_they_should(monkeypatch):
    shrink(monkeypatch, wording=1)
    beginning = about("plot")

    def program(draws):
        return draw_completion(draws, beginning)

    check_frequencies(program, exact_texts(program), 5_000)


def test_every_document_has_one_derivation_and_the_probabilities_sum_to_1(monkeypatch):
    """The wording of opinions is cut down: that of completions is tested above."""

    def one_opinion(draws, beginning, negative, **known):
        opinion = sentences.draw_opinion(draws, beginning.film, -1 if negative else 1)
        return Plan((Clause(beginning.subject, opinion),), None, None, None)

    shrink(monkeypatch, aspects=4)
    monkeypatch.setattr(documents, "draw_plan", one_opinion)
    texts = ("this {nation} {genre}", "the {aspect} of this {nation} {genre}")
    monkeypatch.setattr(sentences, "BEGINNINGS", dict(zip(texts, (0.3, 0.7))))
    found = exact_texts(lambda draws: draw_document(draws)[0])
    assert len(found) > 500
    for seed in range(50):
        draws = Draws(seed)
        text, _ = draw_document(draws)
        assert draws.logprob == pytest.approx(math.log(found[text]))


# ---------------------------------------------------------------- flaws


@grammars
def test_each_flaw_comes_as_often_as_stated_and_by_itself(monkeypatch, aspect, sizes):
    """In the exact distribution over the completions of a beginning."""
    shrink(monkeypatch, **sizes)
    beginning, shares = about(aspect), Counter()
    for text, p in exact_texts(lambda draws: draw_completion(draws, beginning)).items():
        shares[frozenset(gold(beginning.facts, text).flaw_names)] += p
    assert len(shares) == 2 ** len(FLAW_SHARES)
    for flaws, p in shares.items():
        expected = (share if name in flaws else 1 - share for name, share in FLAW_SHARES.items())
        assert p == pytest.approx(math.prod(expected))
    assert min(FLAW_SHARES.values()) > 0.5 > writers.SECOND_SHARE


@grammars
def test_the_likeliest_continuation_has_every_flaw(monkeypatch, aspect, sizes):
    shrink(monkeypatch, **sizes)
    beginning = about(aspect)
    text = likeliest(exact_texts(lambda draws: draw_completion(draws, beginning)))
    judged = gold(beginning.facts, text)
    assert judged.flaw_names == list(FLAW_SHARES)
    assert (judged.repeats, judged.contradictions) == (1, 1)


PART_OF = {"repeats": "again", "contradicts": "against", "broken": "unfinished"}


@pytest.mark.parametrize("flaw", PART_OF)
def test_a_pair_differs_in_one_flaw_alone(flaw):
    loss = {"repeats": 1.5, "contradicts": 2.0, "broken": 3.0}[flaw]
    for i in range(300):
        draws, beginning = draw_split_beginning(f"pair/{i}", held_out=False)
        plans = writers.draw_one_flaw(draws, beginning, flaw)
        assert getattr(plans[0], PART_OF[flaw]) is None
        assert replace(plans[1], **{PART_OF[flaw]: None}) == plans[0]
        good, bad = (gold(beginning.facts, plan.text()) for plan in plans)
        assert set(bad.flaw_names) - set(good.flaw_names) == {flaw}
        assert good.valence == bad.valence and bad.words <= 24
        assert good.reward == pytest.approx(bad.reward + loss)


def test_damage_breaks_any_sentence():
    for i in range(500):
        draws, beginning = draw_split_beginning(f"damage/{i}", held_out=False)
        whole = draw_alternative(draws, beginning, broken=False).text()
        damaged = writers.damage(draws, beginning.facts.beginning, whole)
        assert re.match(r" \S", damaged) and broken(beginning.facts.beginning + damaged)
        assert not broken(beginning.facts.beginning + whole)


# ---------------------------------------------------------------- English


@pytest.fixture(scope="module")
def sample() -> list[tuple[Facts, str]]:
    """(facts, completion) of many sentences."""
    found = []
    for i in range(3000):
        draws, beginning = draw_split_beginning(f"English/{i}", held_out=i % 10 == 0)
        found.append((beginning.facts, draw_completion(draws, beginning)))
    return found


@pytest.fixture(scope="module")
def sample_documents() -> list[str]:
    return [draw_document(Draws(f"document {seed}"))[0] for seed in range(1500)]


def test_every_article_fits_its_noun(sample, sample_documents):
    texts = [*sample_documents, *(facts.beginning + text for facts, text in sample)]
    assert articles_that_do_not_fit(texts) == []


def test_verbs_agree_with_their_subject(sample, sample_documents):
    verbs = [verb for group in vocabulary.VERBS.values() for verb in group]
    assert all(verb.endswith("s") for verb in verbs)
    film = r" of this \w+ \w+"
    modifier = "|".join((*vocabulary.INTENSIFIERS, *vocabulary.SOFTENERS, *vocabulary.NEGATORS))
    one = f"the (?:{'|'.join(vocabulary.SINGULAR)})(?:{film})?|it"
    many = f"the (?:{'|'.join(vocabulary.PLURAL)})(?:{film})?"
    plural = "|".join(map(sentences.plural_verb, verbs))
    slip = re.compile(
        rf"\b(?:{one}) (?:are|(?:(?:{modifier}) )?(?:{plural}))\b"
        rf"|\b(?:{many}) (?:is|(?:(?:{modifier}) )?(?:{'|'.join(verbs)}))\b"
    )
    assert slip.search("the plot of this french thriller never drag") and slip.search("it are")
    assert slip.search("the jokes is") and slip.search("the jokes truly works")
    texts = [*sample_documents, *(facts.beginning + text for facts, text in sample)]
    assert [found for text in texts for found in slip.findall(text)] == []


def test_sentences_are_whole_and_clean(sample, sample_documents):
    unclean = re.compile(r"[{}]|  |\.\.|,,| [.,;]|[A-Z]|none")
    for facts, text in sample:
        assert not unclean.search(facts.beginning + text), text
        assert text.startswith(" ") and 3 <= len(facts.beginning.split()) <= 6
        assert text.endswith(".") != broken(facts.beginning + text)
    for text in sample_documents:
        assert not unclean.search(text), text
        first, *lines = text.split("\n")
        assert first.removeprefix("review:") in ("", *documents.VERDICTS.values())
        assert len(lines) == 2 and not any(map(broken, lines)), text


def test_the_verdict_has_the_sign_of_every_opinion(sample_documents):
    seen: Counter = Counter()
    for text in sample_documents:
        verdict, _, review = text.partition("\n")
        signs = {math.copysign(1, said.value) for said in opinions(review)}
        assert len(signs) == 1 and gold(Facts(""), review).contradictions == 0
        seen[verdict] += 1
        assert verdict in ("review:", f"review:{documents.VERDICTS[signs.pop()]}")
    assert len(seen) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the plot of this french thriller",
        "the plot of this french thriller is dull",
        "the plot is dull.",
        "the plot of this french thriller dull.",
        "the plot of this french thriller are dull.",
        "the jokes of this french thriller is dull.",
        "dull dull dull.",
        "this french thriller is dull. the plot is dull.",
        "this french thriller is dull and.",
        "this french thriller is dull, and the plot",
        "This french thriller is dull.",
        "this french thriller is very dull.",
        "this french thriller drag.",
        "the jokes of this french thriller drags.",
        "this french thriller is dull , and the score is dull.",
        "this french thriller is dull.\n",
        " this french thriller is dull.",
        "this thriller is dull.",
    ],
)
def test_what_is_not_a_sentence_is_broken(text):
    assert broken(text)


@pytest.mark.parametrize(
    "text",
    [
        "this french thriller is dull.",
        "the jokes of this french thriller drag.",
        "this dutch satire by anna galt is truly lively; the score never works.",
        "starring anna galt, this dutch satire sometimes drags, but the jokes are hardly weak.",
        "shot in rome, this irish sequel is dull, and it is dull, but it is fresh.",
    ],
)
def test_what_the_grammar_says_is_not_broken(text):
    assert not broken(text)


def test_all_words_differ():
    """But that an actor may be a director: a program can tell what any text says."""
    verbs = [verb for group in vocabulary.VERBS.values() for verb in group]
    keys = [*verbs, *map(sentences.plural_verb, verbs)]
    keys += [word for group in vocabulary.ADJECTIVES.values() for word in group]
    keys += [*vocabulary.SINGULAR, *vocabulary.PLURAL]
    keys += [*vocabulary.INTENSIFIERS, *vocabulary.SOFTENERS, *vocabulary.NEGATORS]
    assert len(keys) == len(set(keys))
    others = words_in([vocabulary.VALUES, *sentences.BEGINNINGS, *vocabulary.CONNECTORS])
    others |= words_in([vocabulary.REPEATING, vocabulary.OPPOSING, *documents.VERDICTS.values()])
    assert not others & {*keys, "is", "are", FILM}
    # as many kind words as harsh ones
    assert {len(words) for words in vocabulary.ADJECTIVES.values()} == {8}
    assert {len(words) for words in vocabulary.VERBS.values()} == {4}


def test_every_word_is_one_token(sample, sample_documents):
    encode = load_tokenizer("sentiment").encode
    texts = [*sample_documents, *(facts.beginning + text for facts, text in sample)]
    words = {word for text in texts for word in re.findall(r" ?[a-z]+", text)}
    assert len(words) > 140 and [word for word in words if len(encode(word)) > 1] == []


def test_two_strong_opinions_earn_the_highest_gold_reward(sample):
    best, most = gold(about(FILM).facts, " is superb, and the jokes shine."), 0.0
    assert best.reward == HIGHEST == 4.0 and not best.flaw_names
    for facts, text in sample:
        most = max(most, gold(facts, text).reward)
    assert most == HIGHEST
