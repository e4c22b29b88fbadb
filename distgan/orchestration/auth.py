"""The token that a Ray cluster asks for."""

from __future__ import annotations

import os
from pathlib import Path


def use_token() -> None:
    """Use a token that is at hand: Ray itself ignores it unless $RAY_AUTH_MODE says so. To be called before Ray is
    imported.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    file = Path(os.path.expanduser(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")))
    if os.environ.get("RAY_AUTH_TOKEN") or file.is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


def token_source() -> str:
    """Where Ray takes its token from, for messages."""
    variables = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return next((f"${name}" for name in variables if os.environ.get(name)), "~/.ray/auth_token")
