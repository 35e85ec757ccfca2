package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/restore"
)

// claim takes a directory for a mount: it makes it, locks it, and removes what an earlier Begin has laid out without coming to its end.
// Whatever else is in it is refused, and left as it is: what a mount leaves behind is removed without asking again.
func (m *Mount) claim() error {
	if s, err := unlaid(m.Dir); err != nil {
		return err
	} else if s == nil { // before anything is made in it
		if err := vacant(m.Dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return err
	}
	if err := m.hold(m.Dir); err != nil {
		return err
	}
	s, err := unlaid(m.Dir) // nobody changes it any more
	if err != nil {
		return err
	}
	if s != nil {
		if err := removable(m.Dir, s); err != nil {
			return err
		}
		if err := emptyAreas(m.Dir, s); err != nil {
			return err
		}
	}
	if err := vacant(m.Dir); err != nil {
		return err
	}
	return m.areas[0].reset()
}

// unlaid returns the state of a mount whose laying out was interrupted, nil where there is none, and refuses any other.
func unlaid(dir string) (*State, error) {
	s, err := ReadState(dir)
	if err != nil || s == nil || s.Phase == Laying {
		return s, err
	}
	return nil, &dr.Failure{
		What:   fmt.Sprintf("mount over %q", dir),
		Reason: fmt.Sprintf("snapshot %s of %s is mounted there, or was", s.Snapshot, s.System),
		Next:   fmt.Sprintf("holdfast mount resume %s goes on with it; holdfast mount abort %s removes it", dir, dir),
	}
}

// vacant refuses a directory that holds anything but what a mount keeps of itself.
func vacant(dir string) error {
	refuse := func(path string) error {
		return &dr.Failure{
			What:   fmt.Sprintf("mount over %q", dir),
			Reason: fmt.Sprintf("it is not empty: it has %q, and a mount never mixes with what it finds", path),
			Next:   "choose an empty directory, or one that is not there yet",
		}
	}
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Name() != StateDir {
			return refuse(e.Name())
		}
	}
	own, err := os.ReadDir(filepath.Join(dir, StateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range own {
		if !slices.Contains(stateNames(), e.Name()) {
			return refuse(filepath.Join(StateDir, e.Name()))
		}
	}
	return nil
}

// removable tells whether what is in a mount's areas may be removed.
func removable(dir string, s *State) error {
	what := fmt.Sprintf("remove the mount over %q", dir)
	if !s.Claimed {
		return &dr.Failure{
			What: what, Reason: "its state does not say that the directory was empty when the mount was begun",
			Next: "see what is in it; remove " + filepath.Join(dir, StateDir) + " if the rest is not the mount's, or else all of it",
		}
	}
	if pid := restore.RunningServer(dir); pid != 0 {
		return &dr.Failure{
			What: what, Reason: fmt.Sprintf("postmaster.pid names live process %d", pid),
			Next: "stop that server, and run this again",
		}
	}
	return nil
}

// remove removes all that belongs to a mount.
func remove(dir string, s *State) error {
	if err := removable(dir, s); err != nil {
		return err
	}
	if err := emptyAreas(dir, s); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, StateDir))
}

func emptyAreas(dir string, s *State) error {
	for _, area := range slices.Backward(s.Areas) {
		if fi, err := os.Lstat(area); err == nil && !fi.IsDir() {
			return fmt.Errorf("%s was a directory of the mount over %s, and is none any more", area, dir)
		}
		if err := empty(area, func(name string) bool { return area == dir && name == StateDir }); err != nil {
			return err
		}
	}
	return nil
}

func empty(dir string, keep func(string) bool) error {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range all {
		if keep(e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
