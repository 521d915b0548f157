"""The embedded world: exact probabilities, clean English, facts that are held out."""

import math
import re
from collections import Counter
from itertools import islice

import pytest

from data.draws import Draws
from data.tldr import build, posts, summaries, threads, vocabulary
from data.tldr.posts import Facts, draw_facts, draw_post, draw_split_post
from data.tldr.summaries import WRITERS, draw_summary
from data.tldr.threads import FOLLOWERS, SHARES, draw_document
from tests.support.enumeration import (
    articles_that_do_not_fit,
    check_frequencies,
    exact_texts,
    words_in,
)

FACTS = Facts("sister", "hiding", "piano", "May", "Boston", "note", "away", "police")


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

    history: the sentences kept; small_talk: words and templates of each of two kinds.
    """
    values = {
        slot: tuple(v[: sizes.get(slot, 2 if slot == "option" else 1)])
        for slot, v in posts.VALUES.items()
    }
    who = {
        name: (pronouns, subreddits[: sizes.get("subreddits", 1)])
        for name, (pronouns, subreddits) in vocabulary.WHO.items()
    }
    talk = {
        kind: (words[:small_talk], templates[:small_talk])
        for kind, (words, templates) in list(posts.SMALL_TALK.items())[:2]
    }
    kept = {slot: posts.HISTORY[slot][:wording] for slot in history}
    for name, value in {"VALUES": values, "WHO": who, "SMALL_TALK": talk, "HISTORY": kept}.items():
        monkeypatch.setattr(posts, name, value)
    for name in ("AGE", "FEELING", "EXCUSE", "MOODS"):
        monkeypatch.setattr(posts, name, getattr(posts, name)[: sizes.get("mood", 1)])
    for module, names in (
        (posts, ("TITLES", "PROBLEMS", "CHOICES", "THANKS")),
        (threads, ("RESTATEMENTS", "COUNSEL", "UPDATES", "ENDINGS", "STORIES")),
        (summaries, ("MAINS", "QUESTIONS", "FILLERS")),
    ):
        for name in names:
            few = max(2, wording) if name == "FILLERS" else wording
            monkeypatch.setattr(module, name, getattr(module, name)[:few])


GRAMMARS = {
    "facts": dict(history=("since",), who=2, deed=2, thing=2, since=2, option=3),
    "history": dict(history=("place", "tried"), place=2, tried=2),
    "ways to tell the history": dict(history=("place",), place=2, wording=2),
    "order": dict(history=("since", "place", "tried")),
    "subreddits": dict(history=("tried",), subreddits=3, tried=3),
    "wording": dict(wording=9),
    "moods and small talk": dict(mood=2, small_talk=2),
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


def a_post(small_talk: int):
    """A post about FACTS with one or two sentences of small talk."""
    for seed in range(100):
        post = draw_post(Draws(f"post {seed}"), FACTS)
        if len(post.small_talk) == small_talk:
            return post
    raise AssertionError("no such post")


def few_wrong_values(monkeypatch, number: int) -> None:
    """For each slot what is true of FACTS, and this many values to get it wrong with (of options,
    for both, two).
    """
    few = {}
    for slot, values in vocabulary.VALUES.items():
        true = FACTS.values(slot)
        few[slot] = (
            *sorted(true),
            *islice((v for v in values if v not in true), max(number, len(true))),
        )
    monkeypatch.setattr(posts, "VALUES", few)


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
    post = a_post(1)
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
    monkeypatch.setattr(posts, "THANKS", ("", " Thanks."))
    monkeypatch.setattr(posts, "TITLES", posts.TITLES[:1])
    monkeypatch.setattr(posts, "EXCUSE", posts.EXCUSE[:1])

    def program(draws):
        return draw_document(draws, draw_post(draws, draw_facts(draws)))

    found = exact_texts(program)
    draws = Draws(3)
    row = build.document(draws, draw_post(draws, draw_facts(draws)))
    assert row["logprob"] == pytest.approx(math.log(found[row["text"]]), abs=1e-4)


@pytest.mark.parametrize("small_talk", [1, 2])
@pytest.mark.parametrize("writer", [*WRITERS, "all"])
def test_every_summary_has_one_derivation_and_the_probabilities_sum_to_1(
    monkeypatch, writer, small_talk
):
    post = a_post(small_talk)
    shrink(monkeypatch, wording=3)
    few_wrong_values(monkeypatch, 2)
    if writer != "all":
        monkeypatch.setattr(summaries, "WRITERS", (writer,))
        monkeypatch.setattr(summaries, "WRITER_SHARES", (1.0,))
    found = exact_texts(lambda draws: draw_summary(draws, post)[0])
    for seed in range(50):
        row = build.demonstration(Draws(seed), post)
        assert row["logprob"] == pytest.approx(math.log(found[row["completion"]]), abs=1e-4)


def test_summaries_come_as_often_as_they_should(monkeypatch):
    post = a_post(2)
    shrink(monkeypatch, wording=1)
    few_wrong_values(monkeypatch, 1)

    def program(draws):
        return draw_summary(draws, post)[0]

    check_frequencies(program, exact_texts(program), 20_000)


# ---------------------------------------------------------------- English


def template_words() -> set[str]:
    """Every word that stands in a template, a phrase beside its key word, a filler, a feeling or a
    subreddit.
    """
    slots = {"VALUES", "SLOTS", "SMALL_TALK", "TRIED", "OPTION", "WHO", "WRITERS", "AGE"}
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


def test_key_words_are_unique_everywhere():
    keys = [key for values in vocabulary.VALUES.values() for key in values]
    keys += [word for words, _ in vocabulary.SMALL_TALK.values() for word in words]
    lower = Counter(key.lower() for key in keys)
    assert [key for key, count in lower.items() if count > 1] == []
    words = template_words()
    assert [word for word in words if word.lower() in lower] == []
    assert {"keeps", "noodles", "forgive"} <= words | set(keys)
    # gold() finds words of letters only
    assert all(re.fullmatch(r"[A-Za-z]+", key) for key in keys)


@pytest.fixture(scope="module")
def sample_texts() -> list[str]:
    """Posts with threads and summaries, as a reader would meet them."""
    texts = []
    for i in range(4000):
        draws, post = draw_split_post(f"English/{i}", held_out=i % 10 == 0)
        texts.append(f"{draw_document(draws, post)}\n\nTL;DR:{draw_summary(draws, post)[0]}")
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
    feast = "Easter|Christmas|Halloween|Thanksgiving"
    slip = re.compile(
        rf"\bin (?:{feast})\b|\bthe (?:{feast}|January|May|August)\b|\bon (?:May|spring)\b"
    )
    assert Counter(found for text in sample_texts for found in slip.findall(text)) == {}


def test_the_prompt_has_the_form_of_reddit_tldr():
    _, post = draw_split_post("form", held_out=False)
    form = r"SUBREDDIT: r/[a-z]+\n\nTITLE: [^\n]+\n\nPOST: [^\n]+\n\nTL;DR:"
    assert re.fullmatch(form, post.prompt)
    assert post.prompt == f"{post.body}\n\nTL;DR:"


def test_there_are_600_words_and_a_trillion_posts(sample_texts):
    words = {word for text in sample_texts for word in re.findall(r"[a-z]+", text.lower())}
    assert len(words) >= 600
    # one derivation a post (tested above), so distinct posts can be counted by their choices; a
    # lower bound: facts, the wording of four sentences, one sentence of small talk, no mood, no
    # excuse
    sizes = [len(values) for slot, values in vocabulary.VALUES.items() if slot != "option"]
    options = len(vocabulary.VALUES["option"])
    facts = math.prod(sizes) * options * (options - 1)
    templates = (posts.TITLES, posts.PROBLEMS, posts.CHOICES, posts.THANKS)
    wording = math.prod(map(len, (*templates, *posts.HISTORY.values())))
    small_talk = sum(len(words) * len(said) for words, said in vocabulary.SMALL_TALK.values())
    assert facts * wording * small_talk * math.factorial(len(posts.HISTORY) + 1) >= 1e12


# ---------------------------------------------------------------- facts


def test_wrong_facts_are_wrong_in_the_stated_fields_only():
    for seed in range(300):
        draws = Draws(seed)
        facts = draw_facts(draws)
        fields = draws.pick(
            [(field,) for field in vars(facts)] + [("option", "other"), ("who", "place", "other")]
        )
        changed = facts.wrong(fields, draws)
        differs = {name for name, value in vars(changed).items() if value != getattr(facts, name)}
        assert differs == set(fields)
        for field in fields:
            slot = "option" if field == "other" else field
            assert getattr(changed, field) in vocabulary.VALUES[slot]
            assert getattr(changed, field) not in facts.values(slot)
        assert changed.option != changed.other
