"""Every registered loss inside a distiller: its term is the loss of what taps and adapter give."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components

KINDS = {"response": mr.Response, "feature": mr.Feature, "relation": mr.Relation}
STAGES = ["stage1", "stage2"]
TAPS = {"fsp": STAGES, "reviewkd": STAGES, "semckd": STAGES, "irg": STAGES, "mhgd": STAGES}
ADAPTERS = {
    "cosine": lambda: "token_projection",
    "crd": lambda: mr.adapters.get("contrastive_memory", samples=40, negatives=6),
    "semckd": lambda: mr.adapters.get("layer_attention", batch_size=12),
}
LOSSES = {"lsp": lambda: mr.losses.get("lsp", bandwidth=1.0)}  # for embeddings as small as here
SINGLE_VECTOR = {"vkd"}
STUDENT_WIDTHS = dict.fromkeys(("simkd", "minilm_attention", "tinybert_attention"), (4, 8))


def knowledge_of(identifier):
    """Returns the knowledge of a loss with its own adapter, trained jointly."""
    loss, arguments = components("loss")[identifier], {}
    if loss.kind != "response":
        at = "embedding" if loss.kind == "relation" or identifier in SINGLE_VECTOR else "stage2"
        arguments["at"] = TAPS.get(identifier, at)
    if identifier == "shake":
        arguments = {"student": "logits", "teacher": [*STAGES, "logits"]}
    if identifier in ADAPTERS:
        arguments["adapter"] = ADAPTERS[identifier]()
    made = LOSSES[identifier]() if identifier in LOSSES else identifier
    return KINDS[loss.kind](made, staged=False, **arguments)


def of_numbers(loss):
    """Returns whether a loss is for regressions alone."""
    return loss.label_numbers or loss.output_kinds == ("regression",)


def supervision(loss, cross_entropy, labels, units=3):
    """Returns the loss on the labels and the labels: of classes, of pixels, or independent ones."""
    if loss.label_maps:
        return cross_entropy, (labels[:, None, None] + np.indices((8, 8)).sum(axis=0)) % 3
    if of_numbers(loss):
        return keras.losses.MeanSquaredError(), np.eye(units, dtype="float32")[labels]
    if "classes" in (loss.output_kinds or ("classes",)):
        return cross_entropy, labels
    return keras.losses.BinaryCrossentropy(from_logits=True), np.eye(3)[labels]


def network(widths, of_pixels=False, units=3):
    """Builds a network of two stages, with as many taps as any method reads."""
    inputs = keras.Input((8, 8, 1))
    maps = inputs
    for stage, width in enumerate(widths, start=1):
        maps = keras.layers.Conv2D(width, 3, strides=stage, padding="same")(maps)
        maps = keras.layers.LeakyReLU(name=f"stage{stage}")(maps)
    if of_pixels:
        maps = keras.layers.UpSampling2D()(maps)
        return keras.Model(inputs, keras.layers.Dense(3, name="logits")(maps))
    embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
    return keras.Model(inputs, keras.layers.Dense(units, name="logits")(embedding))


@pytest.mark.parametrize("identifier", components("loss"))
def test_the_term_is_the_loss_of_what_taps_and_adapter_give_and_moves_the_adapter(
    identifier, images, labels, cross_entropy
):
    knowledge = knowledge_of(identifier)
    loss = knowledge.loss
    units = 4 if identifier == "gaussian_kd" else 3  # means and variances
    student = network(STUDENT_WIDTHS.get(identifier, (4, 6)), loss.label_maps, units)
    teacher = network((5, 8), loss.label_maps, units) if loss.needs_teacher else None
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    cross_entropy, labels = supervision(loss, cross_entropy, labels, units)
    # A step must be larger than the rounding of float32, also with a weight of 5e-6.
    rate = 0.1 / min(1.0, 10.0 * loss.default_weight)
    distiller.compile(keras.optimizers.SGD(rate), cross_entropy)
    if knowledge.pretrained is not None:
        distiller.pretrain(images, batch_size=12, verbose=0)
    index = np.arange(12)[::-1].copy()

    learnt = knowledge.read(
        "student", mr.TapReader(student, knowledge.taps("student"))(images, training=True)
    )
    taught = None
    if teacher is not None:
        taught = knowledge.read(
            "teacher", mr.TapReader(teacher, knowledge.taps("teacher"))(images, training=False)
        )
    adapter = knowledge.adapter
    if adapter is not None:
        state = [variable.numpy() for variable in adapter.variables]
        extra = {"index": index} if adapter.needs_index else {}
        learnt, taught = adapter(learnt, taught, training=True, **extra)
        for variable, value in zip(adapter.variables, state, strict=True):
            variable.assign(value)
    y_true = {"teacher": taught} if loss.needs_teacher else {}
    y_true |= {"labels": labels} if loss.needs_labels else {}
    expected = np.mean(loss.call(taught if set(y_true) == {"teacher"} else y_true, learnt))

    before = [variable.numpy() for variable in knowledge.trainable_variables]
    x = {"inputs": images, "sample_index": index}
    logs = distiller.train_on_batch(x, labels, return_dict=True)
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(logs[identifier], expected, rtol=1e-3)
    weighted = (
        logs["mean_squared_error" if of_numbers(loss) else "ce"]
        + loss.default_weight * logs[identifier]
    )
    np.testing.assert_allclose(logs["loss"], weighted, rtol=1e-5)
    for variable, value in zip(knowledge.trainable_variables, before, strict=True):
        # A bias before batch normalization has no effect.
        assert variable.name == "bias" or np.any(variable.numpy() != value), variable.path
