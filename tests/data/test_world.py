"""The embedded world: exact probabilities, clean English, facts that are held out."""

import math
import re
from collections import Counter
from dataclasses import replace

import pytest

from data.draws import Draws
from data.tldr import build, posts, summaries, threads, vocabulary
from data.tldr.gold import PADDING, gold
from data.tldr.posts import Facts, Post, draw_facts, draw_post, draw_split_post
from data.tldr.summaries import DETAIL_SHARE, DETAILS, FLAW_SHARES, OPTIONS, draw_summary
from data.tldr.threads import FOLLOWERS, SHARES, draw_document
from data.tldr.vocabulary import TWINS
from tests.support.enumeration import (
    articles_that_do_not_fit,
    check_frequencies,
    exact_texts,
    likeliest,
    words_in,
)
from tests.support.mixed_up import PLAIN, confusable_in, shares_of_confusable_fields

FACTS = Facts("sister", "hiding", "lamp", "May", "Boston", "note", "away", "police")
MAIN = ("who", "deed", "thing")

# Which fields of a post have values that writers mix up: each kind of field, some, all.
several_facts = pytest.mark.parametrize(
    "fields",
    [(), ("deed",), ("place",), ("other",), tuple(DETAILS), OPTIONS, tuple(vars(PLAIN))],
    ids=lambda fields: "-".join(fields) or "none",
)


# ---------------------------------------------------------------- the engine


def test_enumeration_knows_a_program_worked_out_by_hand():
    def program(draws):
        if draws.flip(0.25):
            return draws.pick("ab")
        return "".join(draws.shuffle("cd")) + draws.pick("xyz", (0.5, 0.3, 0.2))

    found = exact_texts(program)
    by_hand = {"a": 0.125, "b": 0.125}
    by_hand |= {
        order + end: 0.375 * p for order in ("cd", "dc") for end, p in zip("xyz", (0.5, 0.3, 0.2))
    }
    assert found == pytest.approx(by_hand)


def test_a_text_with_two_derivations_is_found_out():
    with pytest.raises(AssertionError, match="two derivations"):
        exact_texts(lambda draws: "ab"[: 1 + draws.pick((0, 0))])


def test_sample_and_shuffle_are_uniform():
    sampled = exact_texts(lambda draws: "".join(draws.sample("abcd", 2)))
    assert list(sampled.values()) == pytest.approx([1 / 12] * 12)
    shuffled = exact_texts(lambda draws: "".join(draws.shuffle("abcd")))
    assert list(shuffled.values()) == pytest.approx([1 / 24] * 24)


# ---------------------------------------------------------------- small sub-grammars


def shrink(monkeypatch, *, history=(), wording=1, small_talk=1, **sizes) -> None:
    """Cut the world down: `sizes` values a slot (else 1; 2 options), `wording` templates of each
    sort, and so on.

    history: the sentences kept; small_talk: words and templates of each of as many kinds.
    """
    least = dict.fromkeys(posts.VALUES, 1) | {"option": 2}
    values = {slot: tuple(v[: sizes.get(slot, least[slot])]) for slot, v in posts.VALUES.items()}
    who = {name: known[: sizes.get("subreddits", 1)] for name, known in vocabulary.WHO.items()}
    talk = {
        kind: (words[:small_talk], templates[:small_talk])
        for kind, (words, templates) in list(posts.SMALL_TALK.items())[:small_talk]
    }
    kept = {slot: posts.HISTORY[slot][:wording] for slot in history}
    small = {"VALUES": values, "WHO": who, "SMALL_TALK": talk, "HISTORY": kept}
    for name, value in small.items():
        monkeypatch.setattr(posts, name, value)
    for module, names in (
        (posts, ("TITLES", "PROBLEMS", "CHOICES")),
        (threads, ("RESTATEMENTS", "COUNSEL", "UPDATES", "ENDINGS", "STORIES")),
        (summaries, ("MAINS", "QUESTIONS", "FILLERS")),
    ):
        for name in names:
            few = max(2, wording) if name == "FILLERS" else wording
            monkeypatch.setattr(module, name, getattr(module, name)[:few])


# Each sentence more multiplies the orders: a case has no more of the history than it is about.
GRAMMARS = {
    "main facts": dict(who=4, deed=4, thing=4, option=6),
    "since": dict(history=("since",), since=16, option=8),
    "history": dict(history=("place", "tried"), place=8, tried=8, option=4),
    "ways to tell the history": dict(history=("place",), place=8, wording=2, option=3),
    "order": dict(history=("since", "place", "tried"), since=3, place=3, tried=3),
    "subreddits": dict(who=9, subreddits=2, option=9),
    "wording": dict(history=("since", "place"), wording=9),
    "small talk": dict(history=("tried",), small_talk=6, option=6),
}


def post_text(draws: Draws) -> str:
    return draw_post(draws, draw_facts(draws)).prompt


@pytest.mark.parametrize("name", GRAMMARS)
def test_every_post_has_one_derivation_and_the_probabilities_sum_to_1(monkeypatch, name):
    shrink(monkeypatch, **GRAMMARS[name])
    found = exact_texts(post_text)
    assert len(found) > 1000
    for seed in range(100):
        draws = Draws(seed)
        post = draw_post(draws, draw_facts(draws))
        assert math.exp(post.logprob) == pytest.approx(found[post.prompt])


def test_posts_come_as_often_as_they_should(monkeypatch):
    shrink(monkeypatch, history=("since",), since=2)
    check_frequencies(post_text, exact_texts(post_text), 20_000)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))


def a_post(facts: Facts = FACTS) -> Post:
    """A post about these facts."""
    return draw_post(Draws("a post"), facts)


def only(monkeypatch, **numbers: tuple[int, ...]) -> None:
    """Let only these kinds of text follow a post, in these numbers."""
    monkeypatch.setattr(
        threads, "FOLLOWERS", {kind: (FOLLOWERS[kind][0], n) for kind, n in numbers.items()}
    )
    shares = [share for kind, share in zip(FOLLOWERS, SHARES) if kind in numbers]
    monkeypatch.setattr(threads, "SHARES", tuple(share / sum(shares) for share in shares))


@pytest.mark.parametrize(("numbers", "wording"), [((1,), 9), ((1, 2), 1)])
@pytest.mark.parametrize("kind", FOLLOWERS)
def test_every_thread_has_one_derivation_and_the_probabilities_sum_to_1(
    monkeypatch, kind, numbers, wording
):
    post = a_post()
    shrink(monkeypatch, wording=wording)
    only(monkeypatch, **{kind: (0,) if kind == "nothing" else numbers})
    found = exact_texts(lambda draws: draw_document(draws, post))
    assert all(text.startswith(post.body) for text in found)
    for seed in range(50):
        row = build.document(Draws(seed), post)
        assert row["logprob"] == pytest.approx(math.log(found[row["text"]]), abs=1e-4)


def test_posts_with_what_follows_them_have_one_derivation(monkeypatch):
    shrink(monkeypatch, wording=2)
    only(monkeypatch, nothing=(0,), update=(1,), story=(1,))
    monkeypatch.setattr(posts, "TITLES", posts.TITLES[:1])

    def program(draws):
        return draw_document(draws, draw_post(draws, draw_facts(draws)))

    found = exact_texts(program)
    draws = Draws(3)
    row = build.document(draws, draw_post(draws, draw_facts(draws)))
    assert row["logprob"] == pytest.approx(math.log(found[row["text"]]), abs=1e-4)


@several_facts
def test_every_summary_has_one_derivation_and_the_probabilities_sum_to_1(fields):
    """Of the grammar as it is: a post has about a thousand summaries."""
    post = a_post(confusable_in(fields))
    found = exact_texts(lambda draws: draw_summary(draws, post))
    # openings, details, copied, fillers, questions; those that state a value with a twin twice
    right = 3 * 2**3 * 2 * 5 * 3
    assert right + bool(fields) <= len(found) <= 2 * right
    if set(MAIN) & set(fields) or not fields:  # all of them state one, or none does
        assert len(found) == (2 * right if fields else right)
    for seed in range(50):
        row = build.demonstration(Draws(seed), post)
        assert row["logprob"] == pytest.approx(math.log(found[row["completion"]]), abs=1e-4)


def test_summaries_come_as_often_as_they_should(monkeypatch):
    post = a_post()
    shrink(monkeypatch, wording=1)

    def program(draws):
        return draw_summary(draws, post)

    check_frequencies(program, exact_texts(program), 20_000)


def states_one_of(fields: tuple[str, ...]) -> float:
    """How likely a summary names one of these fields."""
    if set(MAIN) & set(fields):
        return 1.0
    asks = 1 - FLAW_SHARES["missing_question"] if set(OPTIONS) & set(fields) else 0.0
    return 1 - (1 - DETAIL_SHARE) ** len(DETAILS.keys() & set(fields)) * (1 - asks)


@several_facts
def test_each_flaw_comes_as_often_as_stated(fields):
    """In the exact distribution over the summaries of a post. A writer mixes up all or nothing."""
    post, shares = a_post(confusable_in(fields)), Counter()
    true = {getattr(post.facts, field) for field in fields}
    for text, p in exact_texts(lambda draws: draw_summary(draws, post)).items():
        judged, named = gold(post.facts, text), words_of(text)
        right, wrong = true & named, {TWINS[value] for value in true} & named
        assert not (right and wrong) and judged.invented == len(wrong)
        shares.update(dict.fromkeys(judged.flaw_names, p))
    expected = dict(FLAW_SHARES, dropped_details=1 - DETAIL_SHARE**3)
    expected["hallucination"] *= states_one_of(fields)
    assert {name: shares[name] for name in expected} == pytest.approx(expected)
    assert min(FLAW_SHARES.values()) > 0.5 > DETAIL_SHARE


def test_the_stated_rates_are_exact_means_over_all_facts(monkeypatch):
    """The wording is cut down: no flaw depends on it."""
    for name in ("MAINS", "QUESTIONS", "FILLERS"):
        monkeypatch.setattr(summaries, name, getattr(summaries, name)[:1])
    one, rates, total, nothing = a_post(), Counter(), 0.0, 0.0
    for fields, share in shares_of_confusable_fields().items():
        post = replace(one, facts=confusable_in(fields))
        assert post.facts.confusable() == fields
        total += share
        nothing += share * (1 - states_one_of(fields))
        for text, p in exact_texts(lambda draws, post=post: draw_summary(draws, post)).items():
            rates.update(dict.fromkeys(gold(post.facts, text).flaw_names, share * p))
    assert total == pytest.approx(1.0)
    assert dict(rates) == pytest.approx(summaries.flaw_rates())
    assert nothing == pytest.approx(summaries.nothing_to_mix_up())


@several_facts
def test_the_likeliest_continuation_has_every_flaw(fields):
    """It mixes up the words with twins that it states, and no others."""
    post = a_post(confusable_in(fields))
    text = likeliest(exact_texts(lambda draws: draw_summary(draws, post)))
    judged, mixed_up = gold(post.facts, text), set(MAIN) & set(fields)
    flaws = {"copying", "padding", "dropped_details", "missing_question"}
    assert set(judged.flaw_names) == flaws | ({"hallucination"} if mixed_up else set())
    assert (judged.dropped, judged.invented) == (3, len(mixed_up))
    said = post.facts.misread(tuple(mixed_up))
    assert words_of(text) >= {getattr(said, field) for field in MAIN}


# ---------------------------------------------------------------- English


def template_words() -> set[str]:
    """Every word of a template, a phrase beside its key word, a filler or a subreddit."""
    slots = {"VALUES", "SLOTS", "SMALL_TALK", "TRIED", "OPTION", "WHO", "TWINS", "FLAW_SHARES"}
    texts = [
        value
        for module in (posts, threads, summaries)
        for name, value in vars(module).items()
        if name.isupper() and name not in slots
    ]
    texts += [templates for _, templates in vocabulary.SMALL_TALK.values()]
    for table in (vocabulary.TRIED, vocabulary.OPTION):
        texts += [phrase.removesuffix(key) for key, phrase in table.items()]
    return words_in([*texts, *vocabulary.WHO.values()])


@pytest.mark.parametrize("phrases", [vocabulary.TRIED, vocabulary.OPTION])
def test_every_phrase_has_a_verb_of_its_own(phrases):
    """A model that has read the verb need not look up the rest."""
    verbs = [phrase.split()[0] for phrase in phrases.values()]
    assert len(set(verbs)) == len(verbs)


def test_key_words_are_unique_everywhere():
    keys = [key for values in vocabulary.VALUES.values() for key in values]
    keys += [word for words, _ in vocabulary.SMALL_TALK.values() for word in words]
    lower = Counter(key.lower() for key in keys)
    assert [key for key, count in lower.items() if count > 1] == []
    words = template_words()
    assert [word for word in words if word.lower() in lower] == []
    assert {"keeps", "noodles", "silent"} <= words | set(keys)
    # gold() finds words of letters only
    assert all(re.fullmatch(r"[A-Za-z]+", key) for key in keys)


@pytest.fixture(scope="module")
def sample_texts() -> list[str]:
    """Posts with threads and summaries, as a reader would meet them."""
    texts = []
    for i in range(4000):
        draws, post = draw_split_post(f"English/{i}", held_out=i % 10 == 0)
        texts.append(f"{draw_document(draws, post)}\n\nTL;DR:{draw_summary(draws, post)}")
    return texts


def test_every_article_fits_its_noun(sample_texts):
    assert articles_that_do_not_fit(sample_texts) == []


def test_sentences_are_whole_and_clean(sample_texts):
    for text in sample_texts:
        assert not re.search(r"[{}]|  |\.\.|,,| [.,?!]|\bthe the\b|\ba a\b|\bmy my\b|None", text), (
            text
        )
        summary = text.rpartition("TL;DR:")[2]
        assert summary.startswith(" ") and summary[-1] in ".?" and summary.strip()[0].isupper()
        for part in text.rpartition("\n\nTL;DR:")[0].split("\n\n")[2:]:
            label, _, said = part.partition(": ")
            assert label in ("POST", "COMMENT", "UPDATE", "STORY")
            for sentence in re.split(r"(?<=[.?]) ", said.replace('"', "")):
                assert sentence[-1] in ".?" and sentence[0].isupper(), part


def test_feasts_seasons_and_months_take_their_preposition(sample_texts):
    feast = "Easter|Halloween"
    slip = re.compile(
        rf"\bin (?:{feast})\b|\bthe (?:{feast}|January|May|August)\b|\bon (?:May|spring)\b"
    )
    assert Counter(found for text in sample_texts for found in slip.findall(text)) == {}


def test_the_prompt_has_the_form_of_reddit_tldr():
    _, post = draw_split_post("form", held_out=False)
    form = r"SUBREDDIT: r/[a-z]+\n\nTITLE: [^\n]+\n\nPOST: [^\n]+\n\nTL;DR:"
    assert re.fullmatch(form, post.prompt)
    assert post.prompt == f"{post.body}\n\nTL;DR:"


def test_there_are_300_words_and_a_trillion_posts(sample_texts):
    words = {word for text in sample_texts for word in re.findall(r"[a-z]+", text.lower())}
    assert len(words) >= 300
    # one derivation a post (tested above), so distinct posts can be counted by their choices; a
    # lower bound: facts, wording, small talk, order
    sizes = [len(values) for slot, values in vocabulary.VALUES.items() if slot != "option"]
    options = len(vocabulary.VALUES["option"])
    facts = math.prod(sizes) * options * (options - 1)
    templates = (posts.TITLES, posts.PROBLEMS, posts.CHOICES)
    wording = math.prod(map(len, (*templates, *posts.HISTORY.values())))
    small_talk = sum(len(words) * len(said) for words, said in vocabulary.SMALL_TALK.values())
    assert facts * wording * small_talk * math.factorial(len(posts.HISTORY) + 1) >= 1e12


# ---------------------------------------------------------------- facts


def test_a_post_names_its_facts_and_no_other_value():
    for i in range(2000):
        _, post = draw_split_post(f"facts/{i}", held_out=False)
        named = words_of(post.body)
        for slot, values in vocabulary.VALUES.items():
            assert named & set(values) == post.facts.values(slot)


def test_a_quarter_of_the_values_of_each_slot_have_a_twin_there():
    assert len(TWINS) == 2 * len(vocabulary.MIXED_UP)  # no value is in two pairs
    assert TWINS.keys() <= set(sum(vocabulary.VALUES.values(), ()))
    assert all(TWINS[twin] == value != twin for value, twin in TWINS.items())
    for values in vocabulary.VALUES.values():
        twins = TWINS.keys() & set(values)
        assert {TWINS[value] for value in twins} == twins
        assert len(twins) == len(values) / 4


def test_confusable_fields_are_those_with_a_twin_that_is_false():
    for seed in range(2000):
        facts = draw_facts(Draws(seed))
        fields = facts.confusable()
        assert fields == tuple(
            field
            for field, value in vars(facts).items()
            if value in TWINS and TWINS[value] not in facts.values(posts.slot_of(field))
        )
        wrong = facts.misread(fields)
        for field, value in vars(facts).items():
            assert getattr(wrong, field) == (TWINS[value] if field in fields else value)
        judged = gold(facts, summaries.best_summary(wrong))
        assert (judged.covered, judged.invented) == (8 - len(fields), len(fields))
    assert replace(PLAIN, option="cat", other="dog").confusable() == ()
    assert replace(PLAIN, option="cat", other="fee").confusable() == OPTIONS


def test_what_is_mixed_up_in_one_post_is_mixed_up_back_in_another():
    """To take any field's value for its twin pairs all facts off, one with one: in as many posts
    `a` is true and `b` false as the other way round, so a rule that scores words without reading
    the post is right on half of the pairs.
    """
    for seed in range(2000):
        facts = draw_facts(Draws(seed))
        for field in facts.confusable():
            other = facts.misread((field,))
            assert other.misread((field,)) == facts != other
            assert other.confusable() == facts.confusable()


def test_padding_is_known_by_its_first_word():
    assert all(filler.startswith(f" {PADDING}, ") for filler in summaries.FILLERS)
    tables = {**vars(summaries), **vars(posts)}
    texts = [value for name, value in tables.items() if name.isupper() and name != "FILLERS"]
    assert PADDING not in words_in(texts) | set(sum(vocabulary.VALUES.values(), ()))


PART_OF = {  # the part of a plan that has each flaw
    "hallucination": "wrong",
    "copying": "copied",
    "padding": "filler",
    "missing_question": "question",
    "dropped_details": "details",
}


@pytest.mark.parametrize("flaw", PART_OF)
def test_a_pair_differs_in_one_flaw_alone(flaw):
    drawn = (draw_split_post(f"pair/{i}", held_out=False) for i in range(250))
    able = [(draws, post) for draws, post in drawn if post.facts.confusable()]
    assert len(able) > 150
    for draws, post in able:
        good, bad = summaries.draw_one_flaw(draws, post, flaw)
        assert [name for name in vars(good) if getattr(good, name) != getattr(bad, name)] == [
            PART_OF[flaw]
        ]
        judged = [gold(post.facts, plan.text(post)) for plan in (good, bad)]
        less, more = (set(one.flaw_names) for one in judged)
        if flaw == "dropped_details":
            assert judged[1].dropped == judged[0].dropped + 1
            assert less | {flaw} == more
        else:
            assert more - less == {flaw} and not less - more
        assert judged[1].invented == judged[0].invented + (flaw == "hallucination")
        assert (judged[0].reward > judged[1].reward) or flaw == "dropped_details"


def test_a_bare_pair_is_a_good_summary_and_its_question_alone():
    for i in range(50):
        draws, post = draw_split_post(f"bare/{i}", held_out=False)
        good, bad = (p.text(post) for p in summaries.draw_one_flaw(draws, post, "missing_problem"))
        assert good.endswith(bad) and bad in (post.facts.fill(q) for q in summaries.QUESTIONS)
        judged = gold(post.facts, good)
        assert set(judged.flaw_names) <= {"dropped_details"}
        assert gold(post.facts, bad).reward == judged.reward - 3 - 2 * (3 - judged.dropped)


def test_a_hallucinating_pair_differs_in_any_value_that_has_a_twin():
    """One of a post's, all alike; both summaries state it, and one of them is right."""
    post = a_post(confusable_in(("deed", "place", "tried", "other")))
    counts: Counter = Counter()
    for seed in range(2000):
        good, bad = summaries.draw_one_flaw(Draws(seed), post, "hallucination")
        (field,) = bad.wrong
        assert not good.wrong and field in good.stated()
        assert getattr(post.facts, field) in words_of(good.text(post)) - words_of(bad.text(post))
        counts[field] += 1
    assert counts.keys() == set(post.facts.confusable())
    assert all(abs(count - 500) < 4 * math.sqrt(2000 * 3 / 16) for count in counts.values())


@pytest.mark.parametrize("fields", [(), ("place",)])
def test_a_pair_of_a_post_with_nothing_to_mix_up_is_mixed(fields):
    post = a_post(confusable_in(fields))
    kinds = Counter(build.draw_pair(Draws(seed), post)[2] for seed in range(2000))
    shares = dict(zip(build.PAIR_KINDS, build.PAIR_SHARES))
    if not fields:
        shares["mixed"] += shares.pop("hallucinating")
    assert kinds.keys() == shares.keys()
    for kind, share in shares.items():
        assert abs(kinds[kind] - 2000 * share) < 4 * math.sqrt(2000 * share * (1 - share))
