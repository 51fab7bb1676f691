"""Files ending in `.gz` and `.zst`. One that is damaged or breaks off is an error, never a shorter file."""

import gzip
import os
import shutil
import zlib
from contextlib import AbstractContextManager
from typing import Any, Protocol

from reasonrl.errors import ReasonRLError

SUFFIXES = (".gz", ".zst")

PIECE = 1 << 14  # compressed bytes at a time: what they unpack to is held in memory at once


class Readable(Protocol):
    """Bytes as they come: at most `size`, none at the end."""

    def read1(self, size: int, /) -> bytes: ...


class Gunzip(gzip.GzipFile):
    """The text of a gzip file; damage is a ReasonRLError."""

    def read1(self, size: int = -1) -> bytes:
        try:
            return super().read1(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ReasonRLError(f"{self.name}: broken gzip file ({error})") from None


class Unzstd:
    """The text of a zstd file; damage is a ReasonRLError.

    zstandard's own stream_reader takes a file that breaks off for one that ends there.
    """

    def __init__(self, path: str):
        import zstandard

        self._error = zstandard.ZstdError
        self._new_frame = lambda: zstandard.ZstdDecompressor().decompressobj()
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._file = open(path, "rb")
        self._left = b""

    def __enter__(self) -> "Unzstd":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read1(self, _size: int = -1) -> bytes:
        while packed := self._left or self._file.read1(PIECE):
            self._frame = self._frame or self._new_frame()
            try:
                text = self._frame.decompress(packed)
            except self._error as error:
                raise ReasonRLError(f"{self._file.name}: broken zstd file ({error})") from None
            self._left = self._frame.unused_data
            if self._frame.eof:  # a file may hold several frames, one after the other
                self._frame = None
            if text:
                return text
        if self._frame:
            raise ReasonRLError(f"{self._file.name}: broken zstd file (it breaks off)")
        return b""


def unpack(path: str) -> AbstractContextManager[Readable]:
    """Opens a file with one of SUFFIXES for reading (`read1`, context manager). Raises OSError as open does, and
    ReasonRLError for an empty file: even of nothing both formats make some bytes."""
    if os.path.isfile(path) and not os.path.getsize(path):
        raise ReasonRLError(f"{path}: broken {'gzip' if path.endswith('.gz') else 'zstd'} file (it is empty)")
    return Gunzip(path, "rb") if path.endswith(".gz") else Unzstd(path)


def pack(plain: str, packed: str, named: str) -> None:
    """Compresses the file `plain` to `packed`, in the way that the suffix of `named` asks for."""
    with open(plain, "rb") as source, open(packed, "wb") as target:
        if named.endswith(".gz"):
            # Neither name nor time in the header: the same records give the same bytes.
            packer: Any = gzip.GzipFile(filename="", fileobj=target, mode="wb", compresslevel=6, mtime=0)
        else:
            import zstandard

            packer = zstandard.ZstdCompressor().stream_writer(target, closefd=False)
        with packer:
            shutil.copyfileobj(source, packer, 1 << 20)
