"""The names of stages and notebooks, and where a run keeps what."""

from pathlib import Path

from helpers.engine.parser import output_folder

STAGES = {"0-Pretrain": "pretrain", "1-SFT": "sft", "2-RM-Training": "reward", "3-PPO": "ppo"}
NOTEBOOKS = {stage: notebook for notebook, stage in STAGES.items()}
# Bonus notebooks, which no stage needs, and the stage whose settings each has
BONUS = {"1b-Adapters": "sft", "4-Alternatives": "ppo", "5-Clinic": "ppo"}
# The file of every notebook, below the repository
FILES = {name: f"{name}.ipynb" for name in STAGES} | {name: f"bonus/{name}.ipynb" for name in BONUS}
# The checkpoints that a stage starts from; "base" is 0-Pretrain's, or weights from elsewhere. The
# second judge of the reward stage starts from the base model.
PARENTS = {"pretrain": (), "sft": ("base",), "reward": ("base", "sft"), "ppo": ("sft", "reward")}
REPOSITORY = "https://github.com/rlhf-from-scratch/rlhf-from-scratch"


def default_out(preset: str, track: str, seed: int, source: str = "embedded") -> str:
    """The run folder, relative to the repository, when none is named."""
    rows = "" if source == "embedded" else f"-{source}"
    return f"runs/{preset}-{track}{rows}-seed{seed}"


def make_run_folder(out: Path) -> None:
    """Create a run folder. Raises SettingsError, in one line, where nothing can be written."""
    output_folder(out, "the run folder", "--out or RLHF_OUT")
