"""Outputs: dense predictions with masks, regression, and models with several named outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def kd(teacher, student, temperature=4.0):
    """Returns KD at each position, in float64."""
    p, q = (softmax(np.asarray(z, "float64") / temperature) for z in (teacher, student))
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1)


def dense_prediction(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same", name="logits")(inputs))


@pytest.mark.parametrize("one_more_axis", [False, True])
def test_ignored_pixels_count_neither_for_the_labels_nor_for_the_teacher(images, one_more_axis):
    student, teacher = dense_prediction(1), dense_prediction(2)
    labels = np.random.default_rng(0).integers(3, size=(12, 8, 8))
    labels[:, :3] = 255
    labels[0] = 255
    kept = labels != 255
    logits = student.predict(images, verbose=0), teacher.predict(images, verbose=0)
    picked = np.take_along_axis(softmax(logits[0]), np.where(kept, labels, 0)[..., None], -1)
    given = labels[..., None] if one_more_axis else labels
    for knowledge in (mr.Response("kd", ignore_class=255), mr.Response("dkd", ignore_class=255)):
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
        distiller.compile(keras.optimizers.SGD(0.0), loss)
        logs = distiller.train_on_batch(images, given, return_dict=True)
        np.testing.assert_allclose(logs["ce"], -np.log(picked[..., 0])[kept].mean(), rtol=1e-4)
        if knowledge.name == "kd":
            expected = kd(logits[1], logits[0])[kept].mean()
            np.testing.assert_allclose(logs["kd"], expected, rtol=1e-4)


@pytest.mark.graph
def test_masked_tokens_of_a_keras_mask_do_not_count():
    def tagger(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((6,), dtype="int32")
        embedded = keras.layers.Embedding(10, 4, mask_zero=True)(inputs)
        return keras.Model(inputs, keras.layers.Dense(3, name="logits")(embedded))

    tokens = np.random.default_rng(0).integers(10, size=(5, 6))
    student, teacher = tagger(1), tagger(2)
    values = kd(teacher.predict(tokens, verbose=0), student.predict(tokens, verbose=0))
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    distiller.compile(
        keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    logs = distiller.train_on_batch(tokens, tokens % 3, return_dict=True)
    assert (tokens == 0).any()
    np.testing.assert_allclose(logs["kd"], values[tokens != 0].mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("loss", "distance"), [("logit_mse", np.square), ("logit_l1", np.abs)], ids=["mse", "l1"]
)
def test_regression(loss, distance, random):
    def regressor(units):
        return keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)]
        )

    x, y = random.normal(size=(10, 4)).astype("float32"), random.normal(size=(10, 1))
    student, teacher = regressor(2), regressor(8)
    outputs = student.predict(x, verbose=0), teacher.predict(x, verbose=0)
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response(loss, weight=0.5)]
    )
    distiller.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae"])
    logs = distiller.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(logs[loss], distance(outputs[0] - outputs[1]).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        logs["mean_squared_error"], ((outputs[0] - y) ** 2).mean(), rtol=1e-5
    )


# Several outputs


def two_heads(width, name=None):
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(width, 3, name="stage1")(inputs)
    embedding = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
    outputs = {
        "shape": keras.layers.Dense(3, name="shape_logits")(embedding),
        "shade": keras.layers.Dense(4, name="shade_logits")(embedding),
    }
    return keras.Model(inputs, outputs, name=name)


@pytest.fixture
def sparse():
    return {
        name: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        for name in ("shape", "shade")
    }


@pytest.fixture
def two_labels(labels):
    return {"shape": labels, "shade": (labels + 1) % 4}


@pytest.mark.graph
def test_each_output_has_its_loss_its_metrics_and_its_knowledge(images, two_labels, sparse):
    student, teacher = two_heads(4), two_heads(8)
    taught = [mr.Response("kd", at="shape"), mr.Response("dkd", at="shade", weight=0.5)]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=taught)
    metrics = {"shape": ["accuracy"], "shade": ["accuracy"]}
    distiller.compile(keras.optimizers.SGD(0.0), sparse, metrics=metrics)
    logits, targets = student.predict(images, verbose=0), teacher.predict(images, verbose=0)
    expected = {
        f"{name}/ce": sparse[name](two_labels[name], logits[name]).numpy() for name in logits
    }
    expected["kd"] = kd(targets["shape"], logits["shape"]).mean()
    y_true = {"teacher": targets["shade"], "labels": two_labels["shade"]}
    expected["dkd"] = np.mean(mr.losses.DKD().call(y_true, logits["shade"]))
    for name in logits:
        right = logits[name].argmax(-1) == two_labels[name]
        expected[f"{name}_accuracy"] = right.mean()
    expected["loss"] = (
        expected["shape/ce"] + expected["shade/ce"] + expected["kd"] + 0.5 * expected["dkd"]
    )
    logs = distiller.train_on_batch(images, two_labels, return_dict=True)
    assert set(logs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, err_msg=name)
    evaluated = distiller.evaluate(images, two_labels, verbose=0, return_dict=True)
    assert set(evaluated) == set(expected) - {"kd", "dkd"}
    assert set(distiller.predict(images, verbose=0)) == {"shape", "shade"}


def test_a_teacher_with_an_output_more_than_the_student(images, labels, cross_entropy, net):
    student, teacher = net(), two_heads(8)
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd", teacher="shape")]
    )
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    expected = kd(teacher(images)["shape"], student(images, training=True)).mean()
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    np.testing.assert_allclose(logs["kd"], expected, rtol=1e-4)


def test_an_output_in_a_list_is_named_by_its_layer(images, labels, cross_entropy, net):
    heads = two_heads(8)
    teacher = keras.Model(heads.inputs[0], list(heads.output.values()))
    student = net()
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd", teacher="shape_logits")]
    )
    distiller.compile(keras.optimizers.SGD(0.0), cross_entropy)
    expected = kd(teacher(images)[0], student(images, training=True)).mean()
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    np.testing.assert_allclose(logs["kd"], expected, rtol=1e-4)


def test_a_file_brings_several_outputs_back(images, two_labels, sparse, tmp_path):
    distiller = mr.Distiller(
        student=two_heads(4), teacher=two_heads(8), knowledge=[mr.Response("kd", at="shape")]
    )
    distiller.compile(keras.optimizers.SGD(0.1), sparse)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    logs = [d.train_on_batch(images, two_labels, return_dict=True) for d in (distiller, again)]
    assert logs[0] == logs[1]


def test_what_reads_all_outputs_at_once_is_refused(net, sparse, cross_entropy):
    expected = r"must have one output .*mr.Response\(..., at='NAME'\)"
    for student, teacher in ((two_heads(4), net()), (net(), two_heads(4))):
        with pytest.raises(ValueError, match=expected):
            mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    with pytest.raises(ValueError, match=expected):
        mr.PeerDistiller({"a": two_heads(4), "b": two_heads(5)})
    distiller = mr.Distiller(
        student=two_heads(4), teacher=two_heads(8), knowledge=[mr.Response("kd", at="shape")]
    )
    with pytest.raises(ValueError, match=r"are given by name: .* for outputs \['shape', 'shade'\]"):
        distiller.compile("sgd", cross_entropy)
    with pytest.raises(ValueError, match=r"among the model's outputs .* Received: \['colour'\]"):
        distiller.compile("sgd", {"colour": cross_entropy})
    plain = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])
    with pytest.raises(ValueError, match=r"Distillers take one loss, .* dict of losses by the"):
        plain.compile("sgd", sparse)


def scene(width):
    """A network that says what each pixel is and what the whole image is, under names."""
    image = keras.Input((8, 8, 1), name="image")
    maps = keras.layers.Conv2D(width, 3, 2, "same", activation="tanh", name="maps")(image)
    pixels = keras.layers.Dense(3)(keras.layers.UpSampling2D()(maps))
    kind = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps))
    return keras.Model({"image": image}, {"pixels": pixels, "kind": kind})


def test_each_knowledge_takes_the_labels_and_the_mask_of_its_own(images, labels, sparse, random):
    student, teacher = scene(4), scene(6)
    knowledge = [
        mr.Response("kd", at="kind"),
        mr.Response("cwd", at="pixels", mask="inside"),
        mr.Feature("ifvd", at="maps", ignore_class=255, labels="pixels"),
        mr.Feature("pairwise", at="maps", mask="near"),
    ]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    distiller.compile(keras.optimizers.SGD(0.0), {"pixels": loss, "kind": loss})
    pixels = random.integers(3, size=(12, 8, 8))
    pixels[:, 5:] = 255
    masks = {name: random.random((12, size, size)) < 0.6 for name, size in MASKS.items()}
    x, y = {"image": images, **masks}, {"pixels": pixels, "kind": labels}
    logs = distiller.train_on_batch(x, y, return_dict=True)

    both = [mr.TapReader(model, ["maps"])({"image": images}) for model in (teacher, student)]
    outputs = {name: [one.logits[name] for one in both] for name in ("pixels", "kind")}
    maps = [one.features["maps"] for one in both]
    wholly = np.arange(4) < 2  # rows of 2 pixels, none of which is ignored
    wholly = np.broadcast_to(wholly[:, None], (12, 4, 4))
    given = {
        "kd": (outputs["kind"], {}),
        "cwd": (outputs["pixels"], {"mask": masks["inside"]}),
        "ifvd": (maps, {"mask": wholly, "labels": pixels[:, 1::2, 1::2]}),
        "pairwise": (maps, {"mask": masks["near"]}),
    }
    for name, (pair, more) in given.items():
        expected = np.mean(mr.losses.get(name).call({"teacher": pair[0], **more}, pair[1]))
        assert logs[name] == pytest.approx(expected, rel=1e-4), name


MASKS = {"inside": 8, "near": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": "pixel"}, r"must name one of the student's outputs, \['pixels', 'kind'\]"),
        ({"labels": 3}, "labels must be the name of an output"),
        ({"labels": "pixels", "loss": "hint"}, "labels= would do nothing: 'hint' takes no labels"),
    ],
)
def test_labels_of_what_is_no_output_are_refused(arguments, message):
    loss = arguments.pop("loss", "ifvd")
    with pytest.raises(ValueError, match=message):
        knowledge = mr.Feature(loss, at="maps", **arguments)
        mr.Distiller(student=scene(4), teacher=scene(6), knowledge=[knowledge])


def test_labels_that_are_missing_are_named(images, labels, sparse):
    distiller = mr.Distiller(
        student=two_heads(4), teacher=two_heads(8), knowledge=[mr.Response("dkd", at="shade")]
    )
    distiller.compile("sgd", {"shape": sparse["shape"]})
    with pytest.raises(ValueError, match=r"'dkd' needs labels y \(of several outputs, labels="):
        distiller.train_on_batch(images, {"shape": labels})
    with pytest.raises(ValueError, match=r"labels of several outputs must be a dict that has"):
        distiller.train_on_batch(images, labels)


def test_probabilities_at_a_named_output():
    heads = two_heads(4)
    outputs = {**heads.output, "shape": keras.layers.Softmax()(heads.output["shape"])}
    teacher = keras.Model(heads.inputs[0], outputs, name="teacher")
    with pytest.raises(ValueError, match=r"The teacher 'teacher' ends in a softmax"):
        mr.Distiller(
            student=two_heads(4), teacher=teacher, knowledge=[mr.Response("kd", at="shape")]
        )


def test_an_output_without_a_loss_is_not_supervised(images, labels, sparse):
    taught = [mr.Response("kd", at=name, name=f"kd_{name}") for name in ("shape", "shade")]
    distiller = mr.Distiller(student=two_heads(4), teacher=two_heads(8), knowledge=taught)
    distiller.compile("sgd", {"shape": sparse["shape"], "shade": None})
    logs = distiller.train_on_batch(images, {"shape": labels}, return_dict=True)
    assert set(logs) == {"loss", "shape/ce", "kd_shape", "kd_shade"}


def test_features_of_a_student_with_named_outputs(images, two_labels, sparse):
    taught = mr.Relation("irg", at=["stage1", "embedding"])
    distiller = mr.Distiller(student=two_heads(4), teacher=two_heads(8), knowledge=[taught])
    distiller.compile("sgd", sparse)
    assert distiller.train_on_batch(images, two_labels, return_dict=True)["irg"] > 0


def test_ignored_classes_need_labels(images, two_labels, sparse, net):
    by_layer = mr.Response("kd", at="shape_logits", ignore_class=255)
    distiller = mr.Distiller(student=two_heads(4), teacher=two_heads(8), knowledge=[by_layer])
    distiller.compile("sgd", sparse)
    with pytest.raises(ValueError, match=r"ignore_class=255, and the data have no labels"):
        distiller.train_on_batch(images, two_labels)
    distiller = mr.Distiller(
        student=net(), teacher=net(), knowledge=[mr.Response("kd", ignore_class=255)]
    )
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"ignore_class=255, and the data have no labels"):
        distiller.train_on_batch(images)


def test_aggregators_of_whole_samples_refuse_several_positions():
    peers = {"a": dense_prediction(1), "b": dense_prediction(2)}
    message = r"of whole samples, and takes logits \(batch, classes\).*'a': \(None, 8, 8, 3\)"
    with pytest.raises(ValueError, match=message):
        mr.PeerDistiller(peers, aggregator="pcl", features_at="logits")


@pytest.mark.graph
@pytest.mark.parametrize("eager", [True, False])
def test_an_ignored_class_of_one_hot_labels(images, eager):
    student, teacher = dense_prediction(1), dense_prediction(2)
    classes = np.random.default_rng(0).integers(3, size=(12, 8, 8))
    one_hot = np.eye(3, dtype="float32")[classes]
    logits = student.predict(images, verbose=0), teacher.predict(images, verbose=0)
    expected = kd(logits[1], logits[0])[classes != 2].mean()
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd", ignore_class=2)]
    )
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=eager)
    logs = distiller.train_on_batch(images, one_hot, return_dict=True)
    np.testing.assert_allclose(logs["kd"], expected, rtol=1e-4)
    for wrong in (0.9 * one_hot + 0.1 / 3, one_hot[..., :2], classes[:, 0]):
        distiller.compile("sgd", run_eagerly=eager)
        with pytest.raises(ValueError, match=r"^ignore_class of knowledge 'kd' must have labels"):
            distiller.train_on_batch(images, wrong)


def test_a_stage_takes_the_sample_weights_by_output_that_fit_takes(images, two_labels, sparse):
    student, teacher = two_heads(4), two_heads(4)
    hint = mr.Feature("hint", at="stage1", adapter=None, staged=True)
    named = mr.Response("logit_mse", at="shape", staged=True)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[hint, named])
    distiller.compile("sgd", sparse)
    weights = {"shape": np.linspace(0.0, 2.0, 12), "shade": np.linspace(1.0, 0.0, 12)}

    def mean_squares(read):
        apart = np.array(read(student)) - np.array(read(teacher))
        return (apart.reshape(12, -1) ** 2).mean(axis=1)

    maps = mean_squares(lambda m: keras.Model(m.input, m.get_layer("stage1").output)(images))
    logits = mean_squares(lambda m: m(images)["shape"])
    expected = {
        "hint": ((weights["shape"] + weights["shade"]) / 2 * maps).mean(),
        "logit_mse": (weights["shape"] * logits).mean(),
    }
    logs = distiller.pretrain(
        images,
        two_labels,
        sample_weight=weights,
        optimizer=keras.optimizers.SGD(0.0),
        batch_size=12,
        verbose=0,
    ).history
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], [value], rtol=1e-4)
    wrong = tf.data.Dataset.from_tensors((images, two_labels, {"other": np.ones(12)}))
    with pytest.raises(ValueError, match=r"by output, of \['shade', 'shape'\]"):
        distiller.pretrain(wrong, shuffle=False, verbose=0)
    distiller.fit(images, two_labels, sample_weight=weights, verbose=0)
