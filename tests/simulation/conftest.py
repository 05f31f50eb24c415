"""How many histories: `pytest tests/simulation --seeds 100000`; one of them: `--first-seed 4711 --seeds 1`."""

from __future__ import annotations

import pytest

SEEDS = 4000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=SEEDS, help="histories of the simulation")
    parser.addoption("--first-seed", type=int, default=0, help="the first of them")


@pytest.fixture(scope="session")
def seeds(request: pytest.FixtureRequest) -> range:
    # The options are unknown when this folder was not named on the command line.
    first = request.config.getoption("--first-seed", 0)
    return range(first, first + request.config.getoption("--seeds", SEEDS))
