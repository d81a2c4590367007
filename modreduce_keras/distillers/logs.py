"""Logs of a distiller: its terms and the compiled metrics, by student and name."""

from typing import Any

from modreduce_keras.distillers import heads, metrics_of_logits, student_metrics
from modreduce_keras.distillers.checked import CheckedModel
from modreduce_keras.distillers.sample_weights import of_every_output
from modreduce_keras.distillers.supervision import LabelRule
from modreduce_keras.distillers.wiring import Forward
from modreduce_keras.labels import require_distributions, require_one_hot


class LoggedModel(CheckedModel):
    """Base class of the distillers: what `fit` and `evaluate` log, and under which names.

    A distiller has `students`, trackers of its terms once it is compiled, and says which of them
    are of labels (`_supervised`), as evaluation computes no others.
    """

    _evaluating = False

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the students, as `keras.Model.evaluate` does, without running the teacher."""
        self._evaluating = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluating = False

    def label_rules(self) -> list[LabelRule]:
        """Returns who takes class indices."""
        output = self._student_output()
        rules = [] if self._supervision is None else self._supervision.label_rules(output)
        shape = tuple(getattr(output, "shape", ()))
        if len(shape) == 2:  # with positions, a mask may leave out what is no class
            needy = [one for one in self.taught() if one.loss.needs_labels]
            for one in needy:
                ignored = {getattr(one, "ignore_class", None)} - {None}
                rules.append(_rule(f"Knowledge {one.name!r}", shape, ignored, one.loss))
            aggregator = getattr(self, "aggregator", None)
            if "labels" in getattr(aggregator, "needs", ()):
                rules.append(_rule(type(aggregator).__name__, shape, set(), aggregator))
        return rules

    @property
    def metrics(self):
        """The metrics that `fit` resets: the loss, every term, the compiled metrics."""
        return super().metrics + (self._trackers.metrics if self.compiled else [])

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the compiled metrics for every student and returns all logs."""
        if self._compile_metrics is not None:
            if isinstance(y_pred, Forward):
                logits = y_pred.logits()
            else:
                # Keras sizes up the metrics with the output of `call`, which stands for every one.
                logits = dict.fromkeys(self._metric_names(), y_pred)
            labels, outputs = student_metrics.as_outputs(y, logits)
            weights = of_every_output(sample_weight, labels)
            self._compile_metrics.update_state(labels, outputs, weights)
        return self.get_metrics_result()

    def get_metrics_result(self):
        """Returns all logs by name, `STUDENT/METRIC` where there are several students."""
        results = student_metrics.log_names(super().get_metrics_result())
        return self._evaluated(results) if self._evaluating else results

    def _evaluated(self, results: dict[str, Any]) -> dict[str, Any]:
        """Returns the results without the terms that only training computes."""
        trained_only = self._trackers.names - set(self._supervised(self._metric_names()))
        return {name: value for name, value in results.items() if name not in trained_only}

    def _metric_names(self) -> list[str]:
        """Returns whose logits the compiled metrics are computed on."""
        return list(self.students)

    def _logged_names(self) -> list[str]:
        """Returns the names of further values for the logs."""
        return []

    def _logged_values(self, outputs: Forward) -> dict[str, Any]:
        """Returns further values for the logs, by name."""
        return {}

    def _metrics_for_keras(self, given: Any, loss: Any) -> Any:
        if self._several:
            given = student_metrics.for_each_student(given, self._metric_names())
        return metrics_of_logits.for_outputs(given, loss, self._student_output(), self._is_logits)

    def _is_logits(self, output: str | None = None) -> bool:
        """Returns whether the students, which are alike, give logits at an output.

        Where the head cannot be told, the compiled loss says what it takes them for.
        """
        student = next(iter(self.students.values()))
        head = heads.of_model(student, output).head(output)
        if head is not None:
            return head == heads.LOGITS
        return self._supervision is None or self._supervision.from_logits(output) is not False


def _rule(owner: str, shape: tuple, ignored: set[int], reader: Any) -> LabelRule:
    rows = require_distributions if reader.takes_soft_labels else require_one_hot
    return LabelRule(owner, None, shape[-1], ignored, rows)
