package scrub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store/meter"
)

// Options say how a replica is read.
type Options struct {
	Dir    string // of the ledger, on this host
	Place  string // where the replica is: what is known of another place does not count. Empty: as its store says
	Pace   dr.Pace
	Window time.Duration
	Meter  *meter.Meter // counts what the replica's store, and those of Helpers, are asked
	// Helpers opens what damage is put back from: the nearest first. close is called when it is done.
	Helpers func(context.Context) (from []*repo.Repository, close func())
	// Claim keeps several agents from reading one replica: whoever does not have the claim waits.
	Claim bool
	// Pause tells that something else comes first, now.
	Pause func() bool
	// Once spends a day's budget at once, and ends.
	Once bool
	Log  *slog.Logger

	now  func() time.Time                           // nil: the clock
	wait func(context.Context, time.Duration) error // nil: a timer
}

// Scrub reads one replica. Run and Close are for one goroutine; Statement may be called by others.
type Scrub struct {
	o      Options
	r      *repo.Repository
	lock   *os.File
	l      *ledger
	prover *repo.Prover
	before int64 // bytes received by the meter when the replica was opened, that are accounted for

	plan     []item // what is read next
	rest     bool   // more is there than in the plan
	planned  time.Time
	stale    bool                // the plan is to be made anew
	all      int64               // bytes of the replica
	problems map[string]string   // objects that were found damaged, and why
	surveyed []Damage            // of the last survey, that stay
	mended   time.Time           // when it was last tried to put back what stays
	saved    time.Time           // when the ledger was
	kept     int64               // bytes that had been read then
	claim    claim               // of the replica
	refused  int                 // objects in a row that the store did not give
	told     map[string]struct{} // problems that were logged

	mu   sync.Mutex // guards said
	said Statement
}

// ErrBusy is the error of Open where another process of this host scrubs the replica.
var ErrBusy = errors.New("another process of this host scrubs this replica")

const (
	ledgerName    = "ledger"
	statementName = "statement.json"
)

// Open opens the ledger of a replica. r stays open; its store is that of o.Meter.
func Open(r *repo.Repository, o Options) (*Scrub, error) {
	if o.now == nil {
		o.now = func() time.Time { return time.Now().Round(0) } // the clock on the wall
	}
	if o.wait == nil {
		o.wait = pause
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Pause == nil {
		o.Pause = func() bool { return false }
	}
	if o.Helpers == nil {
		o.Helpers = func(context.Context) ([]*repo.Repository, func()) { return nil, func() {} }
	}
	if o.Place == "" {
		o.Place = r.Store().String()
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, dr.Fail("scrub "+r.Store().String(), err, "set agent.state to a directory that this user may write")
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	l, err := openLedger(filepath.Join(o.Dir, ledgerName), o.Place, o.now())
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s := &Scrub{o: o, r: r, lock: lock, l: l, prover: r.Prover(), problems: map[string]string{}, told: map[string]struct{}{}}
	s.before = s.o.Meter.Read().Received
	if last, ok := lastStatement(o.Dir); ok && len(l.objects) > 0 {
		s.surveyed = last.Left // until it is looked at again
		for _, p := range last.Left {
			s.told[p.Object] = struct{}{}
		}
		s.said.Error, s.said.Failing = last.Error, last.Failing // until something is read
	}
	s.say(s.said.Error)
	return s, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lockDir takes the lock of a ledger. It ends with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = dr.Fail("scrub", fmt.Errorf("%w: it holds %s", ErrBusy, f.Name()), "it is the agent, if that runs here: holdfast repo scrub --status tells how far it is")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close keeps what is known.
func (s *Scrub) Close() error {
	return errors.Join(s.keep(), s.l.close(), s.lock.Close())
}

// Statement returns how it stands, as of a minute ago at most while Run reads.
func (s *Scrub) Statement() Statement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

// Read returns the statement of a ledger as of now, whoever keeps it. The error is os.ErrNotExist where there is none.
func Read(dir, place string, window time.Duration, now time.Time) (Statement, error) {
	l, err := readLedger(filepath.Join(dir, ledgerName), place)
	if err != nil {
		return Statement{}, err
	}
	st := l.state(now, window)
	if last, ok := lastStatement(dir); ok {
		st.withRun(last)
	}
	return st, nil
}

// lastStatement returns what was kept last.
func lastStatement(dir string) (last Statement, ok bool) {
	b, err := os.ReadFile(filepath.Join(dir, statementName))
	return last, err == nil && json.Unmarshal(b, &last) == nil
}

// withRun takes over what a ledger does not know.
func (s *Statement) withRun(last Statement) {
	s.Pace, s.Read, s.Found, s.Healed, s.Left = last.Pace, last.Read, last.Found, last.Healed, last.Left
	s.Error, s.Failing, s.By, s.Repairs = last.Error, last.Failing, last.By, last.Repairs
}

// say computes the statement. failing is why nothing can be read.
func (s *Scrub) say(failing string) {
	st := s.l.state(s.o.now(), s.o.Window)
	s.mu.Lock()
	defer s.mu.Unlock()
	st.withRun(s.said)
	st.Pace, st.By = s.o.Pace.String(), s.claim.by
	if st.Error = failing; failing == "" {
		st.Failing = time.Time{}
	} else if st.Failing.IsZero() {
		st.Failing = s.o.now().UTC()
	}
	st.Left = s.left()
	s.said = st
}

func (s *Scrub) note(change func(*Statement)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.said)
}

// Failed notes why nothing can be read at the moment: of an error of Run.
func (s *Scrub) Failed(err error) {
	s.say(err.Error())
	if err := s.keep(); err != nil {
		s.o.Log.Warn("the ledger cannot be kept; what it does not have is read again", dr.KeyError, err)
	}
}

// keep writes what is known to this host's disk, if anything happened since.
func (s *Scrub) keep() error {
	before := s.Statement()
	s.say(before.Error)
	s.saved = s.o.now()
	if now := s.Statement(); len(s.l.buf) == 0 && before.Read == s.kept && now.Error == before.Error && now.By == before.By {
		return nil
	}
	s.kept = before.Read
	b, err := json.MarshalIndent(s.Statement(), "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(s.o.Dir, statementName)
	if err = os.WriteFile(path+".new", b, 0o600); err == nil { // it is for people: the ledger is what counts
		err = os.Rename(path+".new", path)
	}
	return errors.Join(err, s.l.save())
}
