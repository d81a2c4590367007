"""What the compiled loss says the outputs are, and knowledge of a teacher, fit together."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.equations.bernoulli import binary_kd, mixture
from tests.support.models.output_kinds import (
    SEVERAL_HOT,
    X,
    bce,
    net,
    standing,
)

HEADS = {"one logit": ((6,), 1), "five labels": ((6,), 5), "maps": ((4, 4, 2), 3)}


SOFTMAX = [
    name
    for name, cls in components("loss").items()
    if cls.output_kinds == ("classes",) and cls.kind == "response"
]


@pytest.fixture(params=HEADS, ids=HEADS)
def head(request, random):
    """Shape, units, inputs and labels of a kind of head."""
    shape, units = HEADS[request.param]
    x = random.normal(size=(8, *shape)).astype("float32")
    y = (random.random((*x.shape[:-1], units)) < 0.4).astype("float32")
    return shape, units, x, y


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


def test_softmax_losses_refuse_every_such_head_and_name_the_remedy(head):
    shape, units, *_ = head
    student, teacher = net(units, shape), net(units, shape)
    for identifier in SOFTMAX:
        if identifier == "multi_level" and len(shape) > 1:
            continue  # It takes no positions.
        needs_teacher = components("loss")[identifier].needs_teacher
        match = r"binary_kd" if units > 1 or needs_teacher else "at least two classes"
        with pytest.raises(ValueError, match=match):
            mr.Distiller(
                student=student,
                teacher=teacher if needs_teacher else None,
                knowledge=[mr.Response(identifier)],
            ).compile("sgd", bce(), run_eagerly=True)


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


def by_default(kind):
    """A distiller for one number or logit, with what it chooses by itself."""
    student, teacher = net(1), net(1, name="teacher")
    if kind == "peers":
        return mr.PeerDistiller({"a": net(1), "b": net(1)})
    if kind == "self":
        images = [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, name="first")]
        head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
        deeper = keras.layers.Conv2D(3, 3, name="second")
        return mr.SelfDistiller(keras.Sequential([*images, deeper, *head]), exits=["first"])
    if kind == "recipe":
        return mr.ModReduce(teacher=teacher, students=student, recipe="peer_averaging")
    return mr.Distiller(student=student, teacher=teacher)


def cubed(y, logits):
    """A loss of one's own, which says nothing of what the labels are."""
    return keras.ops.mean(keras.ops.abs(y - logits) ** 3, axis=-1)


@pytest.mark.parametrize("loss", ["mse", cubed])
@pytest.mark.parametrize("kind", ["one", "peers", "self", "recipe"])
def test_numbers_from_zero_to_one_are_not_taken_for_shares_unless_a_user_says_so(
    kind, loss, random
):
    """A regression's labels are often scaled, and a share looks the same."""
    x = random.normal(size=(12, 8, 8, 1)) if kind == "self" else X
    scaled = random.uniform(size=(12, 1)).astype("float32")
    distiller = by_default(kind)
    distiller.compile("sgd", loss, run_eagerly=True)
    match = r"'binary_kd'.*default for one output.* beside the loss '(mse|cubed)': plain numbers"
    with pytest.raises(ValueError, match=match):
        distiller.fit(x, scaled, verbose=0)
    losses = distiller.fit(x, np.round(scaled), verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    # The loss of yes or no says what they are.
    distiller.compile("sgd", bce(), run_eagerly=True)
    assert np.isfinite(distiller.fit(x, scaled, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("kind", ["one", "peers", "self", "recipe"])
def test_a_default_is_still_one_after_loading(kind, random, tmp_path):
    x = random.normal(size=(12, 8, 8, 1)) if kind == "self" else X
    by_default(kind).save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    loaded.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match=r"'binary_kd'.*default for one output"):
        loaded.fit(x, random.uniform(size=(12, 1)).astype("float32"), verbose=0)


def test_shares_are_compared_where_a_user_says_so(random):
    shares = random.uniform(size=(12, 1)).astype("float32")
    chosen = mr.Distiller(student=net(1), teacher=net(1), knowledge="binary_kd")
    chosen.compile("sgd", "mse", run_eagerly=True)
    assert np.isfinite(chosen.fit(X, shares, verbose=0).history["binary_kd"]).all()


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
