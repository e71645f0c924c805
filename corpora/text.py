"""A text file whatever its encoding: read in pieces, measured for the filters, read again."""
import codecs
import dataclasses
import hashlib
import io

PIECE = 2 ** 24     # characters read at once: a longer file is a stream of pieces, each a document
LONGEST_LINE = 1000     # of the paper's filters: no piece goes on further for its line's end

# How a file says its encoding. UTF-32 stands first, because its mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_pieces(file, offset=0):
    """Yields (offset, text) for each piece of a binary file: PIECE characters, and on to the end of
    the line.

    The byte order mark tells the encoding and is no part of the text; without one it is UTF-8. A
    piece can be read again from its offset. UnicodeDecodeError where the bytes are no text.
    """
    start = file.read(4)
    encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
    file.seek(0)
    reader = io.TextIOWrapper(file, encoding, newline="\n")
    reader.seek(offset)
    try:
        while text := reader.read(PIECE):
            if len(text) == PIECE:
                text += reader.readline(LONGEST_LINE + 1)
            yield offset, text
            offset = reader.tell()
    finally:
        reader.detach()     # else the file would be closed with the reader


def comparable(text):
    """str -> the bytes by which copies are found: those with Windows' line ends are copies too."""
    return text.encode().replace(b"\r\n", b"\n")


@dataclasses.dataclass
class Measures:
    """What the filters ask about a file. Where it is no text, `reason` says why and all else is of
    no use."""
    reason: str | None = None   # "nul_byte", "not_utf8", "empty", or None: it is text
    lines: int = 0
    in_lines: int = 0           # characters of all lines, without their ends
    longest_line: int = 0
    hexadecimal: int = 0        # characters that are a digit or one of a to f, A to F
    characters: int = 0
    digest: bytes = b""         # SHA-256 of `comparable`
    pieces: list = dataclasses.field(default_factory=list)  # [(offset, digest of the piece)]


def measure(file):
    """A binary file -> its Measures. One piece of it is in memory at a time."""
    m, digest, blank = Measures(), hashlib.sha256(), True
    try:
        for offset, text in read_pieces(file):
            if "\0" in text:
                return Measures("nul_byte")
            raw = comparable(text)
            digest.update(raw)
            m.pieces.append((offset, hashlib.sha256(raw).digest()))
            blank = blank and text.isspace()
            lengths = [len(line) for line in text.removesuffix("\n").split("\n")]
            m.lines += len(lengths)
            m.in_lines += sum(lengths)
            m.longest_line = max(m.longest_line, *lengths)
            m.hexadecimal += len(raw) - len(raw.translate(None, b"0123456789abcdefABCDEF"))
            m.characters += len(text)
    except UnicodeDecodeError as error:
        binary = error.encoding == "utf-8" and b"\0" in error.object
        return Measures("nul_byte" if binary else "not_utf8")
    m.reason = "empty" if blank else None
    m.digest = digest.digest()
    return m


def read_piece(document, offset, digest):
    """The text of a piece of a Document; None where its file has changed since it was measured, or
    is gone."""
    try:
        with document.opened() as file:
            text = next(read_pieces(file, offset))[1]
            return text if hashlib.sha256(comparable(text)).digest() == digest else None
    except (OSError, ValueError, OverflowError, StopIteration):
        return None
