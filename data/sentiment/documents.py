"""The pretraining documents: reviews with a verdict, questions about a review, and news without an
opinion.
"""

from data.draws import Draws
from data.sentiment.gold import opinions, positive_probability
from data.sentiment.sentences import Beginning, Film, draw_beginning
from data.sentiment.vocabulary import PLURAL
from data.sentiment.writers import write

KINDS = {"review": 0.5, "questions": 0.35, "news": 0.15}
SENTENCES = {"review": (2, 3), "questions": (1, 2), "news": (1, 2)}
TONES = {"warm": 0.4, "cold": 0.4, "balanced": 0.2}  # who writes all sentences of a review
# what each may concede at the beginning
CONCEDED = {"warm": (-1,), "cold": (1,), "balanced": (), "neutral": ()}
VERDICTS = {
    True: ("see it.", "worth a ticket.", "go tonight."),
    False: ("skip it.", "stay at home.", "save the money."),
}
MOST_QUESTIONS = 3
QUESTIONS = {  # slot of a film -> question, answer
    "genre": ("what genre is it?", "{genre}"),
    "nation": ("where does it come from?", "it is {nation}"),
    "director": ("who made it?", "{director}"),
    "actor": ("who stars in it?", "{actor}"),
    "place": ("where was it shot?", "in {place}"),
    "minutes": ("how long is it?", "{minutes} minutes"),
    "month": ("when does it open?", "in {month}"),
    "topic": ("what is it about?", "{topic}"),
}


def draw_document(draws: Draws) -> tuple[str, list[Beginning]]:
    """A document, and the beginnings of its sentences. `draws.logprob` then is that of the whole
    document.

    All documents begin alike: a model that is given the first token and guesses the others is told
    nothing by it.
    """
    kind = draws.pick(tuple(KINDS), tuple(KINDS.values()))
    film = Film()
    tone = "neutral" if kind == "news" else draws.pick(tuple(TONES), tuple(TONES.values()))
    sentences, beginnings = [], []
    for _ in range(draws.pick(SENTENCES[kind])):
        beginning = draw_beginning(draws, film, CONCEDED[tone])
        sentences.append(beginning.facts.beginning + write(draws, beginning, tone))
        beginnings.append(beginning)
    text = " ".join(sentences)
    if kind == "news":
        return f"film news: {text}", beginnings
    return f"film: {text}" + (
        _verdict(draws, text) if kind == "review" else _questions(draws, film, text)
    ), beginnings


def _verdict(draws: Draws, text: str) -> str:
    """What the reviewer advises: the more positive the review, the likelier to see the film."""
    return f"\nverdict: {draws.pick(VERDICTS[draws.flip(positive_probability(text))])}"


def _questions(draws: Draws, film: Film, text: str) -> str:
    """Different questions about what the text says, with their answers."""
    known = [
        (question, answer.format(**film.values))
        for slot, (question, answer) in QUESTIONS.items()
        if slot in film.values
    ]
    good: dict[str, set[bool]] = {}
    for said in opinions(text):
        good.setdefault(said.aspect, set()).add(said.value > 0)
    known += [
        (
            f"{'are' if aspect in PLURAL else 'is'} the {aspect} any good?",
            "yes" if answers == {True} else "no",
        )
        for aspect, answers in good.items()
        if len(answers) == 1  # the film may be judged in two sentences
    ]
    asked = draws.sample(known, draws.pick(range(1, min(MOST_QUESTIONS, len(known)) + 1)))
    return "".join(f"\nquestion: {question}\nanswer: {answer}." for question, answer in asked)
