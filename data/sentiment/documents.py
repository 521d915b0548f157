"""The pretraining documents: reviews with a verdict, or with questions about what they say."""

from data.draws import Draws
from data.sentiment.gold import opinions, positive_probability
from data.sentiment.sentences import FILM, Beginning, Film, draw_beginning
from data.sentiment.vocabulary import PLURAL
from data.sentiment.writers import CAREFUL, draw_plan

VERDICT_SHARE = 0.5  # of the reviews have a verdict, the others questions
VERDICTS = {True: ("see it.", "go tonight."), False: ("skip it.", "stay at home.")}
QUESTIONS = (1, 2)


def draw_document(draws: Draws) -> tuple[str, list[Beginning]]:
    """A document, and the beginnings of its two sentences. `draws.logprob` then is that of the
    whole document.

    All documents begin alike: a model that is given the first token and guesses the others is told
    nothing by it.
    """
    film = Film()
    sentences, beginnings = [], []
    for _ in range(2):
        beginning = draw_beginning(draws, film)
        plan = draw_plan(draws, beginning, negative=draws.flip(0.5), **CAREFUL)
        sentences.append(beginning.facts.beginning + plan.text())
        beginnings.append(beginning)
    text = "\n".join(sentences)
    end = _verdict(draws, text) if draws.flip(VERDICT_SHARE) else _questions(draws, text)
    return f"review:\n{text}{end}", beginnings


def _verdict(draws: Draws, text: str) -> str:
    """What the reviewer advises: the more positive the review, the likelier to see the film."""
    return f"\nverdict: {draws.pick(VERDICTS[draws.flip(positive_probability(text))])}"


def _questions(draws: Draws, text: str) -> str:
    """Different questions about what the text judges, with their answers."""
    asked = draws.sample(opinions(text), draws.pick(QUESTIONS))
    return "".join(f"\nquestion: {_question(said.aspect)}\n{_answer(said.value)}" for said in asked)


def _question(aspect: str) -> str:
    subject = "it" if aspect == FILM else f"the {aspect}"
    return f"{'are' if aspect in PLURAL else 'is'} {subject} any good?"


def _answer(value: float) -> str:
    return f"answer: {'yes' if value > 0 else 'no'}."
