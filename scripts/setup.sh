#!/usr/bin/env bash
# Makes this machine able to build, test and demonstrate Holdfast: checks Go, and installs PostgreSQL from
# Debian's packages where it is missing; with the argument "tests", OpenSSH's server and Azurite too. Where it may not install,
# it says what to install. It changes nothing on a machine that has everything.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { # what, reason, next
	printf 'setup: %s\n  reason: %s\n  next:   %s\n' "$1" "$2" "$3" >&2
	exit 1
}

need=$(sed -n 's/^go //p' go.mod)
command -v go >/dev/null 2>&1 ||
	die "Go is not installed" "this project is built with Go $need" "install it from https://go.dev/dl and put its bin directory into PATH"
# With GOTOOLCHAIN=local there is no download: the version that is installed counts.
have=$(cd / && GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//; s/ .*//')
if [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -n 1)" != "$need" ]; then
	# A newer go command fetches the version that go.mod names; see whether it can.
	go version >/dev/null 2>&1 ||
		die "Go $have is too old" "go.mod asks for Go $need, and it cannot be fetched" "install Go $need or newer from https://go.dev/dl"
fi

# Microsoft's emulator of Azure Blob Storage is a package of npm, kept with what else tests need. Without it its tests
# are skipped, and say so.
azurite() {
	local version dir
	version=$(sed -n 's/.*"azurite": "\([0-9.]*\)".*/\1/p' tools/azurite/package.json)
	dir=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast-test/azurite-$version
	[ ! -e "$dir" ] || return 0
	local skipped="setup: Azurite cannot be installed: the tests of the store in Azure Blob Storage on it are skipped"
	command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 || { echo "$skipped (no node and npm)"; return 0; }
	echo "setup: installing Azurite $version in $dir"
	mkdir -p "$(dirname "$dir")"
	local new
	new=$(mktemp -d "$dir.XXXXXX")
	if timeout 300 npm install --prefix "$new" --no-audit --no-fund --no-package-lock --ignore-scripts --loglevel=error "azurite@$version" </dev/null >/dev/null &&
		mv -T "$new" "$dir"; then
		return 0
	fi
	rm -rf "$new"
	[ -e "$dir" ] || echo "$skipped"
}
[ "${1-}" != tests ] || azurite

# PostgreSQL's server programs are not in PATH on Debian.
postgres() { ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1; }

missing=()
[ -n "$(postgres)" ] || command -v initdb >/dev/null 2>&1 || missing+=(postgresql postgresql-contrib)
wants_sshd() { [ "${1-}" = tests ] && [ ! -x /usr/sbin/sshd ]; }
! wants_sshd "$@" || missing+=(openssh-server)
# What an auditor verifies evidence with.
if [ "${1-}" = tests ]; then
	for program in python3 openssl; do
		command -v "$program" >/dev/null 2>&1 || missing+=("$program")
	done
fi
# The race detector needs a C compiler; the program itself does not.
command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 || missing+=(gcc libc6-dev)
[ ${#missing[@]} -eq 0 ] && exit 0

without_sshd="setup: openssh-server cannot be installed: the tests of the SFTP store on it are skipped"
may_install() { command -v apt-get >/dev/null 2>&1 && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; }
if [ "${missing[*]}" = openssh-server ] && ! may_install; then
	echo "$without_sshd"
	exit 0
fi
command -v apt-get >/dev/null 2>&1 ||
	die "missing: ${missing[*]}" "packages are installed by apt-get only, which is not here" "install PostgreSQL 13 or newer (server and contrib), OpenSSH's server and a C compiler"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
	sudo -n true 2>/dev/null ||
		die "missing: ${missing[*]}" "installing needs root, and sudo asks for a password" "sudo apt-get install ${missing[*]}"
	as_root=(sudo -n)
fi
echo "setup: installing ${missing[*]}"
# The tests start servers of their own: Debian's default cluster is not wanted.
${as_root[@]+"${as_root[@]}"} mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] ||
	echo "create_main_cluster = false" | ${as_root[@]+"${as_root[@]}"} tee /etc/postgresql-common/createcluster.conf >/dev/null
# Nor may this machine let people in because somebody tested Holdfast on it: Debian's service does not start while
# this file is there.
if [[ " ${missing[*]} " == *" openssh-server "* ]]; then
	${as_root[@]+"${as_root[@]}"} mkdir -p /etc/ssh
	${as_root[@]+"${as_root[@]}"} touch /etc/ssh/sshd_not_to_be_run
	echo "setup: the SSH service stays off; to have it on this machine, remove /etc/ssh/sshd_not_to_be_run"
fi
install_missing() { ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null; }
# Without OpenSSH's server its tests are skipped, and say so; the rest is needed.
if [ "${missing[*]}" = openssh-server ]; then
	install_missing || { ${as_root[@]+"${as_root[@]}"} apt-get update -q </dev/null && install_missing; } ||
		echo "$without_sshd"
	exit 0
fi
install_missing || { ${as_root[@]+"${as_root[@]}"} apt-get update -q </dev/null && install_missing; } ||
	die "missing: ${missing[*]}" "apt-get could not install them; its message stands above" "apt-get install ${missing[*]}"
