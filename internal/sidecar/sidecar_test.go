package sidecar_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

// echo answers with what it was asked, and ends at "stop".
func echo(_ context.Context, q string) (string, bool) { return q + q, q == "stop" }

// serve runs a sidecar until the test ends or it does.
func serve(t *testing.T, dir string, idle time.Duration) (ended <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		done <- sidecar.Serve(ctx, sidecar.Place{Dir: dir}, idle, echo)
	}()
	t.Cleanup(func() { stop(); <-over })
	return done
}

func ask(t *testing.T, dir, q string) string {
	t.Helper()
	a, err := sidecar.AskNew[string, string](t.Context(), dir, q, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAnswers(t *testing.T) {
	// Deeper than a socket's path may be long.
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30), "sidecar")
	if _, err := sidecar.Ask[string, string](t.Context(), dir, "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("where none ever ran: %v", err)
	}
	ended := serve(t, dir, time.Hour)
	for _, q := range []string{"a", "", strings.Repeat("long ", 10000)} {
		if got := ask(t, dir, q); got != q+q {
			t.Errorf("%.20q is answered with %.20q", q, got)
		}
	}
	if err := sidecar.Serve(t.Context(), sidecar.Place{Dir: dir}, time.Hour, echo); err != nil {
		t.Errorf("the second of two: %v", err)
	}
	if got := ask(t, dir, "a"); got != "aa" {
		t.Errorf("after the second one the first one answers %q", got)
	}
	_, _ = sidecar.Ask[string, string](t.Context(), dir, "stop")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it has left its directory: %v", err)
	}
}

func TestEndsWhenIdle(t *testing.T) {
	dir := t.TempDir()
	if err := <-serve(t, dir, time.Millisecond); err != nil {
		t.Error(err)
	}
	if _, err := sidecar.Ask[string, string](t.Context(), dir, "x"); err == nil {
		t.Error("it answers still")
	}
}

func TestTakesTheDeadOnesPlace(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"socket", "lock", "half-written"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serve(t, dir, time.Hour)
	if got := ask(t, dir, "a"); got != "aa" {
		t.Errorf("answered %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "half-written")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the dead one left is there: %v", err)
	}
}

// A client whose context ends does not wait for the answer, and one that says nothing keeps nobody from asking.
func TestClientsThatGo(t *testing.T) {
	dir := t.TempDir()
	release := make(chan struct{})
	asked := make(chan struct{}, 1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- sidecar.Serve(ctx, sidecar.Place{Dir: dir}, time.Hour, func(_ context.Context, q string) (string, bool) {
			if q == "slow" {
				asked <- struct{}{}
				<-release
			}
			return q, false
		})
	}()
	ask(t, dir, "ready")
	gone, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := sidecar.Ask[string, string](gone, dir, "slow")
		left <- err
	}()
	<-asked
	leave()
	if err := <-left; err == nil {
		t.Error("a client that went away has an answer")
	}
	if got := ask(t, dir, "next"); got != "next" {
		t.Errorf("answered %q", got)
	}
	close(release)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// An answer may take longer than the sidecar would wait for a request.
func TestSlowAnswers(t *testing.T) {
	dir := t.TempDir()
	ended := make(chan error, 1)
	go func() {
		ended <- sidecar.Serve(t.Context(), sidecar.Place{Dir: dir}, 20*time.Millisecond, func(ctx context.Context, q string) (string, bool) {
			select {
			case <-time.After(200 * time.Millisecond):
				return q, false
			case <-ctx.Done():
				return "ended", false
			}
		})
	}()
	if got := ask(t, dir, "slow"); got != "slow" {
		t.Errorf("answered %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What nobody waits for any more is told to whoever does it; one who waits gets the answer.
func TestAClientHangsUp(t *testing.T) {
	dir := t.TempDir()
	begun, gone := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- sidecar.Serve(ctx, sidecar.Place{Dir: dir, HangUp: true}, time.Hour, func(ctx context.Context, q string) (string, bool) {
			if q == "wait" {
				close(begun)
				<-ctx.Done()
				close(gone)
			}
			return q + q, false
		})
	}()
	if got := ask(t, dir, strings.Repeat("a", 1<<20)); len(got) != 2<<20 {
		t.Errorf("answered with %d bytes", len(got))
	}
	client, leave := context.WithCancel(t.Context())
	go func() { <-begun; leave() }()
	if _, err := sidecar.Ask[string, string](client, dir, "wait"); err == nil {
		t.Error("it was answered")
	}
	<-gone
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Where many begin and end at once, whoever serves can be asked.
func TestManyAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sidecar")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := sidecar.Serve(ctx, sidecar.Place{Dir: dir}, time.Millisecond, echo); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 200 {
		if got := ask(t, dir, "a"); got != "aa" {
			t.Fatalf("answered %q", got)
		}
	}
	stop()
	all.Wait()
}
