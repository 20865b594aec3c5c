"""The reference of the command line, written from the application itself.

``python -m stream_al.cli.reference`` rewrites ``docs/cli.md``; a test holds the committed copy equal.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from stream_al.cli.app import app

_ROOT = Path(__file__).parent.parent.parent
_CONTEXT: Any = get_command(app).make_context("stream-al", [], resilient_parsing=True)
HEADER = """\
<!-- Written by python -m stream_al.cli.reference; do not edit. -->
# Command line
"""


def reference() -> str:
    """Return the reference as Markdown."""
    group: Any = get_command(app)
    parts = [HEADER, _text(group), _index(group)]
    parts += [_section(name, command) for name, command in _commands(group, "")]
    return "\n".join(parts)


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _index(group: Any) -> str:
    rows = [f"| [`{name}`](#{name.replace(' ', '-')}) | {_first(c)} |" for name, c in _commands(group, "")]
    return "\n".join(["| verb | what it does |", "|---|---|", *rows, ""])


def _first(command: Any) -> str:
    return " ".join(_text(command).split("\n\n")[0].split())


def _text(command: Any) -> str:
    return inspect.cleandoc(command.help or "").strip() + "\n"


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [
        p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts and not p.hidden
    ]
    usage = " ".join(["stream-al", name, *(_place(p) for p in arguments), "[OPTIONS]"])
    parts = [f"## {name}\n", f"```console\n$ {usage}\n```\n", _text(command)]
    if arguments:
        parts += [
            "| argument | meaning |",
            "|---|---|",
            *(f"| `{_place(p)}` | {_cell(p.help)} |" for p in arguments),
            "",
        ]
    parts += ["| option | default | meaning |", "|---|---|---|"]
    parts += [f"| {_option(p)} | {_default(p)} | {_cell(p.help)} |" for p in options]
    return "\n".join([*parts, "", _examples(command)])


def _place(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option(option: Any) -> str:
    flag = "/".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else " " + (option.metavar or option.display_type(_CONTEXT))
    return f"`{flag}{value}`".replace("|", "\\|")


def _default(option: Any) -> str:
    default = option.default
    if default in (None, [], ()) or (default is False and not option.secondary_opts):
        return ""
    flags = {True: option.opts[0], False: option.secondary_opts[0]} if option.secondary_opts else {}
    return f"`{flags.get(default, default)}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _examples(command: Any) -> str:
    lines = [line for line in (command.epilog or "").split("\n\n") if line.startswith("$ ")]
    return "\n".join(["```console", *lines, "```", ""]) if lines else ""


def main() -> None:
    """Write ``docs/cli.md``."""
    (_ROOT / "docs" / "cli.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
