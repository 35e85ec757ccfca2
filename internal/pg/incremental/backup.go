package incremental

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/control"
	"github.com/holdfast-dr/holdfast/internal/pg/page"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// backup is one directory of the chain.
type backup struct {
	dir      string // as it was named
	at       string // where it is read
	label    wal.Label
	fromTL   wal.TimelineID // INCREMENTAL FROM TLI; zero where the label has none
	control  control.Data
	manifest manifest
	stop     wal.LSN
	out      *Backup // its part of the report
}

const manifestName = "backup_manifest"

// openBackup reads what a backup says of itself.
func openBackup(ctx context.Context, dir, at string) (*backup, error) {
	b := &backup{dir: dir, at: at}
	if err := isDirectory(dir); err != nil {
		return nil, err
	}
	label, err := readSmall(filepath.Join(at, "backup_label"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dr.Fail("read the backup "+dir, errors.New("it holds no backup_label: it is no base backup, or a server has been started on it"), "name the directories that pg_basebackup wrote, untouched since")
	}
	if err == nil {
		b.label, err = wal.ParseLabel(label)
	}
	if err == nil {
		b.fromTL, err = fromTimeline(label)
	}
	if err == nil {
		b.control, _, err = control.Read(ctx, at)
	}
	if err == nil {
		err = b.supported()
	}
	if err != nil {
		return nil, dr.Fail("read the backup "+dir, err, "")
	}
	return b, nil
}

func (b *backup) supported() error {
	switch major := b.control.Major(); {
	case major < 17:
		return fmt.Errorf("it is of a version with catalog %d; incremental backups are checked of PostgreSQL 17 and 18", b.control.CatalogVersion)
	case b.control.BlockSize != page.Size || b.control.SegmentBlocks > 1<<22:
		return fmt.Errorf("its server was built with pages of %d bytes and segments of %d pages; pages of %d are checked", b.control.BlockSize, b.control.SegmentBlocks, page.Size)
	}
	return nil
}

// isDirectory refuses what is none, with what to do.
func isDirectory(dir string) error {
	const next = "name the directories of the chain, the full backup first; of one in tar format that which holds base.tar and backup_manifest"
	fi, err := os.Stat(dir)
	if err == nil && !fi.IsDir() {
		err = errors.New("it is a file")
	}
	if err == nil {
		_, err = archivesOf(dir)
	}
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err // the directory is named already
		}
		return dr.Fail("read the backup "+dir, err, next)
	}
	return nil
}

// readSmall reads a file of at most a megabyte.
func readSmall(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// openRegular opens a file for reading; a pipe or a device in its place would wait for ever.
func openRegular(path string) (*os.File, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no plain file", path)
	}
	return os.Open(path)
}

// fromTimeline reads the line of the label that package wal has no use for.
func fromTimeline(label []byte) (wal.TimelineID, error) {
	for _, line := range bytes.Split(label, []byte("\n")) {
		if v, ok := bytes.CutPrefix(line, []byte("INCREMENTAL FROM TLI: ")); ok {
			tl, err := strconv.ParseUint(string(bytes.TrimSpace(v)), 10, 32)
			return wal.TimelineID(tl), err
		}
	}
	return 0, nil
}

// readManifest reads the backup's manifest and hands over its files. Damage is an error of its own.
func (b *backup) readManifest(fn func(fileEntry) error) (err error) {
	f, err := openRegular(filepath.Join(b.at, manifestName))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	if b.manifest, err = readManifest(bufio.NewReaderSize(f, 64<<10), fn); err != nil {
		return err
	}
	for _, r := range b.manifest.ranges {
		b.stop = max(b.stop, r.End)
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return checkManifestSum(f, fi.Size(), b.manifest.sum)
}

// files calls fn for every file of the backup, by its path relative to it, with slashes. Links of tablespaces are
// followed.
func (b *backup) files(ctx context.Context, under string, fn func(path string) error) error {
	entries, err := os.ReadDir(filepath.Join(b.at, under))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		path := strings.TrimPrefix(under+"/"+e.Name(), "/")
		dir := e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 && (under == "pg_tblspc" || path == "pg_wal") {
			fi, err := os.Stat(filepath.Join(b.at, path))
			if err != nil {
				return err
			}
			dir = fi.IsDir()
		}
		if dir {
			err = b.files(ctx, path, fn)
		} else {
			err = fn(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
