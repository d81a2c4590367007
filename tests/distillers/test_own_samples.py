"""Students with samples of their own: each learns exactly as in a distiller of its own."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.step.splitting import split

KEYS = {"a": "part_0", "b": "part_1"}
CLASSES, EPOCHS = 3, 2


def net(width=6, batch_norm=True):
    layers = keras.layers
    inputs = keras.Input((5,))
    hidden = layers.Dense(width, activation="tanh")(inputs)
    hidden = layers.BatchNormalization()(hidden) if batch_norm else hidden
    hidden = layers.Dense(width, activation="relu", name="embedding")(hidden)
    return keras.Model(inputs, layers.Dense(CLASSES)(hidden))


@pytest.fixture
def samples(random):
    """Indexed batches of ten and, the last one, of five samples with weights."""
    x = random.normal(size=(25, 5)).astype("float32")
    labels = random.integers(CLASSES, size=25)
    weights = random.uniform(0.5, 2.0, size=25).astype("float32")
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices((x, labels, weights)))
    return data.batch(10)


def knowledge(kind):
    if kind == "kd":
        return [mr.Response("kd")]
    memory = mr.adapters.get("contrastive_memory", samples=25, negatives=4, momentum=0.5)
    return [mr.Response("dist"), mr.Relation("crd", at="embedding", adapter=memory)]


def compiled(made, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    metrics = {"metrics": ["accuracy"], "weighted_metrics": [accuracy]}
    made.compile(keras.optimizers.SGD(0.1), loss, **metrics, **options)
    return made


def by_student(data):
    """Returns batches whose samples are given by student."""
    return data.map(lambda *batch: split(batch, list(KEYS.values())))


def together(teacher, start, kinds, **arguments):
    students = {name: net() for name in KEYS}
    for name, student in students.items():
        student.set_weights(start[name])
    return mr.PeerDistiller(
        students,
        teacher=teacher,
        knowledge={name: knowledge(kind) for name, kind in zip(KEYS, kinds, strict=True)},
        aggregator=None,
        **{"student_inputs": KEYS, **arguments},
    )


def part(data, key):
    """Returns the batches of one student as a distiller of one student takes them."""

    def of_key(x, y, w):
        named = {name: values[key] for name, values in x.items() if name != "teacher_outputs"}
        if "teacher_outputs" in x:
            named["teacher_outputs"] = {
                fingerprint.rpartition("/")[0]: values
                for fingerprint, values in x["teacher_outputs"].items()
                if fingerprint.endswith(f"/{key}")
            }
        return named, y[key], w[key]

    return data.map(of_key)


@pytest.mark.parametrize("splits", [False, True], ids=["given apart", "split"])
@pytest.mark.parametrize("cached", [False, True], ids=["teacher", "cache"])
def test_each_student_learns_as_alone(samples, cached, splits, tmp_path):
    keras.utils.set_random_seed(1)
    teacher, start = net(9), {name: net().get_weights() for name in KEYS}
    given, data = teacher, samples
    if cached:
        given = mr.data.TeacherCache(tmp_path, teacher)
        given.fill(samples)
        data = given.attach(samples)
    own = {} if cached else {"teacher_dtype": "as_given"}
    apart = by_student(data)
    how = {"student_inputs": None, "split_batches": True} if splits else {}
    peers = compiled(together(given, start, ["kd", "kd"], **how, **own))
    given_to_peers = data if splits else apart
    logs = peers.fit(given_to_peers, epochs=EPOCHS, shuffle=False, verbose=0).history
    for name, key in KEYS.items():
        student = net()
        student.set_weights(start[name])
        alone = compiled(
            mr.Distiller(student=student, teacher=given, knowledge=knowledge("kd"), **own)
        )
        expected = alone.fit(part(apart, key), epochs=EPOCHS, shuffle=False, verbose=0).history
        for found, weight in zip(peers.students[name].weights, student.weights, strict=True):
            np.testing.assert_allclose(found, weight, rtol=1e-6, atol=1e-7, err_msg=weight.path)
        for log, values in expected.items():
            if log != "loss":
                np.testing.assert_allclose(logs[f"{name}/{log}"], values, rtol=1e-5, err_msg=log)
    assert not any("online" in log or "ensemble" in log for log in logs)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["eagerly", "with XLA", "on two replicas"])
def test_a_batch_is_split_in_every_kind_of_step(how, samples, request):
    keras.utils.set_random_seed(1)
    teacher, start = net(9, batch_norm=False), net(batch_norm=False).get_weights()
    batches = samples.unbatch().batch(12).take(2).apply(tf.data.experimental.assert_cardinality(2))
    scope, halves = nullcontext(), 1
    if how == "on two replicas":  # each replica splits its half of a batch
        scope, halves = request.getfixturevalue("two_replicas").scope(), 2
    places = np.arange(12).reshape(halves, 2, -1).transpose(1, 0, 2).ravel()

    def trained(data, **options):
        students = {name: net(batch_norm=False) for name in KEYS}
        for student in students.values():
            student.set_weights(start)
        kd = {name: ["kd"] for name in KEYS}
        options |= {"knowledge": kd, "teacher_dtype": "as_given", "aggregator": None}
        peers = mr.PeerDistiller(students, teacher=teacher, **options)
        kind = {"jit_compile": how == "with XLA", "run_eagerly": how == "eagerly"}
        compiled(peers, **(kind if "split_batches" in options else {}))
        peers.fit(data, epochs=EPOCHS, shuffle=False, verbose=0)
        return [weight for one in students.values() for weight in one.get_weights()]

    def by_hand(*batch):
        ordered = keras.tree.map_structure(lambda one: tf.gather(one, places), batch)
        return split(ordered, list(KEYS.values()))

    expected = trained(batches.map(by_hand), student_inputs=KEYS)
    with scope:
        found = trained(batches, split_batches=True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_index_is_that_of_the_students_samples(samples):
    keras.utils.set_random_seed(1)
    teacher, start = net(9), {name: net().get_weights() for name in KEYS}
    data = by_student(samples)
    peers = compiled(together(teacher, start, ["crd", "kd"]))
    adapter = peers.knowledge["a"][1].adapter
    before = [np.array(variable) for variable in adapter.non_trainable_variables]
    peers.fit(data, shuffle=False, verbose=0)
    seen = np.concatenate([x["sample_index"]["part_0"] for x, _, _ in data])
    changed = [
        np.flatnonzero(np.abs(np.array(variable) - old).reshape(25, -1).sum(axis=1))
        for variable, old in zip(adapter.non_trainable_variables, before, strict=True)
        if old.ndim == 2 and len(old) == 25
    ]
    assert len(changed) == 2  # the memory of the student's embeddings, and of the teacher's
    for rows in changed:
        np.testing.assert_array_equal(rows, np.sort(seen))


def test_data_for_evaluation_are_of_all_students(samples):
    keras.utils.set_random_seed(1)
    teacher, start = net(9), {name: net().get_weights() for name in KEYS}
    peers = compiled(together(teacher, start, ["kd", "kd"]))
    split = by_student(samples)
    peers.fit(split, validation_data=samples, shuffle=False, verbose=0)
    logs = peers.evaluate(samples, return_dict=True, verbose=0)
    x, y, _ = next(iter(samples.unbatch().batch(25)))
    for name, student in peers.students.items():
        right = np.argmax(student(x["inputs"]), axis=-1) == y.numpy()
        assert logs[f"{name}/accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert peers.best_student_name in KEYS
    assert peers.predict(x["inputs"], verbose=0).shape == (25, CLASSES)


def test_a_distiller_without_aggregator_is_saved_and_loaded(tmp_path):
    keras.utils.set_random_seed(1)
    peers = together(net(9), {name: net().get_weights() for name in KEYS}, ["kd", "kd"])
    peers.save(tmp_path / "peers.keras")
    loaded = keras.saving.load_model(tmp_path / "peers.keras")
    assert loaded.get_config()["aggregator"] is None
    for one, other in zip(loaded.students["b"].weights, peers.students["b"].weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_parts_without_student_inputs_say_what_is_missing(samples):
    teacher, students = net(9), {name: net() for name in KEYS}
    kd = {name: ["kd"] for name in KEYS}
    peers = mr.ModReduce(teacher=teacher, students=students, knowledge=kd, aggregator=None)
    message = r"make the distiller with student_inputs=\['part_0', 'part_1'\]. Received: "
    with pytest.raises(ValueError, match=message):
        compiled(peers).fit(by_student(samples), shuffle=False, verbose=0)


def test_students_that_learn_from_one_another_see_the_same_samples(samples):
    peers = compiled(
        mr.PeerDistiller({name: net() for name in KEYS}, student_inputs=KEYS, aggregator="mean")
    )
    with pytest.raises(ValueError, match=r"different samples.*aggregator=None.*by the keys of"):
        peers.fit(by_student(samples), shuffle=False, verbose=0)


def test_the_teacher_sees_what_a_student_with_its_own_samples_sees(samples):
    teacher, start = net(9), {name: net().get_weights() for name in KEYS}
    peers = compiled(together(teacher, start, ["kd", "kd"], teacher_input=lambda x: x["part_0"]))
    with pytest.raises(ValueError, match="leave out teacher_input=, and preprocess inside"):
        peers.fit(by_student(samples), shuffle=False, verbose=0)


@pytest.mark.parametrize("aggregator", ["mean", None])
@pytest.mark.parametrize("name", ["student_inputs", "teacher_input"])
def test_batches_are_split_for_students_that_share_nothing(aggregator, name):
    students = {name: net() for name in KEYS}
    given = {name: "part_0"} if aggregator is None else {}
    with pytest.raises(ValueError, match=r"split_batches=True.*goes with aggregator=None.*Receiv"):
        mr.PeerDistiller(students, aggregator=aggregator, split_batches=True, **given)
    with pytest.raises(TypeError, match=r"True or False. Received: split_batches=2"):
        mr.PeerDistiller(students, aggregator=None, split_batches=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"online_weight": 0.5}, r"aggregator=None, .*would do nothing.*'online_weight': 0.5"),
        ({"online_loss": "kd"}, r"would do nothing.*Received: \{'online_loss': 'kd'"),
    ],
)
def test_what_does_nothing_without_aggregator_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.PeerDistiller({name: net() for name in KEYS}, aggregator=None, **arguments)


def test_modreduce_without_aggregator_learns_offline_alone():
    knowledge = {name: [mr.Response("kd")] for name in KEYS}
    students = {name: net() for name in KEYS}
    made = compiled(
        mr.ModReduce(teacher=net(9), students=students, knowledge=knowledge, aggregator=None)
    )
    assert {name: float(weight) for name, weight in made.term_weights().items()} == {
        f"{name}/{term}": 1.0 for name in KEYS for term in ("ce", "kd")
    }
    for name, value in (("steps", 3), ("online_weight", 1.0)):
        given = {"samples": 5, "aggregator": None, name: value}
        with pytest.raises(ValueError, match=rf"{name} is .*here it would do nothing.*{value}"):
            mr.ModReduce(teacher=net(9), students=students, **given)
