package workspace

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/evidence"
	"github.com/holdfast-dr/holdfast/internal/repo"
)

// VerifyEvidence verifies the logs about some systems, or all where none is named, with all that is known of them: what other signers and
// snapshots have seen, and what the auditor kept.
func (w *Workspace) VerifyEvidence(ctx context.Context, from []evidence.Source, systems []string, kept []evidence.Sighting) (*evidence.Book, evidence.Verified, error) {
	b, err := evidence.Read(ctx, from, systems, evidence.Everywhere)
	if err != nil {
		return nil, evidence.Verified{}, err
	}
	names := systems
	if len(names) == 0 {
		all, err := from[0].Repo.Systems(ctx)
		if err != nil {
			return nil, evidence.Verified{}, err
		}
		for _, s := range all {
			names = append(names, s.Name)
		}
	}
	snapshots := map[string][32]byte{}
	for _, name := range names {
		for _, s := range from {
			list, err := s.Repo.Snapshots(ctx, name)
			if err != nil {
				return nil, evidence.Verified{}, fmt.Errorf("read the snapshots of %s at site %s, which tell of evidence: %w", name, s.Site, err)
			}
			for _, l := range list {
				if l.Manifest == nil {
					continue // repo check tells of it
				}
				subject := SnapshotSubject(l.Manifest)
				snapshots[subject.Name] = l.Manifest.Digest
				if p := l.Manifest.Evidence; p != nil {
					log := repo.EvidenceLog{Scope: s.Repo.EvidenceScope(name), Signer: l.Manifest.Signer}
					kept = append(kept, evidence.Sighting{Seen: evidence.Seen{Log: evidence.Origin(b.Repository, log), Size: p.Size, Root: p.Root}, Who: subject.Name})
				}
			}
		}
	}
	v := b.Verify(kept)
	v.Findings = append(v.Findings, b.Replaced(func(name string) (string, bool) {
		d, ok := snapshots[name]
		return hex.EncodeToString(d[:]), ok
	})...)
	return b, v, nil
}
