"""What holds for every registered loss, adapter, aggregator and schedule, over the registry."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras import knobs
from modreduce_keras.registry import components

BATCH = 6
every_loss = pytest.mark.parametrize("identifier", components("loss"))
every_aggregator = pytest.mark.parametrize("identifier", components("aggregator"))
every_schedule = pytest.mark.parametrize("identifier", components("schedule"))
every_adapter = pytest.mark.parametrize(
    ("identifier", "shapes"),
    [(name, shapes) for name, a in components("adapter").items() for shapes in a.example_shapes],
)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# Losses


def normal(shape, batch, random):
    """Returns one tensor, or for a list of shapes a list of tensors, as a loss compares them."""
    if all(isinstance(size, int) for size in shape):
        return random.normal(size=(batch, *shape)).astype("float32")
    return [normal(one, batch, random) for one in shape]


def example(loss, random, batch=BATCH):
    """Returns what a loss is called with: the teacher's side and the student's."""
    teacher, student = (normal(shape, batch, random) for shape in loss.example_shapes)
    return with_labels(loss, teacher), student


def with_labels(loss, teacher):
    first = keras.tree.flatten(teacher)[0]
    # One label for each position that has logits of its own.
    labels = np.arange(first.shape[0]) % 2
    if not loss.needs_labels:
        return teacher
    return {"teacher": teacher, "labels": labels} if loss.needs_teacher else labels


def counterpart(loss, student):
    """Returns a teacher that equals the student."""
    if not loss.student_extras:
        return student
    kept = student[: -loss.student_extras]
    return kept if isinstance(loss.example_shapes[0], list) else kept[0]


def changed(function, side):
    """Applies a function to all tensors but the labels."""
    if isinstance(side, dict):
        return {**side, "teacher": changed(function, side["teacher"])}
    if "int" in str(getattr(side, "dtype", "")):
        return side
    return keras.tree.map_structure(function, side)


def taken(rows, sides):
    """Returns some samples of the batch, labels included."""
    return keras.tree.map_structure(lambda values: values[rows], sides)


def value_and_gradients(loss, teacher, student):
    """Returns the values per sample and the gradients of their sum: to the student, the teacher."""
    teacher, student = (changed(tf.convert_to_tensor, side) for side in (teacher, student))
    constant = teacher["teacher"] if isinstance(teacher, dict) else teacher
    if not loss.needs_teacher:
        # The labels alone, which have no gradient.
        constant = []
    with tf.GradientTape() as tape:
        tape.watch([constant, student])
        values = loss.call(teacher, student)
    gradients = tape.gradient(values, [student, constant])
    return values.numpy(), *(keras.tree.flatten(gradient) for gradient in gradients)


@every_loss
def test_loss_survives_its_config(identifier, round_trip, random):
    loss = mr.losses.get(identifier, name="renamed", reduction="sum")
    again = round_trip(loss)
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert (again.name, again.reduction) == ("renamed", "sum")
    teacher, student = example(loss, random)
    np.testing.assert_array_equal(again.call(teacher, student), loss.call(teacher, student))


@every_loss
def test_loss_gives_one_float32_value_per_sample_whose_mean_is_the_loss(identifier, random):
    loss = mr.losses.get(identifier)
    teacher, student = example(loss, random)
    values = loss.call(teacher, student)
    assert tuple(values.shape) == (BATCH,)
    assert values.dtype == tf.float32
    assert_close(loss(teacher, student), np.mean(values))


@every_loss
def test_sample_weights_multiply_the_values_of_a_loss(identifier, random):
    loss = mr.losses.get(identifier)
    teacher, student = example(loss, random)
    weights = np.arange(BATCH, dtype="float32")
    expected = np.mean(weights * loss.call(teacher, student))
    assert_close(loss(teacher, student, sample_weight=weights), expected)


@pytest.mark.parametrize(
    "identifier", [name for name, cls in components("loss").items() if cls.zero_at_teacher]
)
def test_loss_is_zero_and_flat_where_the_student_equals_the_teacher(identifier, random):
    loss = mr.losses.get(identifier)
    _, student = example(loss, random)
    teacher = with_labels(loss, counterpart(loss, student))
    values, gradients, _ = value_and_gradients(loss, teacher, student)
    assert_close(values, np.zeros(BATCH))
    for gradient in gradients:
        assert_close(gradient, np.zeros(gradient.shape), atol=1e-5)


@every_loss
def test_loss_moves_the_student_and_never_the_teacher(identifier, random):
    loss = mr.losses.get(identifier)
    _, to_student, to_teacher = value_and_gradients(loss, *example(loss, random))
    assert all(1e-6 < np.abs(gradient).max() < 1e3 for gradient in to_student)
    if not loss.teacher_learns:
        assert all(gradient is None or not np.any(gradient) for gradient in to_teacher)
    elif loss.needs_teacher:
        assert all(1e-6 < np.abs(gradient).max() < 1e3 for gradient in to_teacher)


@every_loss
@pytest.mark.parametrize("size", [50.0, 500.0])
def test_loss_stays_in_range_for_large_inputs(identifier, size, random):
    loss = mr.losses.get(identifier)
    teacher, features = example(loss, random)
    sides = [changed(lambda t: t * size, side) for side in (teacher, features)]
    if loss.student_extras:
        # What an adapter adds, such as a log variance, does not grow with the features.
        sides[1][-loss.student_extras :] = features[-loss.student_extras :]
    values, gradients, _ = value_and_gradients(loss, *sides)
    # At most with the square of the inputs; FSP multiplies features before it squares.
    power = 4 if identifier == "fsp" else 2
    assert (np.abs(values) < 1e3 * size**power).all()
    # The entropy of the student alone vanishes where it is sure, LSP's kernel where all are far.
    vanishes = identifier == "lsp" or not loss.needs_teacher
    assert np.abs(values).max() > 1e-5 or vanishes
    assert all(np.abs(gradient).max() < 1e3 * size ** (power - 1) for gradient in gradients)


@every_loss
def test_loss_takes_a_batch_of_one(identifier, random):
    loss = mr.losses.get(identifier)
    values, gradients, _ = value_and_gradients(loss, *example(loss, random, batch=1))
    assert values.shape == (1,)
    # Rewards and densities alone may be negative: the others measure a distance.
    assert (0.0 if loss.zero_at_teacher else -1e3) <= values[0] < 1e3
    assert all(np.abs(gradient).max() < 1e3 for gradient in gradients)


@every_loss
def test_permuting_the_batch_permutes_the_values_of_a_loss(identifier, random):
    loss = mr.losses.get(identifier)
    sides, order = example(loss, random), random.permutation(BATCH)
    assert_close(loss.call(*taken(order, sides)), loss.call(*sides).numpy()[order])


@every_loss
@pytest.mark.parametrize(
    "degenerate",
    [
        lambda t: np.repeat(t[::2], 2, axis=0),
        lambda t: np.repeat(t[:1], BATCH, axis=0),
        np.zeros_like,
        lambda t: np.concatenate([np.zeros_like(t[:1]), t[1:]]),
    ],
    ids=["duplicated rows", "all rows equal", "all zero", "one row zero"],
)
def test_loss_has_bounded_gradients_where_samples_coincide(identifier, degenerate, random):
    loss = mr.losses.get(identifier)
    teacher, student = example(loss, random)
    for sides in ((teacher, changed(degenerate, student)), (changed(degenerate, teacher), student)):
        values, gradients, _ = value_and_gradients(loss, *sides)
        assert (np.abs(values) < 1e3).all()
        assert all(np.abs(gradient).max() < 1e3 for gradient in gradients)


@every_loss
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_loss_computes_in_float32_whatever_it_is_given(identifier, dtype, random):
    loss = mr.losses.get(identifier)
    low = [changed(lambda t: tf.cast(t, dtype), side) for side in example(loss, random)]
    exact = [changed(lambda t: tf.cast(t, "float32"), side) for side in low]
    values = loss.call(*low)
    assert values.dtype == tf.float32
    assert_close(values, loss.call(*exact), rtol=1e-6, atol=0)


@every_loss
@pytest.mark.usefixtures("mixed_bfloat16")
def test_loss_is_float32_under_a_policy_of_low_precision(identifier, random):
    loss = mr.losses.get(identifier)
    teacher, student = example(loss, random)
    value = loss(teacher, student)
    assert value.dtype == tf.float32
    assert_close(value, np.mean(loss.call(teacher, student)))


@every_loss
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_loss_equals_the_eager_one(identifier, jit_compile, random):
    loss = mr.losses.get(identifier)
    sides = [changed(tf.convert_to_tensor, side) for side in example(loss, random)]
    compiled = tf.function(loss.call, jit_compile=jit_compile)
    assert_close(compiled(*sides), loss.call(*sides))


@every_loss
def test_each_replica_computes_the_values_of_its_half(identifier, two_replicas, random):
    with two_replicas.scope():
        loss = mr.losses.get(identifier)
    sides = example(loss, random)
    halves = [taken(slice(half, None, 2), sides) for half in range(2)]

    @tf.function
    def replicated():
        def on_replica():
            here = tf.distribute.get_replica_context().replica_id_in_sync_group
            return loss.call(*keras.tree.map_structure(lambda *both: tf.stack(both)[here], *halves))

        return two_replicas.experimental_local_results(two_replicas.run(on_replica))

    results = replicated()
    assert len(results) == 2
    for values, half in zip(results, halves, strict=True):
        assert_close(values, loss.call(*half))


# Adapters


def new_adapter(identifier, **arguments):
    """Returns an adapter, and has it adopt two small models that end in a classifier."""
    adapter = mr.adapters.get(identifier, **components("adapter")[identifier].example_arguments)
    adapter = type(adapter).from_config({**adapter.get_config(), **arguments})
    adopt(adapter, ADOPTED)
    return adapter


def adopt(adapter, widths):
    # Named as every network of ours; wide enough for what the example shapes of adapters need.
    networks = [mr.models.get("convnet", num_classes=5, widths=(4, width)) for width in widths]
    adapter.adopt(*networks)


ADOPTED = (6, 8)


def adapted(adapter, pair, training=None):
    """Returns what an adapter makes of (student, teacher): a flat list for each side."""
    index = {"index": np.arange(BATCH)} if adapter.needs_index else {}
    outputs = adapter(*pair, training=training, **index)
    return [keras.tree.flatten(side) for side in outputs]


def example_pair(shapes, random):
    return [normal(shape, BATCH, random) for shape in shapes]


def with_batch(shapes):
    if all(isinstance(size, int) for size in shapes):
        return (None, *shapes)
    return [with_batch(shape) for shape in shapes]


@every_adapter
def test_adapter_survives_its_config(identifier, shapes, round_trip, random):
    adapter = new_adapter(identifier, name="renamed")
    again = round_trip(adapter)
    assert type(again) is type(adapter)
    assert again.get_config() == adapter.get_config()
    pair = example_pair(shapes, random)
    keras.utils.set_random_seed(0)
    adopt(again, ADOPTED)
    keras.utils.set_random_seed(0)
    adopt(adapter, ADOPTED)
    adapted(adapter, pair)
    adapted(again, pair)
    again.set_weights(adapter.get_weights())
    for ours, theirs in zip(adapted(again, pair), adapted(adapter, pair), strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, ours, theirs)


@every_adapter
def test_adapter_makes_what_its_losses_compare(identifier, shapes, random):
    adapter = new_adapter(identifier)
    pair = example_pair(shapes, random)
    outputs = adapted(adapter, pair)
    losses = [cls() for cls in components("loss").values() if cls.default_adapter == identifier]
    if not losses:
        student, teacher = outputs
        assert [side.shape for side in student] == [side.shape for side in teacher]
    index = {"index": np.arange(BATCH)} if adapter.needs_index else {}
    for loss in losses:
        student, teacher = adapter(*pair, **index)
        values = loss.call(with_labels(loss, teacher), student)
        assert tuple(values.shape) == (BATCH,)
        assert np.isfinite(values).all()


@every_adapter
def test_adapter_creates_its_weights_in_build_and_again_from_its_build_config(identifier, shapes):
    adapter = new_adapter(identifier)
    # Knobs, which change from outside, are there from the start.
    assert len(adapter.weights) == len(knobs.variables(adapter))
    adapter.build(*map(with_batch, shapes))
    again = new_adapter(identifier)
    again.build_from_config(adapter.get_build_config())
    sizes = [tuple(weight.shape) for weight in adapter.weights]
    assert [tuple(weight.shape) for weight in again.weights] == sizes


@every_adapter
def test_adapter_computes_in_low_precision_with_float32_weights(identifier, shapes, random):
    adapter = new_adapter(identifier, dtype="mixed_bfloat16")
    pair = example_pair(shapes, random)
    student, teacher = adapted(adapter, pair)
    floating = {weight.dtype for weight in adapter.trainable_weights}
    assert floating <= {"float32"}
    exact = new_adapter(identifier)
    adapted(exact, pair)
    exact.set_weights(adapter.get_weights())
    # Weights of an adopted classifier differ from one network to the next.
    if type(adapter).adopt is not mr.adapters.Adapter.adopt:
        return
    sides = zip([*student, *teacher], keras.tree.flatten(adapted(exact, pair)), strict=True)
    for low, high in sides:
        assert_close(tf.cast(low, "float32"), high, rtol=0.05, atol=0.05)


@every_adapter
def test_gradient_reaches_every_weight_of_an_adapter(identifier, shapes, random):
    adapter = new_adapter(identifier)
    pair = example_pair(shapes, random)
    adapted(adapter, pair)
    # What a stage of its own trains is left alone by the joint one.
    staged = {id(variable) for variable in adapter.pretraining_variables()}
    weights = [w.value for w in adapter.trainable_weights if id(w) not in staged]
    with tf.GradientTape() as tape:
        sides = keras.tree.flatten(adapted(adapter, pair))
        target = np.random.default_rng(1)
        loss = sum(
            tf.reduce_mean((tf.cast(side, "float32") - target.normal(size=side.shape)) ** 2)
            for side in sides
        )
    for gradient in tape.gradient(loss, weights):
        assert np.abs(gradient).max() > 1e-7


# Aggregators


@every_aggregator
@pytest.mark.parametrize("peers", [2, 3, 5])
def test_aggregator_gives_targets_and_ensemble_for_any_number_of_peers(
    identifier, peers, round_trip, random
):
    aggregator = mr.aggregators.get(identifier)
    logits = random.normal(size=(4, peers, 7)).astype("float32")
    result = aggregator(logits)
    assert result["targets"].shape == (4, peers, 7)
    assert result["targets"].dtype == tf.float32
    if "ensemble" in result:
        assert result["ensemble"].shape == (4, 7)
    assert set(result) - {"ensemble"} == {"targets", *aggregator.logs}
    assert all(result[log].shape == (peers,) for log in aggregator.logs)
    again = round_trip(aggregator)
    again.set_weights(aggregator.get_weights())
    keras.tree.map_structure(np.testing.assert_array_equal, again(logits), result)


@every_aggregator
def test_aggregator_treats_each_example_on_its_own(identifier, random):
    aggregator = mr.aggregators.get(identifier)
    logits = random.normal(size=(5, 3, 7)).astype("float32")
    targets, order = aggregator(logits)["targets"], random.permutation(5)
    assert_close(aggregator(logits[order])["targets"], tf.gather(targets, order))
    assert_close(aggregator(logits[2:3])["targets"], targets[2:3])


@pytest.mark.parametrize(
    "identifier", [name for name, cls in components("aggregator").items() if cls.learns]
)
def test_learning_aggregator_learns_from_the_loss_of_its_ensemble(identifier, random):
    aggregator = mr.aggregators.get(identifier)
    logits = random.normal(size=(4, 3, 7)).astype("float32")
    with tf.GradientTape() as tape:
        ensemble = aggregator(logits)["ensemble"]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(np.arange(4), ensemble)
    gradients = tape.gradient(loss, [v.value for v in aggregator.trainable_variables])
    assert gradients
    assert all(np.abs(gradient).max() > 1e-4 for gradient in gradients)


# Schedules


def example_schedule(identifier):
    return mr.schedules.get(identifier, **components("schedule")[identifier].example_arguments)


@every_schedule
def test_schedule_survives_its_config(identifier, round_trip):
    schedule = example_schedule(identifier)
    again = round_trip(schedule)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert [float(again(step)) for step in range(12)] == [float(schedule(s)) for s in range(12)]


@every_schedule
def test_schedule_stays_at_its_end(identifier):
    schedule = example_schedule(identifier)
    assert len({float(schedule(step)) for step in (10, 11, 10**6)}) == 1


@every_schedule
def test_schedule_is_a_float32_scalar_in_a_graph(identifier):
    schedule = example_schedule(identifier)
    value = tf.function(schedule)(tf.constant(7, "int64"))
    assert (value.dtype, value.shape) == (tf.float32, ())
    assert_close(value, schedule(7), rtol=1e-6, atol=0)


@every_schedule
def test_schedule_drives_a_learning_rate(identifier):
    schedule = example_schedule(identifier)
    variable = keras.Variable(1.0)
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build([variable])
    for _ in range(2):
        optimizer.apply([tf.constant(1.0)])
    assert_close(variable, 1.0 - schedule(0) - schedule(1))


# Models


# The deepest one takes seconds to build: models/test_resnet.py does it once for both.
@pytest.mark.parametrize(
    "identifier", [name for name in components("model") if name != "resnet110"]
)
def test_model_ends_in_logits_and_has_its_taps(identifier):
    model = mr.models.get(identifier, num_classes=5)
    head = model.layers[-1]
    assert (head.name, head.units, head.activation) == ("logits", 5, keras.activations.linear)
    assert model.name == identifier
    specs = mr.TapReader(model, ["stage1", "stage2", "stage3", "embedding"]).specs(model.input)
    assert specs.logits.shape == (None, 5)
    assert specs.features["embedding"].shape == (None, specs.features["stage3"].shape[-1])
