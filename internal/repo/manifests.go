package repo

import (
	"cmp"
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Listed is a snapshot as a listing gives it: Manifest, or what is wrong with it.
type Listed struct {
	ID       SnapshotID
	Manifest *Manifest
	Err      error
}

// started is zero where the manifest cannot be read.
func (l Listed) started() time.Time {
	if l.Manifest == nil {
		return time.Time{}
	}
	return l.Manifest.Started
}

// manifestReads is how many manifests are fetched at once: each is small, so that only the way to the store takes time.
const manifestReads = 32

// Snapshots returns the snapshots of system, oldest first. One that cannot be read is listed with its error; the others are not
// touched by that. What is there says the listing alone. A manifest is taken from where it is quickest to have, since the object
// of a name and a size never has another one: from what r has read before, from a replica beside which r was opened, from
// a roll, or else from the snapshot's object.
func (r *Repository) Snapshots(ctx context.Context, system string) ([]Listed, error) {
	objects, err := r.snapshotObjects(ctx, system)
	if err != nil {
		return nil, err
	}
	all, err := r.readManifests(ctx, system, objects)
	if err != nil {
		return nil, err
	}
	out, now := make([]Listed, 0, len(all)), make(map[store.Info]*Manifest, len(all))
	for n, l := range all {
		tombstone := l.Manifest == nil && (l.Err == nil || errors.Is(l.Err, store.ErrNotExist))
		if tombstone || l.Err == nil {
			now[objects[n]] = l.Manifest
		}
		if tombstone {
			continue
		}
		if l.Manifest != nil {
			own := *l.Manifest
			l.Manifest = &own
		}
		out = append(out, l)
	}
	r.manifests.keep(system, now)
	slices.SortStableFunc(out, func(a, b Listed) int {
		return cmp.Or(strings.Compare(a.ID.second(), b.ID.second()), a.started().Compare(b.started()))
	})
	return out, nil
}

// readManifests returns the manifest of each object, nil for a tombstone that was seen before.
func (r *Repository) readManifests(ctx context.Context, system string, objects []store.Info) ([]Listed, error) {
	out := make([]Listed, len(objects))
	before := r.manifests.of(system)
	var unknown []int
	for n, i := range objects {
		m, known := before(i)
		if out[n] = (Listed{ID: snapshotIn(i), Manifest: m}); !known {
			unknown = append(unknown, n)
		}
	}
	rolled := r.rolledFor(ctx, objects, unknown)
	var eg errgroup.Group
	eg.SetLimit(manifestReads)
	for _, n := range unknown {
		eg.Go(func() error {
			if text, ok := rolled[objects[n]]; ok {
				if m, err := r.proveManifest(ctx, objects[n].Name, text); err == nil && m != nil && r.snapshotName(m.System, m.ID) == objects[n].Name {
					out[n].Manifest = m
					return nil
				}
			}
			out[n].Manifest, out[n].Err = r.manifestObject(ctx, objects[n].Name)
			return ctx.Err()
		})
	}
	return out, eg.Wait()
}

// manifests remembers what Snapshots has read, of each system what was there the last time: some kilobytes a snapshot, and nil
// for a tombstone.
type manifests struct {
	beside *manifests // of another replica, which has the same objects; may be nil

	mu      sync.Mutex // guards systems, and not the maps in it: these never change
	systems map[string]map[store.Info]*Manifest
}

// of returns a function that tells what is known of an object of a system.
func (c *manifests) of(system string) func(store.Info) (m *Manifest, known bool) {
	own := c.read(system)
	if c.beside == nil {
		return func(i store.Info) (*Manifest, bool) { m, ok := own[i]; return m, ok }
	}
	others := c.beside.of(system)
	return func(i store.Info) (*Manifest, bool) {
		if m, ok := own[i]; ok {
			return m, ok
		}
		return others(i)
	}
}

func (c *manifests) read(system string) map[store.Info]*Manifest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.systems[system]
}

func (c *manifests) keep(system string, read map[store.Info]*Manifest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.systems == nil {
		c.systems = map[string]map[store.Info]*Manifest{}
	}
	c.systems[system] = read
}

// snapshotObjects lists snapshots and tombstones, oldest first.
func (r *Repository) snapshotObjects(ctx context.Context, system string) (objects []store.Info, err error) {
	err = r.store.List(ctx, prefixSnapshots+r.keys.NameHash(system)+"/", "", func(i store.Info) error {
		objects = append(objects, i)
		return nil
	})
	return objects, err
}

// HasNewer tells whether there are snapshots of a system whose names are behind that of one. It is one request.
func (r *Repository) HasNewer(ctx context.Context, system string, than SnapshotID) (found bool, err error) {
	err = r.store.List(ctx, prefixSnapshots+r.keys.NameHash(system)+"/", r.snapshotName(system, than), func(i store.Info) error {
		if found = i.Size > tombstoneSize; found {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, err
}

// snapshotIn returns the ID of the snapshot that an object of snapshotObjects is, or was.
func snapshotIn(i store.Info) SnapshotID { return SnapshotID(path.Base(i.Name)) }

// tombstoneSize is what the object of a tombstone has at most, and that of a snapshot never has.
const tombstoneSize = 256

// LatestSnapshot returns the newest manifest of system that can be read, nil where there is none. Of those that were begun
// in one second the last is taken. Older ones are listed, and not read.
func (r *Repository) LatestSnapshot(ctx context.Context, system string) (*Manifest, error) {
	l, err := r.Latest(ctx, system)
	return l.Manifest, err
}

// Latest is what a listing and the manifest of the newest snapshot tell of a system.
type Latest struct {
	Manifest *Manifest // that can be read; nil where there is none
	Count    int       // of snapshots
	Unread   int       // newer ones that cannot be read
}

// Latest returns the newest snapshot of system that can be read, as LatestSnapshot does, and how many there are.
func (r *Repository) Latest(ctx context.Context, system string) (out Latest, err error) {
	objects, err := r.snapshotObjects(ctx, system)
	if err != nil {
		return out, err
	}
	for _, i := range objects {
		if i.Size > tombstoneSize {
			out.Count++
		}
	}
	for _, i := range slices.Backward(objects) { // in the end it is the newest of those whose names have one second
		if out.Manifest != nil && snapshotIn(i).second() != out.Manifest.ID.second() {
			break
		}
		m, err := r.manifestObject(ctx, i.Name)
		switch k := store.KindOf(err); {
		case err == nil:
			if out.Manifest == nil || m.Started.After(out.Manifest.Started) {
				out.Manifest = m
			}
		case ctx.Err() != nil:
			return Latest{}, ctx.Err()
		case k == store.Busy || k == store.Denied:
			return Latest{}, err // it may be readable
		case !errors.Is(err, store.ErrNotExist):
			out.Unread++
		}
	}
	return out, nil
}

// signerKeys are the keys of signers that were read.
type signerKeys struct {
	mu  sync.Mutex // guards all
	all map[string]seal.PublicKey
}

func (c *signerKeys) find(id string) (seal.PublicKey, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key, ok := c.all[id]
	return key, ok
}

func (c *signerKeys) add(id string, key seal.PublicKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]seal.PublicKey{}
	}
	c.all[id] = key
}
