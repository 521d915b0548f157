"""A learner's answers: which exercises are solved, and their cells, kept in the folder my/.

A cell is kept when its check passes in a notebook. After `git pull` has brought new notebooks,
`python -m helpers restore` puts the kept cells back where an exercise is untouched.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.engine.files import ROOT, tell, write_text
from helpers.engine.parser import Parser
from helpers.run.folders import FILES
from helpers.run.notebook import NotebookError, read_notebook, write_notebook

NAMES = {  # in the order of each notebook
    "0-Pretrain": "merge initial_loss perplexity causal_mask attention block next_token_loss "
    "learning_rate training_loop next_probs position_ids attention_cost cached_step",
    "1-SFT": "template stop_rate first_loss_row completion_mask labels token_mean masked_loop "
    "coin_floor entropy_floor cooled_share",
    "1b-Adapters": "lora lora_size round_nf4",
    "2-RM-Training": "bayes_accuracy bradley_terry untrained_loss last_token pair_loop accuracy "
    "normalise best_of_n bin_accuracy",
    "3-PPO": "truncate token_logprobs total_reward token_rewards logit_gradient reinforce_loss gae "
    "whiten clipped_gradient policy_loss ppo_loop k3 explained_variance",
    "4-Alternatives": "leave_one_out group_weight dpo_start dpo_loss pass_at_k",
    "5-Clinic": "surprise_gap forced_token first_eos_mask k1_loss_gradient peak_distance",
}
EXERCISES = {notebook: names.split() for notebook, names in NAMES.items()}
SOLVED: set[str] = set()  # in this session
HEAD = re.compile(r"^# %% (\w+)$", re.MULTILINE)  # of each cell in a file of answers
STUBS = ("raise NotImplementedError", "None  # your guess")
FOLDER = ROOT / "my"
kept_in: list[Path] = []  # the folder that answers are kept in; empty: they are not kept


def keep_in(folder: Path) -> None:
    """From now on keep the answers that pass their checks in this folder."""
    kept_in[:] = [folder]


def count(name: str, right: bool) -> str:
    """Note whether an exercise is solved now, and say how many of its notebook are: " (3 of 9
    exercises solved)". "" for one that is not solved.
    """
    if not right:
        SOLVED.discard(name)
        return ""
    SOLVED.add(name)
    if kept_in and (cell := cell_of(name)):
        keep(kept_in[0], name, cell)
    notebook = EXERCISES.get(notebook_of(name), [name])
    return f" ({len(SOLVED.intersection(notebook))} of {len(notebook)} exercises solved)"


def notebook_of(name: str) -> str:
    """The notebook of an exercise; "" for an unknown one."""
    return next((notebook for notebook, names in EXERCISES.items() if name in names), "")


def cell_of(name: str) -> str:
    """The last executed cell of this notebook that defines `my_<name>`; "" outside a notebook."""
    if "IPython" not in sys.modules:
        return ""
    shell = sys.modules["IPython"].get_ipython()
    defines = re.compile(rf"^(def my_{name}\b|class my_{name}\b|my_{name}\s*=)", re.MULTILINE)
    cells = shell.user_ns.get("In", []) if shell else []
    return next((cell for cell in reversed(cells) if defines.search(cell)), "")


def keep(folder: Path, name: str, cell: str) -> None:
    """Write an answer into the file of its notebook. A folder that can't be written to is no
    reason to stop a lesson: then a line says so.
    """
    notebook = notebook_of(name)
    path = folder / f"{notebook}.py"
    try:
        # a line of the cell's own that looks like a head is none
        answers = sections(path) | {name: HEAD.sub(r"#  %% \1", cell.strip())}
        order = [known for known in EXERCISES[notebook] if known in answers]
        order += [other for other in answers if other not in order]  # of an exercise that is gone
        text = "\n\n".join(f"# %% {known}\n{answers[known]}" for known in order)
        write_text(path, text + "\n")
    except OSError as error:
        tell(f"my_{name} is not kept in {folder.name}/: {error}")


def sections(path: Path) -> dict[str, str]:
    """{head: what is under it} in a file of answers. Raises OSError if it can't be read."""
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path.exists() else ""
    _, *parts = HEAD.split(text)
    return {name: cell.strip() for name, cell in zip(parts[::2], parts[1::2], strict=True)}


def read(folder: Path, notebook: str) -> dict[str, str]:
    """{exercise: its cell} as kept for a notebook; where they can't be read none, and a line."""
    try:
        found = sections(folder / f"{notebook}.py")
    except OSError as error:
        tell(f"the answers in {folder.name}/{notebook}.py can't be read: {error.strerror}")
        return {}
    return {name: cell for name, cell in found.items() if cell and name in EXERCISES[notebook]}


def overview(folder: Path) -> str:
    """What is solved, a line for each notebook, and what is still open."""
    lines = []
    for notebook, names in EXERCISES.items():
        solved = {*read(folder, notebook)} | SOLVED
        still_open = [name for name in names if name not in solved]
        done = len(names) - len(still_open)
        bar = "█" * done + "░" * len(still_open)
        rest = f"   open: {', '.join(still_open)}" if done and still_open else ""
        lines.append(f"{notebook:14} {bar:13} {done:>2} of {len(names)}{rest}")
    return "\n".join(lines)


def restore(folder: Path, notebook: str) -> list[str]:
    """Put the kept answers into the untouched exercises of a notebook; returns their names.

    Raises NotebookError for a damaged notebook, OSError if it isn't there or can't be written.
    """
    path, answers, restored = ROOT / FILES[notebook], read(folder, notebook), []
    if not answers:
        return []
    document = read_notebook(path)
    for cell in document.cells:
        exercise = re.search(r"^check_(\w+)\(", cell.source, re.MULTILINE)
        name = exercise[1] if exercise and cell.cell_type == "code" else ""
        if name in answers and any(stub in cell.source for stub in STUBS):
            cell.source, cell.outputs, cell.execution_count = answers[name], [], None
            restored.append(name)
    if restored:
        write_notebook(path, document)
    return restored


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m helpers restore`; returns the exit code."""
    parser = Parser(
        prog="python -m helpers restore",
        description="Put the answers kept in my/ back into untouched exercises. "
        "Close the notebooks first.",
    )
    parser.parse_args(argv)
    folder, code = FOLDER, 0
    if not any(read(folder, notebook) for notebook in EXERCISES):
        print("my/ holds no answers yet: an answer is kept when its check passes in a notebook")
        return 1
    for notebook in EXERCISES:
        try:
            if names := restore(folder, notebook):
                print(f"{notebook}: {', '.join(names)}")
        except (NotebookError, OSError) as error:
            print(f"{notebook}: nothing restored: {error}")
            code = 1
    print(overview(folder))
    return code
