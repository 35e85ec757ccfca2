package repo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Logs of evidence are kept here as objects, one for each record, that nothing of ours ever removes. What a record says, and how
// records are chained, package evidence knows.

// EvidenceScope says what a log of evidence is about: a system, by the hash of its name, or RepositoryScope.
type EvidenceScope string

// RepositoryScope is of what concerns the repository as a whole. Its records name no system, and are at every site.
const RepositoryScope EvidenceScope = "repository"

// EvidenceScope returns the scope of a system; of an empty name that of the repository.
func (r *Repository) EvidenceScope(system string) EvidenceScope {
	if system == "" {
		return RepositoryScope
	}
	return EvidenceScope(r.keys.NameHash(system))
}

// EvidenceLog names a log of evidence: what one signer has recorded in one scope.
type EvidenceLog struct {
	Scope  EvidenceScope
	Signer string // ID of the key
}

func (l EvidenceLog) prefix() string {
	return prefixEvidence + string(l.Scope) + "/" + l.Signer + "/"
}

func (l EvidenceLog) name(n uint64) string { return fmt.Sprintf("%s%016x", l.prefix(), n) }

func parseEvidenceName(name string) (l EvidenceLog, n uint64, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || len(parts[3]) != 16 || len(parts[2]) != 32 {
		return l, 0, false
	}
	l = EvidenceLog{EvidenceScope(parts[1]), parts[2]}
	n, err := strconv.ParseUint(parts[3], 16, 64)
	return l, n, err == nil && l.name(n) == name
}

// MaxEvidence bounds a record, in plain bytes.
const MaxEvidence = 1 << 20

// CreateEvidence stores the record with number n of a log of this process's signer. store.ErrExists is in the error where there is
// one with this number.
func (r *Repository) CreateEvidence(ctx context.Context, l EvidenceLog, n uint64, record []byte) error {
	if r.opts.Signer == nil || r.opts.Signer.Public().ID() != l.Signer {
		return errors.New("evidence is recorded by its signer alone")
	}
	if len(record) > MaxEvidence {
		return fmt.Errorf("a record of evidence has %d bytes; %d are allowed", len(record), MaxEvidence)
	}
	if err := r.checkMarker(ctx); err != nil {
		return err
	}
	key := r.opts.Signer.Public()
	if _, known := r.signers.find(key.ID()); !known {
		if err := r.registerSigner(ctx); err != nil {
			return err
		}
		r.signers.add(key.ID(), key)
	}
	name := l.name(n)
	return r.store.Create(ctx, name, r.keys.SealWhole(seal.KindEvidence, name, record))
}

// Evidence returns a record as it was stored. store.ErrNotExist is in the error where there is none.
func (r *Repository) Evidence(ctx context.Context, l EvidenceLog, n uint64) ([]byte, error) {
	name := l.name(n)
	b, err := r.store.Get(ctx, name, MaxEvidence+sealedExtra)
	if err != nil {
		return nil, err
	}
	return r.keys.OpenWhole(seal.KindEvidence, name, b)
}

// EvidenceNumbers returns the numbers of a log's records from one on, ascending.
func (r *Repository) EvidenceNumbers(ctx context.Context, l EvidenceLog, from uint64) (out []uint64, err error) {
	after := ""
	if from > 0 {
		after = l.name(from - 1)
	}
	err = r.store.List(ctx, l.prefix(), after, func(i store.Info) error {
		if _, n, ok := parseEvidenceName(i.Name); ok {
			out = append(out, n)
		}
		return nil
	})
	return out, err
}

// EvidenceLogs returns the logs of a scope, or of all where it is empty.
func (r *Repository) EvidenceLogs(ctx context.Context, scope EvidenceScope) (out []EvidenceLog, err error) {
	prefix := prefixEvidence
	if scope != "" {
		prefix += string(scope) + "/"
	}
	stop := errors.New("stop")
	for after := ""; ; {
		// One name a request: jump from log to log instead of listing every record.
		found := false
		err := r.store.List(ctx, prefix, after, func(i store.Info) error {
			l, _, ok := parseEvidenceName(i.Name)
			if !ok {
				return nil
			}
			out, found, after = append(out, l), true, l.prefix()+"~"
			return stop
		})
		if err != nil && !errors.Is(err, stop) || !found {
			return out, err
		}
	}
}

// SignerInfo is what is known of who signs.
type SignerInfo struct {
	Key   seal.PublicKey
	Host  string
	Added time.Time
}

// Signer returns the registered key with an ID. Only a holder of the repository's keys can have registered it.
func (r *Repository) Signer(ctx context.Context, id string) (SignerInfo, error) {
	var s signerObject
	if err := r.readJSON(ctx, seal.KindSigner, prefixSigners+id, &s); err != nil {
		return SignerInfo{}, err
	}
	if len(s.Public) != len(seal.PublicKey{}) || seal.PublicKey(s.Public).ID() != id {
		return SignerInfo{}, &seal.DamagedError{Name: prefixSigners + id, Reason: "it holds another key"}
	}
	return SignerInfo{seal.PublicKey(s.Public), s.Host, s.Added}, nil
}

// copiedEvidence is what this process knows to be in both of two replicas of a log.
type copiedEvidence struct {
	below uint64          // all before this
	also  map[uint64]bool // and these
}

func (c *copiedEvidence) add(n uint64) {
	if n < c.below {
		return
	}
	c.also[n] = true
	for c.also[c.below] {
		delete(c.also, c.below)
		c.below++
	}
}

// CopyEvidence brings what this replica lacks of the evidence about a system, and about the repository, from another, and returns how
// many records that was. It looks at what it has not seen before.
func (r *Repository) CopyEvidence(ctx context.Context, from *Repository, system string) (copied int, err error) {
	for _, scope := range []EvidenceScope{r.EvidenceScope(system), RepositoryScope} {
		logs, err := from.EvidenceLogs(ctx, scope)
		if err != nil {
			return copied, err
		}
		for _, l := range logs {
			n, err := r.copyEvidence(ctx, from, l)
			copied += n
			if err != nil {
				return copied, fmt.Errorf("copy the evidence of signer %s: %w", l.Signer, err)
			}
		}
	}
	return copied, nil
}

func (r *Repository) copyEvidence(ctx context.Context, from *Repository, l EvidenceLog) (copied int, err error) {
	known := r.evidenceKnown(l)
	if known == nil {
		known = &copiedEvidence{also: map[uint64]bool{}}
		ours, err := r.EvidenceNumbers(ctx, l, 0)
		if err != nil {
			return 0, err
		}
		for _, n := range ours {
			known.add(n)
		}
		if _, err := r.copyObject(ctx, from, prefixSigners+l.Signer, maxSmall); err != nil {
			return 0, err
		}
	}
	defer func() { r.keepEvidenceKnown(l, known) }()
	theirs, err := from.EvidenceNumbers(ctx, l, known.below)
	if err != nil {
		return 0, err
	}
	for _, n := range theirs {
		if known.also[n] {
			continue
		}
		put, err := r.copyRecord(ctx, from, l.name(n))
		if err != nil {
			return copied, err
		}
		if put {
			copied++
		}
		known.add(n)
	}
	return copied, nil
}

// copyRecord creates a record that is elsewhere, and tells whether it has. One that is there stays, also another one: nobody decides here
// which of two is right, and who verifies finds both. A record that is damaged there is not brought.
func (r *Repository) copyRecord(ctx context.Context, from *Repository, name string) (bool, error) {
	b, err := from.store.Get(ctx, name, MaxEvidence+sealedExtra)
	if err == nil {
		err = from.proves(ctx, seal.KindEvidence, name, b)
	}
	if err != nil {
		if lost(err) {
			err = dr.Advise(err, "holdfast repo check --repair at that site")
		}
		return false, err
	}
	err = r.store.Create(ctx, name, b)
	if errors.Is(err, store.ErrExists) {
		return false, nil
	}
	return err == nil, err
}

func (r *Repository) evidenceKnown(l EvidenceLog) *copiedEvidence {
	r.evidence.Lock()
	defer r.evidence.Unlock()
	known := r.evidence.copied[l]
	delete(r.evidence.copied, l) // whoever works with it has it alone
	return known
}

func (r *Repository) keepEvidenceKnown(l EvidenceLog, known *copiedEvidence) {
	r.evidence.Lock()
	defer r.evidence.Unlock()
	if r.evidence.copied == nil {
		r.evidence.copied = map[EvidenceLog]*copiedEvidence{}
	}
	r.evidence.copied[l] = known
}
