package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/capture"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// State is what a keeper remembers of its system across restarts.
type State struct {
	Version    int           `json:"version"`
	Since      time.Time     `json:"since"` // when this file was begun
	Snapshot   TaskRun       `json:"snapshot"`
	Retention  TaskRun       `json:"retention"`
	Collection TaskRun       `json:"collection"`
	Check      TaskRun       `json:"check"`
	Optimize   TaskRun       `json:"optimize,omitzero"`
	Last       *LastSnapshot `json:"last,omitempty"`   // the newest snapshot; nil where there is none
	Damage     string        `json:"damage,omitempty"` // what the last check found; empty: nothing
	Next       time.Time     `json:"next,omitzero"`    // when the next snapshot is due
	// Alarm is that pages changed of which the log did not tell, as the repository says; nil: no snapshot is doubtful.
	Alarm *capture.Alarm `json:"alarm,omitempty"`
	// Found are such pages of which no snapshot tells yet: the one that has to read everything then has failed.
	Found []capture.Missed `json:"found,omitempty"`
	// Budget is how many bytes an optimization may store again by now, before compression.
	Budget        int64   `json:"budget,omitempty"`
	Fragmentation float64 `json:"fragmentation,omitempty"` // of the newest snapshot when that was looked at last; 0: never
}

// TaskRun is how a task went.
type TaskRun struct {
	Running   bool      `json:"running,omitempty"`
	Started   time.Time `json:"started,omitzero"`   // of the last try
	Finished  time.Time `json:"finished,omitzero"`  // of the last try that ended
	Succeeded time.Time `json:"succeeded,omitzero"` // when the last try that succeeded was started
	Failures  int       `json:"failures,omitempty"` // since then
	Error     string    `json:"error,omitempty"`
	Pending   bool      `json:"pending,omitempty"` // due whatever the schedule says
	Waits     bool      `json:"waits,omitempty"`   // a collection waits for writers
}

// LastSnapshot is the newest snapshot of a system.
type LastSnapshot struct {
	ID       repo.SnapshotID `json:"id"`
	Started  time.Time       `json:"started"`
	Finished time.Time       `json:"finished"`
	Bytes    int64           `json:"bytes"`
	Added    int64           `json:"added"`          // bytes in the store that were new
	Site     string          `json:"site,omitempty"` // where it was taken, while the first site was away
}

func lastSnapshot(m *repo.Manifest) *LastSnapshot {
	return &LastSnapshot{ID: m.ID, Started: m.Started.UTC(), Finished: m.Finished.UTC(), Bytes: m.Bytes, Added: m.Written.StoredBytes}
}

// cutOff tells whether the log has a gap at or behind a snapshot, so that nothing after the gap can be recovered.
func cutOff(m *repo.Manifest, gaps []capture.LogGap) bool {
	for _, g := range gaps {
		if uint32(g.Timeline) >= uint32(m.Log.Stream) && uint64(g.To) > m.Log.Start {
			return true
		}
	}
	return false
}

const stateVersion = 1

// run returns the part of the state that belongs to a task.
func (s *State) run(t task) *TaskRun {
	switch t {
	case taskRetention:
		return &s.Retention
	case taskCollection:
		return &s.Collection
	case taskCheck:
		return &s.Check
	case taskOptimize:
		return &s.Optimize
	}
	return &s.Snapshot
}

// stateFile keeps the state of one system.
type stateFile struct {
	path string
	// before is told of each step before it is made; an error of it stops the write. Tests kill themselves in it.
	before func(step string) error
}

// errState is the error of load where the file cannot be understood.
var errState = errors.New("the state file is damaged")

// load returns what was saved; the zero state where nothing was. A file that cannot be understood is moved aside
// and returned as errState, with the zero state.
func (f *stateFile) load() (State, error) {
	fresh := State{Version: stateVersion}
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return fresh, err
	}
	var s State
	if err = json.Unmarshal(b, &s); err == nil && s.Version != stateVersion {
		err = fmt.Errorf("it has version %d, and this holdfast knows %d", s.Version, stateVersion)
	}
	if err != nil {
		aside := f.path + ".damaged"
		return fresh, errors.Join(fmt.Errorf("%w, and is now %s: %w", errState, aside, err), os.Rename(f.path, aside))
	}
	return s, nil
}

// save makes the state durable, or leaves the one that was there.
func (f *stateFile) save(s State) (err error) {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	dir, temp := filepath.Dir(f.path), f.path+".new"
	if err := f.step("create"); err != nil {
		return err
	}
	// There is one writer, the holder of the lock: what a killed one left behind is overwritten.
	t, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.fill(t, b), t.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := f.step("rename"); err != nil {
		return err
	}
	if err := os.Rename(temp, f.path); err != nil {
		return err
	}
	if err := f.step("syncdir"); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *stateFile) fill(t *os.File, b []byte) error {
	half := len(b) / 2
	for _, part := range [][]byte{b[:half], b[half:]} {
		if err := f.step("write"); err != nil {
			return err
		}
		if _, err := t.Write(part); err != nil {
			return err
		}
	}
	if err := f.step("sync"); err != nil {
		return err
	}
	return t.Sync()
}

func (f *stateFile) step(name string) error {
	if f.before == nil {
		return nil
	}
	return f.before(name)
}
