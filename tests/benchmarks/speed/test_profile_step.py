"""The profile of a step: how operations are told apart and added up."""

import pytest


@pytest.fixture
def program():
    from benchmarks.speed import profile_step

    return profile_step


BODY = "StatefulPartitionedCall"


def test_operations_belong_to_parts_and_kinds(program):
    def told(name, kind):
        event = program.Event(f"{BODY}/{name}", kind, 0.0, 1.0)
        return program.part_of(event), program.kind_of(event)

    convolutions, normalizations = program.KINDS
    assert told("teacher_1/stem_1/Relu", "_MklNativeFusedConv2D") == ("teacher", convolutions)
    assert told("student_1/stem_norm_1/x", "_MklFusedBatchNormV3") == (
        "student, forward",
        normalizations,
    )
    backward = "gradient_tape/student_1/stem_conv_1/convolution/Conv2DBackpropFilter"
    assert told(backward, "Conv2DBackpropFilter") == ("student, backward", convolutions)
    assert told("AddN_6", "AddN") == ("student, backward", program.OTHERS)
    assert told("sgd/AssignSubVariableOp_3", "AssignSubVariableOp")[0] == "optimizer"
    assert told("kd_1/LogSoftmax", "LogSoftmax") == (program.REST, program.OTHERS)
    assert told("IteratorGetNext", "IteratorGetNext")[0] == "waiting for data"


def test_milliseconds_gaps_and_shares_of_a_step(program):
    def event(start, end, name="teacher/x", kind="Conv2D"):
        return program.Event(name, kind, start, end)

    # Two steps in .1 s: operations for .06 s, of which .01 s side by side, and .05 s of gaps.
    events = [event(0.0, 0.02), event(0.01, 0.04, "student/x"), event(0.09, 0.1, "student/x")]
    rows = {row["part"]: row for row in program.of_a_step(events, 2)}
    assert {part: row["ms"] for part, row in rows.items()} == {
        "teacher": 10.0,
        "student, forward": 20.0,
        "gaps": 25.0,
    }
    assert {row["step_ms"] for row in rows.values()} == {50.0}
    assert rows["gaps"]["share"] == pytest.approx(50 / 110, abs=1e-4)


def test_a_table_has_the_last_run_of_each_variant(program):
    from benchmarks import common
    from benchmarks.speed.profile_table import profile_step

    about = {**common.metadata(0), "pair": "a:b", "batch": 4, "steps": 2, "step_ms": 50.0}

    def row(date, policy, part, ms):
        variant = {"plain": False, "policy": policy, "part": part, "kind": "k"}
        return {**about, **variant, "date": date, "ms": ms, "share": 0.5}

    made = profile_step(
        [
            row("2026-01-01", "float32", "gone", 1.0),
            row("2026-01-02", "float32", "teacher", 2.0),
            row("2026-01-02", "mixed_bfloat16", "teacher", 3.0),
        ]
    ).splitlines()
    assert made[2:4] == ["| teacher | k | 2.0 (50 %) | 3.0 (50 %) |", "| a step |  | 50 | 50 |"]


@pytest.mark.slow
def test_a_profile_has_every_part(program, tmp_path, capsys):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    program.FLAGS(
        ["program", "--pair=resnet8:resnet8", "--batch=4", "--steps=2", f"--output={output}"]
    )
    program.main(None)
    rows = common.read_rows(output)
    of_convolutions = {row["part"] for row in rows if row["kind"] == next(iter(program.KINDS))}
    assert of_convolutions >= {"teacher", "student, forward", "student, backward"}
    assert sum(row["share"] for row in rows) == pytest.approx(1.0, abs=0.01)
