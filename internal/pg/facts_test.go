package pg

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFactsComeBack(t *testing.T) {
	want := &Facts{
		Version: 150018, SystemID: 7711491612181355601, Timeline: 2, StopTimeline: 3, StartLSN: 0x2000028, StopLSN: 0x2000100,
		SegmentSize: 16 << 20, PageSize: 8192, Checksums: true, BackupLabel: "START …", Tablespaces: []Tablespace{{16390, "far", "/srv/far"}},
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseFacts(Engine, b)
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v: %s", err, cmp.Diff(want, got))
	}
	if got.Major() != 15 || HistoryFile(31) != "0000001f.history" {
		t.Errorf("major %d, history %s", got.Major(), HistoryFile(31))
	}
}

func TestFactsThatMakeNoSense(t *testing.T) {
	for _, c := range []string{
		`{`, `{}`, `{"version":120000,"timeline":1,"segmentSize":16777216}`, `{"version":150000,"timeline":0,"segmentSize":16777216}`,
		`{"version":150000,"timeline":1,"segmentSize":1000}`, `{"version":150000,"timeline":1,"segmentSize":2147483648}`,
		`{"version":150000,"timeline":1,"segmentSize":16777216,"startLsn":"0/3000000","stopLsn":"0/2000000"}`,
	} {
		if f, err := ParseFacts(Engine, json.RawMessage(c)); err == nil {
			t.Errorf("%s is taken for %+v", c, f)
		}
	}
	if _, err := ParseFacts("mariadb", json.RawMessage(`{}`)); err == nil {
		t.Error("a snapshot of another engine is taken for PostgreSQL's")
	}
}
