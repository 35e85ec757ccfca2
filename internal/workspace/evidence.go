package workspace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"time"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
)

// recordFor is how long a replica is waited for that shall take a record. What takes longer waits on this host.
const recordFor = 20 * time.Second

// Recorder returns who records what is executed on this host, and an error where it has no key to sign with.
func (w *Workspace) Recorder() (*evidence.Recorder, error) {
	signer, err := Signer(w.Config.Agent.State)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	program := w.Program
	if program == "" {
		program = "holdfast"
	}
	return evidence.New(evidence.Config{State: w.Config.Agent.State, Signer: signer, Host: host, User: userName(), Program: program}), nil
}

// Record records what was done with a replica, and what waited before. Whatever hinders it is told of and hinders nothing else: what was
// done is done.
func (w *Workspace) Record(ctx context.Context, r *repo.Repository, s evidence.Statement) {
	ctx, stop := context.WithTimeoutCause(context.WithoutCancel(ctx), recordFor, errors.New("it takes too long"))
	defer stop()
	if s.Site == "" {
		s.Site = w.siteOf(s.System)
	}
	if s.Finished.IsZero() {
		s.Finished = time.Now()
	}
	s.Took()
	recorder, err := w.Recorder()
	if err == nil {
		err = recorder.Record(ctx, r, s)
	}
	switch {
	case err == nil:
	case errors.Is(err, evidence.ErrWaits):
		w.log.Warn("the evidence of what was done waits on this host; it is stored with what is recorded next", "kind", s.Kind, dr.KeyError, err,
			dr.KeyNext, "holdfast evidence deliver")
	default:
		w.log.Error("there is no evidence of what was done", "kind", s.Kind, dr.KeyError, err, dr.KeyNext, dr.Advice(err))
	}
}

// siteOf returns the site that is worked with, of a system or, where it is not one of the configuration's, of the only repository.
func (w *Workspace) siteOf(system string) string {
	if w.Site != "" {
		return w.Site
	}
	if s, err := w.Config.System(system); err == nil {
		return w.Config.RepositoryOf(s).Replicas[0].Site
	}
	site := ""
	for _, r := range w.Config.Repositories {
		if site != "" && r.Replicas[0].Site != site {
			return "" // the statement names the repository
		}
		site = r.Replicas[0].Site
	}
	return site
}

// evidencePoint returns what a snapshot tells of this host's log about a system; nil where there is none.
func (w *Workspace) evidencePoint(s System) *repo.EvidencePoint {
	recorder, err := w.Recorder()
	if err != nil {
		return nil
	}
	size, root, ok := recorder.Head(s.Repo, string(s.Name))
	if !ok {
		return nil
	}
	return &repo.EvidencePoint{Size: size, Root: hex.EncodeToString(root[:])}
}

// EvidenceSources returns the replicas from which a repository's evidence is read: that which is worked with, and the others that answer.
// close closes these.
func (w *Workspace) EvidenceSources(ctx context.Context, name string) (from []evidence.Source, close func(), err error) {
	r, err := w.Repository(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	c, err := w.Config.Repository(name)
	if err != nil {
		return nil, nil, err
	}
	own, err := w.Config.Replica(c, w.Site)
	if err != nil {
		return nil, nil, err
	}
	from = []evidence.Source{{Site: own.Site, Repo: r}}
	close = func() {
		for _, s := range from[1:] {
			closeReplica(s.Repo)
		}
	}
	look, stop := context.WithTimeoutCause(ctx, lookFor, errNoAnswer)
	defer stop()
	for _, rep := range c.Replicas {
		if rep == own {
			continue
		}
		other, err := w.sibling(look, r, c, rep, false)
		if err != nil {
			w.log.Warn("the evidence at a site is not looked at: it cannot be opened", "site", rep.Site, dr.KeyError, err)
			continue
		}
		from = append(from, evidence.Source{Site: rep.Site, Repo: other})
	}
	return from, close, nil
}

// SnapshotSubject names a snapshot by what its signer has signed.
func SnapshotSubject(m *repo.Manifest) evidence.Subject {
	return evidence.SHA256("snapshot "+m.System+"/"+string(m.ID), m.Digest)
}

// SystemSubject names a system where nothing of it is known that has a digest of its own.
func SystemSubject(r *repo.Repository, system string) evidence.Subject {
	return evidence.SHA256("system "+system, sha256.Sum256([]byte(r.ID()+"/"+system)))
}

// repositorySubject names a repository.
func repositorySubject(r *repo.Repository) evidence.Subject {
	return evidence.SHA256("repository "+r.ID(), sha256.Sum256([]byte(r.ID())))
}

// failed notes why something did not succeed. A repository's records name no system, and an error may: of these only that it failed is said.
func failed(s *evidence.Statement, err error) {
	s.Outcome = evidence.Failed
	if s.Reason = err.Error(); s.System == "" {
		s.Reason = "it failed; the log of the program says why"
	}
}

func phasesOf(all []boot.Phase) (out []evidence.Phase) {
	for _, p := range all {
		out = append(out, evidence.Phase{Name: p.Name, Seconds: p.Took.Seconds()})
	}
	return out
}

func counted[N int | int64](name string, n N) evidence.Figure {
	return evidence.Figure{Name: name, Value: float64(n), Unit: "1"}
}

func bytesOf[N int64 | dr.Bytes](name string, n N) evidence.Figure {
	return evidence.Figure{Name: name, Value: float64(n), Unit: "bytes"}
}

func tookOf(name string, d time.Duration) evidence.Figure {
	return evidence.Figure{Name: name, Value: d.Seconds(), Unit: "s"}
}

// overridden is the statement of a copy that goes against a system's jurisdictions.
func overridden(s System, at config.Replica, jurisdiction, reason string, began time.Time) evidence.Statement {
	return evidence.Statement{
		Kind: evidence.Residency, System: string(s.Name), Subjects: []evidence.Subject{SystemSubject(s.Repo, string(s.Name))}, Outcome: evidence.Succeeded, Started: began,
		Facts:      []evidence.Fact{{Name: "site", Text: at.Site}, {Name: "jurisdiction", Text: jurisdiction}, {Name: "why", Text: reason}},
		Covered:    []string{"from now on the system's data may be at this site, although its configuration forbids it"},
		NotCovered: []string{"what was copied afterwards: holdfast geo status shows it", "copies that others make of the place"},
	}
}
