#!/usr/bin/env bash
# What `make lint` does: every check is run, all findings are told, and any of them fails it.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=()
check() { # name, command …
	local name=$1
	shift
	echo "lint: $name"
	"$@" || failed+=("$name")
}

# The linters' versions are pinned in tools/go.mod, apart from the program's own dependencies.
bin=$PWD/.bin
(cd tools && go build -o "$bin/" mvdan.cc/gofumpt honnef.co/go/tools/cmd/staticcheck golang.org/x/vuln/cmd/govulncheck)

formatted() {
	local files
	files=$(find . -name '*.go' -not -path './.bin/*' -not -path './tools/*' -print0 | xargs -0 "$bin/gofumpt" -l)
	[ -z "$files" ] || { printf 'not formatted; run gofumpt -w on:\n%s\n' "$files" >&2; return 1; }
}

# The exit code of govulncheck is 3 where the program calls a function with a known vulnerability.
vulnerabilities() {
	local out code=0
	out=$(timeout 300 "$bin/govulncheck" ./... 2>&1) || code=$?
	case $code in
	0) return 0 ;;
	3) printf '%s\n' "$out" >&2; return 1 ;;
	esac
	if grep -qiE 'vuln\.go\.dev|fetching vulnerabilities|dial tcp|no such host|lookup ' <<<"$out" || [ "$code" -eq 124 ]; then
		echo "lint: govulncheck was SKIPPED: the database https://vuln.go.dev cannot be reached from here"
		return 0
	fi
	printf '%s\n' "$out" >&2
	return 1
}

check gofumpt formatted
check "go vet" go vet ./...
check staticcheck "$bin/staticcheck" ./...
check "house rules" go test -count=1 ./internal/lint/
check govulncheck vulnerabilities

if [ ${#failed[@]} -gt 0 ]; then
	printf 'lint: FAILED:'
	printf ' %s;' "${failed[@]}"
	echo
	exit 1
fi >&2
echo "lint: clean"
