"""Resuscitation warnings: what a user of such an edit should know before using it."""

from interventions.choices import ResuscitationSite
from interventions.resuscitation import Resuscitation
from probes.entropy import knowledge_entropy


def warnings_of(edit: Resuscitation) -> tuple[str, ...]:
    """One line for each thing that a user may not expect of an edit.

    Args:
        edit: a resuscitation; it need not have been applied.
    """
    return (*_about_entropy(edit), *_about_multipliers(edit), *_about_site(edit))


def _about_entropy(edit: Resuscitation) -> list[str]:
    predicted = edit.predicted_entropy()
    before = float(knowledge_entropy(edit.coefficients).sum())
    if predicted is None or predicted.total >= before:
        return []
    return [
        f"The edit lowers knowledge entropy, from {before:.4f} to {predicted.total:.4f} nats as "
        "predicted; a smaller factor may raise it."
        if edit.factor > 1
        else f"The edit lowers knowledge entropy, from {before:.4f} to {predicted.total:.4f} nats "
        "as predicted; a larger factor may raise it."
    ]


def _about_multipliers(edit: Resuscitation) -> list[str]:
    found, scale, selected = [], edit.multipliers(), edit.selected()
    if skipped := int(edit.skipped().sum()):
        found.append(f"{skipped} neurons were never active; no multiplier helps, so none is used.")
    if weaker := int((scale[selected] < 1).sum()):
        found.append(
            f"{weaker} of {int(selected.sum())} multipliers are below 1: these neurons were more "
            "active than factor times the mean, and become less so."
        )
    if edit.max_multiplier is not None and (
        capped := int((scale[selected] == edit.max_multiplier).sum())
    ):
        found.append(
            f"{capped} multipliers are capped at {edit.max_multiplier:g}; the mean coefficients of "
            "these neurons stay below factor times the mean."
        )
    return found


def _about_site(edit: Resuscitation) -> list[str]:
    match edit.at:
        case ResuscitationSite.PRESERVING:
            return [
                "Site 'preserving' moves knowledge entropy without changing what the model "
                "computes (contribution entropy stays); under Adam it is the same as a learning "
                "rate of its own for each row."
            ]
        case ResuscitationSite.DOWN:
            return [
                "Site 'down' scales memory vectors: coefficients, and with them knowledge entropy, "
                "change in later layers only; contribution entropy does in all."
            ]
        case ResuscitationSite.GATE | ResuscitationSite.UP_PREACTIVATION:
            return [
                f"Site {str(edit.at)!r} acts before the nonlinearity: mean coefficients do not "
                "become factor times the mean, and nothing is predicted."
            ]
    return []
