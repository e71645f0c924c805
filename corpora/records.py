"""Files of records: JSON lines, plain, gzipped or by zstd, and parquet. Each record is a document.

They are read as streams by one process, each once: nothing of a file but a few records is in
memory, and nothing is decompressed twice.
"""
import importlib
import json
import os
import zlib

ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".parquet")
LIBRARIES = {".zst": "zstandard", ".parquet": "pyarrow"}    # optional: pip install them
TEXT_KEYS = ("text", "content", "code")     # where a record's text stands: the first that holds one
CHUNK = 2 ** 12     # compressed bytes: text of a chunk that turns out damaged is lost


def is_records(path):
    """Whether a file is one of records, by its name."""
    return path.lower().endswith(ENDINGS)


def check_library(path):
    """ValueError where a file of records needs a library that is not installed."""
    for ending, library in LIBRARIES.items():
        if path.lower().endswith(ending):
            try:
                importlib.import_module(library)
            except ImportError:
                raise ValueError(f"{path}: to read {ending} files, pip install {library}") from None


def read_records(path, keys):
    """Yields (record, bytes of the file read so far) for each record: a dict of those of `keys`
    that it has, at least, or None for a line that is no JSON object.

    Where the file is damaged, after the records that are whole: the exception that its library
    raises.
    """
    if path.lower().endswith(".parquet"):
        yield from parquet_rows(path, keys)
        return
    with open(path, "rb") as file:
        for line in lines(blocks(file, path.lower())):
            if line and not line.isspace():
                yield json_object(line), file.tell()


def text_of(record, keys):
    """The text of a record, as bytes: of the first of `keys` that holds one; None where none does.

    A lone surrogate, as JSON may spell it, becomes bytes that the filters know as no UTF-8.
    """
    for key in keys:
        value = record.get(key)
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, bytes):
            return value
    return None


# ---- JSON lines ----------------------------------------------------------------------------------

def json_object(line):
    """bytes -> dict; None where they are no JSON object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def lines(blocks):
    """Yields the lines of a stream of bytes, the half one before a damage, too."""
    begun, error = [], None
    try:
        for block in blocks:
            first, *others = block.split(b"\n")
            begun.append(first)
            if others:
                yield b"".join(begun)
                yield from others[:-1]
                begun = others[-1:]
    except Exception as raised:     # zlib's, zstandard's, the file's own
        error = raised
    if last := b"".join(begun):
        yield last
    if error:
        raise error


def blocks(file, path):
    """Yields the bytes of a file, decompressed as its name says. EOFError where it was cut off."""
    if path.endswith(".gz"):
        begin = lambda: zlib.decompressobj(wbits=31)
    elif path.endswith(".zst"):
        from zstandard import ZstdDecompressor
        begin = ZstdDecompressor(max_window_size=2 ** 31).decompressobj
    else:
        while block := file.read(2 ** 16):
            yield block
        return
    stream = None       # of the gzip member or the zstd frame that is open: a file may hold many
    padding = b""       # what may stand before it: behind another one zeros, as tapes pad
    while chunk := file.read(CHUNK):
        while chunk := chunk if stream else chunk.lstrip(padding):
            stream = stream or begin()
            yield stream.decompress(chunk)
            chunk = b""
            if stream.eof:
                chunk, stream, padding = stream.unused_data, None, b"\0"
    if stream:
        raise EOFError("it was cut off")


# ---- parquet -------------------------------------------------------------------------------------

def parquet_rows(path, keys):
    """`read_records` of a parquet file. A row group that is damaged costs no other one."""
    from pyarrow import OSFile
    from pyarrow.parquet import ParquetFile
    damage = None
    # OSFile takes a name that is no UTF-8, if as bytes. By its pages, because without a buffer a
    # whole row group's column is read at once.
    with (OSFile(os.fsencode(path)) as raw,
          ParquetFile(raw, buffer_size=2 ** 20, page_checksum_verification=True) as file):
        columns = [field.name for field in file.schema_arrow
                   if field.name in keys and holds_text(field.type)]
        n_rows, n_bytes, n = file.metadata.num_rows, raw.size(), 0
        for group in range(file.num_row_groups):
            try:
                for batch in file.iter_batches(64, [group], columns):
                    for row in rows_of(batch):
                        n += 1
                        yield row, n_bytes * n // n_rows
            except Exception as error:      # ArrowException, OSError, ...
                damage = damage or error
    if damage:
        raise damage


def holds_text(kind):
    """Whether a column of this type holds texts. Others are not read, because not every value of
    theirs (a date of the year 10000) is one of Python's."""
    from pyarrow import types
    return any(is_kind(plain(kind)) for is_kind in (
        types.is_string, types.is_large_string, types.is_string_view, types.is_binary,
        types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary))


def plain(kind):
    """A type as it is without a dictionary, and without a name of its own such as JSON."""
    from pyarrow import types
    kind = getattr(kind, "storage_type", kind)
    return kind.value_type if types.is_dictionary(kind) else kind


def rows_of(batch):
    """A RecordBatch -> its rows, dicts whose texts are bytes: whether they are UTF-8 is the
    filters' question."""
    if not batch.num_columns:
        return [{}] * batch.num_rows
    rows = zip(*(as_bytes(column).to_pylist() for column in batch.columns))
    return [dict(zip(batch.schema.names, row)) for row in rows]


def as_bytes(column):
    """A column of texts -> the same as bytes."""
    import pyarrow as pa
    column = getattr(column, "storage", column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    to_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(),
                pa.string_view(): pa.binary_view()}
    return column.cast(to_bytes.get(column.type, column.type))
