#!/usr/bin/env bash
# Everything about the code that needs no running server. All checks run, whatever fails first.
set -uo pipefail
. "$(dirname "$0")/common.sh"

install_venv dev dev
bin=$VENV/bin
failed=()

# Programs in Go are built beside the first checks, which use one core each. What fails is told where it is needed.
"$bin/python" deploy/local/go_tools.py >/dev/null 2>&1 &

check() {
    local name=$1
    shift
    if output=$("$@" 2>&1); then
        say "ok      $name"
    else
        say "FAILED  $name"
        printf '%s\n' "$output" >&2
        failed+=("$name")
    fi
}

check "format" "$bin/ruff" format --check .
check "lint" "$bin/ruff" check .
check "types" "$bin/mypy" --strict --package services --package shared
check "import contracts" "$bin/lint-imports"
check "settings table" "$bin/python" -m shared.settings --check
check "tables of commands" "$bin/python" deploy/local/command_tables.py --check
check "OpenAPI document" "$bin/python" deploy/local/openapi_document.py --check
check "OpenAPI is valid" "$bin/openapi-spec-validator" docs/openapi.json
check "links in the documentation" "$bin/python" deploy/local/check_links.py
check "locked packages" "$bin/python" deploy/local/lock.py --check
check "workflows" "$bin/python" deploy/local/check_workflows.py
check "compose file, proxy and manifests" "$bin/python" deploy/local/check_deploy.py

if [ ${#failed[@]} -gt 0 ]; then
    die "failed: ${failed[*]}"
fi
