#!/usr/bin/env bash
# A real model on real code, from the Python of this machine to both benchmarks:
#   bash real/run.sh [--minutes M] [--input DIR ...]       Interrupted, it goes on where it was.
exec "${PYTHON:-python}" "$(dirname "$0")/run.py" "$@"
