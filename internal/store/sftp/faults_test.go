package sftp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pkgsftp "github.com/pkg/sftp"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/sftp"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestClaimAfterACut(t *testing.T) {
	if err := pkgsftp.SetSFTPExtensions("posix-rename@openssh.com"); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	var srv *goServer
	srv = startSession(t, func(rwc io.ReadWriteCloser) error {
		s, err := pkgsftp.NewServer(&cutAt{rwc, "posix-rename", &once, func() { srv.cut() }})
		if err != nil {
			return err
		}
		return s.Serve()
	})
	s := srv.open(t, "s")
	defer s.Close()
	if err := s.Create(t.Context(), "name", []byte("x")); store.KindOf(err) != store.Busy {
		t.Errorf("cut: got %v, want Busy", err)
	}
	if err := s.Create(t.Context(), "name", []byte("x")); err != nil {
		t.Errorf("repeated: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(srv.dir, "s", ".tmp~"))
	if err != nil || len(left) != 1 { // the cut call's temporary file, for a day
		t.Errorf("left: %v, %v; want one file", left, err)
	}
}

func TestDeadServer(t *testing.T) {
	srv := startGo(t, "posix-rename@openssh.com")
	o := srv.options("s")
	l, err := net.Listen("tcp", "127.0.0.1:0") // which greets nobody
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o.Port = l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of a TCP listener
	o.Stall = 100 * time.Millisecond
	s := sftp.Open(o)
	defer s.Close()
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if _, err := s.Stat(t.Context(), "x"); store.KindOf(err) != store.Busy || !strings.Contains(err.Error(), "nothing came back for 100ms") {
				t.Errorf("got %v, want Busy", err)
			}
		})
	}
	wg.Wait()
}

func TestKilledInAWrite(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // 256 KiB
	cuts := 0
	for i, c := range []storetest.Cut{
		{After: 10},
		{After: 3000},
		{After: 30_000},
		{After: 150_000},
		{After: 262_000},
		{Answer: true, After: 1000},
		{Answer: true, After: 2400},
		{Answer: true, After: 2800},
		{Answer: true, After: 3000},
	} {
		dir, line := fmt.Sprint("s", i), storetest.NewProxy(t, "http://"+srv.Addr)
		first := srv.Open(t, dir)
		if err := first.Put(t.Context(), "there/old", []byte("old")); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		c.Do = srv.Kill
		s, cut, result := through(t, srv, line, dir, 5*time.Second), line.Cut(c), make(chan error, 1)
		r := store.Retry(s, store.Budget{First: 50 * time.Millisecond})
		go func() {
			result <- errors.Join(r.Put(t.Context(), "there/old", body), r.Create(t.Context(), "there/new", body))
		}()
		select {
		case <-cut:
			cuts++
			wantWhole(t, filepath.Join(srv.Dir, dir, "there"), body)
			srv.Start(t)
			if err := <-result; err != nil {
				t.Errorf("%+v: repeated: %v", c, err)
			}
		case err := <-result: // all was over sooner
			if err != nil {
				t.Errorf("%+v: %v", c, err)
			}
		}
		for _, name := range []string{"there/old", "there/new"} {
			if got, err := r.Get(t.Context(), name, 1<<20); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%+v: then %s has %d bytes, %v", c, name, len(got), err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if cuts < 7 {
		t.Errorf("only %d of the writes were cut", cuts)
	}
}

func wantWhole(t *testing.T, dir string, body []byte) {
	t.Helper()
	for _, name := range []string{"old", "new"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if !bytes.Equal(got, body) && (name != "old" || string(got) != "old") && (name != "new" || !errors.Is(err, os.ErrNotExist)) {
			t.Errorf("%s has %d bytes (%v): neither what was there nor what is written", name, len(got), err)
		}
	}
}

func through(t *testing.T, srv *storetest.SSHServer, line *storetest.Proxy, dir string, stall time.Duration) *sftp.Store {
	t.Helper()
	o := srv.Options(dir)
	known, err := os.ReadFile(srv.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(strings.TrimPrefix(line.Endpoint, "http://"), ":")
	_, key, _ := strings.Cut(string(known), " ")
	o.KnownHosts = []string{filepath.Join(t.TempDir(), "known")}
	if err := os.WriteFile(o.KnownHosts[0], []byte("["+host+"]:"+port+" "+key), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(port, &o.Port); err != nil {
		t.Fatal(err)
	}
	o.Stall = stall
	return sftp.Open(o)
}

func TestSilence(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	line := storetest.NewProxy(t, "http://"+srv.Addr)
	defer srv.Open(t, "s").Close()
	s := through(t, srv, line, "s", 300*time.Millisecond)
	defer s.Close()
	r := store.Retry(s, store.Budget{First: time.Millisecond})
	if err := r.Put(t.Context(), "x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	line.Cut(storetest.Cut{Stall: true})
	_, err := s.Get(t.Context(), "x", 10)
	if store.KindOf(err) != store.Busy || !strings.Contains(err.Error(), "nothing came back for 300ms") {
		t.Errorf("a silent line: got %v, want Busy", err)
	}
	line.Mend()
	if got, err := r.Get(t.Context(), "x", 10); err != nil || string(got) != "x" {
		t.Errorf("the next call: got %q, %v", got, err)
	}
}

func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	defer srv.Open(t, "s").Close()
	why := errors.New("the reason why")
	var wg sync.WaitGroup
	for _, c := range []storetest.Cut{{Stall: true, After: 10}, {Stall: true, After: 50_000}, {Stall: true, Answer: true}} {
		wg.Go(func() {
			line := storetest.NewProxy(t, "http://"+srv.Addr)
			s := through(t, srv, line, "s", time.Hour)
			defer s.Close()
			ctx, cancel := context.WithCancelCause(t.Context())
			c.Do = func() { cancel(why) }
			line.Cut(c)
			if err := s.Put(ctx, "x", make([]byte, 1<<20)); !errors.Is(err, why) {
				t.Errorf("%+v: got %v, want the cause", c, err)
			}
		})
	}
	wg.Wait()
}

func TestConnections(t *testing.T) {
	srv := startGo(t, "hardlink@openssh.com", "posix-rename@openssh.com")
	s := srv.open(t, "s")
	defer s.Close()
	results := make(chan error)
	r := store.Retry(s, store.Budget{First: time.Millisecond})
	for i := range 40 {
		go func() { results <- r.Put(t.Context(), fmt.Sprint("x/", i), bytes.Repeat([]byte("x"), 100_000)) }()
		if i == 20 {
			srv.cut()
		}
	}
	for range 40 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := srv.connections(); n < 2 || n > 4+4 {
		t.Errorf("%d connections, want a few", n)
	}
	wantNoTemporaries(t, filepath.Join(srv.dir, "s"))
}

func TestTakenAway(t *testing.T) {
	t.Parallel()
	srv := storetest.SSHD(t)
	s := srv.Open(t, "s")
	defer s.Close()
	root := filepath.Join(srv.Dir, "s")
	for _, put := range []func(context.Context, string, []byte) error{s.Put, s.Create} {
		for _, taken := range []string{"a", ".tmp~"} {
			if err := s.Put(t.Context(), "a/b/x", nil); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.RemoveAll(filepath.Join(root, taken)), os.RemoveAll(filepath.Join(root, "a/b/y"))); err != nil {
				t.Fatal(err)
			}
			err := put(t.Context(), "a/b/y", nil)
			if store.KindOf(err) == store.Busy {
				err = put(t.Context(), "a/b/y", nil)
			}
			if err != nil {
				t.Errorf("after %s was removed: %v", taken, err)
			}
		}
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	_, getErr := s.Get(t.Context(), "a/b/x", 1)
	_, statErr := s.Stat(t.Context(), "a/b/x")
	for op, err := range map[string]error{
		"put": s.Put(t.Context(), "a/b/y", nil), "create": s.Create(t.Context(), "y", nil), "get": getErr, "stat": statErr,
		"list": s.List(t.Context(), "", "", func(store.Info) error { return nil }), "list below": s.List(t.Context(), "a/", "", func(store.Info) error { return nil }),
	} {
		if store.KindOf(err) != store.Denied || !strings.Contains(err.Error(), "there is no directory") {
			t.Errorf("%s without the root: got %v (kind %d), want Denied", op, err, store.KindOf(err))
		}
	}
}
