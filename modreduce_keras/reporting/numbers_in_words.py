"""Numbers in words: the sentences of a page about networks that put out numbers or directions."""

from collections.abc import Sequence

from modreduce_keras.output_kind import EMBEDDING, REGRESSION
from modreduce_keras.reporting import words
from modreduce_keras.reporting.measures import Figures

KINDS = (REGRESSION, EMBEDDING)


def agreement(kind: str) -> tuple[str, str]:
    """Returns heading and caption of how far networks agree with their teacher."""
    if kind == REGRESSION:
        return "Numbers like the teacher's", (
            "Share of the samples all of whose numbers are within the tolerance, in standard "
            "deviations of the teacher's."
        )
    return "Directions like the teacher's", (
        "Share of the samples whose vector, at unit length, is within the tolerance of the "
        "teacher's."
    )


def summary(figures: Sequence[Figures]) -> list[tuple[str, str]]:
    """Returns a sentence for each network and file: its name, and the text after it."""
    found = []
    for one in figures:
        said = f"has {words.number(one.parameters)} parameters"
        if one.role == "file":
            said = (
                f"is {one.owner} as a file of {words.size(one.size)}, which agrees with it on "
                f"{words.percent(one.owner_agreement, 2)} of the samples, "
                f"{words.milliseconds(one.milliseconds)} per sample"
            )
        if one.error is not None:
            said += f"; its mean absolute error is {one.error:.4g}"
        if one.determination is not None:
            said += f", R² {words.decimal(one.determination)}"
        if one.role != "file" and one.agreement is not None:
            said += f"; it agrees with the teacher on {words.percent(one.agreement)} of the samples"
        found.append(("The teacher" if one.role == "teacher" else one.name, f"{said}."))
    return found
