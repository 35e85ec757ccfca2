package capture_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// sayings is what a stream logs.
type sayings struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sayings) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *sayings) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func limitedServer(t *testing.T, limit string) *pgtest.Server {
	t.Helper()
	return pgtest.Start(t, pgtest.Options{InitArgs: []string{"--wal-segsize=1"}, Conf: map[string]string{
		"wal_keep_size": "0", "max_wal_size": "2MB", "min_wal_size": "2MB", "max_slot_wal_keep_size": limit, "checkpoint_timeout": "1h",
	}})
}

// loseSlot writes log until the server gives the slot up.
func loseSlot(t *testing.T, s *pgtest.Server) {
	t.Helper()
	for i := range 40 {
		load(s, fmt.Sprintf("much%d", i), 3)
		s.Exec("", "CHECKPOINT")
		if s.Query("", "SELECT wal_status FROM pg_replication_slots") == "lost" {
			return
		}
	}
	t.Fatal("the server keeps the slot in spite of its limit")
}

// A slot that was lost while nobody received: what is missing is said and noted, and the log goes on behind it.
func TestStreamGoesOnBehindALostSlot(t *testing.T) {
	t.Parallel()
	s := limitedServer(t, "4MB")
	_, log := logRepository(t, storetest.NewMemory())
	var said sayings
	cfg := capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&said, nil))}
	str := startStream(t, cfg)
	load(s, "a", 1)
	str.untilStored(1, flushed(t, s))
	if err := str.stop(); err != nil {
		t.Fatal(err)
	}
	before := str.Status().Stored
	loseSlot(t, s)
	load(s, "after", 1)

	str = startStream(t, cfg)
	str.untilStored(1, flushed(t, s))
	if got := s.Query("", "SELECT count(*) FROM pg_replication_slots WHERE active AND wal_status <> 'lost'"); got != "1" {
		t.Errorf("%s slots are in use, want a new one", got)
	}
	if err := str.stop(); err != nil {
		t.Fatal(err)
	}
	gaps, err := capture.ReadLogGaps(t.Context(), log)
	if err != nil || len(gaps) != 1 || gaps[0].From != before || gaps[0].To <= before || !strings.Contains(gaps[0].Reason, "slot holdfast was lost") {
		t.Fatalf("gaps: %+v, %v; want one from %s, because the slot was lost", gaps, err, before)
	}
	for _, want := range []string{"the slot was lost", gaps[0].String(), "take a snapshot now"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, said.String())
		}
	}
	if strings.Contains(said.String(), "is not set") {
		t.Errorf("it warns of a limit that is set:\n%s", said.String())
	}
}

// While the repository refuses everything, the slot fills: that is warned of at half and at four fifths of what the
// server may keep. What was received by then is not lost with the slot.
func TestStreamWarnsLongBeforeTheSlotIsLost(t *testing.T) {
	t.Parallel()
	s := limitedServer(t, "16MB")
	faulty := storetest.NewFaulty(storetest.NewMemory())
	_, log := logRepository(t, faulty)
	var said sayings
	str := startStream(t, capture.StreamConfig{
		Connection: s.ConnString(""), Log: log, Interval: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&said, nil)),
	})
	load(s, "a", 1)
	str.untilStored(1, flushed(t, s))
	faulty.SetFaults(storetest.Fault{Op: "put", When: storetest.Before, Kind: store.Denied})
	fill := func(part float64) {
		t.Helper()
		for i := 0; str.Status().SlotUse < part; i++ {
			seen := str.Status().Slot
			load(s, "a", 1)
			str.until("the slot is looked at again", func(st capture.StreamStatus) bool { return st.Slot != seen })
			if i == 40 {
				t.Fatalf("the slot is used to %.2f only", str.Status().SlotUse)
			}
		}
	}
	warnings := func() int { return strings.Count(said.String(), "log kept for us on the primary") }
	fill(0.55)
	str.until("a first warning", func(capture.StreamStatus) bool { return warnings() == 1 })
	fill(0.85)
	str.until("a second warning", func(capture.StreamStatus) bool { return warnings() == 2 })
	faulty.SetFaults()
	str.untilStored(1, flushed(t, s))
	if gaps, err := capture.ReadLogGaps(t.Context(), log); err != nil || len(gaps) != 0 {
		t.Errorf("gaps: %v, %v", gaps, err)
	}
}

func TestStreamWarnsOfASlotWithoutALimit(t *testing.T) {
	t.Parallel()
	s := limitedServer(t, "-1")
	_, log := logRepository(t, storetest.NewMemory())
	var said sayings
	str := startStream(t, capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 50 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	str.until("a warning", func(capture.StreamStatus) bool {
		return strings.Contains(said.String(), "max_slot_wal_keep_size is not set")
	})
}
