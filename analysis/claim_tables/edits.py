"""Edits: how the start of a run was edited, as the tables of claims say it.

A control stands in the place of a resuscitation, with its ratio and factor, but has no site.

Example:
    >>> stored = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0, "control": None,
    ...           "resuscitation_site": "up", "attention_temperature": None}
    >>> edit_settings(stored)
    {'site': 'up', 'ratio': 0.5, 'factor': 2.0, 'control': None, 'temperature': None}
"""

from collections.abc import Mapping
from typing import Any


def edit_settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The columns `site`, `ratio`, `factor`, `control` and `temperature` of a run.

    Args:
        configuration: as a manifest holds it.
    """
    ratio, control = configuration["resuscitation_ratio"], configuration["control"]
    has_site = ratio is not None and control is None
    return {
        "site": str(configuration["resuscitation_site"]) if has_site else None,
        "ratio": ratio,
        "factor": configuration["resuscitation_factor"],
        "control": None if control is None else str(control),
        "temperature": configuration["attention_temperature"],
    }
