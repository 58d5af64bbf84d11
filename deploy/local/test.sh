#!/usr/bin/env bash
# Every test, on real parts: the tests start a private RabbitMQ node and the store themselves, on
# free loopback ports, unless MDM_TEST_AMQP_URL and MDM_TEST_MONGODB_URL name others.
set -euo pipefail
. "$(dirname "$0")/common.sh"

install_venv dev dev,embedded
if [ -z "${MDM_TEST_AMQP_URL:-}" ]; then
    need_debian rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server \
        "; or point the tests at existing servers: MDM_TEST_AMQP_URL (and MDM_TEST_MONGODB_URL)"
fi
exec "$VENV/bin/python" -m pytest "$@"
