"""What a checkpoint keeps of a value comes back equal, of the same kind, and writable."""

import collections
import datetime
import json
import pathlib
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras.callbacks.kept import CannotKeepError, Writer, restored_value


def back(value, present=None):
    writer = Writer()
    stored = json.loads(json.dumps(writer.put(value)))
    contents = [memoryview(array.tobytes()) for array in writer.arrays]
    return restored_value(stored, contents, present)


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.flags.writeable
        if one.dtype == object:
            assert one.tolist() == other.tolist()
        else:
            np.testing.assert_array_equal(one, other)
    elif isinstance(one, np.generic):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, (list, tuple, collections.deque)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


VALUES = [
    *(None, True, 3, 2**80, 0.1, float("inf"), -0.0, "text\n\u00e9", b"\0\xff", 1 + 2j),
    *(np.float32(0.1), np.int64(3), np.bool_(True), np.float64(0.1), np.str_("a")),
    np.datetime64("2024-02-29T12:00"),
    np.arange(6, dtype="float16").reshape(2, 3),
    np.array(3.0),
    np.zeros((0, 3)),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.array(["a", "bcd"]),
    np.array(["2024-01-01"], "datetime64[D]"),
    np.array([1 + 1j]),
    np.array(["a", None, 3], object),
    np.arange(3, dtype=">i4"),
    tf.constant([1.0, 2.0], tf.bfloat16).numpy(),
    [np.float32(1.0), np.zeros(2), np.int64(7)],
    [[1, [2.0, ["x"]]], []],
    {"a": [1], 3: {"b": None}, (1, 2): np.ones(2), None: True},
    (1, (2, [3])),
    {1, 2},
    frozenset({"a"}),
    collections.OrderedDict([("b", 1), ("a", np.ones(1))]),
    collections.Counter("aab"),
    collections.deque([1, 2], maxlen=5),
    collections.defaultdict(list, {"a": [1]}),
    range(3, 9, 2),
    datetime.datetime(2024, 2, 29, 12, 30, 1, 5),
    datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
    datetime.date(2024, 2, 29),
    datetime.timedelta(days=3, microseconds=1),
    pathlib.Path("run/log.csv"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back(value):
    assert_same(back(value), value)


def test_a_defaultdict_goes_on_making_lists():
    assert back(collections.defaultdict(list))["new"] == []


def test_not_a_number():
    assert np.isnan(back(float("nan")))


def test_what_is_written_does_not_follow_the_value():
    values, writer = np.zeros(2), Writer()
    writer.put(values)
    values += 1.0
    assert writer.arrays[0].view("float64").tolist() == [0.0, 0.0]


def test_tensors():
    value = back({"a": tf.constant([1, 2], tf.int8)})["a"]
    assert isinstance(value, tf.Tensor)
    assert (value.dtype, value.numpy().tolist()) == (tf.int8, [1, 2])


def mean(*values):
    metric = keras.metrics.Mean()
    for value in values:
        metric.update_state(value)
    return metric


def drawn(generator, draw, times):
    for _ in range(times):
        draw(generator)
    return generator


def seeded(times):
    generator = keras.random.SeedGenerator(1)
    return drawn(generator, lambda one: keras.random.uniform((), seed=one), times)


OBJECTS = {
    "keras.Variable": (
        lambda n: keras.Variable([1.0 * n, 2.0]),
        lambda one: keras.ops.convert_to_numpy(one).tolist(),
    ),
    "tf.Variable": (lambda n: tf.Variable([n]), lambda one: one.numpy().tolist()),
    "metric": (lambda n: mean(*range(n)), lambda one: float(one.result())),
    "seed generator": (seeded, lambda one: float(keras.random.uniform((), seed=one))),
    "np.random.Generator": (
        lambda n: drawn(np.random.default_rng(2), lambda one: one.normal(), n),
        lambda one: one.normal(),
    ),
    "np.random.RandomState": (
        lambda n: drawn(np.random.RandomState(2), lambda one: one.normal(), n),
        lambda one: one.normal(),
    ),
    "random.Random": (
        lambda n: drawn(random.Random(2), lambda one: one.gauss(0, 1), n),
        lambda one: one.gauss(0, 1),
    ),
    "tf.random.Generator": (
        lambda n: drawn(tf.random.Generator.from_seed(2), lambda one: one.normal(()), n),
        lambda one: float(one.normal(())),
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_get_their_state_back(name):
    make, look = OBJECTS[name]
    present = [make(0)]
    given = back([make(3)], present)
    assert given[0] is present[0]
    assert look(given[0]) == look(make(3))


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_that_is_not_there_is_missed(name):
    with pytest.raises(ValueError, match=r"\['a'\] was a .* make it in the constructor"):
        back({"a": OBJECTS[name][0](3)}, {"a": None})


def test_an_object_of_another_shape_is_missed():
    with pytest.raises(ValueError, match="one of the same shapes there"):
        back(tf.Variable([1, 2]), tf.Variable([1]))
    with pytest.raises(ValueError, match="one of the same shapes there"):
        back(np.random.default_rng(1), np.random.Generator(np.random.MT19937(1)))


def test_objects_within_a_deque_and_an_ordered_dict():
    for build in (lambda one: collections.deque([one]), lambda one: collections.OrderedDict(a=one)):
        present = mean()
        found = back(build(mean(1.0, 2.0)), build(present))
        assert float(present.result()) == 1.5
        assert found == build(present)


def test_what_is_known_is_pointed_at():
    one, other = object(), object()
    stored = Writer([(one, "it")]).put([one, 3])
    assert restored_value(stored, [], known={"it": other}) == [other, 3]


class Own:
    pass


def cyclic():
    value = []
    value.append([value])
    return value


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        ({"a": [0, Own()]}, "['a'][1]", "is a tests.callbacks.test_kept.Own"),
        ({"a": (0, lambda: 0)}, "['a'][1]", "is a function"),
        (cyclic(), "[0][0]", "contains itself"),
        (np.zeros(2, [("a", "f4")]), "", "is an array of dtype"),
        ([np.array([Own()])], "[0][0]", "is a tests.callbacks.test_kept.Own"),
        (collections.defaultdict(Own), "", "is a defaultdict of Own"),
        (collections.namedtuple("P", "x")(1), "", "is a tests.callbacks.test_kept.P"),
        (iter([]), "", "is a list_iterator"),
    ],
    ids=["nested", "function", "cyclic", "structured", "objects", "factory", "named", "iterator"],
)
def test_what_cannot_be_kept_is_told_with_its_place(value, path, why):
    with pytest.raises(CannotKeepError) as caught:
        Writer().put(value)
    assert caught.value.path == path
    assert why in caught.value.why
