"""Part files of embeddings: one per window of rows, concatenated once all of them exist.

    <output>.parts/  manifest.json  part-000000.parquet ...

A part stores the digest of its inputs, so a restarted command reuses those that are still valid.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock, Timeout

from finetune.errors import ConfigError, DataError
from finetune.io.files import atomic, write_json
from finetune.io.references import refuse_url

SUFFIX = ".parquet"
DIGEST = b"made_of"


def check_vector_file(path: Path) -> None:
    """Raise ConfigError for a file that is not Parquet."""
    refuse_url(path)
    if path.suffix != SUFFIX:
        raise ConfigError(f"-o {path}: vectors are written as parquet; name a {SUFFIX} file")


@contextmanager
def writing_alone(output: Path) -> Iterator[None]:
    """Hold the lock of an output. Raises ConfigError if another command is writing it."""
    lock = FileLock(output.with_name(f".{output.name}.lock"), timeout=0)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"-o {output}: another command is writing this file; wait for it, or name another file"
        ) from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks; what cannot be written is reported later
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class PartFiles:
    """Part files of an output, each written atomically.

    `made_of` is the digest of the network and of the task's keys, `rows` the size of the table,
    `window` the rows of a part.
    """

    def __init__(self, output: Path, made_of: str, rows: int, window: int) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.parts")
        self.facts = {"made_of": made_of, "window": window, "rows": rows}
        self.count = -(-rows // window)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Prepare the folder, and hold the lock of the output while its parts are written.

        Raises ConfigError if another command is writing the same output.
        """
        with writing_alone(self.output):
            self.prepare()
            yield

    def prepare(self) -> None:
        """Create the folder; delete parts of another network or of a table of another size."""
        manifest = self.folder / "manifest.json"
        saved = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
        try:
            if saved != self.facts:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(manifest, self.facts)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error}") from error

    def is_valid(self, number: int, digest: str) -> bool:
        path = self.path_of(number)
        return path.is_file() and _digest_of(path) == digest.encode()

    def is_finished(self, digests: Iterable[str]) -> bool:
        """True if the output was made of parts with these digests, in this order."""
        try:
            return _digest_of(self.output) == self._made_of(map(str.encode, digests))
        except (OSError, pa.ArrowException):
            return False

    def _made_of(self, digests: Iterable[bytes]) -> bytes:
        """Return the digest of the output from those of its parts."""
        whole = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode())
        for digest in digests:
            whole.update(digest)
        return whole.hexdigest().encode()

    def write(self, number: int, rows: list[int], vectors: np.ndarray, digest: str) -> None:
        flat = pa.array(vectors.reshape(-1), type=pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]) if len(rows) else None
        arrays = {"row": pa.array(rows, type=pa.int64())}
        if column is not None:
            arrays["vector"] = column
        table = pa.table(arrays).replace_schema_metadata({DIGEST: digest.encode()})
        try:
            with atomic(self.path_of(number)) as temporary:
                pa.parquet.write_table(table, temporary)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error}") from error

    def concatenate(self) -> int:
        """Concatenate all parts to the output and delete them; return the number of rows."""
        done, paths = 0, [self.path_of(number) for number in range(self.count)]
        facts = {DIGEST: self._made_of(map(_digest_of, paths))}
        with atomic(self.output) as temporary, ExitStack() as stack:
            writer = None
            for path in paths:
                table = pa.parquet.read_table(path).replace_schema_metadata(facts)
                if not table.num_rows:
                    continue
                if writer is None:
                    writer = stack.enter_context(pa.parquet.ParquetWriter(temporary, table.schema))
                writer.write_table(table)
                done += table.num_rows
            if writer is None:
                raise DataError(
                    f"{self.output}: no valid rows to embed; fix the rows, or check the keys that "
                    "set how they are read"
                )
        shutil.rmtree(self.folder)
        return done

    def path_of(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}{SUFFIX}"


def _digest_of(path: Path) -> bytes:
    """Return the digest that a file of vectors stores; empty if it has none."""
    metadata = pa.parquet.read_schema(path).metadata or {}
    return bytes(metadata.get(DIGEST, b""))
