"""ProgressBar: shows chosen logs only."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from modreduce_keras.distillers.metrics.progress import ShownLogs


class ProgressBar(ShownLogs):
    """Keras' progress bar with selected logs.

    Pass it to `fit` or `evaluate` as a callback, and it replaces the bar that is shown without it.
    It follows `verbose` in the same way: a bar for 1 and `"auto"`, a line for each epoch for 2,
    nothing for 0. Callbacks that add logs, such as `PeerMonitor`, must come before it in the list.
    The history and other callbacks get every log.

    Args:
        logs: Names of logs, or patterns, in which `*` stands for any text, `?` for one character
            and `[ab]` for one of several: `["loss", "val_*/accuracy"]`. Logs are shown in the order
            of the patterns; `"*"` shows all. Defaults to `None`: everything for one student; for
            several, the total loss and one measure of each student and of the ensemble, which is
            the `criterion`, or else the accuracy, the first compiled metric, or the compiled loss.

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

    def __init__(self, logs: Iterable[str] | None = None) -> None:
        super().__init__()
        if not (logs is None or isinstance(logs, Iterable)):
            raise TypeError(f"logs must be names or patterns of them. Received: {logs!r}")
        self.patterns = None if logs is None else [logs] if isinstance(logs, str) else list(logs)
        if self.patterns == []:
            raise ValueError("logs must name at least one log. Received: none")
        for pattern in self.patterns or ():
            if not isinstance(pattern, str):
                raise TypeError(f"logs must be names or patterns of them. Received: {pattern!r}")
        self._checked = False

    def chosen(self, logs: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns the logs that match a pattern, in the order of the patterns."""
        if self.patterns is None:
            return super().chosen(logs)
        return {
            name: value
            for pattern in self.patterns
            for name, value in (logs or {}).items()
            if fnmatchcase(name, pattern)
        }

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts again: another model has other logs."""
        super().on_train_begin(logs)
        self._checked = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the epoch's line, and in the first epoch checks that each pattern matches a log."""
        if not self._checked:
            self._require_matches(logs or {})
        super().on_epoch_end(epoch, logs)

    def get_state(self) -> None:
        """Returns what `Resume(callbacks=[...])` keeps: nothing."""

    def set_state(self, state: None) -> None:
        """Takes what `get_state` returned."""

    def _require_matches(self, logs: Mapping[str, Any]) -> None:
        # Not every epoch need have a validation.
        names = [*logs, *(f"val_{name}" for name in logs)]
        patterns = self.patterns or []
        useless = [p for p in patterns if not any(fnmatchcase(n, p) for n in names)]
        if useless:
            raise ValueError(
                f"ProgressBar shows logs that there are, one of {list(logs)} (callbacks that add "
                f"logs have to stand before it). Received patterns that fit none: {useless}"
            )
        self._checked = True
