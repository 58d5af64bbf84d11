#!/usr/bin/env bash
# A simulated fleet against the system of `make up` (see tests/load/demo.py).
set -euo pipefail
. "$(dirname "$0")/common.sh"

install_venv dev dev
need_debian rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server ""
need_debian nginx /usr/sbin/nginx ""
exec "$VENV/bin/python" -m tests.load.demo "$@"
