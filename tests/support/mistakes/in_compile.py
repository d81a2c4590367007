"""Mistakes in `compile`."""

import functools

import keras

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake

PROBABILITIES = keras.losses.SparseCategoricalCrossentropy


def one_optimizer_for_two(b):
    optimizer = keras.optimizers.SGD()
    return b.compiled(b.group(), optimizer={"a": optimizer, "b": optimizer})


def an_optimizer_of_another_model(b):
    optimizer = keras.optimizers.SGD(momentum=0.9)
    b.compiled(optimizer=optimizer)
    return b.fit(distiller=b.compiled(optimizer=optimizer))


def frozen(b, first=True):
    """Changes whether a layer trains between two fits."""
    student = b.net()
    student.get_layer("stage1").trainable = first
    distiller = b.compiled(b.distiller(student=student))
    b.fit(distiller=distiller)
    student.get_layer("stage1").trainable = not first
    b.fit(distiller=distiller)


def unfrozen(b):
    frozen(b, first=False)


MISTAKES = [
    Mistake(
        "a word for what is not finite",
        lambda b: b.compiled(on_nonfinite="raise"),
        r"on_nonfinite must be one of \['stop', 'skip'\]. Received: on_nonfinite='raise'",
    ),
    Mistake(
        "a loss of probabilities by its name",
        lambda b: b.compiled(loss="sparse_categorical_crossentropy"),
        r"ends in logits, but the compiled loss expects probabilities .*\(from_logits=True\)",
    ),
    Mistake(
        "a loss of probabilities",
        lambda b: b.compiled(loss=PROBABILITIES()),
        r"ends in logits, but the compiled loss expects probabilities .*\(from_logits=True\)",
    ),
    Mistake(
        "a loss of logits for probabilities",
        lambda b: b.compiled(
            b.distiller(
                mr.Relation("rkd_distance", at="embedding"), student=b.net(activation="softmax")
            )
        ),
        r"ends in probabilities, but the compiled loss expects logits \(from_logits=True\)",
    ),
    Mistake(
        "an unknown loss on the labels",
        lambda b: b.compiled(loss="crossentropy"),
        r"Could not interpret loss identifier: crossentropy",
    ),
    Mistake(
        "a list of losses",
        lambda b: b.compiled(loss=[b.cross_entropy()]),
        r"Distillers take one loss, .* Received: loss=\[",
    ),
    Mistake(
        "a dict of losses for a student of one output",
        lambda b: b.compiled(loss={"student": b.cross_entropy()}),
        r"Distillers take one loss, .* Received: loss=\{'student'",
    ),
    Mistake(
        "a loss that sums over the batch",
        lambda b: b.compiled(loss=b.cross_entropy(reduction="sum")),
        r"reduction must be 'sum_over_batch_size', 'mean' or None. Received: reduction='sum'",
    ),
    Mistake(
        "a loss that is one number",
        lambda b: b.fit(distiller=b.compiled(loss=lambda y, z: keras.ops.mean(z))),
        r"must return one value per example, .* Received: .* which returned a scalar",
    ),
    Mistake(
        "weights of losses as in Keras",
        lambda b: b.compiled(loss_weights=[0.1, 0.9]),
        r"supervised_weight=, and weight= of each knowledge. Received: loss_weights",
    ),
    Mistake(
        "a binary loss of probabilities, by its name",
        lambda b: b.compiled(
            b.distiller(mr.Response("binary_kd"), student=b.net(1), teacher=b.net(1)),
            loss="binary_crossentropy",
        ),
        r"such as keras.losses.BinaryCrossentropy\(from_logits=True\)",
    ),
    Mistake(
        "a binary loss of probabilities, by functools.partial",
        lambda b: b.compiled(
            b.distiller(mr.Response("binary_kd"), student=b.net(1), teacher=b.net(1)),
            loss=functools.partial(keras.losses.binary_crossentropy, label_smoothing=0.1),
        ),
        r"such as keras.losses.BinaryCrossentropy\(from_logits=True\)",
    ),
    Mistake(
        "a layer unfrozen after compile", unfrozen, r"again. .*: frozen \[\], unfrozen .*stage1"
    ),
    Mistake("a layer frozen after compile", frozen, r"again. .*: frozen .*stage1.*, unfrozen \[\]"),
    Mistake(
        "weights of losses by the output",
        lambda b: b.compiled(loss_weights={"kind": 1.0, "size": 0.5}),
        r"part of its loss, such as def half\(y, z\): .* Received: loss_weights",
    ),
    Mistake(
        "the temperature given to compile",
        lambda b: b.compiled(temperature=3.0),
        r"compile has no argument 'temperature': write .*mr.losses.KD\(temperature=3.0\)",
        TypeError,
    ),
    Mistake(
        "a misspelt optimizer",
        lambda b: b.compiled(optimizer="sdg"),
        r"Could not interpret optimizer identifier: sdg",
    ),
    Mistake(
        "a learning rate for the optimizer",
        lambda b: b.compiled(optimizer=0.1),
        r"Could not interpret optimizer identifier: 0.1",
    ),
    Mistake(
        "no optimizer",
        lambda b: b.compiled(optimizer=None),
        r"optimizer must be an optimizer, its name, or a dict .* Received: optimizer=None",
    ),
    Mistake(
        "no optimizer for the aggregator",
        lambda b: b.compiled(
            b.group(aggregator="weighted_average"), optimizer={"a": "sgd", "b": "sgd"}
        ),
        r"one for each of \['a', 'aggregator', 'b'\]; .* keys \['a', 'b'\], where no key is for \d",
    ),
    Mistake(
        "an optimizer for what does not train",
        lambda b: b.compiled(optimizer={"student": "sgd", "teacher": "sgd"}),
        r"one for each of \['student'\]; .* keys .*, where \['teacher'\] name neither a group nor",
    ),
    Mistake(
        "one optimizer for two students",
        one_optimizer_for_two,
        r"Each group needs an optimizer object of its own. Received: the same .* \['a', 'b'\]",
    ),
    Mistake(
        "an optimizer of another model",
        an_optimizer_of_another_model,
        r"Unknown variable: .*can only be called for the variables it was originally built with",
    ),
    Mistake(
        "a misspelt metric",
        lambda b: b.compiled(metrics=["acuracy"]),
        r"metrics must be metrics of Keras or their names, .* Received: 'acuracy'",
    ),
    Mistake(
        "metrics of a student that is not there",
        lambda b: b.compiled(b.group(), metrics={"c": ["accuracy"]}),
        r"keys among \['a', 'b', 'ensemble'\]. Received: \['c'\]",
    ),
    Mistake(
        "metrics of an ensemble that there is not",
        lambda b: b.compiled(b.group(aggregator="mutual"), metrics={"ensemble": ["accuracy"]}),
        r"keys among \['a', 'b'\]. Received: \['ensemble'\]",
    ),
    Mistake(
        "knowledge that is named as the loss on labels",
        lambda b: b.compiled(b.distiller(mr.Response("kd", name="ce"))),
        r"A knowledge needs its own name in the logs, .* Received: knowledge named \['ce'\]",
    ),
    Mistake(
        "one loss on labels and on the teacher",
        lambda b: b.compiled(b.distiller(mr.Response("logit_mse")), loss=mr.losses.LogitMSE()),
        r"give it another with name=. Received: knowledge named \['logit_mse'\]",
    ),
    Mistake(
        "no step in an execution",
        lambda b: b.compiled(steps_per_execution=0),
        r"steps_per_execution must be a positive integer. Received: steps_per_execution=0",
    ),
    Mistake(
        "an aggregator that learns, without a loss",
        lambda b: b.compiled(b.group(aggregator="weighted_average"), loss=None),
        r"The aggregator 'weighted_average' learns from the labels: .* Received: loss=None",
    ),
    Mistake(
        "self-distillation without a loss",
        lambda b: b.compiled(mr.SelfDistiller(b.net(), exits=["stage1"]), loss=None),
        r"learns from the labels: compile with a loss. Received: loss=None",
    ),
    Mistake(
        "a mean teacher without a loss",
        lambda b: b.compiled(mr.MeanTeacher(b.net()), loss=None),
        r"compile with a loss on the labels. Received: loss=None",
    ),
]
