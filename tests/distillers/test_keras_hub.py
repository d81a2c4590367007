"""BERT of keras-hub into one of two layers: hidden states, attention and logits.

The inputs are what the preprocessor of keras-hub gives.
"""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.slow

WORDS = ["the", "quick", "brown", "fox", "jumped", "over", "a", "lazy", "dog", "and", "ran"]
TEXTS = [
    "the quick brown fox jumped over the lazy dog",
    "a fox ran",
    "the dog jumped and ran over a fox",
    "lazy",
]
LABELS = np.array([0, 1, 0, 1])
HEADS, WIDTH = 4, 16


@pytest.fixture(scope="module")
def models():
    return pytest.importorskip("keras_hub").models


@pytest.fixture(scope="module")
def inputs(models):
    """(token_ids, segment_ids, padding_mask), padded, as the preprocessor gives them."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = models.BertTokenizer(vocabulary=vocabulary)
    preprocess = models.BertTextClassifierPreprocessor(tokenizer, sequence_length=12)
    x = {name: np.asarray(value) for name, value in preprocess(TEXTS).items()}
    assert sorted(x) == ["padding_mask", "segment_ids", "token_ids"]
    assert 0 < x["padding_mask"].mean() < 1
    return x


def classifier(models, layers, width=WIDTH, heads=HEADS):
    backbone = models.BertBackbone(
        vocabulary_size=5 + len(WORDS),
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        intermediate_dim=2 * width,
        max_sequence_length=12,
        dropout=0.0,
    )
    return models.BertTextClassifier(
        backbone=backbone, num_classes=2, preprocessor=None, dropout=0.0
    )


def randomized(model, random):
    for variable in model.trainable_variables:
        variable.assign(0.3 * random.normal(size=variable.shape))
    return model


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("narrow", [False, True], ids=["every second layer", "narrow"])
def test_bert_is_distilled_into_two_layers(models, inputs, narrow, random):
    teacher = randomized(classifier(models, 4), random)
    student = (
        randomized(classifier(models, 2, width=8, heads=2), random)
        if narrow
        else mr.models.shallower(teacher, every=2)
    )
    rows = mr.models.pair(teacher, student, every=2)
    hidden = [
        mr.Feature(
            "hint",
            student=row.student,
            teacher=row.teacher,
            adapter="token_projection",
            mask="padding_mask",
            weight=1.0,
            name=f"hidden{i}",
        )
        for i, row in enumerate(rows)
    ]
    maps = mr.models.pair(teacher, student, "attention", every=2)
    attention = [
        mr.Feature(
            "tinybert_attention",
            student=row.student.replace("scores", "logits"),
            teacher=row.teacher.replace("scores", "logits"),
            mask="padding_mask",
            name=f"attention{i}",
        )
        for i, row in enumerate(maps)
    ]
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd"), *hidden, *attention]
    )
    distiller.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    expected = {}
    kept = inputs["padding_mask"].astype(bool)
    pairs = kept[:, :, None] & kept[:, None, :]
    knowledge = {one.name: one for one in (*hidden, *attention)}
    readers = {
        role: mr.TapReader(model, [getattr(one, role) for one in knowledge.values()])(inputs)
        for role, model in (("student", student), ("teacher", teacher))
    }
    for name, one in knowledge.items():
        ours, theirs = (
            np.asarray(readers[role].features[getattr(one, role)], "float64")
            for role in ("student", "teacher")
        )
        if name.startswith("hidden"):
            kernel, bias = one.adapter.get_weights()
            expected[name] = ((ours @ kernel + bias - theirs) ** 2).mean(-1)[kept].mean()
        else:
            if narrow:
                ours, theirs = ours.mean(1, keepdims=True), theirs.mean(1, keepdims=True)
            expected[name] = ((ours - theirs) ** 2).mean(1)[pairs].mean()
    of_teacher, of_student = (
        softmax(np.asarray(readers[role].logits, "float64") / 4.0)
        for role in ("teacher", "student")
    )
    divergence = (of_teacher * np.log(of_teacher / of_student)).sum(-1).mean()
    expected["kd"] = 16.0 * divergence
    logs = distiller.train_on_batch(inputs, LABELS, return_dict=True)
    for name, value in expected.items():
        assert value > 1e-6
        np.testing.assert_allclose(logs[name], value, rtol=2e-3, err_msg=name)
    history = distiller.fit(inputs, LABELS, batch_size=4, epochs=30, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]


def test_a_shallower_bert_is_a_bert_with_the_layers_of_its_teacher(models, inputs, random):
    teacher = randomized(classifier(models, 4), random)
    student = mr.models.shallower(teacher, layers=[1, 3])
    assert type(student) is type(teacher)
    assert type(student.backbone) is type(teacher.backbone)
    hand = classifier(models, 2)
    for layer in hand.backbone.layers:
        names = {
            "transformer_layer_0": "transformer_layer_1",
            "transformer_layer_1": "transformer_layer_3",
        }
        source = names.get(layer.name, layer.name)
        layer.set_weights(teacher.backbone.get_layer(source).get_weights())
    hand.get_layer("logits").set_weights(teacher.get_layer("logits").get_weights())
    np.testing.assert_allclose(student(inputs), hand(inputs), rtol=1e-6)


@pytest.mark.parametrize("name", ["DistilBert", "Roberta", "DebertaV3", "GPT2", "OPT"])
def test_backbones_have_maps_and_become_shallower(models, inputs, name, random):
    more = {"bucket_size": 4} if name == "DebertaV3" else {}
    sizes = {"hidden_dim": WIDTH, "intermediate_dim": 32, "max_sequence_length": 12, **more}
    kind = getattr(models, f"{name}Backbone")
    teacher = kind(vocabulary_size=5 + len(WORDS), num_layers=4, num_heads=HEADS, **sizes)
    randomized(teacher, random)
    x = {key: inputs[key] for key in teacher.input}
    student = mr.models.shallower(teacher, every=2)
    assert (type(student), student.num_layers) == (kind, 2)
    maps = mr.models.pair(teacher, student, "attention")
    taps = [row.teacher for row in maps] + [maps[0].teacher.replace("scores", "logits")]
    read = mr.TapReader(teacher, taps)(x)
    np.testing.assert_allclose(read.logits, teacher(x), rtol=1e-4, atol=1e-5)
    kept, pairs = x["padding_mask"].astype(bool), read.masks[taps[0]].numpy()
    assert not pairs[np.broadcast_to(~kept[:, None, :], pairs.shape)].any()
    scores = np.asarray(read.features[taps[0]])
    assert scores.shape == (len(TEXTS), HEADS, 12, 12)
    np.testing.assert_allclose(scores.sum(-1)[:, 0][kept], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(scores[:, 0][~pairs], 0.0)


LLAMA = {
    "vocabulary_size": 16,
    "num_query_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "num_key_value_heads": 1,
}
VIT = {"image_shape": (8, 8, 3), "patch_size": 4, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}


@pytest.mark.parametrize("name", ["LlamaBackbone", "LlamaCausalLM", "ViTBackbone"])
def test_models_of_other_kinds_become_shallower(models, inputs, name, random):
    """Layers whose config is wrong, an embedding that the head shares, blocks in one layer."""

    def build(num_layers):
        if "ViT" in name:
            return models.ViTBackbone(num_layers=num_layers, **VIT)
        backbone = models.LlamaBackbone(num_layers=num_layers, **LLAMA)
        if name == "LlamaBackbone":
            return backbone
        return models.LlamaCausalLM(backbone=backbone, preprocessor=None)

    teacher = randomized(build(4), random)
    student, hand = mr.models.shallower(teacher, layers=[1, 2]), build(2)
    assert type(student) is type(teacher)
    assert len(student.weights) == len(hand.weights)
    weights = {weight.path: weight for weight in teacher.weights}
    kept = ("transformer_block_", 1) if "ViT" in name else ("transformer_layer_", 0)
    for weight in hand.weights:
        path = weight.path
        for number in (1, 0):
            new, old = (f"{kept[0]}{number + kept[1] + moved}/" for moved in (0, 1))
            path = path.replace(new, old)
        weight.assign(weights[path])
    x = random.normal(size=(2, 8, 8, 3)).astype("float32")
    x = x if "ViT" in name else {key: inputs[key] for key in teacher.input}
    np.testing.assert_allclose(student(x), hand(x), rtol=1e-5, atol=1e-6)


MERGES = ["a i", "ai r", "Ġ air", "p o", "r t", "po rt"]
PIECES = ["<|endoftext|>", *"Ġairpto!", *(merge.replace(" ", "") for merge in MERGES)]


def test_gpt2_is_distilled_with_the_padding_and_weights_of_its_preprocessor(models, random):
    tokenizer = models.GPT2Tokenizer(
        vocabulary={piece: index for index, piece in enumerate(PIECES)}, merges=MERGES
    )
    preprocess = models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)
    x, y, weights = preprocess([" air at port", " airport", " port at air!"])
    x, y, weights = keras.tree.map_structure(np.asarray, (x, y, weights))
    assert 0 < x["padding_mask"].mean() < 1
    assert 0 < weights.mean() < x["padding_mask"].mean()

    def language_model(layers, width):
        backbone = models.GPT2Backbone(
            vocabulary_size=len(PIECES),
            num_layers=layers,
            num_heads=2,
            hidden_dim=width,
            intermediate_dim=2 * width,
            max_sequence_length=8,
            dropout=0.0,
        )
        return randomized(models.GPT2CausalLM(backbone=backbone, preprocessor=None), random)

    teacher, student = language_model(4, 8), language_model(2, 4)
    hidden = mr.Feature(
        "hint",
        student="transformer_layer_1",
        teacher="transformer_layer_3",
        adapter="token_projection",
        mask="padding_mask",
        weight=1.0,
    )
    distiller = mr.Distiller(
        student=student, teacher=teacher, knowledge=[mr.Response("kd"), hidden]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(0.01), loss)
    of_teacher, of_student = (
        softmax(np.asarray(model(x), "float64") / 4.0) for model in (teacher, student)
    )
    divergence = 16.0 * (of_teacher * np.log(of_teacher / of_student)).sum(-1)
    logs = distiller.train_on_batch(x, y, weights, return_dict=True)
    # Keras, and so we, divide by the number of positions.
    np.testing.assert_allclose(logs["kd"], (divergence * weights).mean(), rtol=1e-3)
    history = distiller.fit(x, y, sample_weight=weights, batch_size=3, epochs=30, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
