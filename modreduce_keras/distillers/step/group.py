"""Group: passes the peers' outputs to an aggregator, and its targets to the peers' losses."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.checks import heads
from modreduce_keras.distillers.gradients.base import GradientPolicy
from modreduce_keras.distillers.optimizers import TRUNK
from modreduce_keras.distillers.step.forward import ForwardPass, Outputs
from modreduce_keras.knowledge import masks
from modreduce_keras.knowledge.compared import compared
from modreduce_keras.labels import classes_of_one_hot
from modreduce_keras.losses.base import Loss, fits
from modreduce_keras.models.graph import input_specs
from modreduce_keras.ops import float32
from modreduce_keras.output_kind import CLASSES, EMBEDDING, LABELS, LOGIT, REGRESSION, UNKNOWN
from modreduce_keras.symbolic import output_spec
from modreduce_keras.taps import LOGITS

AGGREGATOR = "aggregator"
"""The network, and the group of variables, of the aggregator."""
_OF_SAMPLES = ("features", "trunk", "inputs")
KINDS = (*_OF_SAMPLES, "labels", "averages", "temperature", "independent", "plain_numbers")


class Group:
    """The peers as an aggregator sees them.

    Where samples have positions (tokens, pixels), each position is one example to the aggregator.

    A plain object: the distiller holds what has weights.

    Args:
        aggregator: Merges what the peers put out.
        loss: The online loss.
        forward: Runs the peers.
        taps: The tap of each peer's embedding, by name.

    Raises:
        ValueError: If the peers do not have what the aggregator asks for.
    """

    def __init__(
        self, aggregator: Aggregator, loss: Loss, forward: ForwardPass, taps: Mapping[str, str]
    ):
        unknown = sorted(set(aggregator.needs) - set(KINDS))
        if unknown:
            raise ValueError(
                f"{_name(aggregator)}.needs may name {list(KINDS)}. Received: {unknown}"
            )
        if len(forward.outputs) < aggregator.least_peers:
            raise ValueError(
                f"{_name(aggregator)} needs at least {aggregator.least_peers} students"
                + (", the last of which is the leader" if aggregator.has_leader else "")
                + f". Received: {list(forward.outputs)}"
            )
        if "trunk" in aggregator.needs and forward.trunk is None:
            raise ValueError(
                f"{_name(aggregator)} looks at the layers that the peers share: make them with "
                "mr.models.branch(model, at='stage2', branches=3), or choose a variant that "
                f"needs none. Received: {list(forward.outputs)}, which share none"
            )
        if "temperature" in aggregator.needs and not hasattr(loss, "temperature"):
            raise ValueError(
                f"{_name(aggregator)} needs an online_loss with a temperature, such as "
                f"mr.losses.KD(temperature=3.0). Received: online_loss={loss.name!r}"
            )
        self.aggregator, self.loss, self._taps = aggregator, loss, taps
        self._rank = self._require_alike(forward)
        self._has_positions = self._rank > 2
        self._classes = self._number_of_classes(forward, heads.compares_plain_numbers(loss))
        # Set by the distiller: what the compiled loss says of the outputs.
        self.output_kind = UNKNOWN
        # Set by the distiller, which owns it, where the aggregator needs averages.
        self.past: Any = None

    def _require_alike(self, forward: ForwardPass) -> int:
        """Returns the rank of the peers' logits, or raises if the peers differ."""
        shapes = {}
        for name, reader in forward.readers.items():
            output = forward.outputs[name].logits
            checks.require_single_output(output, reader.model, f"student {name!r}")
            shapes[name] = tuple(output.shape)
        first = next(iter(shapes.values()))
        if any(len(shape) < 2 or not fits(shape[:-1], first[:-1]) for shape in shapes.values()):
            raise ValueError(
                "Peers teach one another by logits (batch, classes), or (batch, ..., classes) of "
                f"equal positions. Received: outputs of shapes {shapes}"
            )
        of_samples = [kind for kind in self.aggregator.needs if kind in _OF_SAMPLES]
        if len(first) > 2 and of_samples:
            raise ValueError(
                f"{_name(self.aggregator)} looks at {of_samples} of whole samples, and takes "
                "logits (batch, classes): aggregator='mean', 'weighted_average' or 'mutual' take "
                f"those of tokens and pixels. Received: outputs of shapes {shapes}"
            )
        return len(first)

    @staticmethod
    def _number_of_classes(forward: ForwardPass, plain_numbers: bool) -> int:
        classes = {name: output.logits.shape[-1] for name, output in forward.outputs.items()}
        if len(set(classes.values())) > 1:
            raise ValueError(
                "Peers need equal numbers of classes to teach one another. Received: "
                + ", ".join(f"{name!r} with {number}" for name, number in classes.items())
            )
        for name, reader in forward.readers.items():
            heads.require_logits(reader.model, f"student {name!r}", plain_numbers=plain_numbers)
        return next(iter(classes.values()))

    def build(self, forward: ForwardPass) -> dict[str, Any]:
        """Builds the aggregator and returns the shapes of what it returns, symbolically.

        Raises:
            ValueError: If the aggregator does not return what it has to.
        """
        specs, aggregator = self._specs(forward), self.aggregator
        logits = specs.pop("logits")
        if not aggregator.built:
            wanted = inspect.signature(aggregator.build).parameters
            shapes = {
                f"{name}_shape": keras.tree.map_structure(lambda spec: spec.shape, spec)
                for name, spec in specs.items()
                if f"{name}_shape" in wanted
            }
            aggregator.build(logits.shape, **shapes)
        group = output_spec(aggregator, logits, **specs)
        peers, classes = logits.shape[1:]
        missing = {"targets", *aggregator.logs} - set(group)
        targets: tuple[Any, ...] = () if missing else tuple(group["targets"].shape)
        sources = len(targets) == 4
        weights = np.shape(group["source_weights"]) if "source_weights" in group else None
        fits = len(targets) in (3, 4) and (targets[1], targets[-1]) == (peers, classes)
        if not fits or (weights != (peers, targets[2]) if sources else weights is not None):
            raise ValueError(
                f"{_name(aggregator)}.call must return a dict with 'targets' of shape (None, "
                f"{peers}, {classes}), or of (None, {peers}, sources, {classes}) with "
                f"'source_weights' ({peers}, sources), and with its logs {list(aggregator.logs)}. "
                f"Received: { {name: tuple(value.shape) for name, value in group.items()} }"
            )
        # A dry run, so that logits that do not suit the loss are an error here.
        target = group["targets"][:, 0, 0] if sources else group["targets"][:, 0]
        own = keras.KerasTensor((None, classes), "float32")
        output_spec(_DryRun(self.loss), target, own)
        self.shapes = {name: tuple(group[name].shape) for name in aggregator.logs}
        return group

    def _specs(self, forward: ForwardPass) -> dict[str, Any]:
        """Returns the symbolic arguments of the aggregator, by name."""
        outputs = forward.outputs
        specs = {"logits": keras.KerasTensor((None, len(outputs), self._classes), "float32")}
        for kind in self.aggregator.needs:
            if kind == "features":
                specs[kind] = [self._feature(name, output) for name, output in outputs.items()]
            elif kind == "trunk":
                trunk: Any = forward.trunk  # that there is one was required
                specs[kind] = trunk.branches.trunk.output
            elif kind == "inputs":
                specs[kind] = input_specs(next(iter(forward.readers.values())).model)
            elif kind == "labels":
                specs[kind] = keras.KerasTensor((None,), "int32")
            elif kind == "averages":
                specs[kind] = specs["logits"]
            elif kind == "independent":
                specs[kind] = self._independent()
            elif kind == "plain_numbers":
                specs[kind] = self._plain_numbers()
            else:
                specs[kind] = keras.KerasTensor((), "float32")
        return specs

    def _feature(self, name: str, output: Any) -> Any:
        feature = output.features[self._taps[name]]
        if keras.tree.is_nested(feature) or len(feature.shape) != 2:
            received = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), feature)
            raise ValueError(
                f"{_name(self.aggregator)} compares embeddings (batch, width): features_at must "
                f"name a tap of each student that gives one. Received: {self._taps[name]!r} of "
                f"student {name!r} with a feature of shape {received}"
            )
        return feature

    def __call__(self, outputs: Outputs, training: bool, policy: GradientPolicy) -> dict[str, Any]:
        """Returns what the aggregator makes of one forward pass.

        Args:
            outputs: The forward pass.
            training: Whether it is a training step.
            policy: Scales the gradients that leave the aggregator for the networks.
        """
        students = outputs.students.items()
        logits = [_given(name, own.logits, policy) for name, own in students]
        needed = {kind: self._needed(kind, outputs, policy) for kind in self.aggregator.needs}
        rows = ops.stack([_as_rows(one) for one in logits], axis=1)
        group = self.aggregator(rows, **needed, training=training)
        if "ensemble" in group:
            group["ensemble"] = ops.reshape(group["ensemble"], ops.shape(logits[0]))
        return group

    def _needed(self, kind: str, outputs: Outputs, policy: GradientPolicy) -> Any:
        students = outputs.students.items()
        if kind == "features":
            features = {name: own.features[self._taps[name]] for name, own in students}
            return [_given(name, feature, policy) for name, feature in features.items()]
        if kind == "trunk":
            return _given(TRUNK, outputs.trunk, policy)
        if kind == "inputs":
            return next(iter(outputs.seen.values()))
        if kind == "labels":
            return self._class_labels(outputs.batch.y)
        if kind == "independent":
            return self._independent()
        if kind == "plain_numbers":
            return self._plain_numbers()
        if kind == "averages":
            past = [float32(self.past(outputs.seen[name], model=name)) for name, _ in students]
            return ops.stack([_as_rows(one) for one in past], axis=1)
        return float32(ops.convert_to_tensor(self.loss.temperature))

    def _independent(self) -> bool:
        """Returns whether the outputs are labels that do not exclude one another."""
        if self.output_kind in (CLASSES, LOGIT, LABELS):
            return self.output_kind != CLASSES
        return CLASSES not in (self.loss.output_kinds or (CLASSES,))

    def _plain_numbers(self) -> bool:
        """Returns whether the outputs are plain numbers, which have no probabilities."""
        if self.loss.output_kinds is not None:
            return False
        of_numbers = self.output_kind in (REGRESSION, EMBEDDING)
        return of_numbers or (self.output_kind == UNKNOWN and self._classes == 1)

    def _class_labels(self, labels: Any) -> Any:
        """Returns the labels as class indices, (batch,), or as they are if rows are fine."""
        if labels is None or keras.tree.is_nested(labels):
            raise ValueError(
                f"{_name(self.aggregator)} needs labels: y must be class indices (batch,) or "
                f"one-hot (batch, {self._classes}). Received: y={labels!r}"
            )
        labels = ops.convert_to_tensor(labels)
        if self._has_positions:
            whole = len(labels.shape) == self._rank  # one-hot, or with a last axis of one
            labels = _as_rows(labels) if whole else ops.reshape(labels, (-1,))
        if len(labels.shape) == 2:
            if labels.shape[-1] == self._classes and self._classes > 1:
                if self.aggregator.takes_soft_labels:
                    return labels
                return classes_of_one_hot(labels, _name(self.aggregator))
            labels = ops.squeeze(labels, -1)
        return ops.cast(labels, "int32")

    def online_loss(self, name: str, outputs: Outputs, policy: GradientPolicy) -> Any:
        """Returns the online loss of a peer, (batch,).

        Args:
            name: The peer's name.
            outputs: The forward pass, with what the aggregator made of it.
            policy: Takes its network's scale from a gradient that flows into the targets.
        """
        targets, weights = outputs.extra["targets"], outputs.extra.get("source_weights")
        index = list(outputs.students).index(name)
        logits, target = float32(outputs.students[name].logits), targets[:, index]
        loss: Callable[[Any, Any], Any] = self.loss.call
        if self._has_positions:
            loss = self._by_position(outputs)
        if self.aggregator.trains_through_targets:
            loss = self.loss.per_sample
            target = policy.crossing(target, back_from=name, into=AGGREGATOR)
        if weights is None:
            return loss(target, logits)
        sources: Iterable[int] = range(targets.shape[2])
        if isinstance(weights, np.ndarray):  # known now: what weighs nothing is left out
            sources = np.flatnonzero(weights[index])
        return sum(
            ops.cast(weights[index, source], "float32") * loss(target[:, source], logits)
            for source in sources
        )

    def _by_position(self, outputs: Outputs) -> Callable[[Any, Any], Any]:
        """Returns the online loss of logits with positions, without those that are masked."""
        mask = masks.together([own.masks.get(LOGITS) for own in outputs.students.values()])

        def loss(target: Any, logits: Any) -> Any:
            target = ops.reshape(target, ops.shape(logits))
            y_true = target if mask is None else {"teacher": target, "mask": mask}
            return compared(self.loss, y_true, logits, outputs.batch.by_position)

        return loss


class _DryRun(keras.layers.Layer):
    """Lets Keras run a loss symbolically."""

    def __init__(self, loss: Loss):
        super().__init__(dtype="float32")
        self.loss = loss

    def call(self, target: Any, logits: Any) -> Any:
        return self.loss.call(target, logits)


def _given(student: str, value: Any, policy: GradientPolicy) -> Any:
    """Returns what a student gives to the aggregator, float32."""
    return policy.crossing(float32(value), back_from=AGGREGATOR, into=student)


def _as_rows(values: Any) -> Any:
    """Returns (batch, ..., classes) as (examples, classes)."""
    return ops.reshape(values, (-1, values.shape[-1]))


def _name(aggregator: Aggregator) -> str:
    return type(aggregator).__name__
