"""What the compiled loss says the outputs are, and what is taught of them, fit together."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers import fitting
from modreduce_keras.output_kind import output_kinds
from modreduce_keras.registry import components
from tests.support.equations.bernoulli import binary_kd, mixture, sigmoid

HEADS = {"one logit": ((6,), 1), "five labels": ((6,), 5), "maps": ((4, 4, 2), 3)}
SOFTMAX = [
    name
    for name, cls in components("loss").items()
    if cls.output_kinds == ("classes",) and cls.kind == "response"
]
X = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
SEVERAL_HOT = (np.random.default_rng(1).random((12, 5)) < 0.4).astype("float32")


def net(units=5, shape=(6,), width=4, name=None):
    """A small network; for images one that keeps height and width."""
    inputs = keras.Input(shape)
    hidden = keras.layers.Dense(width, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(units, name="head")(hidden), name=name)


def bce():
    return keras.losses.BinaryCrossentropy(from_logits=True)


def standing():
    return keras.optimizers.SGD(0.0)


@pytest.fixture(params=HEADS, ids=HEADS)
def head(request, random):
    """Shape, units, inputs and labels of a kind of head."""
    shape, units = HEADS[request.param]
    x = random.normal(size=(8, *shape)).astype("float32")
    y = (random.random((*x.shape[:-1], units)) < 0.4).astype("float32")
    return shape, units, x, y


# Knowledge of a teacher


@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_binary_kd_trains_on_the_divergence(head, cached, tmp_path):
    shape, units, x, y = head
    student, model = net(units, shape), net(units, shape, 16, name="teacher")
    teacher, samples = model, tf.data.Dataset.from_tensor_slices((x, y))
    data = (mr.data.with_index(samples) if cached else samples).batch(8)
    if cached:
        teacher = mr.data.TeacherCache(tmp_path / "cache", model)
        teacher.fill(data)
        data = teacher.attach(data)
    response = mr.Response(mr.losses.BinaryKD(temperature=2.0))
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[response])
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(data, shuffle=False, verbose=0).history
    t, s = model.predict(x, verbose=0), student.predict(x, verbose=0)
    assert logs["binary_kd"][0] == pytest.approx(binary_kd(t, s, 2.0).mean(), rel=1e-4)
    assert logs["ce"][0] == pytest.approx(float(bce()(y, s)), rel=1e-5)


@pytest.mark.parametrize("identifier", SOFTMAX)
def test_softmax_losses_refuse_every_such_head_and_the_remedy_works(identifier, head):
    if identifier == "multi_level" and len(head[0]) > 1:
        pytest.skip("takes no positions")
    shape, units, x, y = head
    student, teacher = net(units, shape), net(units, shape)
    needs_teacher = components("loss")[identifier].needs_teacher

    def distiller(identifier):
        taught = components("loss")[identifier].needs_teacher
        made = mr.Distiller(
            student=student,
            teacher=teacher if taught else None,
            knowledge=[mr.Response(identifier)],
        )
        made.compile("sgd", bce(), run_eagerly=True)
        return made

    match = r"binary_kd" if units > 1 or needs_teacher else "at least two classes"
    with pytest.raises(ValueError, match=match):
        distiller(identifier)
    distiller("binary_kd").fit(x, y, verbose=0)


def test_one_logit_is_refused_at_once():
    with pytest.raises(ValueError, match=r"at least two classes .* and 'binary_kd' a single logit"):
        mr.Distiller(student=net(1), teacher=net(1), knowledge=[mr.Response("kd")])


@pytest.mark.parametrize("loss", ["mse", keras.losses.Huber()], ids=["mse", "huber"])
@pytest.mark.parametrize("identifier", ["kd", "dkd", "binary_kd"])
def test_outputs_that_are_plain_numbers_are_no_classes_and_no_labels(loss, identifier, random):
    numbers = random.normal(size=(12, 5)).astype("float32")
    match = r"must have labels of .* plain numbers take mr.Response\('logit_mse'\)"
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response(identifier)])
    distiller.compile("sgd", loss, run_eagerly=True)
    with pytest.raises(ValueError, match=match):
        distiller.fit(X, numbers, verbose=0)
    fitting = SEVERAL_HOT if identifier == "binary_kd" else np.eye(5)[np.arange(12) % 5]
    assert np.isfinite(distiller.fit(X, fitting, verbose=0).history[identifier][0])
    mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("logit_mse")]).compile(
        "sgd", loss
    )


def test_plain_numbers_of_a_dataset_are_found_in_the_step(random):
    numbers = tf.data.Dataset.from_tensors((X, random.normal(size=(12, 5))))
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"plain numbers take mr.Response\('logit_mse'\)"):
        distiller.fit(numbers, shuffle=False, verbose=0)


def test_directions_are_no_classes():
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])
    with pytest.raises(ValueError, match=r"they are directions: mr.Response\('logit_mse'\)"):
        distiller.compile("sgd", "cosine_similarity")


def test_binary_kd_refuses_classes():
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("binary_kd")])
    with pytest.raises(ValueError, match=r"classes that exclude .*: mr.Response\('kd'\)"):
        distiller.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))


def test_a_tap_of_the_only_output_is_that_output():
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd", at="head")])
    with pytest.raises(ValueError, match="binary_kd"):
        distiller.compile("sgd", bce())


def test_each_output_of_a_dict_has_a_kind_of_its_own():
    def two(name=None):
        inputs = keras.Input((6,))
        outputs = {n: keras.layers.Dense(c, name=n)(inputs) for n, c in (("tags", 5), ("kind", 3))}
        return keras.Model(inputs, outputs, name=name)

    losses = {"tags": bce(), "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    mixed = [mr.Response("kd", at="kind"), mr.Response("kd", at="tags", name="other")]
    with pytest.raises(ValueError, match=r"'other' .*independent labels: mr.Response\('binary_kd'"):
        mr.Distiller(student=two(), teacher=two("teacher"), knowledge=mixed).compile("sgd", losses)
    fitting = [mr.Response("kd", at="kind"), mr.Response("binary_kd", at="tags")]
    distiller = mr.Distiller(student=two(), teacher=two("teacher"), knowledge=fitting)
    distiller.compile("sgd", losses)
    y = {"tags": SEVERAL_HOT, "kind": np.arange(12) % 3}
    assert distiller.fit(X, y, verbose=0).history["binary_kd"][0] > 0


@pytest.mark.parametrize("eager", [True, False], ids=["arrays", "dataset"])
def test_the_labels_say_what_a_loss_of_the_users_own_does_not(eager):
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])

    def own(y, z):
        return keras.ops.mean(keras.ops.square(keras.ops.sigmoid(z) - y), axis=-1)

    distiller.compile("sgd", own, run_eagerly=eager)

    def fit(y):
        data = (X, y) if eager else (tf.data.Dataset.from_tensors((X, y)),)
        return distiller.fit(*data, shuffle=False, verbose=0)

    with pytest.raises(ValueError, match=r"are several hot take mr.Response\('binary_kd'\)"):
        fit(SEVERAL_HOT)
    for y in (np.eye(5, dtype="float32")[np.arange(12) % 5], X[:, :5]):
        fit(y)


def own_loss(y, z):
    return keras.ops.mean(keras.ops.square(keras.ops.sigmoid(z) - y), axis=-1)


NUMBERS = X[:, :5]
KINDS_IN_THE_LABELS = {
    "plain numbers": ("mse", NUMBERS, "plain numbers take"),
    "several hot": (own_loss, SEVERAL_HOT, "several hot take"),
    "several hot in integers": (own_loss, SEVERAL_HOT.astype("int32"), "several hot take"),
}


@pytest.mark.parametrize("case", KINDS_IN_THE_LABELS)
def test_labels_of_a_dataset_are_looked_at_before_a_step_of_xla(case):
    """XLA leaves the checks of a step out."""
    loss, labels, message = KINDS_IN_THE_LABELS[case]
    student = net()
    distiller = mr.Distiller(student=student, teacher=net(), knowledge=[mr.Response("kd")])
    distiller.compile("sgd", loss, jit_compile=True)
    before = student.get_weights()
    with pytest.raises(ValueError, match=message):
        distiller.fit(tf.data.Dataset.from_tensors((X, labels)), shuffle=False, verbose=0)
    for weight, value in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.slow
def test_labels_that_fit_are_what_they_were_in_a_step_of_xla():
    y = np.eye(5, dtype="int32")[np.arange(12) % 5]
    student = net()
    distiller = mr.Distiller(student=student, teacher=net(), knowledge=[mr.Response("kd")])
    distiller.compile(standing(), "mse", jit_compile=True)
    data = tf.data.Dataset.from_tensors((X, y))
    value = distiller.fit(data, shuffle=False, verbose=0).history["mean_squared_error"][0]
    z = student(X).numpy()
    assert value == pytest.approx(np.mean((z - y) ** 2), rel=1e-5)
    # Prediction reads no labels, and may have none.
    for given in (data.map(lambda x, y: x), tf.data.Dataset.from_tensors((X, NUMBERS))):
        np.testing.assert_allclose(distiller.predict(given, verbose=0), z, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", KINDS_IN_THE_LABELS)
def test_labels_that_do_not_fit_are_nan_where_xla_leaves_the_check_out(case):
    loss, labels, _ = KINDS_IN_THE_LABELS[case]
    parts = fitting.parts_of({"student": [mr.Response("kd")]})
    output = keras.KerasTensor((None, 5))
    checks = fitting.require_fitting(parts, output_kinds(loss, output), loss)
    given = np.concatenate([labels, np.eye(5)[:2]]).astype(labels.dtype)

    @tf.function(jit_compile=True)
    def checked(rows):
        return fitting.checked_labels(checks, rows, output)

    found = checked(given).numpy()
    one_hot = (np.isin(given, (0, 1)).all(1)) & (given.sum(1) == 1)
    fits = one_hot if loss == "mse" else one_hot | ~np.isin(given, (0, 1)).all(1)
    np.testing.assert_array_equal(found[fits], given[fits])
    assert np.isnan(found[~fits]).all()
    assert 2 <= fits.sum() < len(fits)


def test_one_odd_row_hides_no_others():
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])
    distiller.compile("sgd", own_loss, run_eagerly=True)
    odd = np.concatenate([np.full((1, 5), 0.2, "float32"), SEVERAL_HOT[1:]])
    with pytest.raises(ValueError, match=r"are several hot take mr.Response\('binary_kd'\)"):
        distiller.fit(X, odd, verbose=0)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_numbers_of_one_unit_are_found_in_every_shape(shape):
    distiller = mr.Distiller(student=net(1), teacher=net(1), knowledge=[mr.Response("binary_kd")])
    distiller.compile(standing(), "mse", run_eagerly=True)
    numbers = np.arange(100.0, 900.0, 100.0).reshape(shape)
    with pytest.raises(ValueError, match="plain numbers take"):
        distiller.fit(X[:8], numbers, verbose=0)
    yes = (numbers > 300).astype("float32")
    logs = distiller.fit(X[:8], yes, verbose=0).history
    z = distiller.student.predict(X[:8], verbose=0)[:, 0]
    expected = np.mean((z - yes.reshape(-1)) ** 2)
    assert logs["mean_squared_error"][0] == pytest.approx(expected, rel=1e-5)


def test_several_teachers_are_mixed_label_by_label():
    teachers = [net(name="one"), net(width=8, name="two")]
    student = net()
    response = mr.Response(mr.losses.BinaryKD(temperature=2.0), teacher_weights=[3, 1])
    distiller = mr.Distiller(student=student, teacher=teachers, knowledge=[response])
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT, verbose=0).history
    logits = [teacher.predict(X, verbose=0) for teacher in teachers]
    expected = binary_kd(
        mixture(logits, [0.75, 0.25], 2.0), student.predict(X, verbose=0), 2.0
    ).mean()
    assert logs["binary_kd"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_network_that_we_did_not_write_learns_several_labels(random):
    def mobilenet(name):
        return keras.applications.MobileNet(
            (32, 32, 3),
            0.25,
            dropout=0.0,
            weights=None,
            classes=5,
            classifier_activation=None,
            name=name,
        )

    x, y = random.random((4, 32, 32, 3)).astype("float32"), SEVERAL_HOT[:4]
    student, teacher = mobilenet("student"), mobilenet("teacher")
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("binary_kd")])
    distiller.compile(standing(), bce(), run_eagerly=True)
    value = distiller.fit(x, y, verbose=0).history["binary_kd"][0]
    expected = binary_kd(teacher(x), student(x, training=True), 4.0).mean()
    assert value == pytest.approx(expected, rel=1e-3, abs=1e-7)
    with pytest.raises(ValueError, match="binary_kd"):
        mr.Distiller(
            student=mobilenet("s"), teacher=mobilenet("t"), knowledge=[mr.Response("dist")]
        ).compile("sgd", bce())


# Peers


def peers(units=5, number=2, **arguments):
    students = {name: net(units) for name in "abcd"[:number]}
    return mr.PeerDistiller(students, features_at="hidden", **arguments)


def predicted(distiller):
    return {name: one.predict(X, verbose=0) for name, one in distiller.students.items()}


def test_peers_with_one_logit_teach_one_another_as_yes_or_no():
    distiller = peers(1, aggregator="mutual")
    assert (distiller.online_loss.identifier, float(distiller.online_loss.temperature)) == (
        "binary_kd",
        3.0,
    )
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT[:, 0], verbose=0).history
    logits = predicted(distiller)
    expected = binary_kd(logits["b"], logits["a"], 3.0).mean()
    assert logs["a/online"][0] == pytest.approx(expected, rel=1e-4)


def dense_layer(distiller, logits):
    """Returns what the aggregator's dense layer makes of all logits."""
    kernel, bias = distiller.aggregator.get_weights()
    return np.concatenate(list(logits.values()), axis=-1) @ kernel + bias


TARGETS = {
    "mean": lambda distiller, logits: (logits["a"] + logits["b"]) / 2,
    "weighted_average": lambda distiller, logits: (logits["a"] + logits["b"]) / 2,  # at first
    "leave_one_out_mean": lambda distiller, logits: logits["b"],
    "mutual": lambda distiller, logits: logits["b"],
    "codistillation": lambda distiller, logits: logits["b"],
    "fully_connected": dense_layer,
}
"""What the first of two peers learns from."""


@pytest.mark.parametrize("aggregator", [*TARGETS, "pcl"])
def test_peers_with_several_labels_need_binary_kd(aggregator):
    with pytest.raises(ValueError, match=r"online_loss='kd' .*independent labels: "):
        peers(aggregator=aggregator).compile("sgd", bce())


@pytest.mark.parametrize("aggregator", TARGETS)
def test_peers_teach_one_another_label_by_label(aggregator):
    distiller = peers(aggregator=aggregator, online_loss="binary_kd")
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT, verbose=0).history
    logits = predicted(distiller)
    expected = binary_kd(TARGETS[aggregator](distiller, logits), logits["a"], 4.0).mean()
    assert logs["a/online"][0] == pytest.approx(expected, rel=1e-4)


def test_modreduce_takes_binary_kd_too():
    students = {name: net() for name in ("response", "feature")}

    def made(**arguments):
        knowledge = {
            "response": [mr.Response("binary_kd")],
            "feature": [mr.Relation("rkd_distance", at="hidden")],
        }
        return mr.ModReduce(
            teacher=net(name="teacher"), students=students, knowledge=knowledge, **arguments
        )

    with pytest.raises(ValueError, match="online_loss='binary_kd'"):
        made().compile("sgd", bce())
    modreduce = made(online_loss=mr.losses.BinaryKD(temperature=2.0), aggregator="mean")
    modreduce.compile(standing(), bce(), run_eagerly=True)
    logs = modreduce.fit(X, SEVERAL_HOT, verbose=0).history
    logits = predicted(modreduce)
    mean = np.mean(list(logits.values()), axis=0)
    for name, own in logits.items():
        expected = binary_kd(mean, own, 2.0).mean()
        assert logs[f"{name}/online"][0] == pytest.approx(expected, rel=1e-4)


def test_codistillation_mixes_label_by_label():
    distiller = peers(number=3, aggregator="codistillation", online_loss="binary_kd")
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT, verbose=0).history
    logits = predicted(distiller)
    target = mixture([logits["b"], logits["c"]], [0.5, 0.5], 4.0)
    expected = binary_kd(target, logits["a"], 4.0).mean()
    assert logs["a/online"][0] == pytest.approx(expected, rel=1e-4)


def test_okddip_mixes_label_by_label():
    distiller = peers(number=3, aggregator="okddip", online_loss="binary_kd")
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(X, SEVERAL_HOT, verbose=0).history
    logits = predicted(distiller)
    leader = mixture([logits["a"], logits["b"]], [0.5, 0.5], 4.0)
    expected = binary_kd(leader, logits["c"], 4.0).mean()
    assert logs["c/online"][0] == pytest.approx(expected, rel=1e-4)
    distance = np.linalg.norm(sigmoid(logits["a"]) - sigmoid(logits["b"]), axis=1).mean()
    assert logs["diversity"][0] == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("units", [1, 5])
def test_kdcl_is_of_classes_alone(units):
    distiller = peers(units, aggregator="kdcl", online_loss="binary_kd")
    with pytest.raises(ValueError, match=r"'kdcl' takes .*aggregator='mean' or 'mutual'"):
        distiller.compile("sgd", bce())
    peers(units, aggregator="mutual", online_loss="binary_kd").compile("sgd", bce())


# One's own past and depth


@pytest.mark.parametrize("units", [5])
@pytest.mark.parametrize(
    ("loss", "compared"),
    [(bce(), sigmoid), ("mse", lambda z: z), (keras.losses.Hinge(), sigmoid)],
    ids=["bce", "mse", "hinge"],
)
def test_the_mean_teacher_is_compared_as_what_the_outputs_are(units, loss, compared):
    model = net(units)
    distiller = mr.MeanTeacher(model, variant="paper", momentum=1.0)
    for variable in distiller.past.variables:
        if len(variable.shape) == 2:
            variable.assign(0.5 * variable)
    distiller.compile(standing(), loss, run_eagerly=True)
    value = distiller.fit(X, SEVERAL_HOT[:, :units], verbose=0).history["consistency"][0]
    past = distiller.mean_teacher().predict(X, verbose=0)
    now = model.predict(X, verbose=0)
    expected = np.mean((compared(now) - compared(past)) ** 2)
    assert expected > 1e-4
    assert value == pytest.approx(expected, rel=1e-4)


def test_temporal_ensembling_remembers_probabilities_of_labels():
    model = net()
    distiller = mr.TemporalEnsembling(model, samples=12)
    distiller.compile(standing(), bce(), run_eagerly=True)
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices((X, SEVERAL_HOT))).batch(12)
    distiller.fit(data, shuffle=False, verbose=0)
    expected = 0.4 * sigmoid(model.predict(X, verbose=0))
    np.testing.assert_allclose(distiller.predictions.numpy(), expected, rtol=1e-5)


def test_a_loss_that_does_not_say_what_one_output_is():
    with pytest.raises(ValueError, match=r"must say what one output is.*BinaryCrossentropy"):
        mr.MeanTeacher(net(1)).compile("sgd", lambda y, z: keras.ops.mean(z - y, axis=-1))


def image_net(units):
    return mr.models.get("convnet", num_classes=units, widths=(4, 6), input_shape=(8, 8, 1))


def test_exits_of_several_labels_learn_by_binary_kd(round_trip):
    images = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype("float32")
    with pytest.raises(ValueError, match=r"response='kd' .*: response='binary_kd'"):
        mr.SelfDistiller(image_net(5), ["stage1"]).compile("sgd", bce())
    distiller = mr.SelfDistiller(image_net(5), ["stage1"], response="binary_kd")
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(images, SEVERAL_HOT, verbose=0).history
    outputs = distiller.model_with_exits(images, training=True)
    expected = binary_kd(outputs["final"], outputs["stage1"], 3.0).mean()
    assert logs["stage1/binary_kd"][0] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match=r"exit_model\(name\)"):
        distiller.early_exit()
    assert round_trip(distiller).kd.identifier == "binary_kd"


def test_exits_of_one_logit_learn_by_binary_kd():
    distiller = mr.SelfDistiller(image_net(1), ["stage1"])
    assert distiller.kd.identifier == "binary_kd"
    with pytest.raises(ValueError, match="at least two classes"):
        mr.EarlyExit(distiller.model_with_exits)
    with pytest.raises(ValueError, match=r"response must be one of \['kd', 'binary_kd'\]"):
        mr.SelfDistiller(image_net(1), ["stage1"], response="dkd")


# Where the compiled loss does not say


def own_loss(y, z):
    return keras.ops.mean(keras.ops.square(keras.ops.sigmoid(z) - y), axis=-1)


ONE_HOT = np.eye(5, dtype="float32")[np.arange(12) % 5]


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def of_one_hot(distiller, loss, y, eager=True):
    """Trains one step; a dataset where not eager."""
    distiller.compile(standing(), loss, run_eagerly=eager)
    samples = tf.data.Dataset.from_tensor_slices((X, y))
    samples = mr.data.with_index(samples) if hasattr(distiller, "samples") else samples
    return distiller.fit(samples.batch(12), shuffle=False, verbose=0).history


def past_of(made, **arguments):
    if made == "mean_teacher":
        return mr.MeanTeacher(net(), **arguments)
    return mr.TemporalEnsembling(net(), samples=12, **arguments)


@pytest.mark.parametrize("made", ["mean_teacher", "temporal_ensembling"])
@pytest.mark.parametrize("eager", [True, False])
def test_labels_that_are_not_what_is_compared_with_the_past_are_refused(made, eager):
    with pytest.raises(
        ValueError, match=r"several hot take mr\.\w+\(model, \.\.\., kind='labels'\)"
    ):
        of_one_hot(past_of(made), own_loss, SEVERAL_HOT, eager)
    with pytest.raises(ValueError, match=r"one-hot take mr\.\w+\(model, \.\.\., kind='classes'\)"):
        of_one_hot(past_of(made), "mse", ONE_HOT, eager)
    with pytest.raises(
        ValueError, match=r"numbers take mr\.\w+\(model, \.\.\., kind='regression'\)"
    ):
        of_one_hot(past_of(made, kind="classes"), "mse", X[:, :5], eager)


@pytest.mark.parametrize(
    ("kind", "loss", "y", "compared"),
    [
        (None, own_loss, ONE_HOT, softmax),
        ("classes", "mse", ONE_HOT, softmax),
        ("classes", own_loss, ONE_HOT, softmax),
        ("labels", own_loss, SEVERAL_HOT, sigmoid),
        ("labels", "mse", SEVERAL_HOT, sigmoid),
        ("regression", "mse", ONE_HOT, lambda z: z),
        ("regression", own_loss, X[:, :5], lambda z: z),
    ],
)
def test_the_user_says_what_is_compared_with_the_past(kind, loss, y, compared):
    made = past_of("temporal_ensembling", kind=kind)
    of_one_hot(made, loss, y)
    expected = 0.4 * compared(made.student.predict(X, verbose=0))
    np.testing.assert_allclose(made.predictions.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert type(made).from_config(made.get_config()).kind == kind


def test_what_the_user_says_agrees_with_the_loss():
    with pytest.raises(
        ValueError, match=r"independent labels: mr.MeanTeacher\(model, \.\.\., kind='lab"
    ):
        mr.MeanTeacher(net(), kind="classes").compile("sgd", bce())
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    for kind in ("labels", "regression"):
        with pytest.raises(
            ValueError, match=r"mr.MeanTeacher\(model, \.\.\., kind='classes'\) takes"
        ):
            mr.MeanTeacher(net(), kind=kind).compile("sgd", crossentropy)
    with pytest.raises(ValueError, match=r"kind must be one of .*'classes'"):
        mr.MeanTeacher(net(), kind="logits")
    mr.MeanTeacher(net(1), kind="labels").compile("sgd", own_loss)
    one_number = mr.MeanTeacher(net(1))
    one_number.compile("sgd", "mse")
    one_number.fit(X, np.ones((12, 1)), verbose=0)


@pytest.mark.parametrize(
    ("units", "loss", "labels", "compared"),
    [
        (1, bce(), SEVERAL_HOT[:, :1], sigmoid),
        (5, bce(), SEVERAL_HOT, sigmoid),
        (1, "mse", X[:, :1], lambda z: z),
        (5, "mse", X[:, :5], lambda z: z),
        (5, keras.losses.CategoricalCrossentropy(from_logits=True), ONE_HOT, softmax),
    ],
)
@pytest.mark.parametrize("online", ["logit_mse", "logit_l1"])
def test_the_diversity_of_okddip_is_that_of_what_the_outputs_are(
    units, loss, labels, compared, online
):
    aggregator = mr.aggregators.OKDDip(variant="reference")
    distiller = peers(units, 3, aggregator=aggregator, online_loss=online)
    distiller.compile(standing(), loss, run_eagerly=True)
    logs = distiller.fit(X, labels, verbose=0).history
    logits = predicted(distiller)
    distance = np.linalg.norm(compared(logits["a"]) - compared(logits["b"]), axis=1).mean()
    assert distance > 1e-3
    assert logs["diversity"][0] == pytest.approx(distance, rel=1e-4)
