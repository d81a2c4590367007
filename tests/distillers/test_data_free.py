"""Distillation without data: steps by hand, turns, resuming, saving, errors."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

NOISE, RATES = 5, {"student": 0.05, "generator": 0.02}


@pytest.fixture
def generator():
    keras.utils.set_random_seed(4)
    inputs = keras.Input((NOISE,))
    maps = keras.layers.Reshape((8, 8, 1))(keras.layers.Dense(64)(inputs))
    return keras.Model(inputs, keras.layers.BatchNormalization()(maps), name="generator")


@pytest.fixture
def make(net, teacher, generator):
    """Returns a compiled distiller of a method."""

    def make(method, optimizer=None, **arguments):
        keras.utils.set_random_seed(3)
        compiling = {k: arguments.pop(k) for k in ("metrics", "on_nonfinite") if k in arguments}
        distiller = mr.DataFreeDistiller(
            student=net(), teacher=teacher, generator=generator, method=method, **arguments
        )
        sgd = {name: keras.optimizers.SGD(rate) for name, rate in RATES.items()}
        distiller.compile(optimizer or sgd, **compiling)
        return distiller

    return make


def noise(random, batch=6):
    return random.normal(size=(batch, NOISE)).astype("float32")


def copy_of(model):
    return mr.models.copy_model(model)


# Losses


# Steps


def kl(log_t, log_s):
    return tf.reduce_mean(tf.reduce_sum(tf.exp(log_t) * (log_t - log_s), axis=-1))


def stepped(tape, loss, model, rate):
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign_sub(rate * gradient)


def assert_same_weights(one, other):
    for first, second in zip(one.variables, other.variables, strict=True):
        np.testing.assert_allclose(first, second, rtol=2e-5, atol=2e-6, err_msg=first.path)


def test_zskt_steps_equal_steps_by_hand(make, teacher, random):
    distiller = make(mr.distillers.ZSKT(student_updates=2))
    student, generator = copy_of(distiller.student), copy_of(distiller.generator)
    found = []
    for turn in ("generator", "student", "student", "generator"):
        z = noise(random)
        with tf.GradientTape() as tape:
            images = generator(z, training=True)
            log_t = tf.nn.log_softmax(teacher(images, training=False))
            log_s = tf.nn.log_softmax(student(images, training=True))
            loss = kl(log_t, log_s)
            loss = -loss if turn == "generator" else loss
        model = generator if turn == "generator" else student
        stepped(tape, loss, model, RATES[turn])
        found.append(float(loss))
        logs = distiller.train_on_batch(z, return_dict=True)
        distiller.reset_metrics()
        name = "kd" if turn == "student" else "generator/adversarial"
        assert logs["loss"] == pytest.approx(found[-1], rel=1e-5)
        assert logs[name] == pytest.approx(found[-1], rel=1e-5)
    assert_same_weights(distiller.student, student)
    assert_same_weights(distiller.generator, generator)


def test_an_epoch_logs_only_the_terms_that_it_computes(make):
    distiller, found = make(mr.distillers.ZSKT(generator_updates=3, student_updates=3)), []
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: found.append(set(logs)))
    given = {"steps_per_epoch": 2, "batch_size": 4, "verbose": 0, "callbacks": [told]}
    history = distiller.fit(epochs=3, **given).history
    own = "generator/adversarial"
    assert found == [{"loss", own}, {"loss", own, "kd"}, {"loss", "kd"}]
    assert [len(history[name]) for name in ("loss", "kd", own)] == [3, 2, 2]


@pytest.mark.parametrize("variant", ["reference", "paper"])
def test_a_dafl_step_equals_a_step_by_hand(variant, make, teacher, random):
    method = mr.distillers.DAFL(one_hot=0.7, activation=0.2, information=3.0, variant=variant)
    distiller = make(method)
    student, generator = copy_of(distiller.student), copy_of(distiller.generator)
    inner = keras.Model(teacher.input, [teacher.get_layer("embedding").output, teacher.output])
    z = noise(random)
    with tf.GradientTape(persistent=True) as tape:
        images = generator(z, training=True)
        features, logits = inner(images, training=False)
        log_t = tf.nn.log_softmax(logits)
        one_hot = -tf.reduce_mean(tf.reduce_max(log_t, axis=-1))
        mean = tf.reduce_mean(tf.exp(log_t), axis=0)
        information = tf.reduce_sum(mean * tf.math.log(mean))
        if variant == "paper":
            activation = -tf.reduce_mean(tf.reduce_sum(tf.abs(features), axis=-1))
            information /= 3
        else:
            activation = -tf.reduce_mean(tf.abs(features))
            information /= np.log(10.0)
        of_generator = 0.7 * one_hot + 0.2 * activation + 3.0 * information
        log_s = tf.nn.log_softmax(student(tf.stop_gradient(images), training=True))
        of_student = kl(tf.stop_gradient(log_t), log_s)
    stepped(tape, of_generator, generator, RATES["generator"])
    stepped(tape, of_student, student, RATES["student"])
    logs = distiller.train_on_batch(z, return_dict=True)
    expected = {
        "kd": of_student,
        "generator/one_hot": one_hot,
        "generator/activation": activation,
        "generator/information": information,
        "loss": of_student + of_generator,
    }
    assert set(logs) == set(expected)
    for name, value in expected.items():
        assert logs[name] == pytest.approx(float(value), rel=1e-4), name
    assert_same_weights(distiller.student, student)
    assert_same_weights(distiller.generator, generator)


def test_each_optimizer_counts_its_own_updates(make, random):
    distiller = make(mr.distillers.ZSKT(generator_updates=2), optimizer=keras.optimizers.Adam())
    distiller.fit(steps_per_epoch=5, batch_size=4, epochs=3, verbose=0)
    counts = [int(inner.iterations) for inner in distiller.optimizer.optimizers]
    assert counts == [11, 4]  # student, generator: of 15 steps, those after and of 0, 1; 12, 13
    assert int(distiller.step) == 15


# Around it


def test_evaluation_is_on_real_images(make, teacher, images, labels):
    distiller = make("zskt", metrics=["accuracy"])
    logs = distiller.fit(
        steps_per_epoch=2, batch_size=4, epochs=2, verbose=0, validation_data=(images, labels)
    ).history
    trained = {"loss", "kd", "generator/adversarial"}
    assert set(logs) == {*trained, "val_loss", "val_kd", "val_accuracy"}
    logits = distiller.predict(images, verbose=0)
    kd = mr.losses.KD(temperature=1.0)(teacher(images), logits)
    assert logs["val_kd"][-1] == pytest.approx(float(kd), rel=1e-5)
    assert logs["val_accuracy"][-1] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    found = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    assert found == pytest.approx(
        {"loss": float(kd), "kd": float(kd), "accuracy": logs["val_accuracy"][-1]}
    )
    distiller.reset_metrics()
    assert distiller.test_on_batch(images, labels, return_dict=True) == pytest.approx(found)


def test_an_attention_term_is_ordinary_knowledge(make):
    at = mr.Feature("at", at="stage2", weight=250.0)
    distiller = make("dafl", knowledge=[mr.Response(mr.losses.KD(temperature=1.0)), at])
    assert "at" in distiller.fit(steps_per_epoch=1, batch_size=4, verbose=0).history


def test_the_teacher_is_unchanged_and_not_saved_with_the_weights(make, teacher):
    before = [v.numpy() for v in teacher.variables]
    distiller = make("zskt")
    distiller.fit(steps_per_epoch=3, batch_size=4, verbose=0)
    for old, new in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    own = {id(v) for v in distiller.variables}
    assert own.isdisjoint(id(v) for v in teacher.variables)


def networks(distiller):
    return [*distiller.student.variables, *distiller.generator.variables]


def everything(distiller):
    return [v.numpy() for v in [*distiller.variables, *distiller.optimizer.variables]]


class StoppedError(Exception):
    pass


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.step) == 7:
            raise StoppedError


def fit(distiller, folder, *others):
    resume = mr.callbacks.Resume(folder, every=2)
    callbacks = [*others, resume]
    return distiller.fit(
        steps_per_epoch=5, batch_size=4, epochs=3, verbose=0, callbacks=callbacks
    ).history


@pytest.mark.slow
@pytest.mark.graph
def test_a_training_goes_on_in_the_middle_of_a_cycle(make, generator, tmp_path):
    method = mr.distillers.ZSKT(student_updates=2)
    weights = generator.get_weights()
    whole = make(method, keras.optimizers.Adam(0.01))
    history = fit(whole, tmp_path / "whole")
    expected = everything(whole)
    generator.set_weights(weights)
    with pytest.raises(StoppedError):
        fit(make(method, keras.optimizers.Adam(0.01)), tmp_path / "run", Stop())
    generator.set_weights([weight + 1.0 for weight in weights])
    resumed = make(method, keras.optimizers.Adam(0.01))
    assert fit(resumed, tmp_path / "run") == history
    for one, other in zip(expected, everything(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize(
    "method", ["zskt", mr.distillers.DAFL(information=2.0)], ids=["zskt", "dafl"]
)
def test_a_file_goes_on_training(method, make, tmp_path, images):
    distiller = make(method, keras.optimizers.Adam(0.01))
    arguments = {"steps_per_epoch": 4, "batch_size": 4, "verbose": 0}
    distiller.fit(**arguments)
    distiller.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")
    assert json.dumps(restored.get_config()) == json.dumps(distiller.get_config())
    assert restored.method.get_config() == distiller.method.get_config()
    assert restored.fit(**arguments).history == distiller.fit(**arguments).history
    for one, other in zip(everything(distiller), everything(restored), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.graph
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.parametrize("method", ["zskt", "dafl"])
def test_half_precision_trains_both(method, policy, net, teacher):
    distiller = mr.DataFreeDistiller(
        student=net(), teacher=teacher, image_range=(0.0, 1.0), method=method
    )
    distiller.compile("adam")
    names = "student", "generator"
    assert set(distiller.loss_scales) == (set(names) if policy == "mixed_float16" else set())
    before = [v.numpy() for v in distiller.trainable_variables]
    history = distiller.fit(steps_per_epoch=3, batch_size=4, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    changed = [
        not np.array_equal(old, new)
        for old, new in zip(before, distiller.trainable_variables, strict=True)
    ]
    assert np.mean(changed) > 0.8
    assert all(v.dtype == "float32" for v in distiller.trainable_variables)


@pytest.mark.parametrize("turn", ["generator", "student"])
def test_a_skipped_step_leaves_all_networks_as_they_were(turn, make, random):
    distiller = make(mr.distillers.ZSKT(student_updates=1), on_nonfinite="skip")
    if turn == "student":
        distiller.train_on_batch(noise(random))
    before = [v.numpy() for v in networks(distiller)]
    with pytest.warns(UserWarning, match="not finite"):
        distiller.train_on_batch(np.full((4, NOISE), np.nan, "float32"))
    for old, new in zip(before, networks(distiller), strict=True):
        np.testing.assert_array_equal(old, new)
    other = "student" if turn == "generator" else "generator"
    assert distiller.skipped_steps == {turn: 1, other: 0}


# Errors


def test_what_is_wrong_is_said_with_what_mends_it(make, net, teacher, generator, images):
    distiller = make("zskt")
    with pytest.raises(ValueError, match=r"fit\(steps_per_epoch=100, epochs=20\)"):
        distiller.fit()
    with pytest.raises(ValueError, match=r"mr\.data\.noise\(\(5,\), steps=100\).*\(12, 8, 8, 1\)"):
        distiller.fit(images, verbose=0)
    with pytest.raises(ValueError, match="leave y= out"):
        distiller.fit(images, y=np.zeros(12), verbose=0)
    with pytest.raises(ValueError, match="leave loss= out"):
        distiller.compile("adam", "mse")
    with pytest.raises(ValueError, match="steps_per_execution must be 1"):
        distiller.compile("adam", steps_per_execution=2)
    models = {"student": net(), "teacher": teacher}
    with pytest.raises(ValueError, match=r"does not say which range.*image_range=\(0\.0, 1\.0\)"):
        mr.DataFreeDistiller(**models)
    with pytest.raises(ValueError, match="image_range is for the default generator"):
        mr.DataFreeDistiller(**models, generator=generator, image_range=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"generator must be .*image_generator\(\(8, 8, 1\)"):
        mr.DataFreeDistiller(**models, generator=net())
    with pytest.raises(ValueError, match="'zskt'"):
        mr.DataFreeDistiller(**models, generator=generator, method="gan")
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"mr\.data\.sampled"):
        mr.DataFreeDistiller(student=dense, teacher=copy_of(dense))
    one = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="at least two classes"):
        mr.DataFreeDistiller(
            student=one, teacher=copy_of(one), generator=generator, knowledge="logit_mse"
        )


def test_a_teacher_without_gradients_is_refused(net, teacher, generator, random):
    opaque = keras.layers.Lambda(tf.stop_gradient, output_shape=(3,))
    closed = keras.Model(teacher.input, opaque(teacher.output), name="closed")
    distiller = mr.DataFreeDistiller(
        student=net(), teacher=closed, generator=generator, method=mr.distillers.DAFL(at=None)
    )
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"No gradient reaches.*must be differentiable"):
        distiller.train_on_batch(noise(random))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: mr.distillers.ZSKT(student_updates=0), "student_updates must be a positive"),
        (lambda: mr.distillers.DAFL(one_hot=-1.0), "one_hot must be a finite number of at least"),
        (lambda: mr.distillers.DAFL(at=""), "at must be a tap of the teacher"),
        (lambda: mr.distillers.DAFL(variant="code"), "variant must be one of"),
    ],
)
def test_methods_refuse_what_is_out_of_range(made, message):
    with pytest.raises(ValueError, match=message):
        made()


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_model_that_takes_integers_is_refused_with_what_makes_it_take_floats(
    role, net, generator, random
):
    inner = net()
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    given = {"teacher": net(), "student": net(), "generator": generator}
    bytes_in = keras.Model(inputs, inner(keras.layers.Rescaling(1 / 255)(inputs)))
    with pytest.raises(ValueError, match=rf"the {role}, so it must take floats.* uint8") as error:
        mr.DataFreeDistiller(**{**given, role: bytes_in})
    call = re.search(r"keras\.models\.clone_model\(.*: layer\)", str(error.value))[0]
    floats = eval(call, {"keras": keras, role: bytes_in})
    pixels = random.integers(0, 256, (2, 8, 8, 1), "uint8")
    np.testing.assert_array_equal(floats(pixels.astype("float32")), bytes_in(pixels))
    distiller = mr.DataFreeDistiller(**{**given, role: floats})
    distiller.compile("sgd")
    before = generator.get_weights()[0]
    distiller.train_on_batch(noise(random))
    assert not np.array_equal(before, generator.get_weights()[0])
