package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/seal"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// Manifest describes one snapshot. Its JSON, signed and sealed, is the snapshot's object.
type Manifest struct {
	Version    int             `json:"version"`
	Repository string          `json:"repository"`
	System     string          `json:"system"`
	ID         SnapshotID      `json:"id"`
	Group      ResidencyGroup  `json:"group"`
	Host       string          `json:"host,omitempty"`
	Started    time.Time       `json:"started"`
	Finished   time.Time       `json:"finished"`
	Root       string          `json:"root"`  // chunk ID of the tree's root
	Files      int64           `json:"files"` // entries that are files
	Bytes      int64           `json:"bytes"` // sum of their sizes
	Written    WriteStats      `json:"written"`
	Log        LogRange        `json:"log"`                // what recovery needs at least
	Engine     string          `json:"engine"`             // "postgresql"
	Facts      json.RawMessage `json:"facts,omitempty"`    // what only the engine understands
	Problems   []string        `json:"problems,omitempty"` // damage found at the source, stored as it was
	// Generation is the number of the last collection that was published before the writer read the index.
	Generation uint32 `json:"generation,omitempty"`
	// Replica is the replica for which Generation counts: the one into which the snapshot was written. Other replicas have other
	// collections.
	Replica string `json:"replica,omitempty"`
	// Rewrites is the snapshot as it was taken, where this one has the same content and facts in a better layout; empty where
	// this is the one that was taken. See Moment.
	Rewrites SnapshotID `json:"rewrites,omitempty"`
	Signer   string     `json:"signer"`
}

// Moment returns what all snapshots of one moment have in common: the one that was taken, and those that were written from
// it to take its place. Each of them is enough, and together they count once.
func (m *Manifest) Moment() SnapshotID {
	if m.Rewrites != "" {
		return m.Rewrites
	}
	return m.ID
}

// Superseded returns, for each of the snapshots that need not be kept because another one is of the same moment, that other
// one. Of several that were written anew the last one counts.
func Superseded(all []*Manifest) map[SnapshotID]SnapshotID {
	best := map[SnapshotID]*Manifest{}
	for _, m := range all {
		b := best[m.Moment()]
		if b == nil || (m.Rewrites != "") != (b.Rewrites != "") && m.Rewrites != "" || m.ID > b.ID && (m.Rewrites != "") == (b.Rewrites != "") {
			best[m.Moment()] = m
		}
	}
	out := map[SnapshotID]SnapshotID{}
	for _, m := range all {
		if b := best[m.Moment()]; b != m {
			out[m.ID] = b.ID
		}
	}
	return out
}

// LogRange is a part of a stream of a system's log, from Start to before End.
type LogRange struct {
	Stream StreamID `json:"stream"`
	Start  uint64   `json:"start"`
	End    uint64   `json:"end"`
}

// tombstone takes a snapshot's place where a collection aborted its writer, or where a snapshot was forgotten
// whose writer may still be alive: the name must stay taken, for ever.
type tombstone struct {
	Tombstone string    `json:"tombstone"` // "aborted" or "forgotten"
	At        time.Time `json:"at"`
}

const purposeSnapshot = "snapshot"

func (r *Repository) signManifest(m *Manifest) ([]byte, error) {
	m.Signer = r.opts.Signer.Public().ID()
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return signed(r.opts.Signer, purposeSnapshot, body), nil
}

// signed prefixes body with its length and appends the signature.
func signed(s *seal.Signer, purpose string, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(body)+seal.SignatureSize), uint32(len(body)))
	b = append(b, body...)
	return append(b, s.Sign(purpose, body)...)
}

func cutSigned(b []byte) (body, signature []byte, err error) {
	if len(b) < 4+seal.SignatureSize || uint64(binary.LittleEndian.Uint32(b)) != uint64(len(b)-4-seal.SignatureSize) {
		return nil, nil, errors.New("its length does not fit")
	}
	return b[4 : len(b)-seal.SignatureSize], b[len(b)-seal.SignatureSize:], nil
}

// Manifest reads and proves one snapshot's manifest. store.ErrNotExist is in the error where there is none, or
// only a tombstone.
func (r *Repository) Manifest(ctx context.Context, system string, id SnapshotID) (*Manifest, error) {
	return r.manifestObject(ctx, r.snapshotName(system, id))
}

// openManifest returns nil for a tombstone.
func (r *Repository) openManifest(ctx context.Context, name string, b []byte) (*Manifest, error) {
	plain, err := r.keys.OpenWhole(seal.KindSnapshot, name, b)
	if err != nil {
		return nil, err
	}
	damaged := func(reason string) error {
		return &seal.DamagedError{Name: name, Offset: seal.HeaderSize, Reason: reason}
	}
	body, signature, err := cutSigned(plain)
	if err != nil {
		return nil, damaged(err.Error())
	}
	var t tombstone
	if json.Unmarshal(body, &t) == nil && t.Tombstone != "" {
		return nil, nil
	}
	var m Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, damaged("its JSON cannot be read")
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("snapshot %s has manifest version %d, which is unknown to this holdfast", m.ID, m.Version)
	}
	return &m, r.verifySignature(ctx, name, m.Signer, purposeSnapshot, body, signature)
}

// openSigned opens a sealed object of signed JSON into v, whose field signer then has who must have signed it.
func (r *Repository) openSigned(ctx context.Context, kind seal.Kind, purpose, name string, b []byte, v any, signer *string) error {
	plain, err := r.keys.OpenWhole(kind, name, b)
	if err != nil {
		return err
	}
	body, signature, err := cutSigned(plain)
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		return &seal.DamagedError{Name: name, Offset: seal.HeaderSize, Reason: err.Error()}
	}
	return r.verifySignature(ctx, name, *signer, purpose, body, signature)
}

// verifySignature proves that body was signed by a registered signer.
func (r *Repository) verifySignature(ctx context.Context, name, signer, purpose string, body, signature []byte) error {
	if strings.Trim(signer, "0123456789abcdef") != "" || len(signer) != 32 {
		return &seal.DamagedError{Name: name, Reason: "its signer has no proper name"}
	}
	key, err := r.signer(ctx, signer)
	if errors.Is(err, store.ErrNotExist) {
		return dr.Advise(&seal.DamagedError{Name: name, Reason: "its signer " + signer + " is not registered"}, "restore signers/ from another replica")
	}
	if err != nil {
		return err
	}
	if !key.Verify(purpose, body, signature) {
		return &seal.DamagedError{Name: name, Reason: "its signature is not that of signer " + signer}
	}
	return nil
}

// RootID returns the ID of the tree's root.
func (m *Manifest) RootID() (seal.ChunkID, error) { return seal.ParseChunkID(m.Root) }

// Listed is a snapshot as a listing gives it: Manifest, or what is wrong with it.
type Listed struct {
	ID       SnapshotID
	Manifest *Manifest
	Err      error
}

// Snapshots returns the snapshots of system, oldest first. One that cannot be read is listed with its error;
// the others are not touched by that. Those that r has read before are not read again: a snapshot's object never changes, but
// into a tombstone, which is shorter.
func (r *Repository) Snapshots(ctx context.Context, system string) ([]Listed, error) {
	objects, err := r.snapshotObjects(ctx, system)
	if err != nil {
		return nil, err
	}
	var out []Listed
	before, now := r.manifests.of(system), make(map[store.Info]*Manifest, len(objects))
	for _, i := range objects {
		l := Listed{ID: snapshotIn(i)}
		m, known := before[i]
		if !known {
			m, l.Err = r.Manifest(ctx, system, l.ID)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		tombstone := known && m == nil || errors.Is(l.Err, store.ErrNotExist)
		if tombstone || l.Err == nil {
			now[i] = m
		}
		if tombstone {
			continue
		}
		if m != nil {
			own := *m
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

// manifests remembers what Snapshots has read, of each system what was there the last time: some kilobytes a snapshot, and nil
// for a tombstone.
type manifests struct {
	mu      sync.Mutex // guards systems
	systems map[string]map[store.Info]*Manifest
}

func (c *manifests) of(system string) map[store.Info]*Manifest {
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

// started is zero where the manifest cannot be read.
func (l Listed) started() time.Time {
	if l.Manifest == nil {
		return time.Time{}
	}
	return l.Manifest.Started
}

// snapshotObjects lists snapshots and tombstones, oldest first.
func (r *Repository) snapshotObjects(ctx context.Context, system string) (objects []store.Info, err error) {
	err = r.store.List(ctx, prefixSnapshots+r.keys.NameHash(system)+"/", "", func(i store.Info) error {
		objects = append(objects, i)
		return nil
	})
	return objects, err
}

// snapshotIn returns the ID of the snapshot that an object of snapshotObjects is, or was.
func snapshotIn(i store.Info) SnapshotID { return SnapshotID(path.Base(i.Name)) }

// LatestSnapshot returns the newest manifest of system that can be read, nil where there is none. Of those that were begun
// in one second the last is taken. Older ones are listed, and not read.
func (r *Repository) LatestSnapshot(ctx context.Context, system string) (*Manifest, error) {
	objects, err := r.snapshotObjects(ctx, system)
	if err != nil {
		return nil, err
	}
	var newest *Manifest // of those whose names have one second
	for _, i := range slices.Backward(objects) {
		id := snapshotIn(i)
		if newest != nil && id.second() != newest.ID.second() {
			break
		}
		m, err := r.Manifest(ctx, system, id)
		switch k := store.KindOf(err); {
		case err == nil:
			if newest == nil || m.Started.After(newest.Started) {
				newest = m
			}
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case k == store.Busy || k == store.Denied:
			return nil, err // it may be readable
		}
	}
	return newest, nil
}

// second returns the part of a name that tells when the snapshot began.
func (id SnapshotID) second() string { return string(id[:max(len(id)-9, 0)]) }

// Forget makes a snapshot cease to exist. Its chunks go with the next collection, where nobody else has them.
// While an intent of its writer, or of a copier, is there, that one may be about to repeat its Commit: a tombstone then keeps
// the name taken.
func (r *Repository) Forget(ctx context.Context, system string, id SnapshotID) error {
	name := r.snapshotName(system, id)
	intents := 0
	err := r.store.List(ctx, r.intentName(system, id), "", func(store.Info) error { intents++; return nil })
	switch {
	case err != nil:
		return err
	case intents == 0:
		return r.store.Delete(ctx, name)
	}
	body, err := r.tombstone(name, "forgotten")
	if err != nil {
		return err
	}
	return r.store.Put(ctx, name, body)
}

func (r *Repository) tombstone(name, what string) ([]byte, error) {
	if r.opts.Signer == nil {
		return nil, errors.New("a writer needs a signer")
	}
	body, err := json.Marshal(tombstone{what, r.opts.Now().UTC()})
	if err != nil {
		return nil, err
	}
	return r.keys.SealWhole(seal.KindSnapshot, name, signed(r.opts.Signer, purposeSnapshot, body)), nil
}
