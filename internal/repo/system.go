package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// System is a system that has written something into the repository.
type System struct {
	Name    string         `json:"name"`
	Group   ResidencyGroup `json:"group"`
	Created time.Time      `json:"created"`
}

// registerSystem makes the system's name findable, once: objects show only its hash.
func (r *Repository) registerSystem(ctx context.Context, system string, group ResidencyGroup) error {
	name := r.systemName(system)
	have, err := r.System(ctx, system)
	switch {
	case err == nil && have.Group == group:
		return nil
	case err == nil:
		return dr.Fail(fmt.Sprintf("write to system %s", system), fmt.Errorf("it belongs to residency group %q, not %q", have.Group, group),
			"keep the residency of a system; a system under another name may have another one")
	case !errors.Is(err, store.ErrNotExist):
		return err
	}
	body, err := json.Marshal(System{system, group, r.opts.Now().UTC()})
	if err != nil {
		return err
	}
	err = r.store.Create(ctx, name, r.keys.SealWhole(seal.KindSystem, name, body))
	if errors.Is(err, store.ErrExists) {
		return r.registerSystem(ctx, system, group) // somebody was faster: see whether he meant the same
	}
	return err
}

// System returns what is registered under name; store.ErrNotExist is in the error where nothing is.
func (r *Repository) System(ctx context.Context, name string) (System, error) {
	return r.readSystem(ctx, r.systemName(name))
}

func (r *Repository) readSystem(ctx context.Context, object string) (System, error) {
	var s System
	return s, r.readJSON(ctx, seal.KindSystem, object, &s)
}

// Systems returns all systems, by name.
func (r *Repository) Systems(ctx context.Context) ([]System, error) {
	var names []string
	if err := r.store.List(ctx, prefixSystems, "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
		return nil, err
	}
	all := make([]System, len(names))
	var eg errgroup.Group
	eg.SetLimit(manifestReads)
	for i, n := range names {
		eg.Go(func() (err error) {
			all[i], err = r.readSystem(ctx, n)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

// replicaObject is the content of the object that makes a replica another one than its copies.
type replicaObject struct {
	ID string `json:"id"`
}

// Replica returns the name of this replica: 32 hexadecimal digits, which its first writer draws. Numbers of collections mean
// something within one replica only.
func (r *Repository) Replica(ctx context.Context) (string, error) {
	if id := r.replica.Load(); id != nil {
		return *id, nil
	}
	var o replicaObject
	err := r.readJSON(ctx, seal.KindReplica, replicaName, &o)
	if errors.Is(err, store.ErrNotExist) {
		o.ID = randomHex(16)
		var body []byte
		if body, err = r.sealJSON(seal.KindReplica, replicaName, o); err != nil {
			return "", err
		}
		if err = r.store.Create(ctx, replicaName, body); errors.Is(err, store.ErrExists) {
			err = r.readJSON(ctx, seal.KindReplica, replicaName, &o)
		}
	}
	if err != nil {
		return "", fmt.Errorf("name the replica: %w", err)
	}
	r.replica.Store(&o.ID)
	return o.ID, nil
}

type signerObject struct {
	Public []byte    `json:"public"`
	Host   string    `json:"host,omitempty"`
	Added  time.Time `json:"added"`
}

// registerSigner puts our public key where verifiers look for it. Only holders of the repository's keys can.
func (r *Repository) registerSigner(ctx context.Context) error {
	public := r.opts.Signer.Public()
	name := signerName(public)
	switch _, err := r.store.Stat(ctx, name); {
	case err == nil:
		return nil
	case !errors.Is(err, store.ErrNotExist):
		return err
	}
	body, err := json.Marshal(signerObject{public[:], r.opts.Host, r.opts.Now().UTC()})
	if err != nil {
		return err
	}
	return r.store.Put(ctx, name, r.keys.SealWhole(seal.KindSigner, name, body))
}

func (r *Repository) signer(ctx context.Context, id string) (seal.PublicKey, error) {
	if key, ok := r.signers.find(id); ok {
		return key, nil // it never changes
	}
	name := prefixSigners + id
	var s signerObject
	var key seal.PublicKey
	if err := r.readJSON(ctx, seal.KindSigner, name, &s); err != nil {
		return key, err
	}
	if len(s.Public) != len(key) || seal.PublicKey(s.Public).ID() != id {
		return key, &seal.DamagedError{Name: name, Reason: "it holds another key"}
	}
	key = seal.PublicKey(s.Public)
	r.signers.add(id, key)
	return key, nil
}

// sealJSON makes a small sealed object.
func (r *Repository) sealJSON(kind seal.Kind, name string, content any) ([]byte, error) {
	body, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	return r.keys.SealWhole(kind, name, body), nil
}

// readJSON opens a small sealed object.
func (r *Repository) readJSON(ctx context.Context, kind seal.Kind, name string, into any) error {
	max := int64(maxSmall)
	if kind == seal.KindCollection {
		max = maxIndexObject // it grows with the repository
	}
	b, err := r.store.Get(ctx, name, max)
	if err != nil {
		return err
	}
	plain, err := r.keys.OpenWhole(kind, name, b)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(plain, into); err != nil {
		return &seal.DamagedError{Name: name, Offset: seal.HeaderSize, Reason: "its JSON cannot be read"}
	}
	return nil
}
