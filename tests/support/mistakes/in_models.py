"""Mistakes in models, data helpers and callbacks."""

import keras
import numpy as np

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake

MISTAKES = [
    # Models
    Mistake(
        "an unknown model",
        lambda b: mr.models.get("resnet18", num_classes=10),
        r"Unknown model identifier.* Expected one of \['convnet', .* Received: 'resnet18'",
    ),
    Mistake(
        "the names of the classes for their number",
        lambda b: mr.models.convnet(num_classes=["cat", "dog"]),
        r"num_classes must be a positive integer. Received: num_classes=\['cat', 'dog'\]",
    ),
    Mistake(
        "one width for all stages",
        lambda b: mr.models.convnet(num_classes=3, widths=8),
        r"widths must name at least one stage .* Received: widths=8",
    ),
    Mistake(
        "images without channels",
        lambda b: mr.models.convnet(num_classes=3, input_shape=(28, 28)),
        r"input_shape must be \(height, width, channels\).* Received: input_shape=\(28, 28\)",
    ),
    Mistake(
        "images with the batch",
        lambda b: mr.models.resnet(8, num_classes=3, input_shape=(None, 32, 32, 3)),
        r"input_shape must be .* without the batch. Received: input_shape=\(None, 32, 32, 3\)",
    ),
    Mistake(
        "a depth that no residual network has",
        lambda b: mr.models.resnet(18, num_classes=10),
        r"depth must be 6n \+ 2 .* Received: depth=18",
    ),
    Mistake(
        "a shuffled network for images of any size",
        lambda b: mr.models.shufflenet_v2(num_classes=3, input_shape=(None, None, 3)),
        r"input_shape must be .* all known. Received: input_shape=\(None, None, 3\)",
    ),
    Mistake(
        "a checkpoint instead of the state dict in it",
        lambda b: mr.models.import_torch_weights(b.net(), {"epoch": 240, "model": {}}),
        r"state_dict must hold NumPy arrays. Received: 'epoch': <class 'int'>",
        TypeError,
    ),
    Mistake(
        "weights of another network",
        lambda b: mr.models.import_torch_weights(b.net(), {"fc.weight": np.ones((3, 8))}),
        r"state_dict must have the layout of the model .* Received in its place: 'fc' with weight",
    ),
    Mistake(
        "branches from an unknown layer",
        lambda b: mr.models.branch(b.net(), at="stage9"),
        r"at must name a layer of the model .* one of \['stage1', .* Received: at='stage9'",
    ),
    Mistake(
        "a single branch",
        lambda b: mr.models.branch(b.net(), at="stage1", branches=1),
        r"branches must be an integer of at least 2. Received: branches=1",
    ),
    Mistake(
        "a classifier reused at an unknown layer",
        lambda b: mr.models.reuse_classifier(student=b.net(), teacher=b.net(), student_at="stage9"),
        r"student_at must name a layer of the student .* Received: student_at='stage9'",
    ),
    Mistake(
        "a name that is taken",
        lambda b: mr.register("loss", "kd")(type("Mine", (mr.losses.Loss,), {})),
        r"The loss identifier 'kd' is already taken by modreduce_keras.losses.kd.KD",
    ),
    Mistake(
        "a metric of other classes",
        lambda b: mr.metrics.Agreement()(np.ones((2, 3)), np.ones((2, 4))),
        r"both need logits .* of equal shape .* Received: shapes \(2, 3\) and \(2, 4\)",
    ),
    Mistake(
        "the cost of a model that is not built",
        lambda b: mr.evaluation.multiply_adds(keras.Sequential([keras.layers.Dense(3)])),
        r"The model 'sequential\w*' must be built: start it with keras.Input",
    ),
    Mistake(
        "fewer labels than images for an early-exit curve",
        lambda b: mr.evaluation.early_exit_curve(b.with_exits(), b.images, b.labels[:3]),
        r"x and y must be arrays of equal numbers of samples. Received: \[3, 6\]",
    ),
    # Data helpers
    Mistake(
        "an index for arrays",
        lambda b: mr.data.with_index((b.images, b.labels)),
        r"with_index takes a tf.data.Dataset, .* Received: tuple",
        TypeError,
    ),
    Mistake(
        "an index for batches",
        lambda b: mr.data.with_index(b.dataset().batch(2)),
        r"with_index counts single samples: apply it before .batch\(\).* Received .* is batched",
    ),
    Mistake(
        "an index for samples in an order that changes",
        lambda b: mr.data.with_index(b.dataset().shuffle(6)),
        r"apply it before .shuffle\(\).* Received a dataset that is reshuffled",
    ),
    Mistake(
        "an index for data without an end",
        lambda b: mr.data.with_index(b.dataset().repeat()),
        r"apply it before .repeat\(\). Received a dataset that does not end",
    ),
    Mistake(
        "an index twice",
        lambda b: mr.data.with_index(mr.data.with_index(b.dataset())),
        r"with_index is applied once. Received a dataset that has an index",
    ),
    Mistake(
        "an order of batches",
        lambda b: mr.data.epoch_shuffle(b.dataset().batch(2), seed=0),
        r"epoch_shuffle shuffles single samples: .* Received a dataset that is batched",
    ),
    Mistake(
        "a negative seed",
        lambda b: mr.data.epoch_shuffle(b.dataset(), seed=-1),
        r"seed must be an integer of at least 0. Received: seed=-1",
    ),
    Mistake(
        "a seed beyond 64 bits",
        lambda b: mr.data.epoch_shuffle(b.dataset(), seed=2**70),
        r"seed must be an integer below 2\*\*63. Received: seed=1180591620717411303424",
    ),
    Mistake(
        "an order of data without an end",
        lambda b: mr.data.epoch_shuffle(b.dataset().repeat(), seed=0),
        r"without repeat\(\). Received a dataset that does not end",
    ),
    Mistake(
        "a name for the augmentation",
        lambda b: mr.data.epoch_shuffle(b.dataset(), seed=0, augment="flip"),
        r"augment must be a function of a seed and a sample, .* Received: augment='flip'",
        TypeError,
    ),
    # Callbacks
    Mistake(
        "a monitor of nothing",
        lambda b: mr.callbacks.PeerMonitor(None),
        r"data must be a dataset of batches .* Received: data of type None",
        TypeError,
    ),
    Mistake(
        "a monitor of fewer labels than images",
        lambda b: mr.callbacks.PeerMonitor((b.images, b.labels[:3])),
        r"data must be arrays of equal numbers of samples. Received: \[3, 6\]",
    ),
    Mistake(
        "a monitor that never measures",
        lambda b: mr.callbacks.PeerMonitor(b.images, every=0),
        r"every must be a positive integer. Received: every=0",
    ),
    Mistake(
        "pictures without a folder",
        lambda b: mr.callbacks.PeerMonitor(b.images, plot_every=2),
        r"plot_every needs plots=, a folder for the pictures. Received: plot_every=2",
    ),
    Mistake(
        "a monitor of a model that is no distiller",
        lambda b: b.fit(
            distiller=b.compiled(b.net()), callbacks=[mr.callbacks.PeerMonitor(b.images)]
        ),
        r"PeerMonitor watches the students of a distiller, .* Received: a model of type Func",
        TypeError,
    ),
    Mistake(
        "a monitor without the labels that the aggregator needs",
        lambda b: b.fit(
            distiller=b.compiled(b.group(aggregator="kdcl")),
            callbacks=[mr.callbacks.PeerMonitor(b.images)],
        ),
        r"The aggregator 'kdcl' needs labels: PeerMonitor\(\(x, y\)\). Received: data without",
    ),
    Mistake(
        "a progress bar of a log that there is not",
        lambda b: b.fit(callbacks=[mr.callbacks.ProgressBar(["val_accurcy"])]),
        r"one of \['ce', 'kd', 'loss'\].* Received patterns that fit none: \['val_accurcy'\]",
    ),
    Mistake(
        "no checkpoint to keep",
        lambda b: mr.callbacks.Resume("run", keep=0),
        r"keep must be a positive integer. Received: keep=0",
    ),
    Mistake(
        "a checkpoint at every step in words",
        lambda b: mr.callbacks.Resume("run", every="step"),
        r"every must be one of \['epoch'\]. Received: every='step'",
    ),
]
