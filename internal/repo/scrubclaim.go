package repo

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// ScrubClaim says who reads this replica over and over, so that not every agent does, and what he knows of it. It is a courtesy:
// without it, or with two who claim it, something is read twice.
type ScrubClaim struct {
	Who       string          `json:"who"` // the signer's ID
	Host      string          `json:"host,omitempty"`
	At        time.Time       `json:"at"` // by the clock of who wrote it
	Statement json.RawMessage `json:"statement,omitempty"`
}

// ScrubClaim returns the claim that is there, nil where there is none that can be read.
func (r *Repository) ScrubClaim(ctx context.Context) (*ScrubClaim, error) {
	var c ScrubClaim
	err := r.readJSON(ctx, seal.KindReplica, scrubName, &c)
	switch {
	case err == nil:
		return &c, nil
	case errors.Is(err, store.ErrNotExist) || lost(err):
		return nil, nil //nolint:nilnil // there is none
	}
	return nil, err
}

// PutScrubClaim claims the replica for this process's signer, whoever had it.
func (r *Repository) PutScrubClaim(ctx context.Context, statement json.RawMessage) error {
	if r.opts.Signer == nil {
		return errors.New("a writer needs a signer")
	}
	c := ScrubClaim{r.SignerID(), r.opts.Host, r.opts.Now().UTC(), statement}
	body, err := r.sealJSON(seal.KindReplica, scrubName, c)
	if err == nil {
		err = r.store.Put(ctx, scrubName, body)
	}
	return err
}

// SignerID returns the ID of this process's signer; empty where it has none.
func (r *Repository) SignerID() string {
	if r.opts.Signer == nil {
		return ""
	}
	return r.opts.Signer.Public().ID()
}
