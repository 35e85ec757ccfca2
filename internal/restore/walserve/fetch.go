package walserve

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/internal/sidecar"
)

// FetchOptions say how Fetch finds who answers.
type FetchOptions struct {
	// StartPrefetcher starts a process that runs a Prefetcher for walDir and outlives the caller; see sidecar.Detach. died
	// is closed when the process ends. nil: every request is answered by its own process.
	StartPrefetcher func(walDir string) (died <-chan struct{}, err error)
	// Open opens the repository, for a request that no Prefetcher answers.
	Open func(ctx context.Context) (*Source, error)
}

// Fetch answers one request of a restore_command: name is %f and path %p. It asks the Prefetcher that serves
// path's directory, starts one where there is none, and does the work itself where that fails.
func Fetch(ctx context.Context, name, path string, o FetchOptions) Result {
	path, err := filepath.Abs(path)
	if err != nil {
		return failed(name, err)
	}
	walDir, base := filepath.Split(path)
	q := request{name, base}
	if r, err := ask(ctx, walDir, q); err == nil {
		return r
	}
	if o.StartPrefetcher != nil {
		if died, err := o.StartPrefetcher(walDir); err == nil {
			r, err := sidecar.AskNew[request, Result](ctx, filepath.Join(walDir, SpoolName), q, died)
			if r, err = answered(r, err, q); err == nil {
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
	r, err := sidecar.Ask[request, Result](ctx, filepath.Join(walDir, SpoolName), q)
	return answered(r, err, q)
}

// answered makes an error of an answer to another request.
func answered(r Result, err error, q request) (Result, error) {
	if err == nil && r.Name != q.Name {
		err = errors.New("the prefetcher answered another request")
	}
	return r, err
}

// Stop ends the Prefetcher of a data directory, if one runs.
func Stop(ctx context.Context, dataDir string) {
	_, _ = ask(ctx, filepath.Join(dataDir, "pg_wal"), request{Name: stopName}) // it answers nothing
}
