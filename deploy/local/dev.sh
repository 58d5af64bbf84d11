#!/usr/bin/env bash
# Runs a module of the project with everything developers have: `dev.sh tests.load.bench ...`.
set -euo pipefail
. "$(dirname "$0")/common.sh"

install_venv dev dev
exec "$VENV/bin/python" -m "$@"
