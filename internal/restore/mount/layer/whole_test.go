package layer

import (
	"math/rand/v2"
	"runtime"
	"testing"
)

// waiting is a file that lets somebody else come between during its first sync.
type waiting struct {
	*diskFile
	during func()
}

func (f *waiting) Sync() error {
	if during := f.during; during != nil {
		f.during = nil
		during()
	}
	return f.diskFile.Sync()
}

// A file that becomes whole while somebody is about to cut it is cut as any other: the next mount does not cut it again.
func TestCutOfAFileThatBecomesWhole(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 1))
	d := newDisk(rnd)
	j, err := OpenJournal(d, MountID{1})
	if err != nil {
		t.Fatal(err)
	}
	l := New(&snapshot{rnd: rnd}, j)
	id := Ident{ID: 1, Size: 3 * PageSize, Path: "base/5/1"}
	b := &waiting{diskFile: &diskFile{disk: d, now: make([]byte, id.Size), durable: make([]byte, id.Size)}}
	f, err := l.Attach(id, func() (Backing, error) { return b, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Ensure(t.Context(), 0, ^uint64(0)); err != nil {
		t.Fatal(err)
	}
	cut := make(chan error)
	b.during = func() {
		started := make(chan struct{})
		go func() {
			close(started)
			cut <- f.Truncate(PageSize)
		}()
		<-started
		for range 1000 { // it has seen that the file is not whole, and waits for us: where it has not, this shows nothing
			runtime.Gosched()
		}
	}
	if _, err := l.Finish(f); err != nil {
		t.Fatal(err)
	}
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
	if size, err := f.Size(); err != nil || size != PageSize {
		t.Errorf("it has %d bytes, %v", size, err)
	}
	again, err := OpenJournal(d, MountID{1})
	if err != nil {
		t.Fatal(err)
	}
	if cuts := again.Cuts(); len(cuts) != 0 || !again.file(1).whole {
		t.Errorf("the journal would cut %v again", cuts)
	}
	// One that was written before this was so is read as if it were not there.
	if err := j.commit(record(nil, kindCut, 1, 0, PageSize)); err != nil {
		t.Fatal(err)
	}
	if again, err = OpenJournal(d, MountID{1}); err != nil || len(again.Cuts()) != 0 {
		t.Errorf("the journal would cut %v again, %v", again.Cuts(), err)
	}
}
