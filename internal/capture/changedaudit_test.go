package capture_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// silently gives a page an LSN of which no log tells.
func silently(p []byte, block uint32) {
	binary.LittleEndian.PutUint32(p[4:], binary.LittleEndian.Uint32(p[4:])+8)
	binary.LittleEndian.PutUint16(p[8:], page.Checksum(p, block))
}

func auditOf(t *testing.T, m *repo.Manifest) *pg.Audit {
	t.Helper()
	f, err := pg.ParseFacts(m.Engine, m.Facts)
	if err != nil || f.Audit == nil {
		t.Fatalf("the snapshot tells nothing of what it read: %v, %s", err, m.Facts)
	}
	return f.Audit
}

// alarm returns what the repository tells now.
func (c *changing) alarm(t *testing.T) *capture.Alarm {
	t.Helper()
	list, err := c.r.Snapshots(t.Context(), "orders-db")
	if err != nil {
		t.Fatal(err)
	}
	var all []*repo.Manifest
	for _, l := range list {
		all = append(all, l.Manifest)
	}
	return capture.AlarmOf(all)
}

// snapshot takes one, whatever it finds.
func (c *changing) snapshot(t *testing.T, cfg capture.SnapshotConfig) *capture.SnapshotReport {
	t.Helper()
	report, err := capture.Snapshot(t.Context(), c.r, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// What the log did not tell must be found: all of it by a scan of everything, much of it by the samples, after which
// everything is scanned.
func TestChangedFindsItsOwnMistakes(t *testing.T) {
	for _, local := range []bool{true, false} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			t.Parallel()
			c := begun(t, pgtest.Options{Checksums: true}, local)
			full := c.cfg
			full.Scan = capture.ScanFull
			c.changed(t)
			table := c.s.Query("", "SELECT pg_relation_filepath('t')")
			overwrite(t, c.s, table, func(p []byte, block uint32) bool { silently(p, block); return block == 17 })
			c.s.Exec("", "UPDATE t SET s = '' WHERE i = 20000", "CHECKPOINT")
			aSecondLater(t, c.s)
			report := c.snapshot(t, full)
			if report.NotCompared != "" || report.MissedPages != 1 || report.Missed[0].Path != table || report.Missed[0].Block != 17 {
				t.Fatalf("missed %v (not compared: %q), want block 17 of %s", report.Missed, report.NotCompared, table)
			}
			a := c.alarm(t)
			if a == nil || a.Snapshot != string(report.Snapshot.ID) || len(a.Doubtful) != 1 || a.Missed != 1 || !strings.Contains(a.String(), "block 17") {
				t.Errorf("the alarm is %+v", a)
			}
			if got := auditOf(t, report.Snapshot); got.Missed != 1 || len(got.Pages) != 1 || got.Unseen() != nil {
				t.Errorf("the snapshot tells %+v", got)
			}

			aSecondLater(t, c.s)
			before := c.changed(t) // tells of the alarm, too, and is in no doubt itself
			if again := c.alarm(t); again == nil || len(again.Doubtful) != 1 || again.Doubtful[0] == before.Snapshot.ID {
				t.Errorf("a snapshot later the alarm is %+v", again)
			}
			overwrite(t, c.s, "", func(p []byte, block uint32) bool { silently(p, block); return true })
			aSecondLater(t, c.s)
			if report = c.snapshot(t, c.cfg); !strings.Contains(report.FullScan, "a sample found a change") || report.NotCompared != "" {
				t.Fatalf("everything was read because of %q (not compared: %q)", report.FullScan, report.NotCompared)
			}
			if len(report.Missed) != 100 || report.MissedPages < 1000 || auditOf(t, report.Snapshot).Missed != report.MissedPages {
				t.Errorf("%d pages are named, of %d", len(report.Missed), report.MissedPages)
			}
			c.equalsFiles(t, report)
			if a := c.alarm(t); a == nil || a.Missed != report.MissedPages+1 || len(a.Doubtful) != 2 || len(a.Pages) != 10 {
				t.Errorf("the alarm is %+v", a)
			}
			c.clears(t, full, before)
		})
	}
}

// clears ends the alarm in both ways.
func (c *changing) clears(t *testing.T, full capture.SnapshotConfig, last *capture.SnapshotReport) {
	t.Helper()
	for _, id := range c.alarm(t).Doubtful[:1] {
		if err := c.r.Forget(t.Context(), "orders-db", id); err != nil {
			t.Fatal(err)
		}
	}
	if a := c.alarm(t); a == nil || len(a.Doubtful) != 1 || a.Doubtful[0] != last.Snapshot.ID {
		t.Errorf("with one doubtful snapshot gone the alarm is %+v", a)
	}
	if err := c.r.Forget(t.Context(), "orders-db", last.Snapshot.ID); err != nil {
		t.Fatal(err)
	}
	if a := c.alarm(t); a != nil {
		t.Errorf("all of them are gone, and the alarm is %+v", a)
	}
	aSecondLater(t, c.s)
	if report := c.snapshot(t, full); report.MissedPages != 0 || capture.Alarmed(report.Snapshot) {
		t.Errorf("a scan that found nothing tells of an alarm: %+v", auditOf(t, report.Snapshot))
	}
}

// Each snapshot of what changed tells how sure it is.
func TestChangedTellsTheChance(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{Checksums: true}, true)
	c.s.Exec("", "UPDATE t SET s = '' WHERE i % 100 = 0")
	report := c.changed(t)
	relations := int64(0)
	for path, content := range tree(t, c.r, report.Snapshot) {
		if strings.HasPrefix(path, "base/") || strings.HasPrefix(path, "global/") {
			relations += int64(len(content)) / page.Size
		}
	}
	a := auditOf(t, report.Snapshot)
	if a.FullScan != "" || a.Compared < 50 || a.Compared > 64 || a.Unread < relations/2 || a.Unread > relations {
		t.Errorf("of %d pages of relations: %+v", relations, a)
	}
	if u := a.Unseen(); report.Unseen == nil || *u != *report.Unseen || u.Page < 0.9 || u.Hundredth < 0.5 || u.Hundredth > 0.65 {
		t.Errorf("the chance is %+v, reported is %+v", u, report.Unseen)
	}
}

// A page that the log did not name, and that is damaged at the source, was not missed: the source is damaged.
func TestChangedMeetsDamage(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{Checksums: true}, true)
	table := c.s.Query("", "SELECT pg_relation_filepath('t')")
	intact := tree(t, c.r, c.changed(t).Snapshot)[table]
	overwrite(t, c.s, table, func(p []byte, _ uint32) bool { p[4000] ^= 1; return true })
	c.s.Exec("", "CREATE TABLE other (i int)", "CHECKPOINT")
	report := c.snapshot(t, c.cfg)
	if report.FullScan != "" || report.MissedPages > 0 || len(report.Problems) == 0 || len(report.Snapshot.Problems) != len(report.Problems) {
		t.Fatalf("read: %q, missed %v, damaged %v", report.FullScan, report.Missed, report.Problems)
	}
	for _, p := range report.Problems {
		if p.Path != table || !strings.Contains(p.Reason, "as it was before") {
			t.Errorf("damaged is %s, want pages of %s", p, table)
		}
	}
	if got := tree(t, c.r, report.Snapshot)[table]; string(got) != string(intact) {
		t.Error("the snapshot no longer has the intact pages")
	}
}

// A bit of the visibility map that is set in the snapshot, and clear in truth, hides rows; the log must have told. One
// that only a crash has cleared does not matter.
func TestChangedVisibilityMap(t *testing.T) {
	for _, checksums := range []bool{true, false} {
		t.Run(fmt.Sprintf("checksums=%v", checksums), func(t *testing.T) {
			t.Parallel()
			o := pgtest.Options{Version: "15", Checksums: checksums}
			c := begun(t, o, true)
			table := c.s.Query("", "SELECT pg_relation_filepath('t')")
			c.changed(t)
			cleared := func(p []byte, block uint32) bool {
				p[24+10] &^= 0x03 // of heap block 40
				binary.LittleEndian.PutUint16(p[8:], page.Checksum(p, block))
				return true
			}
			overwrite(t, c.s, table+"_vm", cleared)
			c.cfg.Scan = capture.ScanFull
			if report := c.snapshot(t, c.cfg); report.NotCompared != "" || report.MissedPages > 0 {
				t.Errorf("the heap is all visible still, and missed is %v (not compared: %q)", report.Missed, report.NotCompared)
			}
			c.s.Exec("", "VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) t", "CHECKPOINT")
			c.snapshot(t, c.cfg)
			overwrite(t, c.s, table+"_vm", cleared)
			overwrite(t, c.s, table, func(p []byte, block uint32) bool {
				p[10] &^= 0x04
				binary.LittleEndian.PutUint16(p[8:], page.Checksum(p, block))
				return block == 40
			})
			report := c.snapshot(t, c.cfg)
			if report.MissedPages != 1 || report.Missed[0].Path != table+"_vm" || report.Missed[0].Was != report.Missed[0].Is {
				t.Errorf("missed %v (not compared: %q), want block 0 of %s_vm", report.Missed, report.NotCompared, table)
			}
		})
	}
}

// Bits that are cleared behind the snapshot's beginning, and before they are read, are no miss: the page of the visibility map
// keeps its LSN, and replay clears them.
func TestChangedVisibilityMapBehindTheBeginning(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{Version: "15", Checksums: true}, true)
	vm := c.s.Query("", "SELECT pg_relation_filepath('t') || '_vm'")
	c.changed(t)
	before := readFile(t, c.s, vm)
	cfg := c.cfg
	cfg.Scan = capture.ScanFull
	var once sync.Once
	cfg.Progress = func(dr.Progress) {
		once.Do(func() { c.s.Exec("", "UPDATE t SET s = 'late' WHERE i = 20000", "CHECKPOINT") })
	}
	report := c.snapshot(t, cfg)
	after := readFile(t, c.s, vm)
	if bytes.Equal(before, after) || page.LSN(before) != page.LSN(after) || !bytes.Equal(after, tree(t, c.r, report.Snapshot)[vm]) {
		t.Fatal("the snapshot has read no bits that were cleared below an equal LSN: nothing is tested")
	}
	if report.NotCompared != "" || report.MissedPages > 0 {
		t.Errorf("missed %v (not compared: %q), and replay clears what was cleared late", report.Missed, report.NotCompared)
	}
}

func readFile(t *testing.T, s *pgtest.Server, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.DataDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The snapshot of everything that follows a miss may fail. The miss is not forgotten.
func TestChangedMissThenFailure(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{Checksums: true}, true)
	overwrite(t, c.s, "", func(p []byte, block uint32) bool { silently(p, block); return true })
	broken := errors.New("the store is away")
	cfg := c.cfg
	cfg.WaitLog = func(context.Context, wal.TimelineID, wal.LSN, wal.LSN) error { return broken }
	_, err := capture.Snapshot(t.Context(), c.r, cfg)
	var missed *capture.MissedError
	if !errors.As(err, &missed) || !errors.Is(err, broken) || len(missed.Missed) == 0 {
		t.Fatalf("the error is %v", err)
	}
	kept, err := json.Marshal(missed.Missed) // as in the agent's state
	if err == nil {
		err = json.Unmarshal(kept, &c.cfg.Found)
	}
	if err != nil {
		t.Fatal(err)
	}
	report := c.snapshot(t, c.cfg)
	if !strings.Contains(report.FullScan, "a sample found a change") || report.MissedPages < 1000 || !capture.Alarmed(report.Snapshot) {
		t.Errorf("read: %q, missed %d", report.FullScan, report.MissedPages)
	}
}

// Log whose checksums fail says nothing: everything is read.
func TestChangedBrokenLog(t *testing.T) {
	t.Parallel()
	c := begun(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}}, true)
	c.withoutStream(t)
	c.s.Exec("", "UPDATE t SET s = s || '.' WHERE i < 500")
	at, err := wal.ParseLSN(c.s.Query("", "SELECT pg_current_wal_insert_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	c.s.Exec("", "UPDATE t SET s = s || '.'", "CHECKPOINT")
	const size = wal.SegmentSize(1 << 20)
	at = (at + 4096) &^ 7 // within the records of the update
	name := filepath.Join(c.s.DataDir, "pg_wal", wal.SegmentName(1, size.Segment(at), size))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, int64(at-size.Floor(at)))
	b[0] ^= 0xFF
	if err == nil {
		_, err = f.WriteAt(b, int64(at-size.Floor(at)))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	report := c.full(t, "what changed since the snapshot before is not known")
	if !strings.Contains(report.FullScan, "checksum") {
		t.Errorf("the reason is %q", report.FullScan)
	}
	c.changed(t) // from there on the log is whole
}
