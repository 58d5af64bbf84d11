#!/usr/bin/env bash
# The tests against a real MongoDB and RabbitMQ in containers, which end with them: MONGODB and RABBITMQ name images,
# REPLICA_SET (empty: a standalone server) the replica set of one member. Arguments are pytest's.
set -euo pipefail
. "$(dirname "$0")/common.sh"

engine=$(command -v docker || command -v podman) || die "docker or podman is missing"
name=macromdm-tests-$$
trap '"$engine" rm --force --volumes "$name-mongodb" "$name-rabbitmq" >/dev/null 2>&1' EXIT

# until_it_says SECONDS COMMAND ...
until_it_says() {
    local seconds=$1 waited=0
    shift
    until "$@" >/dev/null 2>&1; do
        waited=$((waited + 1))
        [ "$waited" -lt "$seconds" ] || die "gave up on: $*"
        sleep 1
    done
}

"$engine" run --detach --name "$name-mongodb" --publish 127.0.0.1:27017:27017 "${MONGODB:?an image}" \
    mongod --bind_ip_all ${REPLICA_SET:+--replSet "$REPLICA_SET"} >/dev/null
"$engine" run --detach --name "$name-rabbitmq" --publish 127.0.0.1:5672:5672 "${RABBITMQ:?an image}" >/dev/null

mongosh=("$engine" exec "$name-mongodb" mongosh --quiet --eval)
until_it_says 60 "${mongosh[@]}" 'db.hello()'
if [ -n "${REPLICA_SET:-}" ]; then
    "${mongosh[@]}" "rs.initiate({_id: '$REPLICA_SET', members: [{_id: 0, host: '127.0.0.1:27017'}]})" >/dev/null
fi
until_it_says 60 "${mongosh[@]}" 'if (!db.hello().isWritablePrimary) quit(1)'
until_it_says 120 "$engine" exec "$name-rabbitmq" rabbitmq-diagnostics -q check_port_connectivity

# Some tests kill, freeze or refuse a broker of their own.
need_debian rabbitmq-server /usr/lib/rabbitmq/bin/rabbitmq-server ""
need_debian nginx /usr/sbin/nginx ""
need_debian scep /usr/bin/scepclient ""
need_debian libfaketime "$(echo /usr/lib/*/faketime/libfaketimeMT.so.1)" ""

MDM_TEST_MONGODB_URL="mongodb://127.0.0.1:27017/${REPLICA_SET:+?replicaSet=$REPLICA_SET}" \
    MDM_TEST_AMQP_URL=amqp://guest:guest@127.0.0.1:5672/ bash deploy/local/test.sh "$@"
