#!/usr/bin/env bash
# Every test, on real parts: the tests start private RabbitMQ nodes and stores themselves, on free
# loopback ports, unless MDM_TEST_AMQP_URL and MDM_TEST_MONGODB_URL name others.
set -euo pipefail
. "$(dirname "$0")/common.sh"

install_venv dev dev
if [ -z "${MDM_TEST_AMQP_URL:-}" ]; then
    need_debian rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server \
        "; or point the tests at existing servers: MDM_TEST_AMQP_URL (and MDM_TEST_MONGODB_URL)"
fi
# Two at a time, each file in one of them: much of the time is waiting. Each has servers of its own; a
# broker that is given is for one of them only. ARGS=-n0 runs all in one process, for a debugger.
workers=(-n 2 --dist loadfile --no-loadscope-reorder)
[ -z "${MDM_TEST_AMQP_URL:-}" ] || workers=()
exec "$VENV/bin/python" -m pytest "${workers[@]}" "$@"
