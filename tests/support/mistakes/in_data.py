"""Mistakes in the data of `fit`, `evaluate`, `predict` and `pretrain`."""

import numpy as np
import tensorflow as tf

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake


def remembering(b, samples):
    return b.compiled(mr.TemporalEnsembling(b.net(), samples=samples), run_eagerly=False)


def crd(b):
    memory = mr.adapters.ContrastiveMemory(samples=6, negatives=2)
    return b.compiled(b.distiller(mr.Relation("crd", at="embedding", adapter=memory)))


def staged(b):
    return b.compiled(b.distiller(mr.Feature("hint", at="stage1", staged=True)))


def without_data(b):
    made = mr.DataFreeDistiller(student=b.net(), teacher=b.net(name="t"), image_range=(0.0, 1.0))
    made.compile("adam")
    return made


def chain(b):
    made = mr.TeacherAssistantChain(teacher=b.net(), students=[b.net(name="a"), b.net(name="b")])
    made.compile("sgd")
    return made


MISTAKES = [
    # Images
    Mistake(
        "images of integers",
        lambda b: b.fit(b.images.astype("uint8")),
        r"The models take float inputs. Received: x of dtype uint8. Convert and scale",
    ),
    Mistake(
        "images of integers in prediction",
        lambda b: b.compiled().predict(b.images.astype("uint8"), verbose=0),
        r"The models take float inputs. Received: x of dtype uint8. Convert and scale",
    ),
    Mistake(
        "images of another size",
        lambda b: b.fit(b.images[:, :4]),
        r"expected shape=\(None, 8, 8, 1\), found shape=\(\w+, 4, 8",
    ),
    Mistake(
        "images of other channels",
        lambda b: b.fit(np.repeat(b.images, 3, axis=-1)),
        r"expected axis -1 of input shape to have value 1, but received .*\(\w+, 8, 8, 3\)",
    ),
    Mistake(
        "images of unequal sizes",
        lambda b: b.fit(np.array([b.images[0], *[i[:4] for i in b.images[1:]]], dtype=object)),
        r"x must be arrays of numbers, all samples of one shape. Received: .*dtype object",
    ),
    Mistake(
        "the names of the images' files",
        lambda b: b.fit(np.array(["a.png"] * 6)),
        r"x must be arrays of numbers, .* Received: an array of dtype <U5",
    ),
    Mistake(
        "no images",
        lambda b: b.compiled().fit(None, b.labels),
        r"x must be arrays or a dataset of batches. Received: x=None",
    ),
    Mistake(
        "arrays without a sample",
        lambda b: b.compiled().evaluate(b.images[:0], b.labels[:0], verbose=0),
        r"x must hold at least one sample. Received: arrays of length 0",
    ),
    # Datasets and other arguments
    Mistake(
        "a dataset without a batch",
        lambda b: b.compiled().fit(b.dataset().take(0).batch(2), verbose=0),
        r"x must hold at least one batch. Received: an empty dataset",
    ),
    Mistake(
        "a dataset of single samples",
        lambda b: b.compiled().fit(b.dataset(), verbose=0),
        r"x must be a dataset of batches: dataset.batch\(64\). Received: single samples",
    ),
    Mistake(
        "a batch size for a dataset",
        lambda b: b.compiled().fit(b.dataset().batch(2), batch_size=3),
        r"batch_size is for arrays; .* Received: batch_size=3 with x of type _BatchDataset",
    ),
    Mistake(
        "labels beside a dataset",
        lambda b: b.compiled().fit(b.dataset().batch(2), b.labels, verbose=0),
        r"When providing `x` as a tf.data.Dataset, `y` should not be passed",
    ),
    Mistake(
        "a tuple of four",
        lambda b: b.compiled().fit(
            tf.data.Dataset.from_tensors((b.images, b.labels, b.labels, b.labels)), shuffle=False
        ),
        r"expected to be in format `x`, `\(x,\)`, `\(x, y\)`, or .*found",
    ),
    Mistake(
        "a batch size of zero",
        lambda b: b.fit(batch_size=0),
        r"batch_size must be a positive integer. Received: batch_size=0",
    ),
    Mistake(
        "more than all data for validation",
        lambda b: b.fit(validation_split=1.5),
        r"validation_split must be a part of the arrays.* Received: validation_split=1.5",
    ),
    Mistake(
        "a name for a callback",
        lambda b: b.fit(callbacks=["early_stopping"]),
        r"callbacks must be a list of Keras callbacks. Received: \['early_stopping'\]",
        TypeError,
    ),
    Mistake(
        "training that is not compiled",
        lambda b: b.fit(distiller=b.distiller()),
        r"You must call `compile\(\)` before",
    ),
    # Keys and indices
    Mistake(
        "no input for the teacher",
        lambda b: b.fit(distiller=b.compiled(b.distiller(teacher_input="large"))),
        r"teacher_input='large' is a key of the inputs, so x must be a dict .* Received",
    ),
    Mistake(
        "a misspelt input of the teacher",
        lambda b: b.fit(
            {"small": b.images, "big": b.images},
            distiller=b.compiled(b.distiller(teacher_input="large")),
        ),
        r"teacher_input='large' is a key .* Received: a dict with the keys \['small', 'big'\]",
    ),
    Mistake(
        "no input for a student",
        lambda b: b.fit(
            {"a": b.images, "c": b.images},
            distiller=b.compiled(b.group(student_inputs=["a", "b"])),
        ),
        r"student_inputs=\{'b': 'b'\} is a key .* Received: a dict with the keys \['a', 'c'\]",
    ),
    Mistake(
        "no index for a memory bank",
        lambda b: b.fit(distiller=crd(b)),
        r"CRD needs each sample's index .*with_index\(samples\).batch\(64\).* Received: index=None",
    ),
    Mistake(
        "no index for remembered predictions",
        lambda b: b.fit(distiller=remembering(b, 6)),
        r"TemporalEnsembling needs each sample's index .* Received: x without index",
    ),
    Mistake(
        "an index beyond the number of samples",
        lambda b: remembering(b, 4).fit(
            mr.data.with_index(b.dataset()).batch(3), shuffle=False, verbose=0
        ),
        r"index must lie from 0 to 3, as TemporalEnsembling has samples=4.* Received: \[3 4 5\]",
    ),
    Mistake(
        "an index with an axis too many",
        lambda b: remembering(b, 6).train_on_batch(
            {"inputs": b.images, "sample_index": np.arange(6)[:, None]}, b.labels
        ),
        r"index must have one number for each sample, .* Received: index of shape \(6, 1\)",
    ),
    # Stages and selection
    Mistake(
        "pretraining of what has no stage",
        lambda b: b.compiled().pretrain(b.images),
        r"pretrain is for knowledge that has a stage of its own .* Received: \['kd'\]",
    ),
    Mistake(
        "training before the stage that comes first",
        lambda b: b.fit(distiller=staged(b)),
        r"\['hint'\] must be trained in a stage of their own first: call distiller.pretrain",
    ),
    Mistake(
        "labels out of range in a stage of pretraining",
        lambda b: staged(b).pretrain(b.images, b.labels + 1, verbose=0),
        r"needs labels y that are class indices from 0 to 2. Received: y with \[3\]",
    ),
    Mistake(
        "validation in pretraining",
        lambda b: staged(b).pretrain(b.images, validation_split=0.5),
        r"pretrain trains a stage and validates nothing. Received: \['validation_split'\]",
    ),
    Mistake(
        "prediction by the best student before a validation",
        lambda b: b.compiled(b.group()).predict(b.images, verbose=0),
        r"Which student is the best is not known before a validation: .*\['a', 'b'\]",
    ),
    Mistake(
        "a criterion that no validation measures",
        lambda b: b.fit(
            distiller=b.compiled(b.group(criterion="f1")),
            validation_data=(b.images, b.labels),
        ),
        r"criterion must be a validation metric .*one of \['ce'\]. Received: criterion='f1'",
    ),
    # Of a kind that does not do
    Mistake(
        "images and labels where noise is trained on",
        lambda b: without_data(b).fit(b.images, b.labels),
        r"fit takes noise, .*: leave y= out, as fit\(steps_per_epoch=100\).* Received: y=a nd",
    ),
    Mistake(
        "a generator for the links of a chain",
        lambda b: chain(b).fit(iter([(b.images, b.labels)]), verbose=0),
        r"x is read again and again, and an iterator only once: .* Received: x of type list_iter",
        TypeError,
    ),
    Mistake(
        "a generator for the validation of a chain",
        lambda b: chain(b).fit(b.images, b.labels, validation_data=iter([b.images]), verbose=0),
        r"validation_data is read again and again, and an iterator only once",
        TypeError,
    ),
    Mistake(
        "teacher outputs by position",
        lambda b: mr.data.TeacherOutputs(np.zeros((6, 3))),
        r"TeacherOutputs takes its arguments by name, .*\(logits=...\), or probabilities=",
        TypeError,
    ),
]
