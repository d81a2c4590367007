"""Parts that served one distiller: copied for the next, free if it failed, or refused."""

import pytest

import modreduce_keras as mr


def test_parts_that_served_a_distiller_are_copied_for_the_next(net, teacher):
    """Used twice, an adapter would go on from another student's weights, in silence."""
    hint = mr.Feature("hint", at="stage2", weight=7.0)
    first = mr.Distiller(student=net(), teacher=teacher, knowledge=[hint])
    second = mr.Distiller(student=net(), teacher=teacher, knowledge=[hint])
    assert first.knowledge["student"] == [hint]
    (copy,) = second.knowledge["student"]
    assert (copy.name, float(copy.weight), copy.student) == ("hint", 7.0, "stage2")
    shared = {id(v) for v in hint.variables} & {id(v) for v in copy.variables}
    assert hint.adapter.weights and not shared
    aggregator = mr.aggregators.WeightedAverage(name="shares")
    one, other = (
        mr.PeerDistiller({"a": net(), "b": net()}, aggregator=aggregator) for _ in range(2)
    )
    assert one.aggregator is aggregator is not other.aggregator
    assert other.aggregator.name == "shares"


def test_parts_that_cannot_be_copied_belong_to_one_distiller(net, teacher):
    class Local(mr.Feature):
        def get_config(self):
            raise NotImplementedError

    hint = Local("hint", at="stage2")
    mr.Distiller(student=net(), teacher=teacher, knowledge=[hint])
    with pytest.raises(ValueError, match=r"'hint' already belongs .* Make a new Local for each"):
        mr.Distiller(student=net(), teacher=teacher, knowledge=[hint])


def test_parts_of_a_distiller_that_failed_are_free(net, teacher):
    hint, wrong = mr.Feature("hint", at="stage2"), mr.Feature("at", at="stage9")
    with pytest.raises(ValueError, match="Unknown tap 'stage9'"):
        mr.Distiller(student=net(), teacher=teacher, knowledge=[hint, wrong])
    mr.Distiller(student=net(), teacher=teacher, knowledge=[hint])


def test_adapters_that_a_failed_distiller_has_built_are_made_anew(net, teacher):
    """They have the shapes of other models."""
    hint, wrong = (
        mr.Feature("hint", at="stage2"),
        mr.Feature("at", student="stage1", teacher="embedding"),
    )
    with pytest.raises(ValueError, match="Knowledge 'at' does not fit"):
        mr.Distiller(student=net((4, 8)), teacher=teacher, knowledge=[hint, wrong])
    assert hint.adapter.built
    made = mr.Distiller(student=net((4, 12)), teacher=teacher, knowledge=[hint])
    assert made.knowledge["student"][0].adapter.weights[0].shape[-2] == 12
    again = mr.Distiller(student=net((4, 10)), teacher=teacher, knowledge=made.knowledge["student"])
    assert again.knowledge["student"][0].adapter.weights[0].shape[-2] == 10


def test_a_loss_may_be_shared_unless_it_follows_a_schedule(net, teacher):
    constant = mr.losses.KD()
    for _ in range(2):
        mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response(constant)])
    scheduled = mr.losses.KD(temperature=mr.schedules.Linear(4.0, 1.0, steps=10))
    mr.Distiller(
        student=net(),
        teacher=teacher,
        knowledge=[mr.Response(scheduled), mr.Response(scheduled, name="again")],
    )
    response = mr.Response(scheduled)
    again = mr.Distiller(student=net(), teacher=teacher, knowledge=[response])
    (copy,) = again.knowledge["student"]
    assert copy.loss is not scheduled
    again.step.assign(5)
    assert float(copy.loss.temperature) == 2.5
