"""Tests of the metrics against loops in NumPy, over uneven batches and several replicas."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras import metrics
from tests.support.inputs.cases import assert_close


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def diversity_by_hand(logits):
    """Per sample: the mean over pairs of the distance of the probabilities."""
    values = []
    for sample in logits.astype("float64"):
        pairs = itertools.combinations([softmax(peer) for peer in sample], 2)
        values.append(np.mean([np.sqrt(((p - q) ** 2).sum()) for p, q in pairs]))
    return np.array(values)


def agreement_by_hand(logits):
    """Per sample: the share of pairs with the same top class."""
    values = []
    for sample in logits:
        tops = [int(np.argmax(peer)) for peer in sample]
        values.append(np.mean([float(a == b) for a, b in itertools.combinations(tops, 2)]))
    return np.array(values)


BY_HAND = {"peer_diversity": diversity_by_hand, "peer_agreement": agreement_by_hand}
CLASSES = {"peer_diversity": mr.metrics.PeerDiversity, "peer_agreement": mr.metrics.PeerAgreement}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("peers", [2, 5])
@pytest.mark.parametrize("name", CLASSES)
def test_peer_metrics_equal_a_loop_over_uneven_batches(name, peers, weighted, random):
    logits = random.normal(size=(11, peers, 4)).astype("float32") * 3
    weights = random.uniform(size=11) if weighted else np.ones(11)
    metric = CLASSES[name]()
    for part in (slice(0, 6), slice(6, 10), slice(10, 11)):
        metric.update_state(logits[part], weights[part] if weighted else None)
    expected = (weights * BY_HAND[name](logits)).sum() / weights.sum()
    assert_close(metric.result(), expected, atol=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_diversity_goes_from_zero_to_the_root_of_two():
    same = np.full((3, 4, 5), 7.0)
    apart = np.array([[[90.0, 0.0], [0.0, 90.0]]])
    metric = mr.metrics.PeerDiversity()
    metric.update_state(same)
    assert float(metric.result()) == 0.0
    metric.reset_state()
    metric.update_state(apart)
    assert_close(metric.result(), np.sqrt(2.0))


def test_agreement_with_the_teacher_equals_a_loop(random):
    teacher, student = random.normal(size=(2, 23, 3)).astype("float32")
    metric = mr.metrics.Agreement()
    for part in (slice(0, 16), slice(16, 23)):
        metric.update_state(teacher[part], student[part])
    expected = [t.argmax() == s.argmax() for t, s in zip(teacher, student, strict=True)]
    assert_close(metric.result(), np.mean(expected))


def test_agreement_of_positions_leaves_out_masked_ones():
    teacher = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    student = tf.constant([[[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]])
    metric = mr.metrics.Agreement()
    metric.update_state(teacher, student)
    assert_close(metric.result(), 1 / 3)
    metric.reset_state()
    metric.update_state(teacher, student, sample_weight=np.array([[1.0, 1.0, 0.0]]))
    assert_close(metric.result(), 1 / 2)
    metric.reset_state()
    student._keras_mask = tf.constant([[True, False, False]])
    metric.update_state(teacher, student)
    assert_close(metric.result(), 1.0)


def test_agreement_is_a_metric_to_compile_with(random):
    inputs = random.normal(size=(9, 4)).astype("float32")
    teacher = random.normal(size=(9, 3)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(loss=mr.losses.KD(), metrics=[mr.metrics.Agreement()])
    logs = model.evaluate(inputs, teacher, batch_size=4, verbose=0, return_dict=True)
    student = model.predict(inputs, verbose=0)
    assert_close(logs["agreement"], (student.argmax(-1) == teacher.argmax(-1)).mean())


@pytest.mark.parametrize("metric", metrics.__all__)
def test_metrics_are_rebuilt_from_their_config(metric, round_trip):
    original = getattr(metrics, metric)(name="another")
    rebuilt = round_trip(original)
    assert type(rebuilt) is type(original)
    assert rebuilt.get_config() == original.get_config()
    assert original.get_config() == {"name": "another", "dtype": "float32", "kind": "classes"}
    assert getattr(metrics, metric)().name == original.identifier


@pytest.mark.usefixtures("mixed_bfloat16")
def test_state_is_float32_under_a_policy_of_low_precision(random):
    logits = random.normal(size=(300, 3, 4)).astype("float32")
    for name, metric in ((name, cls()) for name, cls in CLASSES.items()):
        metric.update_state(tf.cast(logits, "bfloat16"))
        assert {variable.dtype for variable in metric.variables} == {"float32"}
        rounded = tf.cast(tf.cast(logits, "bfloat16"), "float32").numpy()
        assert_close(metric.result(), BY_HAND[name](rounded).mean(), atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_peer_metrics_count_the_samples_of_two_replicas_once(name, two_replicas, random):
    logits = random.normal(size=(7, 3, 4)).astype("float32")
    with two_replicas.scope():
        metric = CLASSES[name]()
    parts = two_replicas.experimental_distribute_values_from_function(
        lambda context: tf.constant([logits[:5], logits[5:]][context.replica_id_in_sync_group])
    )
    two_replicas.run(metric.update_state, args=(parts,))
    assert_close(metric.result(), BY_HAND[name](logits).mean())


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 3)])
@pytest.mark.parametrize("name", CLASSES)
def test_peer_metrics_refuse_what_is_not_a_group(name, shape):
    with pytest.raises(ValueError, match=r"at least two peers. Received: logits of shape"):
        CLASSES[name]().update_state(np.ones(shape))


@pytest.mark.parametrize("shapes", [((4,), (4, 3)), ((4, 3), (4, 2)), ((4, 1), (4, 1))])
def test_agreement_refuses_what_is_not_two_vectors_of_logits(shapes):
    with pytest.raises(ValueError, match=r"of equal shape with at least two classes. Received"):
        metrics.same_answer(*map(np.ones, shapes))
