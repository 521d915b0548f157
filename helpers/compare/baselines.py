"""What a summary or an answer must beat: the first words of the prompt's text, and a plain copy of
it.

All baselines look like completions: one leading space, or empty where there is nothing to copy.
"""

from collections.abc import Sequence

from helpers.compare.text_metrics import check_pairs, rouge
from helpers.rows.tldr import read_post
from helpers.rows.tracks import TRACKS

LONGEST, STEP = 120, 8  # k is one of 8, 16, ... 120 words


def spaced(text: str) -> str:
    """One leading space, as completions have; an empty text stays empty."""
    return f" {text}" if text else ""


def source_text(prompt: str, track: str) -> str:
    """What the prompt is about, without the track's template: the post, or the request.

    Raises ValueError for a track that is not known or a prompt that has another form.
    """
    if track not in TRACKS:
        raise ValueError(f"no track {track!r}: choose from {', '.join(TRACKS)}")
    if track == "tldr":
        return read_post({"prompt": prompt})["post"]
    before, after = TRACKS[track].template.split("{request}")
    if not (prompt.startswith(before) and prompt.endswith(after)):
        raise ValueError(f"a prompt does not have the form of {track}: {prompt[:40]!r}")
    return prompt[len(before) : len(prompt) - len(after)]


def lead(text: str, k: int) -> str:
    """The first k words of a text, as a completion."""
    return spaced(" ".join(text.split()[:k]))


def best_k(texts: Sequence[str], references: Sequence[str]) -> int:
    """How many first words of the texts come nearest to their references: the best mean ROUGE-L,
    the smaller k of two.

    To be chosen on training rows, so that the baseline is as strong as it can be and has not seen
    what it is measured on. Raises ValueError for lists of different lengths, or none.
    """
    check_pairs(texts, references)
    longest = min(
        LONGEST, max(len(text.split()) for text in texts) + STEP - 1
    )  # the first k that takes all in

    def rouge_l(k: int) -> float:
        return (
            rouge([lead(text, k) for text in texts], references, ("rougeL",))["ROUGE-L"]
            .mean()
            .item()
        )

    return max(range(STEP, max(STEP, longest) + 1, STEP), key=rouge_l)


def copies(prompts: Sequence[str], references: Sequence[str], track: str) -> list[str]:
    """A copy from each prompt: the title for tldr, else the prompt's own text cut to its
    reference's length in words.

    The cut knows how long each reference is, which no model does: on length this baseline has the
    advantage.
    """
    if track == "tldr":
        return [spaced(read_post({"prompt": prompt})["title"]) for prompt in prompts]
    if len(prompts) != len(references):
        raise ValueError(f"{len(prompts)} prompts, but {len(references)} references")
    return [
        lead(source_text(prompt, track), len(ref.split()))
        for prompt, ref in zip(prompts, references)
    ]
