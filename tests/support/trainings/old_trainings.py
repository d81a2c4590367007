"""Small trainings whose files an earlier version has written, for `tests/compatibility`.

Only what users see is used here, so that the version that wrote the files can run it too.
"""

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr

SAMPLES, BATCH, CLASSES = 10, 5, 3
SHAPE = (6, 6, 1)
MODELS = ["modreduce", "distiller", "mean_teacher", "self_distiller"]
"""What is saved as a `.keras` file."""

RUNS = ["float16", "skip"]
"""What is stored by `Resume`."""


def images():
    """Returns the same images and labels on every machine."""
    random = np.random.default_rng(0)
    return random.uniform(-1, 1, (SAMPLES, *SHAPE)).astype("float32"), np.arange(SAMPLES) % CLASSES


def data(indexed=True, bad=None):
    """Returns the samples in batches; the one numbered `bad` is not a number."""
    x, y = images()
    if bad is not None:
        x[bad] = np.nan
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    return (mr.data.with_index(dataset) if indexed else dataset).batch(BATCH)


def net(name, width, dropout=0.0):
    """Returns a network with two stages, BatchNorm and an embedding."""
    layers = keras.layers
    inputs = hidden = keras.Input(SHAPE)
    for stage in ("stage1", "stage2"):
        hidden = layers.Conv2D(width, 3, strides=2, padding="same", name=stage)(hidden)
    hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
    embedding = layers.GlobalAveragePooling2D(name="embedding")(hidden)
    if dropout:
        embedding = layers.Dropout(dropout)(embedding)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(embedding), name=name)


def teacher():
    """Returns a model whose weights are, to the last bit, the same on every machine."""
    model, random = net("teacher", 4), np.random.default_rng(1)
    for variable in model.variables:
        positive = "variance" in variable.path or "gamma" in variable.path
        variable.assign(random.uniform(0.5 if positive else -0.5, 1.0, variable.shape))
    return model


def _crd():
    memory = mr.adapters.get("contrastive_memory", samples=SAMPLES, negatives=4, units=2)
    return mr.Relation("crd", at="embedding", adapter=memory, weight=0.5)


def _compiled(model, optimizer, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **arguments)
    return model


def _modreduce():
    stages = ["stage1", "stage2"]
    attention = mr.adapters.get("layer_attention", batch_size=8)
    knowledge = {
        "response": [mr.Response("kd")],
        "feature": [
            mr.Response("kd"),
            mr.Feature("semckd", at=stages, adapter=attention, weight=10.0),
        ],
        "relation": [mr.Response("kd"), _crd()],
    }
    students = {name: net(name, 2 + i) for i, name in enumerate(knowledge)}
    model = mr.ModReduce(
        teacher=teacher(),
        students=students,
        knowledge=knowledge,
        aggregator="weighted_average",
        multipliers={"feature": 3.0},
        steps=8,
    )
    optimizer = {name: keras.optimizers.SGD(0.05, momentum=0.9) for name in students}
    optimizer |= {"relation": keras.optimizers.Adam(0.01), "aggregator": keras.optimizers.SGD(0.1)}
    return _compiled(model, optimizer, run_eagerly=True)


def _distiller():
    weight = mr.schedules.Linear(0.2, 1.0, steps=8)
    hint = mr.Feature("hint", at="stage1", weight=2.0)
    knowledge = [mr.Response("kd", weight=weight), hint, _crd()]
    model = mr.Distiller(student=net("student", 3), teacher=teacher(), knowledge=knowledge)
    return _compiled(model, keras.optimizers.Adam(0.01), metrics=["accuracy"])


def _mean_teacher():
    return _compiled(mr.MeanTeacher(net("student", 3)), keras.optimizers.SGD(0.1), run_eagerly=True)


def _self_distiller():
    model = mr.SelfDistiller(net("student", 3), exits=["stage1"])
    return _compiled(model, keras.optimizers.SGD(0.1), run_eagerly=True)


def _float16():
    with_scales = {"metrics": ["accuracy"], "run_eagerly": True}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        students = {name: net(name, 3) for name in "ab"}
        model = mr.PeerDistiller(students, aggregator="pcl")
        return _compiled(model, keras.optimizers.SGD(0.05, momentum=0.9), **with_scales)
    finally:
        keras.config.set_dtype_policy(before)


def _skip():
    model = mr.Distiller(
        student=net("student", 3, dropout=0.3),
        teacher=teacher(),
        knowledge=[mr.Response("kd"), _crd()],
    )
    return _compiled(model, keras.optimizers.Adam(0.01), on_nonfinite="skip", run_eagerly=True)


def build(name, seed):
    """Returns a compiled distiller with random weights by a seed."""
    keras.utils.set_random_seed(seed)
    return globals()[f"_{name}"]()


def batches(name, **arguments):
    """Returns the data that a training of this name takes."""
    return data(indexed=name in ("modreduce", "distiller", "skip"), **arguments)


def run(name, seed, folder, epochs):
    """Trains one more epoch, and stores or goes on from what is stored."""
    model = build(name, seed)
    bad = 7 if name == "skip" else None
    resume = mr.callbacks.Resume(folder, keep=1)
    fit = {"shuffle": False, "verbose": 0, "callbacks": [resume]}
    history = model.fit(batches(name, bad=bad), epochs=epochs, **fit).history
    return model, history


def variables(several):
    """Returns variables by their number, as arrays."""
    return {
        f"variable {i:03d}": keras.ops.convert_to_numpy(variable)
        for i, variable in enumerate(several)
    }


def state(model):
    """Returns every variable of a model and of its optimizers."""
    return variables([*model.variables, *model.optimizer.variables])


def answers(name, model):
    """Returns what a trained distiller says, and what its next two training steps do to it."""
    x, _ = images()
    models = dict(model.students)
    if model.teacher is not None:
        models["teacher"] = model.teacher
    if name == "mean_teacher":
        models["mean teacher"] = model.mean_teacher()
    models["distiller"] = model
    found = {}
    for one, several in models.items():
        outputs = several.predict(x, verbose=0)
        parts = outputs if isinstance(outputs, dict) else {"logits": outputs}
        found |= {f"{part} of {one}": np.asarray(values) for part, values in parts.items()}
    for step, batch in enumerate(batches(name)):
        model.reset_metrics()
        logs = model.train_on_batch(*batch, return_dict=True)
        found |= {f"step {step}: {log}": np.float32(value) for log, value in logs.items()}
    return found | {f"later {one}": value for one, value in variables(model.variables).items()}
