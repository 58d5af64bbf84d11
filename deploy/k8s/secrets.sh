#!/usr/bin/env bash
# secrets.sh FOLDER: write what an overlay's secretGenerator reads (FOLDER/secrets/*.env), with new random keys, unless
# a file is there already. Keep a copy of encryption.env where the backups of the store are not: without it their
# secrets are lost. Git ignores the folder.
set -euo pipefail
umask 077
cd "${1:?which overlay?}"
mkdir -p secrets

write() { # NAME LINE ...
    [ -e "secrets/$1.env" ] && return
    printf '%s\n' "${@:2}" >"secrets/$1.env"
    echo "secrets/$1.env"
}

mongodb=$(openssl rand -hex 24) rabbitmq=$(openssl rand -hex 24)
write encryption "MDM_SECRET_KEY=$(openssl rand -base64 32)"
write api "MDM_API_KEY=$(openssl rand -hex 32)"
write enrollment "MDM_ENROLL_TOKEN=$(openssl rand -hex 16)"
write webhook "MDM_WEBHOOK_URL=https://listener.example.org/webhook"
write mongodb "MONGO_INITDB_ROOT_USERNAME=macromdm" "MONGO_INITDB_ROOT_PASSWORD=$mongodb" \
    "MDM_MONGODB_URL=mongodb://macromdm:$mongodb@mongodb:27017/macromdm?authSource=admin"
write rabbitmq "RABBITMQ_DEFAULT_USER=macromdm" "RABBITMQ_DEFAULT_PASS=$rabbitmq" \
    "MDM_AMQP_URL=amqp://macromdm:$rabbitmq@rabbitmq:5672/" \
    "MANAGEMENT_URL=http://macromdm:$rabbitmq@rabbitmq.macromdm.svc:15672/%2F"
