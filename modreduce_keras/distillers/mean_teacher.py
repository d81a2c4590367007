"""MeanTeacher: a model agrees with the moving average of its own weights."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.calls import answering, of_model
from modreduce_keras.distillers.consistency import STUDENT, ConsistencyDistiller
from modreduce_keras.distillers.step.averages import EMAWeights
from modreduce_keras.models.clones import copy_model
from modreduce_keras.registry import register


@register("distiller", "mean_teacher")
class MeanTeacher(ConsistencyDistiller):
    """Trains a model to agree with the moving average of its own weights.

    total = CE(z, y) + consistency_weight · mean_c (softmax(z)_c - softmax(z')_c)²
    θ' = keep · θ' + (1 - keep) · θ after each step

    with the logits z of the model and z' of the mean teacher, the model with the EMA weights θ'.
    The mean teacher is usually better than the model; deploy it as `distiller.mean_teacher()`.

    To include unlabelled samples, give them the label -1 and compile with
    `SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)`.

    Logs: `ce`, `consistency` and the compiled metrics, all for the model and not for its mean
    teacher. With `compile(evaluate_knowledge=True)`, validation compares the two models as well, in
    inference and without the noise of `teacher_input`, and `val_loss` is the total above.

    Args:
        model: The model to train, with logits (batch, classes) as its output. It should contain
            noise, such as dropout and augmenting layers, by which it differs from the mean teacher.
        momentum: Decay of the EMA weights at each step, from 0 to 1, or a schedule. Defaults to
            0.999. (The paper uses 0.99 while the weight ramps up:
            `mr.schedules.CutOff(0.999, steps=..., before=0.99)`.)
        consistency_weight: Weight of the consistency term, a number that is not negative, or a
            schedule. Defaults to 1; the paper ramps up to 100 on CIFAR-10 and to 1 on SVHN, as in
            `mr.schedules.SigmoidRampUp(100.0, steps=...)`.
        variant: `"reference"`, the default: keep = min(1 - 1 / (t + 1), momentum) at step t from 1
            on, as in the authors' PyTorch code. This is first a plain mean, which soon forgets the
            initial weights. `"paper"`: keep = momentum.
        teacher_input: The input of the mean teacher, if it differs from the student's: a function
            of the inputs such as an augmenting layer, or a key of a dict `x` whose entry, another
            view of the same sample, is for the teacher only. Defaults to `None`.
        supervised_weight: Weight of the compiled loss on the labels. Defaults to 1.
        kind: What the outputs are: `"classes"`, `"labels"` (several independent labels, or one
            logit) or `"regression"`. Defaults to `None`: told from the compiled loss, or
            `"classes"` if the loss is your own. An error is raised if the labels do not fit:
            one-hot labels beside the loss of a regression, or multi-hot labels beside a loss of
            your own.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        ValueError: If the model does not end in logits (batch, classes), or an argument is out of
            range.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> distiller = mr.MeanTeacher(model, consistency_weight=10.0)
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> sorted(distiller.fit(images, labels, verbose=0).history)
        ['ce', 'consistency', 'loss']
        >>> distiller.mean_teacher().predict(images, verbose=0).shape
        (8, 3)

    Reference:
        Tarvainen and Valpola, Mean Teachers are Better Role Models, 2017. There, the mean teacher
        has noise too; here it runs in inference mode, with noise only from `teacher_input`.
    """

    @answering(of_model("mr.MeanTeacher"))
    def __init__(
        self,
        model: keras.Model,
        *,
        momentum: Any = 0.999,
        consistency_weight: Any = 1.0,
        variant: str = "reference",
        teacher_input: Any = None,
        supervised_weight: Any = 1.0,
        kind: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(
            model,
            momentum=momentum,
            consistency_weight=consistency_weight,
            teacher_input=teacher_input,
            supervised_weight=supervised_weight,
            kind=kind,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.variant = require_choice("variant", variant, ("reference", "paper"))
        self.past = EMAWeights(self.students, self._decay)

    def _decay(self, updates: Any) -> Any:
        if self.variant == "paper":
            return ops.convert_to_tensor(self.momentum)
        return ops.minimum(1.0 - 1.0 / (ops.cast(updates, "float32") + 2.0), self.momentum)

    def past_target(self, outputs: Any, probabilities: Any) -> Any:
        """Returns the mean teacher's probabilities; every sample has them."""
        seen = self._forward.views.teacher(outputs.batch.x, outputs.training)
        logits = self.past(seen, model=STUDENT)
        return self.probabilities(logits), 1.0

    def after_step(self) -> None:
        """Updates the mean teacher."""
        self.past.update()

    def mean_teacher(self, into: keras.Model | None = None) -> keras.Model:
        """Returns the mean teacher as it is now: plain Keras, to be evaluated and deployed.

        Args:
            into: Model of the same architecture that receives the weights, and what its layers
                were adapted to. Defaults to `None`: a new one by `mr.models.copy_model`.

        Raises:
            ValueError: If the architectures differ, or the model cannot be copied.
        """
        model = copy_model(self.student) if into is None else into
        self.past.assign_to(STUDENT, model)
        return model

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {**super().get_config(), "variant": self.variant}
