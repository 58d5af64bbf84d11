#!/usr/bin/env bash
# RabbitMQ, the store, the four services and a proxy as processes of their own (see stack.py).
set -euo pipefail
. "$(dirname "$0")/common.sh"

install_venv run-embedded embedded
if [ -z "${MDM_AMQP_URL:-}" ]; then
    need_debian rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server "; or set MDM_AMQP_URL"
fi
need_debian nginx /usr/sbin/nginx ""
exec "$VENV/bin/python" deploy/local/stack.py up
