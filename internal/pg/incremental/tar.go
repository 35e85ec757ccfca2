package incremental

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// A backup in tar format (pg_basebackup -Ft) is unpacked first, in one pass over each archive: the check reads single pages
// of many files, in no order, several times. It is base.tar, OID.tar for each tablespace and pg_wal.tar, each of which may be
// compressed as a whole, and backup_manifest beside them.

// archiveName is the name of an archive: what it holds, and how it is compressed.
var archiveName = regexp.MustCompile(`^(base|pg_wal|[0-9]+)\.tar(|\.gz|\.lz4|\.zst)$`)

// maxWindow bounds the memory that a zstd archive may ask for; it is what --compress=zstd:long needs.
const maxWindow = 128 << 20

// archivesOf returns the archives in a directory by what they hold; without "base" it is no backup in tar format.
func archivesOf(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, e := range entries {
		m := archiveName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		if other := all[m[1]]; other != "" {
			return nil, fmt.Errorf("both %s and %s are there", other, e.Name())
		}
		all[m[1]] = e.Name()
	}
	return all, nil
}

// unpack returns where a backup can be read: dir itself in plain format, or a new directory below into() in which its archives
// are unpacked, and then the name of the first of them.
func unpack(ctx context.Context, dir string, into func() (string, error)) (at, archive string, err error) {
	all, err := archivesOf(dir)
	if err != nil || all["base"] == "" {
		return dir, "", nil // what is wrong with it is said where it is read
	}
	if at, err = into(); err == nil {
		err = unpackInto(ctx, dir, all, at)
	}
	if err != nil {
		return "", "", dr.Fail("unpack the backup "+dir, err, "see that all its archives are there and whole, and that --unpack names a folder with room for every backup of the chain")
	}
	return at, all["base"], nil
}

func unpackInto(ctx context.Context, dir string, all map[string]string, at string) error {
	root, err := os.OpenRoot(at)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // what was written is only for this process
	for what, name := range all {
		under := "."
		switch what {
		case "base":
		case "pg_wal":
			under = what
		default:
			under = "pg_tblspc/" + what
		}
		if err := unpackArchive(ctx, filepath.Join(dir, name), root, under); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	f, err := openRegular(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // as in plain format: whoever reads it says so
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	return writeNew(root, manifestName, f)
}

// unpackArchive unpacks files and folders. Links are left out: those of tablespaces lead to where the source had them.
func unpackArchive(ctx context.Context, archive string, root *os.Root, under string) error {
	f, err := openRegular(archive)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	plain, err := decompress(f, filepath.Ext(archive))
	if err != nil {
		return err
	}
	defer plain.Close() //nolint:errcheck // only read
	in := tar.NewReader(plain)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, plain) // its own checksum is behind the end
			return err
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		name := path.Join(under, h.Name)
		if !filepath.IsLocal(filepath.FromSlash(h.Name)) || strings.ContainsRune(h.Name, 0) {
			return fmt.Errorf("it holds the path %.80q, which no server writes", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o700)
		case tar.TypeReg:
			err = writeNew(root, name, in)
		}
		if err != nil {
			return err
		}
	}
}

func decompress(r io.Reader, ext string) (io.ReadCloser, error) {
	switch ext {
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case ".lz4":
		return io.NopCloser(lz4.NewReader(r)), nil
	}
	return io.NopCloser(r), nil
}

// writeNew writes a new file.
func writeNew(root *os.Root, name string, from io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
