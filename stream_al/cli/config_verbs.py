"""``config show`` and ``config schema``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from stream_al.cli.options import ConfigFile, Json, Overrides, examples, settings_of
from stream_al.cli.printing import print_json, print_line

SHOW_EXAMPLES = examples("stream-al config show", "stream-al config show --origins --set budget.per_hour=10")
SCHEMA_EXAMPLES = examples("stream-al config schema > config.schema.json")


def show(
    origins: Annotated[
        bool, typer.Option("--origins", help="One line per key, with where it was written.")
    ] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Print the settings in force, of all sources together; secrets are masked."""
    from stream_al import config as config_

    settings = settings_of(config, overrides)
    shown = config_.show(settings)
    if as_json and origins:
        print_json({key: {"value": value, "origin": settings.where(key)} for key, value in _flat(shown)})
    elif as_json:
        print_json(shown)
    elif origins:
        for key, value in _flat(shown):
            print_line(f"{key}: {json.dumps(value, ensure_ascii=False)}  # {settings.where(key)}")
    else:
        import yaml

        print_line(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip())


def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and checkers."""
    from stream_al import config

    print_line(json.dumps(config.schema(), indent=2, ensure_ascii=False))


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    from stream_al.config import Section, Settings

    keys: list[tuple[str, Any]] = []
    for name, value in values.items():
        section = Settings.model_fields[name].annotation if not prefix else None
        if isinstance(section, type) and issubclass(section, Section):
            keys += _flat(value, f"{name}.")
        else:
            keys.append((prefix + name, value))
    return keys
