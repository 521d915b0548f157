"""Run the cells of a notebook in this process: a test can first make the settings tiny, and a
failing cell raises.
"""

from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt

from helpers.run.notebook import read_notebook


@contextmanager
def shell():
    """IPython without a kernel; figures are closed afterwards."""
    from IPython.core.interactiveshell import InteractiveShell

    plt.switch_backend("agg")
    try:
        yield InteractiveShell.instance()
    finally:
        plt.close("all")
        InteractiveShell.clear_instance()


def run_cells(path: Path) -> dict:
    """Run all code cells of a notebook; return its names. Raises what a cell raises, with the
    cell's number noted.
    """
    cells = [cell for cell in read_notebook(path).cells if cell.cell_type == "code"]
    with shell() as ipython:
        for number, cell in enumerate(cells, start=1):
            try:
                ipython.run_cell(cell.source).raise_error()
            except BaseException as error:
                raise RuntimeError(f"{path.name}, code cell {number}:\n{cell.source}") from error
            plt.close("all")
        return dict(ipython.user_ns)
