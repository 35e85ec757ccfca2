package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// HealReport says what Heal has done about damaged and missing objects.
type HealReport struct {
	Healed []string `json:"healed"`
	Left   []Left   `json:"left"` // that stay as they are
}

// Left is an object that could not be put back, and why.
type Left struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
}

// errOwn is the reason for objects that differ from replica to replica.
var errOwn = errors.New("it is this replica's own")

// Heal puts objects back that a check has found damaged or missing, as an earlier version of them, a view that rebuilds them, or other
// replicas have them under the same name, after they have proven to be what was sealed under it. It may run beside anything, and be
// repeated.
func (r *Repository) Heal(ctx context.Context, from []*Repository, names []string) (*HealReport, error) {
	report := &HealReport{Healed: []string{}, Left: []Left{}}
	spent, err := r.spent(ctx)
	if err != nil {
		return report, err
	}
	for _, name := range slices.Sorted(slices.Values(names)) {
		err := r.heal(ctx, from, spent, name)
		switch {
		case err == nil:
			report.Healed = append(report.Healed, name)
		case ctx.Err() != nil:
			return report, context.Cause(ctx)
		default:
			report.Left = append(report.Left, Left{name, err.Error()})
		}
	}
	return report, nil
}

func (r *Repository) heal(ctx context.Context, from []*Repository, spent *graveyard, name string) error {
	if g, id, ok := parsePackName(name); ok {
		if _, gone := spent.packs[id]; gone || spent.damaged {
			return fmt.Errorf("a collection may still delete pack %s/%s", g, id)
		}
	}
	if r.earlier != nil {
		if b, err := r.earlier.find(ctx, name); err == nil {
			defer r.earlier.forget(name)
			return r.store.Put(ctx, name, b)
		}
	}
	if r.earlier != nil && strings.HasPrefix(name, prefixEpochs) {
		foreign, err := r.foreignEpochs(ctx, r.bare)
		if err == nil && slices.Contains(foreign, name) {
			err = r.store.Delete(ctx, name) // it hides: nothing is lost
		}
		return err
	}
	prefix, _, _ := strings.Cut(name, "/")
	kind, alike := alikeEverywhere[prefix+"/"]
	if !alike && !r.opening(name) {
		return errOwn
	}
	if len(from) == 0 {
		return errors.New("there is no other replica")
	}
	var why []error
	for _, other := range from {
		b, err := other.store.Get(ctx, name, maxPack)
		switch {
		case err != nil:
		case alike:
			err = other.proves(ctx, kind, name, b)
		default:
			err = r.provesOpening(name, b)
		}
		if err == nil {
			return r.store.Put(ctx, name, b)
		}
		if errors.Is(err, store.ErrNotExist) {
			err = fmt.Errorf("%s does not have it under this name", other.store)
		}
		why = append(why, err)
	}
	return errors.Join(why...)
}

// opening tells whether an object is one of those that open the repository. Replicas have them alike too, but they are sealed by
// nothing: what they say proves them.
func (r *Repository) opening(name string) bool {
	return name == markerName || strings.HasPrefix(name, prefixEpochs+r.id+"/") || strings.HasPrefix(name, prefixKeys+r.id+"/")
}

// provesOpening tells whether an object of opening was made by somebody who holds the keys.
func (r *Repository) provesOpening(name string, b []byte) error {
	var m marker
	if name == markerName {
		if err := json.Unmarshal(b, &m); err != nil || m.Format != markerFormat || m.Version != FormatVersion || m.ID != r.id {
			return errors.New("it is no marker of this repository there")
		}
		return nil
	}
	if e, ok := parseEpoch(b); strings.HasPrefix(name, prefixEpochs) {
		if !ok || !genuine(r.keys, name, e) {
			return errors.New("it is no epoch of this repository there")
		}
		return nil
	}
	s, err := seal.ParseSlot(b)
	if err == nil && (!r.keys.Authentic(s) || path.Base(name) != s.Who().ID()) {
		err = errors.New("it is no slot of the newest keys there")
	}
	return err
}

// alikeEverywhere are the objects that have one content in all replicas (docs/format/repository-v1.md, section 10).
var alikeEverywhere = map[string]seal.Kind{
	prefixPacks: seal.KindPack, prefixSystems: seal.KindSystem, prefixSnapshots: seal.KindSnapshot, prefixLog: seal.KindLogExtent,
	prefixLogFiles: seal.KindLogFile, prefixMarks: seal.KindMark, prefixSummaries: seal.KindSummary, prefixSigners: seal.KindSigner,
	prefixPlaces: seal.KindPlace, prefixEvidence: seal.KindEvidence,
}

// proves tells whether an object is what was sealed under its name.
func (r *Repository) proves(ctx context.Context, kind seal.Kind, name string, b []byte) error {
	switch kind {
	case seal.KindPack:
		g, id, ok := parsePackName(name)
		if !ok {
			return fmt.Errorf("%s is no pack's name", name)
		}
		_, _, err := r.openPack(packKey{g, id}, b)
		return err
	case seal.KindSnapshot:
		m, err := r.openManifest(ctx, name, bytes.Clone(b))
		if err == nil && m == nil {
			err = fmt.Errorf("it was forgotten in %s", r.store)
		}
		return err
	}
	_, err := r.keys.OpenWhole(kind, name, bytes.Clone(b))
	return err
}
