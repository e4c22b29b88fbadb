"""Addresses of this machine, as torch.distributed needs them."""

from __future__ import annotations

import os
import socket
import struct

PASSED_ON = ("NCCL_", "TORCH_NCCL_", "UCX_", "FI_EFA_", "RDMAV_")
"""Beginnings of variables that tune a cluster's network."""


def passed_on() -> dict[str, str]:
    """Those variables of this process that its workers on other machines shall have too; names of interfaces of here are not among them."""
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON) and not name.endswith("_IFNAME")}


def interface_of(address: str) -> str | None:
    """The network interface (eth0, lo, ...) that has an IPv4 address, or None if that cannot be told (not Linux, IPv6)."""
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
