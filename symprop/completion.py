"""Scripts that complete the command line in bash, zsh and fish, written from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence

SHELLS = ("bash", "zsh", "fish")


def script(
    parser: argparse.ArgumentParser, shell: str, names: Mapping[str, Sequence[str]], extra: Mapping[str, Sequence[str]]
) -> str:
    """The script for a shell.

    ``names`` are words that stand for an argument of that name in any command, ``extra`` further words of a command. Where
    no word fits, the shell completes files.

    >>> parser = argparse.ArgumentParser(prog="tool")
    >>> commands = parser.add_subparsers()
    >>> _ = commands.add_parser("run", add_help=False).add_argument("target")
    >>> print(script(parser, "fish", {"target": ["a:b"]}, {}), end="")
    complete -c tool -n __fish_use_subcommand -f -a 'run'
    complete -c tool -n '__fish_seen_subcommand_from run' -a 'a:b'
    """
    commands = {name: [*_words(sub, names), *extra.get(name, ())] for name, sub in _commands(parser).items()}
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser.prog, commands)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _words(parser: argparse.ArgumentParser, names: Mapping[str, Sequence[str]]) -> Iterable[str]:
    for action in parser._actions:
        yield from action.option_strings
        yield from map(str, action.choices or ())
        if not action.option_strings:
            yield from names.get(action.dest, ())


def _bash(program: str, commands: Mapping[str, Sequence[str]]) -> str:
    # A colon parts NAME:EVALUATOR into words otherwise.
    return f"""\
COMP_WORDBREAKS=${{COMP_WORDBREAKS//:}}
_{program}() {{
  local found=""
  if (( COMP_CWORD == 1 )); then found="{' '.join(commands)}"; else case "${{COMP_WORDS[1]}}" in
{_cases(commands, 'found="{}"')}
  esac; fi
  COMPREPLY=($(compgen -W "$found" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _{program} {program}
"""


def _zsh(program: str, commands: Mapping[str, Sequence[str]]) -> str:
    return f"""\
#compdef {program}
local -a found
if (( CURRENT == 2 )); then found=({' '.join(commands)}); else case "$words[2]" in
{_cases(commands, 'found=({})')}
esac; fi
compadd -a found || _files
"""


def _cases(commands: Mapping[str, Sequence[str]], assignment: str) -> str:
    return "\n".join(f"    {name}) {assignment.format(' '.join(words))} ;;" for name, words in commands.items())


def _fish(program: str, commands: Mapping[str, Sequence[str]]) -> str:
    lines = [f"complete -c {program} -n __fish_use_subcommand -f -a '{' '.join(commands)}'"]
    lines += [
        f"complete -c {program} -n '__fish_seen_subcommand_from {name}' -a '{' '.join(words)}'"
        for name, words in commands.items()
    ]
    return "\n".join(lines) + "\n"
