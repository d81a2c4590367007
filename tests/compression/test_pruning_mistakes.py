"""What cannot be pruned, and arguments that make no sense: refused with what was meant."""

import keras
import pytest
from keras import layers

import modreduce_keras as mr
from tests.support.models.prunable import dense, linear, small

MISTAKES = {
    "falling": (
        lambda: mr.prune(dense(), mr.schedules.Polynomial(0.8, 0.0, steps=9)),
        ValueError,
        r"must not fall.*start=0.8, end=0.0.*at the steps \[0.0, 9.0\]",
    ),
    "a schedule of another library": (
        lambda: mr.prune(dense(), final_sparsity=0.8),
        TypeError,
        r"prune has no argument 'final_sparsity': write mr\.prune\(student, mr\.schedules\.Pol",
    ),
    "its arguments": (
        lambda: mr.schedules.Polynomial(initial_sparsity=0.0, final_sparsity=0.8, end_step=9),
        TypeError,
        r"Polynomial has no arguments .* write mr\.schedules\.Polynomial\(0\.0, 0\.8, steps=",
    ),
    "its clusters": (
        lambda: mr.cluster(dense(), number_of_clusters=8),
        TypeError,
        r"cluster has no argument 'number_of_clusters': write mr\.cluster\(student, 16\)",
    ),
    "no model": (lambda: mr.prune("student"), TypeError, "student must be a Keras model"),
    "not built": (
        lambda: mr.prune(keras.Sequential([layers.Dense(2)])),
        ValueError,
        "student must be a functional or a built Sequential model.*distiller.student",
    ),
    "all": (lambda: mr.prune(dense(), 1.0), ValueError, "from 0 to below 1 at every step"),
    "a schedule": (
        lambda: mr.prune(dense(), mr.schedules.Linear(0.5, 1.5, steps=9)),
        ValueError,
        r"at every step. Received: .* which is \[0.5, 1.5\] at the steps \[0.0, 9.0\]",
    ),
    "a schedule of Keras": (
        lambda: mr.prune(dense(), keras.optimizers.schedules.PolynomialDecay(0.0, 4, 1.5)),
        ValueError,
        r"where it is smallest and largest.*such as mr.schedules.Polynomial\(0.0, 0.8",
    ),
    "blocks of nothing": (
        lambda: mr.prune(dense(), block_size=(4, 4)),
        ValueError,
        r"structure='block'.*Received: structure='unstructured', block_size=\(4, 4\)",
    ),
    "text": (lambda: mr.prune(dense(), "half"), ValueError, "sparsity must be a number"),
    "structure": (
        lambda: mr.prune(dense(), structure="rows"),
        ValueError,
        r"structure must be one of \['unstructured', '2:4', 'block'\]",
    ),
    "score": (lambda: mr.prune(dense(), score="size"), ValueError, "score must be one of"),
    "every": (lambda: mr.prune(dense(), every=0), ValueError, "every must be a positive integer"),
    "block": (
        lambda: mr.prune(dense(), structure="block", block_size=(2,)),
        ValueError,
        r"block_size must say \(inputs, outputs\)",
    ),
    "five inputs": (
        lambda: mr.prune(dense(), structure="2:4", layers=["hidden"]),
        ValueError,
        r"divisible by 4.*'hidden' \(Dense\) with a kernel of shape \(5, 4\)",
    ),
    "no fours": (
        lambda: mr.prune(linear(), structure="2:4"),
        ValueError,
        "structure='2:4' needs layers with a number of input channels that is divisible by 4",
    ),
    "three of four": (
        lambda: mr.prune(dense(), 0.75, structure="2:4"),
        ValueError,
        "leaves at least half of the weights.*which is",
    ),
    "a name": (
        lambda: mr.prune(dense(), layers=["hiden"]),
        ValueError,
        "layers must match layers of 'sequential.*Did you mean 'hidden'",
    ),
    "a pattern of no name": (
        lambda: mr.prune(dense(), layers=["conv9*"]),
        ValueError,
        r"Those with a kernel: \['hidden', '.*'\]. Received: 'conv9\*'",
    ),
    "one name": (
        lambda: mr.prune(dense(), layers="hidden"),
        ValueError,
        "layers must be a list of names and classes",
    ),
    "a number": (lambda: mr.prune(dense(), layers=[3]), ValueError, "names and classes"),
    "no kernel": (
        lambda: mr.prune(small(), layers=["stage1_norm"]),
        ValueError,
        "must match plain convolutions and dense layers.*'stage1_norm' of type BatchNormalization",
    ),
    "a kind": (
        lambda: mr.prune(dense(), layers=[layers.Conv2D]),
        ValueError,
        "layers must match layers of",
    ),
    "twice": (
        lambda: mr.prune(mr.prune(dense()), layers=["hidden"]),
        ValueError,
        r"must not be pruned or clustered yet.*mr.strip\(student\).*'hidden' of type PrunedKernel",
    ),
    "nothing to prune": (
        lambda: mr.prune(keras.Sequential([keras.Input((3,)), layers.ReLU()])),
        ValueError,
        r"must have convolutions or dense layers.*of \['ReLU'\]",
    ),
    "rounded": (
        lambda: mr.prune(mr.quantize_aware(dense())),
        ValueError,
        r"round it last, such as by mr.quantize_aware\(mr.prune\(student",
    ),
    "nothing to strip": (
        lambda: mr.strip(dense()),
        ValueError,
        "must come from mr.prune or mr.cluster.*nothing is pruned or clustered",
    ),
    "strip a rounded one": (
        lambda: mr.strip(mr.quantize_aware(mr.prune(dense()))),
        ValueError,
        "its plain form is its int8 file",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_with_what_was_meant(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_lora_is_refused_by_name():
    student = dense()
    student.get_layer("hidden").enable_lora(2)
    with pytest.raises(ValueError, match=r"LoRA weights.*'hidden'"):
        mr.prune(student, layers=["hidden"])
