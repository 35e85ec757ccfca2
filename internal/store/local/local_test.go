package local_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/local"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func open(t testing.TB, opts local.Options) *local.Store {
	t.Helper()
	s, err := local.Open(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Conformance(t, func(t *testing.T) store.Store { return open(t, local.Options{}) })
}

func TestConformanceRetried(t *testing.T) {
	storetest.Conformance(t, func(t *testing.T) store.Store {
		return store.Retry(open(t, local.Options{}), store.Budget{})
	})
}

func TestProbe(t *testing.T) {
	s := open(t, local.Options{})
	got, err := store.Probe(t.Context(), s)
	if want := (store.Abilities{ExclusiveCreate: true, ListAfterWrite: true, Delete: true}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestOpenMissing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, next := range map[string]string{
		filepath.Join(dir, "missing"): "mount the disk", file: "directory", filepath.Join(file, "x"): "directory",
	} {
		_, err := local.Open(path, local.Options{})
		if err == nil || !strings.Contains(dr.Advice(err), next) || !strings.HasPrefix(err.Error(), "open store "+path+"\n") {
			t.Errorf("got %v, want it to advise %q", err, next)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open made the directory (%v)", err)
	}
	if _, err := local.Create(filepath.Join(file, "x"), local.Options{}); err == nil || dr.Advice(err) == "" {
		t.Errorf("Create below a file: got %v", err)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "root")
	s, err := local.Create(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "a/c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if err == nil && fi.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, fi.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// What somebody else put below the root is neither listed nor followed.
func TestForeignFiles(t *testing.T) {
	s := open(t, local.Options{})
	dir, outside := s.String(), t.TempDir()
	if err := s.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600),
		os.Mkdir(filepath.Join(dir, "lost+found"), 0o700),
		os.WriteFile(filepath.Join(dir, "README"), nil, 0o600),
		os.Symlink(outside, filepath.Join(dir, "linkdir")),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "linkfile")),
		os.Symlink(filepath.Join(outside, "nothing"), filepath.Join(dir, "dangling")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	err := s.List(t.Context(), "", "", func(i store.Info) error { names = append(names, i.Name); return nil })
	if err != nil || len(names) != 1 {
		t.Errorf("listed %q (%v), want a/b alone", names, err)
	}
	for _, name := range []string{"linkfile", "linkdir/secret", "dangling", "fifo"} {
		if body, err := s.Get(t.Context(), name, 100); store.KindOf(err) != store.Damaged {
			t.Errorf("get %s: got %q, %v, want Damaged", name, body, err)
		}
	}
	if err := s.Put(t.Context(), "linkdir/new", nil); err == nil {
		t.Error("put below a symbolic link: no error")
	}
	if err := s.Delete(t.Context(), "linkdir/secret"); err == nil {
		t.Error("delete below a symbolic link: no error")
	}
	if err := s.Create(t.Context(), "dangling", nil); !errors.Is(err, store.ErrExists) {
		t.Errorf("create over a symbolic link: got %v, want ErrExists", err)
	}
	if err := s.Put(t.Context(), "linkfile", []byte("ours")); err != nil {
		t.Errorf("put over a symbolic link: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(got) != "secret" {
		t.Errorf("the file outside has %q, %v", got, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside there is %v, %v", entries, err)
	}
}

// A name cannot be an object and the directory of others at once, and the attempt changes nothing.
func TestDirectoryOfObjects(t *testing.T) {
	s := open(t, local.Options{})
	for _, name := range []string{"a/b", "file"} {
		if err := s.Put(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "file/below"} {
		for _, err := range []error{s.Put(t.Context(), name, nil), s.Create(t.Context(), name, nil)} {
			if store.KindOf(err) != store.Other || !strings.Contains(err.Error(), "director") {
				t.Errorf("%s: got %v, want an error that names the directory", name, err)
			}
		}
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("stat of a directory: got %v, want ErrNotExist", err)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Errorf("delete of a directory's name: %v", err)
	}
	if got, err := s.Get(t.Context(), "a/b", 1); err != nil || string(got) != "x" {
		t.Errorf("a/b: got %q, %v", got, err)
	}
	if left := temporaries(t, s.String()); len(left) > 0 {
		t.Errorf("temporary files are left: %q", left)
	}
}

// Opening a second time, beside writers, takes nothing away from them.
func TestStaleBesideWriters(t *testing.T) {
	dir := t.TempDir()
	inside, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s, err := local.Open(dir, local.Options{Before: func(st local.Step) error {
		if st.Op == local.OpRename {
			once.Do(func() { close(inside); <-goOn })
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() { result <- s.Put(t.Context(), "x", []byte("body")) }()
	<-inside
	old := filepath.Join(dir, ".tmp~", "LEFT-BY-A-DEAD-WRITER")
	if err := os.WriteFile(old, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if left := temporaries(t, dir); len(left) != 1 || left[0] == filepath.Base(old) {
		t.Errorf("temporary files: %q, want the living writer's alone", left)
	}
	close(goOn)
	if err := <-result; err != nil {
		t.Errorf("the living writer: %v", err)
	}
}

// A writer whose temporary file or directory is taken from it says Busy, and the repeated call succeeds.
func TestTakenAway(t *testing.T) {
	for name, take := range map[string]func(dir string) error{
		"temporary": func(dir string) error { return os.RemoveAll(filepath.Join(dir, ".tmp~")) },
		"directory": func(dir string) error { return os.Remove(filepath.Join(dir, "d")) },
	} {
		for _, when := range []local.Op{local.OpCreate, local.OpRename, local.OpLink} {
			t.Run(name+" "+string(when), func(t *testing.T) {
				dir := t.TempDir()
				armed := true
				s, err := local.Open(dir, local.Options{Before: func(st local.Step) error {
					if st.Op == when && armed {
						armed = false
						return take(dir)
					}
					return nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				r := store.Retry(s, store.Budget{First: time.Millisecond})
				call := r.Put
				if when == local.OpLink {
					call = r.Create
				}
				if err := call(t.Context(), "d/x", []byte("body")); err != nil {
					t.Error(err)
				}
				if got, err := s.Get(t.Context(), "d/x", 10); err != nil || string(got) != "body" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
	}
}

// A store whose directory was removed is not an empty one, even if another one is at its path.
func TestRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := local.Create(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Put(t.Context(), "a/b", nil), os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	_, getErr := s.Get(t.Context(), "a/b", 10)
	_, statErr := s.Stat(t.Context(), "a/b")
	for op, err := range map[string]error{
		"put": s.Put(t.Context(), "a/c", nil), "get": getErr, "stat": statErr,
		"list": s.List(t.Context(), "", "", func(store.Info) error { return nil }),
	} {
		if err == nil || errors.Is(err, store.ErrNotExist) || !strings.Contains(err.Error(), "was removed") {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("mounting a small file system is not allowed here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	body := make([]byte, 300<<10)
	n := 0
	for ; err == nil && n < 20; n++ {
		err = s.Put(t.Context(), fmt.Sprintf("fill/%d", n), body)
	}
	if store.KindOf(err) != store.Full || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v (kind %d), want Full", err, store.KindOf(err))
	}
	if err := s.Create(t.Context(), "fill/new", body); store.KindOf(err) != store.Full {
		t.Errorf("create: got %v, want Full", err)
	}
	if err := s.Put(t.Context(), "fill/0", body); store.KindOf(err) != store.Full {
		t.Errorf("overwrite: got %v, want Full: the old bytes stay until the new ones are safe", err)
	}
	if left := temporaries(t, dir); len(left) > 0 {
		t.Errorf("temporary files hold the space that is missing: %q", left)
	}
	for i := range n - 1 {
		name := fmt.Sprintf("fill/%d", i)
		if got, err := s.Get(t.Context(), name, 1<<20); err != nil || len(got) != len(body) {
			t.Errorf("%s: got %d bytes, %v", name, len(got), err)
		}
	}
	// Deleting must work on a full disk, or nobody gets out of it.
	if err := s.Delete(t.Context(), "fill/0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "fill/0", body); err != nil {
		t.Errorf("after making space: %v", err)
	}
}

func TestCancelledInTheMiddle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	writes := 0
	s := open(t, local.Options{Before: func(st local.Step) error {
		if st.Op == local.OpWrite {
			writes++
			cancel()
		}
		return nil
	}})
	if err := s.Put(ctx, "x", make([]byte, 20<<20)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if left := temporaries(t, s.String()); writes != 1 || len(left) > 0 {
		t.Errorf("%d writes, temporary files %q, want 1 and none", writes, left)
	}
}

func BenchmarkPut32MiB(b *testing.B) {
	s := open(b, local.Options{})
	body := make([]byte, 32<<20)
	for i := range body {
		body[i] = byte(i * 2654435761 >> 13)
	}
	b.SetBytes(int64(len(body)))
	for i := 0; b.Loop(); i++ {
		if err := s.Put(b.Context(), fmt.Sprintf("data/%d", i%8), body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPut4KiB(b *testing.B) {
	s := open(b, local.Options{})
	body := make([]byte, 4<<10)
	b.SetBytes(int64(len(body)))
	for i := 0; b.Loop(); i++ {
		if err := s.Put(b.Context(), fmt.Sprintf("log/%d", i%100), body); err != nil {
			b.Fatal(err)
		}
	}
}
