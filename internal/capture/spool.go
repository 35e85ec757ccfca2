package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/pg/wal"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
)

// Spool keeps the part of a system's log that the repository does not have yet in a local directory: sealed,
// bounded, and readable after a crash up to the last frame that reached the disk. One goroutine appends,
// syncs and drops; Read, Ranges and Size may be called from several meanwhile.
type Spool struct {
	dir   string
	keys  *seal.Keyring
	scope string // first part of the name under which a file is sealed
	limit dr.Bytes
	lock  *os.File
	step  func(spoolStep) error // before each change of the directory; an error stands for its own

	// mu guards files and size. Not held during I/O. A file's open, object, dirty, fresh and ended
	// belong to the goroutine that appends.
	mu    sync.Mutex
	files []*spoolFile
	size  int64
}

// SpoolFullError says that the spool has reached its limit. What it was asked to take was not taken.
type SpoolFullError struct {
	Dir   string
	Limit dr.Bytes
}

func (e *SpoolFullError) Error() string {
	return fmt.Sprintf("the spool %s has reached its limit of %s", e.Dir, e.Limit)
}

// OpenSpool opens the spool of a system in dir, which is made where it is missing. A limit of zero means 1 GiB.
// A spool that another process has open is refused.
func OpenSpool(dir string, keys *seal.Keyring, system string, limit dr.Bytes) (*Spool, error) {
	if limit == 0 {
		limit = 1 << 30
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, dr.Fail("open the spool "+dir, err, "give holdfast a state directory that it may write to")
	}
	syncParents(dir)
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, dr.Fail("open the spool "+dir, err, "give holdfast a state directory that it may write to")
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = &dr.Failure{
				What: "open the spool " + dir, Reason: "another holdfast receives this system's log on this machine", Err: err,
				Next: "stop the other one, or leave the log to it: one is enough",
			}
		}
		return nil, errors.Join(err, lock.Close())
	}
	s := &Spool{dir: dir, keys: keys, scope: "spool/" + keys.NameHash(system) + "/", limit: limit, lock: lock, step: func(spoolStep) error { return nil }}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// load reads which files there are, and how far each can be read.
func (s *Spool) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, ok := parseSpoolName(e.Name())
		if !ok {
			continue
		}
		// A rotation of keys that this keyring does not know, or a disk that fails, is an error: what is not
		// understood is not thrown away.
		if err := s.scan(f); err != nil {
			return fmt.Errorf("read the spool %s: %w", s.dir, err)
		}
		s.size += f.size
		s.files = append(s.files, f)
	}
	slices.SortFunc(s.files, compareSpoolFiles)
	return nil
}

// Close closes the spool. What it holds stays.
func (s *Spool) Close() error {
	var err error
	for _, f := range s.list() {
		err = errors.Join(err, f.close())
	}
	return errors.Join(err, s.lock.Close())
}

// Size returns how many bytes the spool takes on disk.
func (s *Spool) Size() dr.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return dr.Bytes(s.size)
}

func (s *Spool) list() []*spoolFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.files)
}

// Append takes the bytes of a timeline's log from start on, which lie within one block of repo.MaxExtent, and
// returns how far they got. They are durable after Sync. A *SpoolFullError is in the error where they do not fit.
// data is lent.
func (s *Spool) Append(tl wal.TimelineID, start wal.LSN, data []byte, clock time.Time) (wal.LSN, error) {
	for len(data) > 0 {
		n := min(len(data), spoolFrame)
		need := int64(n) + spoolFrameHead + spoolClock + seal.Overhead
		if s.Size()+dr.Bytes(need)+seal.HeaderSize > s.limit {
			return start, &SpoolFullError{s.dir, s.limit}
		}
		f, err := s.fileFor(tl, start)
		if err != nil {
			return start, fmt.Errorf("make a file in the spool: %w", err)
		}
		if err := s.append(f, start, data[:n], clock); err != nil {
			// How much of the frame is on the disk is unknown, and its offset is its nonce: never again here.
			f.ended = true
			return start, fmt.Errorf("write to the spool: %w", err)
		}
		data, start = data[n:], start+wal.LSN(n)
		s.mu.Lock()
		s.size += need
		f.size += need
		f.end, f.clock = start, clock
		s.mu.Unlock()
	}
	return start, nil
}

// fileFor returns the open file that ends where start begins, or a new one.
func (s *Spool) fileFor(tl wal.TimelineID, start wal.LSN) (*spoolFile, error) {
	block := logBlockStart(start)
	seq := 0
	for _, f := range s.list() {
		if f.timeline != tl || f.block != block {
			continue
		}
		if f.open != nil && !f.ended && f.end == start {
			return f, nil
		}
		seq = max(seq, f.seq+1)
		f.ended = true
	}
	f := &spoolFile{timeline: tl, block: block, seq: seq, start: start, end: start}
	if err := s.create(f); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += f.size
	s.files = append(s.files, f)
	slices.SortFunc(s.files, compareSpoolFiles)
	return f, nil
}

// Sync makes all that was appended durable.
func (s *Spool) Sync() error {
	made := false
	for _, f := range s.list() {
		if f.open != nil && f.dirty {
			err := s.step(spoolStep{op: "sync", path: f.name()})
			if err == nil {
				err = unix.Fdatasync(int(f.open.Fd()))
			}
			if err != nil {
				// After a failed sync the kernel may call the same pages clean: nothing may be added to this file.
				f.ended = true
				return fmt.Errorf("sync the spool: %w", err)
			}
			made = made || f.fresh
			f.dirty, f.fresh = false, false
		}
		if f.ended || f.end == f.block+repo.MaxExtent {
			if err := f.close(); err != nil {
				return fmt.Errorf("close a file of the spool: %w", err)
			}
		}
	}
	if !made {
		return nil
	}
	return s.syncDir()
}

// SpoolRange is a part of the log that the spool holds without a gap, within one block.
type SpoolRange struct {
	Timeline   wal.TimelineID
	Start, End wal.LSN
	Clock      time.Time // the source's, when it sent the last byte
}

// Ranges returns what the spool holds, ascending by timeline and position, never across the border of a block.
func (s *Spool) Ranges() []SpoolRange {
	s.mu.Lock()
	defer s.mu.Unlock()
	var spans []SpoolRange
	for _, f := range s.files {
		if f.end > f.start {
			spans = append(spans, SpoolRange{f.timeline, f.start, f.end, f.clock})
		}
	}
	slices.SortStableFunc(spans, func(a, b SpoolRange) int {
		if a.Timeline != b.Timeline {
			return int(int64(a.Timeline) - int64(b.Timeline))
		}
		return compareLSN(a.Start, b.Start)
	})
	var out []SpoolRange
	for _, r := range spans {
		last := len(out) - 1
		if last < 0 || out[last].Timeline != r.Timeline || r.Start > out[last].End || logBlockStart(r.Start) != logBlockStart(out[last].Start) {
			out = append(out, r)
			continue
		}
		if r.End > out[last].End {
			out[last].End, out[last].Clock = r.End, r.Clock
		}
	}
	return out
}

// Read fills dst with the bytes of a timeline's log from start on, which lie within one range of Ranges.
func (s *Spool) Read(tl wal.TimelineID, start wal.LSN, dst []byte) error {
	end := start + wal.LSN(len(dst))
	at := start
	for at < end {
		var best spoolFile
		s.mu.Lock()
		for _, f := range s.files {
			if f.timeline == tl && f.start <= at && f.end > max(at, best.end) {
				best = spoolFile{timeline: tl, block: f.block, seq: f.seq, start: f.start, end: f.end}
			}
		}
		s.mu.Unlock()
		if best.end <= at {
			return fmt.Errorf("the spool does not hold timeline %d at %s", tl, at)
		}
		stop := min(best.end, end)
		if err := s.readFile(&best, at, dst[at-start:stop-start]); err != nil {
			return fmt.Errorf("read the spool: %w", err)
		}
		at = stop
	}
	return nil
}

// Drop removes the files that hold nothing of a timeline from before on. before must be durable elsewhere.
func (s *Spool) Drop(tl wal.TimelineID, before wal.LSN) error {
	s.mu.Lock()
	var gone []*spoolFile
	s.files = slices.DeleteFunc(s.files, func(f *spoolFile) bool {
		old := f.timeline == tl && f.end <= before
		if old {
			gone = append(gone, f)
			s.size -= f.size
		}
		return old
	})
	s.mu.Unlock()
	var err error
	for _, f := range gone {
		// No sync: a file that comes back after a power loss is stored a second time, with equal bytes.
		if e := s.unlink(f.name()); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		err = errors.Join(err, f.close())
	}
	return err
}

func compareLSN(a, b wal.LSN) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// syncParents makes the way to a directory durable, which may have been made just now: what is synced in it is worth
// nothing without it. Those that only another user may open are that user's.
func syncParents(dir string) {
	for p := filepath.Dir(dir); ; p = filepath.Dir(p) {
		if err := syncDir(p); err != nil || p == filepath.Dir(p) {
			return
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
