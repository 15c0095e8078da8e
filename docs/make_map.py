"""Write `docs/map.md`: the files of the four packages, each with what it says of itself first.

Run: make map
"""

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("probes", "interventions", "training", "analysis")
SUFFIXES = (".py", ".toml", ".j2", ".css", ".js")
MAP = ROOT / "docs" / "map.md"
HEAD = """# Map of the modules

Each package imports only from the packages above it. `make map` writes this page.
"""


COMMENTS = r"\{#(.*?)#\}|/\*(.*?)\*/|((?:(?://|#)[^\n]*\n)+)"


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring or of a file's first comment, on one line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.match(COMMENTS, text, re.DOTALL)
        text = re.sub(r"^(//|#)", "", comment[comment.lastindex], flags=re.M) if comment else ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]


def files() -> Iterator[Path]:
    """All files that say something, a folder's own before those in it."""
    for package in PACKAGES:
        paths = (path for path in (ROOT / package).rglob("*.*") if path.suffix in SUFFIXES)
        yield from sorted(
            (path for path in paths if path.name != "__main__.py"),
            key=lambda path: (path.parent, path.name != "__init__.py", path.name),
        )


def page() -> str:
    """The text of the map."""
    parts = [HEAD]
    for folder, paths in groupby(files(), key=lambda path: path.parent):
        name = folder.relative_to(ROOT).as_posix()
        parts.append(f"{'###' if '/' in name else '##'} {name}/\n")
        lines = []
        for path in paths:
            sentence = first_sentence(path)
            if path.name == "__init__.py":
                parts.extend([f"{sentence}\n"] if sentence else [])
            elif sentence:
                lines.append(f"- [{path.name}](../{name}/{path.name}): {sentence}\n")
        parts.append("".join(lines))
    return "\n".join(part for part in parts if part)


if __name__ == "__main__":
    MAP.write_text(page(), encoding="utf-8")
