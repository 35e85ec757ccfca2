package repo

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

var powerSeed = flag.Uint64("powerloss.seed", rand.Uint64(), "seed of what a power failure leaves of what was not synced")

// The power fails before every step that a repository's life makes on disk: what had been promised until then is
// there, and the repository goes on.
func TestPowerLoss(t *testing.T) {
	t.Logf("-powerloss.seed=%d", *powerSeed)
	p := storetest.NewPowerLoss()
	dir := t.TempDir()
	st, err := local.Open(dir, local.Options{Before: p.Record})
	if err != nil {
		t.Fatal(err)
	}
	first, second := files{"a": []byte("one"), "b": make([]byte, 3000)}, files{"a": []byte("two"), "b": make([]byte, 3000)}
	r, err := Init(t.Context(), st, []seal.Recipient{testRecipient(t)}, testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	made := p.Len()
	one, err := save(t.Context(), r, "s", first)
	if err != nil {
		t.Fatal(err)
	}
	saved := p.Len()
	two, err := save(t.Context(), r, "s", second)
	if err != nil {
		t.Fatal(err)
	}
	savedBoth := p.Len()
	if err := r.Forget(t.Context(), "s", one.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Collect(t.Context(), CollectOptions{}); err != nil {
		t.Fatal(err)
	}
	end := p.Len()
	fates := map[string]storetest.Fate{"lose": storetest.LoseAll, "names": storetest.NamesOnly, "random": storetest.RandomFate(*powerSeed)}
	for n := made; n <= end; n++ {
		for name, fate := range fates {
			left := filepath.Join(t.TempDir(), fmt.Sprint(n))
			if err := os.Mkdir(left, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := p.Leave(left, n, fate); err != nil {
				t.Fatal(err)
			}
			after, err := local.Open(left, local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			r := reopen(t, after)
			if n >= saved && n <= savedBoth {
				wantFiles(t, r, one, first)
			}
			if n >= savedBoth {
				wantFiles(t, r, two, second)
			}
			m, err := save(t.Context(), r, "s", second)
			if err != nil {
				t.Fatalf("%s before step %d of %d: the next snapshot: %v", name, n, end, err)
			}
			wantFiles(t, r, m, second)
			if _, err := r.Collect(t.Context(), CollectOptions{Patience: NoPatience}); err != nil {
				t.Fatalf("%s before step %d: collect: %v", name, n, err)
			}
			report, err := r.Check(t.Context(), CheckOptions{ReadData: true})
			if err != nil || len(report.Problems) > 0 {
				t.Fatalf("%s before step %d: check finds %+v, %v", name, n, report.Problems, err)
			}
		}
	}
}
