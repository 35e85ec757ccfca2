package walsender

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/stream"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

const size = 1 << 20

// book is a log of two timelines: the second begins at left, and goes on to the end of text.
type book struct {
	text []byte // from 0 on
	left wal.LSN
}

func (b *book) System(context.Context) (System, error) {
	return System{ID: 42, Timeline: 2, Flushed: wal.LSN(len(b.text)), SegmentSize: size, Major: 15}, nil
}

func (b *book) History(_ context.Context, tl wal.TimelineID) ([]byte, error) {
	if tl != 2 {
		return nil, errors.New("there is none")
	}
	return (&wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: b.left, Reason: "test"}}}).Format(), nil
}

func (b *book) Send(ctx context.Context, tl wal.TimelineID, from wal.LSN, fn func(wal.LSN, []byte) error) (End, error) {
	to := wal.LSN(len(b.text))
	if tl == 1 {
		if from > b.left {
			return End{}, errors.New("the way does not lead past there")
		}
		to = b.left
	}
	for at := from; at < to; {
		n := min(300<<10, to-at)
		if err := fn(at, b.text[at:at+n]); err != nil {
			return End{}, err
		}
		at += n
	}
	if tl == 1 {
		return End{At: b.left, Next: 2}, nil
	}
	<-ctx.Done() // there is no more
	return End{}, context.Cause(ctx)
}

// sink collects what a receiver gets, and ends it at a position.
type sink struct {
	until   wal.LSN
	got     map[wal.TimelineID][]byte
	history []byte
	idle    int
}

var errEnough = errors.New("enough")

func (s *sink) WAL(_ context.Context, p stream.Piece) error {
	s.got[p.Timeline] = append(s.got[p.Timeline], p.Data...)
	return nil
}

func (s *sink) History(_ context.Context, _ wal.TimelineID, content []byte) error {
	s.history = bytes.Clone(content)
	return nil
}

func (s *sink) Idle(_ context.Context, end wal.LSN, _ time.Time) error {
	if s.idle++; end >= s.until && s.idle > 2 {
		return errEnough
	}
	return nil
}

func serve(t *testing.T, l Log, progress func(Progress)) (conn string) {
	t.Helper()
	dir := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Log: l, Logger: slog.New(slog.DiscardHandler), Progress: progress, Keepalive: 20 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "host=" + dir + " port=5432 user=nobody sslmode=disable"
}

// Our own receiver, which is tested against real primaries, gets the log over the switch of timelines, is kept alive where
// there is no more, and its status arrives.
func TestAReceiverFollows(t *testing.T) {
	b := &book{text: bytes.Repeat([]byte("log of a database "), 200_000), left: 3<<20 - 1000}
	var mu sync.Mutex // guards flushed
	var flushed wal.LSN
	conn := serve(t, b, func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		flushed = max(flushed, p.Flushed)
	})
	for _, from := range []wal.LSN{size, b.left &^ (size - 1), b.left} {
		c, err := cluster.ConnectReplication(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		r := stream.NewReceiver(c, stream.Options{SystemID: 42, StatusInterval: 10 * time.Millisecond})
		r.Ack(from)
		s := &sink{until: wal.LSN(len(b.text)), got: map[wal.TimelineID][]byte{}}
		if err := r.Run(t.Context(), 1, from, s); !errors.Is(err, errEnough) {
			t.Fatalf("from %s: %v", from, err)
		}
		begin := b.left &^ (size - 1)
		if !bytes.Equal(s.got[1], b.text[from:b.left]) || !bytes.Equal(s.got[2], b.text[begin:]) {
			t.Errorf("from %s: %d bytes of timeline 1, want %d; %d of timeline 2, want %d", from, len(s.got[1]), b.left-from, len(s.got[2]), len(b.text)-int(begin))
		}
		if h, err := wal.ParseHistory(2, s.history); err != nil || h.Ancestors[0].End != b.left {
			t.Errorf("the history is %q, %v", s.history, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if flushed != b.left {
		t.Errorf("the standby said that it has %s, and %s arrived", b.left, flushed)
	}
}

// What cannot be had is told, with its reason; what is no replication is refused.
func TestRefusals(t *testing.T) {
	b := &book{text: make([]byte, 2*size), left: size}
	conn := serve(t, b, nil)
	c, err := cluster.ConnectReplication(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	for command, want := range map[string]string{
		"TIMELINE_HISTORY 7": "there is none", "BASE_BACKUP": "not answered here", "SHOW data_checksums": "no setting",
		"CREATE_REPLICATION_SLOT x PHYSICAL": "not answered here", "SELECT 1": "not answered here",
	} {
		if err := c.Exec(t.Context(), command).Close(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", command, err, want)
		}
	}
	s := &sink{got: map[wal.TimelineID][]byte{}}
	r, err := cluster.ConnectReplication(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.NewReceiver(r, stream.Options{SystemID: 41}).Run(t.Context(), 1, size, s); err == nil {
		t.Error("another cluster's log was taken")
	}
	if _, err := cluster.Connect(t.Context(), conn+" dbname=postgres"); err == nil || !strings.Contains(err.Error(), "no database") {
		t.Errorf("a database was served: %v", err)
	}
}

// A second replication ends the first.
func TestTheNewestIsServed(t *testing.T) {
	b := &book{text: make([]byte, 2*size), left: size}
	conn := serve(t, b, nil)
	ended := make(chan error, 1)
	started := make(chan struct{})
	run := func(until wal.LSN, started func()) error {
		c, err := cluster.ConnectReplication(t.Context(), conn)
		if err != nil {
			return err
		}
		return stream.NewReceiver(c, stream.Options{Started: started}).Run(t.Context(), 2, size, &sink{until: until, got: map[wal.TimelineID][]byte{}})
	}
	go func() { ended <- run(wal.MaxLSN, func() { close(started) }) }()
	<-started
	if err := run(2*size, nil); !errors.Is(err, errEnough) {
		t.Errorf("the second one: %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the first one was not ended")
	}
}

func FuzzCommand(f *testing.F) {
	for _, s := range []string{"IDENTIFY_SYSTEM", "SHOW wal_segment_size", "TIMELINE_HISTORY 2", `START_REPLICATION SLOT "a" PHYSICAL 0/3000000 TIMELINE 1`, "START_REPLICATION 0/1"} {
		f.Add(s, []byte("r"))
	}
	f.Fuzz(func(t *testing.T, text string, reply []byte) {
		if c, err := parseCommand(text); err == nil && c.verb == "" {
			t.Errorf("%q is no command", text)
		}
		if _, _, status, err := parseReply(reply); status && err != nil {
			t.Error("a status and an error")
		}
	})
}

func TestCommands(t *testing.T) {
	for text, want := range map[string]command{
		"IDENTIFY_SYSTEM": {verb: "IDENTIFY_SYSTEM"},
		`START_REPLICATION SLOT "x y" 1/A0 TIMELINE 3`: {verb: "START_REPLICATION", from: 1<<32 + 0xA0, timeline: 3},
		"START_REPLICATION PHYSICAL 0/1000000;":        {verb: "START_REPLICATION", from: 0x1000000},
		"START_REPLICATION 0/1000000 TIMELINE 12":      {verb: "START_REPLICATION", from: 0x1000000, timeline: 12},
	} {
		if got, err := parseCommand(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "START_REPLICATION", "START_REPLICATION SLOT x LOGICAL 0/1", "START_REPLICATION 0/1 TIMELINE 0", "TIMELINE_HISTORY 99999999999"} {
		if c, err := parseCommand(text); err == nil {
			t.Errorf("%q: %+v", text, c)
		}
	}
}
