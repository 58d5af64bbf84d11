#!/usr/bin/env bash
# The exact versions of the image's packages (see lock.py).
set -euo pipefail
. "$(dirname "$0")/common.sh"

install_venv dev dev
exec "$VENV/bin/python" deploy/local/lock.py "$@"
