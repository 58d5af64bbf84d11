#!/usr/bin/env bash
# All four services in one process, in the foreground: exec, so that signals reach it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

install_venv run
exec "$VENV/bin/python" -m services all "$@"
