package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// A file of the spool is a sealed object's header and then frames: the length of the sealed bytes (4 bytes,
// little-endian) and the sealed bytes. A frame's plain bytes are its position in the log and the source's clock in
// microseconds (8 bytes each) and then the log. The bytes of a file have no gap, and lie in one block.
//
// A file is appended to only by the process that made it, and never again after a failed write: a frame's
// offset is its nonce, so no offset may be written twice under one header. A length that was changed gives a
// frame that does not open.
const (
	spoolFrame     = 1 << 20 // most bytes of the log in a frame
	spoolFrameHead = 4
	spoolClock     = 16
	spoolSuffix    = ".spool"
)

// spoolFile is one file. Its start, end, size and clock are guarded by the Spool's mu.
type spoolFile struct {
	timeline wal.TimelineID
	block    wal.LSN // start of the block
	seq      int     // among the files of one block
	start    wal.LSN // of what can be read
	end      wal.LSN
	size     int64 // on disk
	clock    time.Time

	open   *os.File // nil: nothing more is appended
	object *seal.Object
	dirty  bool // written since the last sync
	fresh  bool // its name is not synced
	ended  bool // nothing more may be appended
}

func (f *spoolFile) name() string {
	return fmt.Sprintf("%08x-%016x-%04d%s", uint32(f.timeline), uint64(f.block), f.seq, spoolSuffix)
}

func parseSpoolName(name string) (*spoolFile, bool) {
	base, ok := strings.CutSuffix(name, spoolSuffix)
	parts := strings.Split(base, "-")
	if !ok || len(parts) != 3 || len(parts[0]) != 8 || len(parts[1]) != 16 {
		return nil, false
	}
	tl, err1 := strconv.ParseUint(parts[0], 16, 32)
	block, err2 := strconv.ParseUint(parts[1], 16, 64)
	seq, err3 := strconv.ParseUint(parts[2], 10, 31)
	f := &spoolFile{timeline: wal.TimelineID(tl), block: wal.LSN(block), seq: int(seq)}
	return f, err1 == nil && err2 == nil && err3 == nil && f.name() == name && block%repo.MaxExtent == 0
}

func compareSpoolFiles(a, b *spoolFile) int { return strings.Compare(a.name(), b.name()) }

// create makes the file with its header.
func (s *Spool) create(f *spoolFile) error {
	if err := s.step(spoolStep{op: "create", path: f.name()}); err != nil {
		return err
	}
	w, err := os.OpenFile(filepath.Join(s.dir, f.name()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f.object = s.keys.NewObject(seal.KindLogExtent, s.scope+f.name())
	if err := s.write(w, f.name(), f.object.AppendHeader(nil)); err != nil {
		return errors.Join(err, w.Close(), s.unlink(f.name()))
	}
	f.open, f.size, f.dirty, f.fresh = w, seal.HeaderSize, true, true
	return nil
}

// append writes one frame. The caller counts its size.
func (s *Spool) append(f *spoolFile, start wal.LSN, data []byte, clock time.Time) error {
	plain := make([]byte, spoolClock, spoolClock+len(data))
	binary.LittleEndian.PutUint64(plain, uint64(start))
	if !clock.IsZero() {
		binary.LittleEndian.PutUint64(plain[8:], uint64(clock.UnixMicro()))
	}
	plain = append(plain, data...)
	frame := make([]byte, spoolFrameHead, spoolFrameHead+len(plain)+seal.Overhead)
	binary.LittleEndian.PutUint32(frame, uint32(len(plain)+seal.Overhead))
	frame = f.object.Seal(frame, plain, f.size+spoolFrameHead)
	f.dirty = true
	return s.write(f.open, f.name(), frame)
}

func (f *spoolFile) close() error {
	if f.open == nil {
		return nil
	}
	err := f.open.Close()
	f.open, f.object = nil, nil
	return err
}

// scan finds out what can be read of a file that another process left.
func (s *Spool) scan(f *spoolFile) error {
	fi, err := os.Stat(filepath.Join(s.dir, f.name()))
	if err != nil {
		return err
	}
	f.size = fi.Size()
	first := true
	return s.frames(f, math.MaxUint64, func(at wal.LSN, data []byte, clock time.Time) {
		if first {
			f.start, first = at, false
		}
		f.end, f.clock = at+wal.LSN(len(data)), clock
	})
}

// readFile fills dst with the log from start on. f is a copy of what the spool knows.
func (s *Spool) readFile(f *spoolFile, start wal.LSN, dst []byte) error {
	end, filled := start+wal.LSN(len(dst)), 0
	err := s.frames(f, end, func(at wal.LSN, data []byte, _ time.Time) {
		from, to := max(at, start), min(at+wal.LSN(len(data)), end)
		if from < to {
			filled += copy(dst[from-start:to-start], data[from-at:])
		}
	})
	if err == nil && filled != len(dst) {
		return fmt.Errorf("%s: %d bytes of the log from %s on are damaged", f.name(), len(dst)-filled, start)
	}
	return err
}

// frames calls fn with each frame that is whole and begins before end, in order, without a gap. A frame that is
// cut or does not open ends the file without an error: it is what a crash leaves. data is lent to fn.
func (s *Spool) frames(f *spoolFile, end wal.LSN, fn func(at wal.LSN, data []byte, clock time.Time)) error {
	r, err := os.Open(filepath.Join(s.dir, f.name()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	name := s.scope + f.name()
	head := make([]byte, seal.HeaderSize)
	if ok, err := readWhole(r, head); !ok {
		return err
	}
	h, err := seal.ParseHeader(name, head)
	if err != nil || h.Kind != seal.KindLogExtent {
		return nil // the header never reached the disk
	}
	object, err := s.keys.Object(h, name)
	if err != nil {
		return err
	}
	var length [spoolFrameHead]byte
	sealed := make([]byte, 0, spoolFrame+spoolClock+seal.Overhead)
	offset, next := int64(seal.HeaderSize), wal.LSN(0)
	for {
		if ok, err := readWhole(r, length[:]); !ok {
			return err
		}
		n := binary.LittleEndian.Uint32(length[:])
		if n <= spoolClock+seal.Overhead || int(n) > cap(sealed) {
			return nil
		}
		if ok, err := readWhole(r, sealed[:n]); !ok {
			return err
		}
		plain, err := object.Open(sealed[:0], sealed[:n], offset+spoolFrameHead)
		if err != nil {
			return nil //nolint:nilerr // a frame that was not written whole
		}
		offset += spoolFrameHead + int64(n)
		at, data := wal.LSN(binary.LittleEndian.Uint64(plain)), plain[spoolClock:]
		stop := at + wal.LSN(len(data))
		if at < f.block || stop > f.block+repo.MaxExtent || (next != 0 && at != next) || at >= end {
			return nil
		}
		fn(at, data, spoolTime(binary.LittleEndian.Uint64(plain[8:])))
		next = stop
	}
}

func spoolTime(us uint64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(us)).UTC()
}

// readWhole fills b; false without an error where the file ends before.
func readWhole(r io.Reader, b []byte) (bool, error) {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	}
	return err == nil, err
}

// PutFile keeps a small file, such as a timeline's history, durably. Its name has the characters [a-z0-9.].
func (s *Spool) PutFile(name string, data []byte) error {
	return s.writeFile(name+spoolFileSuffix, s.keys.SealWhole(seal.KindLogFile, s.scope+name, data))
}

const spoolFileSuffix = ".file"

// Files returns what PutFile kept.
func (s *Spool) Files() (map[string][]byte, error) {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*"+spoolFileSuffix))
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, p := range paths {
		name := strings.TrimSuffix(filepath.Base(p), spoolFileSuffix)
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		if files[name], err = s.keys.OpenWhole(seal.KindLogFile, s.scope+name, b); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// DropFile removes what PutFile kept.
func (s *Spool) DropFile(name string) error {
	err := s.unlink(name + spoolFileSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
