"""Misfits: refusals that are collected, to be told at once."""


class Misfits:
    """Collects refusals, each of which is a line, to be one refusal in the end."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def noted(self) -> "_Noted":
        """Around one thing that may be refused; what comes after it is looked at all the same."""
        return _Noted(self)

    def refuse(self) -> None:
        """Refuse all that was noted; nothing is done where nothing was."""
        if self.found:
            raise Refusals(self.found)

    def note(self, error: ValueError) -> None:
        """Take up a refusal, or each of several in one."""
        told = error.lines if isinstance(error, Refusals) else [str(error)]
        self.found += [line for line in told if line not in self.found]


class _Noted:
    """Says by its type that it keeps refusals to itself, which `contextmanager` could not."""

    def __init__(self, misfits: Misfits) -> None:
        self._misfits = misfits

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, ValueError):
            self._misfits.note(error)
        return isinstance(error, ValueError)


class Refusals(ValueError):
    """Several refusals in one.

    Attributes:
        lines: each of them.
    """

    def __init__(self, lines: list[str]) -> None:
        self.lines = list(lines)
        if len(lines) == 1:
            super().__init__(lines[0])
            return
        listed = "; ".join(f"({number}) {line}" for number, line in enumerate(lines, start=1))
        super().__init__(f"{len(lines)} things do not fit: {listed}")
