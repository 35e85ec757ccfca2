#!/bin/bash
# A cluster that went its own way for some transactions, brought back: by a full restore, a delta that compares every byte,
# a delta by the log, and pg_rewind from the running source, in turn, each on a fresh copy. Recovery is not in the figures.
#
# Usage, as root: bench/delta.sh [rounds]. PostgreSQL in PGBIN (15), the program in HOLDFAST (bin/holdfast), files below DIR,
# SCALE of pgbench (75: 1.1 GB), TRANSACTIONS apart (9.7 x SCALE: each changes two pages, in the table and its index, so that one page
# in a hundred is another one; Holdfast counts those that it wrote), NEAR=1: all of them in the
# same hundredth of the table. A line for each run: wall and CPU seconds.
set -eu
PGBIN=${PGBIN:-/usr/lib/postgresql/15/bin} DIR=${DIR:-/var/tmp/bench-delta} SCALE=${SCALE:-75}
TRANSACTIONS=${TRANSACTIONS:-$((SCALE * 97 / 10))}
HOLDFAST=$(readlink -f "${HOLDFAST:-bin/holdfast}")
agent=
rm -rf "$DIR"
mkdir -p "$DIR/state"
cp "$HOLDFAST" "$DIR/holdfast"
echo Zq7-swordfish-Lm4x9TeVb2KpRd8YwUc1HgNsJ0aFiQ > "$DIR/passphrase"
cat > "$DIR/holdfast.yaml" <<Y
version: 1
sites: {here: {jurisdiction: EU}}
repositories:
  main:
    replicas: [{site: here, url: "file://$DIR/repository"}]
    keys: {passphrase-file: $DIR/passphrase}
    cache: $DIR/cache
systems:
  bench:
    repository: main
    policy: gold
    postgres: {connection: "host=$DIR port=5432 user=postgres dbname=postgres", data-directory: $DIR/source, bin-directory: $PGBIN, checkpoint: fast}
policies:
  gold: {schedule: hourly, log: {interval: 300ms}, retention: {keep-last: 5}}
agent: {state: $DIR/state, listen: "127.0.0.1:0"}
Y
chmod 600 "$DIR/passphrase"
chown -R postgres "$DIR"
as() { (cd "$DIR" && exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$DIR" "$@"); }
hf() { as "$DIR/holdfast" --config "$DIR/holdfast.yaml" --no-progress "$@"; }
ctl() { as "$PGBIN/pg_ctl" -s -w -D "$DIR/$1" -l "$DIR/$1.log" "${@:2}"; }
trap '[ -z "$agent" ] || kill "$agent" 2>/dev/null || true; for d in source apart; do ctl $d -m immediate stop 2>/dev/null || true; done' EXIT

as "$PGBIN/initdb" -D "$DIR/source" -U postgres -A trust -k > /dev/null
cat >> "$DIR/source/postgresql.conf" <<C
listen_addresses = ''
unix_socket_directories = '$DIR'
max_wal_size = 8GB
wal_keep_size = 4GB
shared_buffers = 256MB
C
ctl source -o "-c fsync=off" start
psql() { as "$PGBIN/psql" -qh "$DIR" -U postgres "$@"; }
# pgbench's own rows compress to nothing.
as "$PGBIN/pgbench" -h "$DIR" -U postgres -q -i -I dt -s "$SCALE" postgres 2> /dev/null
psql -c "INSERT INTO pgbench_branches SELECT i, 0 FROM generate_series(1, $SCALE) i" -c "INSERT INTO pgbench_tellers SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, $SCALE * 10) i" \
	-c "ALTER TABLE pgbench_accounts SET UNLOGGED" \
	-c "INSERT INTO pgbench_accounts SELECT i, (i - 1) / 100000 + 1, random() * 100000, md5(i::text) || left(md5((i + 1)::text), 20) FROM generate_series(1, $SCALE * 100000) i" \
	-c "ALTER TABLE pgbench_accounts SET LOGGED" -c "ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid)" -c "ALTER TABLE pgbench_tellers ADD PRIMARY KEY (tid)" \
	-c "ALTER TABLE pgbench_branches ADD PRIMARY KEY (bid)" -c "VACUUM FREEZE" -c CHECKPOINT
ctl source -m fast stop
ctl source start
hf repo init > /dev/null
(cd "$DIR" && exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$DIR" "$DIR/holdfast" --config "$DIR/holdfast.yaml" --no-progress agent) > "$DIR/agent.log" 2>&1 &
agent=$!
hf snapshot create bench
hf restore bench --to "$DIR/apart" > /dev/null
ctl apart -o "-p 5433" start
until [ "$(as "$PGBIN/psql" -Atqh "$DIR" -p 5433 -U postgres -c 'SELECT pg_is_in_recovery()')" = f ]; do sleep 0.2; done
cat > "$DIR/near.sql" <<S
\\set aid random(1, $SCALE * 1000)
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
S
as "$PGBIN/pgbench" -h "$DIR" -p 5433 -U postgres -n ${NEAR:+-f "$DIR/near.sql"} -c 4 -t $((TRANSACTIONS / 4)) postgres > /dev/null
ctl apart -m fast stop
while [ -e "$DIR/apart/pg_wal/holdfast.prefetch" ]; do sleep 1; done # what served its log rests for half a minute
du -sh "$DIR/apart/base" | sed 's/^/cluster: /'

user=(setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$DIR")
run() { # name, command
	local name=$1; shift
	sync
	/usr/bin/env bash -c 'TIMEFORMAT="%R s wall, %U s user, %S s system"; cd "$(dirname "$0")"; time "$@" > "$0" 2>&1' "$DIR/out" "${user[@]}" "$@" 2> "$DIR/time" || { cat "$DIR/out"; exit 1; }
	printf '%-22s %s\n' "$name" "$(tail -1 "$DIR/time")"
	grep -h 'logs told\|every byte' "$DIR/out" | sed 's/^/    /' || true
}
program=("$DIR/holdfast" --config "$DIR/holdfast.yaml" --no-progress)
copy() { rm -rf "$DIR/to"; cp -a "$DIR/apart" "$DIR/to"; }
for _ in $(seq "${1:-3}"); do
	rm -rf "$DIR/to"
	run "full restore" "${program[@]}" restore bench --to "$DIR/to"
	copy; run "delta, compared" "${program[@]}" restore bench --to "$DIR/to" --delta=compare
	copy; run "delta, by the log" "${program[@]}" restore bench --to "$DIR/to" --delta
	copy; run "pg_rewind" "$PGBIN/pg_rewind" -D "$DIR/to" --source-server "host=$DIR user=postgres dbname=postgres"
done
