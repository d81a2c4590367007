"""Whether what is taught fits the kind of the students' outputs, which the compiled loss tells."""

from collections.abc import Mapping
from typing import Any

from modreduce_keras.knowledge import Knowledge
from modreduce_keras.output_kind import CLASSES, LABELS, LOGIT, UNKNOWN

WHAT = {
    CLASSES: "classes that exclude one another",
    LOGIT: "one logit of yes or no",
    LABELS: "independent labels",
}
_COMPARE = {CLASSES: "kd", LOGIT: "binary_kd", LABELS: "binary_kd"}
_PLAIN = "logit_mse"


def require_fitting_knowledge(
    knowledge: Mapping[str, list[Knowledge]], kinds: Mapping[str | None, str], loss: Any
) -> None:
    """Raises if knowledge compares outputs as something else than what the compiled loss says.

    Args:
        knowledge: What each student is taught.
        kinds: Kind of each output by its name; of one output under the name `None`.
        loss: What was compiled, for the message.
    """
    for one in (one for several in knowledge.values() for one in several):
        name = one.student if isinstance(one.student, str) else None
        # A student with one output has it under no name, and its taps may be that output.
        kind = kinds.get(name, kinds.get(None, UNKNOWN))
        if not _fits(one.loss, kind):
            raise ValueError(
                f"Knowledge {one.name!r} compares {_taken(one.loss)}, and the compiled loss makes "
                f"of the student's output {_what(kind)}: mr.Response({_compared_by(kind)!r}) "
                f"compares those. Received: mr.{type(one).__name__}({one.loss.identifier!r}) with "
                f"loss={_named(loss)}"
            )


def require_fitting_online(aggregator: Any, online_loss: Any, kind: str, loss: Any) -> None:
    """Raises if peers exchange their outputs as something else than what the compiled loss says.

    Args:
        aggregator: Merges the outputs.
        online_loss: Compares them.
        kind: Of the students' outputs.
        loss: What was compiled, for the message.
    """
    if not _fits(aggregator, kind):
        raise ValueError(
            f"The aggregator {aggregator.identifier!r} merges {_taken(aggregator)}, and the "
            f"compiled loss makes of the students' outputs {_what(kind)}: aggregator='mean' or "
            f"'mutual' with online_loss={_compared_by(kind)!r} takes those. Received: "
            f"loss={_named(loss)}"
        )
    require_fitting_response(online_loss, kind, loss, "online_loss")


def require_fitting_response(
    response: Any, kind: str, loss: Any, argument: str = "response"
) -> None:
    """Raises if a loss on the outputs takes them for something else than the compiled loss.

    Args:
        response: Compares outputs.
        kind: Of these outputs.
        loss: What was compiled, for the message.
        argument: How the distiller's user names `response`.
    """
    if not _fits(response, kind):
        raise ValueError(
            f"{argument}={response.identifier!r} compares {_taken(response)}, and the compiled "
            f"loss makes of the outputs {_what(kind)}: {argument}={_compared_by(kind)!r} compares "
            f"those. Received: loss={_named(loss)}"
        )


def _fits(part: Any, kind: str) -> bool:
    return kind == UNKNOWN or part.output_kinds is None or kind in part.output_kinds


def _taken(part: Any) -> str:
    return " or ".join(WHAT[kind] for kind in part.output_kinds)


def _what(kind: str) -> str:
    return WHAT.get(kind, f"plain numbers ({kind})")


def _named(loss: Any) -> str:
    by_output = isinstance(loss, Mapping)
    names = {output: _named(one) for output, one in loss.items()} if by_output else None
    return repr(names or getattr(loss, "name", None) or getattr(loss, "__name__", loss))


def _compared_by(kind: str) -> str:
    return _COMPARE.get(kind, _PLAIN)
