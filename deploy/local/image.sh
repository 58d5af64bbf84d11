#!/usr/bin/env bash
# image.sh [NAME:TAG]: the container image of this revision, with its labels. PUSH=1 pushes it as well, with an SBOM and
# its provenance, which needs docker buildx.
set -euo pipefail
. "$(dirname "$0")/common.sh"

image=${1:-macromdm:development}
builder=$(command -v docker || command -v podman) || die "docker or podman is missing"
revision=$(git describe --always --dirty --abbrev=40 --match '' 2>/dev/null || true)
arguments=(--build-arg "REVISION=$revision" --build-arg "SOURCE=${SOURCE:-}" --tag "$image")
if [ "${PUSH:-}" = 1 ]; then
    exec "$builder" buildx build "${arguments[@]}" --sbom=true --provenance=true --push .
fi
exec "$builder" build "${arguments[@]}" .
