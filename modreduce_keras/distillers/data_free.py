"""DataFreeDistiller: a student learns from images that a generator makes from noise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras import registry
from modreduce_keras.arguments import require_integer
from modreduce_keras.calls import by_name, shown
from modreduce_keras.data.sampled import noise
from modreduce_keras.distillers import checks, optimizers
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.generation import generators
from modreduce_keras.distillers.generation.methods import (
    GENERATOR,
    STUDENT,
    Generation,
    GeneratorTerm,
)
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.forward import Outputs
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.distillers.step.turns import InTurns, Updater
from modreduce_keras.distillers.teachers.live import constant
from modreduce_keras.distribute import reducible_logs
from modreduce_keras.keras_internals import compiled_metrics
from modreduce_keras.knowledge import Response
from modreduce_keras.knowledge.shorthand import resolved
from modreduce_keras.models.shapes import require_floats
from modreduce_keras.registry import register

_TEACHER = "teacher"
_RUNS = "it sees images that are made in each step, and gradients flow through it"
_WITH_DATA = (
    "mr.Distiller(student=..., teacher=outputs, knowledge='kd') learns from outputs on data"
)


@register("distiller", "data_free_distiller")
class DataFreeDistiller(BaseDistiller):
    """Trains a student without data, on images that a generator makes for the teacher.

    student:   Σ_k weight_k · K_k(teacher(G(z)), student(G(z))),  z from a normal distribution
    generator: the loss of `method`

    Neither images nor labels are needed, only the teacher. `fit(steps_per_epoch=100, epochs=20)`
    draws the noise z; `fit(mr.data.noise((100,), steps=100), epochs=20)` does the same. Compile
    without a loss, because there are no labels to train on. If you have real data for validation,
    metrics and the student's terms are computed on them: `compile("adam", metrics=["accuracy"])`,
    `fit(..., validation_data=(x, y))`.

    Student and generator have an optimizer each: `compile(optimizer={"student": ..., "generator":
    ...})`. One optimizer for both is copied for each.

    Logs: the student's terms by name (`kd`), and those of the generator (`generator/adversarial`),
    each averaged over the steps of its network. A term is missing in an epoch in which its network
    was not trained. `loss` is the mean over all steps; it mixes the losses of two networks, so it
    says little.

    A student that is trained without data may still reveal something about it, because the
    generator uses what the teacher has learnt about its training data. See the guide *Without the
    data*.

    Args:
        student: The model to train. Use it after `fit` as `distiller.student`.
        teacher: The trained model to learn from, with logits (batch, classes) of at least two
            classes. It is never changed. It must be differentiable, because gradients flow through
            it to the images.
        generator: A model from noise (batch, n) to images of the shape that the student takes, in
            the range that the teacher was trained on. Defaults to `None`:
            `mr.models.image_generator`.
        method: What the generator learns: `"zskt"` (images on which student and teacher disagree),
            `"dafl"` (images that the teacher classifies with confidence), or
            `mr.distillers.ZSKT(...)` and `mr.distillers.DAFL(...)` with arguments. Defaults to
            `"zskt"`.
        knowledge: What the student learns from the teacher; see `mr.Distiller`. Defaults to `None`:
            KD at temperature 1, as in both papers.
        image_range: The lowest and the highest pixel value of the default generator. Defaults to
            `None`: what `mr.models.preprocessing` finds for the teacher.
        teacher_input: The teacher's input, if it differs from the student's: a differentiable
            function of the images; see `BaseDistiller`. Defaults to `None`.
        teacher_dtype: What the teacher computes in; see `BaseDistiller`.
        seed: Seed of the noise that `fit` draws, a non-negative integer. Defaults to 0.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        TypeError: If a model is not a Keras model.
        ValueError: If shapes of the models do not match, they take integers, the pixel range for
            the default generator is unknown, or an argument is out of range.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> distiller = mr.DataFreeDistiller(
        ...     student=mr.models.get("convnet", num_classes=3, widths=(4, 8)),
        ...     teacher=mr.models.get("convnet", num_classes=3, widths=(8, 16)),
        ...     generator=mr.models.image_generator((28, 28, 1), image_range=(0.0, 1.0), width=4),
        ...     method=mr.distillers.ZSKT(student_updates=2),
        ... )
        >>> distiller.compile("adam")
        >>> history = distiller.fit(steps_per_epoch=3, batch_size=8, verbose=0)
        >>> sorted(history.history)
        ['generator/adversarial', 'kd', 'loss']
        >>> distiller.generate(2).shape
        (2, 28, 28, 1)

    Reference:
        Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching, 2019;
        Chen et al., Data-Free Learning of Student Networks, 2019.
    """

    @by_name(
        "mr.DataFreeDistiller(student=..., teacher=...)",
        why="so that student and teacher are not swapped",
    )
    def __init__(
        self,
        *,
        student: keras.Model,
        teacher: keras.Model,
        generator: keras.Model | None = None,
        method: str | Generation = "zskt",
        knowledge: Any = None,
        image_range: Sequence[float] | None = None,
        teacher_input: Any = None,
        teacher_dtype: str | None = None,
        seed: int = 0,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        checks.require_model(student, "student")
        checks.require_running_teacher(teacher, _RUNS, _WITH_DATA)
        resolved_method: Generation = registry.get("generation", method, Generation)
        if knowledge is None:
            knowledge = Response(registry.get("loss", "kd", temperature=1.0))
        taught = resolved(knowledge, student, teacher)
        checks.require_knowledge_and_teacher(teacher, taught)
        super().__init__(
            {STUDENT: student},
            teacher=teacher,
            knowledge={STUDENT: taught},
            teacher_input=teacher_input,
            teacher_dtype=teacher_dtype,
            teacher_taps=resolved_method.taps_of(teacher),
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        generators.require_classes(student, self.student_output(), teacher)
        require_floats(teacher, _TEACHER)
        if resolved_method.asks_student:
            require_floats(student, STUDENT)
        self.generator = generators.generator_for(student, teacher, generator, image_range)
        self._method = resolved_method
        self.seed = require_integer("seed", seed, least=0)
        self.turn = resolved_method.turns[0]
        self.tracing.inputs_of = self._generated_of
        self.runs.tells_left_out = False  # real data have no term of the generator

    @property
    def student(self) -> keras.Model:
        """The student: plain Keras, to be saved and deployed without this library."""
        return self.students[STUDENT]

    @property
    def method(self) -> Generation:
        """What the generator learns, and in which steps."""
        return self._method

    def generate(self, count: int, seed: int = 0) -> np.ndarray:
        """Returns images that the generator makes, (count, height, width, channels).

        Args:
            count: Number of images.
            seed: Of their noise; the same seed gives the same noise. Defaults to 0.
        """
        shape = (require_integer("count", count), *self._noise_shape())
        drawn = np.random.default_rng(seed).normal(size=shape).astype("float32")
        return np.asarray(ops.convert_to_numpy(self.generator(drawn, training=False)))

    def _noise_shape(self) -> tuple[int, ...]:
        return tuple(self.generator.input_shape[1:])

    # What runs

    def forward_pass(self, batch: Batch, training: bool, with_teacher: bool) -> Outputs:
        """Runs all networks on what the generator makes; in evaluation the student on real data."""
        if not training:
            return super().forward_pass(batch, training, with_teacher)
        self._require_noise(batch.x)
        images = self.generator(batch.x, training=True)
        apart = ops.stop_gradient(images)
        learns = GENERATOR in self.turn
        seen = images if learns and self._method.asks_student else apart
        outputs = super().forward_pass(Batch(seen), training, with_teacher=False)
        forward = self._forward
        given = forward.views.teacher(images if learns else apart, training)
        teacher = forward.teacher.with_gradient(given)  # type: ignore[union-attr]
        return outputs.replace(
            teacher={STUDENT: constant(teacher)}, extra={_TEACHER: teacher}, networks=self.turn
        )

    def _require_noise(self, x: Any) -> None:
        shape = self._noise_shape()
        if keras.tree.is_nested(x) or tuple(x.shape[1:]) != shape:
            received = keras.tree.map_structure(lambda leaf: tuple(leaf.shape), x)
            raise ValueError(
                "A training without data is fitted on noise for the generator: "
                "fit(steps_per_epoch=100, epochs=20), or fit(mr.data.noise("
                f"{shape}, steps=100), epochs=20). Received: x of shape {received}"
            )

    def _generated_of(self, data: Any) -> Any:
        """Returns images of a batch of noise; by them it is chosen how the teacher runs."""
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        self._require_noise(x)
        return self.generator(x, training=False)

    def build_terms(self) -> list[Term]:
        """Returns the terms of the loss: those of the student, and those of the generator."""
        return [
            *self.offline_terms(),
            *map(self._generator_term, self._method.terms_of(self.teacher)),
        ]

    def _generator_term(self, term: GeneratorTerm) -> Term:
        def compute(outputs: Outputs) -> Any:
            return term.compute(outputs.extra[_TEACHER], outputs.students[STUDENT].logits)

        return Term(
            term.name, compute, term.weight, GENERATOR, network=GENERATOR, training_only=True
        )

    def networks(self) -> dict[str, list[keras.layers.Layer]]:
        """Returns the layers of each network: the student's, and the generator's."""
        return {STUDENT: super().networks()[STUDENT], GENERATOR: [self.generator]}

    def log_name(self, student: str, name: str) -> str:
        """Returns the name of a value of the student, or of the generator, in the logs."""
        return f"{GENERATOR}/{name}" if student == GENERATOR else name

    def variable_groups(self) -> dict[str, list[keras.Variable]]:
        """Returns the trainable variables by group: those of the student, and the generator's."""
        return {**super().variable_groups(), GENERATOR: list(self.generator.trainable_variables)}

    def updated_variables(self) -> list[keras.Variable]:
        """Returns the variables of the networks that learn in this step."""
        groups = self.variable_groups()
        return [variable for name in self.turn for variable in groups[name]]

    def updater(self) -> Updater:
        """Returns what updates them."""
        return Updater(self.optimizer)

    def make_train_function(self, force: bool = False) -> Any:
        """Makes a compiled training step for each turn."""
        cycle = self._method.turns
        if len(set(cycle)) == 1:
            return super().make_train_function(force)
        if self.train_function is not None and not force:
            return self.train_function
        steps: dict[Any, Callable[[Any], Any]] = {}
        for turn in set(cycle):
            steps[turn] = super().make_train_function(force=True)
        self.train_function = InTurns(self, cycle, steps)
        return self.train_function

    def reset_metrics(self) -> None:
        super().reset_metrics()
        if isinstance(self.train_function, InTurns):
            self.train_function.reset()

    def batch_to_build_on(self, iterator: Any) -> Any:
        """Returns a batch to build metrics on: those have no labels in training."""
        batch = super().batch_to_build_on(iterator)
        if self.runs.is_evaluating:
            return batch
        return (ops.zeros((1, *self.generator.output_shape[1:])),)

    # Training

    def compile(self, optimizer: Any = "adam", loss: Any = None, *args: Any, **kwargs: Any) -> None:
        """Configures training; see `BaseDistiller.compile`.

        Args:
            optimizer: `{"student": ..., "generator": ...}`; layers of the student may have their
                own. One optimizer for both is copied for each.
            loss: Must be `None`.
            *args: As in `BaseDistiller.compile`.
            **kwargs: As in `BaseDistiller.compile`.
        """
        if loss is not None:
            raise ValueError(
                "Without data there are no labels that a loss could be computed on: leave loss= "
                "out; compile(optimizer, metrics=['accuracy']) measures the student where fit is "
                f"given validation_data. Received: {loss=}"
            )
        several = len(set(self._method.turns)) > 1
        if several and kwargs.get("steps_per_execution", 1) != 1:
            raise ValueError(
                f"steps_per_execution must be 1 where student and generator learn in turns. "
                f"Received: steps_per_execution={kwargs['steps_per_execution']}"
            )
        if optimizer is not None and not isinstance(optimizer, Mapping):
            optimizer = {name: optimizers.copy_of(optimizer) for name in (STUDENT, GENERATOR)}
        super().compile(optimizer, None, *args, **kwargs)

    def fit(
        self,
        x: Any = None,
        y: None = None,
        *,
        batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        **arguments: Any,
    ) -> keras.callbacks.History:
        """Trains student and generator.

        Args:
            x: A dataset of noise, such as `mr.data.noise((100,), steps=100)`, or an array of it.
                Defaults to `None`: new noise in each epoch.
            y: Must be `None`: noise has no labels.
            batch_size: Number of images in a batch, for noise that is not a dataset. Defaults to
                64.
            steps_per_epoch: Number of batches in an epoch; needed without `x`.
            **arguments: `epochs`, `callbacks`, `validation_data`, ..., as in `keras.Model.fit`.
        """
        if y is not None:
            raise ValueError(
                "fit takes noise, which has no labels: leave y= out, as "
                "fit(steps_per_epoch=100). Images with labels are for validation_data=(x, y), or "
                f"to train on with mr.Distiller. Received: y={shown(y)}"
            )
        if x is None:
            if steps_per_epoch is None:
                raise ValueError(
                    "Without data, give the number of steps in an epoch: "
                    "fit(steps_per_epoch=100, epochs=20). Received: steps_per_epoch=None"
                )
            steps = require_integer("steps_per_epoch", steps_per_epoch)
            size = 64 if batch_size is None else require_integer("batch_size", batch_size)
            # It ends with the epoch, by whose number it is drawn: so a training can go on.
            x = noise(self._noise_shape(), batch_size=size, steps=steps, seed=self.seed)
            batch_size = steps_per_epoch = None
            arguments = {"shuffle": False, **arguments}
        return super().fit(x, batch_size=batch_size, steps_per_epoch=steps_per_epoch, **arguments)

    # Logs

    def test_step(self, data: Any) -> Any:
        """Evaluates one batch of real data."""
        before, self.runs.is_evaluating = self.runs.is_evaluating, True
        try:
            return super().test_step(data)
        finally:
            self.runs.is_evaluating = before

    def step_logs(self, outputs: Outputs) -> dict[str, Any]:
        """Returns the logs of a step; in training those without labels."""
        if not outputs.training:
            return super().step_logs(outputs)
        return reducible_logs(self.distribute_strategy, self.means())

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Updates the compiled metrics where there are labels, and returns all logs."""
        if y is None:
            return self.get_metrics_result()
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self) -> Any:
        """Returns all logs by name; those of compiled metrics in evaluation, with labels."""
        compiled = compiled_metrics(self)
        unbuilt = compiled is not None and not compiled.built
        if not self.runs.is_evaluating:
            return self.means()
        return self.evaluated(self.means()) if unbuilt else super().get_metrics_result()

    # Saving

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        serialize = keras.saving.serialize_keras_object
        config = super().get_config()
        del config["supervised_weight"]
        return {
            **config,
            "student": serialize(self.student),
            "knowledge": [serialize(knowledge) for knowledge in self.knowledge[STUDENT]],
            "generator": serialize(self.generator),
            "method": serialize(self._method),
            "seed": self.seed,
        }
