// Package pgtest runs real PostgreSQL servers for tests. A server lives in a short temporary directory, listens
// on a Unix socket there (and on a loopback port where asked), runs as the user postgres when the test runs as
// root, and is gone when the test ends, also when the test process dies.
//
//	for _, v := range pgtest.Versions(t) {
//		t.Run(v, func(t *testing.T) {
//			s := pgtest.Start(t, pgtest.Options{Version: v, Checksums: true})
//			s.Exec("", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
//			standby := s.Standby(pgtest.Options{})
//			…
//
// Binaries come from Debian's packages (/usr/lib/postgresql), from the cache that scripts/pg-versions.sh fills, and from the
// directories that HOLDFAST_TEST_PG lists, as PATH does: each holds <version>/bin. Where a version is missing the test is skipped, with that reason. The cached ones hold no client
// programs: speak to the server over ConnString.
//
// A failed test prints the end of the server's log. All methods fail the test themselves, except where they
// return an error.
package pgtest
