package incremental

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// packer compresses what is written to it.
func packer(t *testing.T, ext string, w io.Writer) io.WriteCloser {
	t.Helper()
	switch ext {
	case ".gz":
		return gzip.NewWriter(w)
	case ".lz4":
		return lz4.NewWriter(w)
	case ".zst":
		z, err := zstd.NewWriter(w, zstd.WithWindowSize(8<<20))
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	return struct {
		io.Writer
		io.Closer
	}{w, io.NopCloser(nil)}
}

// archive packs what lies below a directory, but for what skip names, as the server does.
func archive(t *testing.T, from, to, ext string, skip func(rel string) bool) {
	t.Helper()
	f, err := os.Create(to + ext)
	if err != nil {
		t.Fatal(err)
	}
	p := packer(t, ext, f)
	w := tar.NewWriter(p)
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(from, path)
		if err = errors.Join(err, rerr); err != nil || rel == "." {
			return err
		}
		if skip(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		h := &tar.Header{Name: rel, Mode: 0o600, Typeflag: tar.TypeReg}
		if d.IsDir() {
			h.Typeflag, h.Name = tar.TypeDir, rel+"/"
			return w.WriteHeader(h)
		}
		b, err := os.ReadFile(path)
		h.Size = int64(len(b))
		if err == nil {
			err = w.WriteHeader(h)
		}
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
	if err = errors.Join(err, w.Close(), p.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// tarred makes of a backup in plain format one in tar format.
func tarred(t *testing.T, dir, ext string) string {
	t.Helper()
	to := t.TempDir()
	spaces, err := os.ReadDir(filepath.Join(dir, "pg_tblspc"))
	if err != nil || len(spaces) != 1 {
		t.Fatalf("%d tablespaces, %v", len(spaces), err)
	}
	oid := spaces[0].Name()
	archive(t, dir, filepath.Join(to, "base.tar"), ext, func(rel string) bool {
		return rel == manifestName || rel == filepath.Join("pg_tblspc", oid) || strings.HasPrefix(rel, "pg_wal/")
	})
	none := func(string) bool { return false }
	archive(t, filepath.Join(dir, "pg_tblspc", oid), filepath.Join(to, oid+".tar"), ext, none)
	archive(t, filepath.Join(dir, "pg_wal"), filepath.Join(to, "pg_wal.tar"), ext, none)
	b, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, manifestName), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// A chain says the same of itself in tar format, however it is compressed, and nothing of it stays.
func TestChainInTarFormat(t *testing.T) {
	t.Parallel()
	vs := versions(t)
	c := makeChain(t, startServer(t, vs[len(vs)-1], true))
	want := run(t, Options{Backups: c.dirs, WAL: []string{c.wal}})
	if len(want.Findings) > 0 || want.Pages < 3000 {
		t.Fatalf("in plain format: %d pages, %s", want.Pages, text(want.Findings))
	}
	room := t.TempDir()
	var last []string
	for i, exts := range [][3]string{{".lz4", ".zst", ".gz"}} {
		var dirs []string
		for k, dir := range c.dirs {
			dirs = append(dirs, tarred(t, dir, exts[k]))
		}
		got := run(t, Options{Backups: dirs, WAL: []string{c.wal}, Unpack: room})
		for k := range got.Backups {
			if got.Backups[k].Archive != "base.tar"+exts[k] || got.Backups[k].Path != dirs[k] {
				t.Errorf("%+v", got.Backups[k])
			}
			got.Backups[k].Archive, got.Backups[k].Path = "", want.Backups[k].Path
		}
		for k := range got.Ranges {
			got.Ranges[k].Backup = want.Ranges[k].Backup
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("chain %d: -plain +tar:\n%s", i, d)
		}
		last = dirs
	}
	// The middle one's tablespace is lost; its files are missed.
	spaces, err := filepath.Glob(filepath.Join(last[1], "[0-9]*.tar*"))
	if err != nil || len(spaces) != 1 || os.Remove(spaces[0]) != nil {
		t.Fatal(spaces, err)
	}
	if got := run(t, Options{Backups: last, WAL: []string{c.wal}, Unpack: room}); len(got.Findings) == 0 || got.Findings[0].Backup != last[1] {
		t.Errorf("without %s: %s", spaces[0], text(got.Findings))
	}
	// An archive that was cut off is named.
	cut := filepath.Join(last[2], "base.tar.gz")
	if fi, err := os.Stat(cut); err != nil || os.Truncate(cut, fi.Size()/2) != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), Options{Backups: last, Unpack: room}); err == nil || !strings.Contains(err.Error(), last[2]) || !strings.Contains(err.Error(), "base.tar.gz: unexpected EOF") {
		t.Errorf("an archive is cut off: %v", err)
	}
	if left, err := os.ReadDir(room); err != nil || len(left) > 0 {
		t.Errorf("%d folders are left, %v", len(left), err)
	}
}

// Paths that lead elsewhere are refused, links are not made, and a file comes once.
func TestHostileTar(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		headers []tar.Header
		want    string
	}{
		"outside": {[]tar.Header{{Name: "../outside", Typeflag: tar.TypeReg}}, "which no server writes"},
		"rooted":  {[]tar.Header{{Name: "/outside", Typeflag: tar.TypeReg}}, "which no server writes"},
		"twice":   {[]tar.Header{{Name: "a", Typeflag: tar.TypeReg}, {Name: "a", Typeflag: tar.TypeReg}}, "file exists"},
		"a link":  {[]tar.Header{{Name: "backup_label", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}, "no backup_label"},
	} {
		dir, top := t.TempDir(), t.TempDir()
		f, err := os.Create(filepath.Join(dir, "base.tar"))
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(f)
		for _, h := range c.headers {
			err = errors.Join(err, w.WriteHeader(&h))
		}
		room := filepath.Join(top, "room")
		if err = errors.Join(err, w.Close(), f.Close(), os.Mkdir(room, 0o700)); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(t.Context(), Options{Backups: []string{dir}, Unpack: room}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if all, err := os.ReadDir(top); err != nil || len(all) != 1 {
			t.Errorf("%s: %v, %v", name, all, err)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"base.tar", "base.tar.gz"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Run(t.Context(), Options{Backups: []string{dir}}); err == nil || !strings.Contains(err.Error(), "both base.tar and base.tar.gz are there") {
		t.Errorf("two archives: %v", err)
	}
}
