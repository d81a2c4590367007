"""The comparison with a peer refuses unequal steps and takes the faster form of the peer."""

import sys

import numpy as np
import pytest

from tests.support.about import ABOUT

PEERS = {"PyTorch, float32": 8.0, "PyTorch, compiled, float32": 5.0, "PyTorch, bfloat16": 2.0}
OURS = {"by hand, float32": 10.0, "ours, float32": 6.0, "ours, bfloat16": 3.0}


@pytest.fixture
def kd():
    from benchmarks.speed.peers import kd

    return kd


class Answers:
    def __init__(self, **parameters):
        self.about = {"parameters": parameters}


def test_ours_are_compared_with_the_faster_peer_of_their_precision(kd):
    times = {name: np.full((3, 1), ms) for name, ms in {**OURS, **PEERS}.items()}
    rows = {row["contender"]: row for row in kd.compared("resnet56:resnet20", times)}
    ours, low = rows["ours, float32"], rows["ours, bfloat16"]
    assert (ours["peer"], ours["peer_median"]) == ("PyTorch, compiled, float32", 1.2)
    assert (low["peer"], low["peer_median"]) == ("PyTorch, bfloat16", 1.5)
    assert (ours["by_hand_median"], low["by_hand_median"]) == (0.6, 0.3)
    assert (ours["peer_wanted"], low["by_hand_wanted"]) == (0.97, 0.45)
    assert not any("peer" in rows[name] for name in [*PEERS, "by hand, float32"])


def test_unequal_networks_and_losses_are_refused(kd):
    equal = [Answers(student=2), Answers(student=2)]
    kd.require_equal(equal, {"by hand, float32": 2.0, "ours, bfloat16": 2.02})
    with pytest.raises(RuntimeError, match=r"Ours have .* parameters, but the peer's have"):
        kd.require_equal([Answers(student=2), Answers(student=3)], {"by hand, float32": 2.0})
    with pytest.raises(RuntimeError, match="first loss of 'PyTorch, float32' differs"):
        kd.require_equal(equal, {"by hand, float32": 2.0, "PyTorch, float32": 2.02})


def test_a_worker_answers_whatever_libraries_print(tmp_path):
    from benchmarks.speed.peers.worker import Worker

    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "sys.path.insert(0, '.')\n"
        "from benchmarks.speed.peers.worker import serve\n"
        "def prepare(first):\n"
        "    losses = iter([first, first + 0.5])\n"
        "    def step():\n"
        "        print('noise')\n"
        "        return next(losses)\n"
        "    return {'parameters': {}}, {'a, b': step}\n"
        "serve(prepare)\n",
        "utf-8",
    )
    worker = Worker([sys.executable, str(program)], {"first": 1.0})
    assert (worker.about, worker.names) == ({"parameters": {}}, ["a, b"])
    assert [worker.step("a, b"), worker.step("a, b")] == [1.0, 1.5]
    with pytest.raises(RuntimeError, match=r"program.py'\] ended with 1"):
        worker.step("a, b")


def test_the_table_has_both_ratios():
    from benchmarks.speed.peers.table import peers

    about = {"pair": "a:b", **ABOUT, "command": "run", "torch": "2", "cores": 2}
    about |= {"batch": 64, "rounds": 20, "steps": 1, "ms_median": 10, "ms_p25": 9, "ms_p75": 12}
    ours = {"peer": "PyTorch, float32", "peer_wanted": 0.97, "by_hand_wanted": None}
    for kind in ("peer", "by_hand"):
        ours |= {f"{kind}_median": 1.1, f"{kind}_p25": 1.0, f"{kind}_p75": 1.2}
    rows = [{**about, "contender": "PyTorch, float32"}, {**about, "contender": "ours", **ours}]
    lines = peers(rows).splitlines()
    assert lines[2] == "| a → b | PyTorch, float32 | 10 (9 to 12) |  |  |"
    ratios = "1.10 (1.00 to 1.20) | 1.10 (1.00 to 1.20), ≤ 0.97"
    assert lines[3] == f"| a → b | ours | 10 (9 to 12) | {ratios} |"
