package capture_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/changed"
	"github.com/holdfast-dr/holdfast/internal/pg/wal/record"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// changesTest is a log in a repository, and what of it is asked for.
type changesTest struct {
	t        *testing.T
	server   *pgtest.Server // has all of the log in its own files
	memory   *storetest.Memory
	store    *storetest.Faulty
	log      *repo.Log
	way      *wal.Timelines
	from, to wal.LSN
	cfg      capture.ChangesConfig
}

func newChangesTest(t *testing.T) *changesTest {
	c := &changesTest{t: t, memory: storetest.NewMemory(), way: &wal.Timelines{Timeline: 1}, cfg: capture.ChangesConfig{SegmentSize: smallSegments}}
	c.store = storetest.NewFaulty(c.memory)
	_, c.log = logRepository(t, c.store)
	return c
}

func redo(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	s.Exec("", "CHECKPOINT")
	lsn, err := wal.ParseLSN(s.Query("", "SELECT redo_lsn FROM pg_control_checkpoint()"))
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// busy runs statements from two connections until stop is called.
func busy(t *testing.T, s *pgtest.Server) (stop func()) {
	t.Helper()
	s.Exec("", "CREATE TABLE busy (id serial PRIMARY KEY, n int, v text)", "INSERT INTO busy (n, v) SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	for w := range 2 {
		conn, err := pgx.Connect(ctx, s.ConnString(""))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer func() { done <- struct{}{} }()
			defer conn.Close(context.Background()) //nolint:errcheck // nothing to lose
			for n := 0; ctx.Err() == nil; n++ {
				for _, q := range []string{
					fmt.Sprintf("UPDATE busy SET n = n + 1 WHERE id %% 100 = %d", (n*2+w)%100), "SELECT pg_logical_emit_message(false, 'x', repeat('z', 50000))",
					fmt.Sprintf("CREATE TABLE b%d_%d AS SELECT * FROM busy LIMIT 300", w, n), fmt.Sprintf("DROP TABLE b%d_%d", w, n),
				} {
					_, _ = conn.Exec(ctx, q)
				}
			}
		}()
	}
	return func() { cancel(); <-done; <-done }
}

// segment returns the server's file that holds the log of a way at a position.
func (c *changesTest) segment(at wal.LSN) []byte {
	c.t.Helper()
	for tl := c.way.Timeline; tl > 0; tl-- {
		b, err := os.ReadFile(filepath.Join(c.server.DataDir, "pg_wal", wal.SegmentName(tl, smallSegments.Segment(at), smallSegments)))
		if err == nil {
			return b
		}
	}
	c.t.Fatalf("the server does not have the log at %s", at)
	return nil
}

// want is what the server's own files say.
func (c *changesTest) want() []byte {
	c.t.Helper()
	d, err := changed.NewDecoder(record.Config{Start: c.from, Timeline: c.way.Timeline, SegmentSize: smallSegments})
	if err != nil {
		c.t.Fatal(err)
	}
	for d.Next() < c.to {
		b := c.segment(d.Next())
		off := d.Next() - smallSegments.Floor(d.Next())
		if _, err := d.Write(b[off:min(wal.LSN(len(b)), off+c.to-d.Next())]); err != nil {
			c.t.Fatal(err)
		}
	}
	m := d.Cut()
	if len(m.Doubts) > 0 || len(m.Encode()) < 30 {
		c.t.Fatalf("the server's log says little: %d bytes, %v", len(m.Encode()), m.Doubts)
	}
	return m.Encode()
}

// check asks for the changes and compares them; it returns how many summaries and extents were read.
func (c *changesTest) check(what string, want []byte) (summaries, extents int) {
	c.t.Helper()
	before := len(c.store.Calls())
	m, err := capture.ChangedBlocks(c.t.Context(), c.log, c.way, c.cfg, c.from, c.to)
	if err != nil {
		c.t.Errorf("%s: %v", what, err)
		return 0, 0
	}
	if !bytes.Equal(m.Encode(), want) {
		c.t.Errorf("%s: the map from %s to %s is not that of the server's log from %s to %s", what, m.Start, m.End, c.from, c.to)
	}
	for _, call := range c.store.Calls()[before:] {
		switch {
		case call.Op == "get" && strings.HasPrefix(call.Name, "summaries/"):
			summaries++
		case call.Op == "get" || call.Op == "range":
			extents++
		}
	}
	c.t.Logf("%s: %d summaries and %d extents were read for %d MiB", what, summaries, extents, (c.to-c.from)>>20)
	return summaries, extents
}

// uncovered counts the extents of which no summary between from and to says all: at both ends, where another process went on, and
// at a switch. How many these are is a matter of how often the server was heard.
func (c *changesTest) uncovered() (n int) {
	c.t.Helper()
	since := c.from
	for tl := wal.TimelineID(1); tl <= c.way.Timeline; tl++ {
		until := c.to
		if i := slices.IndexFunc(c.way.Ancestors, func(s wal.Switch) bool { return s.Timeline == tl }); i >= 0 {
			until = c.way.Ancestors[i].End
		}
		var gaps [][2]wal.LSN
		for _, s := range c.spans("summaries/", tl) {
			if s[0] >= since && s[1] <= until {
				gaps, since = append(gaps, [2]wal.LSN{since, s[0]}), s[1]
			}
		}
		gaps = append(gaps, [2]wal.LSN{since, until})
		for _, e := range c.spans("log/", tl) {
			if slices.ContainsFunc(gaps, func(g [2]wal.LSN) bool { return max(g[0], e[0]) < min(g[1], e[1]) }) {
				n++
			}
		}
		since = until
	}
	return n
}

// spans returns where the objects of a timeline begin and end.
func (c *changesTest) spans(prefix string, timeline wal.TimelineID) (out [][2]wal.LSN) {
	for _, name := range c.names(prefix) {
		var tl wal.TimelineID
		var s [2]wal.LSN
		if part := strings.Split(name, "/"); len(part) == 4 {
			if n, _ := fmt.Sscanf(part[2]+"/"+part[3], "%08x/%016x-%016x", &tl, &s[0], &s[1]); n == 3 && tl == timeline {
				out = append(out, s)
			}
		}
	}
	return out
}

// refused asks for the changes and expects the error.
func (c *changesTest) refused(what string) *capture.ChangesError {
	c.t.Helper()
	m, err := capture.ChangedBlocks(c.t.Context(), c.log, c.way, c.cfg, c.from, c.to)
	var typed *capture.ChangesError
	if !errors.As(err, &typed) {
		c.t.Fatalf("%s: %v, %v", what, m, err)
	}
	c.t.Logf("%s: %v", what, err)
	return typed
}

func (c *changesTest) names(prefix string) (out []string) {
	for _, n := range c.memory.Names() {
		if strings.HasPrefix(n, prefix) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (c *changesTest) remove(names ...string) {
	c.t.Helper()
	for _, n := range names {
		if err := c.memory.Delete(c.t.Context(), n); err != nil {
			c.t.Fatal(err)
		}
	}
}

// without checks with fewer and fewer summaries.
func (c *changesTest) without(want []byte) {
	c.t.Helper()
	names := c.names("summaries/")
	if err := c.memory.Put(c.t.Context(), names[len(names)/2], []byte("damage")); err != nil {
		c.t.Fatal(err)
	}
	c.check("one summary is damaged", want)
	for range 3 {
		i := rand.IntN(len(names))
		c.remove(names[i])
		names = slices.Delete(names, i, i+1)
		c.check(fmt.Sprintf("%d summaries", len(names)), want)
		if len(names) == 0 {
			break
		}
	}
	c.remove(names...)
	if n, _ := c.check("no summaries", want); n != 0 {
		c.t.Errorf("%d summaries were read where there are none", n)
	}
}

func (c *changesTest) stream() *running {
	return startStream(c.t, capture.StreamConfig{Connection: c.server.ConnString(""), Log: c.log, Interval: 100 * time.Millisecond})
}

// The log of a busy server, received by two processes of which the second goes on in the middle of a block.
func TestChangedBlocksAreThoseOfTheServersLog(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			c := newChangesTest(t)
			c.server = streamServer(t, v)
			str := c.stream()
			stop := busy(t, c.server)
			load(c.server, "a", 3)
			c.from = redo(t, c.server)
			load(c.server, "a", 40)
			str.untilStored(1, flushed(t, c.server))
			if err := str.stop(); err != nil {
				t.Fatal(err)
			}
			str = c.stream()
			load(c.server, "b", 30)
			c.server.Exec("", "DELETE FROM b WHERE i > 5000", "VACUUM b", "SELECT pg_switch_wal()", "VACUUM FULL a")
			c.to = redo(t, c.server)
			stop()
			load(c.server, "c", 1)
			str.untilStored(1, flushed(t, c.server))
			if err := str.stop(); err != nil {
				t.Fatal(err)
			}
			want := c.want()
			blocks := int(c.to>>24 - c.from>>24)
			if n, extents := c.check("all summaries", want); n < blocks-1 || extents > c.uncovered() {
				t.Errorf("%d summaries and %d extents were read for %d blocks, %d extents have no summary", n, extents, blocks, c.uncovered())
			}
			c.without(want)
			c.files(want)
			c.damage()
		})
	}
}

// files checks that the log is read from the server's files, and from the repository where these lack or spoil it.
func (c *changesTest) files(want []byte) {
	c.t.Helper()
	kept := c.memory.Clone()
	names := c.names("log/")
	spoilt := false
	server := func(least wal.LSN) func(wal.TimelineID, wal.LSN) (io.ReadCloser, error) {
		return func(tl wal.TimelineID, from wal.LSN) (io.ReadCloser, error) {
			if tl != 1 || from < least {
				return nil, fmt.Errorf("timeline %d at %s: %w", tl, from, io.ErrUnexpectedEOF)
			}
			var parts []io.Reader
			for p := from; p < c.to; p = smallSegments.Floor(p) + wal.LSN(smallSegments) {
				b := c.segment(p)[p-smallSegments.Floor(p):]
				if spoilt {
					b = bytes.Repeat([]byte{7}, len(b))
				}
				parts = append(parts, bytes.NewReader(b))
			}
			return io.NopCloser(io.MultiReader(parts...)), nil
		}
	}
	c.cfg.Files = server(0)
	c.check("the server has all of it", want)
	spoilt = true
	if _, extents := c.check("the server's files are written anew", want); extents == 0 {
		c.t.Error("no log was read from the repository where the server's is spoilt")
	}
	spoilt, c.cfg.Files = false, nil
	c.remove(names[len(names)/2:]...)
	at := c.refused("the end is missing").At
	c.cfg.Files = server(at)
	if _, extents := c.check("the end is read from the server", want); extents == 0 {
		c.t.Error("no log was read from the repository where the server has only the end")
	}
	c.remove(names[:len(names)/2]...)
	c.cfg.Files = server(0)
	if _, extents := c.check("only the server has any", want); extents > 0 {
		c.t.Errorf("%d extents were read where there are none", extents)
	}
	c.cfg.Files = func(wal.TimelineID, wal.LSN) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("short")), nil
	}
	c.refused("nobody has it")
	c.cfg.Files = nil
	for _, n := range kept.Names() {
		b, err := kept.Get(c.t.Context(), n, 1<<30)
		if err == nil {
			err = c.memory.Put(c.t.Context(), n, b)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// damage checks what is said of a damaged record, of a damaged object and of a gap.
func (c *changesTest) damage() {
	c.t.Helper()
	extents, err := c.log.Extents(c.t.Context(), 1, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	e := extents[slices.IndexFunc(extents, func(e repo.Extent) bool { return wal.LSN(e.Start) > c.from && e.End-e.Start == repo.MaxExtent })]
	data, _, err := c.log.Reader().Read(c.t.Context(), e)
	if err != nil {
		c.t.Fatal(err)
	}
	data = bytes.Clone(data)
	const at = 5 << 20
	data[at+100] ^= 1
	if err := c.log.Encoder().Put(c.t.Context(), 1, e.Start, data, repo.ExtentClock{}, repo.Fast); err != nil {
		c.t.Fatal(err)
	}
	start := wal.LSN(e.Start)
	if got := c.refused("a record is damaged"); got.At > start+at+100 || got.At < start+at-1<<20 || got.Timeline != 1 {
		c.t.Errorf("at %s, the damage is at %s", got.At, start+at+100)
	}
	name := c.names("log/")[slices.IndexFunc(c.names("log/"), func(n string) bool { return strings.Contains(n, fmt.Sprintf("/%016x-", e.Start)) })]
	if err := c.memory.Put(c.t.Context(), name, []byte("damage")); err != nil {
		c.t.Fatal(err)
	}
	c.refused("an object is damaged")
	c.remove(name)
	if got := c.refused("a gap"); got.At != start || !errors.Is(got, store.ErrNotExist) {
		c.t.Errorf("at %s, the gap begins at %s", got.At, start)
	}
}

// A standby is promoted in the middle of a block, while the old primary's log goes on beside it.
func TestChangedBlocksAcrossAPromotion(t *testing.T) {
	t.Parallel()
	for _, v := range pgtest.Versions(t) {
		t.Run(v, func(t *testing.T) {
			c := newChangesTest(t)
			a := streamServer(t, v)
			b := a.Standby(pgtest.Options{InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{"wal_keep_size": "2GB", "max_wal_size": "200MB"}})
			c.server = a
			str := c.stream()
			load(a, "a", 3)
			c.from = redo(t, a)
			load(a, "a", 36)
			b.Until(t, "", "SELECT pg_last_wal_replay_lsn() >= '"+a.Query("", "SELECT pg_current_wal_flush_lsn()")+"'", "t")
			b.Promote()
			load(a, "dead", 36)
			str.untilStored(1, flushed(t, a))
			if err := str.stop(); err != nil {
				t.Fatal(err)
			}
			a.Stop(pgtest.Fast)
			c.server = b
			str = c.stream()
			load(b, "b", 36)
			c.to = redo(t, b)
			load(b, "c", 1)
			str.untilStored(2, flushed(t, b))
			if err := str.stop(); err != nil {
				t.Fatal(err)
			}
			history, err := c.log.File(t.Context(), "00000002.history")
			if err == nil {
				c.way, err = wal.ParseHistory(2, history)
			}
			if err != nil {
				t.Fatal(err)
			}
			want := c.want()
			if n, extents := c.check("all summaries", want); n < 3 || extents > c.uncovered() {
				t.Errorf("%d summaries and %d extents were read, %d extents have no summary", n, extents, c.uncovered())
			}
			c.without(want)
		})
	}
}

// A store that takes no summaries, or hangs over them, does the log no harm.
func TestSummariesThatCannotBeStoredHarmNothing(t *testing.T) {
	t.Parallel()
	for _, when := range []storetest.Moment{storetest.Before, storetest.After, storetest.Stall} {
		t.Run(string(when), func(t *testing.T) {
			c := newChangesTest(t)
			c.server = streamServer(t, "")
			c.store.SetFaults(storetest.Fault{Op: "put", Match: func(n string) bool { return strings.HasPrefix(n, "summaries/") }, When: when})
			str := c.stream()
			load(c.server, "a", 3)
			c.from = redo(t, c.server)
			load(c.server, "a", 50)
			c.to = redo(t, c.server)
			load(c.server, "b", 1)
			end := flushed(t, c.server)
			str.untilStored(1, end)
			if err := str.stop(); err != nil {
				t.Fatal(err)
			}
			if c.store.Fired() == 0 {
				t.Error("nothing failed")
			}
			if n := len(c.names("summaries/")); (n > 0) != (when == storetest.After) {
				t.Errorf("%d summaries are stored", n)
			}
			equalsServer(t, c.server, c.log, 1, smallSegments, end)
			c.check("after faults", c.want())
		})
	}
}
