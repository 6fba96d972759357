"""The long description for package pages: the README, with whole addresses where it has paths.

A package page has no files beside it. Where the project lies is known to the machine that builds a release, by
CLRTOOL_URL or the variables of GitHub Actions; without either, pictures are left out and links become their words.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


class Description(MetadataHookInterface):
    """Gives the metadata of a build its description and the addresses of the project."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling with what pyproject.toml has."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        url, revision = address(os.environ)
        metadata["readme"] = {"content-type": "text/markdown", "text": described(text, url, revision)}
        if url:
            guide = f"{url}/blob/{revision}/clrtool/guide"
            metadata["urls"] = {
                "Source": url,
                "Documentation": f"{guide}/how-it-works.md",
                "Changelog": f"{guide}/changelog.md",
                "Issues": f"{url}/issues",
            }


def address(environment: Any) -> tuple[str, str]:
    """Where the project lies, and the revision that is built; empty where nobody says."""
    server, name = environment.get("GITHUB_SERVER_URL"), environment.get("GITHUB_REPOSITORY")
    url = environment.get("CLRTOOL_URL") or (f"{server}/{name}" if server and name else "")
    return url.rstrip("/"), environment.get("GITHUB_SHA") or "main"


def described(text: str, url: str, revision: str) -> str:
    """The README for a page that has no files beside it."""
    if not url:
        return LINK.sub(r"\1", PICTURE.sub("", text))
    text = PICTURE.sub(rf"![\1]({url}/raw/{revision}/\2)", text)
    return LINK.sub(rf"[\1]({url}/blob/{revision}/\2)", text)
