"""Self-distillation: one step by hand, the terms in NumPy, what reaches what, saving, errors."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eagerly")]

EXITS = ["stage1", "stage2"]


def network(**arguments):
    return mr.models.convnet(num_classes=3, widths=(4, 6, 8), input_shape=(16, 16, 1), **arguments)


@pytest.fixture
def images(random):
    return random.normal(size=(12, 16, 16, 1)).astype("float32")


@pytest.fixture
def distiller(cross_entropy):
    distiller = mr.SelfDistiller(network(), EXITS)
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy, metrics=["accuracy"])
    return distiller


def by_hand(model):
    """Returns the variables of a network with exits and its forward pass in plain TensorFlow."""
    variables = {v.path: tf.Variable(v) for v in model.trainable_variables}

    def normalized(maps, name):
        mean, variance = tf.nn.moments(maps, [0, 1, 2])
        epsilon = model.get_layer(f"{name}_norm").epsilon
        scaled = (maps - mean) / tf.sqrt(variance + epsilon)
        scaled = scaled * variables[f"{name}_norm/gamma"] + variables[f"{name}_norm/beta"]
        return tf.nn.relu(scaled)

    def convolution(maps, name, stride, padding="VALID"):
        kernel = variables[f"{name}_conv/kernel"]
        return normalized(tf.nn.conv2d(maps, kernel, stride, padding), name)

    def logits(maps, name):
        pooled = tf.reduce_mean(maps, [1, 2])
        return pooled @ variables[f"{name}/kernel"] + variables[f"{name}/bias"]

    def forward(images):
        maps, features, outputs = images, {}, {}
        for stage, ratio in (("stage1", 4), ("stage2", 2), ("stage3", None)):
            maps = convolution(maps, stage, 2, "SAME")
            if ratio is None:
                features["final"], outputs["final"] = maps, logits(maps, "logits")
                continue
            own = convolution(convolution(maps, f"{stage}_exit_1", 1), f"{stage}_exit_2", ratio)
            features[stage] = convolution(own, f"{stage}_exit", 1)
            outputs[stage] = logits(features[stage], f"{stage}_exit_logits")
        return outputs, features

    return variables, forward


def terms_by_hand(labels, outputs, features, temperature=3.0):
    """Returns every term of the loss in plain TensorFlow; features are maps or vectors."""
    terms = {}
    for name, logits in outputs.items():
        log_p = tf.nn.log_softmax(logits)
        terms[f"{name}/ce"] = -tf.reduce_mean(tf.gather(log_p, labels, axis=1, batch_dims=1))
        if name == "final":
            continue
        deepest = tf.stop_gradient(outputs["final"]) / temperature
        ratio = tf.nn.log_softmax(deepest) - tf.nn.log_softmax(logits / temperature)
        divergence = tf.reduce_sum(tf.nn.softmax(deepest) * ratio, axis=1)
        terms[f"{name}/kd"] = temperature**2 * tf.reduce_mean(divergence)
        difference = features[name] - tf.stop_gradient(features["final"])
        terms[f"{name}/hint"] = tf.reduce_sum(difference**2) / len(labels)
    return terms


@pytest.mark.graph
@pytest.mark.parametrize(("alpha", "variant"), [(0.3, "reference"), (1.0, "paper")])
def test_one_step_equals_the_step_by_hand(alpha, variant, images, labels, cross_entropy):
    settings = {"alpha": alpha, "temperature": 2.0, "feature_weight": 0.05, "variant": variant}
    distiller = mr.SelfDistiller(network(), EXITS, **settings, supervised_weight=0.5)
    distiller.compile(keras.optimizers.SGD(0.05), cross_entropy)
    variables, forward = by_hand(distiller.model_with_exits)
    with tf.GradientTape() as tape:
        outputs, features = forward(images)
        if variant == "reference":
            features = {name: tf.reduce_mean(maps, [1, 2]) for name, maps in features.items()}
        terms = terms_by_hand(labels, outputs, features, temperature=2.0)
        total = 0.5 * terms["final/ce"]
        for name in EXITS:
            total += (1 - alpha) * 0.5 * terms[f"{name}/ce"] + alpha * terms[f"{name}/kd"]
            total += 0.05 * terms[f"{name}/hint"]
    gradients = tape.gradient(total, list(variables.values()))

    logs = distiller.train_on_batch(images, labels, return_dict=True)
    assert logs["loss"] == pytest.approx(float(total), rel=1e-5)
    for name, term in terms.items():
        assert logs[name] == pytest.approx(float(term), rel=1e-5), name
    after = {v.path: v for v in distiller.model_with_exits.trainable_variables}
    assert list(after) == list(variables)
    for (path, variable), gradient in zip(variables.items(), gradients, strict=True):
        expected = variable.numpy() - 0.05 * gradient.numpy()
        np.testing.assert_allclose(after[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)


def test_terms_are_those_of_the_equation_in_numpy(distiller, images, labels):
    outputs = distiller.forward(images, training=True)
    values = distiller.compute_terms(tf.constant(labels), outputs)
    logits = {n: np.float64(one.logits) for n, one in outputs.students.items()}
    features = {n: np.float64(one.features["feature"]) for n, one in outputs.students.items()}

    def softmax(z):
        exponentials = np.exp(z - z.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    logits["ensemble"] = sum(logits.values()) / 3
    assert set(values) == {
        *(f"{name}/ce" for name in logits),
        *(f"{name}/{term}" for name in EXITS for term in ("kd", "hint")),
    }
    for name, z in logits.items():
        expected = -np.log(softmax(z)[np.arange(12), labels])
        np.testing.assert_allclose(values[f"{name}/ce"], expected, rtol=1e-5)
    for name in EXITS:
        p, q = softmax(logits["final"] / 3), softmax(logits[name] / 3)
        np.testing.assert_allclose(
            values[f"{name}/kd"], 9 * np.sum(p * np.log(p / q), axis=1), rtol=1e-4, atol=1e-6
        )
        squares = (features[name] - features["final"]) ** 2
        np.testing.assert_allclose(values[f"{name}/hint"], squares.sum(axis=1), rtol=1e-5)


def test_what_each_term_reaches(distiller, images, labels):
    """The deepest classifier teaches and is not taught; the exits train the layers below them."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = distiller.forward(tf.constant(images), training=True)
        terms = distiller.compute_terms(tf.constant(labels), outputs)
    variables = distiller.trainable_variables
    reached = {
        term: {
            variable.path.split("/")[0].removesuffix("_conv").removesuffix("_norm")
            for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True)
            if gradient is not None
        }
        for term, value in terms.items()
    }
    bottlenecks = {name: {f"{name}_exit_1", f"{name}_exit_2", f"{name}_exit"} for name in EXITS}
    body = {"stage1": {"stage1"}, "stage2": {"stage1", "stage2"}}
    for name in EXITS:
        shallow = body[name] | bottlenecks[name]
        assert reached[f"{name}/hint"] == shallow
        assert reached[f"{name}/ce"] == reached[f"{name}/kd"] == shallow | {f"{name}_exit_logits"}
    assert reached["final/ce"] == {"stage1", "stage2", "stage3", "logits"}


def test_logs_name_every_exit(distiller, images, labels):
    history = distiller.fit(images, labels, validation_data=(images, labels), verbose=0).history
    classifiers = [*EXITS, "final", "ensemble"]
    evaluated = {f"{name}/{log}" for name in classifiers for log in ("ce", "accuracy")} | {"loss"}
    taught = {f"{name}/{log}" for name in EXITS for log in ("kd", "hint")}
    assert set(history) == evaluated | taught | {f"val_{name}" for name in evaluated}


def test_evaluation_is_that_of_each_exit(distiller, images, labels):
    logs = distiller.evaluate(images, labels, batch_size=5, verbose=0, return_dict=True)
    logits = {n: np.array(z) for n, z in distiller.model_with_exits(images, training=False).items()}
    logits["ensemble"] = sum(logits.values()) / 3
    losses = {
        name: np.mean(keras.losses.sparse_categorical_crossentropy(labels, z, from_logits=True))
        for name, z in logits.items()
    }
    for name, z in logits.items():
        assert logs[f"{name}/ce"] == pytest.approx(losses[name], rel=1e-5)
        assert logs[f"{name}/accuracy"] == pytest.approx(np.mean(z.argmax(axis=1) == labels))
    assert logs["loss"] == pytest.approx(sum(losses.values()) - losses["ensemble"], rel=1e-5)


def test_prediction_is_that_of_the_given_model(distiller, images):
    expected = distiller.student.predict(images, verbose=0)
    np.testing.assert_array_equal(distiller.predict(images, verbose=0), expected)
    np.testing.assert_array_equal(distiller(images), distiller.student(images))


def test_the_given_model_is_trained_in_place(images, labels, cross_entropy):
    model = network()
    distiller = mr.SelfDistiller(model, EXITS)
    assert distiller.student is model
    distiller.compile("sgd", cross_entropy)
    before = model.get_weights()
    distiller.train_on_batch(images, labels)
    for one, other in zip(before, model.get_weights(), strict=True):
        assert np.any(one != other)


def test_batch_norm_moves_once_per_step_and_not_in_evaluate(distiller, images, labels):
    maps = distiller.student.get_layer("stage1_conv")(images).numpy()
    norm = distiller.student.get_layer("stage1_norm")
    distiller.train_on_batch(images, labels)
    mean = maps.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, (1 - norm.momentum) * mean, rtol=1e-5)
    before = distiller.model_with_exits.get_weights()
    distiller.evaluate(images, labels, verbose=0)
    distiller.predict(images, verbose=0)
    for one, other in zip(before, distiller.model_with_exits.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_regularizers_count_once(images, labels, cross_entropy):
    model = network(kernel_regularizer=keras.regularizers.L2(0.01))
    distiller = mr.SelfDistiller(model, EXITS, alpha=0.0, feature_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    kernels = [layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")]
    penalty = 0.01 * sum(np.sum(kernel**2) for kernel in kernels)
    labelled = sum(logs[f"{name}/ce"] for name in (*EXITS, "final"))
    assert logs["loss"] == pytest.approx(labelled + penalty, rel=1e-5)


@pytest.mark.graph
def test_knobs_change_the_compiled_step(distiller, images, labels):
    distiller.optimizer.learning_rate = 0.0

    def logs():
        distiller.reset_metrics()
        return distiller.train_on_batch(images, labels, return_dict=True)

    before = logs()
    distiller.alpha, distiller.feature_weight, distiller.temperature = 0.75, 0.5, 0.2
    after = logs()
    assert after["stage1/kd"] != pytest.approx(before["stage1/kd"], rel=0.01)
    expected = after["final/ce"] + sum(
        0.25 * after[f"{n}/ce"] + 0.75 * after[f"{n}/kd"] + 0.5 * after[f"{n}/hint"] for n in EXITS
    )
    assert after["loss"] == pytest.approx(expected, rel=1e-5)
    assert float(distiller.temperature) == pytest.approx(0.2)


def test_schedules_drive_the_knobs(images, labels, cross_entropy):
    late = {"steps": 1, "before": 1.0}
    distiller = mr.SelfDistiller(
        network(),
        EXITS,
        alpha=mr.schedules.CutOff(0.5, **late),
        temperature=mr.schedules.CutOff(2.0, **late),
        feature_weight=mr.schedules.CutOff(0.0, steps=1, before=0.1),
    )
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    for alpha, weight in ((1.0, 0.1), (0.5, 0.0), (0.5, 0.0)):
        logs = distiller.train_on_batch(images, labels, return_dict=True)
        distiller.reset_metrics()
        expected = logs["final/ce"] + sum(
            (1 - alpha) * logs[f"{n}/ce"] + alpha * logs[f"{n}/kd"] + weight * logs[f"{n}/hint"]
            for n in EXITS
        )
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_sample_weights_weight_every_term(distiller, images, labels):
    weights = np.linspace(0.0, 2.0, 12).astype("float32")
    terms = distiller.compute_terms(tf.constant(labels), distiller.forward(images, training=True))
    logs = distiller.train_on_batch(images, labels, sample_weight=weights, return_dict=True)
    for name, values in terms.items():
        assert logs[name] == pytest.approx(np.mean(values.numpy() * weights), rel=1e-5)


@pytest.mark.parametrize("exit", [*EXITS, "final"])
def test_the_network_up_to_an_exit_stands_alone(exit, distiller, images, labels, tmp_path):
    distiller.train_on_batch(images, labels)
    model = distiller.exit_model(exit)
    expected = distiller.model_with_exits(images)[exit]
    np.testing.assert_array_equal(model(images), expected)
    model.save(tmp_path / "exit.keras")
    with zipfile.ZipFile(tmp_path / "exit.keras") as archive:
        assert "modreduce" not in archive.read("config.json").decode()
    again = keras.saving.load_model(tmp_path / "exit.keras")
    np.testing.assert_array_equal(again(images), expected)
    deeper = {"stage1": {"stage2_conv", "stage2_exit_conv"}, "stage2": {"stage3_conv"}}
    assert deeper.get(exit, set()).isdisjoint(layer.name for layer in model.layers)


def test_keras_file_continues_training_identically(distiller, images, labels, tmp_path):
    distiller.alpha = 0.4
    data = {"batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0}
    distiller.compile(keras.optimizers.Adam(0.01), distiller.loss, metrics=["accuracy"])
    distiller.fit(images, labels, **data)
    distiller.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")
    assert (
        restored.fit(images, labels, **data).history
        == distiller.fit(images, labels, **data).history
    )
    for one, other in zip(distiller.variables, restored.variables, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


def test_weights_are_saved_once(distiller, tmp_path):
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    before = [variable.numpy() for variable in distiller.variables]
    for variable in distiller.variables:
        variable.assign(variable + 1)
    distiller.load_weights(tmp_path / "distiller.weights.h5")
    for one, other in zip(before, distiller.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    size = (tmp_path / "distiller.weights.h5").stat().st_size
    distiller.model_with_exits.save_weights(tmp_path / "network.weights.h5")
    assert size < 1.5 * (tmp_path / "network.weights.h5").stat().st_size


def test_config_round_trip():
    distiller = mr.SelfDistiller(
        network(),
        EXITS,
        alpha=0.2,
        temperature=2.5,
        feature_weight=0.01,
        feature_at="stage3",
        variant="paper",
    )
    config = json.dumps(distiller.get_config())
    rebuilt = mr.SelfDistiller.from_config(json.loads(config))
    assert json.dumps(rebuilt.get_config()) == config
    assert rebuilt.exits == EXITS
    assert (rebuilt.feature_at, rebuilt.variant) == ("stage3", "paper")


def test_the_deepest_maps_may_be_chosen(images, labels, cross_entropy):
    distiller = mr.SelfDistiller(network(), ["stage1"], feature_at="stage2", variant="paper")
    distiller.compile("sgd", cross_entropy)
    features = distiller.forward(images, training=True).students
    maps = mr.TapReader(distiller.student, ["stage2"])(images, training=True).features["stage2"]
    np.testing.assert_allclose(features["final"].features["feature"], maps, atol=1e-5)
    assert features["stage1"].features["feature"].shape == maps.shape


def softmax_head():
    model = network()
    model.get_layer("logits").activation = keras.activations.softmax
    return model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exits": ["stage5"]}, "at must name layers .* Received: 'stage5'"),
        ({"exits": []}, "Exits must be at least one layer"),
        ({"alpha": 1.5}, "alpha of SelfDistiller must be from 0 to 1.* Received: alpha=1.5"),
        ({"alpha": -0.1}, "alpha of SelfDistiller must be a number .* Received: alpha=-0.1"),
        ({"temperature": 0}, "temperature of KD must be a positive number"),
        ({"feature_weight": -1}, "feature_weight of SelfDistiller must be .* Received: .*=-1"),
        ({"variant": "maps"}, "variant must be one of .*'reference', 'paper'.*variant='maps'"),
        ({"model": softmax_head()}, "The model 'convnet' ends in a softmax or sigmoid"),
        (
            {"model": "resnet20"},
            "The model must be a keras.Model. Load it: .* Received: 'resnet20'",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(arguments, message):
    arguments = {"model": network(), "exits": EXITS, **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        mr.SelfDistiller(**arguments)


def test_a_single_logit_has_no_classes_to_teach():
    model = mr.models.convnet(num_classes=1, widths=(4, 6), input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="at least two classes"):
        mr.SelfDistiller(model, ["stage1"], response="kd")
    assert mr.SelfDistiller(model, ["stage1"]).kd.identifier == "binary_kd"


def test_it_needs_labels_and_an_exit_that_exists(distiller):
    with pytest.raises(ValueError, match="learns from the labels: compile with a loss"):
        distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"exit must be one of .*'final'\]. Received: exit='late'"):
        distiller.exit_model("late")
