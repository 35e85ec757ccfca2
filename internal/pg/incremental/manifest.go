package incremental

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
)

// manifest is what backup_manifest says of the backup as a whole (backup-manifest.sgml).
type manifest struct {
	version  int
	systemID uint64 // zero in version 1, which does not say
	ranges   []walRange
	sum      []byte // Manifest-Checksum
}

// walRange is log that a recovery of the backup needs.
type walRange struct {
	Timeline wal.TimelineID
	Start    wal.LSN
	End      wal.LSN
}

// fileEntry is what a manifest says of a file.
type fileEntry struct {
	path      string // relative to the data directory, with slashes
	size      int64
	algorithm string // empty or NONE: no checksum
	sum       []byte
}

// maxString bounds the strings of a manifest: paths, and checksums of up to 64 bytes.
const maxString = 4096

// readManifest reads a manifest and hands over its files one by one.
func readManifest(r io.Reader, fn func(fileEntry) error) (manifest, error) {
	var m manifest
	d := json.NewDecoder(&shortLines{r: r})
	if err := delim(d, '{'); err != nil {
		return m, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return m, err
		}
		switch key {
		case "PostgreSQL-Backup-Manifest-Version":
			err = d.Decode(&m.version)
		case "System-Identifier":
			err = d.Decode(&m.systemID)
		case "Files":
			err = readFiles(d, fn)
		case "WAL-Ranges":
			err = readRanges(d, &m)
		case "Manifest-Checksum":
			m.sum, err = readSum(d)
		default:
			err = fmt.Errorf("the key %.80q is unknown", fmt.Sprint(key))
		}
		if err != nil {
			return m, err
		}
	}
	if err := delim(d, '}'); err != nil {
		return m, err
	}
	switch {
	case m.version != 1 && m.version != 2:
		return m, fmt.Errorf("its version is %d; 1 and 2 are known", m.version)
	case m.version == 2 && m.systemID == 0:
		return m, errors.New("it names no system identifier")
	case len(m.ranges) == 0:
		return m, errors.New("it names no range of the log")
	case len(m.sum) == 0:
		return m, errors.New("it has no checksum of its own")
	}
	return m, nil
}

// shortLines refuses long lines: PostgreSQL writes a line for each file, and a decoder keeps a whole string.
type shortLines struct {
	r io.Reader
	n int // bytes since the last new line
}

const maxLine = 64 << 10

func (l *shortLines) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(len(p), maxLine)])
	for rest := p[:n]; ; {
		at := bytes.IndexByte(rest, '\n')
		if at < 0 {
			l.n += len(rest)
			break
		}
		if l.n += at; l.n > maxLine {
			break
		}
		l.n, rest = 0, rest[at+1:]
	}
	if l.n > maxLine {
		return 0, errors.New("it has a line of more than 64 KiB")
	}
	return n, err
}

func delim(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err == nil && got != want {
		err = fmt.Errorf("%.80q stands where %q is due", fmt.Sprint(got), want.String())
	}
	return err
}

func readSum(d *json.Decoder) ([]byte, error) {
	var s string
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	return hex.DecodeString(s)
}

func readRanges(d *json.Decoder, m *manifest) error {
	const maxRanges = 1 << 12 // one for each timeline
	if err := delim(d, '['); err != nil {
		return err
	}
	for d.More() {
		var in struct {
			Timeline wal.TimelineID
			Start    wal.LSN `json:"Start-LSN"`
			End      wal.LSN `json:"End-LSN"`
		}
		if err := d.Decode(&in); err != nil {
			return err
		}
		if in.Timeline == 0 || in.Start == 0 || in.End < in.Start || len(m.ranges) == maxRanges {
			return fmt.Errorf("a range of the log from %s to %s on timeline %d", in.Start, in.End, in.Timeline)
		}
		m.ranges = append(m.ranges, walRange(in))
	}
	return delim(d, ']')
}

func readFiles(d *json.Decoder, fn func(fileEntry) error) error {
	if err := delim(d, '['); err != nil {
		return err
	}
	for d.More() {
		var in struct {
			Path        *string
			EncodedPath *string `json:"Encoded-Path"`
			Size        int64
			Algorithm   string `json:"Checksum-Algorithm"`
			Checksum    string
		}
		if err := d.Decode(&in); err != nil {
			return err
		}
		e := fileEntry{size: in.Size, algorithm: in.Algorithm}
		switch {
		case in.Path != nil && in.EncodedPath == nil:
			e.path = *in.Path
		case in.EncodedPath != nil && in.Path == nil: // of a name that is no UTF-8
			raw, err := hex.DecodeString(*in.EncodedPath)
			if err != nil {
				return err
			}
			e.path = string(raw)
		default:
			return errors.New("a file has no path, or two")
		}
		var err error
		if e.sum, err = hex.DecodeString(in.Checksum); err != nil {
			return fmt.Errorf("checksum of %.80q: %w", e.path, err)
		}
		if len(e.path) > maxString || !filepath.IsLocal(e.path) || strings.ContainsRune(e.path, 0) || e.size < 0 || len(e.sum) > 64 {
			return fmt.Errorf("the file %.80q with %d bytes", e.path, e.size)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return delim(d, ']')
}

// checkManifestSum tells whether a manifest's own checksum is right: SHA-256 of all before its last line, which
// holds it.
func checkManifestSum(r io.ReaderAt, size int64, want []byte) error {
	tail := make([]byte, min(size, 256))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	at := bytes.LastIndexByte(bytes.TrimSuffix(tail, []byte("\n")), '\n')
	if at < 0 {
		return errors.New("its last line is longer than a checksum")
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, size-int64(len(tail))+int64(at)+1)); err != nil {
		return err
	}
	if got := h.Sum(nil); !bytes.Equal(got, want) {
		return errors.New("its own checksum is " + strconv.Quote(hex.EncodeToString(want)) + ", its content has " + strconv.Quote(hex.EncodeToString(got)))
	}
	return nil
}
