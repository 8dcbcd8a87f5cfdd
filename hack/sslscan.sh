#!/usr/bin/env bash
# Compares what Debian's sslscan finds on a gateway with what docs/protocol.md promises: TLS 1.2 alone, ECDHE with AEAD alone.
set -euo pipefail
address=${1:?usage: hack/sslscan.sh host:port}
command -v sslscan > /dev/null || { echo "sslscan: not installed; on Debian: apt-get install sslscan" >&2; exit 1; }

scan=$(sslscan --no-colour --show-times "$address")
echo "$scan"
found=$(echo "$scan" | awk '/^(SSLv|TLSv)[0-9.]+ +enabled/ {print $1} /^(Preferred|Accepted)/ {print $2, $5}' | sort)
want=$(sort <<'W'
TLSv1.2
TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256
TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384
TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305
W
)
if ! diff <(echo "$want") <(echo "$found"); then
  echo "sslscan: $address offers something else than promised: < promised, > found" >&2
  exit 1
fi
echo "sslscan: $address offers TLS 1.2 with ECDHE and AEAD, and nothing else"
