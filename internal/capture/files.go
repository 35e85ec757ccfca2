package capture

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/pg/cluster"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
)

// clusterFiles reads the files of a running cluster: on this machine, or through the server. Paths are those of
// cluster.Entry. It is used by one goroutine, its readers by one each.
type clusterFiles interface {
	control(ctx context.Context) (control.Data, []byte, error)
	// stat follows links. What is not there is nil.
	stat(ctx context.Context, paths []string) ([]*fileFacts, error)
	// walk is cluster.Walk; known tells of which files and folders the snapshot before has.
	walk(ctx context.Context, o cluster.WalkOptions, known func(path string) bool, fn func(cluster.Entry) error) error
	reader() fileReader
	close(ctx context.Context)
}

// fileFacts are those of a file or folder.
type fileFacts struct {
	dir     bool
	size    int64
	mode    fs.FileMode // 0: not known
	modTime time.Time
}

// fileReader reads files for one goroutine.
type fileReader interface {
	// announce says what will be read next, in this order. It may be less than is read then, or more.
	announce(reads []fileRead)
	// open returns a file; where it is not there, it or its first ReadAt gives fs.ErrNotExist.
	open(ctx context.Context, path string) (openFile, error)
}

type fileRead struct {
	path string
	at   int64
	n    int
}

type openFile interface {
	io.ReaderAt
	io.Closer
}

// localFiles reads a data directory on this machine.
type localFiles struct{ dir string }

var (
	_ clusterFiles = localFiles{}
	_ fileReader   = localFiles{}
)

func (l localFiles) control(ctx context.Context) (control.Data, []byte, error) {
	return control.Read(ctx, l.dir)
}

func (l localFiles) source(path string) string { return filepath.Join(l.dir, filepath.FromSlash(path)) }

func (l localFiles) stat(_ context.Context, paths []string) ([]*fileFacts, error) {
	out := make([]*fileFacts, len(paths))
	for i, path := range paths {
		fi, err := os.Stat(l.source(path))
		switch {
		case err == nil:
			out[i] = &fileFacts{fi.IsDir(), fi.Size(), fi.Mode().Perm(), fi.ModTime()}
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return out, nil
}

func (l localFiles) walk(ctx context.Context, o cluster.WalkOptions, _ func(string) bool, fn func(cluster.Entry) error) error {
	return cluster.Walk(ctx, l.dir, o, fn)
}

func (l localFiles) reader() fileReader { return l }

func (localFiles) close(context.Context) {}

func (localFiles) announce([]fileRead) {}

func (l localFiles) open(_ context.Context, path string) (openFile, error) {
	f, err := os.Open(l.source(path))
	if err != nil {
		return nil, err
	}
	return f, nil
}

// readAhead tells the kernel that a part of a file is read from its beginning to its end, so that it reads ahead in
// large steps instead of waiting for each of ours.
func readAhead(f openFile, from, n int64) {
	if f, ok := f.(*os.File); ok {
		unix.Fadvise(int(f.Fd()), from, n, unix.FADV_SEQUENTIAL) //nolint:errcheck // only advice
	}
}
