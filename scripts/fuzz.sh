#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME, one after another: go test takes one at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${FUZZTIME:-10s}

mapfile -t targets < <(grep -rlE --include='*_test.go' '^func Fuzz[A-Z]' . | grep -v '^./tools/' | sort |
	while read -r file; do
		sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file" | while read -r target; do echo "$(dirname "$file") $target"; done
	done)
[ ${#targets[@]} -gt 0 ] || { echo "fuzz: no targets were found" >&2; exit 1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
for t in "${targets[@]}"; do
	read -r dir target <<<"$t"
	echo "fuzz: $dir $target for $time"
	# Minimizing what is merely interesting would eat a short run. When the time is up while a worker starts, go
	# reports "context deadline exceeded" as a failure, without an input: nothing was found then.
	if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x "$dir" </dev/null 2>&1 | tee "$log"; then
		if grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then
			echo "fuzz: $dir $target: the time was up, nothing was found"
		else
			failed+=("$dir $target")
		fi
	fi
done
if [ ${#failed[@]} -gt 0 ]; then
	echo "fuzz: FAILED: ${failed[*]}; the input lies in testdata/fuzz beside the target" >&2
	exit 1
fi
echo "fuzz: ${#targets[@]} targets, nothing found"
