"""Layer attention and SemCKD together against the reference; any size of batch; errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

LAYERS = (2, 3)


@pytest.fixture
def reference(golden):
    """The reference numbers, and an adapter that has the reference's weights."""
    arrays = golden("semckd")
    student, teacher = (
        [arrays[f"{side}_{i}"] for i in range(layers)]
        for side, layers in zip(("student", "teacher"), LAYERS, strict=True)
    )
    adapter = mr.adapters.LayerAttention(batch_size=8)
    adapter.build([maps.shape for maps in student], [maps.shape for maps in teacher])
    for kind, embeddings in (("query", adapter.queries), ("key", adapter.keys)):
        for i, embedding in enumerate(embeddings):
            embedding.set_weights(
                [
                    arrays[f"param/{kind}_weight{i}.linear{layer}.{part}"].T
                    for layer in (1, 2)
                    for part in ("weight", "bias")
                ]
            )
    for pair, regressor in enumerate(adapter.regressors):
        prefix = "param/regressor{}{}.regressor".format(*divmod(pair, LAYERS[1]))
        kernels = [arrays[f"{prefix}.{i}.weight"].transpose(2, 3, 1, 0) for i in (0, 3, 6)]
        norms = [[arrays[f"{prefix}.{i}.{part}"] for part in ("weight", "bias")] for i in (1, 4)]
        convolutions, normalizations = regressor.layers[::3], regressor.layers[1::3]
        for convolution, kernel in zip(convolutions, kernels, strict=True):
            convolution.set_weights([kernel])
        for normalization, scale in zip(normalizations, norms, strict=True):
            normalization.set_weights([*scale, *normalization.get_weights()[2:]])
    return arrays, adapter, student, teacher


def test_value_attention_and_gradients_equal_the_reference(reference):
    arrays, adapter, student, teacher = reference
    student = [tf.constant(maps) for maps in student]
    with tf.GradientTape() as tape:
        tape.watch(student)
        projected, matched = adapter(student, teacher, training=True)
        loss = tf.reduce_mean(mr.losses.SemCKD().call(matched, projected))
    np.testing.assert_allclose(tf.nn.softmax(projected[-1]), arrays["attention"], rtol=1e-5)
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-5)
    for i, gradient in enumerate(tape.gradient(loss, student)):
        expected = arrays[f"grad_student_{i}"]
        size = np.abs(expected).max()
        np.testing.assert_allclose(gradient / size, expected / size, atol=1e-4)


def softmax(scores):
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def numpy_scores(adapter, student, teacher):
    """The scores from rows of similarities that are padded or cut to the adapter's width."""

    def embedded(embedding, maps):
        rows = maps.reshape(len(maps), -1).astype("float64")
        similarities = np.zeros((len(rows), max(len(rows), adapter.batch_size)))
        similarities[:, : len(rows)] = rows @ rows.T
        first, first_bias, second, second_bias = embedding.get_weights()
        hidden = similarities[:, : adapter.batch_size] @ first + first_bias
        vectors = np.maximum(hidden, 0.0) @ second + second_bias
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    scores = np.zeros((len(student[0]), len(student), len(teacher)))
    for i, student_maps in enumerate(student):
        for j, teacher_maps in enumerate(teacher):
            query = embedded(adapter.queries[i], student_maps)
            key = embedded(adapter.keys[j], teacher_maps)
            scores[:, i, j] = (query * key).sum(axis=1)
    return scores


@pytest.mark.parametrize("batch", [1, 5, 8, 11])
def test_any_size_of_batch_is_padded_or_cut_to_the_built_one(batch, reference, random):
    _, adapter, student, teacher = reference
    student, teacher = (
        [random.normal(size=(batch, *maps.shape[1:])).astype("float32") for maps in layers]
        for layers in (student, teacher)
    )
    scores = adapter(student, teacher)[0][-1]
    expected = numpy_scores(adapter, student, teacher)
    np.testing.assert_allclose(softmax(np.array(scores)), softmax(expected), rtol=1e-4)


def test_pairs_come_student_layer_by_student_layer_at_the_smaller_size(reference, average_pooled):
    _, adapter, student, teacher = reference
    projected, matched = adapter(student, teacher)
    sizes = [(16, 16), (8, 8, 24), (4, 4, 32), (8, 8, 16), (8, 8, 24), (4, 4, 32)]
    sizes[0] = (16, 16, 16)
    assert [maps.shape[1:] for maps in matched] == sizes
    assert [maps.shape[1:] for maps in projected[:-1]] == sizes
    np.testing.assert_array_equal(matched[0], teacher[0])
    np.testing.assert_allclose(matched[3], average_pooled(teacher[0], 8, 8), atol=1e-6)


def test_one_layer_of_the_student_may_learn_from_several(random):
    student = [random.normal(size=(4, 2, 2, 3)).astype("float32")]
    teacher = [random.normal(size=(4, 2, 2, width)).astype("float32") for width in (2, 5)]
    adapter = mr.adapters.LayerAttention(batch_size=4, factor=2)
    projected, matched = adapter(student, teacher)
    assert len(adapter.regressors) == len(matched) == 2
    assert projected[-1].shape == (4, 1, 2)
    assert [w.shape for w in adapter.queries[0].weights] == [(4, 4), (4,), (4, 2), (2,)]


def test_the_teachers_similarities_carry_no_gradient(random, gradient):
    student = [random.normal(size=(4, 2, 2, 3)).astype("float32")]
    teacher = random.normal(size=(4, 2, 2, 2)).astype("float32")
    adapter = mr.adapters.LayerAttention(batch_size=4, factor=1)
    adapter(student, [teacher])
    through_student = gradient(lambda maps: adapter([maps], [teacher])[0][-1], student[0])
    assert np.abs(through_student).max() > 0
    assert gradient(lambda maps: adapter(student, [maps])[0][-1], teacher) is None


def test_a_distiller_trains_it_with_a_last_batch_that_is_smaller(random):
    images, labels = random.normal(size=(10, 8, 8, 1)).astype("float32"), np.arange(10) % 3
    student, teacher = (
        mr.models.convnet(num_classes=3, widths=(4, width), input_shape=(8, 8, 1))
        for width in (4, 6)
    )
    knowledge = mr.Feature(
        mr.losses.SemCKD(),
        at=["stage1", "stage2"],
        adapter=mr.adapters.LayerAttention(batch_size=6, factor=1),
        weight=1.0,
    )
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = knowledge.adapter.get_weights()
    logs = distiller.fit(images, labels, batch_size=6, epochs=1, verbose=0).history
    assert 0 < logs["semckd"][0] < 1e3
    after = knowledge.adapter.get_weights()
    assert all(np.any(one != other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer. Received: batch_size=0"),
        ({"batch_size": 7}, "at least twice factor: .* Received: batch_size=7, factor=4"),
        ({"batch_size": 8.0}, "batch_size must be a positive integer. Received: batch_size=8.0"),
        ({"factor": 0}, "factor must be a positive integer. Received: factor=0"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.adapters.LayerAttention(**arguments)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((None, 4, 4, 3), (None, 4, 4, 3)),
        ([(None, 4, 4, 3)], (None, 4, 4, 3)),
        ([(None, 4, 4, 3)], [(None, 10)]),
        ([(None, None, None, 3)], [(None, 4, 4, 3)]),
        ([], [(None, 4, 4, 3)]),
    ],
    ids=str,
)
def test_features_that_are_no_lists_of_maps_are_refused(student, teacher):
    with pytest.raises(ValueError, match=r"LayerAttention needs lists of maps .*at=\['stage1'"):
        mr.adapters.LayerAttention().build(student, teacher)
