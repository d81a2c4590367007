"""The paired embedding: both sides are embedded, at the width that goes with the loss."""

import numpy as np

import modreduce_keras as mr


def test_both_sides_are_embedded_to_128_units_by_default(random):
    adapter = mr.adapters.PairedEmbedding()
    features = [random.normal(size=shape).astype("float32") for shape in ((3, 4, 2), (3, 5))]
    embedded = adapter(*features)
    weights = adapter.get_weights()
    assert [weight.shape for weight in weights] == [(8, 128), (128,), (5, 128), (128,)]
    for index, (value, feature) in enumerate(zip(embedded, features, strict=True)):
        kernel, bias = weights[2 * index : 2 * index + 2]
        np.testing.assert_allclose(value, feature.reshape(3, -1) @ kernel + bias, atol=1e-5)


def test_config_gives_the_arguments_back():
    config = mr.adapters.PairedEmbedding(units=7, normalize=True).get_config()
    assert (config["units"], config["normalize"]) == (7, True)


def test_it_goes_with_correlation_congruence():
    relation = mr.Relation("cc", at="embedding")
    assert type(relation.adapter) is mr.adapters.PairedEmbedding
    assert (relation.adapter.units, float(relation.weight)) == (128, 100.0)
    reference = mr.Relation(mr.losses.CC(variant="reference"), at="embedding")
    np.testing.assert_allclose(float(reference.weight), 0.02, rtol=1e-6)
