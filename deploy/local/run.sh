#!/usr/bin/env bash
# All four services in one process, in the foreground: exec, so that signals reach it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

# A MongoDB that is given needs no embedded store.
if [ -n "${MDM_MONGODB_URL:-}" ]; then
    install_venv run
else
    install_venv run-embedded embedded
fi
exec "$VENV/bin/python" -m services all "$@"
