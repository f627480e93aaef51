"""The command `lstm-jax completion`, which prints a shell script that completes commands, flags and the values of flags."""

import dataclasses
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rich.console import Console

from lstm_jax.commands.common import Positional

_POSITIONAL = get_args(Positional[int])[1]
_SCRIPT = """\
# completion of lstm-jax: put  eval "$(lstm-jax completion {shell})"  into {file}
{prelude}_lstm_jax() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  case "${{COMP_WORDS[*]:1:COMP_CWORD-1}} " in
{cases}
    *) words={top};;
  esac
  [ -n "$words" ] && COMPREPLY=($(compgen -W "$words" -- "$current")) || COMPREPLY=()
}}
complete -o default -F _lstm_jax lstm-jax
"""
_CASE = """\
    {pattern}*)
      case "$previous" in
{choices}        -*) words="";;
      esac
      [ "${{current:0:1}}" = - ] && words={flags};;
"""


@dataclass(frozen=True)
class Completion:
    """Print a shell script that completes commands, flags and the values of flags."""

    shell: Positional[Literal["bash", "zsh"]]
    """Shell that reads the script: `eval "$(lstm-jax completion bash)"`."""

    def __call__(self, console: Console) -> None:
        del console
        from lstm_jax.commands import COMMANDS

        print(script(self.shell, COMMANDS), end="")


def script(shell: str, commands: dict[str, Any]) -> str:
    """Return the shell script that completes the commands of `lstm-jax`, their flags and the values of the flags."""
    cases = []
    for name, command in sorted(commands.items(), key=lambda item: -len(item[0])):  # "data shard-reviews" before "data shard"
        found = {flag: tuple(_choices(kind)) for flag, kind in flags(command)}
        choices = "".join(f"        {flag}) words={shlex.quote(' '.join(values))};;\n" for flag, values in found.items() if values)
        off = [f"--no-{flag.removeprefix('--')}" for flag, kind in flags(command) if kind is bool]
        cases.append(_CASE.format(pattern=shlex.quote(f"{name} "), choices=choices, flags=shlex.quote(" ".join([*found, *off, "--help"]))))
    for first in sorted({name.split()[0] for name in commands if " " in name}):
        second = " ".join(name.split()[1] for name in commands if name.startswith(f"{first} "))
        cases.append(f"    {shlex.quote(f'{first} ')}) words={shlex.quote(second)};;")
    top = shlex.quote(" ".join(dict.fromkeys(name.split()[0] for name in commands)))
    prelude = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return _SCRIPT.format(shell=shell, file=f"~/.{shell}rc", prelude=prelude, cases="\n".join(cases), top=top)


def flags(command: Any) -> Iterator[tuple[str, Any]]:
    """Yield a pair for each flag of a command: its name, such as "--clean", and the type of its value."""
    hints = get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        plain = hints[field.name]
        marks = plain.__metadata__ if hasattr(plain, "__metadata__") else ()
        plain = get_args(plain)[0] if marks else plain
        if dataclasses.is_dataclass(plain):
            yield from flags(plain)
        elif _POSITIONAL not in marks:
            yield f"--{field.name.replace('_', '-')}", plain


def _choices(kind: Any) -> Iterator[str]:
    """Yield, as strings, the values that a flag of the type `kind` can take, or nothing if the type does not list them."""
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) is Union or type(kind).__name__ == "UnionType":
        for one in get_args(kind):
            yield from _choices(one)
