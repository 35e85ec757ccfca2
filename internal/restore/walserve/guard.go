package walserve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/restore/rights"
)

// The replay of CREATE TABLESPACE takes the directory from the log, and that is the source's: PostgreSQL then
// puts its files there, and up to version 14 it first removes what it finds (commands/tablespace.c,
// create_tablespace_directories). Beside a live source, or on a machine where its files still are, that would destroy
// what nobody asked to touch. So a segment that creates a tablespace is served only where its directory holds
// no tablespace, or is the recovering cluster's own already. A recovery to a target gets it up to that record.

// beginScan forgets what was seen of another segment.
func (a *assembler) beginScan(start wal.LSN) {
	if a.scan != nil {
		a.scan.Reset(start)
		a.spaces = a.spaces[:0]
	}
}

// scanOn reads beyond the segment's end where a record begins in it and ends behind it.
func (a *assembler) scanOn(ctx context.Context, n wal.Name, at wal.LSN) error {
	if a.scan == nil || !a.scan.Pending() {
		return nil
	}
	extents, err := a.s.list(ctx, n.Timeline, at, false)
	if err != nil {
		return err
	}
	for _, e := range extents {
		if wal.LSN(e.Start) > at || wal.LSN(e.End) <= at || !a.scan.Pending() {
			continue
		}
		err := a.reader.Each(ctx, e, uint64(at), e.End, func(piece []byte) error {
			// Page by page: whatever else that segment says is told when it is served itself.
			for page := range slices.Chunk(piece, wal.PageSize) {
				a.scan.Write(page) //nolint:errcheck // it never fails
				if at += wal.LSN(len(page)); !a.scan.Pending() {
					return errScanned
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errScanned) {
			return err
		}
	}
	return nil
}

// errScanned ends the reading of an extent of which enough is known.
var errScanned = errors.New("the record is complete")

// guard looks at the directories of the tablespaces that the segment creates.
func (a *assembler) guard(name string, n wal.Name) (Result, bool) {
	for _, e := range a.spaces {
		if e.Start >= n.Start+wal.LSN(a.s.size) || !(Guard{a.s.DataDir, a.s.Owner}).Refuses(e) {
			continue // of the next segment, or harmless
		}
		return Result{
			Outcome: WouldTouch, Name: name, From: e.Start,
			Reason: fmt.Sprintf("at %s the log creates tablespace %d in %q, where files of another cluster are", e.Start, e.OID, e.Name),
			Next:   fmt.Sprintf("recover to a moment before it, on a machine without that directory, or, if its cluster is gone, move %q away", e.Name),
		}, true
	}
	return Result{}, false
}

// cutAt leaves zeros from an offset on, where the log then ends.
func (a *assembler) cutAt(off wal.LSN) error {
	return errors.Join(a.out.Truncate(int64(off)), a.out.Truncate(int64(a.s.size)))
}

// Guard tells which tablespaces a recovering cluster must not create.
type Guard struct {
	DataDir string              // of the recovering cluster
	Owner   *syscall.Credential // see Source.Owner
}

// Refuses tells whether the replay of a TablespaceCreate would take over a directory with another cluster's files: it is
// neither in place, nor the cluster's own, nor free.
func (g Guard) Refuses(e wal.Event) bool {
	return filepath.IsAbs(e.Name) && !g.isOwn(e) && g.holdsTablespace(e.Name)
}

// isOwn tells whether the recovering cluster uses the directory already: its replay, which is behind what is fetched
// ahead and may have been interrupted, made this tablespace there, or one that will be dropped before this one is made.
func (g Guard) isOwn(e wal.Event) bool {
	links := filepath.Join(g.DataDir, "pg_tblspc")
	own := false
	err := rights.As(g.Owner, func() error {
		entries, err := os.ReadDir(links)
		for _, l := range entries {
			to, err := os.Readlink(filepath.Join(links, l.Name()))
			own = own || err == nil && filepath.Clean(to) == filepath.Clean(e.Name)
		}
		return err
	})
	return err == nil && own
}

// holdsTablespace tells whether a directory has a server's folder in it. What the server's user cannot look at is
// taken for one.
func (g Guard) holdsTablespace(dir string) bool {
	var entries []os.DirEntry
	err := rights.As(g.Owner, func() (err error) {
		entries, err = os.ReadDir(dir)
		return err
	})
	if err != nil {
		return !os.IsNotExist(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "PG_") {
			return true
		}
	}
	return false
}
