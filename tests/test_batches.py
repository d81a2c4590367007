"""Tests of reading data batch by batch: every form that users give, and that reading ends."""

import collections
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras import batches as module
from modreduce_keras.batches import Batches, require_end, unpack

X, Y = np.arange(10.0).reshape(5, 2), np.arange(5)
DATASET = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
PARTS = [(X[:2], Y[:2]), (X[2:4], Y[2:4]), (X[4:], Y[4:])]


class Pairs(keras.utils.PyDataset):
    """Gives lists, as Keras allows."""

    def __init__(self, batches=3):
        super().__init__()
        self.num, self.calls = batches, []

    @property
    def num_batches(self):
        return self.num

    def __getitem__(self, number):
        self.calls.append(number)
        return list(PARTS[number])

    def on_epoch_begin(self):
        self.calls.append("begin")

    def on_epoch_end(self):
        self.calls.append("end")


class Loader:
    """A loader as of PyTorch: has a length, gives lists, and may go on for ever."""

    def __len__(self):
        return 3

    def __iter__(self):
        return itertools.cycle(map(list, PARTS))


class Indexed:
    """A sequence as of older Keras."""

    def __len__(self):
        return 3

    def __getitem__(self, number):
        return PARTS[number % 3]


class Passes:
    """Can be read again, but has no length."""

    def __iter__(self):
        return iter(PARTS)


class Table:
    """A table as of pandas, of which `table[...]` is a column."""

    shape, __array__ = X.shape, X.__array__

    def __getitem__(self, name):
        raise KeyError(name)

    def to_numpy(self):
        return X


def flow():
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator()
    return generator.flow(X.reshape(5, 2, 1, 1), Y, batch_size=2, shuffle=False)


FORMS = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: (tf.constant(X), tf.constant(Y)),
    "labels in a list": lambda: (X, Y.tolist()),
    "a table": lambda: (Table(), Y),
    "tf.data": lambda: DATASET,
    "tf.data of unknown size": lambda: DATASET.filter(lambda x, y: True),
    "tf.data cut": lambda: DATASET.repeat().filter(lambda x, y: True).take(3),
    "tf.data cut by its values": lambda: DATASET.repeat().take_while(lambda x, y: y[0] < 4).take(3),
    "PyDataset": Pairs,
    "ImageDataGenerator": flow,
    "loader": Loader,
    "sequence": Indexed,
    "list": lambda: PARTS,
    "deque": lambda: collections.deque(PARTS),
    "generator": lambda: (part for part in PARTS),
    "iterable": Passes,
}
ONCE = ["generator"]


def as_arrays(batches):
    return [keras.tree.map_structure(np.asarray, batch) for batch in batches]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_to_its_end_as_often_as_it_can_be(form):
    batches = Batches("data", FORMS[form](), 2)
    assert batches.is_array == (form in list(FORMS)[:4])
    for _ in range(1 if form in ONCE else 2):
        parts = PARTS[:2] if "by its values" in form else PARTS
        found = [unpack(batch) for batch in batches]
        assert all(weight is None for *_, weight in found)
        for (x, y, _), (own_x, own_y) in zip(found, parts, strict=True):
            np.testing.assert_array_equal(np.reshape(x, (-1, 2)), own_x)
            np.testing.assert_array_equal(y, own_y)


ENDLESS = {
    "repeat": (DATASET.repeat(), r"data must end: dataset\.take\(n\) is n batches of it"),
    "repeat, then batch": (DATASET.unbatch().repeat().batch(2), r"dataset\.take\(n\)"),
    "repeat, then filter": (DATASET.repeat().filter(lambda x, y: True), r"dataset\.take\(n\)"),
    "repeat, then filter and map": (
        DATASET.repeat().filter(lambda x, y: True).map(lambda x, y: x).prefetch(1),
        r"dataset\.take\(n\)",
    ),
    "PyDataset": (Pairs(None), r"\[dataset\[i\] for i in range\(n\)\]"),
    "cycle": (itertools.cycle(PARTS), r"list\(itertools\.islice\(iterator, n\)\) is n batches"),
}


@pytest.mark.parametrize("form", ENDLESS)
def test_what_is_known_to_have_no_end_is_refused_at_once(form):
    data, message = ENDLESS[form]
    with pytest.raises(ValueError, match=message + ".*which never ends"):
        Batches("data", data)
    with pytest.raises(ValueError, match=r"data must end: .* or wait\. Received: "):
        require_end("data", data, " or wait")


def test_the_calls_that_the_messages_name_work():
    assert len(list(Batches("data", DATASET.repeat().take(4)))) == 4
    endless = Pairs(None)
    assert len(list(Batches("data", [endless[i] for i in range(2)]))) == 2
    cut = list(itertools.islice(itertools.cycle(PARTS), 7))
    assert len(list(Batches("data", cut, again=True))) == 7
    inputs = list(itertools.islice(itertools.cycle([X]), 7))
    assert len(list(Batches("data", inputs, inputs=1))) == 7


def forever():
    while True:
        yield X, Y


@pytest.mark.parametrize("known", [True, False], ids=["tf.data", "generator"])
def test_what_may_have_no_end_is_read_up_to_a_bound(known, monkeypatch):
    specs = (tf.TensorSpec((5, 2)), tf.TensorSpec((5,), "int64"))
    data = tf.data.Dataset.from_generator(forever, output_signature=specs) if known else forever()
    bound = "LARGEST_UNKNOWN" if known else "LARGEST_UNSIZED"
    monkeypatch.setattr(module, bound, 5)
    read = []
    with pytest.raises(ValueError, match=r"data has not ended after 5 batches, and cannot say wh"):
        read.extend(Batches("data", data))
    assert read == []  # refused before it is worked on
    monkeypatch.setattr(module, "_NUMBERS_AHEAD", -1)  # as large data are
    with pytest.raises(ValueError, match=r"data has not ended after 5 batches, and cannot say wh"):
        read.extend(Batches("data", data if known else forever()))
    assert len(read) == 5
    monkeypatch.setattr(module, bound, 3)
    some = PARTS if not known else DATASET.filter(lambda x, y: True)
    assert len(list(Batches("data", iter(some) if not known else some))) == 3


def test_an_iterator_is_not_read_again():
    with pytest.raises(
        TypeError, match=r"an iterator only once: give .* or list\(data\). Received"
    ):
        Batches("data", iter(PARTS), again=True)
    assert len(list(Batches("data", list(iter(PARTS)), again=True))) == 3


def test_keras_own_hooks_are_called_as_fit_does():
    data = Pairs()
    list(Batches("data", data))
    assert data.calls == ["begin", 0, 1, 2, "end"]


def test_arrays_keep_their_structure():
    data = ({"a": X, "b": X + 1}, {"c": Y, "d": [Y, Y]}, None)
    for _ in range(2):
        first, last = Batches("data", data, 3)
        np.testing.assert_array_equal(first[0]["b"], X[:3] + 1)
        np.testing.assert_array_equal(last[0]["a"], X[3:])
        np.testing.assert_array_equal(last[1]["d"][1], Y[3:])
        assert last[2] is None


def test_inputs_alone_are_a_tuple_of_one():
    ((batch,),) = as_arrays(Batches("data", [X, X], 8))
    assert len(batch) == 2
    assert len(list(Batches("data", tf.constant(X), 2))) == 3
    # Where the model takes one, they are two batches.
    assert len(list(Batches("data", [X, X], 8, inputs=1))) == 2


@pytest.mark.parametrize(
    "data",
    [None, (None, Y[:0].tolist()), [1.0, 2.0], (iter([X]), None), {"a": 1}, "x", np.float32(1), 3],
)
def test_other_data_are_refused(data):
    with pytest.raises(TypeError, match=r"data must be a dataset of batches .* Received: data of"):
        Batches("data", data, 2)


def test_a_function_is_to_be_called():
    message = r"of type function: call it, data=list\(function\(\)\)"
    with pytest.raises(TypeError, match=message):
        Batches("data", lambda: iter(PARTS))


def test_tuples_that_are_not_data_are_refused():
    with pytest.raises(ValueError, match="Received: a tuple of 4"):
        Batches("data", (X, X, X, X), 2)
    with pytest.raises(ValueError, match="Received: a tuple of 4"):
        unpack((X, X, X, X))
    with pytest.raises(ValueError, match=r"equal numbers of samples. Received: \[4, 5\]"):
        Batches("data", (X, Y[:4]), 2)
