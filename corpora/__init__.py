"""Text as it lies about, and what is made of it: see README.md. Stands below the scripts."""
import harness.cli  # noqa: F401 -- first, because from its import on Ctrl-C is quiet
