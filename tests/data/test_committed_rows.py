"""What the committed rows of every world say: labels as likely as they say, writers and kinds of
pairs as stated, facts that are held out.
"""

import json
import lzma
import math
import re
from collections import Counter

import pytest

from data.advice import answers, build as advice, gold as advice_gold, vocabulary as advice_words
from data.advice.kinds import KINDS
from data.advice.requests import draw_facts as draw_request_facts, draw_split_request
from data.annotators import compare, preference
from data.draws import Draws
from data.sentiment import build as sentiment, gold as sentiment_gold, writers
from data.sentiment.gold import opinions, positive_probability
from data.sentiment.sentences import Facts as FilmFacts, Film, draw_beginning, draw_split_beginning
from data.tldr import build as tldr, gold as tldr_gold, posts, summaries, vocabulary
from data.tldr.posts import Facts, draw_facts as draw_post_facts, draw_split_post
from helpers.rows.embedded import load_rows, load_tokenizer
from helpers.rows.tracks import TRACKS
from tests.support.mixed_up import shares_of_confusable_fields

BUILDS = {"tldr": tldr, "sentiment": sentiment, "assistant": advice}
GOLDS = {"tldr": tldr_gold.gold, "sentiment": sentiment_gold.gold, "assistant": advice_gold.gold}
FLAW_RATES = {
    "tldr": summaries.flaw_rates(),
    "sentiment": writers.FLAW_SHARES,
    "assistant": answers.flaw_rates(),
}
DRAW_SPLIT = {
    "tldr": draw_split_post,
    "sentiment": draw_split_beginning,
    "assistant": draw_split_request,
}
tracks = pytest.mark.parametrize("track", BUILDS)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", text))


# ---------------------------------------------------------------- labels


def test_preference_is_bradley_terry():
    assert preference(1.0, 1.0) == 0.5
    assert preference(2.0, 0.0) == pytest.approx(1 / (1 + math.exp(-2)))
    for a, b in ((3.0, -1.5), (-7.0, 5.0), (0.2, 0.1)):
        assert preference(a, b) + preference(b, a) == pytest.approx(1.0)
        assert math.log(preference(a, b) / preference(b, a)) == pytest.approx(a - b)


def test_a_comparison_carries_the_probability_of_its_own_label():
    found = {compare(Draws(seed), ("a", "b"), (1.0, 0.0)) for seed in range(50)}
    assert found == {("a", "b", 0.7311), ("b", "a", 0.2689)}


@tracks
def test_pairs_are_labelled_by_the_gold_reward_and_differ_in_their_flaw(track):
    for i, row in enumerate(load_rows("comparisons", "heldout", track, limit=500)):
        facts = FilmFacts(row.prompt)
        if track != "sentiment":
            prompt = DRAW_SPLIT[track](f"comparisons/heldout/{i}", held_out=True)[1]
            assert (prompt.prompt if track == "tldr" else prompt.text) in row.prompt
            facts = prompt.facts
        judged = [GOLDS[track](facts, text) for text in (row.chosen, row.rejected)]
        p = preference(judged[0].reward, judged[1].reward)
        assert row.probability == pytest.approx(p, abs=1e-4)
        flaws = [{name for name, there in side.flaws.items() if there} for side in judged]
        flaw = track != "assistant" and BUILDS[track].PAIR_FLAWS[row.kind]
        if flaw == "dropped_details":
            assert abs(judged[0].dropped - judged[1].dropped) == 1
        elif flaw == "missing_problem":
            assert min(row.chosen, row.rejected, key=len).startswith(" Should I ")
        elif flaw:  # both may have others
            assert flaws[0] ^ flaws[1] == {flaw}
        if track == "assistant" and row.kind == "ignoring":
            assert abs(judged[0].dropped - judged[1].dropped) == 1
        elif track == "assistant" and row.kind != "mixed":
            assert flaws[0] ^ flaws[1] == {row.kind}


def check_calibration(labelled: list[tuple[float, bool]], bins: int) -> int:
    """What has about probability p comes true in a share p of the cases; returns the bins that are
    filled.
    """
    filled: dict[int, list[tuple[float, bool]]] = {}
    for p, true in labelled:
        filled.setdefault(int(p * bins), []).append((p, true))
    for cases in filled.values():
        error = math.sqrt(sum(p * (1 - p) for p, _ in cases)) + 0.5
        assert abs(sum(true for _, true in cases) - sum(p for p, _ in cases)) < 4 * error
    return len(filled)


@tracks
def test_annotators_choose_as_often_as_their_probability_says(track):
    """The better side is chosen with its probability; at one half either side is the better one."""
    rows = [row for split in ("train", "heldout") for row in load_rows("comparisons", split, track)]
    assert all(0 <= row.probability <= 1 and row.chosen != row.rejected for row in rows)
    uneven = [row.probability for row in rows if row.probability != 0.5]
    assert check_calibration([(max(p, 1 - p), p > 0.5) for p in uneven], bins=20) >= 5


def test_labels_come_as_often_as_their_probability_says():
    labelled = []
    for row in load_rows("labels", "train", "sentiment") + load_rows(
        "labels", "heldout", "sentiment"
    ):
        p = positive_probability(row.prompt + row.completion)
        assert row.probability == pytest.approx(p if row.label else 1 - p, abs=1e-4)
        labelled.append((p, row.label == 1))
    # valences come in halves: none has a probability between 0.4 and 0.5
    assert check_calibration(labelled, bins=10) == 9


@pytest.mark.parametrize(("track", "kind"), [("tldr", "hallucinating"), ("assistant", "inventing")])
def test_a_rule_that_never_reads_the_prompt_is_at_chance_on_false_facts(track, kind):
    """A value is as often taken for its twin as its twin for it, so how often a word was preferred
    says nothing on other pairs.
    """

    def halves(split: str) -> list[tuple[set[str], set[str]]]:
        pairs = [row for row in load_rows("comparisons", split, track) if row.kind == kind]
        words = [(words_of(row.chosen), words_of(row.rejected)) for row in pairs]
        return [(chosen - rejected, rejected - chosen) for chosen, rejected in words]

    liked = Counter()
    for chosen, rejected in halves("train"):
        liked.update(chosen)
        liked.subtract(rejected)
    margins = [
        sum(liked[word] for word in chosen) - sum(liked[word] for word in rejected)
        for chosen, rejected in halves("heldout")
    ]
    right = sum((margin > 0) + (margin == 0) / 2 for margin in margins) / len(margins)
    assert abs(right - 0.5) < 4 * 0.5 / math.sqrt(len(margins))


# ---------------------------------------------------------------- shares


def check_shares(counts: Counter, shares: dict[str, float]) -> None:
    """Each name is drawn as often as its share says, within four standard errors."""
    number = counts.total()
    assert sum(shares.values()) == pytest.approx(1.0) and counts.keys() == shares.keys()
    for name, share in shares.items():
        error = math.sqrt(share * (1 - share) / number)
        assert counts[name] / number == pytest.approx(share, abs=4 * error), name


@tracks
def test_pairs_are_of_the_stated_kinds(track):
    """Prompts with nothing to mix up have mixed pairs in place of those with a false fact."""
    shares = dict(zip(BUILDS[track].PAIR_KINDS, BUILDS[track].PAIR_SHARES))
    if track == "tldr":
        nothing = shares["hallucinating"] * shares_of_confusable_fields()[()]
        shares["hallucinating"] -= nothing
        shares["mixed"] += nothing
    if track == "assistant":
        nothing = shares["inventing"] * nothing_to_mix_up()
        shares["inventing"] -= nothing
        shares["mixed"] += nothing
    check_shares(Counter(row.kind for row in load_rows("comparisons", "heldout", track)), shares)


def nothing_to_mix_up() -> float:
    """The share of requests without a value that has a twin."""
    return sum(
        math.prod(
            1 - len(advice_words.TWINS.keys() & values) / len(values)
            for values in (advice_words.VALUES[slot] for slot in kind.slots)
        )
        for kind in KINDS.values()
    ) / len(KINDS)


@pytest.mark.parametrize("track", FLAW_RATES)
def test_demonstrations_have_each_flaw_as_often_as_stated(track):
    rows = load_rows("demonstrations", "train", track)
    for flaw, share in FLAW_RATES[track].items():
        check_shares(Counter(flaw in row.flaws for row in rows), {True: share, False: 1 - share})


@pytest.mark.parametrize("track", FLAW_RATES)
def test_the_flaws_of_a_demonstration_are_those_of_its_gold_reward(track):
    for i, row in enumerate(load_rows("demonstrations", "heldout", track, limit=200)):
        facts = DRAW_SPLIT[track](f"demonstrations/heldout/{i}", held_out=True)[1].facts
        assert row.flaws == GOLDS[track](facts, row.completion).flaw_names


def test_false_facts_are_spread_evenly_over_the_eight():
    """Of the pairs that differ in a false fact about one in eight is about each, two about an
    option; exactly, each of a post's facts with a twin is as likely.
    """
    shares, expected = shares_of_confusable_fields(), Counter()
    for fields, share in shares.items():
        for field in fields:
            expected[posts.slot_of(field)] += share / len(fields) / (1 - shares[()])
    for slot in vocabulary.SLOTS:
        eighths = 2 if slot == "option" else 1
        assert expected[slot] / eighths == pytest.approx(1 / 8, abs=0.03)
    pairs = [row for row in load_rows("comparisons", "train") if row.kind == "hallucinating"]
    slots: Counter = Counter()
    for row in pairs:
        different = words_of(row.chosen) ^ words_of(row.rejected)
        one, other = different & tldr_gold.SLOT_OF.keys()
        assert vocabulary.TWINS[one] == other
        slots[tldr_gold.SLOT_OF[one]] += 1
    check_shares(slots, expected)


def test_prompts_leave_the_sentiment_open():
    for row in load_rows("prompts", "heldout", "sentiment"):
        assert row.facts == {"beginning": row.prompt} and not opinions(row.prompt)


# ---------------------------------------------------------------- prompts, facts, splits


@pytest.mark.parametrize("track", ["assistant", "instruct"])
def test_rows_are_loaded_in_the_template_of_the_track(track):
    for kind in ("documents", "demonstrations", "comparisons", "prompts"):
        path = advice.WORLD.folder / f"{kind}.heldout.jsonl.xz"
        wanted = [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()[:20]]
        for row in wanted:
            if kind != "documents":
                row["prompt"] = TRACKS[track].template.format(request=row["prompt"])
        loaded = [vars(row) for row in load_rows(kind, "heldout", track, limit=20)]
        assert [{name: row[name] for name in wanted[0]} for row in loaded] == wanted


@pytest.mark.parametrize("track", ["assistant", "instruct"])
def test_every_word_of_the_world_of_requests_is_one_token(track):
    encode = load_tokenizer(track).encode
    texts = [row.text for row in load_rows("documents", "heldout", track)]
    texts += [row.prompt + row.completion for row in load_rows("demonstrations", "heldout", track)]
    words = {word for text in texts for word in re.findall(r" ?[A-Za-z]+", text)}
    assert len(words) > 200
    assert [word for word in words if len(encode(word)) > 1] == []


@pytest.mark.parametrize(
    ("track", "kind", "usual", "share", "fewest", "most"),
    [
        ("tldr", "prompts", range(60, 81), 0.99, 50, 90),
        ("tldr", "demonstrations", range(70, 131), 0.95, 60, 140),
        ("sentiment", "demonstrations", range(8, 31), 0.95, 5, 40),
        ("assistant", "demonstrations", range(30, 101), 0.95, 30, 128),
        ("instruct", "demonstrations", range(30, 101), 0.95, 30, 128),
        ("assistant", "documents", range(256), 0.99, 30, 255),
    ],
)
def test_rows_have_the_stated_number_of_tokens(track, kind, usual, share, fewest, most):
    encode, rows = load_tokenizer(track).encode, load_rows(kind, "train", track, limit=1000)
    parts = ("text",) if kind == "documents" else ("prompt", "completion")
    lengths = [sum(len(encode(getattr(row, part, ""))) for part in parts) for row in rows]
    assert sum(length in usual for length in lengths) / len(lengths) > share
    assert fewest <= min(lengths) and max(lengths) <= most


@tracks
def test_prompts_are_drawn_from_their_side_of_the_split(track):
    for i in range(200):
        for held_out in (True, False):
            drawn = DRAW_SPLIT[track](f"split/{i}", held_out)[1]
            assert drawn.facts.held_out() == held_out


@pytest.mark.parametrize(
    ("draw", "least", "most"),
    [
        (draw_post_facts, 0.085, 0.115),
        (lambda draws: draw_beginning(draws, Film()).facts, 0.07, 0.13),
        (draw_request_facts, 0.085, 0.12),
    ],
    ids=BUILDS,
)
def test_about_a_tenth_of_the_facts_is_held_out(draw, least, most):
    assert least < sum(draw(Draws(seed)).held_out() for seed in range(5000)) / 5000 < most


def prompt_of(row) -> str:
    return getattr(row, "text", "").split("\n\n")[0] or row.prompt


def triple_of_a_post(row) -> tuple[str, ...]:
    """The (who, deed, thing) of a post, read from its text."""
    text = getattr(row, "text", "") or row.prompt
    for template in posts.PROBLEMS:
        pattern = "POST: " + re.sub(r"\\\{(\w+)\\\}", r"(\\w+)", re.escape(template))
        if match := re.search(pattern, text):
            return match.groups()
    raise AssertionError(text)


def facts_of_a_request(row) -> frozenset[str]:
    """The three facts of a request, read from its text."""
    slots = advice_words.SLOT_OF
    return frozenset(word for word in words_of(prompt_of(row)) if slots.get(word, "name") != "name")


@pytest.mark.parametrize(
    ("track", "read"), [("tldr", triple_of_a_post), ("assistant", facts_of_a_request)]
)
def test_training_and_heldout_facts_are_disjoint(track, read):
    kinds = ("documents", "demonstrations", "comparisons", "prompts")
    train, heldout = (
        {read(row) for kind in kinds for row in load_rows(kind, split, track)}
        for split in ("train", "heldout")
    )
    assert {len(facts) for facts in train | heldout} == {3}
    assert len(heldout) > 300 and len(train) > 2500 and not train & heldout
    if track == "tldr":
        others = "since place tried option other".split()
        assert all(Facts(*triple, *others).held_out() for triple in heldout)


def test_no_training_document_begins_like_a_heldout_prompt():
    kinds = ("demonstrations", "labels", "comparisons", "prompts")
    heldout = {row.prompt for kind in kinds for row in load_rows(kind, "heldout", "sentiment")}
    for row in load_rows("documents", "train", "sentiment"):
        for sentence in row.text.split("\n")[1:]:
            parts = sentence.split()
            assert not heldout & {" ".join(parts[:number]) for number in range(4, 7)}


def test_prompt_rows_carry_the_facts_of_their_prompt():
    for row in load_rows("prompts", "heldout", limit=100):
        facts = Facts(**row.facts)
        assert facts.held_out()
        for slot in vocabulary.SLOTS:
            assert words_of(row.prompt) & set(vocabulary.VALUES[slot]) == facts.values(slot)
    for row in load_rows("prompts", "heldout", "instruct", limit=100):
        facts, said = advice_gold.Facts(**row.facts), words_of(row.prompt)
        assert facts.held_out()
        assert said & advice_words.SLOT_OF.keys() == set(facts.values.values())
        assert said & advice_words.NUMBERS.keys() == {facts.number}


# ---------------------------------------------------------------- what data/WORLDS.md publishes


def bayes(kind: str, track: str, *kinds: str) -> float:
    """The best accuracy on held-out rows, or on those of some kinds of pairs."""
    rows = load_rows(kind, "heldout", track)
    chosen = [row.probability for row in rows if not kinds or row.kind in kinds]
    return sum(max(p, 1 - p) for p in chosen) / len(chosen)


def floor(kind: str, track: str) -> float:
    """In nats per guessed token: a document's first token is not guessed, its end of text is."""
    encode, rows = load_tokenizer(track).encode, load_rows(kind, "heldout", track)
    texts = [getattr(row, "text", None) or row.completion for row in rows]
    guessed = sum(len(encode(text)) + (kind == "demonstrations") for text in texts)
    return -sum(row.logprob for row in rows) / guessed


def test_the_published_figures_are_those_of_the_rows(root):
    page = (root / "data/WORLDS.md").read_text(encoding="utf-8")
    figures = [f"where Bayes is about {bayes('comparisons', 'tldr', 'hallucinating'):.0%}"]
    figures.append(f"where Bayes is {bayes('comparisons', 'assistant', 'inventing'):.0%}")
    for track in ("tldr", "assistant"):
        figures += [f"| {name} | {rate:.1%} |" for name, rate in FLAW_RATES[track].items()]
    for kind, share in zip(tldr.PAIR_KINDS, tldr.PAIR_SHARES):
        best = bayes("comparisons", "tldr", kind)
        figures.append(f"| {kind} | {share:.0%} | {best:.0%} |")
    figures.append(f"| all pairs | 100% | {bayes('comparisons', 'tldr'):.1%} |")
    figures += [f"| {name} | {share:.0%} |" for name, share in writers.FLAW_SHARES.items()]
    for kind, share in zip(sentiment.PAIR_KINDS, sentiment.PAIR_SHARES):
        figures.append(f"| {kind} | {share:.0%} | {bayes('comparisons', 'sentiment', kind):.0%} |")
    golds = [
        sentiment_gold.gold(FilmFacts(row.prompt), row.completion).reward
        for row in load_rows("demonstrations", "train", "sentiment")
    ]
    figures.append(f"earn {sum(golds) / len(golds):.2f} on average")
    for track, module in BUILDS.items():
        for kind, splits in module.WORLD.sizes.items():
            figures.append(f"| `{kind}` | {splits['train']:,} | {splits['heldout']:,} |")
        for name, share in zip(module.PAIR_KINDS, module.PAIR_SHARES):
            figures.append(f"| {name} | {share:.0%} |")
        figures.append(f"a byte-level BPE of {load_tokenizer(track).vocab_size:,} tokens")
    for kind in ("labels", "comparisons"):
        figures.append(f"| `{kind}` | Bayes accuracy | {bayes(kind, 'sentiment'):.3f} |")
    for kind in ("documents", "demonstrations"):
        figures.append(f"| `{kind}` | entropy floor | {floor(kind, 'sentiment'):.3f} |")
    for kind, share in zip(advice.PAIR_KINDS, advice.PAIR_SHARES):
        best = bayes("comparisons", "assistant", kind)
        figures.append(f"| {kind} | {share:.0%} | {best:.0%} |")
    figures.append(f"| all | 100% | {bayes('comparisons', 'assistant'):.1%} |")
    assert [figure for figure in figures if figure not in page] == []
