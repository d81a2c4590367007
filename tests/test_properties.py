"""Properties of losses, aggregators, schedules and constructors, over drawn shapes and numbers."""

import aggregator_inputs
import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_close, changed, normal, with_labels
from hypothesis import given, settings
from hypothesis import strategies as st

import modreduce_keras as mr
from modreduce_keras import knobs
from modreduce_keras.registry import components

# The same examples in every run, and few: every property runs for every loss or aggregator.
few = settings(deadline=None, max_examples=7, derandomize=True, database=None)
some = settings(few, max_examples=20)

DTYPES = ["float16", "bfloat16", "float32", "float64"]
RESPONSES = [n for n, cls in components("loss").items() if cls.example_shapes == ((10,), (10,))]
OF_PLAIN_NUMBERS = ("logit_mse", "logit_l1")
SYMMETRIC = ["mean", "leave_one_out_mean", "mutual", "weighted_average", "kdcl"]

every_response = pytest.mark.parametrize("identifier", RESPONSES)
batches, classes = st.integers(1, 5), st.integers(2, 9)
seeds = st.integers(0, 2**16)


@st.composite
def sides_of_logits(draw, largest=20.0):
    """Draws a teacher's and a student's logits, and labels, for any number of positions."""
    random = np.random.default_rng(draw(seeds))
    positions = draw(st.sampled_from([(), (), (1,), (3,), (2, 2)]))
    shape = (draw(batches), *positions, draw(classes))
    size = draw(st.floats(0.1, largest))
    teacher, student = (
        (size * random.normal(size=shape)).astype("float32") for _ in ("teacher", "student")
    )
    return teacher, student, random.integers(shape[-1], size=shape[:-1])


def fitting(identifier, sides):
    """Returns the sides as a loss takes them: positions count as samples where it has none."""
    if identifier != "multi_level":
        return sides
    teacher, student, labels = sides
    flat = (-1, student.shape[-1])
    return teacher.reshape(flat), student.reshape(flat), labels.reshape(-1)


def called(loss, teacher, student, labels):
    """Returns the values per sample of a loss on logits, given what it takes."""
    y_true = labels if loss.needs_labels and not loss.needs_teacher else teacher
    if loss.needs_labels and loss.needs_teacher:
        y_true = {"teacher": teacher, "labels": labels}
    return np.asarray(loss.call(y_true, student))


# Losses on logits


@every_response
@few
@given(sides=sides_of_logits(), dtype=st.sampled_from(DTYPES))
def test_a_response_loss_gives_a_finite_float32_value_for_each_sample(identifier, sides, dtype):
    teacher, student, labels = fitting(identifier, sides)
    low = [tf.cast(side, dtype) for side in (teacher, student)]
    values = called(mr.losses.get(identifier), *low, labels)
    assert values.shape == (len(labels),)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


@every_response
@few
@given(sides=sides_of_logits(), seed=seeds)
def test_a_response_loss_knows_no_order_of_samples_and_classes(identifier, sides, seed):
    teacher, student, labels = fitting(identifier, sides)
    loss, random = mr.losses.get(identifier), np.random.default_rng(seed)
    values = called(loss, teacher, student, labels)
    samples = random.permutation(len(labels))
    permuted = called(loss, teacher[samples], student[samples], labels[samples])
    assert_close(permuted, values[samples], rtol=1e-4, atol=1e-5)
    order = random.permutation(student.shape[-1])
    renamed = called(loss, teacher[..., order], student[..., order], np.argsort(order)[labels])
    assert_close(renamed, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("identifier", [n for n in RESPONSES if n not in OF_PLAIN_NUMBERS])
@few
@given(sides=sides_of_logits(largest=5.0), seed=seeds)
def test_a_loss_on_probabilities_does_not_see_a_constant_in_the_logits(identifier, sides, seed):
    teacher, student, labels = fitting(identifier, sides)
    random = np.random.default_rng(seed)
    constants = [random.integers(-8, 8, size=(*labels.shape, 1)) for _ in range(2)]
    loss = mr.losses.get(identifier)
    moved = called(loss, teacher + constants[0], student + constants[1], labels)
    assert_close(moved, called(loss, teacher, student, labels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "identifier", [n for n in RESPONSES if components("loss")[n].zero_at_teacher]
)
@few
@given(sides=sides_of_logits())
def test_a_response_loss_is_zero_at_the_teacher(identifier, sides):
    _, student, labels = fitting(identifier, sides)
    values = called(mr.losses.get(identifier), student, student, labels)
    assert_close(values, np.zeros(len(labels)), atol=1e-4)


@every_response
@few
@given(sides=sides_of_logits(), seed=seeds)
def test_what_a_mask_leaves_out_does_not_count(identifier, sides, seed):
    teacher, student, labels = fitting(identifier, sides)
    random = np.random.default_rng(seed)
    mask = random.integers(2, size=labels.shape).astype("bool")
    loss = mr.losses.get(identifier)

    def masked(teacher, student, labels):
        given = {"mask": mask}
        given |= {"teacher": teacher} if loss.needs_teacher else {}
        given |= {"labels": labels} if loss.needs_labels else {}
        return loss.call(given, student)

    hidden = np.where(mask[..., None], student, np.inf), np.where(mask, labels, 255)
    elsewhere = masked(np.where(mask[..., None], teacher, np.nan), *hidden)
    assert_close(elsewhere, masked(teacher, student, labels))


@some
@given(sides=sides_of_logits(), temperature=st.floats(0.5, 20.0))
def test_kd_equals_its_equation(sides, temperature):
    teacher, student, _ = sides

    def log_softmax(logits):
        logits = logits.astype("float64") / temperature
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    target, own = log_softmax(teacher), log_softmax(student)
    expected = temperature**2 * (np.exp(target) * (target - own)).sum(axis=-1)
    expected = expected.reshape(len(teacher), -1).mean(axis=1)
    values = mr.losses.KD(temperature=temperature).call(teacher, student)
    assert_close(values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("identifier", [n for n in components("loss") if n not in RESPONSES])
@settings(few, max_examples=4)
@given(batch=st.integers(1, 7), dtype=st.sampled_from(DTYPES), seed=seeds)
def test_a_loss_takes_any_batch_of_any_dtype(identifier, batch, dtype, seed):
    loss, random = mr.losses.get(identifier), np.random.default_rng(seed)
    teacher, student = (normal(shape, batch, random) for shape in loss.example_shapes)
    teacher, student = (changed(lambda t: tf.cast(t, dtype), side) for side in (teacher, student))
    values = np.asarray(loss.call(with_labels(loss, teacher), student))
    assert values.shape == (batch,)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


@few
@given(
    labels=st.lists(st.integers(-3, 12), min_size=1, max_size=6),
    number=classes,
    identifier=st.sampled_from(["dkd", "nkd", "teacher_free"]),
)
def test_a_label_is_used_or_refused_and_in_a_graph_a_nan(labels, number, identifier):
    loss, labels = mr.losses.get(identifier), np.array(labels)
    logits = np.random.default_rng(0).normal(size=(2, len(labels), number)).astype("float32")
    wrong = (labels < 0) | (labels >= number)
    if wrong.any():
        with pytest.raises(ValueError, match=f"class indices from 0 to {number - 1}. Received"):
            called(loss, *logits, labels)
    y_true = {"teacher": logits[0], "labels": labels} if loss.needs_teacher else labels
    values = tf.function(loss.call, autograph=False)(
        keras.tree.map_structure(tf.convert_to_tensor, y_true), logits[1]
    )
    np.testing.assert_array_equal(np.isnan(values), wrong)


# Aggregators


@st.composite
def groups(draw, identifier):
    """Draws an aggregator with the logits of any number of peers, and what else it needs."""
    aggregator = mr.aggregators.get(identifier)
    number = draw(st.integers(aggregator.least_peers, 6))
    random = np.random.default_rng(draw(seeds))
    sizes = {"batch": draw(batches), "classes": draw(classes)}
    logits = aggregator_inputs.some_logits(number, random, **sizes)
    return aggregator, logits, aggregator_inputs.needed(aggregator, number, random, **sizes)


def targets_of(result):
    """Returns targets of one source or several, (batch, peers, sources, classes), and weights."""
    targets = np.asarray(result["targets"])
    if targets.ndim == 4:
        return targets, np.asarray(result["source_weights"])
    return targets[:, :, None], np.ones((targets.shape[1], 1))


@pytest.mark.parametrize("identifier", components("aggregator"))
@few
@given(data=st.data())
def test_an_aggregator_gives_each_peer_a_target_for_each_sample(identifier, data):
    aggregator, logits, given = data.draw(groups(identifier))
    result = aggregator(logits, **given)
    targets, weights = targets_of(result)
    batch, peers, number = logits.shape
    assert (*targets.shape[:2], targets.shape[3]) == (batch, peers, number)
    assert weights.shape == (peers, targets.shape[2])
    assert np.isfinite(targets).all()
    if "ensemble" in result:
        assert tuple(result["ensemble"].shape) == (batch, number)
    order = np.random.default_rng(batch).permutation(batch)
    permuted = aggregator(logits[order], **aggregator_inputs.rows(given, order))
    assert_close(targets_of(permuted)[0], targets[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("identifier", SYMMETRIC)
@few
@given(data=st.data(), seed=seeds)
def test_permuted_peers_have_permuted_targets(identifier, data, seed):
    aggregator, logits, given = data.draw(groups(identifier))
    order = np.random.default_rng(seed).permutation(logits.shape[1])
    targets, weights = targets_of(aggregator(logits, **given))
    permuted, own = targets_of(aggregator(logits[:, order], **given))
    if targets.shape[2] == 1:
        assert_close(permuted, targets[:, order], rtol=1e-4, atol=1e-4)
        return
    assert_close(permuted, targets[:, order][:, :, order])
    assert_close(own, weights[order][:, order])


@some
@given(data=st.data())
def test_means_of_peers_equal_those_of_numpy(data):
    _, logits, _ = data.draw(groups("mean"))
    exact, peers = logits.astype("float64"), logits.shape[1]
    mean = mr.aggregators.Mean()(logits)
    others = mr.aggregators.LeaveOneOutMean()(logits)
    for peer in range(peers):
        without = exact[:, [other for other in range(peers) if other != peer]]
        assert_close(mean["targets"][:, peer], exact.mean(axis=1))
        assert_close(others["targets"][:, peer], without.mean(axis=1))


# Schedules


numbers = st.floats(-100.0, 100.0, width=32)
lengths = st.integers(1, 10_000)


@st.composite
def schedules(draw):
    """Draws a schedule between two values, and those."""
    start, end, steps = draw(numbers), draw(numbers), draw(lengths)
    kind = draw(st.sampled_from(["linear", "cosine", "sigmoid_ramp_up", "cut_off", "exponential"]))
    if kind == "sigmoid_ramp_up":
        return mr.schedules.SigmoidRampUp(end, steps=steps), 0.0, end
    if kind == "cut_off":
        return mr.schedules.CutOff(end, steps=steps, before=start), start, end
    if kind == "exponential":
        start, end = abs(start) + 0.01, abs(end) + 0.01
        stairs = draw(st.one_of(st.none(), st.integers(1, 30)))
        return mr.schedules.Exponential(start, end, steps=steps, stairs=stairs), start, end
    return mr.schedules.get(kind, start=start, end=end, steps=steps), start, end


@some
@given(drawn=schedules(), part=st.floats(0.0, 3.0))
def test_a_schedule_stays_between_its_ends_and_survives_its_config(drawn, part):
    schedule, start, end = drawn
    low, high = min(start, end), max(start, end)
    margin = 1e-4 * max(1.0, abs(low), abs(high))
    value = float(schedule(part * schedule.steps))
    assert low - margin <= value <= high + margin
    assert float(schedule(2.0 * schedule.steps)) == pytest.approx(end, abs=margin)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    assert float(again(part * schedule.steps)) == value
    # What a knob looks at are the smallest and the largest value.
    seen = [float(schedule(step)) for step in schedule.landmarks()]
    assert min(seen) - margin <= value <= max(seen) + margin


@some
@given(
    boundaries=st.lists(st.integers(0, 1000), unique=True, max_size=5).map(sorted),
    seed=seeds,
    step=st.integers(0, 1200),
)
def test_piecewise_gives_the_value_of_the_last_boundary_passed(boundaries, seed, step):
    values = np.random.default_rng(seed).normal(size=len(boundaries) + 1).tolist()
    schedule = mr.schedules.Piecewise(boundaries, values)
    expected = values[sum(step >= boundary for boundary in boundaries)]
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)
    assert {float(schedule(one)) for one in schedule.landmarks()} <= {*map(np.float32, values)}


# Constructors


KNOBS = [
    (n, k) for n, cls in components("loss").items() for k in knobs.declared(object.__new__(cls))
]
wrong_numbers = st.one_of(
    st.floats(max_value=-1e-30, allow_infinity=True),
    st.sampled_from([np.nan, np.inf, True, False, None, "1.0", "half", [1.0], {}, 1j, object()]),
)
no_positive_integers = st.one_of(
    st.integers(max_value=0),
    st.floats(),
    st.sampled_from([True, "3", [3], (), object()]),
)
INTEGERS = [
    (mr.adapters.ContrastiveMemory, "samples", {}),
    (mr.adapters.ContrastiveMemory, "negatives", {"samples": 10}),
    (mr.adapters.get("contrastive_queue").__class__, "units", {}),
    (mr.aggregators.OKDDip, "units", {}),
    (mr.aggregators.get("codistillation").__class__, "refresh", {}),
    (mr.models.convnet, "num_classes", {}),
    (mr.callbacks.Resume, "keep", {"directory": "run"}),
    (mr.callbacks.PeerMonitor, "every", {"data": np.ones((2, 3))}),
]


@pytest.mark.parametrize(("identifier", "name"), KNOBS)
@few
@given(value=wrong_numbers)
def test_a_number_that_makes_no_sense_is_refused_by_name(identifier, name, value):
    with pytest.raises((ValueError, TypeError), match=rf"{name}\b"):
        mr.losses.get(identifier, **{name: value})


@few
@given(value=wrong_numbers.filter(lambda value: value is not None))
def test_a_weight_that_makes_no_sense_is_refused_by_name(value):
    with pytest.raises((ValueError, TypeError), match=r"weight\b"):
        mr.Response("kd", weight=value)


@pytest.mark.parametrize(("make", "name", "others"), INTEGERS)
@few
@given(value=no_positive_integers)
def test_what_is_no_positive_integer_is_refused_by_name(make, name, others, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*Received: {name}="):
        make(**others, **{name: value})


@pytest.mark.parametrize("name", ["start", "end", "steps"])
@few
@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf, True, None, "1", [1.0], 1j, object()]),
    kind=st.sampled_from(["linear", "cosine", "exponential"]),
)
def test_what_is_no_number_makes_no_schedule(name, value, kind):
    arguments = {"start": 1.0, "end": 2.0, "steps": 10, name: value}
    with pytest.raises(ValueError, match=rf"{name} must be .*Received: .*{name}="):
        mr.schedules.get(kind, **arguments)


positive = st.floats(2.0**-10, 1e4, width=32)


@some
@given(
    temperature=positive,
    weight=st.floats(0.0, 1e4, width=32),
    standardize=st.booleans(),
    average=st.sampled_from([None, "probabilities", "logits"]),
    teacher_weights=st.one_of(st.none(), st.lists(positive, min_size=1, max_size=4)),
    ignore_class=st.one_of(st.none(), st.integers(-2, 255)),
)
def test_a_response_survives_its_config(temperature, weight, standardize, **arguments):
    loss = mr.losses.KD(temperature=temperature, standardize=standardize)
    knowledge = mr.Response(loss, weight=weight, **arguments)
    config = keras.saving.serialize_keras_object(knowledge)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == knowledge.get_config()
    assert keras.saving.serialize_keras_object(again) == config
    assert float(again.weight) == np.float32(weight)
    assert float(again.loss.temperature) == np.float32(temperature)


@settings(few, max_examples=4)
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    number=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 17), st.integers(1, 17), st.integers(1, 3)),
)
def test_a_network_of_any_size_gives_logits_and_its_taps(widths, number, shape):
    model = mr.models.convnet(num_classes=number, widths=widths, input_shape=shape)
    assert model.output_shape == (None, number)
    assert model.get_layer("embedding").output.shape == (None, widths[-1])
    stages = [layer.name for layer in model.layers if layer.name.startswith("stage")]
    assert stages[-1] == f"stage{len(widths)}"


# A step, and the data


def dense(number, name):
    inputs = keras.Input((3,))
    embedding = keras.layers.Dense(2, name="embedding")(inputs)
    return keras.Model(inputs, keras.layers.Dense(number)(embedding), name=name)


@settings(few, max_examples=5)
@given(
    peers=st.integers(2, 5),
    batch=batches,
    number=classes,
    aggregator=st.sampled_from(SYMMETRIC),
    weight=st.floats(0.0, 3.0, width=32),
)
def test_the_loss_of_a_step_is_the_weighted_sum_of_its_terms(
    peers, batch, number, aggregator, weight
):
    random = np.random.default_rng(batch)
    students = [dense(number, f"peer{peer}") for peer in range(peers)]
    distiller = mr.PeerDistiller(students, aggregator=aggregator, online_weight=weight)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, run_eagerly=True)
    x = random.normal(size=(batch, 3)).astype("float32")
    y = random.integers(number, size=batch)
    logs = distiller.train_on_batch(x, y, return_dict=True)
    weights = {name: float(value) for name, value in distiller.term_weights().items()}
    expected = sum(value * logs[name] for name, value in weights.items())
    assert float(logs["loss"]) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    assert len(weights) == 2 * peers + distiller.aggregator.learns


@settings(few, max_examples=6)
@given(
    samples=st.integers(1, 30),
    seed=st.integers(0, 2**63 - 1),
    buffer_size=st.one_of(st.none(), st.integers(1, 40)),
)
def test_each_epoch_has_every_sample_once_with_its_own_index(samples, seed, buffer_size):
    dataset = mr.data.with_index(tf.data.Dataset.range(samples))

    def epochs():
        shuffled = mr.data.epoch_shuffle(dataset, seed=seed, buffer_size=buffer_size)
        return [
            [int(x["inputs"]) for x in shuffled if x["inputs"] == x["sample_index"]] for _ in "ab"
        ]

    first = epochs()
    assert all(sorted(epoch) == list(range(samples)) for epoch in first)
    assert first == epochs()
