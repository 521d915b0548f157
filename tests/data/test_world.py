"""The embedded world: exact probabilities, clean English, facts that are held out."""

import math
import re
from collections import Counter
from dataclasses import replace

import pytest

from data.draws import Draws
from data.tldr import build, posts, summaries, threads, vocabulary
from data.tldr.gold import PADDING, gold
from data.tldr.posts import Facts, draw_facts, draw_post, draw_split_post, find_mention
from data.tldr.summaries import FLAW_SHARES, draw_summary
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


def shrink(
    monkeypatch,
    *,
    history=(),
    wording=1,
    small_talk=1,
    mention=("place",),
    ways_to_mention=1,
    **sizes,
) -> None:
    """Cut the world down: `sizes` values a slot (else 1; 2 options), `wording` templates of each
    sort, and so on.

    history: the sentences kept; small_talk: words and templates of each of two kinds; mention: the
    facts that are mentioned in passing, which need a false value too.
    """
    least = dict.fromkeys(posts.VALUES, 1) | {"option": 2}
    for slot in {posts.slot_of(field) for field in mention}:
        least[slot] += 1
    values = {slot: tuple(v[: sizes.get(slot, least[slot])]) for slot, v in posts.VALUES.items()}
    who = {
        name: (pronouns, subreddits[: sizes.get("subreddits", 1)])
        for name, (pronouns, subreddits) in vocabulary.WHO.items()
    }
    talk = {
        kind: (words[:small_talk], templates[:small_talk])
        for kind, (words, templates) in list(posts.SMALL_TALK.items())[:2]
    }
    kept = {slot: posts.HISTORY[slot][:wording] for slot in history}
    mentions = {field: posts.MENTIONS[field][:ways_to_mention] for field in mention}
    small = {"VALUES": values, "WHO": who, "SMALL_TALK": talk, "HISTORY": kept}
    for name, value in (small | {"MENTIONS": mentions}).items():
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
    "facts": dict(history=("since",), who=2, thing=2, since=2, option=3),
    "history": dict(history=("place", "tried"), place=2, tried=2),
    "ways to tell the history": dict(history=("place",), place=2, wording=2),
    "order": dict(history=("since", "tried")),
    "subreddits": dict(history=("tried",), subreddits=3, tried=3),
    "wording": dict(wording=9),
    "mentions": dict(mention=("who", "option", "other"), option=4, ways_to_mention=2),
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


def test_every_mention_has_one_derivation_and_the_probabilities_sum_to_1(monkeypatch):
    """Of all values of all facts, in every wording: none is another's."""
    values = posts.VALUES
    shrink(monkeypatch, mention=tuple(posts.MENTIONS), ways_to_mention=9)
    monkeypatch.setattr(posts, "VALUES", values)
    found = exact_texts(lambda draws: posts.draw_mention(draws, FACTS).sentence)
    sizes = [len(values[posts.slot_of(field)]) for field in posts.MENTIONS]
    assert len(found) == sum(2 * (size - 1) for size in sizes) - 4  # neither option for the other


def test_posts_come_as_often_as_they_should(monkeypatch):
    shrink(monkeypatch, history=("since",), since=2)
    check_frequencies(post_text, exact_texts(post_text), 20_000)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))


def a_post(small_talk: int, field: str = "place"):
    """A post about FACTS with one or two sentences of small talk, and another value of a field."""
    for seed in range(1000):
        post = draw_post(Draws(f"post {seed}"), FACTS)
        if len(post.small_talk) == small_talk and post.mention.field == field:
            return post
    raise AssertionError("no such post")


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
@pytest.mark.parametrize("field", posts.MENTIONS)
def test_every_summary_has_one_derivation_and_the_probabilities_sum_to_1(field, small_talk):
    """Of the grammar as it is: a post has a few thousand summaries."""
    post = a_post(small_talk, field)
    found = exact_texts(lambda draws: draw_summary(draws, post))
    assert 1000 < len(found) < 10_000
    for seed in range(50):
        row = build.demonstration(Draws(seed), post)
        assert row["logprob"] == pytest.approx(math.log(found[row["completion"]]), abs=1e-4)


def test_summaries_come_as_often_as_they_should(monkeypatch):
    post = a_post(2, "place")
    shrink(monkeypatch, wording=1)

    def program(draws):
        return draw_summary(draws, post)

    check_frequencies(program, exact_texts(program), 20_000)


@pytest.mark.parametrize("field", posts.MENTIONS)
def test_each_flaw_comes_as_often_as_stated(field):
    """In the exact distribution over the summaries of a post; a wrong fact is always stated."""
    post = a_post(1, field)
    shares: Counter = Counter()
    for text, p in exact_texts(lambda draws: draw_summary(draws, post)).items():
        judged = gold(post.facts, text)
        assert judged.invented == (post.mention.value in words_of(text))
        shares.update(dict.fromkeys(judged.flaw_names, p))
    expected = dict(FLAW_SHARES)
    if field in summaries.OPTIONS:
        expected["missing_question"] *= 1 - FLAW_SHARES["hallucination"]
    assert {name: shares[name] for name in expected} == pytest.approx(expected)
    assert min(FLAW_SHARES.values()) > 0.5 > summaries.DETAIL_SHARE


def test_the_stated_rates_are_means_over_what_is_mentioned():
    rates: Counter = Counter()
    for field in posts.MENTIONS:
        post = a_post(1, field)
        for text, p in exact_texts(lambda draws, post=post: draw_summary(draws, post)).items():
            rates.update(dict.fromkeys(gold(post.facts, text).flaw_names, p / len(posts.MENTIONS)))
    assert dict(rates) == pytest.approx(summaries.flaw_rates())


@pytest.mark.parametrize("field", posts.MENTIONS)
@pytest.mark.parametrize("small_talk", [1, 2])
def test_the_likeliest_continuation_has_every_flaw(field, small_talk):
    """Where texts part, go on with the letter that most of the probability goes on with: the text
    at temperature 0 has all flaws, and the false value of the fact that the post mentions.
    """
    post = a_post(small_talk, field)
    rest = exact_texts(lambda draws: draw_summary(draws, post) + "\n")
    text = ""
    while not text.endswith("\n"):
        following: Counter = Counter()
        for candidate, p in rest.items():
            following[re.match(r" ?\w+|\W", candidate[len(text) :])[0]] += p
        text += following.most_common(1)[0][0]
        rest = {candidate: p for candidate, p in rest.items() if candidate.startswith(text)}
    flaws = {"hallucination", "copying", "padding", "dropped_details"}
    flaws |= set() if field in summaries.OPTIONS else {"missing_question"}
    assert set(gold(post.facts, text).flaw_names) == flaws
    assert post.mention.value in words_of(text)


# ---------------------------------------------------------------- English


def template_words() -> set[str]:
    """Every word that stands in a template, a phrase beside its key word, a filler, a feeling or a
    subreddit.
    """
    slots = {"VALUES", "SLOTS", "SMALL_TALK", "TRIED", "OPTION", "WHO", "AGE", "FLAW_SHARES"}
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


def test_every_post_mentions_one_false_value_of_one_fact_in_passing():
    """Evenly over the eight facts and, within a slot, over its values."""
    fields: Counter = Counter()
    values: Counter = Counter()
    for i in range(4000):
        _, post = draw_split_post(f"mention/{i}", held_out=False)
        facts, mention = post.facts, post.mention
        slot = posts.slot_of(mention.field)
        false = {
            word
            for each, those in vocabulary.VALUES.items()
            for word in words_of(post.body) & set(those) - facts.values(each)
        }
        assert false == {mention.value} and mention.value in vocabulary.VALUES[slot]
        assert post.body.count(mention.sentence) == 1 and mention.sentence not in post.small_talk
        assert find_mention(facts, post.prompt) == mention
        misread = facts.misread(mention)
        assert replace(misread, **{mention.field: getattr(facts, mention.field)}) == facts
        assert misread.option != misread.other
        fields[mention.field] += 1
        values[mention.value] += slot == "place"
    assert fields.keys() == vars(facts).keys()
    error = math.sqrt(4000 * 7 / 64)
    assert all(abs(count - 500) < 4 * error for count in fields.values())
    places = [values[place] for place in vocabulary.VALUES["place"]]
    mean = sum(places) / len(places)
    assert all(abs(count - mean) < 4 * math.sqrt(mean) for count in places)


def test_a_mention_and_a_fact_are_told_apart_by_their_sentences():
    """No sentence that states a fact can be read as a mention, nor the other way round."""
    stated = [*posts.TITLES, *posts.PROBLEMS, *sum(posts.HISTORY.values(), ()), *posts.CHOICES]
    frames = [re.sub(r"\{\w+\}", "_", text) for text in stated]
    mentioned = [re.sub(r"\{\w+\}", "_", text) for text in sum(posts.MENTIONS.values(), ())]
    assert len(set(frames + mentioned)) == len(frames) + len(mentioned)
    for text in mentioned:
        before, _, after = text.partition("_")
        assert not any(before in frame and after in frame for frame in frames), text


def test_padding_is_known_by_its_first_word():
    assert all(filler.startswith(f" {PADDING}, ") for filler in summaries.FILLERS)
    tables = {**vars(summaries), **vars(posts)}
    texts = [value for name, value in tables.items() if name.isupper() and name != "FILLERS"]
    assert PADDING not in words_in(texts) | set(sum(vocabulary.VALUES.values(), ()))


@pytest.mark.parametrize("flaw", [*FLAW_SHARES, "dropped_details"])
def test_a_pair_differs_in_one_flaw_alone(flaw):
    for i in range(200):
        draws, post = draw_split_post(f"pair/{i}", held_out=False)
        good, bad = summaries.draw_one_flaw(draws, post, flaw)
        judged = [gold(post.facts, plan.text(post)) for plan in (good, bad)]
        less, more = (set(one.flaw_names) for one in judged)
        if flaw == "dropped_details":
            assert judged[1].dropped == judged[0].dropped + 1
            assert less | {flaw} == more
        else:
            assert more - less == {flaw} and not less - more
        assert (judged[0].reward > judged[1].reward) or flaw == "dropped_details"
