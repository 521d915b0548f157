"""Answers as HTML. Every text is escaped: prompts and responses are never markup."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from helpers.demo.answers import Answer, Token, remarks
from helpers.run.folders import NOTEBOOKS

STYLE = Path(__file__).with_name("style.css")
SHADE_AT = 4.0  # nats at which a token is shaded most
LEGEND = (
    '<p class="note">Shaded: where a policy differs from the SFT model (KL). Point at a token, or '
    "tap it, for its probability and the alternatives.</p>"
)


def cards(answers: Iterable[Answer], titles: Iterable[str] | None = None) -> str:
    """Answers side by side, under their policies' names or under others."""
    answers = list(answers)
    titles = [one.policy for one in answers] if titles is None else list(titles)
    inner = "".join(card(one, title) for one, title in zip(answers, titles, strict=True))
    return f'<div class="cards">{inner}</div>' + (LEGEND if answers[0].tokens else "")


def card(answer: Answer, title: str) -> str:
    """One answer: its name, its text, what is known of it."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in answer.drafts)
    text = (
        f"<ol>{lines}</ol>"
        if lines
        else "".join(token(one, not i) for i, one in enumerate(answer.tokens))
    )
    facts = "".join(fact(*item) for item in remarks(answer).items()) if answer.tokens else ""
    return (
        f'<section class="card"><h3>{escape(title)}</h3>'
        f'<div class="text">{text or escape(answer.text)}</div>{losers(answer)}<dl>{facts}</dl>'
        "</section>"
    )


def blind_cards(answers: Iterable[Answer]) -> str:
    """Two answers of which nothing is told but their texts."""
    return cards([Answer("", one.text) for one in answers], "AB")


def fact(name: str, value: str) -> str:
    """A name and its value."""
    mark = " class='bad'" if name == "flaws" and value != "none" else ""
    return f"<div><dt>{escape(name)}</dt><dd{mark}>{escape(value)}</dd></div>"


def token(one: Token, first: bool = False) -> str:
    """A token, shaded by its KL, with what is shown while the mouse is over it."""
    shade = 0.0 if one.kl is None else min(max(one.kl, 0.0) / SHADE_AT, 1.0)
    end = " end" if one.text == "END" else ""
    return (
        f'<span class="token{end}" tabindex="-1" style="--shade:{shade:.2f}">'
        f"{escape(one.text.lstrip() if first else one.text)}{tip(one)}</span>"
    )


def tip(one: Token) -> str:
    """A token's probability, its KL and its alternatives."""
    head = f"<b>{visible(one.text)}</b> {share(one.probability)}"
    if abs(one.sampled - one.probability) >= 0.001:
        head += f", as sampled {share(one.sampled)}"
    if one.kl is not None:
        head += f"<br>KL from SFT here {one.kl:.2f} nats"
    bars = "".join(
        f'<i style="--share:{p:.3f}"><u>{visible(text)}</u><s>{share(p)}</s></i>'
        for text, p in one.alternatives
    )
    return f'<span class="tip">{head}{bars}</span>'


def share(p: float) -> str:
    """A probability, escaped."""
    return f"{p:.1%}" if p >= 0.001 or p == 0 else "&lt;0.1%"


def visible(text: str) -> str:
    """A token's text with its white space shown."""
    return escape(text.replace(" ", "\u2423").replace("\n", "\u21b5") or "(part of a character)")


def losers(answer: Answer) -> str:
    """The samples that the best of n was chosen from."""
    if not answer.rejected:
        return ""
    rows = "".join(f"<li>{score:+.2f} {escape(text)}</li>" for score, text in answer.rejected)
    return f"<details><summary>the other {len(answer.rejected)}</summary><ul>{rows}</ul></details>"


def note(text: str) -> str:
    """A line for the user."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def figures(folder: Path) -> str:
    """A run's report, or until there is one its figures so far."""
    report = folder / "report.html"
    if report.is_file():
        page = escape(report.read_text(encoding="utf-8"), quote=True)
        return f'<iframe class="report" sandbox srcdoc="{page}" title="report"></iframe>'
    images = [path for stage in NOTEBOOKS for path in sorted(folder.glob(f"figures/{stage}-*.png"))]
    found = "".join(map(image, images))
    return found or note("This run has no figures yet: `make course` draws them.")


def image(path: Path) -> str:
    """A figure with its name."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = escape(path.stem.replace("-", " "))
    picture = f'<img alt="{name}" src="data:image/png;base64,{data}">'
    return f"<figure><figcaption>{name}</figcaption>{picture}</figure>"
