"""`python -m helpers COMMAND [options]`: everything that can be done without a notebook.

    course      run the four notebooks in order, headless, and write a report
    pretrain    run the stage of 0-Pretrain     sft     that of 1-SFT
    reward      that of 2-RM-Training           ppo     that of 3-PPO
    launch      run a stage in several processes on this machine
    shards      write documents as files of tokens, for more text than fits into memory
    fetch       download a track's rows from the Hub into a folder
    import      convert weights from elsewhere into a model folder
    publish     upload a checkpoint to the Hugging Face Hub
    hellaswag   evaluate a checkpoint on HellaSwag
    doctor      read a log of PPO and say what is wrong with the run
    restore     put your kept answers back into the notebooks
    demo        open a page to talk to a run's models     chat    the same in the terminal
    space       write that page as a folder for a Hugging Face Space
    budget      print the estimated minutes and memory of the GPU presets

`python -m helpers COMMAND --help` lists a command's options.
"""

import difflib
import importlib
import sys

from helpers.engine.parser import SettingsError

# Module and function of each command. A module is imported only when its command runs.
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
    "doctor": ("helpers.doctor.diagnosis", "main"),
    "restore": ("helpers.run.answers", "main"),
    "demo": ("helpers.demo.serve", "main"),
    "chat": ("helpers.demo.chat", "main"),
    "space": ("helpers.demo.space", "main"),
    "budget": ("helpers.run.expected", "main"),
}


def main(argv: list[str] | None = None) -> int | None:
    """Run a command; an unknown one, or a bad setting, prints one line and returns exit code 2;
    Ctrl-C, which a stage answers itself while it trains, one line and 130.
    """
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
    try:
        return getattr(importlib.import_module(module), function)(rest)
    except SettingsError as error:
        print(f"python -m helpers {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"python -m helpers {name}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
