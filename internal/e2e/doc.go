// Package e2e tests the whole program as a user has it: the static binary, in processes of its own, on real
// PostgreSQL servers and real stores, while something goes wrong. It holds tests only; what a package promises
// alone is tested beside it.
//
// The binary is built once per run. Each test has a world: a server, a repository, a holdfast.yaml that joins
// them, and commands that run as the user of the server. Whatever is random prints its seed, and -seed repeats it.
package e2e
