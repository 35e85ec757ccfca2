package restore

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// An old file is read as it is, in the page cache and past it, also where the file system refuses the latter, and where it
// was written a moment ago.
func TestReadOld(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	b, free, err := buffer(comparedAtOnce * repo.Grid)
	if err != nil {
		t.Fatal(err)
	}
	defer free()
	want := make([]byte, 3*repo.Grid+100)
	for i := range want {
		want[i] = byte(i * i >> 7)
	}
	for name, c := range map[string]struct{ cached, dirty, misplaced bool }{
		"cached": {cached: true}, "not cached": {}, "written a moment ago": {dirty: true}, "refused": {misplaced: true},
	} {
		f := &file{e: &repo.Entry{Size: int64(len(want))}, a: &area{dir: dir, root: root}, rel: "file", was: int64(len(want))}
		if err := os.WriteFile(dir+"/file", want, 0o600); err != nil {
			t.Fatal(err)
		}
		if f.f, err = root.OpenFile(f.rel, os.O_RDWR, 0o600); err != nil {
			t.Fatal(err)
		}
		f.openDirect()
		if !c.cached {
			if err := f.f.Sync(); err != nil {
				t.Fatal(err)
			}
			if err := unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
				t.Fatal(err)
			}
		}
		if c.dirty {
			want[repo.Grid+5000] ^= 1
			if _, err := f.f.WriteAt(want[repo.Grid:repo.Grid+8192], repo.Grid); err != nil {
				t.Fatal(err)
			}
		}
		into := b[:3*repo.Grid]
		if c.misplaced {
			into = b[1 : 1+len(into)] // where no disk can read to
		}
		past := f.readPast(into, 0)
		if past && (c.cached || c.misplaced) || past && !bytes.Equal(into, want[:len(into)]) {
			t.Errorf("%s: it was read past the page cache; are the bytes right? %t", name, bytes.Equal(into, want[:len(into)]))
		}
		t.Logf("%s: read past the page cache: %t", name, past)
		for _, part := range [][2]int{{0, repo.Grid}, {3 * repo.Grid, 3*repo.Grid + 100}} {
			if got, err := f.readOld(b[:part[1]-part[0]], int64(part[0])); err != nil || !bytes.Equal(got, want[part[0]:part[1]]) {
				t.Errorf("%s: bytes %v differ (%v)", name, part, err)
			}
		}
		if got, err := f.readOld(b[:repo.Grid], 3*repo.Grid); err != nil || got != nil || f.readPast(b[:repo.Grid], 3*repo.Grid) {
			t.Errorf("%s: behind its end: %d bytes, %v", name, len(got), err)
		}
		if f.direct != nil {
			f.direct.Close()
		}
		f.f.Close()
	}
}
