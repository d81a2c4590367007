"""Mistakes in the labels and sample weights of `fit`, `evaluate` and `pretrain`."""

import keras
import numpy as np

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake

NO_CLASS = (
    r"The compiled loss needs labels y that are class indices from 0 to 2\. Received: y with "
)


def one_hot(b):
    return b.compiled(loss=keras.losses.CategoricalCrossentropy(from_logits=True))


def crd(b):
    memory = mr.adapters.ContrastiveMemory(samples=6, negatives=2)
    return b.compiled(b.distiller(mr.Relation("crd", at="embedding", adapter=memory)))


def staged(b):
    return b.compiled(b.distiller(mr.Feature("hint", at="stage1", staged=True)))


NO_LABELS = r"Metrics are compiled, but the data have no labels y: .* Received: y=None"


def measured(b, **arguments):
    return b.compiled(loss=None, metrics=["accuracy"], **arguments)


MISTAKES = [
    # Labels
    Mistake(
        "a metric without labels",
        lambda b: b.fit(y=None, distiller=measured(b, run_eagerly=False)),
        NO_LABELS,
    ),
    Mistake(
        "a metric without labels in validation",
        lambda b: b.fit(distiller=measured(b), validation_data=b.images),
        NO_LABELS,
    ),
    Mistake(
        "a metric without labels in a dataset",
        lambda b: measured(b).evaluate(b.dataset().map(lambda x, y: x).batch(3), verbose=0),
        NO_LABELS,
    ),
    Mistake(
        "labels that begin at one",
        lambda b: b.fit(y=b.labels + 1),
        NO_CLASS + r"\[3\]",
    ),
    Mistake(
        "labels of -1 without ignore_class",
        lambda b: b.fit(y=b.labels - 1),
        r"class indices from 0 to 2\. Samples without a label have -1 .* Received: y with \[-1\]",
    ),
    Mistake(
        "labels of -1 where another is ignored",
        lambda b: b.fit(
            y=b.labels - 1, distiller=b.compiled(loss=b.cross_entropy(ignore_class=255))
        ),
        r"from 0 to 2 \(and \[255\], which are ignored\)\. Received: y with \[-1\]",
    ),
    Mistake(
        "labels out of range in a dataset",
        lambda b: b.compiled(run_eagerly=False).fit(
            b.dataset(y=b.labels + 1).batch(3), shuffle=False, verbose=0
        ),
        NO_CLASS + r"\[3\]",
    ),
    Mistake(
        "labels out of range in validation",
        lambda b: b.fit(validation_data=(b.images, b.labels + 1)),
        NO_CLASS + r"\[3\]",
    ),
    Mistake(
        "labels out of range in evaluation",
        lambda b: b.compiled(b.group()).evaluate(b.images, b.labels + 1, verbose=0),
        NO_CLASS + r"\[3\]",
    ),
    Mistake(
        "labels out of range in a batch",
        lambda b: b.compiled().train_on_batch(b.images, b.labels + 1),
        NO_CLASS + r"\[3\]",
    ),
    Mistake(
        "labels out of range for the knowledge",
        lambda b: b.fit(
            y=b.labels + 1, distiller=b.compiled(b.distiller(mr.Response("dkd")), loss=None)
        ),
        r"Knowledge 'dkd' needs labels y that are class indices from 0 to 2. Received: .*\[3\]",
    ),
    Mistake(
        "labels out of range for the aggregator",
        lambda b: b.fit(
            y=b.labels + 1, distiller=b.compiled(b.group(aggregator="kdcl"), loss=None)
        ),
        r"KDCL needs labels y that are class indices from 0 to 2. Received: y with \[3\]",
    ),
    Mistake(
        "labels that are no integers",
        lambda b: b.fit(y=np.full(6, 0.5)),
        NO_CLASS + r"\[0\.5\]",
    ),
    Mistake(
        "labels of NaN",
        lambda b: b.fit(y=np.full(6, np.nan)),
        NO_CLASS + r"\[nan",
    ),
    Mistake(
        "labels in words",
        lambda b: b.fit(y=np.array(["cat"] * 6)),
        r"y must be arrays of numbers, .* Received: an array of dtype <U3",
    ),
    Mistake(
        "labels in a list",
        lambda b: b.fit(y=b.labels.tolist()),
        r"y must be an array: np.asarray\(y\). Received: a list of 6 numbers",
    ),
    Mistake(
        "one-hot labels for a loss of class indices",
        lambda b: b.fit(y=np.eye(3)[b.labels]),
        r"One-hot labels go with .*CategoricalCrossentropy. Received: y of shape \(\w+, 3\)",
    ),
    Mistake(
        "class indices for a loss of one-hot labels",
        lambda b: b.fit(distiller=one_hot(b)),
        r"Class indices go with .*SparseCategorical.* Received: y of shape \(\w+,\) for logits",
    ),
    Mistake(
        "class indices for a loss that would broadcast them",
        lambda b: b.fit(b.images[:3], b.labels[:3], distiller=b.compiled(loss="mse"), batch_size=3),
        r"Class indices go with .*SparseCategorical.* Received: y of shape \(\w+,\) for outputs",
    ),
    Mistake(
        "labels in words, in a dataset",
        lambda b: b.fit(b.dataset(y=["cat"] * 6).batch(6), None, shuffle=False),
        r"StringLookup\(vocabulary=names, num_oov_indices=0\)\(y\). Received: y of dtype string",
    ),
    Mistake(
        "one-hot labels of other classes",
        lambda b: b.fit(y=np.eye(4)[b.labels], distiller=one_hot(b)),
        r"one-hot, of the shape of the logits. Received: y of shape \(\w+, 4\) for .*\(\w+, 3\)",
    ),
    Mistake(
        "two labels for each image",
        lambda b: b.fit(y=np.stack([b.labels] * 2, 1)),
        r"class indices, one for each position .* Received: y of shape \(\w+, 2\)",
    ),
    Mistake(
        "labels by name for a student of one output",
        lambda b: b.fit(y={"student": b.labels}),
        r"y must be one array for a student of one output. Received: y of type dict",
    ),
    Mistake(
        "fewer labels than images",
        lambda b: b.fit(y=b.labels[:4]),
        r"Make sure all arrays contain the same number of samples.'x' sizes: 6\s+'y' sizes: 4",
    ),
    Mistake(
        "no labels",
        lambda b: b.fit(y=None),
        r"A loss is compiled, but the data have no labels y",
    ),
    Mistake(
        "no labels for knowledge that needs them",
        lambda b: b.fit(y=None, distiller=b.compiled(b.distiller(mr.Response("dkd")), loss=None)),
        r"Knowledge 'dkd' needs labels y",
    ),
    # Sample weights
    Mistake(
        "fewer sample weights than images",
        lambda b: b.compiled().train_on_batch(b.images, b.labels, np.ones(4)),
        r"one entry for each sample of the batch. Received: .*'x': \[6\].*'sample_weight': \[4\]",
    ),
    Mistake(
        "a sample weight for each class",
        lambda b: b.fit(sample_weight=np.ones((6, 3))),
        r"sample_weight must have one value per example.* Received: shape \(\w+, 3\)",
    ),
    Mistake(
        "one sample weight for all",
        lambda b: b.fit(sample_weight=2.0),
        r"sample_weight must be an array of finite numbers, one for each sample. Received: 2.0",
    ),
    Mistake(
        "sample weights of NaN",
        lambda b: b.fit(sample_weight=np.full(6, np.nan)),
        r"sample_weight must be an array of finite numbers, .* Received: NaN or infinity",
    ),
]
