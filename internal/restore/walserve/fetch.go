package walserve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// FetchOptions say how Fetch finds who answers.
type FetchOptions struct {
	// StartPrefetcher starts a process that runs a Prefetcher for walDir and outlives the caller; see Detach. died
	// is closed when the process ends. nil: every request is answered by its own process.
	StartPrefetcher func(walDir string) (died <-chan struct{}, err error)
	// Open opens the repository, for a request that no Prefetcher answers.
	Open func(ctx context.Context) (*Source, error)
	// Patience is how long a Prefetcher that was started may take until it answers; 0: 20 s. Unlocking keys
	// takes its time.
	Patience time.Duration
}

// Fetch answers one request of a restore_command: name is %f and path %p. It asks the Prefetcher that serves
// path's directory, starts one where there is none, and does the work itself where that fails.
func Fetch(ctx context.Context, name, path string, o FetchOptions) Result {
	path, err := filepath.Abs(path)
	if err != nil {
		return failed(name, err)
	}
	walDir, base := filepath.Split(path)
	if r, err := ask(ctx, walDir, request{name, base}); err == nil {
		return r
	}
	if o.StartPrefetcher != nil {
		if died, err := o.StartPrefetcher(walDir); err == nil {
			if r, err := askSoon(ctx, walDir, request{name, base}, o.Patience, died); err == nil {
				return r
			}
		}
	}
	if ctx.Err() != nil {
		return failed(name, ctx.Err())
	}
	s, err := o.Open(ctx)
	if err != nil {
		return failed(name, err)
	}
	in, err := openPlace(walDir, nil)
	if err != nil {
		return failed(name, err)
	}
	defer in.close()
	return s.assembler().get(ctx, name, in, base, asked).Result
}

// ask sends a request to the Prefetcher of a directory.
func ask(ctx context.Context, walDir string, q request) (Result, error) {
	var r Result
	d, err := os.Open(filepath.Join(walDir, SpoolName))
	if err != nil {
		return r, err
	}
	defer d.Close() //nolint:errcheck // only read
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName))
	if err != nil {
		return r, err
	}
	defer conn.Close()                                                                        //nolint:errcheck // the answer is in
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now().Add(-time.Second)) })() //nolint:errcheck // as for every socket
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return r, err
	}
	err = json.NewDecoder(conn).Decode(&r)
	if err == nil && r.Name != q.Name {
		err = errors.New("the prefetcher answered another request")
	}
	return r, err
}

// askSoon repeats ask until the Prefetcher, another process that was just started, listens.
func askSoon(ctx context.Context, walDir string, q request, patience time.Duration, died <-chan struct{}) (Result, error) {
	if patience == 0 {
		patience = 20 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		// The patience is for the start; an answer may take as long as the store needs.
		r, err := ask(context.WithoutCancel(ctx), walDir, q)
		if err == nil {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, err
		case <-died:
			// Another one may have been faster, and this one left it the work.
			return ask(context.WithoutCancel(ctx), walDir, q)
		case <-again.C:
		}
	}
}

// Stop ends the Prefetcher of a data directory, if one runs.
func Stop(ctx context.Context, dataDir string) {
	_, _ = ask(ctx, filepath.Join(dataDir, "pg_wal"), request{Name: stopName}) // it answers nothing
}

// Detach starts a command that outlives this process and its terminal. died is closed when it ends; the caller
// need not wait for that.
func Detach(cmd *exec.Cmd) (died <-chan struct{}, err error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // why it ended is in its own log
		close(ended)
	}()
	return ended, nil
}
