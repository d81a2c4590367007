"""Losses on dense maps, for segmentation and detection, against NumPy; masks, labels and errors."""

import itertools

import numpy as np
import pytest

import modreduce_keras as mr

SHAPE = (2, 4, 3, 5)


@pytest.fixture
def maps(random):
    """Maps of a teacher and a student, and a mask of some positions of each sample."""
    teacher, student = random.normal(size=(2, *SHAPE)).astype("float32")
    return teacher, student, random.random(SHAPE[:-1]) < 0.6


def log_softmax(rows):
    shifted = rows - rows.max()
    return shifted - np.log(np.exp(shifted).sum())


def channel_wise(teacher, student, temperature, kept):
    """Channel by channel and sample by sample."""
    values = np.zeros(len(teacher))
    for sample, channel in np.ndindex(len(teacher), teacher.shape[-1]):
        inside = kept[sample]
        target, own = (
            log_softmax(side[sample][inside][:, channel] / temperature)
            for side in (teacher.astype("float64"), student)
        )
        divergence = (np.exp(target) * (target - own)).sum()
        values[sample] += temperature**2 * divergence / teacher.shape[-1]
    return values


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_cwd_equals_numpy(temperature, masked, maps, assert_equals_numpy):
    teacher, student, mask = maps
    kept = mask if masked else mask | True
    given = {"teacher": teacher, "mask": mask} if masked else teacher

    def expected(_, moved):
        return channel_wise(teacher, moved, temperature, kept)

    assert_equals_numpy(mr.losses.CWD(temperature=temperature), expected, given, student, 1e-4)


def cosines(rows):
    rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows @ rows.T


def structure(teacher, student, granularity, kept):
    values = []
    for sample in range(len(teacher)):
        grams = []
        for side in (teacher[sample].astype("float64"), student[sample]):
            nodes = []
            corners = (range(0, size, granularity) for size in side.shape[:2])
            for row, column in itertools.product(*corners):
                window = np.s_[row : row + granularity, column : column + granularity]
                if kept[sample][window].any():
                    nodes.append(side[window][kept[sample][window]].mean(axis=0))
            grams.append(cosines(np.array(nodes)))
        values.append(((grams[0] - grams[1]) ** 2).mean())
    return np.array(values)


@pytest.mark.parametrize("granularity", [1, 2])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_pairwise_equals_numpy(granularity, masked, random, assert_equals_numpy):
    teacher, student = random.normal(size=(2, 2, 4, 4, 3)).astype("float32")
    mask = random.random((2, 4, 4)) < 0.4
    mask[1, :2, :2] = False
    kept = mask if masked else mask | True
    given = {"teacher": teacher, "mask": mask} if masked else teacher

    def expected(_, moved):
        return structure(teacher, moved, granularity, kept)

    loss = mr.losses.Pairwise(granularity=granularity)
    assert_equals_numpy(loss, expected, given, student, 1e-4)
    wide = np.concatenate([teacher, teacher], axis=-1)
    np.testing.assert_allclose(
        loss.call(wide, student), loss.call(teacher, student), rtol=1e-4
    )  # of any numbers of channels


def to_classes(teacher, student, labels, kept):
    """Of each position: the cosine with the mean of its class, over the sample."""
    values = np.zeros(kept.shape)
    for sample in range(len(teacher)):
        for name in np.unique(labels[sample][kept[sample]]):
            inside = kept[sample] & (labels[sample] == name)
            both = []
            for side in (teacher[sample].astype("float64"), student[sample]):
                rows, mean = side[inside], side[inside].mean(axis=0)
                norms = np.linalg.norm(rows, axis=-1) * np.linalg.norm(mean)
                both.append(rows @ mean / norms)
            values[sample][inside] = (both[0] - both[1]) ** 2
    return values.reshape(len(values), -1).mean(axis=1) / kept.mean()


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("size", [1, 3], ids=["labels of the maps' size", "larger labels"])
def test_ifvd_equals_numpy(size, masked, maps, random, assert_equals_numpy):
    teacher, student, mask = maps
    labels = random.integers(3, size=SHAPE[:-1])
    kept = mask if masked else mask | True
    # Only the middle of the pixels of each position is looked at.
    pixels = random.integers(9, size=(SHAPE[0], SHAPE[1] * size, SHAPE[2] * size))
    pixels[:, size // 2 :: size, size // 2 :: size] = np.where(kept, labels, 255)
    given = {"teacher": teacher, "labels": pixels} | ({"mask": mask} if masked else {})

    def expected(_, moved):
        return to_classes(teacher, moved, labels, kept)

    assert_equals_numpy(mr.losses.IFVD(), expected, given, student, 1e-4)


def test_label_maps_may_be_a_column_or_one_hot(maps, random):
    teacher, student, _ = maps
    labels = random.integers(3, size=SHAPE[:-1])
    loss = mr.losses.IFVD(num_classes=3)
    values = [
        loss.call({"teacher": teacher, "labels": form}, student)
        for form in (labels, labels[..., None], np.eye(3)[labels], labels.astype("uint8"))
    ]
    for other in values[1:]:
        np.testing.assert_array_equal(other, values[0])


@pytest.mark.parametrize("size", [1, 2], ids=["labels of the maps' size", "larger labels"])
def test_one_hot_label_maps_may_have_rows_of_zeros_where_a_mask_is(size, maps, random):
    teacher, student, mask = maps
    labels = random.integers(3, size=SHAPE[:-1])
    one_hot = np.where(mask[..., None], np.eye(3)[labels], 0.0)
    given = {"teacher": teacher, "mask": mask, "labels": labels}
    loss = mr.losses.IFVD(num_classes=3)
    expected = loss.call(given, student)
    pixels = np.repeat(np.repeat(one_hot, size, 1), size, 2)
    pixels[:, ::2, :1] *= 2 - size  # rows of pixels that are in no middle
    value = loss.call(given | {"labels": pixels}, student)
    np.testing.assert_array_equal(value, expected)
    mask[0, 1, 1], one_hot[0, 1, 1] = True, 0.0
    with pytest.raises(ValueError, match="IFVD must have labels that are class indices or one-hot"):
        loss.call(given | {"labels": one_hot}, student)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(2), r"IFVD needs labels y that are maps of classes, \(batch, height, width\)"),
        (np.full((2, 4, 3), 255), r"class indices from 0 to 254. Received: y with \[255\]"),
        (np.zeros((2, 4, 3, 2, 1)), r"Received: labels of shape \(2, 4, 3, 2, 1\)"),
    ],
)
def test_labels_that_are_no_maps_of_classes_are_refused(labels, message, maps):
    with pytest.raises(ValueError, match=message):
        mr.losses.IFVD().call({"teacher": maps[0], "labels": labels}, maps[1])


def correlation(teacher, student, kept):
    squares = 0.0
    both = []
    for side in (teacher.astype("float64"), student):
        rows = side[kept]
        both.append((side - rows.mean(axis=0)) / rows.std(axis=0))
    squares = 0.5 * ((both[0] - both[1]) ** 2).mean(axis=-1)
    return (squares * kept).reshape(len(kept), -1).mean(axis=1) / kept.mean()


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_pkd_equals_numpy(masked, maps, assert_equals_numpy):
    teacher, student, mask = maps
    kept = mask if masked else mask | True
    given = {"teacher": teacher, "mask": mask} if masked else teacher

    def expected(_, moved):
        return correlation(teacher, moved, kept)

    assert_equals_numpy(mr.losses.PKD(), expected, given, student, 1e-4)
    rows = [side[kept] for side in (teacher, student)]
    each = [np.corrcoef(rows[0][:, c], rows[1][:, c])[0, 1] for c in range(SHAPE[-1])]
    value = np.mean(mr.losses.PKD().call(given, student))
    np.testing.assert_allclose(value, 1.0 - np.mean(each), rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_fgfi_equals_numpy(masked, maps, assert_equals_numpy):
    teacher, student, mask = maps
    kept = mask if masked else mask | True
    given = {"teacher": teacher, "mask": mask} if masked else teacher

    def expected(_, moved):
        squares = ((moved - teacher) ** 2).sum(axis=-1) * kept
        # So that the mean over the samples is Σ / 2N of the batch.
        return squares.reshape(len(kept), -1).sum(axis=1) * len(kept) / (2 * kept.sum())

    assert_equals_numpy(mr.losses.FGFI(), expected, given, student)


def focal(teacher, student, alpha, beta, gamma, temperature, foreground):
    values = []
    for sample in range(len(teacher)):
        attention = []
        for side in (teacher[sample].astype("float64"), student[sample]):
            size = np.abs(side)
            place = np.exp(log_softmax(size.mean(axis=-1) / temperature))
            channel = np.exp(log_softmax(size.mean(axis=(0, 1)) / temperature))
            attention.append((place.size * place, channel.size * channel))
        inside = foreground[sample]
        weights = np.where(inside, alpha / max(inside.sum(), 1), beta / max((~inside).sum(), 1))
        value = 0.0
        for i, j, c in np.ndindex(teacher.shape[1:]):
            focus = attention[0][0][i, j] * attention[0][1][c]
            square = (student[sample, i, j, c] - teacher[sample, i, j, c]) ** 2
            value += weights[i, j] * focus * square
        unlike = [np.abs(a - b).sum() for a, b in zip(*attention, strict=True)]
        values.append(value + gamma * sum(unlike))
    return np.array(values)


@pytest.mark.parametrize("divided", [False, True], ids=["all foreground", "divided"])
def test_fgd_equals_numpy(divided, maps, assert_equals_numpy):
    teacher, student, foreground = maps
    inside = foreground if divided else foreground | True
    given = {"teacher": teacher, "foreground": foreground} if divided else teacher
    weights = 1.0, 0.5, 0.25

    def expected(_, moved):
        return focal(teacher, moved, *weights, 0.5, inside)

    loss = mr.losses.FGD(
        foreground_weight=weights[0], background_weight=weights[1], attention_weight=weights[2]
    )
    assert_equals_numpy(loss, expected, given, student)


def test_fgd_global_equals_numpy(maps, assert_equals_numpy):
    teacher, student, _ = maps

    def expected(_, moved):
        return ((moved - teacher) ** 2).sum(axis=(1, 2, 3))

    assert_equals_numpy(mr.losses.FGDGlobal(), expected, teacher, student)


def test_the_foreground_is_of_the_positions(maps):
    with pytest.raises(ValueError, match="FGD needs a mask with one value for each position"):
        mr.losses.FGD().call({"teacher": maps[0], "foreground": np.ones((2, 4, 4))}, maps[1])


@pytest.mark.parametrize("loss", [mr.losses.Pairwise, mr.losses.IFVD])
def test_what_counts_something_is_a_positive_integer(loss):
    argument = {"Pairwise": "granularity", "IFVD": "num_classes"}[loss.__name__]
    with pytest.raises(ValueError, match=f"{argument} must be"):
        loss(**{argument: 0})
