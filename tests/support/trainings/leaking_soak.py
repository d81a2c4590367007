"""The soak with a callback that keeps a MiB in each step and has the validation traced anew."""

import keras
import numpy as np
from absl import app

from benchmarks.checks import soak


class Leak(keras.callbacks.Callback):
    """Forgets nothing, and once replaces the function of the validation."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_train_batch_end(self, batch, logs=None):
        self.kept.append(np.ones(2**20, "uint8"))

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.model.make_test_function(force=True)


if __name__ == "__main__":
    app.run(lambda arguments: soak.main(arguments, extra=[Leak()]))
