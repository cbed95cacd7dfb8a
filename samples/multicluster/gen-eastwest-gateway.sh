#!/bin/sh
# Prints the east-west gateway's IstioOperator document, for `istioctl install -f -`.
#
#   gen-eastwest-gateway.sh --mesh mesh1 --cluster cluster01 --network network1 [--revision REV]
#   gen-eastwest-gateway.sh --single-cluster [--revision REV]
#
# It calls `tombolo eastwest-gateway`: the program named by TOMBOLO, else the one on PATH, else the
# one built in this repository.
set -eu

if [ -z "${TOMBOLO:-}" ]; then
  here=$(cd "$(dirname "$0")" && pwd)
  for TOMBOLO in "$(command -v tombolo || true)" "$here/../../target/release/tombolo" "$here/../../target/debug/tombolo"; do
    [ -x "$TOMBOLO" ] && break
  done
fi
if ! command -v "$TOMBOLO" >/dev/null; then
  echo "$0: there is no program $TOMBOLO: put tombolo on PATH, or name it by TOMBOLO=PATH" >&2
  exit 1
fi
exec "$TOMBOLO" eastwest-gateway "$@"
