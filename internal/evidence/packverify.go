package evidence

import (
	"encoding/hex"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-dr/holdfast/internal/repo"
)

// Verify verifies a pack without the repository, with what somebody has seen of its logs.
func (p *Pack) Verify(seen []Sighting) Verified {
	out := Verified{Repository: p.Repository, Logs: []Verdict{}, Findings: []Finding{}}
	for i := range p.Logs {
		l := &p.Logs[i]
		v := &packVerifier{pack: p, in: l, log: &Log{Origin: l.Origin, System: l.System}}
		v.log.EvidenceLog.Signer = l.Signer
		if err := v.all(seen); err != nil {
			v.find(Damaged, nil, "%v", err)
		}
		out.Logs, out.Findings = append(out.Logs, v.verdict), append(out.Findings, v.found...)
	}
	return out
}

// packVerifier verifies one log of a pack.
type packVerifier struct {
	pack    *Pack
	in      *PackLog
	log     *Log
	verdict Verdict
	leaves  []tlog.Hash
	head    Checkpoint
	found   []Finding
}

func (v *packVerifier) find(kind FindingKind, index *uint64, format string, args ...any) {
	v.found = append(v.found, v.log.finding(kind, index, "", format, args...))
}

func (v *packVerifier) all(seen []Sighting) error {
	if err := v.key(); err != nil {
		return err
	}
	if err := v.tree(); err != nil {
		return err
	}
	hashes, err := storedHashes(v.leaves)
	if err != nil {
		return err
	}
	for i := range v.in.Records {
		r := &v.in.Records[i]
		if i > 0 && r.Index != v.in.Records[i-1].Index+1 {
			index := v.in.Records[i-1].Index + 1
			v.find(Missing, &index, "it is not in the pack, and later ones are")
		}
		if err := v.record(r); err != nil {
			v.find(Damaged, &r.Index, "%v", err)
		}
	}
	for _, c := range v.in.Consistency {
		if err := v.consistent(c); err != nil {
			v.find(Rewritten, nil, "the proof that the tree of %d records is a part of it: %v", c.Size, err)
		}
	}
	for _, s := range seen {
		if s.Log != v.in.Origin || s.Size == 0 {
			continue
		}
		if err := s.authentic(v.log); err != nil {
			v.find(Damaged, nil, "%s: %v", s.Who, err)
			continue
		}
		if s.Size > v.head.Size {
			v.find(Truncated, nil, "it has %d records, and %s has seen %d", v.head.Size, s.Who, s.Size)
			continue
		}
		if root, err := tlog.TreeHash(int64(s.Size), hashes); err != nil || hex.EncodeToString(root[:]) != s.Root {
			v.find(Rewritten, nil, "%s has seen another tree of %d records", s.Who, s.Size)
			continue
		}
		v.verdict.Sightings++
	}
	return nil
}

// key reads the signer's key, and sees that everybody means the same one.
func (v *packVerifier) key() error {
	key, err := parsePEM(v.in.PublicKey)
	if err != nil {
		return err
	}
	repository, l, ok := parseOrigin(v.in.Origin)
	switch {
	case !ok || repository != v.pack.Repository:
		return fmt.Errorf("%q is no log of repository %s", v.in.Origin, v.pack.Repository)
	case key.ID() != l.Signer || key.ID() != v.in.Signer:
		return fmt.Errorf("the key %s is not that of the log", key.ID())
	}
	v.log.EvidenceLog, v.log.Signer = l, repo.SignerInfo{Key: key, Host: v.in.Host, Added: v.in.Since}
	return nil
}

// tree computes the tree of the leaves.
func (v *packVerifier) tree() (err error) {
	if v.head, err = openCheckpoint([]byte(v.in.Checkpoint), v.log.Signer.Key); err != nil {
		return err
	}
	if v.head.Origin != v.in.Origin || v.head.Size != uint64(len(v.in.Leaves)) {
		return fmt.Errorf("the checkpoint is of %d records of %s, and there are %d hashes", v.head.Size, v.head.Origin, len(v.in.Leaves))
	}
	f := frontier(nil)
	for n, text := range v.in.Leaves {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != tlog.HashSize {
			return fmt.Errorf("the hash of record %d is missing, or is none", n)
		}
		v.leaves = append(v.leaves, tlog.Hash(b))
		f = f.add(uint64(n), tlog.Hash(b))
	}
	if f.root() != v.head.Root {
		return fmt.Errorf("the records' hashes have another root than the signed one")
	}
	v.verdict = Verdict{
		Log: v.in.Origin, System: v.in.System, Signer: v.in.Signer, Host: v.in.Host, Since: v.in.Since, Size: v.head.Size,
		Root: hex.EncodeToString(v.head.Root[:]), Checkpoint: v.in.Checkpoint,
	}
	return nil
}

func (v *packVerifier) record(r *PackRecord) error {
	if r.Index >= v.head.Size {
		return fmt.Errorf("the log has %d records", v.head.Size)
	}
	leaf := leafOf([]byte(r.Envelope))
	if leaf != v.leaves[r.Index] {
		return fmt.Errorf("it is not the record of which the log has the hash")
	}
	proof, err := hashesOf(r.Proof)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(proof, int64(v.head.Size), v.head.Root, int64(r.Index), leaf); err != nil {
		return fmt.Errorf("its proof of inclusion: %w", err)
	}
	// Only who has the repository's keys can tell the hash of a system's name.
	r.Statement, err = v.log.statement([]byte(r.Envelope), nil)
	if err == nil && r.Statement.System != v.in.System {
		err = fmt.Errorf("it is about system %q, and in the log about %q", r.Statement.System, v.in.System)
	}
	return err
}

func (v *packVerifier) consistent(c ConsistencyProof) error {
	proof, err := hashesOf(c.Proof)
	if err != nil {
		return err
	}
	root, err := tlog.ParseHash(c.Root)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, int64(v.head.Size), v.head.Root, int64(c.Size), root)
}
