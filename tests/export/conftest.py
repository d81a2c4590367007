"""What the tests of exported files share: weights as training leaves them."""

import numpy as np
import pytest


@pytest.fixture
def settled(random):
    """Gives a model weights and statistics as training leaves them, so that classes differ."""

    def settle(model):
        for variable in model.variables:
            if "seed" in variable.path:
                continue
            values = random.normal(scale=0.3, size=variable.shape)
            positive = "variance" in variable.path or "gamma" in variable.path
            variable.assign(np.abs(values) + 0.5 if positive else values)
        return model

    return settle
