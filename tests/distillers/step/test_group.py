"""How peers meet: what an aggregator is given, several sources, leaders, views and past selves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.inputs.cases import assert_close

pytestmark = pytest.mark.usefixtures("eagerly")


class Probe(mr.aggregators.Aggregator):
    """Keeps what it is given and teaches every peer by every other one."""

    def __init__(self, needs=(), **attributes):
        super().__init__()
        self.needs = needs
        self.given = {}
        vars(self).update(attributes)

    def call(self, logits, training=None, **given):
        self.given = {"logits": logits, "training": training, **given}
        return self.from_others(logits)

    def keep(self, step):
        return 0.5


@pytest.fixture
def students(net):
    return {name: net(name=name) for name in "abc"}


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def kd(target, logits, temperature=3.0):
    def log_softmax(z):
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    target, own = (log_softmax(np.float64(z) / temperature) for z in (target, logits))
    return temperature**2 * (np.exp(target) * (target - own)).sum(axis=1)


def test_an_aggregator_gets_what_it_asks_for(students, images, labels):
    needs = ("features", "inputs", "labels", "averages", "temperature")
    distiller = mr.PeerDistiller(students, aggregator=Probe(needs))
    past = np.stack([s(images, training=False) for s in students.values()], axis=1)
    outputs = distiller.forward(images, training=True, labels=labels[:, None])
    given = distiller.aggregator.given
    logits = np.stack([own.logits for own in outputs.students.values()], axis=1)
    assert_close(given["logits"], logits)
    assert given["training"] is True
    for feature, own in zip(given["features"], outputs.students.values(), strict=True):
        assert_close(feature, own.features["embedding"])
    np.testing.assert_array_equal(given["inputs"], images)
    np.testing.assert_array_equal(given["labels"], labels)
    assert_close(given["averages"], past)
    assert float(given["temperature"]) == 3.0


def test_labels_come_as_classes_however_they_are_given(students, images, labels):
    distiller = mr.PeerDistiller(students, aggregator=Probe(("labels",)))
    for given in (labels, labels[:, None], np.eye(3)[labels]):
        distiller.forward(images, training=True, labels=given)
        np.testing.assert_array_equal(distiller.aggregator.given["labels"], labels)


def test_an_aggregator_that_needs_labels_says_so(students, images):
    distiller = mr.PeerDistiller(students, aggregator=Probe(("labels",)))
    with pytest.raises(ValueError, match=r"Probe needs labels: y must be class indices .* y=None"):
        distiller.forward(images, training=True)


def test_the_online_term_is_the_weighted_sum_over_the_sources(students, images, labels):
    distiller = mr.PeerDistiller(students, aggregator=Probe())
    outputs = distiller.forward(images, training=True)
    terms = distiller.compute_terms(labels, outputs)
    logits = [own.logits for own in outputs.students.values()]
    for place, name in enumerate("abc"):
        others = [kd(logits[j], logits[place]) for j in range(3) if j != place]
        assert_close(terms[f"{name}/online"], np.mean(others, axis=0), rtol=1e-4)


@pytest.mark.parametrize(("learns", "reached"), [(False, [0]), (True, [0, 1, 2])])
def test_targets_are_constants_unless_the_aggregator_says_otherwise(
    learns, reached, students, images, labels
):
    distiller = mr.PeerDistiller(students, aggregator=Probe(trains_through_targets=learns))
    with tf.GradientTape() as tape:
        outputs = distiller.forward(images, training=True)
        loss = tf.reduce_sum(distiller.compute_terms(labels, outputs)["a/online"])
    variables = [student.get_layer("logits").kernel.value for student in students.values()]
    gradients = tape.gradient(loss, variables)
    assert [i for i, gradient in enumerate(gradients) if gradient is not None] == reached


@pytest.mark.parametrize(
    ("needs", "attributes", "message"),
    [
        (("trunk",), {}, r"make them with mr.models.branch"),
        (("shoes",), {}, r"Probe.needs may name .* Received: \['shoes'\]"),
        ((), {"least_peers": 4}, r"Probe needs at least 4 students. Received: \['a', 'b', 'c'\]"),
        ((), {"least_peers": 4, "has_leader": True}, r"the last of which is the leader"),
    ],
)
def test_what_the_peers_do_not_have_is_refused(needs, attributes, message, students):
    with pytest.raises(ValueError, match=message):
        mr.PeerDistiller(students, aggregator=Probe(needs, **attributes))


def test_a_temperature_is_that_of_the_online_loss(students):
    with pytest.raises(ValueError, match=r"needs an online_loss with a temperature.*'logit_mse'"):
        mr.PeerDistiller(students, aggregator=Probe(("temperature",)), online_loss="logit_mse")


def test_embeddings_are_vectors(students):
    with pytest.raises(ValueError, match=r"features_at must name a tap .* shape \(None, 2, 2, 6\)"):
        mr.PeerDistiller(students, aggregator=Probe(("features",)), features_at="stage2")


def test_embeddings_are_read_at_each_students_own_tap(students, images):
    taps = {"a": "embedding", "b": "logits", "c": "embedding"}
    distiller = mr.PeerDistiller(students, aggregator=Probe(("features",)), features_at=taps)
    distiller.forward(images, training=False)
    widths = [feature.shape[1] for feature in distiller.aggregator.given["features"]]
    assert widths == [6, 3, 6]


@pytest.mark.parametrize(
    "targets", [np.zeros((4, 3)), np.zeros((4, 3, 5)), np.zeros((4, 3, 2, 3)), None]
)
def test_what_an_aggregator_returns_is_checked(targets, students):
    class Wrong(mr.aggregators.Aggregator):
        def call(self, logits):
            return {} if targets is None else {"targets": keras.ops.convert_to_tensor(targets)}

    with pytest.raises(ValueError, match=r"Wrong.call must return a dict with 'targets' of shape"):
        mr.PeerDistiller(students, aggregator=Wrong())


# Leaders


def test_the_leader_is_the_student_to_deploy(students, images):
    distiller = mr.PeerDistiller(students, aggregator=Probe(has_leader=True))
    assert distiller.best_student is students["c"]
    assert_close(distiller.predict(images, verbose=0), students["c"](images), rtol=1e-4)


# Views


def test_each_student_sees_its_own_key(students, images, cross_entropy, labels):
    views = {f"view_{name}": images + i for i, name in enumerate("abc")}
    keys = {name: f"view_{name}" for name in "abc"}
    distiller = mr.PeerDistiller(students, student_inputs=keys)
    outputs = distiller.forward(views, training=False)
    for name, student in students.items():
        expected = student(views[f"view_{name}"], training=False)
        assert_close(outputs.students[name].logits, expected)
    # Data for evaluation have one input, which all see.
    plain = distiller.forward(images, training=False)
    assert_close(plain.students["b"].logits, students["b"](images, training=False))
    with pytest.raises(ValueError, match=r"student_inputs=\{'a': 'view_a'\} is a key"):
        distiller.forward(images, training=True)


def test_layers_augment_in_training_only(students, images):
    flips = [keras.layers.RandomFlip("horizontal", seed=i) for i in range(3)]
    distiller = mr.PeerDistiller(students, student_inputs=flips)
    assert_close(distiller.forward(images, training=False).seen["a"], images)
    seen = distiller.forward(images, training=True).seen
    assert not np.array_equal(seen["a"], seen["b"])
    for view in seen.values():
        for image, original in zip(np.asarray(view), images, strict=True):
            kept = np.array_equal(image, original)
            assert kept or np.array_equal(image, original[:, ::-1])


def test_the_teacher_runs_on_what_each_student_sees(students, teacher, images):
    def shifted(by):
        return lambda x: x + by

    distiller = mr.PeerDistiller(
        students,
        teacher=teacher,
        knowledge={name: [mr.Response("kd")] for name in students},
        student_inputs={"a": shifted(1.0), "b": shifted(2.0)},
    )
    lessons = distiller.forward(images, training=True).teacher
    for name, by in {"a": 1.0, "b": 2.0, "c": 0.0}.items():
        assert_close(lessons[name].logits, teacher(images + by, training=False))


def test_a_teacher_with_an_input_of_its_own_runs_once(students, counted_net, images):
    teacher, counter = counted_net()
    distiller = mr.PeerDistiller(
        students,
        teacher=teacher,
        knowledge={name: [mr.Response("kd")] for name in students},
        student_inputs={"a": lambda x: x + 1.0},
        teacher_input=lambda x: x,
    )
    before = float(counter.runs)
    lessons = distiller.forward(images, training=True).teacher
    assert float(counter.runs) == before + 1
    assert lessons["a"] is lessons["b"]


@pytest.mark.parametrize("given", [["k"], {"d": "k"}])
def test_views_are_given_by_student(given, students):
    with pytest.raises(ValueError, match=r"student_inputs must be one for all students, a list"):
        mr.PeerDistiller(students, student_inputs=given)


# Past selves


@pytest.mark.graph
@pytest.mark.parametrize("average_every", ["step", "epoch"])
def test_ema_weights_follow_the_students(average_every, students, images, labels, cross_entropy):
    aggregator = Probe(("averages",), average_every=average_every)
    distiller = mr.PeerDistiller(students, aggregator=aggregator)
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    expected = {name: student.get_weights() for name, student in students.items()}
    moves = []

    def move(*_, logs=None):
        for name, student in students.items():
            pairs = zip(expected[name], student.get_weights(), strict=True)
            expected[name] = [0.5 * past + 0.5 * present for past, present in pairs]
        moves.append(1)

    hooks = {f"on_{'train_batch' if average_every == 'step' else 'epoch'}_end": move}
    callback = keras.callbacks.LambdaCallback(**hooks)
    distiller.fit(
        images, labels, batch_size=4, epochs=2, verbose=0, shuffle=False, callbacks=[callback]
    )
    assert len(moves) == (6 if average_every == "step" else 2)
    past = copy_of(students["a"])
    for name in students:
        distiller.past.assign_to(name, past)
        for value, by_hand in zip(past.get_weights(), expected[name], strict=True):
            assert_close(value, by_hand)
        assert_close(distiller.past(images, model=name), past(images, training=False))


def test_ema_weights_learn_nothing_and_are_restored(students, images, labels, tmp_path, net):
    aggregator = mr.aggregators.get("pcl")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = mr.PeerDistiller(students, aggregator=aggregator)
    distiller.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    own = {id(variable) for variable in distiller.past.variables}
    assert not own & {id(variable) for variable in distiller.trainable_variables}
    distiller.fit(images, labels, batch_size=4, verbose=0, shuffle=False)
    distiller.save(tmp_path / "peers.keras")
    again = keras.saving.load_model(tmp_path / "peers.keras")
    for one in (distiller, again):
        one.fit(images, labels, batch_size=4, verbose=0, shuffle=False)
    for value, expected in zip(again.variables, distiller.variables, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=expected.path)


def test_ema_weights_go_into_models_of_the_same_architecture(students, net):
    distiller = mr.PeerDistiller(students, aggregator=Probe(("averages",)))
    with pytest.raises(ValueError, match=r"EMA weights of 'a' go into a model of the same"):
        distiller.past.assign_to("a", net((3, 5)))


# Branches


@pytest.fixture
def branches(net):
    return mr.models.branch(net(), at="stage1", branches=3)


def test_the_trunk_runs_once(counted_net, images, labels, cross_entropy):
    model, counter = counted_net()
    branches = mr.models.branch(model, at="counter", branches=3)
    counter = branches.trunk.get_layer("counter")
    distiller = mr.PeerDistiller(branches)
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    before = float(counter.runs)
    distiller.train_on_batch(images, labels)
    assert float(counter.runs) == before + 1


@pytest.mark.graph
def test_a_step_of_branches_equals_one_by_hand(branches, images, labels, cross_entropy):
    distiller = mr.PeerDistiller(branches, aggregator="mean", online_weight=0.7)
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)
    trunk = copy_of(branches.trunk)
    heads = [copy_of(head) for head in branches.heads.values()]
    variables = trunk.trainable_variables + [v for h in heads for v in h.trainable_variables]
    with tf.GradientTape() as tape:
        features = trunk(images, training=True)
        logits = [head(features, training=True) for head in heads]
        mean = tf.stop_gradient(tf.add_n(logits) / 3)
        loss = 0.0
        for own in logits:
            loss += cross_entropy(labels, own)
            target, log_p = tf.nn.softmax(mean / 3), tf.nn.log_softmax(own / 3)
            divergence = tf.reduce_sum(target * (tf.nn.log_softmax(mean / 3) - log_p), axis=1)
            loss += 0.7 * 9 * tf.reduce_mean(divergence)
    gradients = tape.gradient(loss, variables)
    expected = [v.numpy() - 0.1 * g.numpy() for v, g in zip(variables, gradients, strict=True)]
    distiller.train_on_batch(images, labels)
    own = branches.trunk.trainable_variables
    own = own + [v for head in branches.heads.values() for v in head.trainable_variables]
    for variable, value in zip(own, expected, strict=True):
        assert_close(variable, value)
    trained = {id(variable) for variable in distiller.trainable_variables}
    assert trained == {id(variable) for variable in own}


def test_the_trunk_has_an_optimizer_of_its_own(branches, images, labels, cross_entropy):
    distiller = mr.PeerDistiller(branches)
    groups = {name: keras.optimizers.SGD(0.0) for name in (*branches.students, "trunk")}
    distiller.compile(groups, cross_entropy)
    assert set(distiller.variable_groups()) == {*groups, "aggregator"}
    before = [value.numpy() for value in branches.trunk.trainable_variables]
    distiller.train_on_batch(images, labels)
    for value, expected in zip(branches.trunk.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_branches_with_views_of_their_own(branches, images):
    shifts = [lambda x, by=by: x + by for by in (0.0, 1.0, 2.0)]
    distiller = mr.PeerDistiller(
        branches,
        student_inputs=shifts,
        features_at="stage1",
    )
    outputs = distiller.forward(images, training=False)
    for by, (name, student) in enumerate(branches.students.items()):
        assert_close(outputs.students[name].logits, student(images + by, training=False), 1e-4)


def test_taps_inside_the_trunk_with_views_are_each_students_own(branches, teacher, images):
    distiller = mr.PeerDistiller(
        branches,
        teacher=teacher,
        knowledge={"branch_1": [mr.Feature("at", at="stage1"), mr.Feature("sp", at="stage2")]},
        student_inputs=[lambda x, by=by: x + by for by in (0.0, 1.0, 2.0)],
    )
    student = branches.students["branch_1"]
    reader = mr.TapReader(student, ["stage1", "stage2"])
    own = distiller.forward(images, training=True).students["branch_1"].features
    for tap, expected in reader(images + 1.0).features.items():
        assert own[tap].shape == expected.shape
    assert_close(
        distiller.forward(images, training=False).students["branch_1"].features["stage1"],
        reader(images + 1.0).features["stage1"],
        1e-4,
    )


def test_a_saved_distiller_of_branches_still_shares(branches, images, labels, tmp_path):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = mr.PeerDistiller(branches, aggregator="weighted_average")
    distiller.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    distiller.fit(images, labels, batch_size=4, verbose=0, shuffle=False)
    distiller.save(tmp_path / "branches.keras")
    again = keras.saving.load_model(tmp_path / "branches.keras")
    assert len(again.trainable_variables) == len(distiller.trainable_variables)
    for one in (distiller, again):
        one.fit(images, labels, batch_size=4, verbose=0, shuffle=False)
    for value, expected in zip(again.variables, distiller.variables, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=expected.path)


def test_a_model_that_is_not_branched_is_no_group(net):
    with pytest.raises(TypeError, match=r"a dict or a list of models, or what mr.models.branch"):
        mr.PeerDistiller(net())
