"""The contrastive queue: log ratios by NumPy, what enters and leaves, saving and errors."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.adapters import ContrastiveQueue


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def small(**arguments):
    adapter = ContrastiveQueue(**{"negatives": 4, "units": 3, "temperature": 0.5, **arguments})
    adapter.build((None, 5), (None, 6))
    return adapter


@pytest.fixture
def pair(random):
    return [random.normal(size=(3, width)).astype("float32") for width in (5, 6)]


def embeddings(adapter, pair):
    weights = adapter.embedding.get_weights()
    return [unit(side @ weights[2 * i] + weights[2 * i + 1]) for i, side in enumerate(pair)]


def candidates(adapter, others, queue, row):
    """Returns the positive and the negatives of a row, one by one."""
    if adapter.negatives:
        return [others[row], *queue.numpy()]
    return [others[row], *(others[(row + step) % len(others)] for step in (1, 2))]


@pytest.mark.parametrize("negatives", [None, 4])
@pytest.mark.parametrize("variant", ["paper", "reference"])
@pytest.mark.parametrize("training", [False, True])
def test_log_ratios_equal_numpy(negatives, variant, training, pair):
    adapter = small(negatives=negatives, variant=variant)
    both = embeddings(adapter, pair)
    queues = [adapter.teacher_queue, adapter.student_queue] if negatives else [None, None]
    n = 1 + negatives if negatives else 3
    expected = []
    for anchors, others, queue in zip(both, both[::-1], queues, strict=True):
        products = [
            [anchor @ other / 0.5 for other in candidates(adapter, others, queue, row)]
            for row, anchor in enumerate(anchors)
        ]
        z = n * np.mean(np.exp(products)) if variant == "reference" else 1.0
        expected.append(np.array(products) - np.log(z) + np.log(n))
    for side, values in zip(adapter(*pair, training=training), expected, strict=True):
        np.testing.assert_allclose(side, values, rtol=1e-5, atol=1e-5)


def test_the_newest_embeddings_enter_and_the_oldest_leave(pair):
    adapter = small()
    start = [queue.numpy() for queue in (adapter.student_queue, adapter.teacher_queue)]
    new = embeddings(adapter, pair)
    adapter(*pair)
    for queue, old in zip((adapter.student_queue, adapter.teacher_queue), start, strict=True):
        np.testing.assert_array_equal(queue, old)
    adapter(*pair, training=True)
    for i, queue in enumerate((adapter.student_queue, adapter.teacher_queue)):
        np.testing.assert_allclose(queue, [start[i][3], *new[i]], atol=1e-6)


def test_a_batch_larger_than_the_queue_leaves_its_newest(pair):
    adapter = small(negatives=2)
    adapter(*pair, training=True)
    for new, queue in zip(
        embeddings(adapter, pair), (adapter.student_queue, adapter.teacher_queue), strict=True
    ):
        np.testing.assert_allclose(queue, new[1:], atol=1e-6)


def test_the_queue_starts_with_random_unit_vectors():
    adapter = small(negatives=500)
    queues = adapter.student_queue.numpy(), adapter.teacher_queue.numpy()
    for queue in queues:
        np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1.0, atol=1e-5)
        assert np.abs(queue.mean(axis=0)).max() < 0.15
    assert np.abs(queues[0] - queues[1]).max() > 0.5


@pytest.mark.parametrize("negatives", [None, 4])
def test_a_batch_of_one_gives_a_finite_loss(negatives, pair):
    ratios = small(negatives=negatives)(*(side[:1] for side in pair), training=True)
    assert ratios[0].shape == (1, 1 + (negatives or 0))
    assert np.isfinite(mr.losses.CRD().call(*ratios)).all()


@pytest.mark.parametrize("negatives", [None, 4])
def test_each_direction_trains_its_own_side_only(negatives, pair):
    adapter = small(negatives=negatives)
    weights = [weight.value for weight in adapter.trainable_weights]
    with tf.GradientTape(persistent=True) as tape:
        positives = [side[:, 0] for side in adapter(*pair, training=True)]
    for positive, own in zip(positives, (weights[:2], weights[2:]), strict=True):
        gradients = tape.gradient(positive, weights)
        assert [g is not None for g in gradients] == [any(w is v for v in own) for w in weights]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_queues_and_ratios_are_float32_under_every_policy(policy, pair):
    adapter = small(dtype=policy)
    assert {side.dtype for side in adapter(*pair, training=True)} == {tf.float32}
    state = adapter.student_queue, adapter.teacher_queue, adapter.log_normalizers
    assert {variable.dtype for variable in state} == {"float32"}


def test_a_compiled_step_of_any_batch_fills_the_queue(pair):
    adapter = small()

    @tf.function(
        input_signature=[tf.TensorSpec((None, 5)), tf.TensorSpec((None, 6))],
    )
    def step(student, teacher):
        return mr.losses.CRD().call(*adapter(student, teacher, training=True))

    for batch in (3, 1):
        assert step(*(side[:batch] for side in pair)).shape == (batch,)
    new = embeddings(adapter, pair)[0]
    np.testing.assert_allclose(adapter.student_queue, [*new, new[0]], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"negatives": 0}, "negatives must be None or a positive integer. Received: negatives=0"),
        ({"units": 0}, "units must be a positive integer. Received: units=0"),
        ({"temperature": -1}, "temperature must be a positive number. Received: temperature=-1"),
        ({"variant": "b"}, r"variant must be one of \['paper', 'reference'\]. Received: variant"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveQueue(**arguments)


def test_config_gives_every_argument():
    arguments = {"negatives": 7, "units": 4, "temperature": 0.2, "variant": "paper"}
    config = ContrastiveQueue(**arguments).get_config()
    assert {name: config[name] for name in arguments} == arguments
