package repo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// operation is a command of the repository, from opening it to its end.
type operation struct {
	name    string
	prepare func(ctx context.Context, st store.Store) error
	run     func(ctx context.Context, st store.Store) error
	// unsure says that a repetition may find that the failed try was successful after all.
	unsure error
	// check, where it is not nil, looks at more than the snapshots of orders-db.
	check func(t *testing.T, r *Repository)
}

// quiet are options without a test at hand: the operations run in a child process too.
func quiet() Options {
	s, err := seal.NewSigner()
	if err != nil {
		panic(err)
	}
	return Options{Signer: s, PackBytes: 2000}
}

func opened(ctx context.Context, st store.Store, fn func(r *Repository) error) error {
	r, err := Open(ctx, st, testCredentials, quiet())
	if err != nil {
		return err
	}
	return errors.Join(fn(r), r.Close())
}

func initAt(ctx context.Context, st store.Store) error {
	to, err := seal.PassphraseRecipient("test", passphrase, 1)
	if err != nil {
		return err
	}
	r, err := Init(ctx, st, []seal.Recipient{to}, quiet())
	if err != nil {
		return err
	}
	return r.Close()
}

func saveAt(ctx context.Context, st store.Store, n int) error {
	return opened(ctx, st, func(r *Repository) error {
		_, err := save(ctx, r, "orders-db", littleFiles(n, []byte("x")))
		return err
	})
}

// twoSnapshots is what most operations start from.
func twoSnapshots(ctx context.Context, st store.Store) error {
	return errors.Join(initAt(ctx, st), saveAt(ctx, st, 1), saveAt(ctx, st, 2))
}

// onePatched has a patched file in its last snapshot.
func onePatched(ctx context.Context, st store.Store) error {
	return errors.Join(twoSnapshots(ctx, st), patchAt(ctx, st, 0), patchAt(ctx, st, 1))
}

// patchAt takes over the last snapshot, and patches the nth page of a file of six chunks.
func patchAt(ctx context.Context, st store.Store, n int) error {
	return opened(ctx, st, func(r *Repository) error {
		w, err := r.Begin(ctx, "orders-db", DefaultGroup)
		if err != nil {
			return err
		}
		defer w.Close(ctx) //nolint:errcheck // the error of interest is another
		prev, err := r.LatestSnapshot(ctx, "orders-db")
		if err != nil {
			return err
		}
		if ok, err := w.MayCarry(ctx, prev); err != nil || !ok {
			return errors.Join(err, errors.New("nothing may be taken over"))
		}
		rd, lane := r.Reader(), w.Lane()
		root, err := prev.RootID()
		if err != nil {
			return err
		}
		e, err := rd.Lookup(ctx, root, "rel")
		if err != nil {
			return err
		}
		var base *FilePart
		whole, patches := map[int]seal.ChunkID{}, []PagePatch(nil)
		if e != nil {
			if base, err = rd.FilePart(ctx, e, 0); err != nil {
				return err
			}
			unit, err := lane.Save(ctx, pageOf(uint64(n)), nil)
			if err != nil {
				return err
			}
			patches = []PagePatch{{uint16(n), unit, 1, 0}}
		}
		for i := range 6 {
			if id, err := lane.Save(ctx, make([]byte, Grid), nil); err != nil {
				return err
			} else if e == nil {
				whole[i] = id
			}
		}
		list, err := w.PatchPart(ctx, base, whole, patches, 6*Grid)
		if err != nil {
			return err
		}
		e = &Entry{Type: TypeFile}
		e.SetContent(6*Grid, []FileList{list})
		m := &Manifest{}
		if err := w.EditTree(ctx, prev, []TreeEdit{{Path: "rel", Entry: e}}, m); err != nil {
			return err
		}
		return w.Commit(ctx, m)
	})
}

// oneForgotten leaves a collection something to do.
func oneForgotten(ctx context.Context, st store.Store) error {
	if err := errors.Join(twoSnapshots(ctx, st), saveAt(ctx, st, 3)); err != nil {
		return err
	}
	return opened(ctx, st, func(r *Repository) error {
		list, err := r.Snapshots(ctx, "orders-db")
		if err != nil {
			return err
		}
		for _, l := range list {
			if l.Manifest.Bytes == littleBytes(3) {
				return r.Forget(ctx, "orders-db", l.ID)
			}
		}
		return errors.New("there is no third snapshot")
	})
}

func littleBytes(n int) (total int64) {
	for _, b := range littleFiles(n, []byte("x")) {
		total += int64(len(b))
	}
	return total
}

var operations = []operation{
	{name: "init", run: initAt, unsure: ErrExists},
	{name: "snapshot", prepare: twoSnapshots, run: func(ctx context.Context, st store.Store) error { return saveAt(ctx, st, 4) }},
	{name: "patch", prepare: onePatched, run: func(ctx context.Context, st store.Store) error { return patchAt(ctx, st, 2) }},
	{name: "log", prepare: twoSnapshots, run: func(ctx context.Context, st store.Store) error {
		return opened(ctx, st, func(r *Repository) error {
			log := r.Log("orders-db")
			if err := log.Register(ctx, DefaultGroup); err != nil {
				return err
			}
			enc := log.Encoder()
			whole := make([]byte, 3000)
			for from := range 3 {
				if err := enc.Put(ctx, 1, uint64(from*1000), whole[:1000], ExtentClock{}, Fast); err != nil {
					return err
				}
			}
			if err := enc.Put(ctx, 1, 0, whole, ExtentClock{}, Small); err != nil {
				return err
			}
			if err := log.DropPieces(ctx, Extent{Stream: 1, End: 3000}); err != nil {
				return err
			}
			return log.PutMark(ctx, Mark{Stream: 1, LSN: 3000})
		})
	}},
	{name: "rotate", prepare: twoSnapshots, run: func(ctx context.Context, st store.Store) error {
		return opened(ctx, st, func(r *Repository) error {
			_, err := r.Rotate(ctx, nil)
			return err
		})
	}},
	{name: "collect", prepare: oneForgotten, run: func(ctx context.Context, st store.Store) error {
		return opened(ctx, st, func(r *Repository) error {
			_, err := r.Collect(ctx, CollectOptions{Patience: NoPatience, MinLive: 0.9})
			return err
		})
	}},
	{name: "optimize", prepare: fragmentedEvents, run: optimizeEvents, check: sameEvents},
	{name: "repair", prepare: oneDamaged, run: func(ctx context.Context, st store.Store) error {
		return opened(ctx, st, func(r *Repository) error {
			_, err := r.RepairCollection(ctx, CollectOptions{Patience: NoPatience})
			return err
		})
	}},
}

// oneDamaged leaves the end of a collection damaged that has rescued a pack, and deleted nothing yet.
func oneDamaged(ctx context.Context, st store.Store) error {
	if err := oneForgotten(ctx, st); err != nil {
		return err
	}
	var late *Writer
	err := opened(ctx, st, func(r *Repository) (err error) {
		if late, err = r.Begin(ctx, "orders-db", DefaultGroup); err != nil {
			return err
		}
		m, err := storeFiles(ctx, late, littleFiles(3, []byte("x"))) // of the forgotten snapshot
		if err != nil {
			return err
		}
		c, err := r.collector(ctx, CollectOptions{MinLive: 0.9})
		if err != nil {
			return err
		}
		p, err := c.prepare(ctx)
		if err != nil {
			return err
		}
		if err := errors.Join(c.publish(ctx, p), late.Commit(ctx, m)); err != nil {
			return err
		}
		d, err := c.conclude(ctx, p)
		if err == nil && len(d.Rescued) == 0 {
			err = errors.New("nothing was rescued")
		}
		return err
	})
	if err != nil {
		return err
	}
	b, err := st.Get(ctx, doneName(1), 1<<20)
	if err != nil {
		return err
	}
	b[len(b)-1] ^= 1
	return st.Put(ctx, doneName(1), b)
}

// settled shows that after a failure the same command ends well, that everything is sound, and that what was
// restorable before still is.
func (o operation) settled(t *testing.T, st store.Store) {
	t.Helper()
	if err := o.run(t.Context(), st); err != nil && (o.unsure == nil || !errors.Is(err, o.unsure)) {
		t.Errorf("%s once more, undisturbed: %v", o.name, err)
	}
	wantClean(t, st)
	if o.prepare == nil {
		return
	}
	r, err := openAgain(t, st)
	if err != nil {
		t.Fatal(err)
	}
	if o.check != nil {
		o.check(t, r)
	}
	list, err := r.Snapshots(t.Context(), "orders-db")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for _, l := range list {
		if l.Err != nil {
			t.Errorf("snapshot %s: %v", l.ID, l.Err)
			continue
		}
		for n := 1; n <= 4; n++ {
			if l.Manifest.Bytes == littleBytes(n) {
				seen[int64(n)] = true
				wantFiles(t, r, l.Manifest, littleFiles(n, []byte("x")))
			}
		}
	}
	if !seen[1] || !seen[2] {
		t.Errorf("an earlier snapshot is no longer there: %v", seen)
	}
}

func TestEachFault(t *testing.T) {
	for _, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			prepared := storetest.NewMemory()
			if o.prepare != nil {
				if err := o.prepare(t.Context(), prepared); err != nil {
					t.Fatal(err)
				}
			}
			storetest.EachFault(t, storetest.Sweep{
				New:   func(*testing.T) store.Store { return prepared.Clone() },
				Run:   func(t *testing.T, s store.Store) error { return o.run(t.Context(), s) },
				Check: func(t *testing.T, s store.Store, _ error) { o.settled(t, s) },
				Kind:  store.Busy,
			})
		})
	}
}

// Environment of the child that kills itself.
const (
	childDir  = "HOLDFAST_TEST_DIR"
	childOp   = "HOLDFAST_TEST_OPERATION"
	childStep = "HOLDFAST_TEST_STEP"
)

// TestChild is the child of TestEachKill: it runs one operation and is gone before its nth change of the disk.
func TestChild(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv(childStep))
	if err != nil {
		t.Skip("it is the child of TestEachKill")
	}
	var steps atomic.Int64 // packs are written by two goroutines
	st, err := local.Open(os.Getenv(childDir), local.Options{Before: func(local.Step) error {
		if steps.Add(1) == int64(n) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range operations {
		if o.name == os.Getenv(childOp) {
			if err := o.run(t.Context(), st); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// killStride is over 1 because neighbours differ little, and odd so that each sort of step has its turn.
var killStride = flag.Int("kill.stride", 5, "of how many changes of the disk one is tried; 1 tries all")

// TestEachKill kills a process with SIGKILL before changes that an operation makes to a directory.
func TestEachKill(t *testing.T) {
	for _, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			prepared := t.TempDir()
			st, err := local.Open(prepared, local.Options{})
			if err == nil && o.prepare != nil {
				err = o.prepare(t.Context(), st)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			for n, killed := 1, true; killed; n += *killStride {
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(prepared)); err != nil {
					t.Fatal(err)
				}
				st, err := local.Open(dir, local.Options{})
				if err != nil {
					t.Fatal(err)
				}
				killed = runChild(t, dir, o.name, n)
				o.settled(t, st)
				if err := st.Close(); err != nil {
					t.Error(err)
				}
				if t.Failed() {
					t.Fatalf("after a kill before step %d of %s", n, o.name)
				}
			}
		})
	}
}

func runChild(t *testing.T, dir, op string, step int) (killed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$")
	c.Env = append(os.Environ(), childDir+"="+dir, childOp+"="+op, fmt.Sprintf("%s=%d", childStep, step))
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
		return true
	}
	t.Fatalf("child: %v\n%s", err, out)
	return false
}
