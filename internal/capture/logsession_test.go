package capture_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// A stream is connected when the server sends to it: one whose slot somebody else uses never was.
func TestStreamIsNotConnectedBeforeTheServerSends(t *testing.T) {
	t.Parallel()
	s := streamServer(t, "")
	_, log := logRepository(t, storetest.NewMemory())
	cfg := capture.StreamConfig{Connection: s.ConnString(""), Log: log, Interval: 50 * time.Millisecond}
	first := startStream(t, cfg)
	first.until("the first stream is connected", func(st capture.StreamStatus) bool { return st.Connected })
	// It was not said before the slot was in use.
	if got := s.Query("", "SELECT active FROM pg_replication_slots WHERE slot_name = 'holdfast'"); got != "t" {
		t.Errorf("connected, and the slot's activity is %q", got)
	}

	var was atomic.Bool
	var second *running
	var started sync.WaitGroup // of the variable
	started.Add(1)
	cfg.Changed = func() {
		started.Wait()
		if second.Status().Connected {
			was.Store(true)
		}
	}
	second = startStream(t, cfg)
	started.Done()
	second.until("the second stream is refused", func(st capture.StreamStatus) bool { return st.ConnErr != nil })
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	if was.Load() {
		t.Error("a stream whose slot is in use called itself connected")
	}
}

// A role that may not see who waits for us concludes it from the names that the server waits for.
func TestSynchronousStandbyWithoutTheRightToLook(t *testing.T) {
	t.Parallel()
	s := streamServer(t, "")
	s.Exec("", "CREATE ROLE modest LOGIN REPLICATION", "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (other, \"Holdfast\")'", "SELECT pg_reload_conf()")
	_, log := logRepository(t, storetest.NewMemory())
	str := startStream(t, capture.StreamConfig{
		Connection: s.ConnString("") + " user=modest", Log: log, Interval: 30 * time.Second,
	})
	str.until("somebody waits for us", func(st capture.StreamStatus) bool { return st.Sync })
	s.Exec("", "ALTER SYSTEM SET synchronous_standby_names = 'other'", "SELECT pg_reload_conf()")
	str.until("nobody waits for us", func(st capture.StreamStatus) bool { return !st.Sync })
	s.Exec("", "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
}
