"""Your own labels: the file that keeps them, the widget, what they say, what is learned."""

import ipywidgets as widgets
import pytest
import torch

from helpers.engine import progress
from helpers.lesson import own_labels
from helpers.lesson.own_labels import Answer, LabelError, LabelFile, Question
from helpers.lesson.widgets.core import inside
from helpers.lesson.widgets.own_labels import label_pairs
from helpers.model import GPT, GPTConfig, RewardModel
from helpers.records import Comparison
from helpers.rows.embedded import load_rows
from tests.support.courses import course_in

PAIRS = [Comparison(f"post {i}", f"good {i}", f"bad words {i}", "", 0.9) for i in range(20)]


@pytest.fixture
def file(tmp_path):
    return LabelFile(tmp_path / "labels.jsonl", "tldr")


def parts(widget, kind):
    return [part for part in inside(widget) if isinstance(part, kind)]


def press(widget, start):
    (button,) = (b for b in parts(widget, widgets.Button) if b.description.startswith(start))
    button.click()


def test_every_question_is_asked_and_some_twice_with_sides_exchanged():
    asked = own_labels.questions(PAIRS, 12, repeats=4, seed=0)
    assert len(asked) == 16 and len({(q.prompt, q.a, q.b) for q in asked}) == 16
    first, again = asked[:12], asked[12:]
    assert all(Question(q.prompt, q.b, q.a) in first for q in again)
    assert 0 < sum(q.a.startswith("good") for q in first) < 12  # A is not always the better one
    assert asked == own_labels.questions(PAIRS, 12, repeats=4, seed=0)


def test_answers_by_keyboard_are_in_the_file_at_once(file):
    asked = own_labels.questions(PAIRS, 5, repeats=0, seed=0)
    widget = label_pairs(asked, file)
    (keys,) = parts(widget, widgets.Text)
    keys.value = "a"
    keys.value = "aB"
    assert [answer.choice for answer in file.read()] == ["a", "b"]
    keys.value = "aBx"  # no such answer
    keys.value = "aBxt"
    assert [answer.choice for answer in file.read()] == ["a", "b", "t"]
    keys.value = "aBx"
    keys.value = "aB"  # x was no answer, so none is taken back
    assert [answer.choice for answer in file.read()] == ["a", "b"]
    keys.value = "aBst"
    keys.value = ""  # all selected and deleted: nothing is lost
    assert len(file.read()) == 4
    assert file.read()[0] == Answer(asked[0].prompt, asked[0].a, asked[0].b, "a")


@pytest.mark.parametrize("old, new", [("ab", "at"), ("abs", "at"), ("ab", "a"), ("abst", "a")])
def test_quick_keys_that_arrive_together(old, new, file):
    """A backspace and the next key may reach the kernel as one change."""
    widget = label_pairs(own_labels.questions(PAIRS, 9, repeats=0, seed=0), file)
    (keys,) = parts(widget, widgets.Text)
    keys.value = old
    keys.value = new
    assert "".join(answer.choice for answer in file.read()) == new


def test_it_goes_on_after_a_restart(file):
    asked = own_labels.questions(PAIRS, 3, repeats=0, seed=0)
    press(label_pairs(asked, file), "A is")
    again = label_pairs(asked, file)
    text, progress = parts(again, widgets.HTML)
    assert asked[1].prompt in text.value and "1 of 3 answered" in progress.value
    press(again, "undo")
    assert file.read() == [] and asked[0].prompt in text.value
    for _ in range(5):  # two more than there are questions
        press(again, "skip")
    assert len(file.read()) == 3 and "last pair" in text.value


def test_markup_in_a_text_is_shown_as_text(file):
    widget = label_pairs([Question("<b>post</b>", "<script>a()</script>", "b")], file)
    shown = parts(widget, widgets.HTML)[0].value
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "<b>post" not in shown


LINE = '{"track": "tldr", "prompt": "p", "a": "x", "b": "y", "choice": "a"}\n'


@pytest.mark.parametrize(
    "text, message",
    [
        (LINE + "{\n", "line 2 is no answer"),
        (LINE.replace('"a"}', '"maybe"}'), "line 1 is no answer"),
        (LINE.replace('"x"', "1"), "line 1 is no answer"),
        ("[]\n", "line 1 is no answer"),
        (LINE.replace("tldr", "sentiment"), "on the track 'sentiment', this run is on 'tldr'"),
    ],
)
def test_a_file_that_cannot_be_read_is_left_alone(text, message, file, capsys):
    file.path.write_text(text)
    with pytest.raises(LabelError, match=message):
        file.read()
    widget = label_pairs(own_labels.questions(PAIRS, 3, 0, 0), file)
    assert not parts(widget, widgets.Button)
    assert message.replace("'", "&#x27;") in parts(widget, widgets.HTML)[0].value
    asked = own_labels.questions(PAIRS, 20, 0, 0)
    answers, mine = own_labels.answers_of(file, asked, PAIRS, 0)
    assert not mine and len(answers) == 20 and message in capsys.readouterr().out
    assert file.path.read_text() == text


def test_damage_while_the_widget_is_open_loses_nothing(file):
    widget = label_pairs(own_labels.questions(PAIRS, 3, 0, 0), file)
    file.path.write_text("{\n")
    press(widget, "A is")
    assert "not saved" in parts(widget, widgets.HTML)[1].value
    assert file.path.read_text() == "{\n"


def test_what_cannot_be_opened_is_named(file, capsys):
    file.path.mkdir()
    asked = own_labels.questions(PAIRS, 20, 0, 0)
    (shown,) = parts(label_pairs(asked, file), widgets.HTML)
    assert "labels.jsonl can&#x27;t be read" in shown.value
    assert not own_labels.answers_of(file, asked, PAIRS, 0)[1]
    assert "labels.jsonl can't be read" in capsys.readouterr().out


def test_a_byte_order_mark_is_no_damage(file):
    file.path.write_text(LINE, encoding="utf-8-sig")
    assert file.read() == [Answer("p", "x", "y", "a")]


def test_a_question_is_answered_once_in_two_kernels(file):
    asked = own_labels.questions(PAIRS, 3, repeats=0, seed=0)
    one, other = label_pairs(asked, file), label_pairs(asked, file)
    press(one, "A is")
    press(other, "B is")  # still shows the first question
    assert [answer.choice for answer in file.read()] == ["a"]
    press(other, "B is")
    assert [answer.choice for answer in file.read()] == ["a", "b"]


def test_few_answers_of_yours_give_way_to_a_simulated_persons(file, capsys):
    asked = own_labels.questions(PAIRS, 20, 0, 0)
    widget = label_pairs(asked, file)
    for _ in range(own_labels.ENOUGH - 1):
        press(widget, "A is")
    answers, mine = own_labels.answers_of(file, asked, PAIRS, 0)
    assert not mine and "15 of your answers decide" in capsys.readouterr().out
    press(widget, "B is")
    answers, mine = own_labels.answers_of(file, asked, PAIRS, 0)
    assert mine and answers == file.read()


def test_agreement_is_counted(capsys):
    c = PAIRS[0]
    answers = [
        Answer(c.prompt, c.chosen, c.rejected, "a"),
        Answer(c.prompt, c.rejected, c.chosen, "a"),  # the same pair again, decided otherwise
        Answer(PAIRS[1].prompt, PAIRS[1].chosen, PAIRS[1].rejected, "t"),
        Answer(PAIRS[2].prompt, PAIRS[2].rejected, PAIRS[2].chosen, "b"),
    ]
    own_labels.describe(answers, PAIRS)
    shown = capsys.readouterr().out
    assert "with the annotators    0.67" in shown and "of 3" in shown
    assert "with themselves        0.00" in shown and "chose A in 2 of 3" in shown
    assert own_labels.repeated(answers)[0][0].chosen == c.chosen


def test_a_share_has_an_interval_where_one_can_be_drawn():
    assert own_labels.share(torch.ones(20)) == "1.00: all of 20"
    assert own_labels.share(torch.zeros(3)) == "0.00: none of 3"
    assert own_labels.share(torch.tensor([1.0] * 15 + [0.0] * 5)).startswith("0.75 [0.5")


def test_the_simulated_person_likes_it_short():
    long = [Comparison(f"post {i}", "a b c d e f g h i j", "a", "", 0.9) for i in range(50)]
    asked = own_labels.questions(long, 50, 0, 0)
    decided = [x.comparison for x in own_labels.simulated_answers(asked, long, 0)]
    assert sum(c.chosen == "a" for c in decided) > 40
    assert all(c.chosen == "a" for c in own_labels.to_her_taste(long))
    assert own_labels.to_her_taste(PAIRS) == PAIRS


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    return course_in(tmp_path_factory.mktemp("run"), "reward")


@pytest.fixture(scope="module")
def model(course):
    torch.manual_seed(0)
    config = GPTConfig(course.tokenizer.vocab_size, 256, layers=1, heads=2, channels=16)
    return RewardModel(GPT(config), 0.3)


def test_learning_moves_a_copy_towards_the_answers(course, model):
    rows = own_labels.to_her_taste(load_rows("comparisons", "heldout", "tldr", 24))
    before = [p.clone() for p in model.parameters()]
    mine = own_labels.learn(course, model, rows)
    assert (
        own_labels.agrees(course, mine, rows).mean() > own_labels.agrees(course, model, rows).mean()
    )
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_learning_draws_nothing_in_a_notebook(course, model, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(progress.LiveOutput, "show", lambda self, thing: shown.append(thing))
    own_labels.learn(course, model, load_rows("comparisons", "heldout", "tldr", 8))
    assert not shown and not capsys.readouterr().out


def test_a_pair_is_never_judged_by_a_model_that_has_learned_from_it(course, model, monkeypatch):
    rows = load_rows("comparisons", "heldout", "tldr", 9)
    rows = rows + [Comparison(rows[0].prompt, rows[0].rejected, rows[0].chosen)]  # asked again
    learned, judged = [], []
    monkeypatch.setattr(own_labels, "learn", lambda course, model, some: learned.append(some))

    def agrees(course, model, some):
        judged.append(some)
        return torch.ones(len(some))

    monkeypatch.setattr(own_labels, "agrees", agrees)
    assert own_labels.agrees_on_fresh(course, model, rows).tolist() == [1.0] * 10
    assert sum(map(len, judged)) == 10
    for some, others in zip(judged, learned, strict=True):
        assert not {c.prompt for c in some} & {c.prompt for c in others}
        assert len(some) + len(others) == 10


def test_without_other_answers_the_model_itself_judges(course, model):
    rows = load_rows("comparisons", "heldout", "tldr", 1) * 3
    hits = own_labels.agrees_on_fresh(course, model, rows)
    assert torch.equal(hits, own_labels.agrees(course, model, rows))
