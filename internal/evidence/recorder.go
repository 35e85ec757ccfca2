package evidence

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Config says who records.
type Config struct {
	State   string       // directory of what this host keeps across restarts
	Signer  *seal.Signer // that of the repositories that are recorded into
	Host    string
	User    string
	Program string
	Now     func() time.Time // nil: time.Now
}

// Recorder records what this process executes. It may be used by several goroutines, and beside other processes of this host.
type Recorder struct {
	cfg Config
	// before is told of each step; see spool.
	before func(step string) error
}

const spoolName = "evidence"

// New returns a recorder. Nothing is read or made yet.
func New(cfg Config) *Recorder {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Recorder{cfg: cfg}
}

// ErrWaits is in the error of Record where the record is safe on this host, and no replica has it yet.
var ErrWaits = errors.New("the evidence waits on this host")

// ErrUnsigned is the error of Record where this host has no key to sign with.
var ErrUnsigned = errors.New("this host has no signing key that can be read")

func (r *Recorder) spool(to *repo.Repository) *spool {
	return &spool{dir: filepath.Join(r.cfg.State, spoolName, to.ID()), before: r.before}
}

// Record signs a statement, keeps it on this host, and then appends it, and what waited before, to their logs in a replica. An error with
// ErrWaits means that it is kept, and that a later Record or Deliver appends it; any other one, that there is no record of it.
func (r *Recorder) Record(ctx context.Context, to *repo.Repository, s Statement) error {
	if r.cfg.Signer == nil {
		return ErrUnsigned
	}
	sp := r.spool(to)
	spoolErr := sp.makeDirs()
	id := make([]byte, 16)
	rand.Read(id) //nolint:errcheck // never fails since Go 1.24
	s.ID, s.Repository = hex.EncodeToString(id), to.ID()
	s.Started, s.Finished = s.Started.UTC(), s.Finished.UTC()
	s.By = By{Signer: r.cfg.Signer.Public().ID(), Host: r.cfg.Host, User: r.cfg.User, Program: r.cfg.Program}
	var seen seenFile
	sp.read("seen/"+string(to.EvidenceScope(s.System)), &seen)
	s.Seen = seen.Logs
	s.bounded()
	if err := s.check(); err != nil {
		return fmt.Errorf("record what was done: %w", err)
	}
	signed, err := enclose(&s, r.cfg.Signer)
	if err != nil {
		return err
	}
	p := pendingRecord{System: s.System, Kind: s.Kind, Signed: r.cfg.Now().UTC(), Envelope: string(signed)}
	if spoolErr == nil {
		spoolErr = sp.put(p, s.ID)
	}
	if spoolErr != nil {
		// A full disk must not keep it from being recorded: the store has the last word on numbers.
		_, err := r.append(ctx, to, sp, p)
		if err != nil {
			return fmt.Errorf("record what was done: %w", errors.Join(spoolErr, err))
		}
		return nil
	}
	if _, err := r.Deliver(ctx, to); err != nil {
		return fmt.Errorf("%w: %w", ErrWaits, err)
	}
	return nil
}

// Deliver appends what waits on this host for a repository to the logs in a replica of it, and returns how many records that were.
func (r *Recorder) Deliver(ctx context.Context, to *repo.Repository) (n int, err error) {
	if r.cfg.Signer == nil {
		return 0, ErrUnsigned
	}
	sp := r.spool(to)
	if all, err := sp.pending(); len(all) == 0 {
		return 0, err // nobody is asked anything
	}
	unlock, err := sp.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	all, broken := sp.pending()
	for _, p := range all {
		h, err := r.append(ctx, to, sp, p)
		if err == nil {
			err = sp.putHead(to.EvidenceScope(p.System), r.cfg.Signer.Public().ID(), h)
		}
		if err == nil {
			err = sp.remove(p)
		}
		if err != nil {
			return n, errors.Join(err, broken)
		}
		n++
	}
	scopes := map[string]bool{}
	for _, p := range all {
		if !scopes[p.System] {
			scopes[p.System] = true
			r.look(ctx, to, sp, p.System)
		}
	}
	return n, broken
}

// append creates the entry of a record, unless that is there, and returns the head of the log then.
func (r *Recorder) append(ctx context.Context, to *repo.Repository, sp *spool, p pendingRecord) (head, error) {
	scope, key := to.EvidenceScope(p.System), r.cfg.Signer.Public()
	l := repo.EvidenceLog{Scope: scope, Signer: key.ID()}
	h, known := sp.head(scope, l.Signer)
	if !known {
		var err error
		if h, err = readHead(ctx, to, l, key, 0); err != nil {
			return h, err
		}
	}
	origin, leaf := Origin(to.ID(), l), leafOf([]byte(p.Envelope))
	for range maxCatchUp {
		if h.size > 0 && h.last == leaf {
			return h, nil // who died after he had noted it
		}
		e, err := h.next(origin, []byte(p.Envelope), r.cfg.Signer)
		if err != nil {
			return h, err
		}
		b, err := e.marshal()
		if err != nil {
			return h, err
		}
		if err := sp.step("create"); err != nil {
			return h, err
		}
		err = to.CreateEvidence(ctx, l, h.size, b)
		if err == nil {
			return e.head(), sp.step("created")
		}
		if !errors.Is(err, store.ErrExists) {
			return h, err
		}
		// Of a process that died before it had noted this, or of a time that this host has forgotten: it was put back to an earlier state.
		there, err := holdsFrom(ctx, to, l, h.size, p.Envelope)
		if err != nil {
			return h, err
		}
		if h, err = readHead(ctx, to, l, key, h.size); err != nil || there {
			return h, err
		}
	}
	return h, fmt.Errorf("append to the evidence of signer %s: others do so at the same time", l.Signer)
}

// maxCatchUp bounds how often somebody else may be faster, where there should be nobody else.
const maxCatchUp = 8

// holdsFrom tells whether one of a log's records from a number on is this one. Who died has not gone far.
func holdsFrom(ctx context.Context, from *repo.Repository, l repo.EvidenceLog, at uint64, envelope string) (bool, error) {
	for n := at; n < at+maxCatchUp; n++ {
		e, err := readEntry(ctx, from, l, n)
		if errors.Is(err, store.ErrNotExist) {
			return false, nil
		}
		if err != nil || string(e.envelope) == envelope {
			return err == nil, err
		}
	}
	return false, nil
}

// readHead returns the head of a log from its newest entry, which has a number from one on; the zero head where the log is empty.
func readHead(ctx context.Context, from *repo.Repository, l repo.EvidenceLog, key seal.PublicKey, at uint64) (head, error) {
	numbers, err := from.EvidenceNumbers(ctx, l, at)
	if err != nil || len(numbers) == 0 {
		return head{}, err
	}
	n := numbers[len(numbers)-1]
	e, err := readEntry(ctx, from, l, n)
	if err == nil {
		_, err = e.prove(Origin(from.ID(), l), n, key)
	}
	if err != nil {
		return head{}, dr.Fail(fmt.Sprintf("go on with the evidence of signer %s", l.Signer), fmt.Errorf("record %d: %w", n, err), "holdfast evidence verify; holdfast repo check --repair")
	}
	return e.head(), nil
}

func readEntry(ctx context.Context, from *repo.Repository, l repo.EvidenceLog, n uint64) (*entry, error) {
	b, err := from.Evidence(ctx, l, n)
	if err != nil {
		return nil, err
	}
	return parseEntry(b)
}

// lookEvery is how often a signer looks how long the logs of others are. That is said in his next records.
const lookEvery = 24 * time.Hour

// look notes how long other logs of a scope are. What hinders it only makes what is said of them older.
func (r *Recorder) look(ctx context.Context, to *repo.Repository, sp *spool, system string) {
	scope := to.EvidenceScope(system)
	var seen seenFile
	if sp.read("seen/"+string(scope), &seen); r.cfg.Now().Sub(seen.At).Abs() < lookEvery {
		return
	}
	logs, err := to.EvidenceLogs(ctx, scope)
	if err != nil {
		return
	}
	seen = seenFile{At: r.cfg.Now().UTC()}
	for _, l := range logs {
		if l.Signer == r.cfg.Signer.Public().ID() || len(seen.Logs) == maxList {
			continue
		}
		info, err := to.Signer(ctx, l.Signer)
		if err != nil {
			continue
		}
		if h, err := readHead(ctx, to, l, info.Key, 0); err == nil {
			root := h.frontier.root()
			seen.Logs = append(seen.Logs, Seen{Origin(to.ID(), l), h.size, hex.EncodeToString(root[:])})
		}
	}
	_ = sp.write("seen/"+string(scope), seen) // it is looked anew next time
}

// Head returns how long this host's log about a system is, as this host knows it, and the root of its tree; ok is false where it knows of
// none. It asks nobody.
func (r *Recorder) Head(to *repo.Repository, system string) (size uint64, root [32]byte, ok bool) {
	if r.cfg.Signer == nil {
		return 0, root, false
	}
	h, ok := r.spool(to).head(to.EvidenceScope(system), r.cfg.Signer.Public().ID())
	if !ok || h.size == 0 {
		return 0, root, false
	}
	return h.size, h.frontier.root(), true
}
