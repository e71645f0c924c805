"""A document, the unit of all work: a file in a folder, or a record with its text in hand."""
import io
from typing import NamedTuple

from corpora.notebooks import is_notebook, notebook_text


class Document(NamedTuple):
    """What the processes are told: where to read, and what to put before it."""
    path: str           # of the file, or of the file of records
    size: int           # bytes, about
    prefix: str = ""
    raw: bytes | None = None    # of a record: its text

    def opened(self):
        """-> a binary file of its text. OSError, or NoNotebook for what should be one."""
        if self.raw is not None:
            return io.BytesIO(self.raw)
        if is_notebook(self.path):
            with open(self.path, "rb") as file:
                return io.BytesIO(notebook_text(file.read()).encode("utf-8", "surrogatepass"))
        return open(self.path, "rb")
