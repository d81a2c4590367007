"""What a model is to answer, and the range of pixels, found out from the data."""

import keras
import numpy as np
import pytest

from modreduce_keras.command import tasks
from modreduce_keras.command.mistakes import MistakeError
from modreduce_keras.data.sources import PIXELS, Source, batches, split, training_batches

GIVEN = {
    "pixels": "auto",
    "batch_size": 8,
    "validation_split": 0.5,
    "label": None,
    "data_dir": None,
}


class Brightness(keras.Model):
    """Says class 1 of images whose mean pixel is above a bound of its own range."""

    def __init__(self, bound, units=2):
        super().__init__()
        self.bound, self.units = bound, units

    def call(self, x, training=None):
        one = 100 * (keras.ops.mean(x, (1, 2)) - self.bound)
        return one if self.units == 1 else keras.ops.concatenate([0 * one, one], axis=-1)

    def compute_output_shape(self, shape):
        return (shape[0], self.units)


def source(random, classes=2):
    labels = np.arange(40) % 2
    x = np.where(labels[:, None, None, None], 170, 80) + random.integers(-9, 9, (40, 4, 4, 1))
    return Source(split(x.astype("uint8"), labels, 0.5), lambda x, channels: x, classes, None, True)


def model(bound, units=2):
    made = Brightness(bound, units)
    made.build((None, 4, 4, 1))
    made(np.zeros((1, 4, 4, 1), "float32"))
    return made


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("units", [1, 2])
def test_pixels_are_those_in_which_the_model_is_right(pixels, units, random, capsys, monkeypatch):
    factor, offset = PIXELS[pixels]
    monkeypatch.setattr(tasks.networks, "units", lambda model: units)
    found = tasks.task(
        GIVEN, source(random), model(125 * factor + offset, units), (4, 4, 1), "teacher"
    )
    assert found.reader.pixels == pixels
    assert found.kind == ("logit" if units == 1 else "classes")
    assert f"Pixels {pixels}: the teacher is right on 100 %" in capsys.readouterr().out
    x, y = next(found.judged().as_numpy_iterator())
    assert found.judged_on == "validation"
    np.testing.assert_array_equal(x.mean((1, 2, 3)) > 125 * factor + offset, y == 1)


def test_a_model_of_other_classes_is_told(random, capsys, monkeypatch):
    monkeypatch.setattr(tasks.networks, "units", lambda model: 2)
    tasks.task(GIVEN, source(random), model(1000.0), (4, 4, 1), "teacher")
    assert "Warning: that is hardly better than guessing." in capsys.readouterr().out
    with pytest.raises(MistakeError, match="answers with 2 classes, and --data has 3"):
        tasks.task(GIVEN, source(random, 3), model(0.5), (4, 4, 1), "teacher")
    with pytest.raises(MistakeError, match="--teacher must take images"):
        tasks.task(GIVEN, source(random), model(0.5), (4,), "teacher")


def test_representative_inputs_are_of_all_classes(random, monkeypatch):
    monkeypatch.setattr(tasks.networks, "units", lambda model: 2)
    given = {**GIVEN, "pixels": "0..1"}
    found = tasks.task(given, source(random), model(0.5), (4, 4, 1), "teacher")
    x = found.representative()
    assert x.shape == (20, 4, 4, 1)
    assert 0 < (x.mean((1, 2, 3)) > 0.5).sum() < 20


def test_table(tmp_path):
    path = tmp_path / "flowers.csv"
    path.write_text("a,b,kind\n" + "\n".join(f"{i},{-i},{'xy'[i % 2]}" for i in range(20)))
    opened = tasks.open_source({**GIVEN, "data": str(path)})
    dense = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    found = tasks.task(GIVEN, opened, dense, (2,), "student")
    assert found.kind == "classes"
    assert found.class_names(2) == ["x", "y"]
    x, y = next(batches(opened.parts["train"], found.reader, 4).as_numpy_iterator())
    np.testing.assert_array_equal(x[:, 0], -x[:, 1])
    np.testing.assert_array_equal(x[:, 0] % 2, y)
    with pytest.raises(MistakeError, match="takes rows of 3 numbers, and --data has 2"):
        tasks.task(GIVEN, opened, dense, (3,), "student")


def test_data_that_are_not_there(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(MistakeError, match="Did you mean 'photos'"):
        tasks.open_source({**GIVEN, "data": str(tmp_path / "photo")})
    with pytest.raises(MistakeError, match="Did you mean 'fashion_sample'"):
        tasks.open_source({**GIVEN, "data": "fashion-sampel"})


def taking(shape):
    return keras.Sequential([keras.Input(shape), keras.layers.Identity()])


@pytest.mark.parametrize(
    ("own", "size", "shape"),
    [((8, 9, 3), None, (8, 9, 3)), ((None, None, 1), 7, (7, 7, 1)), ((5,), None, (5,))],
)
def test_shape_of_inputs(own, size, shape):
    assert tasks.shape_of_inputs(taking(own), size, "student") == shape


def test_sizes_that_do_not_fit():
    fixed = taking((8, 8, 3))
    with pytest.raises(MistakeError, match=r"the size that the student takes, \(8, 8\)"):
        tasks.shape_of_inputs(fixed, 9, "student")
    free = taking((None, None, 3))
    with pytest.raises(MistakeError, match="--image_size=N must be given"):
        tasks.shape_of_inputs(free, None, "teacher")


def test_augmented_images_are_crops_of_the_larger_image(random):
    labels = np.zeros(6, "int64")
    x = random.integers(0, 256, (6, 4, 4, 1)).astype("uint8")
    made = Source(split(x, labels, 0.5), lambda x, channels: x, 1, None, True)
    reader = tasks.Reader(made.image, (4, 4, 1), "0..1")
    options = {"batch_size": 3, "seed": 1, "augment": True}
    first, again = (
        next(training_batches(made.parts["train"], reader, **options).as_numpy_iterator())[0]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == (3, 4, 4, 1)
    assert 0 <= first.min() <= first.max() <= 1
