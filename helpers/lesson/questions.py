"""HellaSwag as one call of a cell, on rows for which it means something."""

from helpers.compare.hellaswag import hellaswag, load_hellaswag
from helpers.model import GPT
from helpers.rows.tracks import SourceError
from helpers.run.course import Course
from helpers.run.settings import data_folder


def hellaswag_score(course: Course, model: GPT) -> dict[str, float]:
    """The score of a model on real rows, printed, as metrics to record; else a line and nothing."""
    if course.source == "embedded":
        print("skipped: a model of an embedded world knows nothing about these questions")
        return {}
    try:
        limit = 100 if course.preset == "smoke" else 1000
        questions, report = load_hellaswag(course.source, limit, data_folder(course.settings))
    except SourceError as error:  # a folder without these rows
        print(f"skipped: {error}")
        return {}
    score = hellaswag(model, course.tokenizer, questions, course.dtype)
    above = (score.accuracy_norm - 0.25) / score.standard_error
    print(report, score, f"above chance: {above:.1f} standard errors", sep="\n")
    return {
        "hellaswag": score.accuracy_norm,
        "hellaswag_se": score.standard_error,
        "hellaswag_questions": score.questions,
    }
