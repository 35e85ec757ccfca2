package incremental

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newSum returns what computes a manifest's kind of checksum; nil for none (common/checksum_helper.c).
func newSum(algorithm string) (hash.Hash, error) {
	switch strings.ToUpper(algorithm) {
	case "", "NONE":
		return nil, nil
	case "CRC32C":
		return crc32.New(castagnoli), nil
	case "SHA224":
		return sha256.New224(), nil
	case "SHA256":
		return sha256.New(), nil
	case "SHA384":
		return sha512.New384(), nil
	case "SHA512":
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("the checksum algorithm %.40q is unknown", algorithm)
}

// sumOf returns the bytes that a manifest has: a CRC is in the order of the host.
func sumOf(h hash.Hash) []byte {
	if c, ok := h.(hash.Hash32); ok {
		return binary.LittleEndian.AppendUint32(nil, c.Sum32())
	}
	return h.Sum(nil)
}

// verifyFiles compares a backup with its manifest, as pg_verifybackup does. The log beside the files is not in it.
func (a *audit) verifyFiles(ctx context.Context, b *backup) error {
	known := map[string]struct{}{}
	without := 0
	err := b.readManifest(func(e fileEntry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, twice := known[e.path]; twice {
			return fmt.Errorf("it names %q twice", e.path)
		}
		known[e.path] = struct{}{}
		b.out.Files++
		b.out.Bytes += dr.Bytes(e.size)
		if len(e.sum) > 0 {
			b.out.Checksummed++
		} else {
			without++
		}
		if strings.HasPrefix(filepath.Base(filepath.FromSlash(e.path)), prefix) {
			b.out.Increments++
		}
		if err := verifyFile(filepath.Join(b.at, filepath.FromSlash(e.path)), e); err != nil {
			a.find(Finding{Kind: BadFile, Proof: true, Backup: b.dir, Path: e.path, Reason: err.Error()})
		}
		return nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		a.find(Finding{Kind: BadManifest, Proof: true, Backup: b.dir, Path: manifestName, Reason: err.Error()})
		a.gap("the files of %s by their manifest, which cannot be trusted", b.dir)
		return nil
	}
	if without > 0 {
		a.gap("the content of %d files of %s: their manifest has no checksums of them", without, b.dir)
	}
	return b.files(ctx, "", func(path string) error {
		if _, ok := known[path]; !ok && !unlisted(path) {
			a.find(Finding{Kind: BadFile, Backup: b.dir, Path: path, Reason: "the manifest does not name it"})
		}
		return nil
	})
}

// unlisted tells of files that a manifest does not name (pg_verifybackup ignores the same ones).
func unlisted(path string) bool {
	switch path {
	case manifestName, "postgresql.auto.conf", "recovery.signal", "standby.signal":
		return true
	}
	return strings.HasPrefix(path, "pg_wal/")
}

func verifyFile(path string, e fileEntry) error {
	h, err := newSum(e.algorithm)
	if err != nil {
		return err
	}
	f, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the manifest names it, and it is not there")
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != e.size {
		return fmt.Errorf("it has %d bytes, by the manifest %d", fi.Size(), e.size)
	}
	if h == nil {
		return nil
	}
	if _, err := io.CopyBuffer(h, io.LimitReader(f, e.size), make([]byte, 256<<10)); err != nil {
		return err
	}
	if got := sumOf(h); !bytes.Equal(got, e.sum) {
		return fmt.Errorf("its %s is %x, by the manifest %x", e.algorithm, got, e.sum)
	}
	return nil
}
