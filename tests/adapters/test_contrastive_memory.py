"""The memory bank: the reference's numbers, the draws, the updates, saving and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.adapters import ContrastiveMemory


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def arrays(golden):
    return golden("crd")


def with_golden_negatives(adapter, arrays):
    """Has an adapter draw what the reference drew."""
    adapter.draw_negatives = lambda index, training=None: tf.constant(
        arrays["contrast_index"][:, 1:], "int32"
    )
    return adapter


@pytest.fixture
def adapter(arrays):
    """The reference's adapter before its first step."""
    adapter = ContrastiveMemory(
        samples=int(arrays["n_data"]),
        negatives=arrays["contrast_index"].shape[1] - 1,
        units=32,
        temperature=float(arrays["temperature"]),
        momentum=float(arrays["momentum"]),
    )
    adapter.build(arrays["student"].shape, arrays["teacher"].shape)
    adapter.embedding.set_weights(
        [arrays[f"embed_{side}_{w}"] for side in ("student", "teacher") for w in ("kernel", "bias")]
    )
    adapter.student_bank.assign(arrays["memory_student_before"])
    adapter.teacher_bank.assign(arrays["memory_teacher_before"])
    return with_golden_negatives(adapter, arrays)


def loss_of(adapter, arrays, student, training=True):
    student, teacher = adapter(student, arrays["teacher"], index=arrays["index"], training=training)
    return tf.reduce_mean(mr.losses.CRD().call(teacher, student))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("by_rows", [False, True])
def test_crd_equals_the_reference(compiled, by_rows, adapter, arrays, gradient, monkeypatch):
    if by_rows:
        # As for a bank that is large beside the number of negatives.
        from modreduce_keras.adapters import contrastive_memory

        monkeypatch.setattr(contrastive_memory, "_DENSE_UP_TO", 0)
    values = []

    def function(student):
        values.append(loss_of(adapter, arrays, student))
        return values[-1]

    if compiled:
        with tf.GradientTape() as tape:
            student = tf.constant(arrays["student"])
            tape.watch(student)
            value = tf.function(lambda s: loss_of(adapter, arrays, s))(student)
        to_student = tape.gradient(value, student)
    else:
        to_student = gradient(function, arrays["student"])
        [value] = values
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    size = np.abs(arrays["grad_student"]).max()
    np.testing.assert_allclose(to_student / size, arrays["grad_student"] / size, atol=1e-5)
    expected_z = [arrays["z_student"], arrays["z_teacher"]]
    np.testing.assert_allclose(np.exp(adapter.log_normalizers.numpy()), expected_z, rtol=1e-5)
    for side in ("student", "teacher"):
        bank = getattr(adapter, f"{side}_bank")
        np.testing.assert_allclose(bank, arrays[f"memory_{side}_after"], atol=1e-6)


def test_z_is_set_by_the_first_training_batch_and_kept(adapter, arrays, random):
    other = {**arrays, "student": random.normal(size=(8, 48)).astype("float32")}
    loss_of(adapter, other, other["student"], training=False)
    assert np.isinf(adapter.log_normalizers.numpy()).all()
    loss_of(adapter, arrays, arrays["student"])
    first = adapter.log_normalizers.numpy()
    loss_of(adapter, other, other["student"])
    np.testing.assert_array_equal(adapter.log_normalizers, first)


def test_the_paper_has_no_z(arrays, adapter):
    paper = ContrastiveMemory(
        samples=200, negatives=64, units=32, variant="paper", temperature=0.07
    )
    paper.build(arrays["student"].shape, arrays["teacher"].shape)
    paper.set_weights(adapter.get_weights())
    with_golden_negatives(paper, arrays)
    inputs = arrays["student"], arrays["teacher"]
    ours = paper(*inputs, index=arrays["index"], training=True)
    theirs = adapter(*inputs, index=arrays["index"], training=True)
    assert np.isinf(paper.log_normalizers.numpy()).all()
    for side, other, z in zip(ours, theirs, ("z_student", "z_teacher"), strict=True):
        np.testing.assert_allclose(side - np.log(arrays[z]), other, atol=1e-4)


def small(**arguments):
    arguments = {"samples": 12, "negatives": 4, "units": 3, **arguments}
    adapter = ContrastiveMemory(**arguments)
    adapter.build((None, 5), (None, 6))
    return adapter


@pytest.fixture
def batch(random):
    sides = (random.normal(size=(3, width)).astype("float32") for width in (5, 6))
    return dict(zip(("student", "teacher"), sides, strict=True)) | {"index": np.array([11, 0, 4])}


def embeddings(adapter, batch):
    weights = adapter.embedding.get_weights()
    return [
        unit(batch[side] @ weights[2 * i] + weights[2 * i + 1])
        for i, side in enumerate(("student", "teacher"))
    ]


@pytest.mark.parametrize("samples", [12, 40])
@pytest.mark.parametrize("sampling", ["per_sample", "shared"])
def test_log_ratios_equal_numpy(samples, sampling, batch):
    adapter = small(sampling=sampling, variant="paper", temperature=0.5, samples=samples)
    banks = adapter.teacher_bank.numpy(), adapter.student_bank.numpy()
    ratios = adapter(**batch)
    for ratio, embedding, bank in zip(ratios, embeddings(adapter, batch), banks, strict=True):
        assert ratio.shape == (3, 5)
        for row, index in enumerate(batch["index"]):
            if sampling == "shared":
                places = [index, *range(4)]
            else:
                places = [index, *((index + step) % samples for step in (1, 2, 3, 4))]
            for column, place in enumerate(places):
                value = embedding[row] @ bank[place] / 0.5 + np.log(samples)
                if column and place == index:
                    assert ratio[row, column] < -1e8
                else:
                    np.testing.assert_allclose(ratio[row, column], value, rtol=1e-4, atol=1e-5)


def test_shared_equals_per_sample_where_both_have_the_same_negatives(batch):
    shared, own = small(sampling="shared"), small()
    own.set_weights(shared.get_weights())
    negatives = np.array([7, 8, 2, 2], "int32")
    shared.draw_negatives = lambda index, training=None: tf.constant(negatives)
    own.draw_negatives = lambda index, training=None: tf.constant(np.tile(negatives, (3, 1)))
    for first, second in zip(
        shared(**batch, training=True), own(**batch, training=True), strict=True
    ):
        np.testing.assert_allclose(first, second, atol=1e-4)
    np.testing.assert_allclose(shared.log_normalizers, own.log_normalizers, atol=1e-5)


@pytest.mark.parametrize("sampling", ["per_sample", "shared"])
def test_training_draws_from_all_samples_and_inference_does_not_draw(sampling):
    adapter = small(sampling=sampling, negatives=4000)
    index = tf.constant([11, 0, 4])
    first, second = (np.array(adapter.draw_negatives(index, training=True)) for _ in range(2))
    assert (first != second).mean() > 0.8
    owners = [None] if sampling == "shared" else index.numpy()
    for row, own in zip(np.atleast_2d(first), owners, strict=True):
        others = [place for place in range(12) if place != own]
        places, counts = np.unique(row, return_counts=True)
        assert list(places) == others
        # Five standard deviations of a binomial count.
        expected = 4000 / len(others)
        assert np.abs(counts - expected).max() < 5 * expected**0.5
    calm = [np.array(adapter.draw_negatives(index)) for _ in range(2)]
    np.testing.assert_array_equal(*calm)
    if sampling == "per_sample":
        assert (calm[0] != np.array(index)[:, None]).all()


def test_a_seed_repeats_the_draws():
    index = tf.constant([1, 2])
    draws = [np.array(small(seed=3).draw_negatives(index, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*draws)
    other = np.array(small(seed=4).draw_negatives(index, training=True))
    assert (draws[0] != other).any()


def test_banks_start_uniform_and_about_unit_length():
    adapter = small(samples=4000, units=50)
    for bank in (adapter.student_bank, adapter.teacher_bank):
        assert 0.99 < np.abs(bank.numpy()).max() * np.sqrt(50 / 3) <= 1.0
        np.testing.assert_allclose(np.mean(np.square(bank.numpy())) * 50, 1.0, rtol=0.02)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_only_training_moves_the_rows_of_the_batch(momentum, batch):
    adapter = small(momentum=momentum)
    before = [bank.numpy() for bank in (adapter.student_bank, adapter.teacher_bank)]
    adapter(**batch)
    for bank, old in zip((adapter.student_bank, adapter.teacher_bank), before, strict=True):
        np.testing.assert_array_equal(bank, old)
    adapter(**batch, training=True)
    banks = adapter.student_bank, adapter.teacher_bank
    for bank, old, new in zip(banks, before, embeddings(adapter, batch), strict=True):
        expected = old.copy()
        index = batch["index"]
        expected[index] = unit(momentum * old[index] + (1 - momentum) * new)
        np.testing.assert_allclose(bank, expected, atol=1e-6)


def test_each_direction_trains_its_own_side_only(batch):
    adapter = small()
    weights = [weight.value for weight in adapter.trainable_weights]
    assert len(weights) == 4
    with tf.GradientTape(persistent=True) as tape:
        positives = [side[:, 0] for side in adapter(**batch, training=True)]
    for positive, own in zip(positives, (weights[:2], weights[2:]), strict=True):
        gradients = tape.gradient(positive, weights)
        assert [g is not None for g in gradients] == [any(w is v for v in own) for w in weights]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_banks_and_ratios_are_float32_under_every_policy(policy, batch):
    adapter = small(dtype=policy)
    ratios = adapter(**batch, training=True)
    assert {side.dtype for side in ratios} == {tf.float32}
    remembered = adapter.student_bank, adapter.teacher_bank, adapter.log_normalizers
    assert {variable.dtype for variable in remembered} == {"float32"}
    norms = np.linalg.norm(adapter.student_bank.numpy()[batch["index"]], axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-6)


def distiller(samples=20):
    def net(width):
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(width, name="hidden")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(hidden))

    memory = ContrastiveMemory(samples=samples, negatives=5, units=3)
    made = mr.Distiller(
        student=net(5), teacher=net(6), knowledge=[mr.Relation("crd", at="hidden", adapter=memory)]
    )
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made, memory


@pytest.fixture
def dataset(random):
    x = random.normal(size=(20, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, np.arange(20) % 3))


def test_a_distiller_fills_the_bank_and_weight_files_restore_it(dataset, tmp_path):
    first, memory = distiller()
    before = memory.student_bank.numpy()
    train = mr.data.with_index(dataset.take(16)).shuffle(16).batch(5)
    history = first.fit(train, shuffle=False, verbose=0).history
    assert history["crd"][0] > 0
    moved = (memory.student_bank.numpy() != before).any(axis=1)
    np.testing.assert_array_equal(moved, np.arange(20) < 16)
    first.save_weights(tmp_path / "state.weights.h5")
    second, restored = distiller()
    second.load_weights(tmp_path / "state.weights.h5")
    for ours, theirs in zip(restored.weights, memory.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(restored.log_normalizers.numpy()).all()


def test_training_without_the_index_says_what_to_do(dataset):
    with pytest.raises(ValueError, match=r"fit\(mr.data.with_index\(samples"):
        distiller()[0].fit(dataset.batch(5), shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="CRD needs each sample's index in the training data"):
        small()(np.ones((2, 5)), np.ones((2, 6)))


@pytest.mark.parametrize("outside", [-1, 12])
def test_an_index_outside_of_the_data_is_an_error(outside, batch):
    batch["index"][1] = outside
    message = r"index must lie from 0 to 11, as ContrastiveMemory has samples=12"
    with pytest.raises(ValueError, match=message + f".*Received: .11, {outside}, 4"):
        small()(**batch)
    adapter = small()
    before = adapter.student_bank.numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        tf.function(lambda: adapter(**batch, training=True))()
    np.testing.assert_array_equal(adapter.student_bank, before)


def test_an_index_for_each_batch_is_refused(batch):
    with pytest.raises(ValueError, match=r"\(batch,\): apply mr.data.with_index before batch"):
        small()(**{**batch, "index": np.int64(3)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": None}, "needs the number of training samples.*contrastive_queue"),
        ({"samples": 1}, "samples must be an integer of at least 2. Received: samples=1"),
        ({"samples": 2.5}, "samples must be an integer of at least 2. Received: samples=2.5"),
        ({"negatives": 0}, "negatives must be a positive integer. Received: negatives=0"),
        ({"negatives": True}, "negatives must be a positive integer. Received: negatives=True"),
        ({"units": 0}, "units must be a positive integer. Received: units=0"),
        ({"temperature": 0.0}, "temperature must be a positive number. Received: temperature=0.0"),
        ({"temperature": "a"}, "temperature must be a positive number. Received: temperature='a'"),
        ({"momentum": 1.5}, "momentum must be a number from 0 to 1. Received: momentum=1.5"),
        ({"sampling": "all"}, r"sampling must be one of \['per_sample', 'shared'\]. Received"),
        ({"variant": "code"}, r"variant must be one of \['paper', 'reference'\]. Received"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveMemory(**{"samples": 12, **arguments})


def test_config_gives_every_argument():
    arguments = {
        "samples": 9,
        "negatives": 3,
        "units": 4,
        "temperature": 0.2,
        "momentum": 0.25,
        "sampling": "shared",
        "variant": "paper",
        "seed": 5,
    }
    config = ContrastiveMemory(**arguments).get_config()
    assert {name: config[name] for name in arguments} == arguments
