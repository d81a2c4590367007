"""The tables of exported files: what each network keeps of its accuracy, and how large it is."""

import pytest

from tests.support.about import RUN


@pytest.fixture
def tables():
    from benchmarks import tables

    return tables


def test_the_table_of_networks_for_phones(tables):
    made = {"network": "net", "parameters": 1234, "contender": "aware", "bytes": 2050}
    setting = {"float_steps": 8, "steps": 3, "batch": 2, "teacher_epochs": 1, "images": 9}
    row = {**RUN, **made, **setting, "agreement": 0.981, "accuracy": 0.5, "keras_accuracy": 0.52}
    lines = tables.phones([{**row, "agreement": 0.1}, row]).splitlines()
    assert lines[2] == "| net (1,234) | aware | 98.1 | 50.0 | 52.0 | 2 |"
    assert "(float_steps 8, steps 3, batch 2, teacher_epochs 1, images 9)" in lines[4]


def test_the_table_of_exports(tables):
    def exported(network, parameters, file, size, **found):
        own = {"network": network, "parameters": parameters, "file": file, "bytes": size}
        own |= {"agreement": 1.0, "ratio_to_float32": 102400 / size, "ms": 0.126}
        about = {"representative": 100, "images": 300, "repeats": 9}
        return {**RUN, **about, **own, **found, "command": f"export_zoo.py --network={network}"}

    sizes = {"float32": 102400, "float16": 51200, "dynamic": 30000, "int8": 25600}
    small = [exported("a", 9, file, size) for file, size in sizes.items()]
    large = [exported("b", 24282, file, size) for file, size in sizes.items()]
    outdated = exported("b", 24282, "int8", 9, agreement=0.1)
    better = exported("b", 24282, "int8", 25600, agreement=0.988, ms=0.091)
    made = tables.export_zoo([*large, outdated, better, *small]).splitlines()
    kib, same = "100, 50, 29, 25 | 4.00 times", "100.0, 100.0"
    assert made[2:4] == [
        f"| a (9) | {kib} | {same}, 100.0 | 0.13, 0.13, 0.13, 0.13 |",
        f"| b (24,282) | {kib} | {same}, 98.8 | 0.13, 0.13, 0.13, 0.09 |",
    ]
    assert len(made) == 6
    assert made[-1].startswith("`export_zoo.py` (")
    assert "representative 100, images 300, repeats 9" in made[-1]
