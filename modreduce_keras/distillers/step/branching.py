"""Branching: runs students that share a trunk, the trunk once and each of its heads once."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.taps import ModelOutput, TapReader, run_together


class SharedTrunk:
    """Runs the students of a branched model.

    A plain object, so that Keras counts and saves the layers once, with the students.

    Args:
        branches: The branched model.
        own_views: Whether each student sees something else. The trunk then runs once on all of
            it, in one large batch.
    """

    def __init__(self, branches: Any, own_views: bool):
        self.branches = branches
        self.own_views = own_views

    def __call__(
        self, readers: Mapping[str, TapReader], seen: Mapping[str, Any], training: bool
    ) -> tuple[dict[str, ModelOutput], Any]:
        """Returns the students' outputs, and what the trunk gave, (batch, ...).

        Args:
            readers: Reader of each student.
            seen: What each student sees.
            training: Whether it is a training step.
        """
        shared = {}

        def run() -> Any:
            inputs = next(iter(seen.values()))
            if self.own_views:
                inputs = keras.tree.map_structure(lambda *v: ops.concatenate(v), *seen.values())
            shared["trunk"] = self.branches.trunk(inputs, training=training)
            fork = self._parts(self.branches.fork(shared["trunk"]))
            heads = self.branches.heads.items()
            return {
                name: head(part, training=training)
                for (name, head), part in zip(heads, fork, strict=True)
            }

        outputs = run_together(readers, run)
        if self.own_views:
            outputs = self._own_features(readers, outputs)
        return outputs, shared["trunk"]

    def _parts(self, everything: Any) -> list[Any]:
        """Returns each student's part of what came out of the trunk."""
        number = len(self.branches.heads)
        if not self.own_views:
            return [everything] * number
        parts = [ops.split(tensor, number) for tensor in keras.tree.flatten(everything)]
        return [
            keras.tree.pack_sequence_as(everything, list(own)) for own in zip(*parts, strict=True)
        ]

    def _own_features(self, readers: Any, outputs: Any) -> Any:
        """Returns the outputs with the student's part alone of features inside the trunk."""
        inside = {id(layer) for layer in flatten_layers(self.branches.trunk)}
        return {
            name: output._replace(
                features={
                    tap: self._parts(feature)[index]
                    if tap in readers[name].taps and id(readers[name].taps[tap][0]) in inside
                    else feature
                    for tap, feature in output.features.items()
                }
            )
            for index, (name, output) in enumerate(outputs.items())
        }
