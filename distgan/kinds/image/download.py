"""Fetching a known set into data.root, through torchvision, which knows the addresses and checksums."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 30.0  # without an answer for so long, a connection counts as dead


def fetch(title: str, parts: list[str], root: Path, present: Callable[[], bool]) -> None:
    """Download the parts of torchvision's set `title` into root. Waits where another process does it already.

    Only archives whose checksum torchvision knows are written; nothing is unpickled here. Raises what the network
    raises.
    """
    from filelock import FileLock

    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{title}.lock"):
        if present():
            return
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(
            TIMEOUT_S
        )  # torchvision's downloads set none, and would wait for ever behind a silent firewall
        try:
            _download(title, parts, root)
        finally:
            socket.setdefaulttimeout(before)


def _download(title: str, parts: list[str], root: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    kind = getattr(datasets, title)
    if title in ("CIFAR10", "CIFAR100"):
        download_url(kind.url, str(root), kind.filename, kind.tgz_md5)
    elif title == "SVHN":
        for part in parts:
            address, name, md5 = kind.split_list[part]
            download_url(address, str(root), name, md5)
    elif title == "STL10":
        download_and_extract_archive(kind.url, str(root), filename=kind.filename, md5=kind.tgz_md5)
    elif title == "CelebA":
        kind(str(root), split="all", download=True)
    else:
        kind(str(root), train=True, download=True)
