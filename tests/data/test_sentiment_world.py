"""The world of film reviews: exact probabilities, clean English, writers who say what they mean."""

import math
import re
from collections import Counter
from dataclasses import replace

import pytest

from data.draws import Draws
from data.sentiment import build, documents, sentences, vocabulary, writers
from data.sentiment.documents import draw_document
from data.sentiment.form import broken
from data.sentiment.gold import gold, opinions, positive_probability
from data.sentiment.sentences import BEGINNINGS, Facts, Film, draw_beginning, draw_split_beginning
from data.sentiment.writers import FLAW_OF, WRITERS, draw_completion
from tests.support.enumeration import check_frequencies, exact_texts, words_in

# ---------------------------------------------------------------- small sub-grammars


def shrink(
    monkeypatch, *, aspects=4, phrases=2, values=1, modifiers=1, wording=1, beginnings=None
) -> None:
    """Cut the vocabulary down: so many aspects, phrases a valence (of the two mild ones only),
    values a slot, ...
    """
    adjectives = {
        v: words[:phrases] if abs(v) == 1 else [] for v, words in vocabulary.ADJECTIVES.items()
    }
    verbs = {v: words[:phrases] if abs(v) == 1 else () for v, words in vocabulary.VERBS.items()}
    few = {
        "SINGULAR": vocabulary.SINGULAR[: aspects // 2],
        "PLURAL": vocabulary.PLURAL[: aspects - aspects // 2],
        "ADJECTIVES": adjectives,
        "VERBS": verbs,
        "NOUNS": vocabulary.NOUNS[:wording],
        "TAILS": vocabulary.TAILS[:wording],
        "CONNECTORS": vocabulary.CONNECTORS[:wording],
        "CONTRASTS": vocabulary.CONTRASTS[:wording],
        "VALUES": {slot: all_of[:values] for slot, all_of in vocabulary.VALUES.items()},
        "FILM_FACTS": dict(list(vocabulary.FILM_FACTS.items())[:2]),
        "ASPECT_FACTS": {
            slot: (*forms, all_of[:values])
            for slot, (*forms, all_of) in vocabulary.ASPECT_FACTS.items()
        },
    }
    for name in ("INTENSIFIERS", "SOFTENERS", "NEGATORS"):
        few[name] = {form: words[:modifiers] for form, words in getattr(vocabulary, name).items()}
    if not modifiers:
        few["MODIFIERS"] = {"none": 1.0}
    if beginnings:
        few["BEGINNINGS"] = dict(
            zip(beginnings, sentences.normalised([BEGINNINGS[text] for text in beginnings]))
        )
    for module in (sentences, writers):
        for name, value in few.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


def beginning_like(template: str):
    """A beginning made from a template of the full grammar."""
    pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[a-z0-9 ]+", re.escape(template)))
    for seed in range(3000):
        beginning = draw_beginning(Draws(f"begin {seed}"), Film())
        if pattern.fullmatch(beginning.facts.beginning):
            return beginning
    raise AssertionError(template)


def test_every_beginning_has_one_derivation(monkeypatch):
    shrink(monkeypatch, values=2, modifiers=2)
    found = exact_texts(lambda draws: draw_beginning(draws, Film()).facts.beginning)
    assert len(found) > 100


TEMPLATES = [
    "this {genre}",
    "the {aspect}",
    "shot in {place}, this {genre}",
    "the {aspect} of this {nation} {genre}",
    "although {opinion},",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_completion_has_one_derivation_whoever_writes_it(monkeypatch, template):
    beginning = beginning_like(template)
    shrink(monkeypatch, aspects=5, phrases=2, modifiers=0)
    monkeypatch.setattr(writers, "OPINIONS", {1: 0.4, 2: 0.6})
    monkeypatch.setattr(writers, "ENDINGS", {"none": 0.8, "tail": 0.2})
    film = Film(beginning.film.values, {*beginning.film.aspects, "plot", "jokes"})
    beginning = replace(beginning, film=film)
    found = exact_texts(lambda draws: draw_completion(draws, beginning)[0])
    assert len(found) > 100
    for seed in range(30):
        row = build.demonstration(Draws(seed), beginning)
        assert row["logprob"] == pytest.approx(math.log(found[row["completion"]]), abs=1e-4)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_has_one_derivation_with_all_modifiers(monkeypatch, writer):
    shrink(monkeypatch, aspects=3, phrases=2)
    monkeypatch.setattr(writers, "OPINIONS", {1: 0.5, 2: 0.5})
    monkeypatch.setattr(writers, "FEW", {1: 1.0})
    beginning = sentences.Beginning(Facts("this thriller"), Film(), sentences.Subject("film"))
    assert exact_texts(lambda draws: draw_completion(draws, beginning, (writer,))[0])


def test_completions_come_as_often_as_they_should(monkeypatch):
    shrink(monkeypatch, aspects=2, phrases=1, modifiers=0)
    monkeypatch.setattr(writers, "OPINIONS", {1: 1.0})
    monkeypatch.setattr(writers, "FEW", {1: 1.0})
    film, subject = Film(aspects={"plot"}), sentences.Subject("plot")
    beginning = sentences.Beginning(Facts("the plot"), film, subject)

    def program(draws):
        return draw_completion(draws, beginning)[0]

    check_frequencies(program, exact_texts(program), 5_000)


@pytest.mark.parametrize("kind", documents.KINDS)
def test_every_document_has_one_derivation(monkeypatch, kind):
    beginnings = ["this {genre}", "the {aspect}"]
    shrink(monkeypatch, aspects=4, phrases=2, modifiers=0, beginnings=beginnings)
    monkeypatch.setattr(writers, "OPINIONS", {1: 1.0})
    monkeypatch.setattr(writers, "ENDINGS", {"none": 0.8, "fact": 0.2})
    monkeypatch.setattr(documents, "KINDS", {kind: 1.0})
    numbers = {"news": documents.SENTENCES["news"], "questions": (1,)}.get(kind, (2,))
    monkeypatch.setattr(documents, "SENTENCES", {kind: numbers})
    monkeypatch.setattr(documents, "VERDICTS", {True: ("see it.",), False: ("skip it.",)})
    if kind == "review":
        monkeypatch.setattr(sentences, "PREDICATES", {"adjective": 1.0})
        monkeypatch.setattr(writers, "ENDINGS", {"none": 1.0})
        monkeypatch.setattr(writers, "predicates", lambda subject: ("adjective",))
    assert len(exact_texts(lambda draws: draw_document(draws)[0])) > 50


def test_a_verdict_is_as_positive_as_the_review():
    seen = Counter()
    for seed in range(4000):
        text, _ = draw_document(Draws(f"verdict {seed}"))
        review, _, verdict = text.partition("\nverdict: ")
        if verdict:
            seen["expected"] += positive_probability(review)
            seen["noise"] += positive_probability(review) * (1 - positive_probability(review))
            seen["positive"] += verdict in documents.VERDICTS[True]
    assert seen["noise"] > 50
    assert abs(seen["positive"] - seen["expected"]) < 4 * math.sqrt(seen["noise"])


# ---------------------------------------------------------------- English


@pytest.fixture(scope="module")
def sample() -> list[tuple[Facts, str, str]]:
    """(facts, completion, writer) of many sentences."""
    found = []
    for i in range(3000):
        draws, beginning = draw_split_beginning(f"English/{i}", held_out=i % 10 == 0)
        found.append((beginning.facts, *draw_completion(draws, beginning)))
    return found


@pytest.fixture(scope="module")
def sample_documents() -> list[str]:
    return [draw_document(Draws(f"document {seed}"))[0] for seed in range(1500)]


def test_every_article_fits_its_noun(sample, sample_documents):
    texts = [*sample_documents, *(facts.beginning + text for facts, text, _ in sample)]
    slip = re.compile(r"\ba [aeiou]\w*|\ban [^aeiou]\w*")
    assert [found for text in texts for found in slip.findall(text)] == []
    words = {*vocabulary.FATES, *vocabulary.TRADES, *words_in(vocabulary.ADJECTIVES)}
    for table in (vocabulary.INTENSIFIERS, vocabulary.SOFTENERS):
        words |= {*table["adjective"]}
    # sound as they are spelled
    assert not [word for word in words if re.match(r"hour|hon|heir|uni|us|eu|one", word)]


def test_verbs_agree_with_their_subject(sample, sample_documents):
    plural, singular = "|".join(vocabulary.PLURAL), "|".join(vocabulary.SINGULAR)
    slip = re.compile(
        rf"\bthe (?:{plural}) (?:is|comes)\b|\b(?:(?:the (?:{singular}))|it) (?:are|come)\b"
    )
    texts = [text.split("\nquestion")[0] for text in sample_documents]
    texts += [facts.beginning + text for facts, text, _ in sample]
    assert [found for text in texts for found in slip.findall(text)] == []
    verbs = [phrase for group in vocabulary.VERBS.values() for phrase in group]
    assert all(verb.split()[0].endswith("s") and " its " not in verb for verb in verbs)


def test_sentences_are_whole_and_clean(sample, sample_documents):
    for facts, text, writer in sample:
        assert not re.search(r"[{}]|  |\.\.|,,| [.,;]|[A-Z]|none", facts.beginning + text), text
        assert text.startswith(" ") and text.endswith(".") == (writer != "hasty")
        assert 2 <= len(facts.beginning.split()) <= 7
    for text in sample_documents:
        assert not re.search(r"[{}]|  |\.\.|,,| [.,;]|[A-Z]|none", text), text


def test_only_the_hasty_break_the_grammar(sample, sample_documents):
    for facts, text, writer in sample:
        assert broken(facts.beginning + text) == (writer == "hasty"), facts.beginning + text
    for text in sample_documents:
        said = re.sub(r"^film(?: news)?: |\n.*", "", text, flags=re.DOTALL)
        assert not [one for one in re.findall(r"[^.]+\.", said) if broken(one.strip())]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the plot",
        "the plot is dull",
        "the plot dull.",
        "the plot are dull.",
        "the jokes is dull.",
        "dull dull dull.",
        "the plot is dull. the plot is dull.",
        "the plot is a dull film.",
        "this thriller is a amusing film.",
        "the plot is dull and.",
        "The plot is dull.",
        "the plot is very dull.",
        "although the plot is dull.",
        "the plot drag on.",
        "the jokes drags on.",
        "this thriller are dull.",
        "the plot is dull , and the score is dull.",
        "the plot is dull.\n",
        " the plot is dull.",
        "despite its never dull plot, the score is weak.",
    ],
)
def test_what_is_not_a_sentence_is_broken(text):
    assert broken(text)


@pytest.mark.parametrize(
    "text",
    [
        "the plot is dull.",
        "the jokes drag on.",
        "this thriller is an utterly amusing film from start to finish.",
        "despite its dull jokes, this french thriller is never dull; the score wins you over, and "
        "it stars anna galt.",
        "although the jokes never drag on, the plot is dull.",
        "the plot is dull, and the plot is dull, but it is fresh.",
        "at 90 minutes, this farce tells of an old baker, and it opens in may.",
        "the sets took six months.",
    ],
)
def test_what_the_grammar_says_is_not_broken(text):
    assert not broken(text)


def test_phrases_and_aspects_occur_nowhere_else():
    verbs = [phrase for group in vocabulary.VERBS.values() for phrase in group]
    phrases = [*verbs, *map(sentences.plural_verb, verbs)]
    phrases += [word for group in vocabulary.ADJECTIVES.values() for word in group]
    keys = [*phrases, *vocabulary.SINGULAR, *vocabulary.PLURAL]
    assert len(keys) == len(set(keys))
    others = [*vocabulary.TAILS, *vocabulary.NOUNS, *vocabulary.CONCEDERS]
    others += vocabulary.FILM_FACTS.values()
    others += [form for *forms, _ in vocabulary.ASPECT_FACTS.values() for form in forms]
    others += [value for values in vocabulary.VALUES.values() for value in values]
    for table in (vocabulary.INTENSIFIERS, vocabulary.SOFTENERS, vocabulary.NEGATORS):
        others += [word for words in table.values() for word in words]
    for key in keys:
        whole = re.compile(rf"\b{re.escape(key)}\b")
        inside = [text for text in [*phrases, *others] if text != key and whole.search(text)]
        assert [text for text in inside if text not in BEGINNINGS] == [], key
    # as many kind words as harsh ones
    assert {len(words) for words in vocabulary.ADJECTIVES.values()} == {16}
    assert {len(words) for words in vocabulary.VERBS.values()} == {10}


def test_there_are_400_words_and_a_billion_sentences(sample):
    words = {
        word for facts, text, _ in sample for word in re.findall(r"[a-z]+", facts.beginning + text)
    }
    assert len(words) >= 400
    # one derivation a sentence (tested above), so sentences can be counted by their choices; a
    # lower bound: a film of a country, and two adjectives without a modifier, on two aspects
    films = len(vocabulary.VALUES["nation"]) * len(vocabulary.VALUES["genre"])
    aspects = len(vocabulary.SINGULAR) + len(vocabulary.PLURAL)
    pairs = 2 * 32 * 31 * len(vocabulary.CONNECTORS)
    assert films * aspects * (aspects - 1) * pairs >= 1e9


def test_writers_say_what_they_mean(sample):
    """The reader finds the opinions that the writers put in: their signs, and no others."""
    for facts, text, writer in sample:
        values = [said.value for said in opinions(text)]
        if writer in ("warm", "cold"):
            assert values and all((value > 0) == (writer == "warm") for value in values)
        assert (writer == "neutral") <= (not values)
        if writer == "balanced":
            assert len(values) == 2 and values[0] * values[1] < 0
        assert len(opinions(facts.beginning)) == facts.beginning.startswith(("although", "despite"))


def test_every_writer_makes_its_flaw_and_no_other(sample):
    for facts, text, writer in sample:
        flaws = {name for name, there in gold(facts, text).flaws.items() if there}
        assert flaws == ({FLAW_OF[writer]} if writer in FLAW_OF else set()), facts.beginning + text
