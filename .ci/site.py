"""What MkDocs does with links that leave docs/: some files come along, of the others only the name is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parent.parent
ALONG = ("SECURITY.md", "CHANGELOG.md", "config.yaml")
_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files of the top level that pages speak of."""
    for name in ALONG:
        files.append(File.generated(config, name, abs_src_path=str(_ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where their targets are on the site."""
    if page.file.src_uri in ALONG:  # written from the top level
        return markdown.replace("](docs/", "](")
    return _LINK.sub(_moved, markdown)


def _moved(link: re.Match[str]) -> str:
    text, target, anchor = link.groups()
    return f"[{text}]({target}{anchor or ''})" if target in ALONG else text
