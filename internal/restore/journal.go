package restore

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// journalName is the file in the target that says that a restore is unfinished. Its first line is a
// journalHead; each further line names a file that is whole and durable.
const journalName = "holdfast.restore"

type journalHead struct {
	System   string          `json:"system"`
	Snapshot repo.SnapshotID `json:"snapshot"`
	Root     string          `json:"root"`
	// OverCluster is of a Delta: what the lines below do not name may still be as it was in the cluster before.
	OverCluster bool `json:"overCluster,omitempty"`
}

type journalLine struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

type journal struct {
	path string
	f    *os.File
	head int64            // length of the first line
	done map[uint64]int64 // path's hash to size, of what an earlier run finished
	seed maphash.Seed

	mu sync.Mutex // guards w
	w  *bufio.Writer
}

// readJournalHead returns nil where there is no journal, or none that says what it is of: then whoever wrote it
// died before anything else was written.
func readJournalHead(dir string) (*journalHead, error) {
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	line, _, whole := bytes.Cut(b, []byte("\n"))
	var h journalHead
	if !whole || json.Unmarshal(line, &h) != nil || h.Snapshot == "" {
		return &journalHead{}, nil
	}
	return &h, nil
}

// openJournal opens or begins the journal in dir and locks it, so that two restores never share a target.
func openJournal(dir string, head journalHead, resume bool) (*journal, error) {
	j := &journal{path: filepath.Join(dir, journalName), done: map[uint64]int64{}, seed: maphash.MakeSeed()}
	var err error
	if j.f, err = os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(j.f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&dr.Failure{
			What:   fmt.Sprintf("restore to %q: another restore is writing there", dir),
			Reason: journalName + " is locked by a running process",
			Next:   "wait for it, or choose another --to",
			Err:    err,
		}, j.f.Close())
	}
	j.w = bufio.NewWriter(j.f)
	if resume {
		err = j.load()
	} else if err = j.start(head); err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(err, j.f.Close())
	}
	return j, nil
}

func (j *journal) start(head journalHead) error {
	b, err := json.Marshal(head)
	if err != nil {
		return err
	}
	if err := j.f.Truncate(0); err != nil {
		return err
	}
	if _, err := j.f.WriteAt(append(b, '\n'), 0); err != nil {
		return err
	}
	j.head = int64(len(b)) + 1
	if _, err := j.f.Seek(0, 2); err != nil {
		return err
	}
	return j.f.Sync()
}

// load reads what was done. A last line that was cut off is ended, and counts as nothing.
func (j *journal) load() error {
	sc := bufio.NewScanner(j.f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if j.head == 0 {
			j.head = int64(len(sc.Bytes())) + 1
		}
		var l journalLine
		if json.Unmarshal(sc.Bytes(), &l) == nil && l.Path != "" {
			j.done[maphash.String(j.seed, l.Path)] = l.Size
		}
	}
	if err := sc.Err(); err != nil {
		return err
	}
	if _, err := j.f.Seek(0, 2); err != nil {
		return err
	}
	_, err := j.f.WriteString("\n")
	return err
}

// distrust forgets what earlier runs finished, durably: a run after this one would believe the lines again. The first
// line is left as it is, so that also whoever dies here leaves a journal that says what the directory is.
func (j *journal) distrust() error {
	clear(j.done)
	if err := j.f.Truncate(j.head); err != nil {
		return err
	}
	if _, err := j.f.Seek(0, 2); err != nil {
		return err
	}
	return j.f.Sync()
}

// has tells whether an earlier run finished a file.
func (j *journal) has(path string, size int64) bool {
	s, ok := j.done[maphash.String(j.seed, path)]
	return ok && s == size
}

// record notes a file that is durable. The line itself need not be: without it the file is written again.
func (j *journal) record(path string, size int64) error {
	b, err := json.Marshal(journalLine{path, size})
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.w.Write(b)        //nolint:errcheck // Flush returns it
	j.w.WriteByte('\n') //nolint:errcheck // Flush returns it
	return j.w.Flush()
}

// remove ends the restore: from here on the directory is a cluster.
func (j *journal) remove() error {
	if err := os.Remove(j.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(j.path))
}

func (j *journal) close() error { return j.f.Close() }

// seen is a set of paths in eight bytes each: a restore of millions of files keeps no names.
type seen struct {
	seed maphash.Seed
	set  map[uint64]struct{}
}

func newSeen() seen { return seen{maphash.MakeSeed(), map[uint64]struct{}{}} }

func (s seen) add(path string) { s.set[maphash.String(s.seed, path)] = struct{}{} }

func (s seen) has(path string) bool {
	_, ok := s.set[maphash.String(s.seed, path)]
	return ok
}
