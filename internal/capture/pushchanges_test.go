package capture_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// summedTo returns up to where the log of timeline 1 is summed up.
func (c *changesTest) summedTo() (end wal.LSN) {
	c.t.Helper()
	list, err := c.log.Summaries(context.Background(), 1, 0, 1<<62)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, s := range list {
		end = max(end, wal.LSN(s.End))
	}
	return end
}

// untilSummed waits until the archiver has summed up every block before end that is complete.
func (c *changesTest) untilSummed(end wal.LSN) {
	c.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		// A record may reach beyond the block's end.
		if c.summedTo()+1<<20 >= end&^(1<<24-1) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the log is summed up to %s of %s", c.summedTo(), end)
		}
	}
}

// Archived log is summed up behind the pushes, by one archiver after the other, and some of it by the first snapshot that
// has to read it: nobody has to read it again.
func TestArchivedLogIsSummedUp(t *testing.T) {
	t.Parallel()
	c := newChangesTest(t)
	c.server = archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	stop := busy(t, c.server)
	load(c.server, "a", 20)
	c.from = redo(t, c.server)
	load(c.server, "b", 60)
	c.to = redo(t, c.server)
	stop()
	c.server.Exec("", "SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(true, '', '')")
	paths := ready(t, c.server)
	first, last := len(paths)/3, len(paths)*2/3
	push := func(paths []string) {
		a := startArchiver(t, &capture.Archiver{Log: c.log})
		var end wal.LSN
		for _, p := range paths {
			if err := a.push(p); err != nil {
				t.Fatal(err)
			}
			n, err := wal.ParseName(filepath.Base(p), smallSegments)
			if err != nil {
				t.Fatal(err)
			}
			end = n.Start + wal.LSN(smallSegments)
		}
		c.untilSummed(end)
		a.stop()
	}
	push(paths[:first])
	push(paths[first:last])
	for _, p := range paths[last:] { // as commands do which no archiver helps
		if _, err := capture.Push(t.Context(), c.log, p); err != nil {
			t.Fatal(err)
		}
	}
	want := c.want()
	before, read := c.check("as it was pushed", want)
	if before == 0 || read < 5 || read >= len(paths) {
		t.Errorf("%d summaries and %d of %d segments were read", before, read, len(paths))
	}
	c.cfg.Keep = true
	c.check("and kept", want)
	c.cfg.Keep = false
	again, rest := c.check("again", want)
	// What is left lies in the blocks at both ends, where no summary begins or ends.
	if blocks := int(c.to>>24 - c.from>>24); again <= before || again < blocks-1 || rest > 34 || rest >= read {
		t.Errorf("%d summaries and %d segments were read of %d blocks", again, rest, blocks)
	}
}

// A segment that the server uses again before it was summed up is left to whoever needs it.
func TestSegmentsThatAreUsedAgainAreNotSummedUp(t *testing.T) {
	t.Parallel()
	c := newChangesTest(t)
	c.server = archiving(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}})
	c.from = redo(t, c.server)
	load(c.server, "a", 40)
	c.to = redo(t, c.server)
	c.server.Exec("", "SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(true, '', '')")
	want, paths := c.want(), ready(t, c.server)
	lost := len(paths) / 2
	a := startArchiver(t, &capture.Archiver{Log: c.log, Ahead: 1})
	for i, p := range paths {
		if err := a.push(p); err != nil {
			t.Fatal(err)
		}
		if i != lost {
			continue
		}
		// While nothing rests: a request keeps the archiver from looking at it.
		b, err := os.ReadFile(paths[0])
		if err == nil {
			err = os.WriteFile(p, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c.untilSummed(c.to)
	a.stop()
	c.check("one segment was used again", want)
}
