"""Feature knowledge: compares intermediate layers of the student with the teacher's."""

from modreduce_keras.knowledge.base import Knowledge
from modreduce_keras.registry import register


@register("knowledge", "feature")
class Feature(Knowledge):
    """Feature knowledge: compares outputs of intermediate layers of student and teacher.

    Args:
        loss: A loss on features, its config or its identifier.
        at: Tap of both models: the name of a layer, a stage such as `"stage2"`, an attention map
            such as `"encoder_2/attention_scores"` (see `mr.TapReader`), a list of those if the loss
            compares several, or `"auto"`; see `Knowledge`.
        student: Tap of the student, together with `teacher` and instead of `at`.
        teacher: Tap of the teacher. With several teachers: `"name/tap"`.
        adapter: See `Knowledge`.
        mask: See `Knowledge`.
        ignore_class: See `Knowledge`.
        labels: See `Knowledge`.
        weight: See `Knowledge`.
        staged: See `Knowledge`.
        name: See `Knowledge`.

    Raises:
        ValueError: If no taps are given; when the distiller is built, if a tap is unknown or the
            shapes do not fit.

    Example:
        >>> import modreduce_keras as mr
        >>> hint = mr.Feature("hint", student="stage2", teacher="stage3")
        >>> float(hint.weight), hint.adapter.identifier
        (100.0, 'conv_regressor')
    """
