"""Edit names: what a run did to its start before training, in words.

Example:
    >>> fields = dict.fromkeys(EDIT_FIELDS) | {"attention_temperature": 1.5}
    >>> edit_label(fields | {"temperature_schedule": "constant"})
    'attention temperature 1.5'
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from training.commands.edit_settings import EditFields

UNEDITED_NAME = "unedited"
EDIT_FIELDS = tuple(field.name for field in fields(EditFields))
"""Of a configuration."""


def edit_label(configuration: Mapping[str, Any], *, strength: bool = True) -> str:
    """How a start was edited, in words."""
    parts = []
    if configuration["resuscitation_ratio"] is not None:
        site = configuration["resuscitation_site"]
        control = configuration["control"]
        parts.append(str(site) if control is None else str(control).replace("_", " "))
        if control is None and strength:
            parts.append(
                f"ratio {configuration['resuscitation_ratio']:g}, factor "
                f"{configuration['resuscitation_factor']:g}"
            )
    if configuration["attention_temperature"] is not None:
        schedule = configuration["temperature_schedule"]
        parts.append(
            f"attention temperature {configuration['attention_temperature']:g}"
            + (f" ({schedule})" if schedule != "constant" else "")
        )
    return ", ".join(parts) or UNEDITED_NAME
