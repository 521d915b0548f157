"""The pretraining documents: reviews of two sentences, most of them with a verdict."""

from data.draws import Draws
from data.sentiment.sentences import Beginning, Film, draw_beginning
from data.sentiment.writers import CAREFUL, draw_plan

VERDICT_SHARE = 0.7  # of the reviews begin with a verdict
VERDICTS = {1: " see it.", -1: " skip it."}  # by the sign of all opinions


def draw_document(draws: Draws) -> tuple[str, list[Beginning]]:
    """A document, and the beginnings of its two sentences. `draws.logprob` then is that of the
    whole document.

    All documents begin alike: a model that is given the first token and guesses the others is told
    nothing by it.
    """
    film, sign = Film(), draws.pick((1, -1))
    lines = [f"review:{VERDICTS[sign] if draws.flip(VERDICT_SHARE) else ''}"]
    beginnings = []
    for _ in range(2):
        beginning = draw_beginning(draws, film)
        plan = draw_plan(draws, beginning, negative=sign < 0, **CAREFUL)
        lines.append(beginning.facts.beginning + plan.text())
        beginnings.append(beginning)
    return "\n".join(lines), beginnings
