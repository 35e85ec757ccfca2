package mount_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/restore"
	"github.com/holdfast-dr/holdfast/internal/restore/mount"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func isPack(name string) bool { return strings.HasPrefix(name, "packs/") }

// A store that stalls, fails and returns: a read fails with an error, never with other bytes; the hydration waits, and goes on.
func TestStoreThatFailsAndReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "CREATE TABLE t AS SELECT i, repeat('x', i%200) AS s FROM generate_series(1, 50000) AS i")
	w.archive()
	whole := w.path("whole")
	p := w.plan()
	if _, err := restore.Run(t.Context(), w.r, p, restore.Options{To: whole, Owner: w.owner, Settings: settings}); err != nil {
		t.Fatal(err)
	}
	dir := w.path("m")
	m, err := mount.Begin(t.Context(), w.r, p, dir, mount.Options{Owner: w.owner, Settings: settings, Wait: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("base", "5", "1259")
	for _, when := range []storetest.Moment{storetest.Before, storetest.Stall, storetest.Middle} {
		w.faulty.SetFaults(storetest.Fault{Match: isPack, When: when, Kind: store.Busy})
		if b, err := os.ReadFile(filepath.Join(dir, name)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %d bytes, %v; want EIO", when, len(b), err)
		}
	}
	// The hydration begins while the store fails, and is at its end when it has returned.
	w.faulty.SetFaults(storetest.Fault{Match: isPack, When: storetest.Before, Kind: store.Busy})
	before := w.faulty.Fired()
	hydrated := make(chan error, 1)
	go func() { hydrated <- m.Hydrate(t.Context()) }()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for w.faulty.Fired() < before+4 {
		select {
		case err := <-hydrated:
			t.Fatalf("the hydration has ended: %v", err)
		case <-again.C:
		}
	}
	w.faulty.SetFaults()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(whole, name))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("what is read after the failures is not what was stored")
	}
	if err := <-hydrated; err != nil {
		t.Fatal(err)
	}
	if err := m.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameTree(t, dir, whole)
}

// A snapshot that is only looked into leaves nothing behind, and what is written there is gone.
func TestThrownAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.archive()
	dir := w.path("look")
	m, err := mount.Begin(t.Context(), w.r, w.plan(), dir, mount.Options{Owner: w.owner, Settings: settings, ThrowAway: true})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "base", "5", "1259")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[8192:16384])
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, b) {
		t.Errorf("what was written is not read again: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}
