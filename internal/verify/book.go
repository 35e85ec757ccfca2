package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
)

// Summary is what is kept of a test.
type Summary struct {
	Started  time.Time       `json:"started"`
	Finished time.Time       `json:"finished"`
	Snapshot repo.SnapshotID `json:"snapshot"`
	Moment   repo.SnapshotID `json:"moment"` // the snapshot as it was taken, where Snapshot is a better layout of it
	Timeline uint32          `json:"timeline"`
	Point    string          `json:"point"` // that was tested, as points.ParseTarget reads it
	Site     string          `json:"site,omitempty"`
	Depth    Depth           `json:"depth"`
	Proven   Depth           `json:"proven"`
	Sample   float64         `json:"sample,omitempty"` // of what was read; 0: all
	Outcome  Outcome         `json:"outcome"`
	Way      string          `json:"way,omitempty"`
	RTO      time.Duration   `json:"rtoNs,omitempty"`
	Phases   []boot.Phase    `json:"phases,omitempty"`
	Problems int             `json:"problems,omitempty"`
	First    string          `json:"firstProblem,omitempty"`
}

// Summary returns what is kept of a result.
func (r *Result) Summary() Summary {
	s := Summary{
		Started: r.Started, Finished: r.Started.Add(r.Took), Snapshot: r.Snapshot, Moment: r.moment, Timeline: uint32(r.Timeline), Point: r.Target.String(),
		Site: r.Site, Depth: r.Depth, Proven: r.Proven, Sample: r.sample, Outcome: r.Outcome, Way: r.Way, RTO: r.RTO, Phases: r.Phases, Problems: r.ProblemCount,
	}
	if len(r.Problems) > 0 {
		s.First = r.Problems[0].String()
	}
	return s
}

const (
	bookName = "restore-tests.json"
	// keptSummaries is how many tests are kept.
	keptSummaries = 500
)

// Tests returns what is kept of a system's tests on this host, oldest first. dir is the directory of the system's state.
func Tests(dir string) ([]Summary, error) {
	b, err := os.ReadFile(filepath.Join(dir, bookName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []Summary
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("read the restore tests in %s: %w", dir, err)
	}
	return out, nil
}

// Keep adds a test to those that are kept. Several processes may: a lock beside the file puts them in order. What root makes belongs
// to whom the directory belongs: the agent's user has to read it, and to go on with it.
func Keep(dir string, s Summary) (err error) {
	if err := makeDir(dir); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, bookName+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := likeAbove(lock.Name()); err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	all, err := Tests(dir)
	if err != nil {
		return err
	}
	all = append(all, s)
	b, err := json.MarshalIndent(all[max(len(all)-keptSummaries, 0):], "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, bookName+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, likeAbove(f.Name()), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), filepath.Join(dir, bookName))
}

// makeDir makes a directory and those above it, each the owner's of the one that it is in.
func makeDir(dir string) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return likeAbove(dir)
}

// likeAbove gives what root has made to the owner of the directory that it is in.
func likeAbove(path string) error {
	var above unix.Stat_t
	if os.Geteuid() != 0 {
		return nil
	}
	if err := unix.Lstat(filepath.Dir(path), &above); err != nil {
		return err
	}
	return os.Lchown(path, int(above.Uid), int(above.Gid))
}

// Deepest returns, of the tests that f accepts, the newest of those that passed the deepest; nil where none passed any. f may be nil.
func Deepest(all []Summary, f func(Summary) bool) *Summary {
	for _, d := range slices.Backward(Depths) {
		if s, ok := Newest(all, d, f); ok {
			return &s
		}
	}
	return nil
}

// Newest returns, of tests that passed at least to the depth d, the newest one that f accepts; f may be nil.
func Newest(all []Summary, d Depth, f func(Summary) bool) (Summary, bool) {
	for _, s := range slices.Backward(all) {
		if s.Proven != "" && s.Proven.Includes(d) && (f == nil || f(s)) {
			return s, true
		}
	}
	return Summary{}, false
}
