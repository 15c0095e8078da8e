"""How a user's mistake is answered: one error of one line."""

from contextlib import contextmanager

import pytest


@contextmanager
def refused(match, error=ValueError):
    """Around what must be refused, in a line that matches."""
    with pytest.raises(error, match=match) as raised:
        yield raised
    assert "\n" not in str(raised.value)
