"""Distillers small enough to be trained under several strategies, and the training.

What `two_replicas.py` and `two_workers.py` compare. The batches are of 8 samples, and the last has
8, 5 or 1 of them: full shards, an uneven one, an empty one.
"""

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr

WIDTH, CLASSES = 6, 3
PAIR = ("response", "feature")
DATA_FREE = ("zskt", "dafl")


def dense_net(width, name=None):
    inputs = keras.Input((WIDTH,))
    hidden = keras.layers.Dense(width, activation="tanh", kernel_regularizer="l2", name="hidden")(
        inputs
    )
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(hidden), name=name)


def tagger(width):
    # No embedding: its sparse gradients have to be equally many on all replicas.
    inputs = keras.Input((WIDTH, 2))
    masked = keras.layers.Masking()(inputs)
    hidden = keras.layers.Dense(width, activation="tanh", name="hidden")(masked)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(hidden))


def tokens():
    """Padded tokens, each with a weight of its own."""
    regressor = mr.adapters.ConvRegressor(batch_normalization=False)
    return mr.Distiller(
        student=tagger(4),
        teacher=tagger(7),
        knowledge=[
            mr.Response(),
            mr.Feature("hint", at="hidden", adapter=regressor, weight=1.0),
            mr.Feature(mr.losses.VkD(variant="reference"), at="hidden", weight=1.0),
            mr.Relation("sp", at="hidden", weight=1.0, across_replicas=True),
        ],
    )


def offline():
    hint = mr.Feature("hint", at="hidden", adapter="linear_embedding", weight=1.0)
    return mr.Distiller(student=dense_net(4), teacher=dense_net(7), knowledge=[mr.Response(), hint])


def skipping():
    """Skips the steps of a batch in which one sample, of one replica, is not a number."""
    return offline()


def staged():
    hint = mr.Feature("hint", at="hidden", adapter="linear_embedding", weight=1.0, staged=True)
    return mr.Distiller(student=dense_net(4), teacher=dense_net(7), knowledge=[mr.Response(), hint])


def rkd():
    relations = [
        mr.Relation(name, at="hidden", weight=1.0, across_replicas=True)
        for name in ("rkd_distance", "rkd_angle")
    ]
    return mr.Distiller(student=dense_net(4), teacher=dense_net(7), knowledge=relations)


def crd():
    memory = mr.adapters.ContrastiveMemory(
        samples=16, negatives=5, sampling="shared", units=3, temperature=0.5
    )
    relation = mr.Relation("crd", at="hidden", adapter=memory, weight=1.0)
    return mr.Distiller(student=dense_net(4), teacher=dense_net(7), knowledge=[relation])


def modreduce():
    return taught_in_two_ways({name: dense_net(4) for name in PAIR}, "weighted_average")


def modreduce_one():
    return taught_in_two_ways(
        mr.models.branch(dense_net(4), at="hidden", branches=2, names=PAIR), "one"
    )


def taught_in_two_ways(students, aggregator):
    return mr.ModReduce(
        teacher=dense_net(7),
        students=students,
        knowledge={name: [mr.Response()] for name in PAIR},
        aggregator=aggregator,
        online_weight=mr.schedules.Linear(0.1, 0.6, steps=4),
    )


def okddip():
    peers = [dense_net(4, name) for name in "abc"]
    return mr.PeerDistiller(peers, aggregator="okddip", features_at="hidden")


def pcl():
    peers = [dense_net(4, name) for name in "abc"]
    return mr.PeerDistiller(peers, aggregator="pcl", features_at="hidden")


def one():
    """ONE as published: branches, and a gate that normalizes over the batch."""
    branches = mr.models.branch(dense_net(4), at="hidden", branches=3)
    return mr.PeerDistiller(branches, aggregator="one")


def data_free(method):
    """A generator and a student, in turns or together."""
    inputs = keras.Input((WIDTH,))
    hidden = keras.layers.Dense(9, activation="tanh")(inputs)
    generator = keras.Model(inputs, keras.layers.Reshape((3, 3, 1))(hidden), name="generator")
    return mr.DataFreeDistiller(
        student=image_net(4), teacher=image_net(7, norm=True), generator=generator, method=method
    )


def image_net(width, norm=False):
    inputs = keras.Input((3, 3, 1))
    hidden = keras.layers.Dense(width, activation="tanh", kernel_regularizer="l2", name="hidden")(
        keras.layers.Flatten()(inputs)
    )
    hidden = keras.layers.BatchNormalization()(hidden) if norm else hidden
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(hidden))


def zskt():
    return data_free(mr.distillers.ZSKT(student_updates=1))


def dafl():
    return data_free(mr.distillers.DAFL(statistics=1.0))


BUILDERS = {
    "offline": offline,
    "skipping": skipping,
    "tokens": tokens,
    "staged": staged,
    "rkd": rkd,
    "crd": crd,
    "modreduce": modreduce,
    "modreduce_one": modreduce_one,
    "one": one,
    "zskt": zskt,
    "dafl": dafl,
    "okddip": okddip,
    "pcl": pcl,
}


def dataset(examples: int, name: str) -> tf.data.Dataset:
    """Returns batches of 8, with an index for CRD and sample weights for the rest."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, WIDTH)).astype("float32")
    weights = rng.uniform(size=examples).astype("float32")
    if name == "skipping":
        x[6] = np.nan
    labels = np.arange(examples) % CLASSES
    if name == "tokens":
        kept = np.arange(WIDTH) < rng.integers(1, WIDTH + 1, size=(examples, 1))
        x = (rng.normal(size=(examples, WIDTH, 2)) * kept[..., None]).astype("float32")
        labels, weights = rng.integers(CLASSES, size=kept.shape), rng.uniform(size=kept.shape)
    if name in DATA_FREE:
        return tf.data.Dataset.from_tensor_slices(x).batch(8)
    data = tf.data.Dataset.from_tensor_slices((x, labels, weights))
    return (mr.data.with_index(data) if name == "crd" else data).batch(8)


def train(name: str, strategy: tf.distribute.Strategy, *datasets: tf.data.Dataset, epochs=3):
    """Trains a distiller under a strategy and returns the logs and the weights for each data.

    Each training begins with the same state, by one distiller: a new one would be traced anew. The
    first data are read to their end in each epoch. The others are read without an end and epochs
    counted by their steps: to begin anew takes a strategy of several replicas as long as tracing.
    """
    keras.utils.set_random_seed(5)
    with strategy.scope():
        distiller = BUILDERS[name]()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            None if name in DATA_FREE else loss,
            metrics=["accuracy"],
            on_nonfinite="skip" if name == "skipping" else None,
        )
    state = [*distiller.variables, *distiller.optimizer.variables]
    begin, runs = [variable.numpy() for variable in state], []
    for data in datasets:
        for variable, value in zip(state, begin, strict=True):
            variable.assign(value)
        runs.append(fitted(name, distiller, data, epochs, to_the_end=data is datasets[0]))
    return runs


def fitted(name: str, distiller, data: tf.data.Dataset, epochs: int, to_the_end: bool = True):
    """Returns the logs and the weights after training on some data."""
    stage, before = {}, dict(distiller.skipped_steps)
    if any(one.pretrains for one in distiller.all_knowledge()):
        # Outside of the scope, as fit is; and fit insists on it under every strategy.
        try:
            distiller.fit(data, verbose=0)
            raise AssertionError("fit ran without the stage before it")
        except ValueError as error:
            assert "must be trained in a stage" in str(error), error
        stage = distiller.pretrain(data, optimizer=keras.optimizers.SGD(0.05), verbose=0).history
    validation = None if name in ("crd", "skipping") else data
    if name in DATA_FREE:
        images = np.linspace(-1.0, 1.0, 10 * 9, dtype="float32").reshape(10, 3, 3, 1)
        validation = tf.data.Dataset.from_tensor_slices((images, np.arange(10) % 3)).batch(8)
    steps = {}
    if not to_the_end:
        steps = {"steps_per_epoch": len(data)}
        data = data.repeat()
        if validation is not None:
            steps["validation_steps"] = len(validation)
            validation = validation.repeat()
    logs = distiller.fit(
        data, epochs=epochs, validation_data=validation, shuffle=False, verbose=0, **steps
    )
    assert name in DATA_FREE or distiller.get_config()["supervised_weight"] == 1.0
    if name == "skipping":
        skipped = distiller.skipped_steps["student"] - before.get("student", 0)
        assert skipped == epochs, distiller.skipped_steps
    history = logs.history | {f"stage/{name}": values for name, values in stage.items()}
    return history, [variable.numpy() for variable in distiller.variables]


def assert_same(runs, others):
    """Raises unless logs and weights are the same within what sums in another order differ by."""
    for run, other in zip(runs, others, strict=True):
        assert_same_run(run, other)


def assert_same_run(one, other):
    (one_logs, one_weights), (other_logs, other_weights) = one, other
    for first, second in zip(one_weights, other_weights, strict=True):
        np.testing.assert_allclose(second, first, atol=1e-6)
    np.testing.assert_equal(set(one_logs), set(other_logs))
    for name, values in one_logs.items():
        np.testing.assert_allclose(other_logs[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
