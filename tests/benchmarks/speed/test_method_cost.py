"""The benchmark of all methods runs, and knows every one of them."""

import pytest

from modreduce_keras.registry import components

pytestmark = pytest.mark.slow


@pytest.fixture
def method_cost():
    from benchmarks.speed import method_cost

    return method_cost


# One without a teacher, one whose adapter learns beforehand, and one with a memory.
METHODS = ["kd", "confidence_penalty", "ft", "crd_shared"]


def test_one_row_for_each_method(run_benchmark, tmp_path):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    pair = ["--teacher=resnet8", "--student=resnet8", "--batch=4", "--samples=30000"]
    sizes = ["--rounds=1", "--group=2", *(f"--methods={name}" for name in METHODS)]
    run_benchmark("speed.method_cost", *pair, *sizes, f"--output={output}")

    rows = {row["method"]: row for row in common.read_rows(output)}
    assert list(rows) == METHODS
    assert "ratio_to" not in rows["kd"]
    for name, row in rows.items():
        assert row["ms_p25"] <= row["ms_median"] <= row["ms_p75"]
        assert (row["teacher"], row["batch"], row["rounds"]) == ("resnet8", 4, 1)
        if name != "kd":
            assert row["ratio_to"] == "kd"
            assert row["ratio_median"] > 0
    # In its own group, a method's memory is beside the one that KD's row tells.
    first, kd = rows["confidence_penalty"], rows["kd"]
    assert first["extra_mib"] == pytest.approx(first["mib"] - kd["mib"], abs=0.11)
    kinds = [row["kind"] for row in rows.values()]
    assert kinds == ["response", "response", "feature", "relation"]
    # Two banks of 30,000 embeddings of 128 float32 are 29.3 MiB.
    assert rows["kd"]["held_mib"] < 0.01
    assert rows["crd_shared"]["held_mib"] == pytest.approx(29.3, abs=0.2)


def test_every_loss_is_measured_and_variants_follow_their_method(method_cost):
    names = method_cost.methods()
    assert set(names) - set(components("loss")) == set(method_cost.VARIANTS)
    left_out = set(components("loss")) - set(names)
    of_tokens = {"minilm_attention", "minilm_relation", "tinybert_attention"}
    assert left_out == of_tokens | {"gaussian_kd", "ifvd", "teacher_bounded"}
    assert len(names) == len(set(names))
    first = names.index("crd")
    assert names[first : first + 3] == ["crd", "crd_shared", "crd_queue"]


def test_variants_have_adapters_of_their_own(method_cost):
    method_cost.FLAGS(["method_cost", "--samples=77", "--batch=5"])
    names = ("crd", "crd_shared", "crd_queue")
    own, shared, queue = (method_cost.knowledge_of(name).adapter for name in names)
    assert [one.identifier for one in (own, shared)] == ["contrastive_memory"] * 2
    assert [one.sampling for one in (own, shared)] == ["per_sample", "shared"]
    assert [one.samples for one in (own, shared)] == [77, 77]
    assert queue.identifier == "contrastive_queue"


def test_staged_losses_are_measured_as_terms_of_the_joint_loss(method_cost):
    method_cost.FLAGS(["method_cost"])
    for identifier in ("fsp", "ab"):
        assert components("loss")[identifier].staged
        assert not method_cost.knowledge_of(identifier).staged
