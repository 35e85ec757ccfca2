package layer

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// flaky is a file whose next sync, or cut, fails once, as the system tells of a failed write once.
type flaky struct {
	*diskFile
	sync, cut error
}

func (f *flaky) Sync() (err error) {
	if err, f.sync = f.sync, nil; err != nil {
		return err
	}
	return f.diskFile.Sync()
}

func (f *flaky) Truncate(size int64) (err error) {
	if err, f.cut = f.cut, nil; err != nil {
		return err
	}
	return f.diskFile.Truncate(size)
}

// A failure that hydration has met, and not the server, is told to the server; and whatever was not safe then is never called so.
func TestAFailedSyncIsNotForgotten(t *testing.T) {
	t.Parallel()
	errDisk := errors.New("the disk failed")
	for name, fail := range map[string]func(*File, *flaky) error{
		"flush":  func(f *File, b *flaky) error { b.sync = errDisk; return f.Flush() },
		"finish": func(f *File, b *flaky) error { b.sync = errDisk; _, err := f.layer.Finish(f); return err },
		"cut":    func(f *File, b *flaky) error { b.cut = errDisk; return f.Truncate(PageSize) },
	} {
		rnd := rand.New(rand.NewPCG(1, 1))
		d := newDisk(rnd)
		j, err := OpenJournal(d, MountID{1})
		if err != nil {
			t.Fatal(err)
		}
		l := New(&snapshot{rnd: rnd}, j)
		id := Ident{ID: 1, Size: 3 * PageSize, Path: "base/5/1"}
		b := &flaky{diskFile: &diskFile{disk: d, now: make([]byte, id.Size), durable: make([]byte, id.Size)}}
		open := func() (Backing, error) { return b, nil }
		f, err := l.Attach(id, open)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Ensure(t.Context(), 0, ^uint64(0)); err != nil {
			t.Fatal(err)
		}
		if err := fail(f, b); !errors.Is(err, errDisk) {
			t.Fatalf("%s: %v", name, err)
		}
		for range 2 {
			if err := f.Sync(); !errors.Is(err, errDisk) {
				t.Errorf("%s: a sync after it: %v", name, err)
			}
			if _, err := f.WriteAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, errDisk) {
				t.Errorf("%s: a write after it: %v", name, err)
			}
			if _, err := l.Finish(f); !errors.Is(err, errDisk) || l.Whole(1) {
				t.Errorf("%s: the file is whole after it: %v", name, err)
			}
			if err := l.Detach(f); err != nil { // nor is it forgotten when nobody has it open
				t.Fatal(err)
			}
			if f, err = l.Attach(id, open); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := OpenJournal(d, MountID{1}); err != nil || got.file(1).whole || name != "cut" && len(got.file(1).pages) != 0 {
			t.Errorf("%s: the journal says of it %+v, %v", name, got.file(1), err)
		}
	}
}
