package workspace

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/pg"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/repo/repotest"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// configuration is one repository in dir, with its state in state.
func configuration(t *testing.T, dir, state string) *config.Config {
	t.Helper()
	secret := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(secret, []byte(strings.Repeat("long enough to need no stretching ", 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("holdfast.yaml", []byte(fmt.Sprintf(`version: 1
repositories:
  main:
    replicas: [{site: here, url: "file://%s/repository"}]
    keys: {passphrase-file: %q}
    cache: "%s/cache"
systems:
  a: {repository: main, policy: standard, postgres: {connection: "host=/nowhere"}}
agent: {state: %q}
`, dir, secret, dir, state)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A recovery must not fail because the signing key of whoever wrote cannot be read; writing must.
func TestReadingNeedsNoSigningKey(t *testing.T) {
	dir := t.TempDir()
	w := New(configuration(t, dir, filepath.Join(dir, "state")), slog.New(slog.DiscardHandler))
	if _, _, err := w.Init(t.Context(), "main", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w = New(configuration(t, dir, filepath.Join(file, "state")), slog.New(slog.DiscardHandler))
	defer w.Close()
	r, err := w.Repository(t.Context(), "main")
	if err != nil {
		t.Fatalf("open for reading: %v", err)
	}
	if _, err := r.Systems(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.Begin(t.Context(), "a", repo.DefaultGroup); err == nil || !strings.Contains(err.Error(), "signer") {
		t.Errorf("a snapshot without a signing key: %v", err)
	}
	if _, _, err := w.Init(t.Context(), "main", nil); err == nil || !strings.Contains(err.Error(), "state") {
		t.Errorf("init without a signing key: %v", err)
	}
}

// A gap that touches the snapshot's log ends the waiting at once.
func TestWaitLogEndsAtAGap(t *testing.T) {
	gaps := []capture.LogGap{{Timeline: 1, From: 0x2000, To: 0x3000, Reason: "removed"}}
	for _, c := range []struct {
		start, end wal.LSN
		broken     bool
	}{{0x1000, 0x2000, false}, {0x1000, 0x2001, true}, {0x2fff, 0x4000, true}, {0x3000, 0x4000, false}} {
		if err := gapWithin(gaps, c.start, c.end); (err != nil) != c.broken {
			t.Errorf("gapWithin(%s to %s) = %v", c.start, c.end, err)
		}
	}
}

// holds follows a snapshot's log over a switch of timelines, and sees gaps.
func TestHoldsTheLogOfASnapshot(t *testing.T) {
	r := repotest.Init(t, storetest.NewMemory(), repo.Options{})
	log := r.Log("a")
	put := func(tl repo.StreamID, from, until uint64) {
		t.Helper()
		err := log.Encoder().Put(t.Context(), tl, from, make([]byte, until-from), repo.ExtentClock{Writer: time.Unix(1, 0)}, repo.Fast)
		if err != nil {
			t.Fatal(err)
		}
	}
	put(1, 0x1000, 0x3000)
	put(1, 0x3000, 0x4000)
	put(1, 0x5000, 0x6000)
	put(2, 0x3800, 0x7000) // left timeline 1 at 0x3900
	history := (&wal.Timelines{Timeline: 2, Ancestors: []wal.Switch{{Timeline: 1, End: 0x3900, Reason: "test"}}}).Format()
	if err := log.PutFile(t.Context(), pg.HistoryFile(2), history); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tl         wal.TimelineID
		start, end wal.LSN
		want       bool
	}{
		{1, 0x1000, 0x4000, true},
		{1, 0x1800, 0x2800, true},
		{1, 0x0800, 0x2800, false}, // begins before what is there
		{1, 0x2000, 0x5800, false}, // over a gap
		{1, 0x5000, 0x6001, false}, // its end has not come
		{2, 0x4000, 0x7000, true},
		{2, 0x1000, 0x6000, true}, // begun on timeline 1
		{2, 0x0800, 0x6000, false},
		{3, 0x4000, 0x5000, false},
	} {
		got, err := holds(t.Context(), log, c.tl, c.start, c.end)
		if err != nil || got != c.want {
			t.Errorf("holds(timeline %d, %s to %s) = %v, %v, want %v", c.tl, c.start, c.end, got, err, c.want)
		}
	}
}
