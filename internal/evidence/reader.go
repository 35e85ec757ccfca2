package evidence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Source is a replica from which evidence is read.
type Source struct {
	Site string
	Repo *repo.Repository
}

// Record is one record of a log, as far as it could be read.
type Record struct {
	Index      uint64
	Hash       tlog.Hash // of the envelope as a leaf
	Envelope   []byte    // exact bytes
	Checkpoint []byte    // of the log with this record, signed
	Statement  Statement
	Sites      []string // at which it is

	proven   Checkpoint
	frontier frontier
}

// Log is what was read of a log.
type Log struct {
	repo.EvidenceLog
	Origin  string
	System  string // empty: the repository
	Signer  repo.SignerInfo
	Records []*Record // ascending; numbers that are missing are in no replica that was read
}

// began returns when the first record was made.
func (l *Log) began() (t time.Time) {
	if len(l.Records) > 0 {
		t = l.Records[0].Statement.Started
	}
	return t
}

// Size returns how many records the log has at least.
func (l *Log) Size() uint64 {
	if len(l.Records) == 0 {
		return 0
	}
	return l.Records[len(l.Records)-1].Index + 1
}

// Name returns what a person calls a record by: the beginning of the signer's ID, and the number, with the system's name.
func (l *Log) Name(r *Record) string {
	system := l.System
	if system == "" {
		system = string(repo.RepositoryScope)
	}
	return fmt.Sprintf("%s/%.8s/%d", system, l.EvidenceLog.Signer, r.Index)
}

// Book is what was read of a repository's evidence.
type Book struct {
	Repository string // its ID
	Logs       []*Log // by system, and then by their first record
	Findings   []Finding
	Notes      []string // what single replicas lack

	scopes map[repo.EvidenceScope]bool // that were read; nil: all
}

// Thoroughness says what Read reads.
type Thoroughness bool

// Once reads each record from the first replica that has it. Everywhere reads what each replica has, and compares.
const (
	Once       Thoroughness = false
	Everywhere Thoroughness = true
)

// readers is how many records are read at once: their stores may be far away.
const readers = 32

// Read reads the logs about some systems, an empty name being the repository, or all where none is given, from replicas of one
// repository. What is wrong with single records is among the findings; an error means that a replica could not be read.
func Read(ctx context.Context, from []Source, systems []string, how Thoroughness) (*Book, error) {
	b := &Book{Repository: from[0].Repo.ID()}
	for _, name := range systems {
		if b.scopes == nil {
			b.scopes = map[repo.EvidenceScope]bool{}
		}
		b.scopes[from[0].Repo.EvidenceScope(name)] = true
	}
	logs := map[repo.EvidenceLog]*reading{}
	for _, s := range from {
		all, err := s.logs(ctx, systems)
		if err != nil {
			return nil, fmt.Errorf("read the evidence at site %s: %w", s.Site, err)
		}
		for _, l := range all {
			if logs[l] == nil {
				logs[l] = &reading{log: &Log{EvidenceLog: l, Origin: Origin(b.Repository, l)}, how: how}
			}
			numbers, err := s.Repo.EvidenceNumbers(ctx, l, 0)
			if err != nil {
				return nil, fmt.Errorf("read the evidence at site %s: %w", s.Site, err)
			}
			logs[l].sources = append(logs[l].sources, held{s, numbers})
		}
	}
	for _, l := range slices.SortedFunc(maps.Keys(logs), compareLogs) {
		r := logs[l]
		if err := r.read(ctx); err != nil {
			return nil, err
		}
		b.Logs, b.Findings, b.Notes = append(b.Logs, r.log), append(b.Findings, r.findings...), append(b.Notes, r.lacking(from)...)
	}
	slices.SortStableFunc(b.Logs, func(a, b *Log) int {
		return cmp.Or(cmp.Compare(a.System, b.System), a.began().Compare(b.began()))
	})
	return b, nil
}

func compareLogs(a, b repo.EvidenceLog) int {
	return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Signer, b.Signer))
}

func (s Source) logs(ctx context.Context, systems []string) (all []repo.EvidenceLog, err error) {
	if len(systems) == 0 {
		return s.Repo.EvidenceLogs(ctx, "")
	}
	for _, name := range systems {
		some, err := s.Repo.EvidenceLogs(ctx, s.Repo.EvidenceScope(name))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// held is which records a replica has.
type held struct {
	Source
	numbers []uint64
}

// reading reads one log.
type reading struct {
	log     *Log
	how     Thoroughness
	sources []held

	mu       sync.Mutex // guards what follows, and the log's records
	records  map[uint64]*Record
	findings []Finding
}

func (r *reading) find(kind FindingKind, index uint64, site string, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings = append(r.findings, r.log.finding(kind, &index, site, format, args...))
}

func (r *reading) read(ctx context.Context) error {
	r.records = map[uint64]*Record{}
	known, why := false, error(nil)
	for _, s := range r.sources {
		info, err := s.Repo.Signer(ctx, r.log.EvidenceLog.Signer)
		if err == nil {
			r.log.Signer, known = info, true
			break
		}
		if !broken(err) {
			return err
		}
		why = err
	}
	if !known {
		f := r.log.finding(Unproven, nil, "", "nobody can tell whether it has signed this: its key: %v", why)
		r.findings = append(r.findings, f)
		return nil
	}
	at := map[uint64][]held{}
	for _, s := range r.sources {
		for _, n := range s.numbers {
			at[n] = append(at[n], s)
		}
	}
	var eg errgroup.Group
	eg.SetLimit(readers)
	for _, n := range slices.Sorted(maps.Keys(at)) {
		eg.Go(func() error { return r.record(ctx, n, at[n]) })
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(r.records)) {
		r.log.Records = append(r.log.Records, r.records[n])
		if r.log.System == "" {
			r.log.System = r.records[n].Statement.System
		}
	}
	for i := range r.findings {
		r.findings[i].System = r.log.System
	}
	return nil
}

// lacking says what single replicas do not have of a log, of which others bring the rest.
func (r *reading) lacking(from []Source) (notes []string) {
	for _, s := range from {
		n := 0
		for _, rec := range r.log.Records {
			if !slices.Contains(rec.Sites, s.Site) {
				n++
			}
		}
		if n > 0 {
			notes = append(notes, fmt.Sprintf("site %s has %d of %d records of the log of signer %.8s%s", s.Site, len(r.log.Records)-n, len(r.log.Records), r.log.EvidenceLog.Signer, about(r.log.System)))
		}
	}
	return notes
}

// about names a system; nothing where it is the repository.
func about(system string) string {
	if system == "" {
		return ""
	}
	return " about " + system
}

// record reads one record from the replicas that have it.
func (r *reading) record(ctx context.Context, n uint64, from []held) error {
	var first *entry
	for _, s := range from {
		if first != nil && r.how == Once {
			break
		}
		e, err := readEntry(ctx, s.Repo, r.log.EvidenceLog, n)
		var c Checkpoint
		if err == nil {
			c, err = e.prove(r.log.Origin, n, r.log.Signer.Key)
		}
		var st Statement
		if err == nil {
			st, err = r.log.statement(e.envelope, s.Repo.EvidenceScope)
		}
		switch {
		case err != nil && !broken(err):
			return fmt.Errorf("read record %d of %s at site %s: %w", n, r.log.Origin, s.Site, err)
		case err != nil:
			r.find(Damaged, n, s.Site, "%v", err)
			continue
		case first == nil:
			first = e
			r.keep(&Record{Index: n, Hash: leafOf(e.envelope), Envelope: e.envelope, Checkpoint: e.checkpoint, Statement: st, proven: c, frontier: e.frontier})
		case string(e.envelope) != string(first.envelope) || e.frontier.root() != first.frontier.root():
			r.find(Forked, n, s.Site, "its signer has signed two records with this number: another one is at site %s", from[0].Site)
			continue
		}
	}
	if first != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, s := range from {
			r.records[n].Sites = append(r.records[n].Sites, s.Site)
		}
	}
	return nil
}

func (r *reading) keep(rec *Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records[rec.Index] = rec
}

// statement returns what an envelope of this log says. scopeOf may be nil, where nobody can tell the hash of a system's name.
func (l *Log) statement(envelope []byte, scopeOf func(system string) repo.EvidenceScope) (Statement, error) {
	payload, err := openEnvelope(envelope, l.Signer.Key)
	if err != nil {
		return Statement{}, err
	}
	s, err := parseStatement(payload)
	switch {
	case err != nil:
		return s, err
	case s.By.Signer != l.EvidenceLog.Signer:
		return s, errors.New("it says that another signer has made it")
	case scopeOf != nil && scopeOf(s.System) != l.Scope, s.System == "" && l.Scope != repo.RepositoryScope:
		return s, fmt.Errorf("it is about system %q, and in the log of another one", s.System)
	case Origin(s.Repository, l.EvidenceLog) != l.Origin:
		return s, fmt.Errorf("it is of repository %s", s.Repository)
	}
	return s, nil
}

// broken tells whether an error is one of what was read, and not of reading.
func broken(err error) bool {
	var e *store.Error
	var d *seal.DamagedError
	if errors.As(err, &d) || errors.Is(err, store.ErrNotExist) || errors.Is(err, seal.ErrUnknownEpoch) {
		return true
	}
	return !errors.As(err, &e) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}
