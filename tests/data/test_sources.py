"""Folders of images, tables and prepared datasets as sources."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.data.image_folders import image_folder
from modreduce_keras.data.prepared import fashion_sample, tensorflow_dataset
from modreduce_keras.data.sources import Reader, batches, split
from modreduce_keras.data.tables import table


def draw(folder, name, value, size=(6, 4)):
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.save_img(folder / name, np.full((*size, 3), value), scale=False)


def read(source, part, shape=(4, 4, 3), pixels="0..255"):
    data = batches(source.parts[part], Reader(source.image, shape, pixels), 64)
    ((x, y),) = data.as_numpy_iterator()
    return x, y


@pytest.fixture
def photos(tmp_path):
    for number in range(10):
        draw(tmp_path / "photos" / "dog" / "deep", f"{number}.png", 200 + number)
        draw(tmp_path / "photos" / "cat", f"{number}.PNG", 10 + number)
    (tmp_path / "photos" / ".hidden").mkdir()
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_folder_of_classes(photos):
    source = image_folder(photos, validation_split=0.2)
    assert source.class_names == ["cat", "dog"]
    assert source.held_out
    assert {name: part.size for name, part in source.parts.items()} == {
        "train": 16,
        "validation": 4,
    }
    (x, y), (x_out, y_out) = read(source, "train"), read(source, "validation")
    assert x.shape == (16, 4, 4, 3)
    assert sorted(y_out) == [0, 0, 1, 1]
    values = np.concatenate([x[:, 0, 0, 0], x_out[:, 0, 0, 0]])
    expected = [*range(10, 20), *range(200, 210)]
    np.testing.assert_allclose(sorted(values), expected, rtol=1e-5)
    np.testing.assert_array_equal(x[:, 0, 0, 0] > 100, y == 1)
    again = image_folder(photos, validation_split=0.2)
    np.testing.assert_array_equal(read(again, "validation")[0], x_out)
    half, _ = read(source, "train", (4, 4, 1), "-1..1")
    np.testing.assert_allclose(half[..., 0], x[..., 0] / 127.5 - 1, atol=1e-6)


def test_folder_of_parts(photos, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    photos.rename(root / "train")
    for part in ("val", "test"):
        for name, value in (("cat", 1), ("dog", 255)):
            draw(root / part / name, "1.png", value)
    source = image_folder(root)
    assert not source.held_out
    assert [source.parts[name].size for name in ("train", "validation", "test")] == [20, 1 + 1, 2]
    np.testing.assert_array_equal(read(source, "test")[1], [0, 1])
    draw(root / "test" / "cow", "1.png", 3)
    with pytest.raises(ValueError, match=r"must have the classes \['cat', 'dog'\].*cow"):
        image_folder(root)


def test_folders_that_cannot_be_used(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match="data must be a folder of images"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="one folder of images for each class"):
        image_folder(photos / "dog")
    (photos / "cat" / "wrong.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"wrong\.jpg' is not a JPEG, PNG, GIF or BMP"):
        image_folder(photos)
    (photos / "empty").mkdir()
    (photos / "cat" / "wrong.jpg").unlink()
    with pytest.raises(ValueError, match="empty' without any"):
        image_folder(photos)


@pytest.mark.parametrize(
    ("labels", "y", "classes", "names"),
    [
        (["b", "a", "b", "a"], [1, 0, 1, 0], 2, ["a", "b"]),
        ([0, 2, 0, 2], [0, 2, 0, 2], 3, None),
        (["0.0", "2.0", "0.0", "2.0"], [0, 2, 0, 2], 3, None),
        ([0.5, 1, 2, 3], [0.5, 1, 2, 3], None, None),
        ([-1.0, 1.0, -1.0, 1.0], [-1, 1, -1, 1], None, None),
        ([7.0, 1.0, 2.0, 3.0], [7, 1, 2, 3], None, None),
        ([7, 1, 2, 3], [7, 1, 2, 3], None, None),
        ([-1, 1, -1, 1], [-1, 1, -1, 1], None, None),
        ([3, 3, 1, 2], [3, 3, 1, 2], 4, None),
    ],
)
def test_labels_of_tables(labels, y, classes, names, tmp_path):
    path = tmp_path / "table.csv"
    rows = [f"{i}.5, {label} ,{2 * i}" for i, label in enumerate(labels)]
    path.write_text("\ufeffone,kind,two\n" + "\n".join(rows) + "\n\n")
    source = table(path, label="kind", validation_split=0.5)
    assert (source.classes, source.class_names) == (classes, names)
    pairs = [
        (tuple(x), label)
        for part in source.parts
        for x, label in zip(*read(source, part, ()), strict=True)
    ]
    expected = [((i + 0.5, 2.0 * i), label) for i, label in enumerate(y)]
    assert sorted(pairs) == sorted(expected)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "a header of two columns"),
        ("a,b\n", "0 rows"),
        ("a,b\n1,2,3\n", "another number in line 2"),
        ("a,b\nx,1\n", "'x' in column 'a', line 2"),
        ("a,b\n1,\n", "a label. Received: none in row 1"),
        ("a,b\n1,0\n", "must leave samples"),
        ("a,b\n1,nan\n2,1\n", "a finite number as a label. Received: nan in row 1"),
        ("a,b\n1,0\n2,-Inf\n", "Received: -Inf in row 2"),
        ("a,b\nNaN,0\n", "finite numbers.*'NaN' in column 'a', line 2"),
        ("a,b\n1,anna\n2,ben\n3,cleo\n", r"label=. Received: the column 'b', .*'anna', 'ben'"),
    ],
)
def test_tables_that_cannot_be_used(content, line, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=line):
        table(path)


@pytest.mark.parametrize(
    "labels", [range(1000, 1100), [i // 2 for i in range(100)], [0] + 99 * [1]]
)
def test_the_same_share_is_held_out_where_classes_are_small(labels, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels)))
    source = table(path, validation_split=0.2)
    assert {name: part.size for name, part in source.parts.items()} == {
        "train": 80,
        "validation": 20,
    }


def test_table_needs_its_file_and_column(tmp_path):
    with pytest.raises(FileNotFoundError, match="CSV"):
        table(tmp_path / "table.csv")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"one of the columns \['a', 'b'\]. Received: 'c'"):
        table(tmp_path / "table.csv", label="c")


def test_fashion_sample_is_that_of_the_package():
    source = fashion_sample()
    assert [source.parts[name].size for name in source.parts] == [9000, 1000, 2000]
    (_, _), (x_test, y_test) = mr.data.load_sample()
    reader = Reader(source.image, (28, 28, 1), "0..1")
    data = batches(source.parts["test"], reader, 2000)
    ((x, y),) = data.as_numpy_iterator()
    np.testing.assert_allclose(x, x_test, atol=1e-6)
    np.testing.assert_array_equal(y, y_test)
    three = batches(source.parts["test"], reader._replace(shape=(28, 28, 3)), 1)
    x3, _ = next(three.as_numpy_iterator())
    np.testing.assert_array_equal(x3, x[:1].repeat(3, axis=-1))


def test_tensorflow_dataset(tmp_path, random):
    import tensorflow_datasets as tfds

    images = random.integers(0, 256, (20, 5, 5, 3)).astype("uint8")
    samples = [(i, {"image": image, "label": i % 2}) for i, image in enumerate(images)]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(5, 5, 3)),
            "label": tfds.features.ClassLabel(names=["no", "yes"]),
        }
    )
    options = {"name": "tiny", "version": "1.0.0", "features": features, "data_dir": tmp_path}
    tfds.dataset_builders.store_as_tfds_dataset(**options, split_datasets={"train": samples})
    source = tensorflow_dataset("tiny", data_dir=str(tmp_path), validation_split=0.2)
    assert [(name, part.size) for name, part in source.parts.items()] == [
        ("train", 16),
        ("validation", 4),
    ]
    assert source.class_names == ["no", "yes"]
    x, y = (
        np.concatenate(both)
        for both in zip(*(read(source, part, (5, 5, 3)) for part in source.parts), strict=True)
    )
    order = [next(i for i, image in enumerate(images) if (image == one).all()) for one in x]
    assert sorted(order) == list(range(20))
    np.testing.assert_array_equal(y, np.array(order) % 2)
    with pytest.raises(ValueError, match=r"Received: 'tinny'"):
        tensorflow_dataset("tinny", data_dir=str(tmp_path))


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_split_leaves_no_part_empty(share):
    with pytest.raises(ValueError, match="must leave samples for training and for validation"):
        split(np.zeros(4), np.arange(4), share)


def test_split_holds_out_the_same_share_of_each_class():
    labels = np.repeat([0, 1], [10, 30])
    parts = split(np.arange(40), labels, 0.2)
    y = np.array([y for _, y in parts["validation"].samples.as_numpy_iterator()])
    assert np.bincount(y).tolist() == [2, 6]
