"""ProgressBar: shows chosen logs only."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import keras


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with selected logs.

    Three students log about thirty values. Pass this to `fit` as a callback, and it replaces
    Keras' bar. It follows `verbose` in the same way: a bar for 1 and `"auto"`, a line for each
    epoch for 2, nothing for 0. Callbacks that add logs, such as `PeerMonitor`, must come before it
    in the list.

    Args:
        logs: Names of logs, or patterns, in which `*` stands for any text, `?` for one character
            and `[ab]` for one of several: `["loss", "val_*/accuracy"]`. Logs are shown in the
            order of the patterns.

    Raises:
        ValueError: If there is no pattern, or at the end of the first epoch, if one matches no log.
        TypeError: If a pattern is not a string.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(loss="mse", metrics=["mae"])
        >>> bar = mr.callbacks.ProgressBar(["mae"])
        >>> list(bar.chosen({"loss": 3.0, "mae": 1.5}).items())
        [('mae', 1.5)]
        >>> history = model.fit(np.ones((4, 2)), np.ones(4), callbacks=[bar], verbose=0)
    """

    def __init__(self, logs: Iterable[str]) -> None:
        super().__init__()
        if not isinstance(logs, Iterable):
            raise TypeError(f"logs must be names or patterns of them. Received: {logs!r}")
        self.patterns = [logs] if isinstance(logs, str) else list(logs)
        if not self.patterns:
            raise ValueError("logs must name at least one log. Received: none")
        for pattern in self.patterns:
            if not isinstance(pattern, str):
                raise TypeError(f"logs must be names or patterns of them. Received: {pattern!r}")
        self._checked = False

    def chosen(self, logs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns those of some logs that a pattern fits, in the order of the patterns."""
        return {
            name: value
            for pattern in self.patterns
            for name, value in (logs or {}).items()
            if fnmatchcase(name, pattern)
        }

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begins anew: another model has other logs."""
        super().on_train_begin(logs)
        self._checked = False

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        super().on_train_batch_end(batch, self.chosen(logs))

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar of `evaluate`."""
        super().on_test_batch_end(batch, self.chosen(logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the epoch's line, and in the first epoch looks for patterns that fit nothing."""
        if not self._checked:
            self._require_matches(logs or {})
        super().on_epoch_end(epoch, self.chosen(logs))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the line of `evaluate`."""
        super().on_test_end(self.chosen(logs))

    def get_state(self) -> None:
        """Returns what `Resume(callbacks=[...])` keeps: nothing."""

    def set_state(self, state: None) -> None:
        """Takes what `get_state` returned."""

    def _require_matches(self, logs: Mapping[str, Any]) -> None:
        # Not every epoch need have a validation.
        names = [*logs, *(f"val_{name}" for name in logs)]
        useless = [p for p in self.patterns if not any(fnmatchcase(n, p) for n in names)]
        if useless:
            raise ValueError(
                f"ProgressBar shows logs that there are, one of {list(logs)} (callbacks that add "
                f"logs have to stand before it). Received patterns that fit none: {useless}"
            )
        self._checked = True
