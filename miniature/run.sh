#!/usr/bin/env bash
# The paper in miniature, from nothing to the report: bash miniature/run.sh [--quick]. Interrupted, it goes on where it was.
exec "${PYTHON:-python}" "$(dirname "$0")/run.py" "$@"
