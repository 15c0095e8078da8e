"""Stop rules, against hand-counted sequences of losses and looks."""

import pytest

from tests.refusals import refused
from training.runs.records import RecallRecord, StepRecord
from training.stop_rules import (
    AllOf,
    ExactMatchReached,
    LossBelow,
    released_loss_rule,
)


def update(loss, step=1, **by_source):
    return StepRecord(step, loss, 1e-3, 1.0, 7, by_source)


def look(*correct, items="A", match="tokens"):
    return RecallRecord(1, items, list(correct), None, match)


def stops_at(rule, losses):
    """The number of the update, from 1, after which a rule ends a run; None for never."""
    for number, loss in enumerate(losses, start=1):
        if rule.after(update(loss), None) is not None:
            return number
    return None


@pytest.mark.parametrize(
    ("patience", "consecutive", "expected"),
    # Below 0.5: updates 2, 3, 5, 6, 7.
    [(1, True, 2), (2, True, 3), (3, True, 7), (4, True, None), (3, False, 5), (5, False, 7)],
)
def test_losses_below_a_threshold_are_counted(patience, consecutive, expected):
    rule = LossBelow(0.5, patience=patience, consecutive=consecutive)
    assert stops_at(rule, [0.6, 0.4, 0.3, 0.5, 0.1, 0.2, 0.49]) == expected


def test_a_loss_at_the_threshold_is_not_below_it():
    assert stops_at(LossBelow(0.5), [0.5, 0.5]) is None


def test_only_the_loss_of_the_source_counts():
    rule = LossBelow(0.5, source="A", patience=2)
    assert rule.after(update(0.1, A=0.9, mix=0.1), None) is None
    assert rule.after(update(9.0, A=0.4, mix=9.9), None) is None
    # A batch that has nothing of the source neither counts nor starts the count afresh.
    assert rule.after(update(9.0, mix=9.0), None) is None
    assert rule.after(update(9.0, A=0.3, mix=9.9), None) == (
        "loss of A below 0.5 nats in 2 updates in a row"
    )


def test_a_source_without_losses_of_its_own_is_refused():
    with pytest.raises(ValueError, match="the batches name no sources; use a source that does"):
        LossBelow(0.5, source="A").after(update(0.1), None)


def test_the_released_rule_counts_ten_losses_that_need_not_follow_each_other():
    losses = [5e-5, 2e-4] * 9 + [1e-4, 5e-5, 5e-5]
    # Nine by update 17; 1e-4 itself is not below.
    assert stops_at(released_loss_rule(), losses) == 20


def test_exact_match_is_a_share_of_the_list_that_is_meant():
    rule = ExactMatchReached("A", share=0.75)
    assert rule.after_looking([look(1, 1, 1, 1, items="B")]) is None
    assert rule.after_looking([look(1, 1, 1, 1, match="strict")]) is None
    assert rule.after_looking([look(1, 1, 0, 0)]) is None
    assert rule.shortfall() == "exact match of A of 0.75 (0.500 at last)"
    assert rule.after_looking([look(0, 0, 0, 0, items="B"), look(1, 0, 1, 1)]) == (
        "exact match of A of 0.75 or more"
    )


def test_patience_of_exact_match_starts_afresh_when_items_are_lost_again():
    rule = ExactMatchReached("A", patience=2)
    found = [rule.after_looking([look(1, right)]) for right in (1, 0, 1, 1)]
    assert found == [None, None, None, "exact match of A of 1 or more in 2 evaluations in a row"]


def test_updates_and_looks_that_say_nothing_leave_a_rule_as_it_is():
    rule = ExactMatchReached("A", patience=2)
    rule.after_looking([look(1, 1)])
    assert rule.after(update(0.0), None) is None
    assert rule.after_looking([]) is None
    assert rule.after_looking([look(1, 1)]) is not None


def test_all_rules_have_to_be_fulfilled_at_once():
    rule = AllOf(LossBelow(0.5, source="A"), ExactMatchReached("A"))
    assert rule.shortfall() == (
        "loss of A below 0.5 nats (none yet), exact match of A of 1 (none yet)"
    )
    assert rule.after(update(1.0, A=0.4), None) is None
    assert rule.after_looking([look(1, 0)]) is None
    assert rule.shortfall() == "exact match of A of 1 (0.500 at last)"
    # The loss is up again when all are right; then it falls, and they still are.
    assert rule.after(update(1.0, A=0.6), None) is None
    assert rule.after_looking([look(1, 1)]) is None
    assert rule.after(update(1.0, A=0.4), None) == (
        "loss of A below 0.5 nats and exact match of A of 1 or more"
    )


def test_what_rules_remember_comes_back():
    def fresh():
        return AllOf(LossBelow(0.5, patience=3), ExactMatchReached("A", patience=2))

    rule, again = fresh(), fresh()
    rule.after(update(0.4), None)
    rule.after(update(0.3), None)
    rule.after_looking([look(1, 1)])
    again.load_state_dict(rule.state_dict())
    assert again.shortfall() == rule.shortfall()
    assert (again.after(update(0.2), None) is None) == (rule.after(update(0.2), None) is None)
    assert (again.after_looking([look(1)]) is None) == (rule.after_looking([look(1)]) is None)
    assert again.fulfilled == rule.fulfilled is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossBelow(0.0), "loss threshold is 0.0: give nats above 0"),
        (lambda: LossBelow(1.0, patience=0), "patience is 0: give 1 or more"),
        (lambda: ExactMatchReached("A", share=1.1), "is 1.1: give one above 0 and up to 1"),
        (lambda: ExactMatchReached("A", share=0.0), "is 0.0: give one above 0 and up to 1"),
        (AllOf, "no rules were given"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with refused(message):
        make()
