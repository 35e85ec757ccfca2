package restore

import (
	"bytes"
	"os"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Whole blocks go past the page cache, the rest of a file through it; where the file system refuses, all of it does,
// and the bytes are the same. The refusal is the kernel's own: the buffer begins where no disk can read from.
func TestPut(t *testing.T) {
	const size = 2*repo.Grid + 100
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	memory, free, err := buffer(2 * repo.Grid)
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i * i >> 7)
	}
	for _, refuse := range []bool{false, true} {
		f := &file{e: &repo.Entry{Size: size}, a: &area{dir: dir, root: root}, rel: "file"}
		if f.f, err = root.OpenFile(f.rel, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := resize(f.f, size); err != nil {
			t.Fatal(err)
		}
		if f.openDirect(); f.direct == nil {
			t.Skip("this file system does not write past the page cache")
		}
		for at := 0; at < size; at += repo.Grid {
			b := memory[:min(repo.Grid, size-at)]
			if refuse {
				b = memory[1 : 1+len(b)]
			}
			copy(b, want[at:])
			pieces := [][]byte{b}
			if cut := at / repo.Grid * directUnit; 0 < cut && cut < len(b) { // in two, and out of their order in memory
				second := bytes.Clone(b[cut:])
				pieces = [][]byte{b[:cut], second}
			}
			cached, err := f.put(pieces, int64(at))
			if err != nil {
				t.Fatal(err)
			}
			if cached != (refuse || len(b) != repo.Grid) {
				t.Errorf("refused %t: %d bytes at %d went through the page cache: %t", refuse, len(b), at, cached)
			}
		}
		if f.a.buffered.Load() != refuse {
			t.Errorf("refused %t, remembered %t", refuse, !refuse)
		}
		if got, err := os.ReadFile(f.f.Name()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("refused %t: the file differs (%v)", refuse, err)
		}
		f.direct.Close()
		f.f.Close()
	}
}

// A file of which one piece failed is not whole, whichever piece comes last: a resumed restore would take it for done.
func TestAFailedPieceIsRemembered(t *testing.T) {
	for failed := range 3 {
		f := &file{}
		f.left.Store(3)
		for n := range 3 {
			var err error
			if n == failed {
				err = os.ErrInvalid
			}
			if last := f.pieceDone(err); last != (n == 2) {
				t.Errorf("piece %d is the last one: %t", n, last)
			}
		}
		if !f.damaged.Load() {
			t.Errorf("piece %d failed, and the file is whole", failed)
		}
	}
}
