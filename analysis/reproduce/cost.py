r"""Cost: about how long a run takes, from the floating-point operations that it is made of.

A token costs \(6 N\) operations to train on and \(2 N\) to look at, with \(N\) parameters; a scale
says how many its machine makes in a second, and what a run costs beside that. It is an estimate,
for a plan; once runs are over, their pace is known.

Source: Kaplan et al. (2020), "Scaling Laws for Neural Language Models": section 2.1.

Example:
    >>> training_work(1_000, parameters=10) == 3 * reading_work(1_000, parameters=10)
    True
"""

from functools import cache

from training.ckl.config import CklConfig
from training.pretrain.config import PretrainConfig
from training.remix.config import RemixConfig

_TRAINED, _READ = 6, 2
"""Operations of a token and a parameter."""
PROBES_OF_A_PASSAGE = 15
TOKENS_OF_A_PROBE = 40
TOKENS_OF_A_PAIR = 24
"""Of a short fact, question and answer."""
TOKENS_OF_A_WORD = 1.5
_STAGE_SHARE = 0.4
"""Of its epochs that a stage needs, about, where a rule ends it."""


def training_work(tokens: float | int, parameters: int) -> float:
    """Operations to train on tokens."""
    return float(_TRAINED * tokens * parameters)


def reading_work(tokens: float | int, parameters: int) -> float:
    """Operations to look at tokens."""
    return float(_READ * tokens * parameters)


@cache
def parameters_of(config: PretrainConfig) -> int:
    """Parameters of a model that is trained from scratch."""
    return config.model_shape(config.d_vocab).parameters()


def pretraining_work(config: PretrainConfig) -> float:
    """Operations of a pretraining run."""
    tokens = config.steps * config.batch_size * config.row_length
    return training_work(tokens, parameters_of(config))


def knowledge_work(config: CklConfig, parameters: int) -> float:
    """Operations of a run of continual knowledge learning, looks at its probes among them."""
    steps = config.steps or config.last_injection + config.injection_interval
    looks = steps // config.probe_every + 2
    probed = config.passages * PROBES_OF_A_PASSAGE * TOKENS_OF_A_PROBE
    trained = training_work(steps * config.batch_size * config.row_length, parameters)
    return trained + reading_work(looks * probed, parameters)


def memorization_work(config: RemixConfig, parameters: int, *, stages: int | None = None) -> float:
    """Operations of a run in stages."""
    own = config.stages[-stages:] if stages else config.stages
    tokens = 0.0
    for stage in own:
        mixed = 0.0
        if stage.mix is not None:
            mixed = stage.items * stage.mix_ratio * config.mix_words * TOKENS_OF_A_WORD
        tokens += _STAGE_SHARE * stage.epochs * (stage.items * TOKENS_OF_A_PAIR + mixed)
    return training_work(tokens, parameters)
