"""A checkpoint on its way to the disk, while training goes on: whole, or not there at all.

                     at once          in a thread      in wait()
    one process      make_folder      write, commit
    several          make_folder      write            all have written: process 0 commits

The folder is filled under another name, and a commit gives it its own. Checksums: each shard's
stands in the index, each index's in config.json, and config.json's own there too.
"""
from harness.folder import (
    checkpoints,
    discard,
    flush_folder,
    is_ours,
    last_good,
    write_config_json,
)
from harness.hosts import agree

import contextlib
import os
import shutil
import threading
import zlib


class Save:
    """The methods stand in the order in which they happen.

    write(folder) writes this process's part. record: what config.json says. files are copied in (a
    tokenizer). Only the newest `keep` checkpoints stay."""

    def __init__(self, out_dir, step, write, record, keep, files):
        import jax
        self.out_dir, self.keep, self.files = out_dir, keep, files
        self.final = out_dir / f"step_{step:08d}"
        self.temp = out_dir / f"step_{step:08d}.tmp"
        self.rank, self.alone = jax.process_index(), jax.process_count() == 1
        # What was read with the checkpoint before (its checksums) is not of this one.
        self.record = {k: v for k, v in record.items() if k not in ("files", "crc32")}
        self.record |= dict(step=step, num_processes=jax.process_count())
        self.thread = threading.Thread(target=self.attempt, args=(self.write_part, write))
        self.error = None

    def attempt(self, work, *args):
        """Do a part of the work, and keep its error, because one that is raised in a thread goes
        unseen: `wait` raises it."""
        try:
            work(*args)
        except OSError as error:
            self.error = OSError(f"{self.final} could not be written ({error.strerror or error}); "
                                 + last_good(self.out_dir))
        except Exception as error:
            self.error = error

    def raise_if_any(self, what):
        """Raise on every process if one of them failed: its own error, or that another `what`."""
        # `agree` gives the largest number of all processes: 1 where one of them failed.
        if agree(self.error is not None):
            raise self.error or OSError(f"{self.final}: {what}; " + last_good(self.out_dir))

    def begin(self):
        """Process 0 makes the folder that all fill; then the thread writes."""
        def make_folder():
            if is_ours(self.temp):
                shutil.rmtree(self.temp)
            self.temp.mkdir(parents=True)

        if self.rank == 0:
            self.attempt(make_folder)
        self.raise_if_any("process 0 could not make the folder")
        self.thread.start()

    def write_part(self, write):
        write(self.temp)
        if self.alone:
            self.commit()

    def commit(self):
        """Give the folder its final name, which says that it is whole; then the oldest go."""
        for file in self.files:
            shutil.copy(file, self.temp)
        small = sorted(p for p in self.temp.iterdir() if p.suffix != ".bin")
        self.record["files"] = {p.name: zlib.crc32(p.read_bytes()) for p in small}
        write_config_json(self.temp, self.record)
        if self.final.exists():
            discard(self.final)
        os.rename(self.temp, self.final)
        flush_folder(self.out_dir)
        for old in checkpoints(self.out_dir)[:-max(1, self.keep)]:
            with contextlib.suppress(OSError):      # the new one is whole, whatever becomes of it
                if old != self.final:
                    discard(old)

    def wait(self):
        """Wait until the checkpoint is whole -> its folder. Raises what went wrong on the way."""
        self.thread.join()
        try:
            self.raise_if_any("another process could not write its part")
            if not self.alone:
                if self.rank == 0:
                    self.attempt(self.commit)
                self.raise_if_any("process 0 could not finish it")
        except Exception:
            shutil.rmtree(self.temp, ignore_errors=True)
            raise
        return self.final
