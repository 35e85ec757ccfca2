package restore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/pgtest"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

// A Delta finds every page that differs, whatever the file's times and the page's own position in the log say, writes
// these and hardly more, and does not touch what is right.
func TestDeltaWritesWhatDiffers(t *testing.T) {
	const page, path, small = 8192, "base/5/16384", "base/1/1259"
	stop := uint64(0x2000128)
	y := newTiny(t)
	file := bytes.Clone(y.files[path])
	for at := 0; at < len(file); at += page { // the last one is a lie: no snapshot has a page from after its end
		binary.LittleEndian.PutUint32(file[at:], 0)
		binary.LittleEndian.PutUint32(file[at+4:], uint32(stop))
	}
	binary.LittleEndian.PutUint32(file[len(file)-page:], 7)
	y.files[path] = file
	st, target := y.stored(t), filepath.Join(pgtest.TempDir(t), "to")
	if err := y.restore(t, st, target); err != nil {
		t.Fatal(err)
	}
	info := func(name string) (fi os.FileInfo, changed syscall.Timespec) {
		t.Helper()
		fi, err := os.Stat(filepath.Join(target, name))
		if err != nil {
			t.Fatal(err)
		}
		return fi, fi.Sys().(*syscall.Stat_t).Ctim
	}
	whole := int64(repo.Grid)
	for name, c := range map[string]struct {
		change  func(b []byte)
		written int64
	}{
		"nothing":                   {func([]byte) {}, 0},
		"a bit":                     {func(b []byte) { b[3*page+5000] ^= 1 }, page},
		"a bit of the position":     {func(b []byte) { b[3*page+4] ^= 1 }, page},
		"a page of the future":      {func(b []byte) { b[3*page] ^= 1 }, page},
		"neighbours":                {func(b []byte) { b[4*page-1] ^= 1; b[4*page] ^= 1 }, 2 * page},
		"far from each other":       {func(b []byte) { b[0] ^= 1; b[repo.Grid-1] ^= 1; b[2*repo.Grid] ^= 1; b[len(b)-1] ^= 1 }, 4 * page},
		"a quarter of a chunk":      {func(b []byte) { clear(b[repo.Grid+2*page : repo.Grid+18*page]) }, whole / 4},
		"most of a chunk":           {func(b []byte) { clear(b[repo.Grid+2*page : repo.Grid+50*page]) }, whole},
		"a chunk and what is of it": {func(b []byte) { clear(b[repo.Grid : 2*repo.Grid]); b[0] ^= 1 }, whole + page},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := info(path)
			_, changed := info(small)
			other := bytes.Clone(file)
			c.change(other)
			full := filepath.Join(target, path)
			if err := errors.Join(os.WriteFile(full, other, 0o600), os.Chtimes(full, time.Time{}, before.ModTime())); err != nil {
				t.Fatal(err)
			}
			if err := y.restoreWith(t, st, restore.Options{To: target, Mode: restore.Delta, Settings: unserved}); err != nil {
				t.Fatal(err)
			}
			y.wantFiles(t, target, nil)
			// The page that lies is never believed to be right by its hash: it is compared.
			if written := y.result.Bytes - y.result.Kept; written != c.written {
				t.Errorf("wrote %d bytes, want %d", written, c.written)
			}
			if _, now := info(small); now != changed {
				t.Errorf("%s, which was right, was changed at %v", small, now)
			}
		})
	}
}
