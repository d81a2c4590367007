"""What every loss of the catalogue gains on CIFAR-100 with its default or a balanced weight."""

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks import common
from benchmarks.cifar100 import evidence
from benchmarks.cifar100.tables import Row, ended, mean_and_error

FILE = "cifar100_every_loss"
FILES = (*evidence.FILES, FILE)
DEFAULT, BALANCED = "default", "balanced"
"""Groups of methods by the weight of the loss: `"default/kd"`, `"balanced/kd"`."""


class Gain(NamedTuple):
    """Points that a loss gains over the labels alone, for each seed that did not diverge."""

    points: list[float]
    seeds: int

    @property
    def told(self) -> str:
        """The mean and its standard error, as tables have it."""
        if not self.seeds:
            return ""
        return mean_and_error(self.points) if self.points else "diverged"


def gains_of(rows: Mapping[str, list[Row]], protocol: str, group: str = DEFAULT) -> dict[str, Gain]:
    """Returns what each loss gains in a protocol, by identifier, the largest gain first.

    Args:
        rows: Rows by file, those of `FILES` among them.
        protocol: The file of the protocol's rows, whose students with labels alone are compared.
        group: The weight of the loss, `"default"` or `"balanced"`.
    """
    plain = {
        key: row
        for key, row in evidence.of_length(rows[protocol], evidence.EPOCHS[protocol]).items()
        if row["method"] == "plain"
    }
    own: dict[str, list[Row]] = {}
    for row in rows[FILE]:
        own_group, _, name = row["method"].partition("/")
        if (f"cifar100_{row['protocol']}", own_group) == (protocol, group):
            own.setdefault(name, []).append(row)
    found = {
        name: Gain(evidence.gains(ended(several), plain), len(several))
        for name, several in own.items()
    }
    return dict(sorted(found.items(), key=lambda one: -_mean(one[1])))


def evidence_every_loss(rows: Mapping[str, list[Row]]) -> str:
    """Returns a line for each loss, the largest gain in the short training first."""
    middle, small = (gains_of(rows, protocol) for protocol in evidence.FILES)
    balanced = gains_of(rows, "cifar100_small", BALANCED)
    columns = ["loss"]
    columns += ["20 epochs of 10,000 images: points over labels alone", "seeds"]
    columns += ['the same, `weight="balanced"`', "seeds"]
    columns += ["30 epochs of 45,000 images: points over labels alone", "seeds"]
    lines = []
    for name in dict.fromkeys([*small, *balanced, *middle]):
        cells = [f"`{name}`"]
        for gains in (small, balanced, middle):
            gain = gains.get(name, Gain([], 0))
            cells += [gain.told, str(gain.seeds or "")]
        lines.append(cells)
    return "\n".join(common.table(columns, lines))


TABLES = {"evidence_every_loss": (FILES, evidence_every_loss)}
"""As `benchmarks.tables` has them."""


def _mean(gain: Gain) -> float:
    return statistics.mean(gain.points) if gain.points else float("-inf")
