package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Beside opens another replica of the repository with the keys of this one.
func (r *Repository) Beside(ctx context.Context, st store.Store, opts Options) (*Repository, error) {
	opts.setDefaults()
	began := time.Now()
	m, err := readMarker(ctx, st)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	if m.ID != r.id {
		return nil, dr.Fail(fmt.Sprintf("open a replica in %s", st), fmt.Errorf("repository %s is there, and this one is %s", m.ID, r.id),
			"give each repository places of its own")
	}
	other, err := open(st, r.keys, opts)
	if err == nil {
		other.manifests.beside = &r.manifests
		other.note(took, 0)
	}
	return other, err
}

// CopyKeys copies who can open the repository into another place, and makes that a replica where it is empty: the slots
// of the newest epoch, the epochs, the marker, in this order. It may be repeated. Rotations in both replicas, which did not know
// of each other, are an error: nobody would find the keys of what was sealed since in the other.
func (r *Repository) CopyKeys(ctx context.Context, to store.Store) error {
	newest, err := r.currentEpoch(ctx)
	if err != nil {
		return err
	}
	put := func(i store.Info) error {
		_, err := copyPlain(ctx, r.store, to, i.Name)
		return err
	}
	if err := r.store.List(ctx, slotName(r.id, newest.Generation, ""), "", put); err != nil {
		return err
	}
	last := epochName(r.id, newest.Epoch)
	err = r.store.List(ctx, prefixEpochs+r.id+"/", "", func(i store.Info) error {
		if i.Name > last {
			return nil // of a rotation that came since: its slots are not copied
		}
		differs, err := copyPlain(ctx, r.store, to, i.Name)
		if err == nil && differs {
			return dr.Fail(fmt.Sprintf("copy the keys to %s", to), fmt.Errorf("object %s is another one there: the keys were rotated in both replicas", i.Name),
				"say which replica is right, and make the other one anew from it")
		}
		return err
	})
	if err != nil {
		return err
	}
	target := to
	if store.VaultOf(to) != nil {
		foreign, err := r.foreignEpochs(ctx, to)
		if err != nil {
			return err
		}
		target = omitting{to, foreign}
	}
	if there, err := currentEpoch(ctx, target, r.id); err != nil {
		return err
	} else if there.Epoch > newest.Epoch {
		return dr.Fail(fmt.Sprintf("copy the keys to %s", to), fmt.Errorf("epoch %d is there, and this replica knows epoch %d only: the keys were rotated there", there.Epoch, newest.Epoch),
			"copy from there first: holdfast geo copy --site")
	}
	_, err = copyPlain(ctx, r.store, to, markerName)
	return err
}

// copyPlain creates an object of another store in this one. It tells whether a different one is there, which stays.
func copyPlain(ctx context.Context, from, to store.Store, name string) (differs bool, err error) {
	b, err := from.Get(ctx, name, maxSmall)
	if err != nil {
		return false, err
	}
	if err = to.Create(ctx, name, b); !errors.Is(err, store.ErrExists) {
		return false, err
	}
	have, err := to.Get(ctx, name, maxSmall)
	return err == nil && !bytes.Equal(have, b), err
}
