"""Labels that are not one-hot: used as they are where that is defined, else refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, logsumexp

import modreduce_keras as mr

X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
ONE_HOT = np.eye(3, dtype="float32")[np.arange(8) % 3]
SMOOTHED = 0.9 * ONE_HOT + 0.1 / 3
MIXED = (0.7 * ONE_HOT + 0.3 * ONE_HOT[::-1]).astype("float32")
SEVERAL_HOT = np.array([[1, 1, 0]] * 8, "float32")
NOT_ONE_HOT = {"smoothed": SMOOTHED, "mixed": MIXED, "several hot": SEVERAL_HOT}
every_form = pytest.mark.parametrize("y", NOT_ONE_HOT.values(), ids=NOT_ONE_HOT)


def net(name=None, width=4):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(width, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden), name=name)


def cross_entropy():
    return keras.losses.CategoricalCrossentropy(from_logits=True)


def compiled(distiller, eager=True):
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy(), run_eagerly=eager)
    return distiller


def distiller(identifier, eager=True):
    teacher = None if identifier == "teacher_free" else net("teacher")
    return compiled(
        mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response(identifier)]), eager
    )


LOOK_AT_THE_CLASS = ["dkd", "nkd", "teacher_free"]


@pytest.mark.parametrize("identifier", LOOK_AT_THE_CLASS)
@every_form
def test_losses_on_the_labelled_class_refuse_arrays(identifier, y):
    with pytest.raises(ValueError, match=r"class indices or one-hot.* mr\.Response\('kd'\).*a row"):
        distiller(identifier).fit(X, y, verbose=0)


@pytest.mark.parametrize("identifier", LOOK_AT_THE_CLASS)
def test_losses_on_the_labelled_class_refuse_datasets_in_the_step(identifier):
    made = distiller(identifier, eager=False)
    before = made.student.get_weights()
    data = tf.data.Dataset.from_tensor_slices((X, MIXED)).batch(4)
    match = r"must have labels that are class indices or one-hot.*Received: \[0.7"
    with pytest.raises(ValueError, match=match):
        made.fit(data, shuffle=False, verbose=0)
    for old, new in zip(before, made.student.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    logs = made.fit(tf.data.Dataset.from_tensors((X, ONE_HOT)), shuffle=False, verbose=0).history
    assert np.isfinite(logs[identifier][0])


def test_kd_needs_no_labels_and_takes_any():
    for y in NOT_ONE_HOT.values():
        logs = distiller("kd").fit(X, y, verbose=0).history
        assert np.isfinite(logs["kd"][0])


def test_losses_alone_refuse_them_in_xla_by_nan():
    logits = np.zeros((8, 3), "float32")
    loss = mr.losses.DKD()
    with pytest.raises(ValueError, match=r"Received: a row \[0.9333, 0.03333, 0.03333\]"):
        loss.call({"teacher": logits, "labels": SMOOTHED}, logits)
    compiled = tf.function(loss.call, jit_compile=True, autograph=False)
    values = compiled({"teacher": logits, "labels": tf.constant(SMOOTHED)}, logits)
    assert np.isnan(values).all()
    values = compiled({"teacher": logits, "labels": tf.constant(ONE_HOT)}, logits)
    np.testing.assert_allclose(values, 0.0, atol=1e-6)


def test_a_mask_leaves_out_labels_that_are_not_one_hot():
    logits = np.random.default_rng(0).normal(size=(2, 2, 4, 3)).astype("float32")
    labels = np.eye(3)[np.zeros((2, 4), int)]
    mask = np.array([[1, 1, 1, 0]] * 2, "bool")
    given = {"teacher": logits[0], "labels": labels, "mask": mask}
    expected = mr.losses.DKD().call(given, logits[1])
    labels = np.where(mask[..., None], labels, 0.5)
    values = mr.losses.DKD().call({**given, "labels": labels}, logits[1])
    np.testing.assert_array_equal(values, expected)


# Where they are used as they are


def soft_cross_entropy(logits, y):
    return logsumexp(logits, axis=-1) - (y[:, None, :] * logits).sum(axis=-1)


@pytest.mark.parametrize("y", [ONE_HOT, SMOOTHED, MIXED], ids=["one-hot", "smoothed", "mixed"])
def test_kdcl_takes_the_peer_of_the_smallest_cross_entropy(y, random):
    logits = random.normal(size=(8, 3, 3)).astype("float32")
    targets = mr.aggregators.KDCL(rule="naive")(logits, labels=y)["targets"]
    best = soft_cross_entropy(logits.astype("float64"), y).argmin(axis=1)
    np.testing.assert_allclose(targets[:, 0], logits[np.arange(8), best], rtol=1e-6)


def test_kdcl_combines_for_the_smallest_cross_entropy(random):
    logits = random.normal(size=(8, 2, 3)).astype("float32")
    targets = np.array(mr.aggregators.KDCL(rule="linear")(logits, labels=MIXED)["targets"][:, 0])
    share = np.linspace(0, 1, 2001)[:, None, None]
    tried = share * logits[:, 0] + (1 - share) * logits[:, 1]
    losses = logsumexp(tried, axis=-1) - (MIXED * tried).sum(axis=-1)
    found = logsumexp(targets, axis=-1) - (MIXED * targets).sum(axis=-1)
    np.testing.assert_allclose(found, losses.min(axis=0), atol=1e-5)


def peers(rule):
    aggregator = mr.aggregators.KDCL(rule=rule)
    return compiled(mr.PeerDistiller({n: net() for n in "ab"}, aggregator=aggregator), eager=False)


@pytest.mark.usefixtures("eagerly")
def test_kdcl_in_training():
    made = peers("naive")
    data = tf.data.Dataset.from_tensors((X, MIXED))
    logs = made.fit(data, shuffle=False, verbose=0).history
    logits = np.stack([made.students[n].predict(X, verbose=0) for n in "ab"], 1).astype("float64")
    best = soft_cross_entropy(logits, MIXED).argmin(axis=1)
    target = log_softmax(logits[np.arange(8), best] / 3.0, axis=-1)
    own = log_softmax(logits[:, 0] / 3.0, axis=-1)
    expected = 9.0 * (np.exp(target) * (target - own)).sum(axis=-1).mean()
    assert logs["a/online"][0] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match=r"KDCL must have labels .*probabilities of classes"):
        made.fit(tf.data.Dataset.from_tensors((X, SEVERAL_HOT)), shuffle=False, verbose=0)


def test_kdcl_by_margins_needs_one_class():
    made = peers("min_logit")
    for data in ((X, MIXED), (tf.data.Dataset.from_tensors((X, MIXED)),)):
        with pytest.raises(ValueError, match=r"KDCL must have labels .* one-hot"):
            made.fit(*data, shuffle=False, verbose=0)


def test_shake_takes_them_in_its_cross_entropy(random):
    teacher, student, shadow = random.normal(size=(3, 8, 3)).astype("float32")
    loss = mr.losses.SHAKE(variant="reference", mutual_weight=0.0)
    values = loss.call({"teacher": teacher, "labels": MIXED}, [student, shadow])

    def standardized(z):
        z = z.astype("float64") - z.mean(axis=-1, keepdims=True)
        return 3.1415 * z / np.sqrt((z**2).mean(axis=-1, keepdims=True) + 1e-7)

    h, t = standardized(shadow), standardized(teacher)
    expected = -(MIXED * log_softmax(h, axis=-1)).sum(axis=-1) + ((h - t) ** 2).mean(axis=-1)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"SHAKE must have labels .*probabilities of classes"):
        loss.call({"teacher": teacher, "labels": SEVERAL_HOT}, [student, shadow])


def test_early_exits_are_judged_by_classes():
    network = mr.models.get("convnet", num_classes=3, widths=(4, 6), input_shape=(8, 8, 1))
    model = mr.models.exits(network, ["stage1"])
    images = np.ones((8, 8, 8, 1), "float32")
    with pytest.raises(ValueError, match=r"that is meant: y.argmax\(axis=-1\)"):
        mr.evaluation.early_exit_curve(model, images, MIXED)
    mr.evaluation.early_exit_curve(model, images, MIXED.argmax(axis=-1))


def test_kdcl_looks_at_the_rows_once_in_a_step(monkeypatch):
    seen = []
    assertion = tf.debugging.Assert
    monkeypatch.setattr(
        tf.debugging, "Assert", lambda *a, **k: seen.append(a) or assertion(*a, **k)
    )
    made = peers("naive")
    made.fit(tf.data.Dataset.from_tensors((X, MIXED)), shuffle=False, verbose=0)
    assert len([a for a in seen if "KDCL must have labels" in a[1][0]]) == 1


def test_a_loss_of_the_users_own_takes_the_labels_that_it_takes(net, images, labels):
    class OfClasses(keras.losses.MeanSquaredError):
        def call(self, y_true, y_pred):
            return super().call(keras.ops.one_hot(y_true, 3), y_pred)

    def loss_of(loss, y):
        keras.utils.set_random_seed(1)
        distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response()])
        distiller.compile("sgd", loss)
        return distiller.train_on_batch(images, y, return_dict=True)["loss"]

    one_hot = np.eye(3, dtype="float32")[labels]
    expected = loss_of(keras.losses.MeanSquaredError(), one_hot)
    assert loss_of(OfClasses(), labels) == pytest.approx(expected, rel=1e-6)
