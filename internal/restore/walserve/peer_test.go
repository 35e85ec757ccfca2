package walserve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// The user whose server recovers, in tests that run as root.
const ownerID, strangerID = 65534, 65533

// ownedDir returns an empty directory of the owner's that others can get to.
func ownedDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root serves others")
	}
	dir := filepath.Join(t.TempDir(), "pg_wal")
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, ownerID, ownerID); err != nil {
		t.Fatal(err)
	}
	for up := filepath.Dir(dir); up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// serve runs a Prefetcher of root for the owner, and returns when it listens, or why it does not.
func serve(t *testing.T, a *archive, dir string) (stop func() error, err error) {
	t.Helper()
	source := NewSource(a.r, Policy{System: system, SegmentSize: uint32(size)})
	source.Owner = &syscall.Credential{Uid: ownerID, Gid: ownerID}
	ctx, cancel := context.WithCancel(t.Context())
	listening, ended := make(chan struct{}), make(chan error, 1)
	p := &Prefetcher{Source: source, Ahead: 1, Listening: func() { close(listening) }}
	go func() { ended <- p.Run(ctx, dir) }()
	select {
	case <-listening:
		return func() error { cancel(); return <-ended }, nil
	case err := <-ended:
		cancel()
		return nil, err
	}
}

// asUser runs f in a thread that belongs to another user, as the kernel tells it to who is asked.
func asUser(t *testing.T, uid int, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
			done <- e
			return
		}
		done <- f()
	}()
	return <-done
}

func askAs(t *testing.T, uid int, dir string, q request) (r Result, err error) {
	err = asUser(t, uid, func() (err error) { r, err = ask(t.Context(), dir, q); return err })
	return r, err
}

func owner(t *testing.T, path string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

func TestRootServesTheOwner(t *testing.T) {
	dir := ownedDir(t)
	a := newArchive(t)
	a.put(1, 0, 8)
	stop, err := serve(t, a, dir)
	if err != nil {
		t.Fatal(err)
	}
	spool := filepath.Join(dir, SpoolName)
	for _, path := range []string{spool, filepath.Join(spool, socketName), filepath.Join(spool, lockName)} {
		if got := owner(t, path); got != ownerID {
			t.Errorf("%s belongs to user %d, want %d", path, got, ownerID)
		}
	}
	name := wal.SegmentName(1, 0, size)
	r, err := askAs(t, ownerID, dir, request{name, "RECOVERYXLOG"})
	if err != nil || r.Outcome != Served {
		t.Fatalf("the owner gets %+v, %v", r, err)
	}
	if got := owner(t, filepath.Join(dir, "RECOVERYXLOG")); got != ownerID {
		t.Errorf("the segment belongs to user %d, want %d", got, ownerID)
	}
	if r, err := askAs(t, 0, dir, request{name, "ROOTS"}); err != nil || r.Outcome != Served {
		t.Errorf("root gets %+v, %v", r, err)
	}

	// A stranger who gets as far as the socket gets no answer.
	if err := errors.Join(os.Chmod(spool, 0o755), os.Chmod(filepath.Join(spool, socketName), 0o777)); err != nil {
		t.Fatal(err)
	}
	if r, err := askAs(t, strangerID, dir, request{name, "STRANGE"}); err == nil {
		t.Errorf("a stranger gets %+v", r)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(spool); err == nil {
		t.Error("the spool was left behind")
	}
}

func TestRootWritesNowhereElse(t *testing.T) {
	dir := ownedDir(t)
	a := newArchive(t)
	a.put(1, 0, 8)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop, err := serve(t, a, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"../RECOVERYXLOG", outside, "sub/RECOVERYXLOG", ".", "..", "", SpoolName, "a\x00b"} {
		if r, err := askAs(t, ownerID, dir, request{wal.SegmentName(1, 0, size), file}); err != nil || r.Outcome != BadRequest {
			t.Errorf("a request for %q is %+v, %v", file, r, err)
		}
	}
	// Links in the way of what is fetched, and of what it becomes.
	name := wal.SegmentName(1, 1, size)
	for _, link := range []string{SpoolName + "/" + name + ".part", SpoolName + "/" + name, "RECOVERYXLOG"} {
		os.Remove(filepath.Join(dir, link))
		if err := os.Symlink(outside, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := askAs(t, ownerID, dir, request{name, "RECOVERYXLOG"}); err != nil || r.Outcome != Served {
		t.Errorf("with links in the way: %+v, %v", r, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "root's" || owner(t, outside) != 0 {
		t.Errorf("what lies outside is now %.20q of user %d, %v", b, owner(t, outside), err)
	}
}

func TestRootRefusesAStrangeDirectory(t *testing.T) {
	dir := ownedDir(t)
	a := newArchive(t)
	elsewhere := filepath.Join(filepath.Dir(dir), "elsewhere")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(dir), os.Symlink(elsewhere, dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := serve(t, a, dir); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("a link in place of pg_wal is followed: %v", err)
	}
	// A link in place of the spool leads nowhere either.
	dir = ownedDir(t)
	if err := os.Symlink(elsewhere, filepath.Join(dir, SpoolName)); err != nil {
		t.Fatal(err)
	}
	if _, err := serve(t, a, dir); err == nil {
		t.Error("a link in place of the spool is followed")
	}
	if list, err := os.ReadDir(elsewhere); err != nil || len(list) > 0 {
		t.Errorf("in the directory of another: %v, %v", list, err)
	}
}

// Whoever connects and says nothing, or too much, holds up nobody.
func TestPrefetcherEndsWithASilentClient(t *testing.T) {
	a := newArchive(t)
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	listening, ended := make(chan struct{}), make(chan error, 1)
	p := &Prefetcher{Source: NewSource(a.r, Policy{System: system, SegmentSize: uint32(size)}), Listening: func() { close(listening) }}
	go func() { ended <- p.Run(ctx, dir) }()
	<-listening
	d, err := os.Open(filepath.Join(dir, SpoolName))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	silent, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := ask(t.Context(), dir, request{strings.Repeat("0", maxRequest), "RECOVERYXLOG"}); err == nil {
		t.Error("a request without an end is answered")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
