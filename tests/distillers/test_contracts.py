"""The distiller's promises: forward passes, an untouched teacher, nothing ignored."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def weights_of(model):
    return [variable.numpy().copy() for variable in model.variables]


def assert_equal_weights(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def counted(counted_net, three_kinds, cross_entropy):
    """A distiller between two networks that count their forward passes."""
    (student, student_counter), (teacher, teacher_counter) = counted_net(4), counted_net(6)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=three_kinds())
    distiller.compile("sgd", cross_entropy)
    return distiller, student_counter, teacher_counter


def test_one_forward_pass_of_each_network_per_training_step(counted, images, labels):
    distiller, student, teacher = counted
    distiller.fit(images, labels, batch_size=4, epochs=2, verbose=0)
    assert (float(student.runs), float(student.training_runs)) == (6, 6)
    assert (float(teacher.runs), float(teacher.training_runs)) == (6, 0)


def test_construction_runs_nothing(counted):
    _, student, teacher = counted
    assert float(student.runs) == float(teacher.runs) == 0


def test_evaluate_and_predict_run_the_student_once_and_the_teacher_never(counted, images, labels):
    distiller, student, teacher = counted
    distiller.evaluate(images, labels, batch_size=4, verbose=0)
    distiller.predict(images, batch_size=4, verbose=0)
    assert (float(student.runs), float(student.training_runs)) == (6, 0)
    assert float(teacher.runs) == 0


def test_batch_norm_statistics_move_once_per_step_and_not_in_evaluate(distiller, images, labels):
    norm = distiller.student.get_layer("stage1_norm")
    batch_mean = distiller.student.get_layer("stage1_conv")(images).numpy().mean(axis=(0, 1, 2))
    distiller.train_on_batch(images, labels)
    np.testing.assert_allclose(norm.moving_mean, (1 - norm.momentum) * batch_mean, rtol=1e-5)
    before = weights_of(distiller.student)
    distiller.evaluate(images, labels, verbose=0)
    assert_equal_weights(before, weights_of(distiller.student))


def test_teacher_is_unchanged_bit_for_bit_and_flag_for_flag(distiller, teacher, images, labels):
    weights = weights_of(teacher)
    flags = [layer.trainable for layer in teacher._flatten_layers()]
    calls = [vars(layer).get("call") for layer in teacher._flatten_layers()]
    distiller.fit(images, labels, epochs=2, verbose=0)
    assert_equal_weights(weights, weights_of(teacher))
    assert [layer.trainable for layer in teacher._flatten_layers()] == flags
    assert [vars(layer).get("call") for layer in teacher._flatten_layers()] == calls
    assert not teacher.compiled


def test_teacher_is_neither_counted_nor_in_weight_files(distiller, teacher, tmp_path):
    own = {id(variable) for variable in distiller.variables}
    assert own.isdisjoint(id(variable) for variable in teacher.variables)
    path = str(tmp_path / "distiller.weights.h5")
    distiller.save_weights(path)
    before = weights_of(teacher)
    for variable in teacher.variables:
        variable.assign(variable + 1.0)
    distiller.load_weights(path)
    assert_equal_weights([weight + 1.0 for weight in before], weights_of(teacher))


def test_zero_sample_weights_give_zero_loss_and_no_update(distiller, images, labels):
    before = [v.numpy().copy() for v in distiller.trainable_variables]
    logs = distiller.train_on_batch(
        images, labels, sample_weight=np.zeros(len(labels)), return_dict=True
    )
    assert {logs[name] for name in ("loss", "ce", "kd", "hint", "rkd_angle")} == {0.0}
    assert_equal_weights(before, [v.numpy() for v in distiller.trainable_variables])


def test_sample_weights_weight_every_term(distiller, images, labels):
    weights = np.linspace(0.0, 2.0, len(labels)).astype("float32")
    outputs = distiller.forward(tf.constant(images), training=True)
    terms = distiller.compute_terms(tf.constant(labels), outputs)
    logs = distiller.train_on_batch(images, labels, sample_weight=weights, return_dict=True)
    for name, values in terms.items():
        assert logs[name] == pytest.approx(np.mean(values.numpy() * weights), rel=1e-5)


def test_class_weight_is_the_sample_weight_of_the_class(net, teacher, images, labels):
    def trained(**weights):
        keras.utils.set_random_seed(1)
        student = net()
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response()])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss)
        distiller.fit(images, labels, verbose=0, shuffle=False, **weights)
        return weights_of(student)

    by_class = {0: 0.5, 1: 2.0, 2: 0.0}
    by_sample = np.array([by_class[label] for label in labels])
    assert_equal_weights(trained(class_weight=by_class), trained(sample_weight=by_sample))


def test_a_column_of_sample_weights_is_taken_and_a_matrix_refused(distiller, images, labels):
    distiller.train_on_batch(images, labels, sample_weight=np.ones((12, 1)))
    with pytest.raises(ValueError, match=r"one value per example, \(batch,\), or .*: shape \(12"):
        distiller.train_on_batch(images, labels, sample_weight=np.ones((12, 3)))


def test_regularizers_and_added_losses_of_the_student_are_in_the_loss(
    net, teacher, cross_entropy, images, labels
):
    def loss_of(student):
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response()])
        distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
        return distiller.train_on_batch(images, labels, return_dict=True)["loss"]

    plain, regularized = net(), net(kernel_regularizer="l2")
    regularized.set_weights(plain.get_weights())
    kernels = [v.numpy() for v in plain.trainable_variables if v.path.endswith("kernel")]
    penalty = 0.01 * sum(np.sum(kernel**2) for kernel in kernels)
    assert loss_of(regularized) - loss_of(plain) == pytest.approx(penalty, rel=1e-4)

    active = keras.layers.ActivityRegularization(l2=0.5)
    added = keras.Sequential([plain, active])
    activity = 0.5 * np.sum(plain(images, training=True).numpy() ** 2) / len(images)
    assert loss_of(added) - loss_of(plain) == pytest.approx(activity, rel=1e-4)


def test_a_knob_changed_by_a_callback_between_epochs_takes_effect(
    net, teacher, images, labels, cross_entropy
):
    kd = mr.Response(mr.losses.KD(temperature=4.0), weight=1.0)
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[kd])
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)

    class Turn(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kd.weight = 0.25
            if epoch == 2:
                kd.loss.temperature = 1.0
            if epoch == 3:
                distiller.supervised_weight = 0.0

    history = distiller.fit(images, labels, epochs=4, callbacks=[Turn()], verbose=0).history
    expected = []
    logits_t = teacher(images, training=False)
    for temperature in (4.0, 4.0, 1.0, 1.0):
        values = mr.losses.KD(temperature=temperature).call(
            logits_t, distiller.student(images, training=True)
        )
        expected.append(float(np.mean(values)))
    np.testing.assert_allclose(history["kd"], expected, rtol=1e-4)
    supervised = np.array([1.0, 1.0, 1.0, 0.0]) * history["ce"]
    weights = np.array([1.0, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(history["loss"], supervised + weights * expected, rtol=1e-4)


def test_a_scheduled_weight_follows_the_step(net, teacher, images, labels, cross_entropy):
    weight = mr.schedules.Piecewise([1, 3], [1.0, 0.5, 0.0])
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response(weight=weight)])
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    for expected in (1.0, 0.5, 0.5, 0.0):
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        distiller.reset_metrics()
        assert logs["loss"] - logs["ce"] == pytest.approx(expected * logs["kd"], abs=1e-6)


def test_a_scheduled_temperature_follows_the_step(net, teacher, images):
    temperature = mr.schedules.Piecewise([1], [4.0, 1.0])
    distiller = mr.Distiller(
        student=net(),
        teacher=teacher,
        knowledge=[mr.Response(mr.losses.KD(temperature=temperature))],
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    logits = teacher(images), distiller.student(images, training=True)
    for expected in (4.0, 1.0):
        logs = distiller.train_on_batch(images, return_dict=True)
        distiller.reset_metrics()
        values = mr.losses.KD(temperature=expected).call(*logits)
        assert logs["kd"] == pytest.approx(float(np.mean(values)), rel=1e-5)


def test_logs_are_means_over_examples_not_over_batches(distiller, images, labels):
    distiller.optimizer.learning_rate = 0.0
    evaluated = distiller.evaluate(images, labels, batch_size=5, verbose=0, return_dict=True)
    logits = distiller.student(images, training=False)
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert set(evaluated) == {"loss", "ce", "accuracy"}
    assert evaluated["ce"] == pytest.approx(float(np.mean(losses)), rel=1e-5)
    assert evaluated["loss"] == pytest.approx(evaluated["ce"], rel=1e-6)


def test_logs_name_every_term(distiller, images, labels):
    history = distiller.fit(
        images, labels, validation_data=(images, labels), batch_size=5, verbose=0
    ).history
    trained = ["loss", "ce", "kd", "hint", "rkd_distance", "rkd_angle", "accuracy"]
    assert set(history) == {*trained, "val_loss", "val_ce", "val_accuracy"}


def test_dict_inputs_reach_student_and_teacher(cross_entropy, images, labels):
    def two_inputs(width):
        inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((2,), name="right")}
        joined = keras.layers.Concatenate()([inputs["left"], inputs["right"]])
        hidden = keras.layers.Dense(width, name="hidden")(joined)
        return keras.Model(inputs, keras.layers.Dense(3)(hidden))

    student, teacher = two_inputs(5), two_inputs(7)
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response(mr.losses.LogitMSE())]
    )
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    x = {"right": images[:, 0, :2, 0], "left": images[:, 1, :4, 0]}
    logs = distiller.train_on_batch(x, labels, return_dict=True)
    expected = np.mean((student(x).numpy() - teacher(x).numpy()) ** 2)
    assert logs["logit_mse"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"run_eagerly": True}, {"steps_per_execution": 2}, {"jit_compile": True}]
)
def test_ways_of_running_give_the_same_student(
    options, net, teacher, three_kinds, cross_entropy, images, labels
):
    def trained(**options):
        keras.utils.set_random_seed(1)
        distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=three_kinds())
        distiller.compile(keras.optimizers.SGD(0.05), cross_entropy, **options)
        distiller.fit(images, labels, batch_size=4, shuffle=False, verbose=0)
        return weights_of(distiller.student)

    for one, other in zip(trained(), trained(**options), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_training_on_the_teacher_alone_needs_no_labels(net, teacher, images):
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response()])
    distiller.compile(keras.optimizers.Adam(0.01))
    history = distiller.fit(images, epochs=2, verbose=0).history
    assert set(history) == {"loss", "kd"}
    assert history["loss"] == history["kd"]


def test_prediction_is_the_students(distiller, images):
    expected = distiller.student.predict(images, verbose=0)
    np.testing.assert_array_equal(distiller.predict(images, verbose=0), expected)
    np.testing.assert_array_equal(distiller(images), distiller.student(images))


class TokenClassifier(keras.Model):
    """A subclassed model whose inputs are integers, which nothing but its code says."""

    def __init__(self, width):
        super().__init__()
        self.embedding = keras.layers.Embedding(9, width, name="tokens")
        self.pool = keras.layers.GlobalAveragePooling1D(name="embedding")
        self.head = keras.layers.Dense(3)

    def call(self, inputs):
        return self.head(self.pool(self.embedding(inputs)))


def test_integer_tokens_reach_subclassed_models(cross_entropy, labels):
    tokens = np.random.default_rng(0).integers(0, 9, size=(12, 5))
    student, teacher = TokenClassifier(4), TokenClassifier(6)
    student(tokens)
    teacher(tokens)
    distiller = mr.Distiller(
        student=student,
        teacher=teacher,
        knowledge=[mr.Response(), mr.Relation("sp", at="embedding")],
    )
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    logs = distiller.train_on_batch(tokens, labels, return_dict=True)
    expected = np.mean(mr.losses.KD().call(teacher(tokens), student(tokens)))
    assert logs["kd"] == pytest.approx(expected, rel=1e-4)


def test_former_name_of_all_knowledge_is_deprecated(modreduce):
    with pytest.warns(DeprecationWarning, match="all_knowledge"):
        former = modreduce.taught()
    assert former == modreduce.all_knowledge()
    assert former == [one for several in modreduce.knowledge.values() for one in several]
