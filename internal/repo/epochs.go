package repo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// genuine tells whether an epoch's object is of somebody who holds keys of the repository. Of an epoch that the keyring has, the secret
// proves it, but for the generation where there is no proof: then the oldest such object is the one, since nobody else knew the check.
func genuine(k *seal.Keyring, name string, e epochObject) bool {
	switch {
	case name != epochName(k.Repository(), e.Epoch):
		return false
	case e.Proof != "":
		return e.Proof == k.EpochProof(e.Epoch, e.Generation, e.Check) && (e.Epoch > k.Epoch() || e.Check == k.EpochCheck(e.Epoch))
	}
	return e.Epoch <= k.Epoch() && e.Check == k.EpochCheck(e.Epoch)
}

// errForeignEpoch is what a check says of an epoch that is nobody's.
var errForeignEpoch = errors.New("it was put there by somebody who does not hold the keys, and hinders a rotation of them")

func parseEpoch(b []byte) (e epochObject, ok bool) { return e, json.Unmarshal(b, &e) == nil }

// currentEpoch returns the newest epoch's object, of those that holders of the keys have made where a thief may have put others.
func (r *Repository) currentEpoch(ctx context.Context) (epochObject, error) {
	if r.earlier == nil {
		return currentEpoch(ctx, r.store, r.id)
	}
	foreign, err := r.foreignEpochs(ctx, r.store)
	if err != nil {
		return epochObject{}, err
	}
	e, err := currentEpoch(ctx, omitting{r.store, foreign}, r.id)
	if err != nil || e.Proof != "" {
		return e, err
	}
	if b, err := r.earlier.find(ctx, epochName(r.id, e.Epoch)); err == nil {
		e, _ = parseEpoch(b)
	}
	return e, nil
}

// foreignEpochs returns the names of epochs that are newer than ours, and that nobody has made who holds the keys.
func (r *Repository) foreignEpochs(ctx context.Context, st store.Store) (foreign []string, err error) {
	var newer []string
	err = st.List(ctx, prefixEpochs+r.id+"/", epochName(r.id, r.keys.Epoch()), func(i store.Info) error {
		newer = append(newer, i.Name)
		return nil
	})
	for _, name := range newer {
		b, getErr := st.Get(ctx, name, maxSmall)
		if getErr != nil && !lost(getErr) {
			return nil, getErr
		}
		if e, ok := parseEpoch(b); getErr != nil || !ok || !genuine(r.keys, name, e) {
			foreign = append(foreign, name)
		}
	}
	return foreign, err
}

// omitting is a store in which some names are not listed.
type omitting struct {
	store.Store
	names []string
}

func (w omitting) List(ctx context.Context, prefix, after string, fn func(store.Info) error) error {
	return w.Store.List(ctx, prefix, after, func(i store.Info) error {
		if slices.Contains(w.names, i.Name) {
			return nil
		}
		return fn(i)
	})
}

// unlockAny opens the newest epoch that was ever there and can be opened, if no newer one is of a rotation: then whoever asks was not to
// have its keys. A keyring of another's making never opens, since the repository's ID comes from its first secret.
func unlockAny(ctx context.Context, st genesis, repository string, c seal.Credentials) (*seal.Keyring, bool) {
	type candidate struct {
		name string
		e    epochObject
	}
	var all []candidate
	err := byName(ctx, st.vault, prefixEpochs+repository+"/", "", func(versions []store.Version) error {
		for _, v := range slices.Backward(versions) { // what was there first counts
			if v.Deleted {
				continue
			}
			b, err := store.Whole(ctx, st.vault, v, maxSmall)
			if err != nil && !lost(err) {
				return err
			}
			if e, ok := parseEpoch(b); err == nil && ok {
				all = append(all, candidate{v.Name, e})
			}
		}
		return nil
	})
	if err != nil {
		return nil, false
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(b.name, a.name) })
	for i, x := range all {
		k, err := unlockEpoch(ctx, st, repository, x.e, c)
		if err == nil {
			rotated := slices.ContainsFunc(all[:i], func(y candidate) bool { return y.e.Epoch > k.Epoch() && genuine(k, y.name, y.e) })
			return k, !rotated
		}
	}
	return nil, false
}
