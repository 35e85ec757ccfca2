package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const (
	tries = 20
	pause = 10 * time.Millisecond
)

// Read returns the content of a data directory's pg_control, and its bytes as they were checked: FileSize of
// them, which belong to the caller. A server may be writing the file at that moment; a torn read is repeated
// for a fifth of a second (PostgreSQL's own tools do the same), and only then is the *TornError returned.
func Read(ctx context.Context, dataDir string) (Data, []byte, error) {
	path := filepath.Join(dataDir, filepath.FromSlash(Path))
	return ReadWith(ctx, path, func() ([]byte, error) { return readFile(path) })
}

// ReadWith is Read for a file that read reads, and an error names.
func ReadWith(ctx context.Context, path string, read func() ([]byte, error)) (Data, []byte, error) {
	for try := 1; ; try++ {
		b, err := read()
		if err != nil {
			return Data{}, nil, err
		}
		d, err := Parse(b)
		var torn *TornError
		if err == nil {
			return d, b, nil
		}
		if !errors.As(err, &torn) || try == tries {
			return Data{}, nil, fmt.Errorf("read %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return Data{}, nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// readFile reads at most FileSize bytes in one call, so that a write in between is unlikely.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	b := make([]byte, FileSize)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b[:n:n], nil
}
