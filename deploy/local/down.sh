#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "$0")/common.sh"

[ -x "$VENV/bin/python" ] || die "nothing runs here"
exec "$VENV/bin/python" deploy/local/stack.py down
