package sftp_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pkgsftp "github.com/pkg/sftp"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/sftp"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	storetest.Conformance(t, func(t *testing.T) store.Store { return srv.Open(t, t.Name()) })
}

// The server of another maker: it has no fsync, and as it is told to have no hard links, claims decide who creates.
func TestConformanceGo(t *testing.T) {
	t.Parallel()
	srv := startGo(t, "posix-rename@openssh.com")
	storetest.Conformance(t, func(t *testing.T) store.Store { return store.Retry(srv.open(t, t.Name()), store.Budget{}) })
}

// A name cannot be an object and the directory of others at once, and the attempt changes nothing. Servers answer to
// it in different words.
func TestDirectoryOfObjects(t *testing.T) {
	for name, s := range map[string]*sftp.Store{
		"OpenSSH": storetest.SSHD(t).Open(t, "s"),
		"Go":      startGo(t, "hardlink@openssh.com", "posix-rename@openssh.com").open(t, "s"),
	} {
		defer s.Close()
		for _, name := range []string{"a/b", "file"} {
			if err := s.Create(t.Context(), name, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := s.Create(t.Context(), name, []byte("y")); !errors.Is(err, store.ErrExists) {
				t.Errorf("%s: create %s again: got %v, want ErrExists", name, name, err)
			}
		}
		for _, object := range []string{"a", "file/below", "file/deep/below"} {
			for _, err := range []error{s.Put(t.Context(), object, nil), s.Create(t.Context(), object, nil)} {
				if store.KindOf(err) != store.Other || !strings.Contains(err.Error(), "director") {
					t.Errorf("%s: %s: got %v, want an error that names the directory", name, object, err)
				}
			}
			if _, err := s.Stat(t.Context(), object); !errors.Is(err, store.ErrNotExist) {
				t.Errorf("%s: stat %s: got %v, want ErrNotExist", name, object, err)
			}
			if _, err := s.Get(t.Context(), object, 10); !errors.Is(err, store.ErrNotExist) {
				t.Errorf("%s: get %s: got %v, want ErrNotExist", name, object, err)
			}
			if err := s.Delete(t.Context(), object); err != nil {
				t.Errorf("%s: delete %s: %v", name, object, err)
			}
		}
		if got, err := s.Get(t.Context(), "a/b", 1); err != nil || string(got) != "x" {
			t.Errorf("%s: a/b: got %q, %v", name, got, err)
		}
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	s := srv.Open(t, "probed")
	defer s.Close()
	got, err := store.Probe(t.Context(), s)
	if want := (store.Abilities{ExclusiveCreate: true, ListAfterWrite: true, Delete: true}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// A claim whose creator died is respected while he may be alive, and void later.
func TestClaimOfTheDead(t *testing.T) {
	srv := startGo(t, "posix-rename@openssh.com")
	s := srv.open(t, "s")
	defer s.Close()
	if err := s.Put(t.Context(), "other", nil); err != nil { // makes .tmp~
		t.Fatal(err)
	}
	claim := filepath.Join(srv.dir, "s", ".tmp~", "claim-"+sha("name"))
	if err := os.WriteFile(claim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-11 * time.Minute)
	if err := os.Chtimes(claim, old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "name", []byte("x")); err != nil {
		t.Errorf("beside the claim of a dead creator: %v", err)
	}
	if err := s.Create(t.Context(), "name", []byte("y")); !errors.Is(err, store.ErrExists) {
		t.Errorf("a second creator: got %v, want ErrExists", err)
	}
	wantNoTemporaries(t, filepath.Join(srv.dir, "s"))
}

// A creator whose line is cut while it holds its claim goes on with it.
// Who waits for a connection that cannot be made learns it at once.
func wantNoTemporaries(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(dir, ".tmp~"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}

// A server that is killed in the middle of a write, whatever part of it had come, and of its answers gone: no part
// is ever seen, and the repeated call succeeds when the server is there again. The first bytes are those of the
// handshakes.
// wantWhole looks at the files themselves.
// through opens a store over a line. The server's key is known under the line's address.
// A line that falls silent is given up.
// A caller who goes away is not held by a silent line, nor by one on which it was not even greeted.
// Who is not known is not believed, and each error says what to do.
func TestStrangers(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	other := filepath.Join(t.TempDir(), "other")
	public, err := storetest.NewKey(other)
	if err != nil {
		t.Fatal(err)
	}
	file := func(text []byte) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, c := range map[string]struct {
		change       func(*sftp.Options)
		reason, next string
	}{
		"unknown host":   {func(o *sftp.Options) { o.KnownHosts = []string{file(nil)} }, "the host is not known, and its key is ssh-ed25519 SHA256:", "ssh-keyscan -p "},
		"no known hosts": {func(o *sftp.Options) { o.KnownHosts = []string{"/nonexistent"} }, "the host is not known", ">> /nonexistent"},
		"changed host":   {func(o *sftp.Options) { o.KnownHosts = []string{file(storetest.KnownHost(srv.Addr, public))} }, "has changed to ssh-ed25519 SHA256:", "ask who runs the server"},
		"revoked host": {func(o *sftp.Options) {
			known, _ := os.ReadFile(srv.KnownHosts) //nolint:errcheck // the result differs
			o.KnownHosts = []string{srv.KnownHosts, file(append([]byte("@revoked "), known...))}
		}, "is revoked by", "do not connect"},
		"bad line":   {func(o *sftp.Options) { o.KnownHosts = []string{file([]byte("host ssh-ed25519 AAAA\n"))} }, "file:1", "correct that line"},
		"wrong key":  {func(o *sftp.Options) { o.IdentityFiles = []string{other} }, "accepts none of the keys for user", "authorized_keys"},
		"wrong user": {func(o *sftp.Options) { o.User = "nobody-of-that-name" }, "accepts none of the keys", "authorized_keys"},
		"no key":     {func(o *sftp.Options) { o.IdentityFiles = []string{other + ".absent"} }, "no such file", "identity-file"},
		"public key": {func(o *sftp.Options) { o.IdentityFiles = []string{file([]byte("ssh-ed25519 AAAA"))} }, "none that can be read", ".pub"},
		"no root":    {func(o *sftp.Options) { o.Dir += "/no/such" }, "there is no directory " + srv.Dir, "holdfast repo init"},
	} {
		t.Run(name, func(t *testing.T) {
			o := srv.Options("")
			c.change(&o)
			s := sftp.Open(o)
			defer s.Close()
			_, err := s.Get(t.Context(), "x", 1)
			if store.KindOf(err) != store.Denied || !strings.Contains(err.Error(), c.reason) || !strings.Contains(dr.Advice(err), c.next) {
				t.Errorf("got %v (kind %d; next: %s), want one that says %q and advises %q", err, store.KindOf(err), dr.Advice(err), c.reason, c.next)
			}
		})
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	s := srv.Open(t, "ro")
	defer s.Close()
	if err := s.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"ro/.tmp~", "ro/a", "ro"} {
		if err := os.Chmod(filepath.Join(srv.Dir, dir), 0o500); err != nil {
			t.Fatal(err)
		}
	}
	for op, err := range map[string]error{
		"put": s.Put(t.Context(), "c", nil), "create": s.Create(t.Context(), "a/new", nil), "delete": s.Delete(t.Context(), "a/b"),
		"put below": s.Put(t.Context(), "new/x", nil),
	} {
		if store.KindOf(err) != store.Denied {
			t.Errorf("%s: got %v (kind %d), want Denied", op, err, store.KindOf(err))
		}
	}
	if got, err := s.Get(t.Context(), "a/b", 1); err != nil || string(got) != "x" {
		t.Errorf("get: got %q, %v", got, err)
	}
}

// Nothing can be replaced where there is no posix-rename: that is said at once, and not found out later.
func TestNoRename(t *testing.T) {
	srv := startGo(t, "hardlink@openssh.com")
	_, err := sftp.Create(t.Context(), srv.options("s"))
	if err == nil || !strings.Contains(err.Error(), "posix-rename@openssh.com") || !strings.Contains(dr.Advice(err), "OpenSSH") {
		t.Errorf("got %v", err)
	}
}

type fullDisk struct{ pkgsftp.FileWriter }

func (fullDisk) Filewrite(*pkgsftp.Request) (io.WriterAt, error) { return fullFile{}, nil }

type fullFile struct{}

func (fullFile) WriteAt([]byte, int64) (int, error) { return 0, syscall.ENOSPC }

func TestFull(t *testing.T) {
	if err := pkgsftp.SetSFTPExtensions("posix-rename@openssh.com"); err != nil {
		t.Fatal(err)
	}
	srv := startSession(t, func(rwc io.ReadWriteCloser) error {
		h := pkgsftp.InMemHandler()
		h.FilePut = fullDisk{h.FilePut}
		return pkgsftp.NewRequestServer(rwc, h).Serve()
	})
	o := srv.options("s")
	o.Dir = "/"
	s := sftp.Open(o)
	defer s.Close()
	if err := s.Put(t.Context(), "x", []byte("body")); store.KindOf(err) != store.Full {
		t.Errorf("got %v (kind %d), want Full", err, store.KindOf(err))
	}
}

// Many calls share a few connections; a cut fails those that are under way as Busy, and the store goes on.
// A write whose directories are taken away says Busy, and the repeated one makes them anew. The root is not made
// anew: it may be a disk that was unmounted.
// What a writer left that died long ago goes with the first write of another one; what is newer may be in use.
func TestStale(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	first := srv.Open(t, "s")
	defer first.Close()
	if err := first.Put(t.Context(), "x", nil); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(srv.Dir, "s", ".tmp~")
	for name, age := range map[string]time.Duration{"OLD": 25 * time.Hour, "NEW": time.Hour} {
		file, when := filepath.Join(tmp, name), time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chtimes(file, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	second := srv.Open(t, "s")
	defer second.Close()
	if err := second.Put(t.Context(), "x", nil); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 1 || left[0].Name() != "NEW" {
		t.Errorf("left: %v, %v; want NEW alone", left, err)
	}
}
