"""Nothing that a user or a model writes becomes markup."""

from html.parser import HTMLParser

import pytest

from data.worlds import gold
from helpers.demo import html
from helpers.demo.answers import Answer, Token

EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</div>'&amp;<|endoftext|>"]
ALLOWED = {"div", "section", "h3", "p", "span", "b", "br", "i", "u", "s", "dl", "dt", "dd"}
ALLOWED |= {"details", "summary", "ul", "ol", "li"}


class Reader(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", EVIL)
def test_every_text_is_escaped(text):
    token = Token(text, 0.5, 0.4, [(text, 0.5), ("\n", 0.1), ("", 0.1)], 1.0)
    answer = Answer(text, text, (1,), True, (token,), 1.0, 2.0, rejected=((0.5, text),))
    page = html.cards([answer, Answer(text, text), Answer("b", "", drafts=(text,))])
    page += html.note(text) + html.blind_cards([answer, answer])
    reader = Reader(page)
    assert reader.tags <= ALLOWED and reader.attributes <= {"class", "style", "tabindex"}
    assert reader.text.count(text) >= 8


def test_a_card_tells_what_is_known():
    facts = dict(who="boss", deed="using", thing="sofa", since="May", place="Rome", tried="bribe")
    judged = gold("tldr", facts | {"option": "cat", "other": "wedding"}, "My boss ate my sofa.")
    tokens = (Token(" My", 0.5, 0.25, [(" My", 0.5)], 0.3), Token("END", 1.0, 1.0, [], 0.0))
    answer = Answer("PPO", "My", (5, 0), True, tokens, -0.5, 0.3, judged, 12.0)
    text = Reader(html.cards([answer])).text
    for part in ("PPO", "score-0.50", "KL0.3 nats", "length2 tokens", "gold2.0 of 12", "50.0%"):
        assert part in text
    assert "as sampled 25.0%" in text and "missing question, dropped details" in text
    assert "score" not in Reader(html.blind_cards([answer, answer])).text


def test_the_run_is_its_report_or_its_figures(tmp_path):
    assert "no figures yet" in html.figures(tmp_path)
    (tmp_path / "figures").mkdir()
    for name in ("ppo-training", "pretrain-training", "own"):
        (tmp_path / f"figures/{name}.png").write_bytes(b"png")
    page = html.figures(tmp_path)
    assert page.index("pretrain training") < page.index("ppo training") and "own" not in page
    (tmp_path / "report.html").write_text('<p class="x">', encoding="utf-8")
    assert 'sandbox srcdoc="&lt;p class=&quot;x&quot;&gt;"' in html.figures(tmp_path)
