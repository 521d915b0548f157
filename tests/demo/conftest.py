"""A run to talk to, shared by the tests of the demo."""

import pytest

from helpers.demo.models import open_run
from tests.support.demo_run import make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="session")
def models(run_folder):
    return open_run(run_folder)
