"""Which rule ends a stage of a chain.

Example:
    >>> from training.remix.recipes import smoke
    >>> stage_rule(smoke(), smoke().stages[1]).shortfall()
    'exact match of B of 1 (not looked at)'
"""

from training.remix.config import RemixConfig, StageConfig
from training.stage_choices import StopWhen
from training.stop_rules import AllOf, ExactMatchReached, LossBelow, Rule, released_loss_rule


def stage_rule(config: RemixConfig, stage: StageConfig) -> Rule | None:
    """What ends a stage before its last step; None for nothing, and for a control.

    Args:
        config: the chain.
        stage: the stage, whose own items go by its name.
    """
    if stage.control is not None:
        return None
    match stage.stop:
        case StopWhen.EPOCHS:
            return None
        case StopWhen.LOSS:
            return _loss(config, stage)
        case StopWhen.EXACT_MATCH:
            return _exact_match(config, stage)
        case StopWhen.LOSS_AND_EXACT_MATCH:
            return AllOf(_loss(config, stage), _exact_match(config, stage))
        case StopWhen.RELEASED:
            return released_loss_rule()


def _loss(config: RemixConfig, stage: StageConfig) -> LossBelow:
    return LossBelow(config.loss_threshold, source=stage.name, patience=config.patience)


def _exact_match(config: RemixConfig, stage: StageConfig) -> ExactMatchReached:
    return ExactMatchReached(stage.name, share=config.exact_match, patience=config.patience)
