"""Loss scales: float16 gradients by a scale of each network, and steps that are skipped alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.gradients import policies
from modreduce_keras.distillers.optimizers import states
from tests.support.models.poison import MARK, marked, poisoned_net, values


@pytest.fixture
def half_net(mixed_float16):
    """Makes networks that compute in float16, each with the same weights at each call."""

    def build(name, seed=1, **arguments):
        keras.utils.set_random_seed(seed)
        return poisoned_net(name, **arguments)

    return build


def peers(half_net, optimizer, mark=MARK, **options):
    """Two students, of which only the first breaks at a mark, if either does."""
    students = {"a": half_net("a", 1, mark=mark), "b": half_net("b", 2, mark=np.inf)}
    distiller = mr.PeerDistiller(students, aggregator="mean")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(optimizer, loss, **options)
    # Small enough for gradients of a first step.
    distiller.policy.scales.scale.assign([64.0, 64.0, 1.0])
    return distiller


# Scaling changes nothing but the range


# Gradients cross networks in targets (okddip), in features (pcl), and into an aggregator's weights.
CROSSING = ["weighted_average", "okddip", "pcl"]


def trained(distiller, images, labels, optimizer, loss, scales=None):
    distiller.compile(optimizer, loss, run_eagerly=True)
    if scales is not None:
        distiller.policy.scales.scale.assign(scales)
    for _ in range(2):
        distiller.train_on_batch(images, labels)
    return values(distiller.trainable_variables)


@pytest.mark.slow
@pytest.mark.parametrize("identifier", CROSSING)
def test_scaled_networks_learn_what_unscaled_ones_do(
    identifier, net, teacher, images, labels, cross_entropy, monkeypatch
):
    def run(scales):
        keras.utils.set_random_seed(3)
        students = {name: net(name=name) for name in "abc"}
        penalty = keras.regularizers.L2(0.1)
        students["a"] = poisoned_net("a", np.inf, width=6, kernel_regularizer=penalty)
        distiller = mr.PeerDistiller(
            students,
            teacher=teacher,
            knowledge={"b": [mr.Response("kd"), mr.Feature("hint", at="stage2")]},
            aggregator=identifier,
        )
        return trained(distiller, images, labels, keras.optimizers.SGD(0.5), cross_entropy, scales)

    expected = run(None)
    # All count as float16, but compute in float32; then all but the aggregator.
    monkeypatch.setattr(policies, "computes_in_float16", lambda parts: True)
    scaled = [run([8.0, 0.5, 1024.0, 4.0])]
    monkeypatch.setattr(policies, "computes_in_float16", lambda parts: parts[0].name in "abc")
    scaled += [run([8.0, 0.5, 1024.0, 1.0])]
    for weights in scaled:
        for one, other in zip(weights, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_branched_network_has_one_scale(net, images, labels, cross_entropy, monkeypatch):
    def run(scales):
        keras.utils.set_random_seed(3)
        branches = mr.models.branch(net(), at="stage1", branches=3)
        distiller = mr.PeerDistiller(branches, aggregator="one")
        optimizer = keras.optimizers.SGD(0.5)
        return trained(distiller, images, labels, optimizer, cross_entropy, scales), distiller

    expected, _ = run(None)
    monkeypatch.setattr(policies, "computes_in_float16", lambda parts: True)
    scaled, distiller = run([64.0, 2.0])
    assert distiller.loss_scales == {"trunk": 64.0, "aggregator": 2.0}
    for one, other in zip(scaled, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_small_gradients_survive_float16(half_net, images, labels, cross_entropy):
    """What underflows in float16 without a scale arrives with one."""

    def moved(**options):
        student = half_net("student")
        # A weight of 1e-8 on the loss: the gradients of the logits are below float16's smallest.
        distiller = mr.Distiller(
            student=student,
            teacher=None,
            knowledge=[mr.Response("confidence_penalty", weight=0.0)],
            supervised_weight=1e-8,
        )
        distiller.compile(keras.optimizers.SGD(1e8), cross_entropy, run_eagerly=True, **options)
        before = values(student.trainable_variables)
        distiller.train_on_batch(images, labels)
        return [
            np.abs(new - old).max()
            for new, old in zip(values(student.trainable_variables), before, strict=True)
        ]

    scaled, unscaled = moved(), moved(auto_scale_loss=False)
    assert unscaled[0] == 0.0
    keras.config.set_dtype_policy("float32")
    full = moved()
    np.testing.assert_allclose(scaled[0], full[0], rtol=0.03)


# An infinity


def everything(distiller, name):
    """Returns all variables of a student, and its optimizer's."""
    student = distiller.students[name]
    ids = {id(v) for v in student.trainable_variables}
    if hasattr(distiller.optimizer, "optimizers"):
        (own,) = [
            one
            for one in distiller.optimizer.optimizers
            if ids & {id(v) for v in one._trainable_variables}
        ]
        return [*student.variables, *own.variables]
    optimizer = distiller.optimizer
    slots = [
        slot
        for several in (optimizer._momentums, optimizer._velocities)
        for slot, variable in zip(several, optimizer._trainable_variables, strict=True)
        if id(variable) in ids
    ]
    return [*student.variables, *slots]


def same(first, second):
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


OPTIMIZERS = {
    "one for all": lambda: keras.optimizers.Adam(0.01, global_clipnorm=1.0),
    "one for each": lambda: {name: keras.optimizers.Adam(0.01) for name in "ab"},
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_one_students_infinity_skips_its_step_alone(half_net, images, labels, kind):
    def run(mark):
        distiller = peers(half_net, OPTIMIZERS[kind](), mark, run_eagerly=True)
        distiller.train_on_batch(marked(images), labels)
        before = {name: values(everything(distiller, name)) for name in "ab"}
        distiller.train_on_batch(marked(images, 3), labels)
        return distiller, before, {name: values(everything(distiller, name)) for name in "ab"}

    distiller, before, after = run(MARK)
    assert same(before["a"], after["a"])
    assert distiller.loss_scales == {"a": 32.0, "b": 64.0}
    assert distiller.skipped_steps == {"a": 1, "b": 0, "aggregator": 0}
    healthy, _, expected = run(np.inf)
    assert healthy.skipped_steps == {"a": 0, "b": 0, "aggregator": 0}
    assert same(after["b"], expected["b"])
    assert not same(after["a"], expected["a"])

    distiller.train_on_batch(marked(images), labels)
    assert not same(after["a"], values(everything(distiller, "a")))
    assert distiller.skipped_steps == {"a": 1, "b": 0, "aggregator": 0}
    assert all(np.isfinite(v).all() for n in "ab" for v in values(everything(distiller, n)))


def test_the_norm_of_all_gradients_leaves_out_those_of_a_skipped_step(half_net, images, labels):
    optimizer = keras.optimizers.SGD(0.1, global_clipnorm=1e-3)
    distiller = peers(half_net, optimizer, run_eagerly=True)
    before = values(distiller.students["b"].trainable_variables)
    distiller.train_on_batch(marked(images, 3), labels)
    after = values(distiller.students["b"].trainable_variables)
    squares = sum(
        np.square(n - o, dtype="float64").sum() for n, o in zip(after, before, strict=True)
    )
    np.testing.assert_allclose(np.sqrt(squares), 0.1 * 1e-3, rtol=1e-3)


@pytest.mark.slow
def test_an_infinity_on_one_replica_skips_the_step_on_all(
    half_net, images, labels, two_replicas, cross_entropy
):
    # The mark is in the second half of the batch, which is that of the second replica.
    batches = tf.data.Dataset.from_tensor_slices((marked(images, 9), labels)).batch(12)
    with two_replicas.scope():
        distiller = peers(half_net, keras.optimizers.Adam(0.01))
        before = {name: values(everything(distiller, name)) for name in "ab"}
        distiller.fit(batches, verbose=0, shuffle=False)
    after = {name: values(everything(distiller, name)) for name in "ab"}
    assert same(before["a"], after["a"])
    assert not same(before["b"], after["b"])
    assert distiller.loss_scales == {"a": 32.0, "b": 64.0}
    assert distiller.skipped_steps == {"a": 1, "b": 0, "aggregator": 0}
    for variable in distiller.students["a"].variables:
        first, second = two_replicas.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())


@pytest.mark.parametrize(
    "optimizer",
    [
        *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion"),
        *("Muon", "Nadam", "RMSprop", "SGD", "ScheduleFreeAdamW"),
    ],
)
def test_every_optimizer_of_keras_tells_whose_its_variables_are(optimizer):
    trained = [keras.Variable(np.ones(shape), name=f"v{shape}") for shape in ((3, 4), (5, 6))]
    made = getattr(keras.optimizers, optimizer)(use_ema=True)
    made.build(trained)
    places = {id(variable): place for place, variable in enumerate(trained)}
    served = [(v, networks) for v, networks in states(made, places) if len(v.shape)]
    assert len(served) >= 2
    for variable, networks in served:
        (place,) = networks
        assert set(variable.shape) <= {*trained[place].shape, 1}, variable.path


def test_an_optimizer_that_hides_its_variables_needs_one_for_each(half_net):
    class Hidden(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.by_path = {v.path: self.add_variable_from_reference(v, "old") for v in variables}

    with pytest.raises(ValueError, match="Give every group an optimizer of its own"):
        peers(half_net, Hidden(0.01))
    peers(half_net, {"a": Hidden(0.01), "b": Hidden(0.01)})


# How a scale moves


def test_a_scale_grows_with_finite_steps_and_halves_without(half_net, images, labels):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=16.0, dynamic_growth_steps=2
    )
    distiller = mr.Distiller(
        student=half_net("s"), teacher=half_net("t", 2, mark=np.inf), knowledge=[mr.Response()]
    )
    distiller.compile(optimizer)
    assert distiller.optimizer is optimizer.inner_optimizer
    scales = []
    for places in [(), (), (), (5,), (), ()]:
        distiller.train_on_batch(marked(images, *places), labels)
        scales.append(distiller.loss_scales["student"])
    assert scales == [16.0, 32.0, 32.0, 16.0, 16.0, 32.0]
    assert distiller.skipped_steps == {"student": 1}


def test_a_scale_stays_within_its_range(half_net, images):
    distiller = mr.Distiller(
        student=half_net("s"), teacher=half_net("t", 2), knowledge=[mr.Response()]
    )
    distiller.compile("sgd")
    scales = distiller.policy.scales
    for _ in range(40):
        scales.follow(tf.constant([True]))
    assert distiller.loss_scales["student"] == 2.0**-14
    scales.scale.assign([2.0**24])
    scales.finite_steps.assign([1999])
    scales.follow(tf.constant([False]))
    assert distiller.loss_scales["student"] == 2.0**24


def test_scales_by_group(half_net, cross_entropy):
    wrapped = keras.optimizers.LossScaleOptimizer
    optimizer = {"a": wrapped(keras.optimizers.SGD(), initial_scale=4.0), "b": "sgd"}
    students = {"a": half_net("a"), "b": half_net("b")}
    distiller = mr.PeerDistiller(students)
    distiller.compile(optimizer, cross_entropy)
    assert distiller.loss_scales == {"a": 4.0, "b": 2.0**15}


def test_no_scales_on_request_and_in_float32(half_net, net, teacher, cross_entropy):
    distiller = mr.Distiller(
        student=half_net("s"), teacher=half_net("t", 2), knowledge=[mr.Response()]
    )
    distiller.compile("sgd", auto_scale_loss=False)
    assert (distiller.loss_scales, distiller.skipped_steps) == ({}, {})
    distiller.compile("sgd")
    assert distiller.loss_scales == {"student": 2.0**15}
    keras.config.set_dtype_policy("float32")
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response()])
    distiller.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    assert (distiller.loss_scales, distiller.skipped_steps) == ({}, {})


def test_scales_are_saved_and_loaded(half_net, images, labels, tmp_path):
    distiller = peers(half_net, keras.optimizers.Adam(0.01), run_eagerly=True)
    distiller.train_on_batch(marked(images, 3), labels)
    distiller.save(tmp_path / "peers.keras")
    loaded = keras.models.load_model(tmp_path / "peers.keras")
    assert loaded.loss_scales == {"a": 32.0, "b": 64.0}
    assert loaded.skipped_steps == {"a": 1, "b": 0, "aggregator": 0}
    for one in (distiller, loaded):
        one.train_on_batch(marked(images), labels)
    for name in "ab":
        assert same(values(everything(distiller, name)), values(everything(loaded, name)))


def test_weight_files_go_between_trainings_with_scales_and_without(half_net, tmp_path):
    scaled, plain = (
        mr.Distiller(
            student=half_net("s", seed), teacher=half_net("t", 3), knowledge=[mr.Response()]
        )
        for seed in (1, 2)
    )
    scaled.compile("sgd")
    plain.compile("sgd", auto_scale_loss=False)
    plain.save_weights(tmp_path / "plain.weights.h5")
    scaled.load_weights(tmp_path / "plain.weights.h5")
    assert same(values(scaled.student.variables), values(plain.student.variables))
    assert scaled.loss_scales == {"student": 2.0**15}
    scaled.policy.scales.scale.assign([8.0])
    scaled.student.set_weights([weight + 1.0 for weight in scaled.student.get_weights()])
    scaled.save_weights(tmp_path / "scaled.weights.h5")
    plain.load_weights(tmp_path / "scaled.weights.h5")
    assert same(values(scaled.student.variables), values(plain.student.variables))


def test_compiling_again_begins_anew(half_net, images, labels):
    distiller = peers(half_net, keras.optimizers.SGD(0.01), run_eagerly=True)
    distiller.train_on_batch(marked(images, 3), labels)
    number = len(distiller.variables)
    distiller.compile(keras.optimizers.SGD(0.01), distiller.loss)
    assert distiller.loss_scales == {"a": 2.0**15, "b": 2.0**15}
    assert distiller.skipped_steps == {"a": 0, "b": 0, "aggregator": 0}
    assert len(distiller.variables) == number


@pytest.mark.slow
def test_a_run_goes_on_with_its_scales(half_net, images, labels, tmp_path):
    x = np.concatenate([marked(images), marked(images, 3), marked(images, 7)])
    batches = tf.data.Dataset.from_tensor_slices((x, np.tile(labels, 3))).batch(12)

    def trained(epochs, **arguments):
        distiller = peers(half_net, keras.optimizers.Adam(0.01), run_eagerly=True)
        distiller.fit(batches, epochs=epochs, shuffle=False, verbose=0, **arguments)
        return distiller

    whole = trained(2)
    trained(1, callbacks=[mr.callbacks.Resume(tmp_path)])
    resumed = trained(2, callbacks=[mr.callbacks.Resume(tmp_path)])
    assert resumed.loss_scales == whole.loss_scales == {"a": 4.0, "b": 64.0}
    assert resumed.skipped_steps == whole.skipped_steps == {"a": 4, "b": 0, "aggregator": 0}
    for name in "ab":
        assert same(values(everything(resumed, name)), values(everything(whole, name)))


def test_a_stage_of_pretraining_skips_too(half_net, images, labels, cross_entropy):
    student = half_net("student")
    hint = mr.Feature("hint", at="poison", adapter=None, staged=True)
    distiller = mr.Distiller(
        student=student, teacher=half_net("teacher", 2), knowledge=[mr.Response(), hint]
    )
    distiller.compile("sgd", cross_entropy)
    before = values(student.variables)
    distiller.pretrain(marked(images, 3), labels, batch_size=12, verbose=0)
    assert same(before, values(student.variables))
    distiller.pretrain(marked(images), labels, batch_size=12, epochs=3, verbose=0)
    assert not same(before, values(student.variables))
    assert all(np.isfinite(value).all() for value in values(student.variables))
