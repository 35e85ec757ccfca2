package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Place is the record that a system's data has been at a site since a moment. It is written before the data comes, signed, and never
// removed: it is how somebody shows where data has ever been.
type Place struct {
	System       string    `json:"system"`
	Site         string    `json:"site"`
	Jurisdiction string    `json:"jurisdiction,omitempty"`
	Location     string    `json:"location"` // of the replica
	Since        time.Time `json:"since"`
	Host         string    `json:"host"`           // that brought it there
	User         string    `json:"user,omitempty"` // who ran that
	// Override is why it was brought there although the configuration forbids it; empty: it does not.
	Override string `json:"override,omitempty"`
	Signer   string `json:"signer"`
}

const purposePlace = "place"

func (r *Repository) placePrefix(system string) string {
	return prefixPlaces + r.keys.NameHash(system) + "/"
}

// PutPlace records a place in this replica and in another one, unless the last record of that site says the same. It is
// called before anything is copied there.
func (r *Repository) PutPlace(ctx context.Context, other *Repository, p Place) error {
	if r.opts.Signer == nil {
		return errors.New("a writer needs a signer")
	}
	p.Since, p.Signer = p.Since.UTC(), r.opts.Signer.Public().ID()
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s%016x-%s", r.placePrefix(p.System), uint64(micros(p.Since)), randomHex(4))
	object := r.keys.SealWhole(seal.KindPlace, name, signed(r.opts.Signer, purposePlace, body))
	for _, to := range []*Repository{r, other} {
		known, err := to.knowsPlace(ctx, p)
		if err == nil && !known {
			err = to.registerSigner(ctx)
		}
		if err == nil && !known {
			err = to.store.Put(ctx, name, object)
		}
		if err != nil {
			return fmt.Errorf("record in %s that the data of %s comes to site %s: %w", to.store, p.System, p.Site, err)
		}
	}
	return nil
}

// knowsPlace tells whether the last record of a site that can be read says the same.
func (r *Repository) knowsPlace(ctx context.Context, p Place) (bool, error) {
	all, err := r.Places(ctx, p.System)
	if err != nil && !lost(err) { // a damaged record is told of by a check, and hinders nobody
		return false, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if last := all[i]; last.Site == p.Site {
			return last.Location == p.Location && last.Jurisdiction == p.Jurisdiction && last.Override == p.Override, nil
		}
	}
	return false, nil
}

// Places returns where a system's data has been, beside the replica's own site, as far as this replica knows: oldest first. The error
// may be about records that are damaged; the others are returned all the same.
func (r *Repository) Places(ctx context.Context, system string) ([]Place, error) {
	var names []string
	err := r.store.List(ctx, r.placePrefix(system), "", func(i store.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := make([]Place, 0, len(names))
	var damaged error
	for _, name := range names {
		p, err := r.place(ctx, name)
		if err == nil && p.System != system {
			err = &seal.DamagedError{Name: name, Reason: "it is the record of another system"}
		}
		switch {
		case err == nil:
			all = append(all, *p)
		case !lost(err):
			return nil, err
		case damaged == nil:
			damaged = err
		}
	}
	return all, damaged
}

func (r *Repository) place(ctx context.Context, name string) (*Place, error) {
	b, err := r.store.Get(ctx, name, maxSmall)
	if err != nil {
		return nil, err
	}
	var p Place
	return &p, r.openSigned(ctx, seal.KindPlace, purposePlace, name, b, &p, &p.Signer)
}
