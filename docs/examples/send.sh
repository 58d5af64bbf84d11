#!/usr/bin/env bash
# Sends a message as a device does, signed: send.sh PATH FILE, such as send.sh /mdm/checkin x.plist.
# The identity is that of `python -m services identity --name device --out identity`.
set -euo pipefail

server=${SERVER_URL:-http://127.0.0.1:8080}
identity=${IDENTITY:-identity/device}
signature=$(openssl cms -sign -binary -outform DER -md sha256 \
    -signer "$identity-cert.pem" -inkey "$identity-key.pem" -in "$2" | base64 | tr -d '\n')
curl --silent --show-error --request PUT "$server$1" \
    --header "Mdm-Signature: $signature" \
    --header 'Content-Type: application/x-apple-aspen-mdm' \
    --data-binary @"$2" --write-out '\n%{http_code}\n'
