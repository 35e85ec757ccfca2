package repo

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// meeting is a store that answers for snapshots when so many are asked for at once.
type meeting struct {
	store.Store
	t       *testing.T
	want    int
	reached chan struct{} // closed then

	mu     sync.Mutex // guards asking
	asking int
}

func (m *meeting) Get(ctx context.Context, name string, most int64) ([]byte, error) {
	if strings.HasPrefix(name, prefixSnapshots) {
		m.mu.Lock()
		if m.asking++; m.asking == m.want {
			close(m.reached)
		}
		m.mu.Unlock()
		select {
		case <-m.reached:
		case <-time.After(20 * time.Second):
			m.t.Errorf("%d snapshots are asked for at once, want %d", m.asking, m.want)
		}
	}
	return m.Store.Get(ctx, name, most)
}

// A collection asks for many manifests at once, and counts each of them.
func TestCollectReadsManifestsAtOnce(t *testing.T) {
	t.Parallel()
	st := storetest.NewMemory()
	const snapshots = 3
	for i := range snapshots {
		mustSave(t, newOrOpen(t, st, i == 0), randomFiles(uint64(i), 3))
	}
	r := reopen(t, &meeting{Store: st, t: t, want: snapshots, reached: make(chan struct{})})
	if rep := mustCollect(t, r, CollectOptions{DryRun: true}); rep.Snapshots != snapshots || rep.RemovedPacks != 0 {
		t.Errorf("it saw %d snapshots, and would remove %d packs", rep.Snapshots, rep.RemovedPacks)
	}
}

func newOrOpen(t *testing.T, st store.Store, first bool) *Repository {
	t.Helper()
	if first {
		return newRepository(t, st)
	}
	return reopen(t, st)
}
