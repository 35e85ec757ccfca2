package cluster

import "testing"

// What a starting server empties, and what only belongs to a running one, is in no backup.
func TestMayHold(t *testing.T) {
	for path, want := range map[string]bool{
		"PG_VERSION": true, "base/5/16384": true, "pg_xact/0000": true, "pg_tblspc/16385/PG_15_202209061/5/1": true, "backup_label.old": false,
		"pg_wal/000000010000000000000001": false, "pg_replslot/s/state": false, "pg_stat_tmp/global.stat": false, "pg_stat/pgstat.stat": true,
		"base/pgsql_tmp/pgsql_tmp1.0": false, "base/5/pg_internal.init": false, "postmaster.pid": false, "pg_walls": true,
	} {
		if got := MayHold(path); got != want {
			t.Errorf("MayHold(%q) is %t, want %t", path, got, want)
		}
	}
}
