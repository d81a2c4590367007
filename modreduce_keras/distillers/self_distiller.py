"""Self-distillation: classifiers at earlier layers of a network learn from the deepest one."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from modreduce_keras import knobs, registry
from modreduce_keras.arguments import require_choice
from modreduce_keras.calls import answering, of_model
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.checks import heads, kind_checks
from modreduce_keras.distillers.checks.ignored import warn_of_ignored
from modreduce_keras.distillers.checks.shares import Share
from modreduce_keras.distillers.early_exit import EarlyExit
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.forward import ENSEMBLE, Outputs
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.held import Held
from modreduce_keras.knobs import Knob
from modreduce_keras.knowledge import Response
from modreduce_keras.models.exits import FINAL, deepest_maps
from modreduce_keras.models.exits import exits as add_exits
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register
from modreduce_keras.symbolic import output_spec
from modreduce_keras.taps import ModelOutput

_STUDENT, _FEATURE = "student", "feature"


@register("distiller", "self_distiller")
class SelfDistiller(BaseDistiller):
    """Trains a network together with classifiers at its earlier layers, which learn from it.

    total = CE(z, y) + Σ_i [(1 - alpha) · CE(z_i, y) + alpha · KD(z_i, z) + feature_weight ·
            ‖f_i - f‖²]

    with the logits z and the deepest feature f of the network, the logits z_i of exit i and the
    feature f_i of its bottleneck, and KD(z_i, z) = T² KL(softmax(z / T) ‖ softmax(z_i / T)), or
    BinaryKD of independent labels. In KD and in the features' distance, z and f are constants.

    The given model is trained in place. The losses of the exits also train its layers, which
    improves the model. After training, use each exit as a small network (`exit_model`), or all of
    them as one network that easy samples leave early (`early_exit`).

    Logs: `stage1/ce`, `stage1/kd`, `stage1/hint` (the distance), `stage1/accuracy` and so on for
    the exit at `"stage1"`, `final/ce` and `final/accuracy` for the network itself, `ensemble/...`
    for the mean of all logits, which is not part of the loss. With
    `compile(evaluate_knowledge=True)`, validation logs `kd` and `hint` too, and `val_loss` is the
    total above; otherwise it is the sum of the losses on the labels.

    Args:
        model: Functional or Sequential model to logits (batch, classes).
        exits: Names of the layers after which there is an exit, from shallow to deep; see
            `mr.models.exits`.
        alpha: Share of the loss of an exit against the deepest classifier, the rest being the loss
            on the labels; from 0 to 1, or a schedule. Defaults to 0.3.
        temperature: T, a positive number or a schedule. Defaults to 3.
        feature_weight: Weight of the distance of the features, a number that is not negative, or
            a schedule. Defaults to 0.03.
        feature_at: Layer of the deepest maps. Defaults to the last layer that returns maps.
        variant: Which features to compare. `"reference"`, the default: maps averaged over their
            positions, (batch, channels), as in published implementations. `"paper"`: whole maps.
            Their distance is a sum over all entries, so large maps need a much smaller weight.
        supervised_weight: Weight of the compiled loss on the labels, at all exits. Defaults to 1.
        response: Loss of an exit's logits against the deepest ones: `"kd"`, or `"binary_kd"` for
            independent labels, trained by a binary cross-entropy; the term is logged by this name.
            Defaults to `None`: `"binary_kd"` where the model has one logit, else `"kd"`.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        ValueError: If a layer is unknown or cannot have an exit, the model ends in probabilities,
            or an argument is out of range.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> distiller = mr.SelfDistiller(model, exits=["stage1"])
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> sorted(distiller.fit(images, labels, verbose=0).history)
        ['ensemble/ce', 'final/ce', 'loss', 'stage1/ce', 'stage1/hint', 'stage1/kd']
        >>> distiller.exit_model("stage1").predict(images, verbose=0).shape
        (8, 3)

    Reference:
        Zhang et al., Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks
        via Self Distillation, 2019. The factor T² is not in the paper's equation; it keeps the size
        of KD's gradient, as in all losses here. The code that its authors published later has no
        distance of features, no T², and other bottlenecks.
    """

    alpha = Share()
    feature_weight = Knob()
    _model_views: ClassVar[tuple[str, ...]] = ("teacher", "student", "model_with_exits")

    @answering(of_model("mr.SelfDistiller"))
    def __init__(
        self,
        model: keras.Model,
        exits: Sequence[str],
        *,
        alpha: Any = 0.3,
        temperature: Any = 3.0,
        feature_weight: Any = 0.03,
        feature_at: str | None = None,
        variant: str = "reference",
        supervised_weight: Any = 1.0,
        response: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        checks.require_model(model, "model")
        variant = require_choice("variant", variant, ("reference", "paper"))
        network = add_exits(model, exits, feature_at=feature_at)
        heads.require_logits(model, "model")
        exits = [name for name in network.output if name != FINAL]
        deepest = feature_at or deepest_maps(model)
        super().__init__(
            {_STUDENT: network},
            teacher=None,
            knowledge={},
            supervised_weight=supervised_weight,
            student_taps={_STUDENT: [deepest, *(f"{name}_exit" for name in exits)]},
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        warn_of_ignored({"model": model})
        self.has_several = True
        self._model = Held(model)  # its layers are saved with those of the network
        self.exits, self.feature_at, self.variant = exits, feature_at, variant
        self.alpha, self.feature_weight = alpha, feature_weight
        self._has_default_response = response is None
        if response is None:
            response = "binary_kd" if self.student_output().shape[-1] == 1 else "kd"
        require_choice("response", response, ("kd", "binary_kd"))
        self.kd = registry.get("loss", response, temperature=temperature)
        self._kd_variables = knobs.variables(self.kd)
        self.hint = registry.get("loss", "hint", variant="paper")
        self._features = {FINAL: deepest, **{name: f"{name}_exit" for name in exits}}
        with knobs.bound([self.kd], lambda: self.step):
            # A dry run, so that logits that do not suit the loss are an error here.
            logits = keras.KerasTensor(self.student_output().shape, "float32")
            output_spec(Response(self.kd), logits, logits)

    # What comes out

    @property
    def student(self) -> keras.Model:
        """The model as it was given, without exits: plain Keras."""
        return self._model()

    @property
    def model_with_exits(self) -> keras.Model:
        """The network with all exits, from the inputs to a dict of logits: plain Keras."""
        return self.students[_STUDENT]

    @property
    def temperature(self) -> Any:
        """T: the temperature of the loss against the deepest classifier."""
        return self.kd.temperature

    @temperature.setter
    def temperature(self, value: Any) -> None:
        self.kd.temperature = value

    def exit_model(self, exit: str) -> keras.Model:
        """Returns the network up to one exit as a Keras model, to be saved and deployed.

        It shares its layers with the distiller, so further training changes it too.

        Args:
            exit: Name of an exit, or `"final"`.

        Raises:
            ValueError: If there is no such exit.
        """
        network = self.model_with_exits
        if exit not in network.output:
            raise ValueError(f"exit must be one of {[*self.exits, FINAL]}. Received: {exit=}")
        if exit == FINAL:
            return self.student
        name = f"{self.student.name}_{exit}"
        return keras.Model(network.input, network.output[exit], name=name)

    def early_exit(self, threshold: float = 0.9) -> EarlyExit:
        """Returns a network that samples leave at the first exit that is confident.

        It shares its layers with the distiller.

        Args:
            threshold: Softmax probability, from 0 to 1, at which a sample leaves. Defaults to 0.9.

        Raises:
            ValueError: If the threshold is out of range, a connection bypasses an exit's layer, or
                the outputs are not classes.
        """
        if CLASSES not in self.kd.output_kinds:
            raise ValueError(
                "Samples leave early where the network is sure of one class, and these outputs are "
                "independent labels: exit_model(name) is the network up to one exit. Received: "
                f"response={self.kd.identifier!r}"
            )
        return EarlyExit(self.model_with_exits, threshold=threshold)

    # What runs

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Returns the logits of the network itself, as `predict` does."""
        return super().call(inputs, training=training)[FINAL]

    def forward_pass(self, batch: Batch, training: bool, with_teacher: bool) -> Outputs:
        """Runs the network once; each exit, and its end, counts as a student."""
        outputs = super().forward_pass(batch, training, with_teacher)
        network = outputs.students[_STUDENT]
        classifiers = {
            name: ModelOutput(
                network.logits[name], {_FEATURE: self._feature(network.features[tap])}
            )
            for name, tap in self._features.items()
        }
        logits = [ops.cast(one.logits, "float32") for one in classifiers.values()]
        return outputs.replace(students=classifiers, ensemble=sum(logits) / len(logits))

    def _feature(self, maps: Any) -> Any:
        maps = ops.cast(maps, "float32")
        return maps if self.variant == "paper" else ops.mean(maps, axis=(1, 2))

    def build_terms(self) -> list[Term]:
        """Returns the terms of the loss: on the labels, and against the deepest classifier."""
        terms = self.supervised_terms(FINAL, lambda: self.supervised_weight)
        for name in self.exits:
            terms += self.supervised_terms(name, self._weight_of_labels)
            terms.append(Term(self.kd.name, self._kd(name), lambda: self.alpha, name))
            terms.append(Term("hint", self._distance(name), lambda: self.feature_weight, name))
        return [*terms, *self.supervised_terms(ENSEMBLE, None)]

    def _weight_of_labels(self) -> Any:
        return (1.0 - self.alpha) * self.supervised_weight

    def _kd(self, exit: str) -> Callable[[Outputs], Any]:
        def compute(outputs: Outputs) -> Any:
            return self.kd.call(outputs.students[FINAL].logits, outputs.students[exit].logits)

        return compute

    def _distance(self, exit: str) -> Callable[[Outputs], Any]:
        def compute(outputs: Outputs) -> Any:
            deepest, own = (outputs.students[name].features[_FEATURE] for name in (FINAL, exit))
            return 2.0 * self.hint.call(deepest, own)

        return compute

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Configures training; see `BaseDistiller.compile`."""
        if loss is None:
            raise ValueError(
                "A network that is its own teacher learns from the labels: compile with a loss. "
                "Received: loss=None"
            )
        super().compile(optimizer, loss, *args, **kwargs)

    def parts_on_outputs(self) -> list[kind_checks.Part]:
        """Returns the parts that compare outputs and must suit the compiled loss."""
        response = f"response={self.kd.identifier!r}"
        numbers = "mr.Distiller and mr.Response('logit_mse'), for exits have no loss of numbers,"
        by_default = self._has_default_response
        return [kind_checks.Part(response, self.kd, None, "response={}", numbers, by_default)]

    def student_output(self) -> Any:
        """Returns the symbolic output of the network itself."""
        return self.model_with_exits.output[FINAL]

    def measured(self) -> list[str]:
        """Returns the names of the outputs that the compiled metrics are computed for."""
        return [*self.exits, FINAL, ENSEMBLE]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        config = super().get_config()
        del config["teacher"], config["teacher_input"], config["teacher_dtype"]
        return {
            **config,
            "model": keras.saving.serialize_keras_object(self.student),
            "exits": list(self.exits),
            "temperature": knobs.config(self.kd)["temperature"],
            "feature_at": self.feature_at,
            "variant": self.variant,
            "response": None if self._has_default_response else self.kd.identifier,
        }
