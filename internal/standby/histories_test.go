package standby

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/pg/walsender"
)

// The source was promoted twice, upstream of the standby and before where that is: what a person promotes all the same is a branch
// of its own. Its timeline has a number that the repository has not, although the server itself has seen none of these.
func TestAPromotedBranchHasANumberOfItsOwn(t *testing.T) {
	t.Parallel()
	source := pgtest.Start(t, pgtest.Options{})
	source.Exec("", "CREATE TABLE book (entry text)")
	s := source.Standby(pgtest.Options{})
	s.Until(t, "", "SELECT count(*) FROM pg_class WHERE relname = 'book'", "1")
	d, err := readControl(t.Context(), s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	log := newStillWorld(t).log
	const left = 0x1000000 // the first byte of a cluster's log
	three := &wal.Timelines{Timeline: 3, Ancestors: []wal.Switch{{Timeline: 1, End: left, Reason: "test"}, {Timeline: 2, End: left + 100, Reason: "test"}}}
	two := &wal.Timelines{Timeline: 2, Ancestors: three.Ancestors[:1]}
	for _, way := range []*wal.Timelines{two, three} {
		if err := log.PutFile(t.Context(), pg.HistoryFile(way.Timeline), way.Format()); err != nil {
			t.Fatal(err)
		}
		// Where the tests' user is another one than the server's: what replaceFile finds keeps its owner.
		tmp := filepath.Join(s.DataDir, "pg_wal", wal.HistoryName(way.Timeline)+".holdfast")
		if err := os.WriteFile(tmp, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		pgtest.Chown(t, tmp)
	}
	tl := newTail(walsender.System{ID: d.SystemID, SegmentSize: d.WALSegmentSize, Major: d.Major()}, log, d.WALSegmentSize.Floor(d.Redo))
	tl.every = time.Hour
	tl.begin(1, d.WALSegmentSize.Floor(d.Redo))
	x := &run{
		o:     Options{Settings: Settings{System: "orders-db", Dir: s.DataDir, Port: s.Port}},
		place: place{dir: s.Socket}, tail: tl, server: &server{dir: s.DataDir}, log: slog.New(slog.DiscardHandler),
	}
	w := &watcher{x: x}
	if w.conn, err = x.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer w.close(t.Context())
	if _, err := w.promote(t.Context(), Promotion{BesidePrimary: true}); err == nil {
		t.Fatal("a branch that was left is promoted, and nobody accepts the loss")
	}
	done, err := w.promote(t.Context(), Promotion{BesidePrimary: true, AcceptLoss: true})
	if err != nil {
		t.Fatal(err)
	}
	if done.Timeline != 4 || done.Missing == "" || len(done.Notes) > 0 {
		t.Errorf("promoted as %+v", done)
	}
	for _, way := range []*wal.Timelines{two, three} {
		if got := read(t, filepath.Join(s.DataDir, "pg_wal", wal.HistoryName(way.Timeline))); got != string(way.Format()) {
			t.Errorf("the history of timeline %d is %q", way.Timeline, got)
		}
	}
}
