"""Configs that were written while several methods stood in one module still deserialize.

Keras writes the module of a class beside its registered name; the name alone has to count.
"""

import keras
import pytest

from modreduce_keras.registry import components

FORMER = {
    "losses.response": ["KD", "LogitMSE", "LogitL1"],
    "losses.binary": ["BinaryKD"],
    "losses.statistics": ["AttentionTransfer", "FactorTransfer", "NST", "FSP"],
    "losses.boundaries": ["AB", "OFD"],
    "losses.channels": ["ICKD"],
    "losses.classifier": ["SimKD", "SRRL", "CATKD"],
    "losses.congruence": ["CC"],
    "losses.contrastive": ["CRD"],
    "losses.correlation": ["DIST", "CKA"],
    "losses.cross_layer": ["SemCKD", "ReviewKD"],
    "losses.curriculum": ["CTKD"],
    "losses.decoupled": ["DKD", "NKD"],
    "losses.feature": ["Hint"],
    "losses.graph_attention": ["MHGD"],
    "losses.local_structure": ["LSP"],
    "losses.orthogonal": ["VkD"],
    "losses.regeneration": ["MGD"],
    "losses.regularization": ["ConfidencePenalty", "TeacherFree"],
    "losses.relation_graph": ["IRG"],
    "losses.relational": ["RKDDistance", "RKDAngle"],
    "losses.shadow": ["SHAKE"],
    "losses.similarity": ["SimilarityPreserving", "PKT"],
    "losses.variational": ["VID"],
    "adapters.classifiers": ["SoftmaxRegressor", "ClassAttention"],
    "adapters.embeddings": ["LinearEmbedding"],
    "adapters.generators": ["MaskedGenerator"],
    "adapters.margins": ["MarginConnector"],
    "adapters.memory": ["ContrastiveMemory"],
    "adapters.queue": ["ContrastiveQueue"],
    "adapters.orthogonal": ["OrthogonalProjector"],
    "adapters.paired": ["PairedEmbedding"],
    "adapters.projectors": ["ChannelProjector", "FlowChannels"],
    "adapters.regressors": ["ConvRegressor"],
    "adapters.temperature": ["LearntTemperature"],
    "adapters.variational": ["VariationalRegressor"],
    "aggregators.averages": ["Mean", "LeaveOneOutMean", "WeightedAverage"],
}


def test_a_former_config_of_a_loss_and_its_schedule():
    loss = keras.saving.deserialize_keras_object(
        {
            "module": "modreduce_keras.losses.response",
            "class_name": "KD",
            "config": {
                "name": "mine",
                "reduction": "sum_over_batch_size",
                "temperature": {
                    "module": "modreduce_keras.schedules",
                    "class_name": "Linear",
                    "config": {"start": 4, "end": 1, "steps": 10},
                    "registered_name": "modreduce_keras>Linear",
                },
                "standardize": True,
            },
            "registered_name": "modreduce_keras>KD",
        }
    )
    assert type(loss) is components("loss")["kd"]
    assert (loss.name, loss.standardize) == ("mine", True)
    schedule = loss.get_config()["temperature"]
    assert schedule["class_name"] == "Linear"
    assert schedule["config"] == {"start": 4, "end": 1, "steps": 10}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in FORMER.items() for name in names]
)
def test_a_former_module_does_not_matter(module, name):
    kind = {"losses": "loss", "adapters": "adapter", "aggregators": "aggregator"}
    known = {one.__name__: one for one in components(kind[module.partition(".")[0]]).values()}
    config = {
        "module": f"modreduce_keras.{module}",
        "class_name": name,
        "config": {"samples": 9} if name == "ContrastiveMemory" else {},
        "registered_name": f"modreduce_keras>{name}",
    }
    assert type(keras.saving.deserialize_keras_object(config)) is known[name]
