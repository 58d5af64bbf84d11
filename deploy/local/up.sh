#!/usr/bin/env bash
# RabbitMQ, a store with MongoDB's protocol, the four services and a proxy as processes of their own (see stack.py).
set -euo pipefail
. "$(dirname "$0")/common.sh"

# A MongoDB that is given needs no store of ours.
if [ -n "${MDM_MONGODB_URL:-}" ]; then
    install_venv run
else
    install_venv up up
fi
if [ -z "${MDM_AMQP_URL:-}" ]; then
    need_debian rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server "; or set MDM_AMQP_URL"
fi
need_debian nginx /usr/sbin/nginx ""
exec "$VENV/bin/python" deploy/local/stack.py up
