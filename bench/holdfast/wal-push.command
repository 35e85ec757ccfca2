"${PEERS:-/var/tmp/bench-peers}/holdfast" --config "$KEYDIR/holdfast-${REPO##*/}/holdfast.yaml" --quiet wal push bench %p
