package repo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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
	// Evidence is how long the signer's log of evidence about the system was: its end cannot be cut off without that it shows here.
	Evidence *EvidencePoint `json:"evidence,omitempty"`
	Signer   string         `json:"signer"`

	// Digest is the SHA-256 of this JSON as it was signed, by which records of evidence name the snapshot; zero before that.
	Digest [32]byte `json:"-"`
}

// EvidencePoint is a state of a log of evidence.
type EvidencePoint struct {
	Size uint64 `json:"size"` // records
	Root string `json:"root"` // of their tree, 64 hex
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
	m.Digest = sha256.Sum256(body)
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
	return r.proveManifest(ctx, name, plain)
}

// proveManifest reads the signed text that is sealed in a snapshot's object; nil for a tombstone.
func (r *Repository) proveManifest(ctx context.Context, name string, plain []byte) (*Manifest, error) {
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
	m.Digest = sha256.Sum256(body)
	return &m, r.verifySignature(ctx, name, m.Signer, purposeSnapshot, body, signature)
}

// openSigned opens a sealed object of signed JSON into v, whose field signer then has who must have signed it.
func (r *Repository) openSigned(ctx context.Context, kind seal.Kind, purpose, name string, b []byte, v any, signer *string) error {
	plain, err := r.keys.OpenWhole(kind, name, b)
	if err != nil {
		return err
	}
	return r.readSigned(ctx, purpose, name, plain, v, signer)
}

// readSigned is openSigned of what was opened.
func (r *Repository) readSigned(ctx context.Context, purpose, name string, plain []byte, v any, signer *string) error {
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

// second returns the part of a name that tells when the snapshot began.
func (id SnapshotID) second() string { return string(id[:max(len(id)-9, 0)]) }

// Forget makes a snapshot cease to exist. Its chunks go with the next collection, where nobody else has them.
// While an intent of its writer, or of a copier, is there, that one may be about to repeat its Commit: a tombstone then keeps
// the name taken.
func (r *Repository) Forget(ctx context.Context, system string, id SnapshotID) error {
	name := r.snapshotName(system, id)
	intents := 0
	err := r.store.List(ctx, r.intentName(system, id), "", func(store.Info) error { intents++; return nil })
	if err != nil {
		return err
	}
	if intents == 0 {
		// Also a process whose configuration has no lock leaves a trace where others look for one.
		locked, err := r.isLocked(ctx)
		if err != nil {
			return err
		}
		if !locked {
			return r.store.Delete(ctx, name)
		}
	}
	body, err := r.tombstone(name, "forgotten")
	if err != nil {
		return err
	}
	if err := r.store.Put(ctx, name, body); err != nil || intents > 0 {
		return err
	}
	// The tombstone stays under the mark of the deletion, and tells it from that of somebody who has no keys.
	return r.store.Delete(ctx, name)
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
