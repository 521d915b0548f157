"""`python -m helpers demo RUN`: a local web page to talk to the models of a run."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

from helpers.demo.chat import open_models, parser_of
from helpers.run.checkpoints import CheckpointError

MISSING = (
    "the page needs gradio: `pip install -r requirements-demo.txt -c constraints.txt` installs it "
    "(`make demo` does); `python -m helpers chat` needs nothing more"
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = parser_of("demo", "A web page to talk to the models of a run.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for other machines too")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    kind, text = argparse.BooleanOptionalAction, "open it in a browser (default: on a desktop)"
    parser.add_argument("--browser", action=kind, default=has_screen(), help=text)
    args = parser.parse_args(argv)
    try:
        models = open_models(args)
        if importlib.util.find_spec("gradio") is None:
            sys.exit(f"demo: {MISSING}")
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        from helpers.demo.page import launch  # here: gradio is optional

        launch(models, host=args.host, port=args.port, browser=args.browser)
    except (CheckpointError, OSError, ValueError) as error:
        sys.exit(f"demo: {error}")


def has_screen() -> bool:
    """Whether a browser would have a window: not on a machine that is reached by a terminal."""
    desktop = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or bool(desktop)
