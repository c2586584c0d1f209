"""Files outside docs/ that documents link to, as pages of the site: charts, rules, examples."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["linked", "page", "pages"]

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs/"

_LINK: Final = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)")
_OWN_PAGES: Final = {"CHANGELOG.md": "changelog.md", "README.md": "index.md"}
_OWN_SECTIONS: Final = {"README.md#settings": "reference/settings.md"}
_LANGUAGES: Final = {".json": "json", ".py": "python", ".yaml": "yaml", ".toml": "toml", ".service": "ini"}


def linked(text: str, source: str, page: str) -> str:
    """A document's text with its links as they are on the site.

    `source` is where the document is in the repository, `page` where its page is, both as paths from the repository's root
    and from the site's.
    """

    def there(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        to = target.removeprefix(DOCS) + match[2] if target.startswith(DOCS) else place(target, match[2])
        return f"]({posixpath.relpath(to, posixpath.dirname(page) or '.')})"

    return _LINK.sub(there, text)


def place(path: str, section: str = "") -> str:
    """Where on the site the page of a file or folder of the repository is, or that of a section (`#…`) of it."""
    if own := _OWN_SECTIONS.get(path + section):
        return own
    if (ROOT / path).is_dir():
        return f"files/{path}/index.md"
    return _OWN_PAGES.get(path, f"files/{path}.md") + section


def pages() -> dict[str, str]:
    """The page of everything outside docs/ that its documents link to, by its place."""
    ahead = sorted({path for document in sorted((ROOT / DOCS).glob("*.md")) for path in leads_out(document)})
    made: dict[str, str] = {"changelog.md": linked((ROOT / "CHANGELOG.md").read_text(), "CHANGELOG.md", "changelog.md")}
    for path in ahead:
        if path in _OWN_PAGES:
            continue
        here = ROOT / path
        for each in [here, *here.rglob("[!.]*")] if here.is_dir() else [here]:
            name = each.relative_to(ROOT).as_posix()
            made[place(name)] = page(name)
    return made


def leads_out(document: Path) -> Iterator[str]:
    """Where a document of docs/ links to beyond it."""
    for link, _ in _LINK.findall(document.read_text()):
        target = posixpath.normpath(DOCS + link)
        if not target.startswith(DOCS):
            yield target


def page(path: str) -> str:
    """The page of one file or folder, in Markdown."""
    here = ROOT / path
    if here.is_dir():
        inside = "\n".join(
            f"- [`{each.name}`]({posixpath.relpath(place(each.relative_to(ROOT).as_posix()), f'files/{path}')})"
            for each in sorted(here.glob("[!.]*"))
        )
        return f"# {path}\n\n{inside}\n"
    text = here.read_text()
    if here.suffix == ".md":
        return linked(text, path, place(path))
    return f"# {here.name}\n\n`{path}`\n\n````{_LANGUAGES.get(here.suffix, 'text')}\n{text.rstrip()}\n````\n"
