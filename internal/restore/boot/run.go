package boot

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore/replay"
)

// Run starts a server on a directory whose recovery is over, and returns it when it answers. What a Start that was killed has left
// in the directory is taken back.
func Run(ctx context.Context, dir string, major int, o Options) (*Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	binDir, err := FindBinaries(major, o.BinDir)
	if err != nil {
		return nil, err
	}
	if err := (access{dir, o.superuser(), o.Owner}).unlock(); err != nil {
		return nil, err
	}
	if _, err := replay.Unset(dir, o.Owner.Credential()); err != nil {
		return nil, err
	}
	s, err := launch(dir, binDir, o)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx)
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return s, conn.Close(ctx)
	case errors.As(err, &refused):
		return s, nil // it answers, and not to us
	case errors.Is(err, errExited):
		err = dr.Fail("start PostgreSQL in "+dir, errors.New("it ended at once"), "see "+s.LogFile)
	}
	return nil, errors.Join(err, s.Stop(ctx))
}
