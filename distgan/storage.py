"""Files in shared storage: a local path, a network file system, s3://... or gs://..., behind one small interface.

Local paths use the operating system's own calls (write aside, then rename: a reader never sees half a file). URIs go
through pyarrow's file systems, the ones that Ray uses, with credentials from the environment; there a put is atomic by
itself. Networks and object stores fail for moments: what may pass by itself is tried again with growing pauses, what
cannot is not.
"""

from __future__ import annotations

import builtins
import copy
import errno
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from distgan.config import ConfigError
from distgan.text import first_line

T = TypeVar("T")

PAUSES_S: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts at an operation that failed with an error that may pass (pyarrow itself tries 3 times
before).
"""

_PASSING = {
    getattr(errno, name)
    for name in (
        "EIO",
        "ESTALE",
        "ETIMEDOUT",
        "EAGAIN",
        "EBUSY",
        "ENOTCONN",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ECONNRESET",
        "ECONNABORTED",
        "ECONNREFUSED",
        "EREMOTEIO",
        "ENOLINK",
    )
    if hasattr(errno, name)
}
"""What a network file system answers while its server is away."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a storage answers that has no room: it does not pass in a moment, and whoever writes should know at once."""

_LASTING = (
    "ACCESS_DENIED",
    "NO_SUCH_BUCKET",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_ACCESS_KEY",
    "INVALID_CLIENT_TOKEN",
    "AccessDenied",
)
"""What an object store answers to requests that are wrong in themselves."""


class Folder:
    """A folder in storage. Names inside it are relative, with forward slashes."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(uri)
        self._remote: Any = None
        self.pauses_s: tuple[float, ...] = PAUSES_S
        if "://" in self.uri and not self.uri.startswith("file://"):
            self._remote, self._base = _remote_filesystem(self.uri)
            self.pauses_s = PAUSES_S[2:3]
        else:
            self._base = str(Path(os.path.expanduser(self.uri.removeprefix("file://"))).absolute())
            self.uri = self._base

    @property
    def is_local(self) -> bool:
        return self._remote is None

    def __str__(self) -> str:
        return self.uri

    def path(self, name: str = "") -> str:
        """The operating system's path (local), or the key without scheme (remote)."""
        return f"{self._base}/{name}" if name else self._base

    def child(self, name: str) -> Folder:
        """A folder inside this one; a URI's query (`?endpoint_override=...`) stays at its end."""
        inner = copy.copy(self)
        inner._base = f"{self._base}/{name}"
        head, mark, query = self.uri.partition("?")
        inner.uri = inner._base if self.is_local else f"{head.rstrip('/')}/{name}{mark}{query}"
        return inner

    def split(self) -> tuple[str, str]:
        """(the folder above, as a path or URI, name in it)."""
        head, mark, query = self.uri.partition("?")
        above, _, name = head.rstrip("/").rpartition("/")
        return above + mark + query, name

    def read(self, name: str) -> bytes:
        """The file's bytes; FileNotFoundError if it is not there."""
        return self._patiently(lambda: self._read(name))

    def _read(self, name: str) -> bytes:
        if self.is_local:
            return Path(self.path(name)).read_bytes()
        with self._remote.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes | str) -> None:
        """Replace the file in one step: readers see the old bytes or the new ones, never a part."""
        content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
        self._patiently(lambda: self._write(name, content))

    def _write(self, name: str, data: bytes) -> None:
        if self.is_local:
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                with open(aside, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(aside, target)
            finally:
                aside.unlink(missing_ok=True)
        else:
            with self._remote.open_output_stream(self.path(name)) as stream:
                stream.write(data)

    def exists(self, name: str = "") -> bool:
        if self.is_local:
            return os.path.exists(self.path(name))
        from pyarrow.fs import FileType

        return self._patiently(lambda: bool(self._remote.get_file_info(self.path(name)).type != FileType.NotFound))

    def list(self, name: str = "") -> list[str]:
        """Names directly inside a folder, sorted; empty if the folder is not there."""
        return self._patiently(lambda: self._list(name))

    def _list(self, name: str) -> builtins.list[str]:
        if self.is_local:
            try:
                return sorted(os.listdir(self.path(name)))
            except (FileNotFoundError, NotADirectoryError):
                return []
        from pyarrow.fs import FileSelector

        infos = self._remote.get_file_info(FileSelector(self.path(name), allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def remove(self, name: str) -> None:
        """Delete a file or a folder with all it holds; nothing happens if it is not there."""
        self._patiently(lambda: self._remove(self.path(name)))

    def _remove(self, path: str) -> None:
        if self.is_local:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(path).unlink(missing_ok=True)
            return
        from pyarrow.fs import FileType

        kind = self._remote.get_file_info(path).type
        if kind == FileType.Directory:
            self._remote.delete_dir(path)
        elif kind == FileType.File:
            self._remote.delete_file(path)

    def sweep(self, keep: tuple[str, ...] = ()) -> None:
        """Remove the temporary files that killed writers left anywhere inside; names that begin like one in `keep`
        stay.

        For the one process that writes here. An object store has none: there a put is whole or was never made.
        """
        if self.is_local:
            for parent, folders, files in os.walk(self._base):
                for name in [
                    n for n in (*folders, *files) if n.startswith(".") and n.endswith(".tmp") and not n.startswith(keep)
                ]:
                    self._remove(os.path.join(parent, name))

    def _patiently(self, action: Callable[[], T]) -> T:
        for pause in self.pauses_s:
            try:
                return action()
            except OSError as error:
                if not self._may_pass(error):
                    raise
                time.sleep(pause)
        return action()

    def _may_pass(self, error: OSError) -> bool:
        if self.is_local:
            return error.errno in _PASSING
        if error.errno in FULL or isinstance(
            error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
        ):
            return False
        return not any(word in str(error) for word in _LASTING)

    def upload(self, source: Path, name: str) -> None:
        """Copy a local folder's files below `name`, each replaced in one step."""
        for file in sorted(p for p in source.rglob("*") if p.is_file() and not p.name.endswith(".tmp")):
            self.write(f"{name}/{file.relative_to(source).as_posix()}".lstrip("/"), file.read_bytes())

    def check_writable(self) -> None:
        """Write, read and delete a small file. Raises ConfigError that names the storage and what failed."""
        probe = f".distgan-check-{uuid.uuid4().hex[:8]}"
        once = copy.copy(self)  # a person is waiting, and a wrong address is likelier than a moment's outage
        once.pauses_s = ()
        try:
            once.write(probe, b"ok")
            if once.read(probe) != b"ok":
                raise ValueError("what was read is not what was written")
            once.remove(probe)
        except Exception as error:  # pyarrow raises many kinds; all mean that nothing could be kept here
            raise ConfigError(
                f"storage = {self.uri}: cannot write there ({first_line(error)}); allowed: a folder you may write to, "
                "or s3://bucket/path or gs://bucket/path of an existing bucket, with credentials in the environment"
            ) from None


def home_cache() -> Path | None:
    """~/.cache/distgan, or None where there is no home folder that can be written to (a container's user without a
    passwd entry, systemd, cron).
    """
    try:
        home = Path.home()
    except (RuntimeError, KeyError):
        return None
    there = home / ".cache" / "distgan"
    nearest = next(path for path in (there, *there.parents) if path.exists())
    return there if home.is_dir() and os.access(nearest, os.W_OK | os.X_OK) else None


def user_cache() -> Path:
    """Where this user's caches lie: `home_cache`, or a private folder among the temporary ones."""
    there = home_cache()
    if there is not None:
        return there
    user = os.getuid() if hasattr(os, "getuid") else 0
    there = Path(tempfile.gettempdir(), f"distgan-cache-{user}")
    there.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and there.stat().st_uid != user:  # somebody else made it, to be read from
        return Path(tempfile.mkdtemp(prefix="distgan-cache-"))
    return there


def local_copy(folder: Folder) -> Path:
    """Where a process writes files that grow (logs, TensorBoard): the folder itself, or a temporary one to be uploaded.

    Temporary ones of processes that were killed are removed on the way.
    """
    if folder.is_local:
        return Path(folder.path())
    for old in Path(tempfile.gettempdir()).glob("distgan-copy-*"):
        pid = old.name.split("-")[2]
        if pid.isdigit() and not process_lives(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"distgan-copy-{os.getpid()}-"))


def process_lives(pid: int) -> bool:
    """Whether a process of this machine runs (one that ended and is not yet reaped by its parent does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # there, but another user's
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return True


def free_bytes(folder: Folder) -> int | None:
    """Free space where a local folder lies; None for object stores."""
    if not folder.is_local:
        return None
    path = Path(folder.path())
    while not path.exists():
        path = path.parent
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize


def _refuse_credentials(uri: str) -> None:
    """The URI is saved with the run and shown in messages: secrets in it would be too."""
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0]
    words = ("key", "secret", "token", "password")
    secret = [
        key for key, _ in parse_qsl(parts.query, keep_blank_values=True) if any(word in key.lower() for word in words)
    ]
    if (user and (":" in user or parts.scheme in ("s3", "gs", "gcs"))) or secret:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ConfigError(
            f"storage = {shown}: the URI holds credentials, which would be saved and shown with the run; put them into "
            "the environment in its place (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "GOOGLE_APPLICATION_CREDENTIALS)"
        )


def _remote_filesystem(uri: str) -> tuple[Any, str]:
    from pyarrow import fs

    _refuse_credentials(uri)
    if not urlsplit(uri).netloc and urlsplit(uri).scheme in ("s3", "gs", "gcs"):
        raise ConfigError(f"storage = {uri}: names no bucket; allowed: s3://bucket/path or gs://bucket/path")
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except Exception as error:
        try:
            import fsspec

            handler, path = fsspec.core.url_to_fs(uri)
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(handler))
        except Exception:
            raise ConfigError(
                f"storage = {uri}: not a usable location ({first_line(error)}); allowed: a folder, "
                "s3://bucket/path or gs://bucket/path"
            ) from None
    return filesystem, path.rstrip("/")
