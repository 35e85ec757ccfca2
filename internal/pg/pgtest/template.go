package pgtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// initdb makes a cluster in dir. It takes half a second of processor, and always comes to the same: what it has made once is
// kept in the user's cache and copied, with another system identifier, as two clusters have.
func (s *Server) initdb(in installation, args []string) error {
	template := templateOf(in, s.account, args)
	if template != "" && exec.Command("cp", "-a", template, s.DataDir).Run() == nil {
		return newIdentifier(s.DataDir)
	}
	if err := os.RemoveAll(s.DataDir); err != nil { // half a copy
		return err
	}
	cmd := command(s.account, syscall.SIGKILL, filepath.Join(s.BinDir, "initdb"), append([]string{"-D", s.DataDir}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := start(cmd); err != nil {
		return fmt.Errorf("run initdb: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, &out)
	}
	if template != "" {
		keep(s.DataDir, template)
	}
	return nil
}

// templateOf names the copy of what an initdb makes; empty where none is kept.
func templateOf(in installation, a account, args []string) string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	words := strings.Join(args, "")
	if strings.ContainsAny(words, "/ ") {
		return ""
	}
	return filepath.Join(cache, "holdfast-test", "clusters", in.version+"-"+a.name+words)
}

// keep keeps a copy of a new cluster. Of several that do so one wins; where it fails, the next test runs initdb again.
func keep(dir, template string) {
	if os.MkdirAll(filepath.Dir(template), 0o700) != nil {
		return
	}
	tmp, err := os.MkdirTemp(filepath.Dir(template), "copy")
	if err != nil {
		return
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a cache
	if exec.Command("cp", "-a", dir, filepath.Join(tmp, "data")).Run() == nil {
		_ = os.Rename(filepath.Join(tmp, "data"), template)
	}
}

// newIdentifier gives a cluster that was never started a system identifier of its own: pg_control begins with it, and has a
// CRC of all that comes before the CRC (catalog/pg_control.h); and it stands in the first page header of each segment
// (access/xlog_internal.h, XLogLongPageHeaderData), at its 24th byte.
func newIdentifier(dir string) error {
	id := rand.Uint64() >> 1 //nolint:gosec // no secret; SQL has it as a signed number
	control := filepath.Join(dir, "global", "pg_control")
	b, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	at := 8
	for ; at+4 < 512 && binary.LittleEndian.Uint32(b[at:]) != crc32.Checksum(b[:at], table); at++ {
	}
	if at+4 == 512 {
		return fmt.Errorf("%s has no CRC", control)
	}
	was := bytes.Clone(b[:8])
	binary.LittleEndian.PutUint64(b, id)
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[:at], table))
	segments, err := filepath.Glob(filepath.Join(dir, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	for _, path := range segments {
		err = errors.Join(err, replace(path, 24, was, b[:8]))
	}
	return errors.Join(err, replace(control, 0, was, b))
}

// replace overwrites a part of a file where that begins as it should.
func replace(path string, at int64, was, is []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	begins := make([]byte, len(was))
	if _, err = f.ReadAt(begins, at); err == nil && bytes.Equal(begins, was) {
		_, err = f.WriteAt(is, at)
	}
	return errors.Join(err, f.Close())
}
