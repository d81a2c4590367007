"""Tests of batches that a language model writes."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import modreduce_keras as mr

L = keras.layers
VOCABULARY, END = 13, 1
PROMPTS = [[3, 4], [5], [6, 7, 8, 9], [2, 2, 2]]


def language_model(seed, name=None, as_dict=True):
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32", name="token_ids")
    padding = keras.Input((None,), dtype="int32", name="padding_mask")
    hidden = L.Embedding(VOCABULARY, 6)(tokens)
    mask = keras.ops.cast(padding, "bool")[:, None, :] if as_dict else None
    hidden += L.MultiHeadAttention(2, 3)(hidden, hidden, use_causal_mask=True, attention_mask=mask)
    inputs = {"token_ids": tokens, "padding_mask": padding} if as_dict else tokens
    model = keras.Model(inputs, L.Dense(VOCABULARY)(hidden), name=name)
    model.set_weights([5.0 * weight for weight in model.get_weights()])
    return model


def written_by_hand(model, prompt, length, as_dict, end=None):
    """The most likely text, one prompt at a time and without padding."""
    text = list(prompt)
    while len(text) < length + 1 and (len(text) == len(prompt) or text[-1] != end):
        tokens = np.array([text], "int32")
        x = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)} if as_dict else tokens
        text.append(int(np.argmax(model(x)[0, -1])))
    return text


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("batch_size", [3, 32])
def test_the_most_likely_text_is_that_of_one_prompt_at_a_time(as_dict, batch_size):
    model, length = language_model(4, as_dict=as_dict), 9
    end = written_by_hand(model, PROMPTS[0], length, as_dict)[4]
    data = mr.data.generated(
        model, PROMPTS, length=length, batch_size=batch_size, temperature=0, end_token=end
    )
    assert len(data) == -(-len(PROMPTS) // batch_size)
    texts = []
    for x, y, weights in data:
        tokens = x["token_ids"] if as_dict else x
        assert tokens.shape == y.shape == weights.shape == (len(y), length)
        np.testing.assert_array_equal(tokens[:, 1:], y[:, :-1])
        texts += [*zip(np.concatenate([tokens[:, :1], y], axis=1), weights, strict=True)]
    lengths = []
    for prompt, (text, weights) in zip(PROMPTS, texts, strict=True):
        expected = written_by_hand(model, prompt, length, as_dict, end)
        padding = [0] * (length + 1 - len(expected))
        assert text.tolist() == expected + padding
        ours = [0] * (len(prompt) - 1) + [1] * (len(expected) - len(prompt))
        assert weights.tolist() == ours + padding
        lengths.append(len(expected))
    assert len(set(lengths)) > 1  # some have ended


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_by_their_probabilities(temperature):
    logits = np.array([0.0, 1.0, 2.0, -1.0])
    data = mr.data.generated(
        lambda tokens: np.broadcast_to(logits, (*tokens.shape, 4)),
        np.zeros((4000, 1), "int32"),
        length=1,
        temperature=temperature,
        batch_size=4000,
    )
    ((_, y, _),) = data
    shares = np.bincount(y[:, 0], minlength=4) / 4000
    expected = softmax(logits / temperature)
    assert (np.abs(shares - expected) < 4.0 * np.sqrt(expected / 4000)).all()


def texts_of(data):
    return np.concatenate([y for _, y, _ in data])


def test_a_seed_and_the_weights_decide_what_is_written():
    def first(seed, model=4):
        return texts_of(
            mr.data.generated(language_model(model), PROMPTS, length=9, seed=seed, batch_size=2)
        )

    np.testing.assert_array_equal(first(0), first(0))
    assert (first(0) != first(1)).any()
    assert (first(0) != first(0, model=5)).any()


@pytest.mark.parametrize(("every", "changes"), [(1, [1, 1, 1]), (2, [0, 1, 0]), (None, [0, 0, 0])])
def test_texts_are_written_anew_every_few_epochs(every, changes):
    model = language_model(4)
    data = mr.data.generated(model, PROMPTS, length=9, temperature=0, every=every)
    looked = texts_of(data)
    found, texts = [], looked
    for epoch in range(4):
        data.on_epoch_begin()
        now = texts_of(data)
        if epoch:
            found.append(int((now != texts).any()))
        else:
            np.testing.assert_array_equal(now, looked)
        texts = now
        model.set_weights(language_model(10 + epoch).get_weights())
    assert found == changes


def test_a_student_learns_on_policy(random):
    student, teacher = language_model(5, "student"), language_model(6, "teacher")
    data = mr.data.generated(student, PROMPTS * 4, length=6, batch_size=16, end_token=END)
    ((x, _, weights),) = data
    own, target = (log_softmax(np.float64(model(x)), axis=-1) for model in (student, teacher))
    values = (np.exp(own) * (own - target)).sum(axis=-1)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge="reverse_kl")
    distiller.compile(keras.optimizers.Adam(0.03), loss=None)
    history = distiller.fit(data, epochs=12, verbose=0).history["reverse_kl"]
    np.testing.assert_allclose(history[0], (weights * values).mean(), rtol=1e-4)
    assert history[-1] < 0.5 * history[0]


@pytest.mark.slow
def test_a_student_learns_what_the_teacher_writes():
    """Sequence-level distillation needs the loss on labels alone."""
    student, teacher = language_model(5, as_dict=False), language_model(6, as_dict=False)
    data = mr.data.generated(teacher, PROMPTS, length=8, every=None, temperature=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.compile(keras.optimizers.Adam(0.05), loss)
    history = student.fit(data, epochs=25, verbose=0).history["loss"]
    assert history[-1] < 0.1 * history[0]


def test_a_function_of_users_writes():
    given = []

    def generate(inputs):
        given.append(inputs)
        length = inputs["token_ids"].shape[1]
        whole = np.arange(length) < inputs["padding_mask"].sum(axis=1)[:, None] + 2
        texts = np.where(inputs["padding_mask"] == 1, inputs["token_ids"], 5)
        return {"token_ids": texts, "padding_mask": whole}

    data = mr.data.generated(language_model(4), PROMPTS, length=7, generate=generate, pad_token=12)
    ((x, y, weights),) = data
    assert y[0].tolist() == [4, 5, 5, 12, 12, 12, 12]
    assert weights[0].tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert x["padding_mask"][0].tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert given[0]["token_ids"].shape == (4, 8)
    for wrong, message in (
        (lambda inputs: inputs["token_ids"], "must return a dict of 'token_ids' and 'padding_m"),
        (lambda inputs: {n: v[:, 1:] for n, v in inputs.items()}, r"mask of shape \(4, 8\)"),
    ):
        data = mr.data.generated(language_model(4), PROMPTS, length=7, generate=wrong)
        with pytest.raises(ValueError, match=message):
            data[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[1, 2], []]}, r"1 to 4 tokens, so that there is room.*of \[0\] tokens"),
        ({"prompts": [[1] * 5]}, r"length is 4. Received: prompts of \[5\] tokens"),
        ({"prompts": ["a text"]}, "prompts must be tokens, which are integers"),
        ({"prompts": "a text"}, "prompts must be tokens, which are integers"),
        ({"prompts": [[0.5]]}, "prompts must be tokens, which are integers"),
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0"),
        ({"every": 0}, "every must be None or a positive integer"),
        ({"length": 0}, "length must be a positive integer"),
        ({"end_token": -1}, "end_token must be None or"),
        ({"seed": -1}, "seed must be"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments, message):
    given = {"prompts": PROMPTS, "length": 4, **arguments}
    with pytest.raises(ValueError, match=message):
        mr.data.generated(lambda tokens: tokens, given.pop("prompts"), **given)


def test_a_model_of_other_inputs_is_refused():
    inputs = {name: keras.Input((3,), name=name) for name in ("image", "token_ids")}
    model = keras.Model(inputs, L.Concatenate()(list(inputs.values())))
    with pytest.raises(ValueError, match=r"takes tokens, or a dict of .* \['image', 'token_ids'\]"):
        mr.data.generated(model, PROMPTS, length=9)


def test_probabilities_are_refused():
    logits = language_model(4, "writer", as_dict=False)
    probabilities = keras.Sequential([logits, L.Softmax()], name="softmax")
    probabilities(np.ones((1, 3), "int32"))
    with pytest.raises(
        ValueError, match=r"as_logits.model. takes.*'softmax', which ends in a soft"
    ):
        mr.data.generated(probabilities, PROMPTS, length=9)
    as_function = mr.data.generated(lambda tokens: probabilities(tokens), PROMPTS, length=9)
    with pytest.raises(ValueError, match=r"must return keras.ops.log\(p\).*sum to one"):
        as_function[0]
    mended = mr.models.as_logits(probabilities)
    texts = [mr.data.generated(one, PROMPTS, length=9)[0][1].tolist() for one in (mended, logits)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[1, 13], [50]]}, r"prompts must be of the tokens .*0 to 12.*\[13, 50\]"),
        ({"prompts": [[1], [-2]]}, r"prompts with \[-2\]"),
        ({"end_token": 13}, r"end_token with \[13\]"),
        ({"pad_token": 13}, r"pad_token with \[13\]"),
    ],
    ids=str,
)
def test_tokens_that_the_model_does_not_know_are_refused(arguments, message):
    given = {"prompts": PROMPTS, **arguments}
    with pytest.raises(ValueError, match=message):
        mr.data.generated(language_model(4), given.pop("prompts"), length=4, **given)


def test_a_model_of_another_length_or_output_is_refused():
    tokens = keras.Input((8,), dtype="int32")
    hidden = L.Embedding(VOCABULARY, 4)(tokens)
    model = keras.Model(tokens, L.Dense(VOCABULARY)(hidden), name="fixed")
    with pytest.raises(ValueError, match=r"takes: length=8;.*length=12 for 'fixed'.*\(None, 8\)"):
        mr.data.generated(model, PROMPTS, length=12)
    assert mr.data.generated(model, PROMPTS, length=8)[0][1].shape == (4, 8)
    classifier = keras.Model(tokens, L.Dense(3)(L.Flatten()(hidden)))
    with pytest.raises(ValueError, match=r"logits \(batch, length, .*output of shape \(None, 3\)"):
        mr.data.generated(classifier, PROMPTS, length=9)
    data = mr.data.generated(lambda tokens: np.zeros((len(tokens), 3)), PROMPTS, length=8)
    with pytest.raises(ValueError, match=r"logits \(batch, length, .*output of shape \(4, 3\)"):
        data[0]


@pytest.mark.parametrize("every", [1, 2, None])
def test_a_run_that_resumes_writes_the_same(every):
    """The model does not train here, so that the draws alone tell."""

    class Read(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found[epoch] = texts_of(data)

    texts = []
    for begin in (0, 2):
        found = {}
        data = mr.data.generated(language_model(4), PROMPTS, length=9, every=every)
        if begin:
            texts_of(data)  # what looks at the data before the training
        model = language_model(4)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(data, epochs=4, initial_epoch=begin, callbacks=[Read()], verbose=0)
        texts.append(found)
    for epoch in (2, 3):
        np.testing.assert_array_equal(texts[0][epoch], texts[1][epoch])
    assert (texts[0][0] != texts[0][3]).any() == (every is not None)
