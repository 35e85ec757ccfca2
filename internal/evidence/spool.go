package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// spool is the directory on this host for the evidence about one repository:
//
//	pending/<time>-<id>   what no replica has yet, in the order in which it was signed
//	heads/<scope>         the head of the log of this host's signer
//	seen/<scope>          how long other logs were when they were looked at last
//	lock                  of who appends
type spool struct {
	dir string
	// before is told of each step before it is made; an error of it stops. Tests kill themselves in it.
	before func(step string) error
}

func (s *spool) step(name string) error {
	if s.before == nil {
		return nil
	}
	return s.before(name)
}

// pendingRecord is a signed record that waits.
type pendingRecord struct {
	System   string    `json:"system,omitempty"`
	Kind     Kind      `json:"kind"`
	Signed   time.Time `json:"signed"`
	Envelope string    `json:"envelope"`

	name string
}

// makeDirs makes the spool's directories. As root they belong to whom the directory above belongs to: the agent goes on there.
func (s *spool) makeDirs() error {
	for _, d := range []string{filepath.Dir(s.dir), s.dir, s.at("pending"), s.at("heads"), s.at("seen")} {
		err := os.Mkdir(d, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = giveAway(d)
		}
		if err != nil {
			return fmt.Errorf("make the directory for evidence: %w", err)
		}
	}
	return nil
}

func (s *spool) at(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

// giveAway lets what root makes belong to the owner of the directory it is in.
func giveAway(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Dir(path), &st); err != nil {
		return err
	}
	return os.Lchown(path, int(st.Uid), int(st.Gid))
}

// lock waits until nobody else appends. It ends with the process, however that dies.
func (s *spool) lock(ctx context.Context) (unlock func(), err error) {
	path := s.at("lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := giveAway(path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	tick := time.NewTicker(50 * time.Millisecond) // the holder announces nothing: ask
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for who records evidence: %w", context.Cause(ctx)), f.Close())
		}
	}
}

// write makes a file durable, or leaves the one that was there.
func (s *spool) write(name string, content any) error {
	b, err := json.Marshal(content)
	if err != nil {
		return err
	}
	path := s.at(name)
	if err := s.step("write " + filepath.Dir(name)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it was renamed
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = giveAway(f.Name())
	}
	if err != nil {
		return err
	}
	if err := s.step("rename " + filepath.Dir(name)); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// read reads what write wrote; ok is false where nothing is, or something that cannot be read: what is noted here can be found out
// anew, but for records that wait, which readPending names.
func (s *spool) read(name string, into any) (ok bool) {
	b, err := os.ReadFile(s.at(name))
	return err == nil && json.Unmarshal(b, into) == nil
}

func (s *spool) put(p pendingRecord, id string) error {
	return s.write(fmt.Sprintf("pending/%020d-%s", p.Signed.UnixNano(), id), p)
}

// pending returns what waits, oldest first. The error names files that cannot be read; the others are returned all the same.
func (s *spool) pending() (all []pendingRecord, err error) {
	files, err := os.ReadDir(s.at("pending"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var broken []error
	for _, f := range files { // sorted
		if strings.HasPrefix(f.Name(), ".") {
			continue // of a process that died, or is about to rename it
		}
		p := pendingRecord{}
		b, err := os.ReadFile(s.at("pending", f.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // delivered meanwhile
		}
		if err == nil && json.Unmarshal(b, &p) != nil {
			err = errors.New("its JSON cannot be read")
		}
		if err != nil {
			broken = append(broken, dr.Fail("read the evidence "+s.at("pending", f.Name()), err, "move it away; what it recorded is lost"))
			continue
		}
		p.name = f.Name()
		all = append(all, p)
	}
	return all, errors.Join(broken...)
}

func (s *spool) remove(p pendingRecord) error {
	if err := s.step("remove"); err != nil {
		return err
	}
	err := os.Remove(s.at("pending", p.name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, syncDir(s.at("pending")))
}

// headFile is the head of a log as this host knows it.
type headFile struct {
	Signer   string   `json:"signer"`
	Size     uint64   `json:"size"`
	Frontier []string `json:"frontier"`
	Last     []byte   `json:"last"`
}

// head returns the head that was noted; ok is false where none was, or of another signer.
func (s *spool) head(scope repo.EvidenceScope, signer string) (h head, ok bool) {
	var f headFile
	if !s.read("heads/"+string(scope), &f) || f.Signer != signer || len(f.Last) != len(h.last) {
		return h, false
	}
	frontier, err := parseFrontier(f.Frontier)
	if err != nil {
		return h, false
	}
	h = head{size: f.Size, frontier: frontier}
	copy(h.last[:], f.Last)
	return h, true
}

func (s *spool) putHead(scope repo.EvidenceScope, signer string, h head) error {
	return s.write("heads/"+string(scope), headFile{signer, h.size, h.frontier.marshal(), h.last[:]})
}

// seenFile is what was seen of other logs.
type seenFile struct {
	At   time.Time `json:"at"`
	Logs []Seen    `json:"logs"`
}

// Waiting is a record that no replica has yet.
type Waiting struct {
	Repository string    `json:"repository"` // its ID
	System     string    `json:"system,omitempty"`
	Kind       Kind      `json:"kind"`
	Signed     time.Time `json:"signed"`
}

// AllWaiting returns what waits below a state directory on this host, oldest first. The error names what cannot be read.
func AllWaiting(state string) (all []Waiting, err error) {
	dirs, err := os.ReadDir(filepath.Join(state, spoolName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, d := range dirs {
		waits, broken := (&spool{dir: filepath.Join(state, spoolName, d.Name())}).pending()
		err = errors.Join(err, broken)
		for _, p := range waits {
			all = append(all, Waiting{d.Name(), p.System, p.Kind, p.Signed})
		}
	}
	slices.SortStableFunc(all, func(a, b Waiting) int { return a.Signed.Compare(b.Signed) })
	return all, err
}
