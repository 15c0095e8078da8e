"""What README, CONTRIBUTING and docs/ point to exists: files, headings, commands and their options."""

import argparse
import importlib
import re
import runpy
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from probes import cli

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = re.compile(
    r"(?:python(?: -O)?|torchrun .*?) -m (?=(?:probes|interventions|training|analysis)\b)|^mnemoscope "
)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    lines = re.findall(r"^#+ (.*)$", prose(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(((?!\w+:)[^)]+)\)", prose(page.read_text()))


def commands(page: Path) -> list[list[str]]:
    """The words of every command of ours, those of `python -m` left out."""
    text = page.read_text()
    shell = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    lines = [*shell.splitlines(), *re.findall(r"`([^`\n]+)`", prose(text))]
    found = [(line, PROGRAM.search(line)) for line in lines]
    return [shlex.split(line[start.end() :], comments=True) for line, start in found if start]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


class Parsed(Exception):
    """Arguments were parsed; the command need not run."""


def parse_only(monkeypatch):
    def stopping(parse):
        def parsed(*args, **kwargs):
            parse(*args, **kwargs)
            raise Parsed

        return parsed

    monkeypatch.setattr(cli, "parse_arguments", stopping(cli.parse_arguments))
    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stopping(parse))


def main_of(program: str):
    is_folder = find_spec(program).submodule_search_locations is not None
    return importlib.import_module(f"{program}.__main__" if is_folder else program).main


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_has_the_options_that_are_shown(page, monkeypatch, capsys):
    parse_only(monkeypatch)
    # What a reader has written beside the commands.
    monkeypatch.setitem(sys.modules, "my_edits", SimpleNamespace(half=None))
    for program, *words in commands(page):
        main = main_of(program)
        if words:
            with pytest.raises((Parsed, SystemExit)) as stop:
                assert main(words) == 0, f"{program} {words}: {capsys.readouterr().err}"
            assert stop.type is Parsed or not stop.value.code, (program, words)


def test_every_target_of_make_exists():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = {name for page in PAGES for name in re.findall(r"\bmake ([a-z]+)`", page.read_text())}
    assert named
    assert named <= set(targets)


def test_the_map_is_up_to_date():
    written = runpy.run_path(str(ROOT / "docs" / "make_map.py"))
    assert written["MAP"].read_text() == written["page"](), "run `make map`"


def test_the_readme_is_short_and_its_tree_is_there():
    text = README.read_text()
    assert len(text.encode()) < 10_000
    tree = re.search(r"```\n(probes/.*?)```", text, flags=re.DOTALL)[1].splitlines()
    assert len(tree) <= 30
    folder = ""
    for line in tree:
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        assert (ROOT / folder / (name if line.startswith(" ") else "")).exists(), line
