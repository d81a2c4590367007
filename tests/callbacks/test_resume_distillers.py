"""Tests that distillers of several students go on bit by bit; their steps are long to compile."""

import numpy as np
import pytest

from tests.support.trainings.resumable import Interrupt, StoppedError, different, state, train

pytestmark = [
    pytest.mark.slow,
    # Its random layer is a state that has to go on, too.
    pytest.mark.filterwarnings("ignore:The student .* changes its inputs at random"),
]

KINDS = ["distiller", "modreduce", "pcl", "plain"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Trains to the end, once for each kind."""
    done = {}

    def run(kind, eager):
        if (kind, eager) not in done:
            folder = tmp_path_factory.mktemp("once")
            model, history = train(kind, 1, folder, 3, eager=eager)
            done[kind, eager] = state(model), history
        return done[kind, eager]

    return run


CASES = [
    *[(kind, True, every, at) for kind in KINDS for every, at in [("epoch", (1, 2)), (2, (0, 3))]],
    *[(kind, False, 2, (1, 3)) for kind in ("distiller", "modreduce", "plain")],
]


@pytest.mark.parametrize(("kind", "eager", "every", "at"), CASES, ids=str)
def test_the_state_is_that_of_an_uninterrupted_run(kind, eager, every, at, uninterrupted, tmp_path):
    expected, history = uninterrupted(kind, eager)
    arguments = {"eager": eager, "every": every}
    with pytest.raises(StoppedError):
        train(kind, 1, tmp_path, 3, Interrupt(*at), **arguments)
    model, resumed = train(kind, 2, tmp_path, 3, **arguments)
    assert all(np.isfinite(array).all() for array in expected)
    assert different(state(model), expected) == []
    assert resumed == history
