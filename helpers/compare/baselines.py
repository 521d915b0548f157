"""What a summary or an answer must beat: the first words of the prompt's text (lead-k), and a plain
copy of it. Like completions, a baseline has one leading space, or is empty.
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
    """A prompt without its track's template. Raises ValueError for one that has another form."""
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
    """The k whose leads of the texts have the best mean ROUGE-L; of two equal ones the smaller.

    Chosen on training rows, so that the baseline is strong but has not seen what it is measured on.
    Raises ValueError for lists of different lengths, or none.
    """
    check_pairs(texts, references)
    all_words = max(len(text.split()) for text in texts) + STEP - 1  # the first k that takes all in

    def rouge_l(k: int) -> float:
        leads = [lead(text, k) for text in texts]
        return rouge(leads, references, ("rougeL",))["ROUGE-L"].mean().item()

    return max(range(STEP, max(STEP, min(LONGEST, all_words)) + 1, STEP), key=rouge_l)


def copies(prompts: Sequence[str], references: Sequence[str], track: str) -> list[str]:
    """A copy from each prompt: the title for tldr, else the prompt's text, cut to the length of its
    reference in words. No model knows that length, so this baseline has the advantage there.
    """
    if track == "tldr":
        return [spaced(read_post({"prompt": prompt})["title"]) for prompt in prompts]
    if len(prompts) != len(references):
        raise ValueError(f"{len(prompts)} prompts, but {len(references)} references")
    lengths = [len(reference.split()) for reference in references]
    return [lead(source_text(prompt, track), k) for prompt, k in zip(prompts, lengths)]
