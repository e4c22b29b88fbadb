"""Addresses of this machine, as torch.distributed needs them."""

from __future__ import annotations

import errno
import os
import socket
import struct
from datetime import timedelta
from typing import Any

PASSED_ON = ("NCCL_", "TORCH_NCCL_", "UCX_", "FI_EFA_", "RDMAV_")
"""Beginnings of variables that tune a cluster's network."""


def passed_on() -> dict[str, str]:
    """Those variables of this process that its workers on other machines shall have too; names of interfaces of here
    are not among them.
    """
    return {
        name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) and not name.endswith("_IFNAME")
    }


def interface_of(address: str) -> str | None:
    """The network interface (eth0, lo, ...) that has an IPv4 address, or None if that cannot be told (not Linux,
    IPv6).
    """
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                try:
                    # SIOCGIFADDR; the address stands at bytes 20 to 24 of the answer
                    answer = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))
                except OSError:
                    continue
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    except (ImportError, OSError, AttributeError):
        pass
    return None


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def rendezvous_store(address: str, port: int, rank: int, size: int, timeout: timedelta) -> Any:
    """torch's key-value store at rank 0, through which the workers of a group find each other.

    It listens at that one address. Left to itself torch listens on every interface, for anybody, as this store asks for
    no token.
    """
    from torch import distributed

    descriptor = None
    if rank == 0:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            descriptor = socket.create_server((address, port), family=family, backlog=2048).detach()  # torch closes it
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise RuntimeError(
                    f"the process group's rendezvous at {address}:{port} failed to open: {error}"
                ) from error
            # Behind address translation the node's address is none of this machine's; what is forwarded arrives at
            # another
    how: dict[str, Any] = {"timeout": timeout, "master_listen_fd": descriptor}
    return distributed.TCPStore(address, port, size, rank == 0, **how)  # type: ignore[attr-defined]
