"""What `make docs` adds to mkdocs: the pages that are made from the code, and a look at what the built ones fetch."""

from __future__ import annotations

import logging
import re
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import api, commands, outside, protos, settings

__all__ = ["on_files", "on_page_markdown", "on_post_page"]

# mkdocs counts what is warned of here; a strict build ends with it.
log = logging.getLogger("mkdocs.hooks.peerload")

_FETCHED: Final = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=\"?(?:https?:)?//[^\s\">]+"
    r"|<link\b(?![^>]*\brel=\"?canonical)[^>]*\bhref=\"?(?:https?:)?//[^\s\">]+"
)
# A bar in a table's code is written with a backslash in the repository, which Python-Markdown would show.
_ROW: Final = re.compile(r"^\|.*", re.MULTILINE)
_CODE: Final = re.compile(r"`[^`]*`")


def generated() -> dict[str, str]:
    """Every page that is made, by its place on the site."""
    return {
        "reference/settings.md": settings.page(),
        "reference/commands.md": commands.page(),
        **{f"reference/python/{name}.md": text for name, text in api.pages().items()},
        **{f"reference/grpc/{package}.md": text for package, text in protos.pages().items()},
        **outside.pages(),
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for place, text in generated().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links that lead out of docs/ lead to the pages of what is there, and bars in tables' code be bars."""
    if not page.file.generated_by:
        markdown = outside.linked(markdown, f"{outside.DOCS}{page.file.src_uri}", page.file.src_uri)
    return _ROW.sub(lambda row: _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of a page that would fetch something from elsewhere: the site is whole without a network."""
    for found in _FETCHED.findall(output):
        log.warning("%s fetches from elsewhere: %s", page.file.src_uri, found)
    return output
