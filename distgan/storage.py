"""Files in shared storage: a local path, a network file system, s3://... or gs://..., behind one small interface.

Local paths use the operating system's own calls (write aside, then rename: a reader never sees half a file). URIs go through
pyarrow's file systems, the ones that Ray uses, with credentials from the environment; there a put is atomic by itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from distgan.config import ConfigError


class Folder:
    """A folder in storage. Names inside it are relative, with forward slashes."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(uri)
        self._remote: Any = None
        if "://" in self.uri and not self.uri.startswith("file://"):
            self._remote, self._base = _remote_filesystem(self.uri)
        else:
            self._base = str(Path(self.uri.removeprefix("file://")).expanduser().absolute())
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
        head, mark, query = self.uri.partition("?")
        return Folder(f"{head.rstrip('/')}/{name}{mark}{query}" if not self.is_local else f"{self._base}/{name}")

    def read(self, name: str) -> bytes:
        """The file's bytes; FileNotFoundError if it is not there."""
        if self.is_local:
            return Path(self.path(name)).read_bytes()
        with self._remote.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes | str) -> None:
        """Replace the file in one step: readers see the old bytes or the new ones, never a part."""
        data = data.encode() if isinstance(data, str) else data
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

        return bool(self._remote.get_file_info(self.path(name)).type != FileType.NotFound)

    def list(self, name: str = "") -> list[str]:
        """Names directly inside a folder, sorted; empty if the folder is not there."""
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
        path = self.path(name)
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

    def upload(self, source: Path, name: str) -> None:
        """Copy a local folder's files below `name`, each replaced in one step."""
        for file in sorted(p for p in source.rglob("*") if p.is_file() and not p.name.endswith(".tmp")):
            self.write(f"{name}/{file.relative_to(source).as_posix()}".lstrip("/"), file.read_bytes())

    def check_writable(self) -> None:
        """Write, read and delete a small file. Raises ConfigError that names the storage and what failed."""
        probe = f".distgan-check-{uuid.uuid4().hex[:8]}"
        try:
            self.write(probe, b"ok")
            if self.read(probe) != b"ok":
                raise OSError("what was read is not what was written")
            self.remove(probe)
        except Exception as error:  # pyarrow raises many kinds; all mean that nothing could be kept here
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"storage = {self.uri}: cannot write there ({reason}); allowed: a folder you may write to, or s3://bucket/path or "
                "gs://bucket/path of an existing bucket, with credentials in the environment"
            ) from None


def local_copy(folder: Folder) -> Path:
    """Where a process writes files that grow (logs, TensorBoard): the folder itself, or a temporary one to be uploaded."""
    return Path(folder.path()) if folder.is_local else Path(tempfile.mkdtemp(prefix="distgan-"))


def _remote_filesystem(uri: str) -> tuple[Any, str]:
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except Exception as error:
        try:
            import fsspec

            handler, path = fsspec.core.url_to_fs(uri)
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(handler))
        except Exception:
            raise ConfigError(
                f"storage = {uri}: not a usable location ({str(error).splitlines()[0]}); allowed: a folder, s3://bucket/path or gs://bucket/path"
            ) from None
    return filesystem, path.rstrip("/")
