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

failed=()
for t in "${targets[@]}"; do
	read -r dir target <<<"$t"
	echo "fuzz: $dir $target for $time"
	# Minimizing what is merely interesting would eat a short run.
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x "$dir" </dev/null || failed+=("$dir $target")
done
if [ ${#failed[@]} -gt 0 ]; then
	echo "fuzz: FAILED: ${failed[*]}; the input lies in testdata/fuzz beside the target" >&2
	exit 1
fi
echo "fuzz: ${#targets[@]} targets, nothing found"
