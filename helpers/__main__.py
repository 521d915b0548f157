"""`python -m helpers COMMAND [options]`: everything that can be done without a notebook.

    course      the four notebooks in order, headless, with a report
    pretrain    0-Pretrain's stage alone        sft     1-SFT's
    reward      2-RM-Training's                 ppo     3-PPO's
    launch      a stage in several processes on this machine
    shards      documents as files of tokens, for more text than fits the memory
    fetch       a track's rows from the Hub into a folder
    import      weights from elsewhere as a model folder
    publish     a checkpoint to the Hugging Face Hub
    hellaswag   HellaSwag of a checkpoint
    budget      minutes and memory that the GPU presets are counted to take

`python -m helpers COMMAND --help` lists a command's options.
"""

import difflib
import importlib
import sys

# command -> module and function; a module is imported only when its command runs
COMMANDS = {
    "course": ("helpers.run.headless", "main"),
    "pretrain": ("helpers.stages.pretrain", "main"),
    "sft": ("helpers.stages.sft", "main"),
    "reward": ("helpers.stages.reward", "main"),
    "ppo": ("helpers.stages.ppo", "main"),
    "launch": ("helpers.run.launch", "main"),
    "shards": ("helpers.run.commands", "shards"),
    "fetch": ("helpers.rows.fetch", "main"),
    "import": ("helpers.run.import_weights", "main"),
    "publish": ("helpers.run.publish", "main"),
    "hellaswag": ("helpers.stages.hellaswag", "main"),
    "budget": ("helpers.run.expected", "main"),
}


def main(argv: list[str] | None = None) -> int | None:
    """Run a command; an unknown one ends with one line and exit code 2."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
        print(f"python -m helpers: no command {name!r}; {hint}", file=sys.stderr)
        return 2
    module, function = COMMANDS[name]
    return getattr(importlib.import_module(module), function)(rest)


if __name__ == "__main__":
    sys.exit(main())
